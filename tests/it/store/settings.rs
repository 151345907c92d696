//! What the server's sessions and the configuration of the connection do.

use std::sync::Arc;
use std::time::{Duration, Instant};

use redrive::store::{self, Error};
use redrive::units::{Secret, Span};
use tokio::sync::Notify;
use url::Url;

use super::application::written_in;
use super::fixture::Fixture;
use crate::support::{Backend, assert_near, eventually};

pub(crate) async fn due_now_in_whatever_time_zone(cx: Fixture) {
    let zone = if cx.backend.is_postgres() { "SET TIME ZONE '+05:00'" } else { "SET time_zone = '+05:00'" };
    cx.sql(zone).await;
    cx.sql("INSERT INTO resend_log (source, topic, msg_key, payload) VALUES ('billing', 't', 'k', 'p')").await;
    let (now, near) = (cx.now().await, Duration::from_secs(10));
    let row = cx.all().await.remove(0);
    assert_near(row.due_at.unwrap(), now, near, "due");
    assert_near(row.created_at, now, near, "created");
    assert_near(row.updated_at, now, near, "updated");
    assert_near(written_in(row.id), now, near, "the id's time");
    assert_eq!(cx.claim_ids("billing").await, [row.id]);
}

pub(crate) async fn a_wrong_password_is_a_fault_of_the_configuration(cx: Fixture) {
    let error = prepared_with(&cx, |url| url.set_password(Some("not-it")).unwrap()).await;
    assert!(matches!(error, Error::Config(_)), "{error:?}");
    assert!(!error.is_transient() && !error.to_string().contains("not-it"), "{error}");
    let error = prepared_with(&cx, |url| url.set_path("no_such_database")).await;
    assert!(matches!(error, Error::Config(_)), "{error:?}");
}

pub(crate) async fn a_server_that_is_away_is_unavailable(cx: Fixture) {
    let started = Instant::now();
    let error = prepared_with(&cx, |url| url.set_port(Some(1)).unwrap()).await;
    assert!(matches!(error, Error::Unavailable(_)), "{error:?}");
    assert!(error.is_transient() && started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
}

pub(crate) async fn a_committed_row_wakes_whoever_can_listen(cx: Fixture) {
    let config = store::Config { notify: cx.backend.is_postgres(), ..cx.test.config.clone() };
    let store = store::open(&config, &cx.project).unwrap();
    store.prepare().await.unwrap();
    let wake = Arc::new(Notify::new());
    let (listening, project, woken) = (store.clone(), cx.project.clone(), wake.clone());
    let listener = tokio::spawn(async move { listening.listen(&project, woken).await });
    // LISTEN is under way; until it stands, rows wake nobody.
    if matches!(cx.backend, Backend::Postgres | Backend::Postgres18) {
        eventually(Duration::from_secs(10), async || {
            cx.sql("INSERT INTO resend_log (source, topic, msg_key, payload) VALUES ('billing', 't', 'k', 'p')").await;
            tokio::time::timeout(Duration::from_millis(300), wake.notified()).await.ok()
        })
        .await;
    } else {
        cx.sql("INSERT INTO resend_log (source, topic, msg_key, payload) VALUES ('billing', 't', 'k', 'p')").await;
        tokio::task::yield_now().await;
        assert!(!listener.is_finished(), "a store that can't tell never returns");
    }
    listener.abort();
    store.close().await;
}

async fn prepared_with(cx: &Fixture, change: impl FnOnce(&mut Url)) -> Error {
    let mut url: Url = cx.test.config.url.expose().parse().unwrap();
    change(&mut url);
    let config = store::Config { url: Secret::new(url.as_str()), timeout: Span::secs(3), ..cx.test.config.clone() };
    store::open(&config, &cx.project).unwrap().prepare().await.unwrap_err()
}

//! What the server's sessions and the configuration of the connection do.

use std::sync::Arc;
use std::time::{Duration, Instant};

use redrive::message::State;
use redrive::store::{self, Changed, Completion, Error, Idempotency, NewMessage, Store, Verdict};
use redrive::units::{Secret, Span};
use tokio::sync::Notify;
use url::Url;
use uuid::Uuid;

use super::application::written_in;
use super::fixture::{Fixture, LONG, message, refused, succeeded};
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

pub(crate) async fn people_who_look_take_no_connections_from_sending(cx: Fixture) {
    let (store, id) = (cx.store().await, cx.put("billing", 1).await[0]);
    let mut slow = cx.raw().await;
    // Attempts can't be read for as long as this stands.
    let (lock, unlock) = if cx.backend.is_mysql() {
        ("LOCK TABLES attempt_log WRITE", "UNLOCK TABLES")
    } else {
        ("BEGIN; LOCK TABLE attempt_log IN ACCESS EXCLUSIVE MODE", "ROLLBACK")
    };
    slow.run(lock).await;
    // Twice as many as there are connections, and a quarter of those is one.
    let mut lookers = tokio::task::JoinSet::new();
    for _ in 0..2 * cx.test.config.pool {
        let (store, project) = (store.clone(), cx.project.clone());
        lookers.spawn(async move { store.attempts(&project, id).await });
    }
    for _ in 1..2 * cx.test.config.pool {
        let turned_away = loop {
            tokio::time::timeout(Duration::from_secs(1), cx.put("billing", 1)).await.expect("sending has connections");
            if let Some(looked) = lookers.try_join_next() {
                break looked.unwrap();
            }
        };
        assert!(matches!(turned_away, Err(Error::Busy(_))), "{turned_away:?}");
    }
    slow.run(unlock).await;
    assert!(lookers.join_next().await.unwrap().unwrap().unwrap().is_some(), "one had its turn");
    assert!(store.attempts(&cx.project, id).await.unwrap().is_some(), "and the next has it now");
}

const ONE_ROW: &str = "INSERT INTO resend_log (source, topic, msg_key, payload) VALUES ('billing', 't', 'k', 'p')";

pub(crate) async fn a_committed_row_wakes_whoever_can_listen(cx: Fixture) {
    let store = telling(&cx).await;
    let wake = Arc::new(Notify::new());
    let (listening, project, woken) = (store.clone(), cx.project.clone(), wake.clone());
    let listener = tokio::spawn(async move { listening.listen(&project, woken).await });
    if tells(&cx) {
        let wakes = || tokio::time::timeout(Duration::from_millis(300), wake.notified());
        // For what was committed before it stood.
        tokio::time::timeout(Duration::from_secs(10), wake.notified()).await.unwrap();
        while wakes().await.is_ok() {}
        // Once for the row, and again for those that are committed right after, whose statements do not tell.
        eventually(Duration::from_secs(10), async || {
            cx.sql(ONE_ROW).await;
            wakes().await.ok()?;
            wakes().await.ok()
        })
        .await;
    } else {
        cx.sql(ONE_ROW).await;
        tokio::task::yield_now().await;
        assert!(!listener.is_finished(), "a store that can't tell never returns");
    }
    listener.abort();
    store.close().await;
}

pub(crate) async fn an_application_that_may_only_insert_tells_of_it(cx: Fixture) {
    let store = telling(&cx).await;
    let role = format!("app_{}", uuid::Uuid::now_v7().simple());
    let schema = cx.raw().await.rows("SELECT current_schema()").await[0][0].clone().unwrap();
    cx.sql(&format!(
        "CREATE ROLE {role}; GRANT {role} TO CURRENT_USER; GRANT USAGE ON SCHEMA \"{schema}\" TO {role}; GRANT INSERT ON resend_log TO {role}"
    ))
    .await;
    cx.sql(&format!("SET ROLE {role}; {ONE_ROW}; RESET ROLE; DROP OWNED BY {role}; DROP ROLE {role}")).await;
    assert_eq!(cx.claim_ids("billing").await.len(), 1);
    let told = "SELECT (extract(epoch FROM clock_timestamp()) * 1000 - last_value)::bigint FROM resend_log_told";
    assert!((0..60_000).contains(&cx.raw().await.number(told).await), "the last notification is of this row");
    store.close().await;
}

pub(crate) async fn a_node_that_does_not_listen_leaves_the_trigger_to_those_who_do(cx: Fixture) {
    let store = telling(&cx).await;
    let triggers =
        async || cx.raw().await.number("SELECT count(*) FROM pg_trigger WHERE tgrelid = 'resend_log'::regclass AND NOT tgisinternal").await;
    assert_eq!(triggers().await, 1);
    for other in [cx.test.open_for("invoices"), cx.test.open()] {
        other.prepare().await.unwrap();
        other.close().await;
    }
    assert_eq!(triggers().await, 1, "neither another project's node nor another of the same takes it away");
    let told = async || cx.raw().await.number("SELECT last_value FROM resend_log_told").await;
    let before = told().await;
    cx.sql(ONE_ROW).await;
    assert!(told().await > before, "and it goes on telling");
    store.close().await;
}

/// A plan that was made while the table was nearly empty is kept when a million rows have come.
pub(crate) async fn messages_are_found_by_an_index_however_few_there_were(cx: Fixture) {
    const ROUNDS: i64 = 40;
    for _ in 0..ROUNDS {
        let (_, held) = cx.claimed("billing").await;
        assert!(cx.store().await.renew(vec![held], LONG).await.unwrap().is_empty());
        assert_eq!(cx.complete(vec![refused(held, Duration::ZERO)]).await, [true]);
        let (_, held) = cx.take(held.id, "billing", LONG).await;
        assert_eq!(cx.complete(vec![Completion { attempt: 2, ..succeeded(held) }]).await, [true]);
    }
    // A session tells of its scans when it ends.
    cx.store().await.close().await;
    let of = async |what: &str| {
        let sql = format!("SELECT coalesce(sum({what}), 0)::bigint FROM pg_stat_user_tables WHERE relid = 'resend_log'::regclass");
        cx.raw().await.number(&sql).await
    };
    eventually(Duration::from_secs(10), async || (of("idx_scan").await >= ROUNDS).then_some(())).await;
    let scans = of("seq_scan").await;
    assert!(scans < ROUNDS, "the whole table was read {scans} times");
}

/// How many entries of an index of the fixture's tables were read, once no session has more to tell.
async fn read_of(cx: &Fixture, index: &str) -> i64 {
    let sql = format!("SELECT idx_tup_read FROM pg_stat_user_indexes WHERE indexrelid = '{index}'::regclass");
    cx.raw().await.number(&sql).await
}

pub(crate) async fn what_a_person_decides_is_found_by_its_key_however_many_failed(cx: Fixture) {
    const FAILED: i64 = 8000;
    cx.put("billing", 2000).await;
    cx.sql("ALTER TABLE resend_log SET (autovacuum_enabled = off)").await;
    cx.sql("UPDATE resend_log SET state = 'succeeded', finished_at = now()").await;
    cx.sql("ANALYZE resend_log").await;
    let insert = "INSERT INTO resend_log (source, payload, state, finished_at) SELECT 'billing', 'x', 'failed', now() FROM generate_series(1, ";
    cx.sql(&format!("{insert}{FAILED})")).await;
    let ids: Vec<_> = cx.raw().await.rows("SELECT id FROM resend_log WHERE state = 'failed' LIMIT 500").await;
    let ids: Vec<Uuid> = ids.iter().map(|row| row[0].as_ref().unwrap().parse().unwrap()).collect();
    let before = read_of(&cx, "resend_log_state").await;
    let store = store::open(&cx.test.config, &cx.project).unwrap();
    store.prepare().await.unwrap();
    assert!(store.retry(&cx.project, ids.clone()).await.unwrap().iter().all(|changed| *changed == Changed::Done(State::Pending)));
    assert!(store.cancel(&cx.project, ids).await.unwrap().iter().all(|changed| *changed == Changed::Done(State::Cancelled)));
    // A session tells of its scans when it ends.
    store.close().await;
    eventually(Duration::from_secs(10), async || (read_of(&cx, "resend_log_pkey").await >= 1000).then_some(())).await;
    let read = read_of(&cx, "resend_log_state").await - before;
    assert!(read < FAILED, "{read} entries of all that failed were read");
}

pub(crate) async fn keys_are_found_one_by_one_however_few_there_were(cx: Fixture) {
    const KEYS: i64 = 4000;
    let config = store::Config { pool: 1, ..cx.test.config.clone() };
    let store = store::open(&config, &cx.project).unwrap();
    store.prepare().await.unwrap();
    cx.sql("ALTER TABLE resend_key SET (autovacuum_enabled = off)").await;
    let insert = async |round: usize| {
        let keyed =
            |index: usize| NewMessage { idempotency: Some(Idempotency { key: format!("k{round}-{index}"), digest: [0; 32] }), ..message("billing") };
        let verdicts = store.insert(cx.insertion((0..20).map(keyed).collect())).await.unwrap().verdicts;
        assert_eq!(verdicts, vec![Verdict::New; 20]);
    };
    // More often than a plan is made anew.
    for round in 0..6 {
        insert(round).await;
    }
    let sql = "INSERT INTO resend_key (project, source, idem_key, digest, message_id, taken_by, expires_at)
        SELECT project, source, 'x' || n, digest, message_id, taken_by, expires_at FROM (SELECT * FROM resend_key LIMIT 1) AS k, generate_series(1, ";
    cx.sql(&format!("{sql}{KEYS}) AS n")).await;
    let before = read_of(&cx, "resend_key_expires").await;
    insert(6).await;
    store.close().await;
    eventually(Duration::from_secs(10), async || (read_of(&cx, "resend_key_pkey").await >= 100).then_some(())).await;
    let read = read_of(&cx, "resend_key_expires").await - before;
    assert!(read < KEYS, "{read} entries of all keys of the project were read");
}

pub(crate) async fn a_pooler_that_keeps_sessions_needs_nothing(cx: Fixture) {
    let mut url: Url = cx.test.config.url.expose().parse().unwrap();
    url.set_path("redrive_session");
    let config =
        store::Config { url: Secret::new(url.as_str()), statement_cache: store::Config::default().statement_cache, ..cx.test.config.clone() };
    let store = store::open(&config, &cx.project).unwrap();
    store.prepare().await.unwrap();
    assert_eq!(store.insert(cx.insertion(vec![message("billing")])).await.unwrap().verdicts, [Verdict::New]);
    assert_eq!(store.claim(cx.claim_of("billing")).await.unwrap().rows.len(), 1);
    store.close().await;
}

/// Whether the database can tell of rows.
fn tells(cx: &Fixture) -> bool {
    matches!(cx.backend, Backend::Postgres | Backend::Postgres18)
}

/// A store that tells of rows where it can.
async fn telling(cx: &Fixture) -> Arc<dyn Store> {
    let config = store::Config { notify: cx.backend.is_postgres(), ..cx.test.config.clone() };
    let store = store::open(&config, &cx.project).unwrap();
    store.prepare().await.unwrap();
    store
}

async fn prepared_with(cx: &Fixture, change: impl FnOnce(&mut Url)) -> Error {
    let mut url: Url = cx.test.config.url.expose().parse().unwrap();
    change(&mut url);
    let config = store::Config { url: Secret::new(url.as_str()), timeout: Span::secs(3), ..cx.test.config.clone() };
    store::open(&config, &cx.project).unwrap().prepare().await.unwrap_err()
}

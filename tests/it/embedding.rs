//! A program that embeds redrive: without a port, without signals, with messages that go through the handle.

use std::future::{pending, ready};
use std::time::Duration;

use redrive::app::{App, run_once};
use redrive::config::{Config, Scope};
use redrive::engine::{Key, Refusal, Submission};
use redrive::message::State;
use redrive::source::Registry;
use sqlx::ConnectOptions;
use sqlx::sqlite::SqliteConnectOptions;
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;

use crate::support::endpoint::SOON;
use crate::support::eventually;

fn config(folder: &TempDir) -> Config {
    let store = format!("store: {{ url: \"sqlite://{}\" }}", folder.path().join("redrive.db").display());
    let text = format!("project: test\n{store}\nshutdown: {{ accept_for: 0s }}\nsources: {{ audit: {{ kind: log }} }}");
    let file = folder.path().join("redrive.yaml");
    let mut config = Config::parse(&text, &file, &|_| None, &Registry::default(), Scope::Whole).unwrap_or_else(|faults| panic!("{faults}"));
    (config.api.listen, config.api.unix, config.health.listen) = (None, None, None);
    config
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_port_it_runs_until_it_is_told_to_stop() {
    let folder = tempfile::tempdir().unwrap();
    let app = App::build(config(&folder)).await.unwrap();
    assert_eq!((app.address(), app.health_address()), (None, None));
    let handle = app.handle();
    let (stop, stopped) = oneshot::channel::<()>();
    let running = tokio::spawn(app.run(async { stopped.await.unwrap_or(()) }));
    timeout(SOON, handle.store_is_ready()).await.unwrap();

    let mut submission = Submission::new("audit", "hello");
    submission.key = Some(Key::Text("o-17".to_owned()));
    let id = handle.submit(submission).await.unwrap().id();
    let record = eventually(SOON, async || handle.get(id, true).await.unwrap().filter(|record| record.state.is_finished())).await;
    assert_eq!((record.id, record.state, record.payload.as_deref()), (id, State::Succeeded, Some(&b"hello"[..])));
    assert_eq!(record.key, Some(Key::Text("o-17".to_owned())));
    assert_eq!(handle.get(id, false).await.unwrap().unwrap().payload, None);
    assert_eq!(handle.attempts(id).await.unwrap().unwrap().len(), 1);
    let nobody = Uuid::now_v7();
    assert!(handle.get(nobody, false).await.unwrap().is_none() && handle.attempts(nobody).await.unwrap().is_none());
    assert!(!running.is_finished());

    stop.send(()).unwrap();
    timeout(SOON, running).await.unwrap().unwrap().unwrap();
    assert_eq!(handle.submit(Submission::new("audit", "late")).await, Err(Refusal::Draining));
}

/// Everything runs in this thread: whoever has been given a turn waits for the commit.
#[tokio::test]
async fn whoever_waits_for_a_commit_learns_that_the_node_was_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let app = App::build(config(&folder)).await.unwrap();
    let handle = app.handle();
    let running = tokio::spawn(app.run(pending()));
    timeout(SOON, handle.store_is_ready()).await.unwrap();
    let mut other = SqliteConnectOptions::new().filename(folder.path().join("redrive.db")).connect().await.unwrap();
    sqlx::query("BEGIN IMMEDIATE").execute(&mut other).await.unwrap();
    let submit = || {
        let handle = handle.clone();
        tokio::spawn(async move { handle.submit(Submission::new("audit", "hello")).await })
    };
    let (mut waiting, begun) = (Vec::new(), Instant::now());
    // More batches than are committed at once.
    while begun.elapsed() < Duration::from_millis(100) {
        waiting.push(submit());
        sleep(Duration::from_millis(10)).await;
    }
    running.abort();
    assert!(timeout(SOON, running).await.unwrap().is_err_and(|ended| ended.is_cancelled()));
    waiting.push(submit());
    for submitted in waiting {
        let refusal = timeout(SOON, submitted).await.expect("an answer").unwrap().unwrap_err();
        assert!(matches!(refusal, Refusal::Unavailable { .. } | Refusal::Draining), "{refusal:?}");
    }
}

#[tokio::test]
async fn whoever_waits_for_the_store_of_a_node_that_was_dropped_waits_no_longer() {
    let folder = tempfile::tempdir().unwrap();
    let file = SqliteConnectOptions::new().filename(folder.path().join("redrive.db")).create_if_missing(true);
    let mut other = file.connect().await.unwrap();
    sqlx::query("BEGIN EXCLUSIVE").execute(&mut other).await.unwrap();
    let app = App::build(config(&folder)).await.unwrap();
    let handle = app.handle();
    let waiting = tokio::spawn(async move { handle.store_is_ready().await });
    sleep(Duration::from_millis(100)).await;
    assert!(!waiting.is_finished());
    drop(app);
    timeout(SOON, waiting).await.expect("it never will be").unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_run_ends_when_nothing_is_due_or_when_it_is_told_to() {
    let folder = tempfile::tempdir().unwrap();
    let ran = timeout(SOON, run_once(config(&folder), pending())).await.unwrap().unwrap();
    assert!(!ran.waiting && !ran.cut_short, "{ran:?}");
    let ran = timeout(SOON, run_once(config(&folder), ready(()))).await.unwrap().unwrap();
    assert!(ran.cut_short, "{ran:?}");
}

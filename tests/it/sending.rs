//! What the engine does with messages on their way, seen from outside: the whole application, on SQLite.

use std::path::Path;
use std::time::Duration;

use reqwest::Method;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions, Connection};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::api::{Client, client};
use crate::support::eventually;

/// Another writer on the database of an application.
async fn writer(folder: &Path) -> SqliteConnection {
    SqliteConnectOptions::new().filename(folder.join("redrive.db")).busy_timeout(Duration::from_secs(10)).connect().await.unwrap()
}

async fn run(session: &mut SqliteConnection, sql: &'static str) {
    sqlx::query(sql).execute(session).await.unwrap();
}

/// An application that soon takes the store for away, and its folder.
async fn impatient(yaml: &str) -> (Client, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let store = format!("store: {{ url: \"sqlite://{}\", timeout: 1s }}", folder.path().join("redrive.db").display());
    (client(&format!("{store}\n{yaml}")).await, folder)
}

async fn submit(client: &Client, count: usize, fields: &str) -> Vec<String> {
    let mut ids = Vec::new();
    for _ in 0..count {
        ids.push(client.submitted(fields).await);
    }
    ids
}

/// The breaker of the source `main` is open.
const OPEN: &str = r#"redrive_breaker_state{project="test",source="main"} 1"#;

/// Waits until `/metrics` has this.
async fn shows(client: &Client, within: Duration, what: &str) {
    eventually(within, async || client.get("/metrics").await.text.contains(what).then_some(())).await;
}

#[tokio::test]
async fn what_expired_behind_an_open_breaker_is_no_probe() {
    let source = "{ kind: scripted, breaker: { after: 1, probe: 3s }, retry: { unreachable_delay: 1h, base_delay: 1h, first_delay: 1h } }";
    let client = client(&format!("sources: {{ main: {source} }}")).await;
    client.submitted(r#","topic":"away""#).await;
    shows(&client, Duration::from_secs(5), OPEN).await;
    let old = submit(&client, 10, r#","expires_after":"1s""#).await;
    sleep(Duration::from_secs(1)).await;
    let (fresh, began) = (client.submitted("").await, Instant::now());
    client.until(&fresh, "succeeded").await;
    assert!(began.elapsed() < Duration::from_secs(10), "a probe for each that is too old: {:?}", began.elapsed());
    for id in old {
        assert_eq!(client.until(&id, "failed").await["last_error"]["class"], "expired");
    }
    client.app.end().await;
}

#[tokio::test]
async fn what_expired_before_the_destination_ever_answered_fails_at_once() {
    let client = client("").await;
    let mut session = writer(client.app.folder()).await;
    let insert = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000)
        INSERT INTO resend_log (source, expires_at) SELECT 'main', CAST(unixepoch('subsec') * 1000 AS INTEGER) - 1000 FROM n";
    run(&mut session, insert).await;
    // 64 a second, were places that are free again looked for by the clock.
    let all = r#"redrive_finished_total{project="test",source="main",state="failed",class="expired"} 1000"#;
    shows(&client, Duration::from_secs(8), all).await;
    session.close().await.unwrap();
    client.app.end().await;
}

#[tokio::test]
async fn what_is_refused_without_asking_closes_no_breaker() {
    let client = client("sources: { main: { kind: scripted, breaker: { after: 1, probe: 1s } } }").await;
    client.submitted(r#","topic":"away""#).await;
    let is_open = async || client.get("/metrics").await.text.contains(OPEN);
    shows(&client, Duration::from_secs(5), OPEN).await;
    let absurd = client.submitted(r#","topic":"absurd""#).await;
    assert_eq!(client.until(&absurd, "failed").await["last_error"]["code"], "scripted_absurd");
    assert!(is_open().await);
    let fine = client.submitted("").await;
    client.until(&fine, "succeeded").await;
    assert!(!is_open().await);
    client.app.end().await;
}

#[tokio::test]
async fn sends_that_take_long_hold_up_no_others() {
    let client = client("sources: { main: { kind: scripted, in_flight: 8 } }").await;
    let first = client.submitted("").await;
    client.until(&first, "succeeded").await;
    let slow = submit(&client, 5, r#","topic":"hold""#).await;
    for id in submit(&client, 20, r#","delay":"100ms""#).await {
        client.until(&id, "succeeded").await;
    }
    client.app.hold.add_permits(slow.len());
    for id in slow {
        client.until(&id, "succeeded").await;
    }
    client.app.end().await;
}

#[tokio::test]
async fn a_destination_that_is_slow_gets_no_more_than_it_takes_in_time() {
    let source = "{ kind: slow, timeout: 1s, breaker: { probe: 100ms }, retry: { unreachable_delay: 100ms, first_delay: 100ms, base_delay: 100ms } }";
    let client = client(&format!("sources: {{ main: {source} }}")).await;
    let mut session = writer(client.app.folder()).await;
    let insert =
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2500) INSERT INTO resend_log (source) SELECT 'main' FROM n";
    run(&mut session, insert).await;
    shows(&client, Duration::from_secs(30), r#"redrive_finished_total{project="test",source="main",state="succeeded",class="succeeded"} 2500"#).await;
    // Some may have gone out before it was known how slow it is, or this machine may have stood still.
    let attempts: i64 = sqlx::query_scalar("SELECT max(attempts) FROM resend_log").fetch_one(&mut session).await.unwrap();
    assert!(attempts <= 3, "{attempts}");
    session.close().await.unwrap();
    client.app.end().await;
}

#[tokio::test]
async fn a_node_that_only_accepts_takes_messages_again_once_the_store_is_back() {
    let (client, folder) = impatient("poller: { enabled: false }").await;
    let mut other = writer(folder.path()).await;
    run(&mut other, "BEGIN IMMEDIATE").await;
    let refused = client.post_json("/v1/messages", r#"{"source":"main","payload":"x"}"#).await;
    assert_eq!(refused.status, 503, "{refused:?}");
    run(&mut other, "COMMIT").await;
    eventually(Duration::from_secs(15), async || {
        (client.send(client.request(Method::POST, "/v1/publish/main").body("x")).await.status == 202).then_some(())
    })
    .await;
    client.app.end().await;
}

#[tokio::test]
async fn a_claim_under_way_when_the_node_stops_is_handed_back() {
    let client = client("sources: { main: { kind: scripted, in_flight: 64 } }").await;
    let first = client.submitted("").await;
    client.until(&first, "succeeded").await;
    submit(&client, 20, r#","delay":"1s""#).await;
    let mut other = writer(client.app.folder()).await;
    run(&mut other, "BEGIN IMMEDIATE").await;
    // They come due, and the claim waits for the other writer.
    sleep(Duration::from_millis(1500)).await;
    client.app.stop.cancel();
    sleep(Duration::from_millis(100)).await;
    run(&mut other, "COMMIT").await;
    let folder = client.app.end().await;
    let mut session = writer(folder.path()).await;
    let sending: i64 = sqlx::query_scalar("SELECT count(*) FROM resend_log WHERE state = 'sending'").fetch_one(&mut session).await.unwrap();
    let tried: i64 =
        sqlx::query_scalar("SELECT count(*) FROM resend_log WHERE state <> 'succeeded' AND attempts > 0").fetch_one(&mut session).await.unwrap();
    let sheets: i64 = sqlx::query_scalar("SELECT count(*) FROM redrive_sheet").fetch_one(&mut session).await.unwrap();
    assert_eq!((sending, tried, sheets), (0, 0, 0));
    session.close().await.unwrap();
}

#[tokio::test]
async fn what_was_delivered_while_the_store_was_away_is_not_sent_again() {
    let (client, folder) = impatient("poller: { lease: 2s, interval: 100ms }").await;
    let ids = submit(&client, 10, r#","topic":"hold""#).await;
    let mut other = writer(folder.path()).await;
    run(&mut other, "BEGIN IMMEDIATE").await;
    client.app.hold.add_permits(ids.len());
    // Longer than the lease. The outcomes are tried again less and less often meanwhile, so that others come first when it is back.
    sleep(Duration::from_secs(8)).await;
    run(&mut other, "COMMIT").await;
    for id in ids {
        assert_eq!(client.until(&id, "succeeded").await["attempts"], 1);
    }
    client.app.end().await;
}

#[tokio::test]
async fn an_outcome_is_kept_while_the_database_can_not_be_opened() {
    let (client, folder) = impatient("").await;
    let id = client.submitted(r#","topic":"hold""#).await;
    let mut other = writer(folder.path()).await;
    run(&mut other, "BEGIN IMMEDIATE").await;
    client.app.hold.add_permits(1);
    // The connection that waits for the other writer is given up, and none can be made in its place.
    let (file, aside) = (folder.path().join("redrive.db"), folder.path().join("aside.db"));
    std::fs::rename(&file, &aside).unwrap();
    std::fs::create_dir(&file).unwrap();
    eventually(Duration::from_secs(15), async || client.get("/readyz").await.text.contains("can't be used").then_some(())).await;
    sleep(Duration::from_secs(1)).await;
    std::fs::remove_dir(&file).unwrap();
    std::fs::rename(&aside, &file).unwrap();
    run(&mut other, "COMMIT").await;
    assert_eq!(client.until(&id, "succeeded").await["attempts"], 1);
    client.app.end().await;
}

#[tokio::test]
async fn a_source_that_stands_still_takes_no_memory_from_the_others() {
    let client = client("limits: { in_flight: 1MiB }\nsources: { main: { kind: scripted }, other: { kind: scripted } }").await;
    let first = client.submitted("").await;
    client.until(&first, "succeeded").await;
    let large = "x".repeat(100_000);
    for _ in 0..20 {
        client.send(client.request(Method::POST, "/v1/publish/main/hold").body(large.clone())).await;
    }
    let sent = client.send(client.request(Method::POST, "/v1/publish/other").body("at once")).await;
    client.until(sent.json()["id"].as_str().unwrap(), "succeeded").await;
    let later = client.send(client.request(Method::POST, "/v1/publish/other?delay=100ms").body("claimed")).await;
    client.until(later.json()["id"].as_str().unwrap(), "succeeded").await;
    client.app.hold.add_permits(20);
    client.app.end().await;
}

#[tokio::test]
async fn messages_that_come_due_one_after_another_wait_for_no_poll() {
    let client = client("poller: { interval: 1m }").await;
    let mut ids = Vec::new();
    for delay in ["300ms", "600ms", "900ms"] {
        ids.push(client.submitted(&format!(r#","delay":"{delay}""#)).await);
    }
    for id in ids {
        client.until(&id, "succeeded").await;
    }
    client.app.end().await;
}

#[tokio::test]
async fn a_pipeline_that_panics_sends_what_comes_after() {
    let client = client("sources: { main: { kind: fragile, retry: { unreachable_delay: 1h, first_delay: 1h, base_delay: 1h } } }").await;
    let broken = client.submitted(r#","topic":"panic""#).await;
    assert_eq!(client.until(&broken, "retrying").await["last_error"]["code"], "dropped");
    let fine = client.submitted("").await;
    client.until(&fine, "succeeded").await;
    client.app.end().await;
}

#[tokio::test]
async fn rows_without_a_project_or_a_due_time_go_out_however_many_they_are() {
    let client = client("sources: { main: { kind: scripted } }").await;
    let mut session = writer(client.app.folder()).await;
    // Old enough to be taken for what lacks something. Such rows are looked for every 8 s, 500 at once.
    let insert = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 4000)
        INSERT INTO resend_log (source, project, due_at, created_at)
        SELECT 'main', CASE WHEN i % 2 THEN 'test' END, CASE WHEN i % 2 THEN NULL ELSE now END, now - 60000
        FROM n, (SELECT CAST(unixepoch('subsec') * 1000 AS INTEGER) AS now)";
    run(&mut session, insert).await;
    let all = r#"redrive_attempts_total{project="test",source="main",outcome="succeeded"} 4000"#;
    shows(&client, Duration::from_secs(16), all).await;
    session.close().await.unwrap();
    client.app.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_from_cron_sends_beside_a_node_that_only_accepts() {
    let client = client("poller: { enabled: false }").await;
    let id = client.submitted("").await;
    let file = client.app.folder().join("cron.yaml");
    let store = client.app.folder().join("redrive.db");
    std::fs::write(&file, format!("project: test\nstore: {{ url: \"sqlite://{}\" }}\nsources: {{ main: {{ kind: log }} }}\n", store.display()))
        .unwrap();
    let ran = std::process::Command::new(env!("CARGO_BIN_EXE_redrive")).args(["run", "-c"]).arg(&file).output().unwrap();
    assert!(ran.status.success(), "{ran:?}");
    assert_eq!(client.message(&id).await["state"], "succeeded");
    client.app.end().await;
}

#[tokio::test]
async fn an_outcome_that_can_not_be_written_is_not_sent_again_before_its_lease_is_over() {
    let client = client("sources: { main: { kind: scripted } }").await;
    let mut other = writer(client.app.folder()).await;
    run(&mut other, "CREATE TRIGGER never BEFORE UPDATE ON resend_log WHEN NEW.state = 'succeeded' BEGIN SELECT RAISE(ABORT, 'never'); END").await;
    let id = client.submitted(r#","delay":"100ms""#).await;
    let sent = async || {
        let metrics = client.get("/metrics").await.text;
        let line = metrics.lines().find(|line| line.starts_with("redrive_attempts_total") && line.contains("succeeded")).map(str::to_owned);
        line.and_then(|line| line.rsplit(' ').next().and_then(|count| count.parse::<u64>().ok())).unwrap_or(0)
    };
    eventually(Duration::from_secs(10), async || (sent().await > 0).then_some(())).await;
    // Time enough for hundreds.
    sleep(Duration::from_millis(1500)).await;
    assert_eq!(sent().await, 1);
    assert_eq!(client.get(&format!("/v1/messages/{id}")).await.json()["state"], "sending");
    client.app.end().await;
}

#[tokio::test]
async fn a_lost_attempt_is_found_when_its_lease_ends() {
    // By polls alone it would take a minute.
    let client = client("poller: { interval: 1m }\nsources: { main: { kind: scripted, retry: { first_delay: 10ms } } }").await;
    let mut other = writer(client.app.folder()).await;
    let gone = "INSERT INTO resend_log (id, source, state, attempts, lease_token, lease_node, lease_until, attempt_started_at)
        SELECT '019a0000-0000-7000-8000-000000000001', 'main', 'sending', 1, 7, 'gone', now + 3000, now
        FROM (SELECT CAST(unixepoch('subsec') * 1000 AS INTEGER) AS now)";
    run(&mut other, gone).await;
    // Something that is due soon has the scout look once.
    let id = client.submitted(r#","delay":"100ms""#).await;
    client.until(&id, "succeeded").await;
    let again = client.until("019a0000-0000-7000-8000-000000000001", "succeeded").await;
    assert_eq!(again["attempts"], 2);
    client.app.end().await;
}

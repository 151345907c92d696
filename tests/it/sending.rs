//! What the engine does with messages on their way, from outside: the whole application, on SQLite.

mod ended;
mod faulty;
mod large;
mod leases;
mod producers;
mod refused;

use std::path::Path;
use std::time::Duration;

use reqwest::Method;
use serde_json::json;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions, Connection};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::api::{Client, client};
use crate::support::app::start_in;
use crate::support::endpoint::{Server, answer};
use crate::support::eventually;

/// Another writer on the database of an application.
async fn writer(folder: &Path) -> SqliteConnection {
    SqliteConnectOptions::new().filename(folder.join("redrive.db")).busy_timeout(Duration::from_secs(10)).connect().await.unwrap()
}

async fn run(session: &mut SqliteConnection, sql: &'static str) {
    sqlx::query(sql).execute(session).await.unwrap();
}

async fn number(session: &mut SqliteConnection, sql: &'static str) -> i64 {
    sqlx::query_scalar(sql).fetch_one(session).await.unwrap()
}

/// Waits until the answer is 1.
async fn until(session: &mut SqliteConnection, sql: &'static str) {
    let answered = async {
        while number(session, sql).await != 1 {
            sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), answered).await.expect(sql);
}

/// An application with this `store.timeout`, and its folder.
async fn impatient(timeout: &str, yaml: &str) -> (Client, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let store = format!("store: {{ url: \"sqlite://{}\", timeout: {timeout} }}", folder.path().join("redrive.db").display());
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
    // It would be 64 a second if free places were only looked for by the clock.
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
    // Some may have gone out before it was known how slow the destination is, or this machine may have been stalled.
    let attempts = number(&mut session, "SELECT max(attempts) FROM resend_log").await;
    assert!(attempts <= 3, "{attempts}");
    session.close().await.unwrap();
    client.app.end().await;
}

#[tokio::test]
async fn what_waits_gets_its_share_of_a_slow_destination() {
    let client = client("sources: { main: { kind: slow, timeout: 1s, breaker: { probe: 100ms }, retry: { unreachable_delay: 100ms } } }").await;
    let stop = CancellationToken::new();
    // More messages than it takes, for every place that comes free.
    let crowd = async {
        let one = async || {
            while !stop.is_cancelled() {
                client.submitted("").await;
            }
        };
        futures::future::join_all((0..64).map(|_| one())).await;
    };
    let waits = async {
        let mut session = writer(client.app.folder()).await;
        until(&mut session, "SELECT count(*) > 1000 FROM resend_log").await;
        run(&mut session, "INSERT INTO resend_log (id, source, priority) VALUES ('00000000-0000-7000-8000-000000000001', 'main', 9)").await;
        until(&mut session, "SELECT count(*) FROM resend_log WHERE priority = 9 AND state = 'succeeded'").await;
        stop.cancel();
        session.close().await.unwrap();
    };
    tokio::join!(crowd, waits);
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
async fn rows_without_a_project_or_a_due_time_go_out_however_many_they_are() {
    let client = client("sources: { main: { kind: scripted } }").await;
    let mut session = writer(client.app.folder()).await;
    // Old enough to be looked at as strays, which happens every 8 s, 500 at once.
    let insert = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 4000)
        INSERT INTO resend_log (source, project, due_at, created_at)
        SELECT 'main', CASE WHEN i % 2 THEN 'test' END, CASE WHEN i % 2 THEN NULL ELSE now END, now - 60000
        FROM n, (SELECT CAST(unixepoch('subsec') * 1000 AS INTEGER) AS now)";
    run(&mut session, insert).await;
    let all = r#"redrive_attempts_total{project="test",source="main",outcome="succeeded"} 4000"#;
    shows(&client, Duration::from_secs(30), all).await;
    session.close().await.unwrap();
    client.app.end().await;
}

#[tokio::test]
async fn a_row_that_can_never_be_due_counts_for_its_source() {
    let client = client("sources: { main: { kind: scripted } }").await;
    let mut session = writer(client.app.folder()).await;
    run(&mut session, "INSERT INTO resend_log (source, due_at, created_at) VALUES ('main', 'soon', 0), ('none', 'soon', 0)").await;
    for source in ["main", ""] {
        let failed = format!(r#"redrive_finished_total{{project="test",source="{source}",state="failed",class="invalid"}} 1"#);
        shows(&client, Duration::from_secs(30), &failed).await;
    }
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
async fn attempts_of_messages_that_are_gone_go_with_the_purge() {
    let client = client("history: { every: 200ms }").await;
    let mut other = writer(client.app.folder()).await;
    let left = "INSERT INTO attempt_log (message_id, epoch, number, project, attempts, started_at)
        VALUES ('019a0000-0000-7000-8000-000000000001', 1, 1, 'test', 1, 0)";
    run(&mut other, left).await;
    until(&mut other, "SELECT count(*) = 0 FROM attempt_log").await;
    client.app.end().await;
}

#[tokio::test]
async fn what_is_more_urgent_goes_first_once_a_place_is_free() {
    let client = client("sources: { main: { kind: scripted, in_flight: 1 } }").await;
    let under_way = client.submitted(r#","topic":"hold""#).await;
    let mut waiting = Vec::new();
    for priority in [0, 5, 9] {
        waiting.push(client.submitted(&format!(r#","topic":"hold","priority":{priority}"#)).await);
    }
    let mut next = Some(under_way);
    while let Some(id) = next {
        client.until(&id, "sending").await;
        for behind in &waiting {
            assert_eq!(client.message(behind).await["state"], "pending", "{} are behind", waiting.len());
        }
        client.app.hold.add_permits(1);
        client.until(&id, "succeeded").await;
        // The last one that came in, which is the most urgent.
        next = waiting.pop();
    }
    client.app.end().await;
}

/// An application that sends to a server which answers with the status in the topic.
async fn answered_by_topic(headers: &'static str, options: &str) -> Client {
    let server = Server::start(move |request| answer(&format!("{} Because", request.header("redrive-topic")), headers, ""));
    client(&format!("sources: {{ main: {{ kind: http, url: \"{}\", {options} }} }}", server.url("/"))).await
}

#[tokio::test]
async fn a_code_is_of_the_class_that_the_configuration_gives_it() {
    let outcomes = "outcomes: { http_409: succeeded, http_400: refused, http_500: permanent, http_404: unreachable }";
    let client = answered_by_topic("", &format!("{outcomes}, retry: {{ first_delay: 1h, unreachable_delay: 1h }}")).await;
    for (status, state, class, retries) in [
        (409, "succeeded", json!(null), 0),
        (400, "retrying", json!("refused"), 1),
        (500, "failed", json!("permanent"), 0),
        (404, "retrying", json!("unreachable"), 0),
        // Already permanent in its own table.
        (410, "failed", json!("permanent"), 0),
    ] {
        let id = client.submitted(&format!(r#","topic":"{status}""#)).await;
        let message = client.until(&id, state).await;
        assert_eq!((&message["last_error"]["class"], &message["retries"]), (&class, &json!(retries)), "{status}: {message}");
    }
    client.app.end().await;
}

#[tokio::test]
async fn a_destination_that_asks_to_wait_is_given_the_time() {
    let client = answered_by_topic("Retry-After: 1000\r\n", "retry: { first_delay: 1s }").await;
    for status in [429, 503] {
        let id = client.submitted(&format!(r#","topic":"{status}""#)).await;
        let message = client.until(&id, "retrying").await;
        let time = |field: &str| chrono::DateTime::parse_from_rfc3339(message[field].as_str().unwrap()).unwrap();
        let wait = (time("due_at") - time("updated_at")).num_seconds();
        assert!((999..=1001).contains(&wait), "{status}: {message}");
    }
    client.app.end().await;
}

#[tokio::test]
async fn a_message_that_wants_no_retry_fails_as_it_is_refused() {
    let client = client("sources: { main: { kind: scripted, retry: { first_delay: 1h } } }").await;
    // From memory, and claimed.
    for due in ["", r#","delay":"50ms""#] {
        let id = client.submitted(&format!(r#","topic":"refuse","retry":{{"max_retries":0}}{due}"#)).await;
        let message = client.until(&id, "failed").await;
        assert_eq!((&message["attempts"], &message["retries"], &message["max_retries"]), (&json!(1), &json!(1), &json!(0)));
        assert_eq!(message["last_error"]["class"], "refused");
    }
    client.app.end().await;
}

#[tokio::test]
async fn a_message_whose_history_is_not_kept_goes_as_it_ends() {
    let keep = "history: { every: 1d, keep: { succeeded: 0s, failed: 0s } }";
    let client = client(&format!("{keep}\nsources: {{ main: {{ kind: scripted, retry: {{ max_retries: 1, first_delay: 1ms }} }} }}")).await;
    for (fields, class) in [("", "succeeded"), (r#","topic":"forbid""#, "permanent"), (r#","topic":"refuse""#, "exhausted")] {
        let id = client.submitted(fields).await;
        let state = if class == "succeeded" { class } else { "failed" };
        let finished = format!(r#"redrive_finished_total{{project="test",source="main",state="{state}",class="{class}"}} 1"#);
        shows(&client, Duration::from_secs(10), &finished).await;
        assert_eq!(client.get(&format!("/v1/messages/{id}")).await.status, 404, "{class}");
    }
    let mut session = writer(client.app.folder()).await;
    let left = "SELECT (SELECT count(*) FROM resend_log) + (SELECT count(*) FROM attempt_log)";
    assert_eq!(number(&mut session, left).await, 0, "attempts go along");
    let metrics = client.get("/metrics").await.text;
    assert!(metrics.lines().all(|line| !line.starts_with("redrive_purged_total{") || line.ends_with(" 0")), "it waits for no purge");
    session.close().await.unwrap();
    client.app.end().await;
}

#[tokio::test]
async fn what_a_node_knew_before_it_was_started_with_other_sources_is_known_still() {
    const KNOWN: &str = "SELECT count(*) FROM redrive_node WHERE sources LIKE '%before%'";
    let before = client("node: node-1\nsources: { before: { kind: scripted } }").await;
    let mut session = writer(before.app.folder()).await;
    until(&mut session, KNOWN).await;
    let folder = before.app.end().await;
    let after = start_in(folder, "node: node-1\nsources: { after: { kind: scripted } }").await;
    until(&mut session, "SELECT count(*) FROM redrive_node WHERE sources LIKE '%after%'").await;
    assert_eq!(number(&mut session, KNOWN).await, 1, "its messages wait");
    session.close().await.unwrap();
    after.end().await;
}

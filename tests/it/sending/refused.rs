//! Outcomes and leases that the database refuses, as a CHECK or a trigger of the table's owner does.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{run, submit, until, writer};
use crate::api::{Client, client};
use crate::support::eventually;

/// The database takes no success.
const NEVER: &str = "CREATE TRIGGER never BEFORE UPDATE ON resend_log WHEN NEW.state = 'succeeded' BEGIN SELECT RAISE(ABORT, 'never'); END";

/// How often something was sent with success, whatever became of the outcome.
async fn sent(client: &Client) -> u64 {
    let metrics = client.get("/metrics").await.text;
    let line = metrics.lines().find(|line| line.starts_with("redrive_attempts_total") && line.contains("succeeded")).map(str::to_owned);
    line.and_then(|line| line.rsplit(' ').next().and_then(|count| count.parse::<u64>().ok())).unwrap_or(0)
}

#[tokio::test]
async fn outcomes_are_written_once_the_database_takes_them() {
    const MESSAGES: u64 = 42;
    let client = client("sources: { main: { kind: scripted, in_flight: 100 } }").await;
    let mut other = writer(client.app.folder()).await;
    run(&mut other, NEVER).await;
    // Held by claims, and by their own rows; more than are tried one by one each time.
    let mut ids = submit(&client, 40, r#","delay":"100ms""#).await;
    ids.extend(submit(&client, 2, "").await);
    eventually(Duration::from_secs(10), async || (sent(&client).await == MESSAGES).then_some(())).await;
    // Time enough for hundreds.
    sleep(Duration::from_millis(2500)).await;
    assert_eq!(sent(&client).await, MESSAGES);
    for id in &ids {
        assert_eq!(client.message(id).await["state"], "sending");
    }
    let bad = client.submitted(r#","topic":"absurd""#).await;
    client.until(&bad, "failed").await;
    run(&mut other, "DROP TRIGGER never").await;
    for id in &ids {
        assert_eq!(client.until(id, "succeeded").await["attempts"], 1);
    }
    assert_eq!(sent(&client).await, MESSAGES, "none was sent again");
    client.app.end().await;
}

#[tokio::test]
async fn an_outcome_that_stays_refused_is_given_up_and_its_message_sent_again() {
    let source = "{ kind: scripted, retry: { first_delay: 10ms, unreachable_delay: 10ms } }";
    let client = client(&format!("poller: {{ lease: 2s, interval: 500ms }}\nsources: {{ main: {source} }}")).await;
    let mut other = writer(client.app.folder()).await;
    run(&mut other, NEVER).await;
    let id = client.submitted(r#","delay":"100ms""#).await;
    eventually(Duration::from_secs(10), async || (sent(&client).await == 1).then_some(())).await;
    let began = Instant::now();
    eventually(Duration::from_secs(30), async || (sent(&client).await == 2).then_some(())).await;
    // Three leases, and what is left of one.
    assert!(began.elapsed() >= Duration::from_secs(6), "{:?}", began.elapsed());
    run(&mut other, "DROP TRIGGER never").await;
    assert_eq!(client.until(&id, "succeeded").await["attempts"], 2);
    let attempts = client.get(&format!("/v1/messages/{id}/attempts")).await.json();
    let outcomes: Vec<_> = attempts["items"].as_array().unwrap().iter().map(|attempt| attempt["outcome"].as_str().unwrap()).collect();
    assert_eq!(outcomes, ["lost", "succeeded"]);
    client.app.end().await;
}

#[tokio::test]
async fn an_outcome_that_is_refused_holds_up_no_stop() {
    // Longer than a test waits for an application to end.
    let client = client("shutdown: { accept_for: 0s, grace: 60s }").await;
    let mut other = writer(client.app.folder()).await;
    run(&mut other, NEVER).await;
    let id = client.submitted("").await;
    eventually(Duration::from_secs(10), async || (sent(&client).await == 1).then_some(())).await;
    assert_eq!(client.message(&id).await["state"], "sending");
    client.app.end().await;
}

#[tokio::test]
async fn many_outcomes_that_are_refused_hold_up_no_stop() {
    const MESSAGES: usize = 400;
    let client = client("shutdown: { accept_for: 0s, grace: 60s }\nsources: { main: { kind: scripted, in_flight: 1000 } }").await;
    let mut other = writer(client.app.folder()).await;
    run(&mut other, NEVER).await;
    submit(&client, MESSAGES, "").await;
    eventually(Duration::from_secs(20), async || (sent(&client).await == MESSAGES as u64).then_some(())).await;
    // Each was refused by itself before: two workers try 32 of them each second.
    let began = Instant::now();
    client.app.end().await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

/// How many units of work of this name the store was given.
async fn asked(client: &Client, op: &str) -> u64 {
    let metrics = client.get("/metrics").await.text;
    let name = format!(r#"redrive_store_seconds_count{{project="test",op="{op}"}} "#);
    metrics.lines().find_map(|line| line.strip_prefix(&name)?.parse().ok()).unwrap_or(0)
}

#[tokio::test]
async fn a_lapsed_lease_that_stays_refused_is_left_alone_for_a_while() {
    const BAD: &str = "CREATE TRIGGER bad BEFORE UPDATE ON resend_log WHEN NEW.msg_key = 'bad' BEGIN SELECT RAISE(ABORT, 'bad'); END";
    let client = client("poller: { interval: 100ms }").await;
    let mut other = writer(client.app.folder()).await;
    run(&mut other, BAD).await;
    run(&mut other, "INSERT INTO resend_log (source, msg_key, state, lease_until) VALUES ('main', 'bad', 'sending', 1)").await;
    eventually(Duration::from_secs(10), async || (asked(&client, "take_over").await > 0).then_some(())).await;
    let (looks, began) = (asked(&client, "upcoming").await, Instant::now());
    eventually(Duration::from_secs(30), async || (asked(&client, "upcoming").await >= looks + 20).then_some(())).await;
    let tries = asked(&client, "take_over").await;
    // All at once, then in parts; and again after a sixth of a lease of 30 s.
    let most = 2 * (2 + began.elapsed().as_secs() / 5);
    assert!(tries <= most, "{tries}");
    client.app.end().await;
}

#[tokio::test]
async fn a_lease_that_is_not_renewed_keeps_no_other_from_it() {
    const OTHERS_ARE_HELD: &str = "SELECT count(*) = 4 AND sum(msg_key = 'bad') = 0 FROM resend_log
        WHERE state = 'sending' AND lease_until > CAST(round((julianday('now') - 2440587.5) * 86400000.0) AS INTEGER)";
    let client = client("poller: { lease: 2s }\nsources: { main: { kind: scripted } }").await;
    let first = client.submitted("").await;
    client.until(&first, "succeeded").await;
    let mut ids = Vec::new();
    for key in ["a", "b", "bad", "c", "d"] {
        ids.push(client.submitted(&format!(r#","topic":"hold","key":"{key}""#)).await);
    }
    let mut other = writer(client.app.folder()).await;
    run(&mut other, "CREATE TRIGGER bad BEFORE UPDATE ON resend_log WHEN NEW.msg_key = 'bad' BEGIN SELECT RAISE(ABORT, 'bad'); END").await;
    until(&mut other, OTHERS_ARE_HELD).await;
    run(&mut other, "DROP TRIGGER bad").await;
    client.app.hold.add_permits(2 * ids.len());
    for id in ids {
        client.until(&id, "succeeded").await;
    }
    client.app.end().await;
}

//! What a node holds: renewed for as long as needed, handed back when the node stops, and taken over when it is gone.

use std::time::Duration;

use serde_json::{Value, json};
use sqlx::Connection;
use tokio::time::{Instant, sleep};

use super::{impatient, number, run, shows, submit, writer};
use crate::api::client;
use crate::support::eventually;

#[tokio::test]
async fn a_claim_under_way_when_the_node_stops_is_handed_back() {
    let client = client("sources: { main: { kind: scripted, in_flight: 64 } }").await;
    let first = client.submitted("").await;
    client.until(&first, "succeeded").await;
    submit(&client, 20, r#","delay":"1s""#).await;
    let mut other = writer(client.app.folder()).await;
    // How many messages each claim took: the sheets themselves are deleted again.
    run(&mut other, "CREATE TABLE claims (took INTEGER)").await;
    let note = "CREATE TRIGGER note AFTER INSERT ON redrive_sheet BEGIN INSERT INTO claims VALUES (json_array_length(NEW.ids)); END";
    run(&mut other, note).await;
    run(&mut other, "BEGIN IMMEDIATE").await;
    // They come due, and the claim waits for the other writer.
    sleep(Duration::from_millis(1500)).await;
    client.app.stop.cancel();
    sleep(Duration::from_millis(100)).await;
    run(&mut other, "COMMIT").await;
    let folder = client.app.end().await;
    let mut session = writer(folder.path()).await;
    let claimed = number(&mut session, "SELECT coalesce(sum(took), 0) FROM claims").await;
    let sent = number(&mut session, "SELECT count(*) FROM resend_log WHERE state = 'succeeded'").await;
    assert!(claimed > 0 && sent == 1, "no claim was under way: {claimed} were claimed, {sent} sent");
    let sending = number(&mut session, "SELECT count(*) FROM resend_log WHERE state = 'sending'").await;
    let tried = number(&mut session, "SELECT count(*) FROM resend_log WHERE state <> 'succeeded' AND attempts > 0").await;
    let sheets = number(&mut session, "SELECT count(*) FROM redrive_sheet").await;
    assert_eq!((sending, tried, sheets), (0, 0, 0));
    session.close().await.unwrap();
}

#[tokio::test]
async fn what_was_delivered_while_the_store_was_away_is_not_sent_again() {
    let (client, folder) = impatient("1s", "poller: { lease: 2s, interval: 100ms }").await;
    let ids = submit(&client, 10, r#","topic":"hold""#).await;
    let mut other = writer(folder.path()).await;
    run(&mut other, "BEGIN IMMEDIATE").await;
    client.app.hold.add_permits(ids.len());
    // Longer than the lease. Meanwhile the outcomes are tried less and less often, so that others come first when the store is back.
    sleep(Duration::from_secs(8)).await;
    run(&mut other, "COMMIT").await;
    for id in ids {
        assert_eq!(client.until(&id, "succeeded").await["attempts"], 1);
    }
    client.app.end().await;
}

#[tokio::test]
async fn leases_are_renewed_well_before_they_run_out_for_as_long_as_the_send_takes() {
    let client = client("poller: { lease: 6s, interval: 100ms }").await;
    // One is held by its row, the other by the claim that took it.
    let ids = [client.submitted(r#","topic":"hold""#).await, client.submitted(r#","topic":"hold","delay":"50ms""#).await];
    for id in &ids {
        client.until(id, "sending").await;
    }
    let mut session = writer(client.app.folder()).await;
    // In milliseconds. Expired leases are renewed too, unless somebody takes them over first, as other nodes would.
    let left = "SELECT CASE WHEN count(*) = 2 THEN min(lease_until) - CAST(unixepoch('subsec') * 1000 AS INTEGER) ELSE 9223372036854775807 END
        FROM (SELECT lease_until FROM resend_log WHERE state = 'sending' UNION ALL SELECT lease_until FROM redrive_sheet)";
    let (began, mut least) = (Instant::now(), i64::MAX);
    while began.elapsed() < Duration::from_millis(7500) {
        least = least.min(number(&mut session, left).await);
        sleep(Duration::from_millis(20)).await;
    }
    assert!((600..=6000).contains(&least), "{least} ms were left");
    client.app.hold.add_permits(ids.len());
    for id in ids {
        assert_eq!(client.until(&id, "succeeded").await["attempts"], 1);
    }
    session.close().await.unwrap();
    client.app.end().await;
}

#[tokio::test]
async fn what_waits_to_be_tried_first_is_not_sent_once_another_node_has_it() {
    let source = "{ kind: narrow, mode: on_failure, on_failure: { timeout: 100ms } }";
    let client = client(&format!("poller: {{ lease: 2s }}\nsources: {{ main: {source} }}")).await;
    let first = client.submitted(r#","topic":"hold","mode":"write_ahead""#).await;
    // The pipeline is working on it.
    sleep(Duration::from_millis(200)).await;
    let behind = client.submitted("").await;
    assert_eq!(client.message(&behind).await["state"], "sending");
    let mut other = writer(client.app.folder()).await;
    let take =
        "UPDATE resend_log SET lease_token = 7, lease_node = 'other', lease_until = lease_until + 60000 WHERE state = 'sending' AND topic IS NULL";
    run(&mut other, take).await;
    // Longer than the lease.
    sleep(Duration::from_millis(2500)).await;
    client.app.hold.add_permits(1);
    client.until(&first, "succeeded").await;
    let last = client.submitted(r#","mode":"write_ahead""#).await;
    client.until(&last, "succeeded").await;
    shows(&client, Duration::from_secs(5), r#"redrive_attempts_total{project="test",source="main",outcome="succeeded"} 2"#).await;
    assert_eq!(number(&mut other, "SELECT count(*) FROM resend_log WHERE state = 'sending' AND lease_token = 7 AND attempts = 1").await, 1);
    other.close().await.unwrap();
    client.app.end().await;
}

#[tokio::test]
async fn an_outcome_is_kept_while_the_database_can_not_be_opened() {
    let (client, folder) = impatient("1s", "").await;
    let id = client.submitted(r#","topic":"hold""#).await;
    let mut other = writer(folder.path()).await;
    run(&mut other, "BEGIN IMMEDIATE").await;
    client.app.hold.add_permits(1);
    // The connection that waits for the other writer is given up, and no new one can be made.
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

/// A message whose first attempt was begun by a node that is gone, with a lease that ends soon.
const LOST: &str = "019a0000-0000-7000-8000-000000000001";

/// The attempts of [`LOST`] and its message, once a node has sent it that polls only once a minute.
async fn attempts_after_one_was_lost() -> (Value, Value) {
    // By polls alone it would take a minute.
    let client = client("poller: { interval: 1m }\nsources: { main: { kind: scripted, retry: { first_delay: 10ms } } }").await;
    let mut other = writer(client.app.folder()).await;
    let gone = "INSERT INTO resend_log (id, source, state, attempts, lease_token, lease_node, lease_until, attempt_started_at)
        SELECT '019a0000-0000-7000-8000-000000000001', 'main', 'sending', 1, 7, 'gone', now + 3000, now
        FROM (SELECT CAST(unixepoch('subsec') * 1000 AS INTEGER) AS now)";
    run(&mut other, gone).await;
    // A message that is due soon makes the scout look once.
    let id = client.submitted(r#","delay":"100ms""#).await;
    client.until(&id, "succeeded").await;
    let message = client.until(LOST, "succeeded").await;
    let attempts = client.get(&format!("/v1/messages/{LOST}/attempts")).await.json();
    client.app.end().await;
    (attempts, message)
}

#[tokio::test]
async fn a_lost_attempt_is_found_when_its_lease_ends_and_uses_up_no_retry() {
    let (attempts, message) = attempts_after_one_was_lost().await;
    assert_eq!((&message["attempts"], &message["retries"]), (&json!(2), &json!(0)));
    let told: Vec<_> = attempts["items"].as_array().unwrap().iter().map(|attempt| (&attempt["number"], &attempt["outcome"])).collect();
    assert_eq!(told, [(&json!(1), &json!("lost")), (&json!(2), &json!("succeeded"))]);
    assert_eq!(attempts["items"][0]["error"]["class"], "lost");
}

#[tokio::test]
async fn a_lost_attempt_is_put_down_to_the_node_that_lost_it() {
    let (attempts, _) = attempts_after_one_was_lost().await;
    assert_eq!(attempts["items"][0]["node"], "gone", "{attempts}");
}

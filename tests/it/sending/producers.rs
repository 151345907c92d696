//! What producers are told while messages can't be kept.

use std::time::Duration;

use reqwest::Method;
use tokio::time::Instant;

use super::{impatient, run, writer};
use crate::api::client;
use crate::support::eventually;

#[tokio::test]
async fn a_node_that_only_accepts_takes_messages_again_once_the_store_is_back() {
    let (client, folder) = impatient("1s", "poller: { enabled: false }").await;
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
async fn what_waits_behind_others_waits_no_longer_than_they() {
    let (client, folder) = impatient("1s", "poller: { enabled: false }").await;
    let mut other = writer(folder.path()).await;
    run(&mut other, "BEGIN IMMEDIATE").await;
    // Ten commits, two at a time.
    let batch = format!("[{}]", vec![r#"{"source":"main","payload":"x"}"#; 5000].join(","));
    let began = Instant::now();
    let refused = client.post_json("/v1/messages/batch", batch).await;
    assert_eq!(refused.status, 503, "{refused:?}");
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    run(&mut other, "COMMIT").await;
    client.app.end().await;
}

#[tokio::test]
async fn a_node_whose_beat_is_refused_takes_messages_again_once_the_store_is_back() {
    let (client, folder) = impatient("1s", "poller: { enabled: false }").await;
    let mut other = writer(folder.path()).await;
    run(&mut other, "CREATE TRIGGER still BEFORE UPDATE ON redrive_node BEGIN SELECT RAISE(ABORT, 'no'); END").await;
    // Longer than it has.
    let slow = "CREATE TRIGGER slow BEFORE INSERT ON resend_log WHEN NEW.topic = 'slow' BEGIN
        SELECT count(*) FROM (WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000000) SELECT i FROM n); END";
    run(&mut other, slow).await;
    assert_eq!(client.send(client.request(Method::POST, "/v1/publish/main/slow").body("x")).await.status, 503);
    eventually(Duration::from_secs(15), async || {
        (client.send(client.request(Method::POST, "/v1/publish/main").body("x")).await.status == 202).then_some(())
    })
    .await;
    client.app.end().await;
}

#[tokio::test]
async fn whoever_would_have_too_much_wait_to_be_committed_is_told_to_come_again() {
    let client = client("limits: { intake: 1MiB }").await;
    let mut other = writer(client.app.folder()).await;
    run(&mut other, "BEGIN IMMEDIATE").await;
    let publish = async || client.send(client.request(Method::POST, "/v1/publish/main").body(vec![b'x'; 600 << 10])).await;
    // One waits for the other writer; with the second it would be too much, whichever of them comes first.
    let (refused, kept) = futures::future::select(Box::pin(publish()), Box::pin(publish())).await.factor_first();
    assert_eq!(refused.problem(), (429, "overloaded".into(), String::new()));
    assert!(refused.text.contains("wait to be committed"), "{refused:?}");
    run(&mut other, "COMMIT").await;
    assert_eq!(kept.await.status, 202);
    assert_eq!(publish().await.status, 202, "there is room again");
    client.app.end().await;
}

#[tokio::test]
async fn what_could_not_be_kept_is_not_tried_first() {
    let client = client("limits: { intake: 1MiB }").await;
    let mut other = writer(client.app.folder()).await;
    run(&mut other, "BEGIN IMMEDIATE").await;
    let publish = async |path: &'static str, bytes| client.send(client.request(Method::POST, path).body(vec![b'x'; bytes])).await;
    let meanwhile = async {
        // Until the other waits for the writer there is room, and they are delivered.
        let refused = async || {
            let tried = publish("/v1/publish/main?mode=on_failure", 1).await;
            (tried.status != 200).then_some(tried)
        };
        let tried = eventually(Duration::from_secs(8), refused).await;
        run(&mut other, "COMMIT").await;
        tried
    };
    let (kept, tried) = tokio::join!(publish("/v1/publish/main", 1 << 20), meanwhile);
    assert_eq!(tried.problem(), (429, "overloaded".into(), String::new()));
    assert_eq!(kept.status, 202, "{kept:?}");
    assert_eq!(publish("/v1/publish/main?mode=on_failure", 1).await.status, 200, "there is room again");
    client.app.end().await;
}

#[tokio::test]
async fn a_producer_is_told_within_the_stores_timeout_that_somebody_holds_the_table() {
    let (client, folder) = impatient("3s", "").await;
    let mut other = writer(folder.path()).await;
    run(&mut other, "BEGIN IMMEDIATE").await;
    let began = Instant::now();
    let refused = client.post_json("/v1/messages", r#"{"source":"main","payload":"x"}"#).await;
    assert_eq!(refused.status, 503, "{refused:?}");
    // A second wait for the lock would have taken as long again.
    assert!(began.elapsed() < Duration::from_millis(5500), "{:?}", began.elapsed());
    run(&mut other, "COMMIT").await;
    client.app.end().await;
}

//! The mode `on_failure`: sent first, committed only if that fails or takes too long.

use std::time::{Duration, Instant};

use futures::future::join_all;
use reqwest::StatusCode;

use crate::support::kafka::Topic;
use crate::support::node::QUICK;
use crate::support::{Database, Kind, Node, Sink, Yaml, eventually, free_port};

#[tokio::test(flavor = "multi_thread")]
async fn with_the_broker_up_no_row_is_left_and_with_it_down_the_message_is_kept() {
    let topic = Topic::fresh().await;
    join_all(Kind::ALL.map(async |kind| {
        let database = Database::fresh(kind).await;
        let dead = format!("{{ kind: kafka, brokers: [\"127.0.0.1:{}\"], topic: nowhere, mode: on_failure, {QUICK} }}", free_port());
        let node = Node::start(&Yaml::on(&database).source("events", &topic.source()).source("dead", &dead)).await;
        // A first message makes the connection.
        node.publish("events", "warm").await;
        database.finished(Duration::from_secs(20)).await;
        let rows = database.records().await.len();

        for number in 0..100 {
            let sent = node.publish("events?mode=on_failure", format!("{number}")).await;
            assert_eq!(sent.status, StatusCode::OK, "{kind:?}: {sent:?}");
            assert_eq!(node.get(&format!("/v1/messages/{}", sent.id())).await.status, StatusCode::NOT_FOUND, "{kind:?}: no row is left");
        }
        assert_eq!(database.records().await.len(), rows, "{kind:?}: nothing was written");

        // The first one may be under way when its answer is due; once the breaker is open they are committed at once.
        for number in 0..10 {
            let kept = node.publish("dead", format!("{number}")).await;
            assert_eq!(kept.status, StatusCode::ACCEPTED, "{kind:?}: {kept:?}");
            let state = kept.body["state"].as_str().unwrap();
            assert!(["sending", "retrying", "pending"].contains(&state), "{kind:?}: {kept:?}");
            assert!(database.records().await.contains_key(kept.id()), "{kind:?}: it is in the table");
        }
        let began = Instant::now();
        assert_eq!(node.publish("dead", "now").await.status, StatusCode::ACCEPTED);
        assert!(began.elapsed() < Duration::from_millis(900), "{kind:?}: committed at once with the breaker open, not after {:?}", began.elapsed());
    }))
    .await;
    topic.delete().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_send_that_takes_too_long_is_committed_as_sending_and_decides_it() {
    join_all(Kind::ALL.map(async |kind| {
        let sink = Sink::start().await;
        sink.hold();
        let database = Database::fresh(kind).await;
        let source = sink.source(", timeout: 60s, mode: on_failure, on_failure: { timeout: 500ms }");
        let node = Node::start(&Yaml::on(&database).source("crm", &source)).await;
        let kept = node.publish("crm", "slow").await;
        assert_eq!((kept.status, &kept.body["state"]), (StatusCode::ACCEPTED, &"sending".into()), "{kind:?}: {kept:?}");
        let path = format!("/v1/messages/{}", kept.id());
        // Longer than a lease, which is renewed while the send runs, so that nobody sends the message a second time.
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(node.get(&path).await.body["state"], "sending", "{kind:?}");
        sink.let_go();
        eventually("the running send decides it", Duration::from_secs(10), async || {
            let shown = node.get(&path).await.body;
            if shown["state"] == "succeeded" { Ok(()) } else { Err(shown.to_string()) }
        })
        .await;
        assert_eq!(sink.copies()[kept.id()], 1, "{kind:?}: it was sent once");
    }))
    .await;
}

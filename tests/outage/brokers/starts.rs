//! Started while something it needs is down.

use std::collections::HashSet;
use std::time::Duration;

use reqwest::StatusCode;

use crate::support::amqp::Queue;
use crate::support::kafka::Topic;
use crate::support::{Broker, Database, Kind, Node, Proxy, Sink, Yaml, eventually, free_port};

#[tokio::test(flavor = "multi_thread")]
async fn with_kafka_and_rabbitmq_down_it_accepts_and_delivers_when_they_return() {
    let (topic, queue) = (Topic::fresh().await, Queue::fresh().await);
    let database = Database::fresh(Kind::Sqlite).await;
    let down = (Broker::Kafka.kill().await, Broker::Rabbitmq.kill().await);

    let node = Node::start(&Yaml::on(&database).source("events", &topic.source()).source("billing", &queue.source())).await;
    let mut sent = [HashSet::new(), HashSet::new()];
    for (source, ids) in ["events", "billing"].into_iter().zip(&mut sent) {
        for number in 0..50 {
            let answer = node.publish(source, format!("{number}")).await;
            assert_eq!(answer.status, StatusCode::ACCEPTED, "{answer:?}");
            ids.insert(answer.id().to_owned());
        }
    }
    eventually("the body of /readyz tells that both are away", Duration::from_secs(30), async || {
        let ready = node.get("/readyz").await;
        assert_eq!(ready.status, StatusCode::OK, "a destination never makes it unready: {ready:?}");
        let sources = ready.body["sources"].as_array().unwrap();
        let open = |source: &serde_json::Value| source["breaker"] == "open" && source["last_error"].is_string();
        if sources.len() == 2 && sources.iter().all(open) { Ok(()) } else { Err(ready.body.to_string()) }
    })
    .await;
    assert_eq!(database.states().await.keys().filter(|state| *state == "succeeded").count(), 0);

    tokio::join!(down.0.restart(), down.1.restart());
    database.finished(Duration::from_secs(60)).await;
    let (arrived, taken) = (topic.copies().await, queue.copies().await);
    assert_eq!(arrived.into_keys().collect::<HashSet<_>>(), sent[0]);
    assert_eq!(taken.into_keys().collect::<HashSet<_>>(), sent[1]);
    topic.delete().await;
    queue.delete().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_database_down_it_says_so_and_accepts_once_it_answers() {
    for kind in Kind::SHARED {
        let sink = Sink::start().await;
        let database = Database::fresh(kind).await;
        let port = free_port();
        let yaml = Yaml::with_store(&database.store_behind(port)).store_more(", timeout: 3s").source("crm", &sink.source(""));
        let mut node = Node::new(&yaml);
        node.spawn();
        for _ in 0..2 {
            node.answers("/healthz", StatusCode::OK, Duration::from_secs(20)).await;
            node.answers("/readyz", StatusCode::SERVICE_UNAVAILABLE, Duration::from_secs(20)).await;
            let refused = node.publish("crm", "x").await;
            assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE, "{kind:?}: {refused:?}");
            assert!(refused.retry_after.is_some(), "{kind:?}: {refused:?}");

            let proxy = Proxy::at(port, database.server()).await;
            node.ready().await;
            let accepted = node.publish("crm", "x").await;
            assert_eq!(accepted.status, StatusCode::ACCEPTED, "{kind:?}: {accepted:?}");
            eventually(
                "it is sent",
                Duration::from_secs(10),
                async || {
                    if sink.copies().contains_key(accepted.id()) { Ok(()) } else { Err(String::new()) }
                },
            )
            .await;
            // And once more, with the database disappearing while it runs.
            proxy.vanish().await;
        }
        let proxy = Proxy::at(port, database.server()).await;
        node.ready().await;
        database.finished(Duration::from_secs(30)).await;
        assert!(node.log().lines().count() < 60, "an absent database fills no log:\n{}", node.log());
        drop((node, proxy));
    }
}

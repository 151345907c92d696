//! A broker that hangs for longer than a message may take, with its connections open, and then continues with what it had received.

use std::time::Duration;

use crate::support::kafka::Topic;
use crate::support::node::QUICK;
use crate::support::{Broker, Database, Kind, Node, Yaml, service};

/// Two messages share a request, and the second is much younger than the first. When the first has taken too long, the second must not be sent again
/// within the same attempt: the broker may already have it.
#[tokio::test(flavor = "multi_thread")]
async fn a_kafka_that_stalls_gets_no_more_copies_than_attempts() {
    let topic = Topic::fresh().await;
    let database = Database::fresh(Kind::Sqlite).await;
    let source = format!(
        "{{ kind: kafka, brokers: [\"{}\"], topic: {}, timeout: 6s, properties: {{ linger.ms: 3000 }}, {QUICK} }}",
        service("REDRIVE_TEST_KAFKA"),
        topic.name
    );
    let node = Node::start(&Yaml::on(&database).source("events", &source).poller("lease: 12s, interval: 200ms")).await;
    node.publish("events?key=k", "warm").await;
    database.finished(Duration::from_secs(20)).await;

    let older = node.publish("events?key=k", "older").await;
    tokio::time::sleep(Duration::from_millis(2_400)).await;
    let younger = node.publish("events?key=k", "younger").await;
    // From before the two are sent until the first has timed out and the client has looked again, which makes it notice.
    Broker::Kafka.stall(Duration::from_millis(4_800)).await;
    database.finished(Duration::from_secs(60)).await;

    let (records, copies) = (database.records().await, topic.copies().await);
    for message in [&older, &younger] {
        let (attempts, copies) = (records[message.id()].attempts, copies[message.id()]);
        assert!(copies <= attempts, "{copies} copies of {message:?} and {attempts} attempts on record");
        assert!(attempts > 1, "the broker stood still for too short a time to show anything: {records:?}");
    }
    topic.delete().await;
}

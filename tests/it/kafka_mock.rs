//! The Kafka source against librdkafka's mock cluster, which runs inside the process: no server is needed.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures::future::join_all;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use redrive::outcome::{Class, Outcome};
use redrive::source::Sender;
use serde_json::json;

use crate::source_contract::destinations::records;
use crate::support::changed;
use crate::support::sends::{build, context, context_with_timeout, message, send_all, send_one, until};

const TOPIC: &str = "orders";

fn cluster() -> MockCluster<'static, DefaultProducerContext> {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic(TOPIC, 1, 1).unwrap();
    cluster
}

fn source(cluster: &MockCluster<'_, DefaultProducerContext>, timeout: &str) -> Sender {
    let servers = cluster.bootstrap_servers();
    let brokers: Vec<_> = servers.split(',').collect();
    build("kafka", json!({"brokers": brokers, "topic": TOPIC}), &context_with_timeout(timeout))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_may_have_no_key_and_it_is_told_where_it_stands() {
    let cluster = cluster();
    let sender = source(&cluster, "10s");
    for offset in 0..2 {
        let outcome = send_one(&sender, changed(message(TOPIC, "x"), |message| message.key = None)).await;
        assert_eq!(outcome, Outcome::succeeded().with_result(format!(r#"{{"partition":0,"offset":{offset}}}"#)));
    }
    let keys: Vec<_> = records(&cluster.bootstrap_servers(), TOPIC).into_iter().map(|record| record.key).collect();
    assert_eq!(keys, [None, None]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_than_the_queue_holds_is_delivered_without_a_loss() {
    let cluster = cluster();
    let mut cx = context();
    cx.options.in_flight = Some(10);
    let sender = build("kafka", json!({"brokers": [cluster.bootstrap_servers()], "topic": TOPIC}), &cx);
    let messages: Vec<_> = (0..5000).map(|n| message(TOPIC, n.to_string())).collect();
    let outcomes = send_all(&sender, messages, Duration::from_secs(30)).await;
    assert!(outcomes.values().all(|outcome| outcome.class == Class::Succeeded));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_down_is_told_with_what_the_client_said_of_it() {
    // Nobody listens on port 1.
    let sender = build("kafka", json!({"brokers": ["127.0.0.1:1"], "topic": TOPIC}), &context_with_timeout("2s"));
    let outcome = send_one(&sender, message(TOPIC, "x")).await;
    assert_eq!((outcome.class, outcome.code.as_ref()), (Class::Unreachable, "kafka_msg_timed_out"), "{outcome:?}");
    assert!(outcome.detail.contains("last error"), "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_broker_answers_is_classified() {
    let cluster = cluster();
    let sender = source(&cluster, "3s");
    for (error, class, code) in [
        (RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED, Class::Refused, "kafka_topic_authorization_failed"),
        (RDKafkaRespErr::RD_KAFKA_RESP_ERR_INVALID_RECORD, Class::Permanent, "kafka_invalid_record"),
        (RDKafkaRespErr::RD_KAFKA_RESP_ERR_INVALID_REQUIRED_ACKS, Class::Refused, "kafka_invalid_required_acks"),
    ] {
        // For the batch, and for the message on its own.
        cluster.request_errors(RDKafkaApiKey::Produce, &[error, error]);
        let outcome = send_one(&sender, message(TOPIC, "x")).await;
        assert_eq!((outcome.class, outcome.code.as_ref()), (class, code), "{outcome:?}");
        cluster.clear_request_errors(RDKafkaApiKey::Produce);
        // A permanent error may end an idempotent producer: the next send must work all the same.
        let deadline = Instant::now() + Duration::from_secs(10);
        while send_one(&sender, message(TOPIC, "x")).await.class != Class::Succeeded {
            assert!(Instant::now() < deadline, "no recovery after {code}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_producer_that_failed_for_good_is_replaced_and_its_messages_may_come_again() {
    let cluster = cluster();
    let sender = source(&cluster, "3s");
    assert_eq!(send_one(&sender, message(TOPIC, "x")).await.class, Class::Succeeded);
    // A broker that loses track of an idempotent producer ends it: every later send of that producer would fail.
    cluster.request_errors(RDKafkaApiKey::Produce, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER; 4]);
    let outcome = send_one(&sender, message(TOPIC, "y")).await;
    assert_eq!((outcome.class, outcome.code.as_ref()), (Class::Unreachable, "kafka_out_of_order_sequence_number"), "{outcome:?}");
    cluster.clear_request_errors(RDKafkaApiKey::Produce);
    let deadline = Instant::now() + Duration::from_secs(10);
    while send_one(&sender, message(TOPIC, "z")).await.class != Class::Succeeded {
        assert!(Instant::now() < deadline, "the producer was not replaced");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_stands_still_does_no_harm_to_the_messages_of_another() {
    let cluster = MockCluster::new(2).unwrap();
    for (topic, broker) in [("stuck", 1), ("well", 2)] {
        cluster.create_topic(topic, 1, 2).unwrap();
        cluster.partition_leader(topic, 0, Some(broker)).unwrap();
    }
    let sender = source(&cluster, "4s");
    for topic in ["stuck", "well"] {
        assert_eq!(send_one(&sender, message(topic, "x")).await.class, Class::Succeeded);
    }
    cluster.broker_round_trip_time(1, Duration::from_secs(60)).unwrap();
    let over = AtomicBool::new(false);
    let stuck = async {
        let outcome = send_one(&sender, message("stuck", "x")).await;
        assert_eq!((outcome.class, outcome.code.as_ref()), (Class::Unreachable, "kafka_msg_timed_out"), "{outcome:?}");
        over.store(true, Ordering::Relaxed);
    };
    // One after another, so that some of them are always under way.
    cluster.broker_round_trip_time(2, Duration::from_millis(150)).unwrap();
    let well = join_all((0..8).map(async |number| {
        tokio::time::sleep(Duration::from_millis(20) * number).await;
        while !over.load(Ordering::Relaxed) {
            let outcome = send_one(&sender, message("well", "x")).await;
            assert_eq!(outcome.class, Class::Succeeded, "{outcome:?}");
        }
    }));
    tokio::join!(stuck, well);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_is_dropped_ends_its_thread() {
    let cluster = cluster();
    let mut cx = context();
    cx.name = "droptest".into();
    let sender = build("kafka", json!({"brokers": [cluster.bootstrap_servers()], "topic": TOPIC}), &cx);
    assert_eq!(send_one(&sender, message(TOPIC, "x")).await.class, Class::Succeeded);
    assert!(threads("kafka-droptest"));
    drop(sender);
    until("the thread ends", Duration::from_secs(5), async || !threads("kafka-droptest")).await;
}

/// Whether this process has a thread of that name.
fn threads(name: &str) -> bool {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    tasks.into_iter().any(|task| std::fs::read_to_string(task.path().join("comm")).is_ok_and(|have| have.trim() == name))
}

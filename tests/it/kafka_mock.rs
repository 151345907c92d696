//! The Kafka source against librdkafka's mock cluster, which runs inside the process: no server is needed.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures::future::join_all;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Headers as _, Message as _, OwnedMessage};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use redrive::message::{Headers, Key};
use redrive::outcome::Class;
use redrive::source::Sender;
use serde_json::json;

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

/// Reads so many messages of the topic's only partition from its beginning.
fn read(servers: &str, topic: &str, count: usize) -> Vec<OwnedMessage> {
    let consumer: BaseConsumer = ClientConfig::new().set("bootstrap.servers", servers).set("group.id", "reader").create().unwrap();
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, 0, Offset::Beginning).unwrap();
    consumer.assign(&list).unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut messages = Vec::new();
    while messages.len() < count && Instant::now() < deadline {
        if let Some(Ok(message)) = consumer.poll(Duration::from_millis(100)) {
            messages.push(message.detach());
        }
    }
    messages
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_arrives_with_its_key_headers_and_payload() {
    let cluster = cluster();
    let sender = source(&cluster, "10s");
    let mut first = message(TOPIC, "hello");
    first.topic = None;
    let forwarded = [("redrive-id", "another"), ("tenant", "ä"), ("Redrive-Key", "another")];
    first.headers = Headers::new(forwarded.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec());
    let mut tombstone = message(TOPIC, "");
    tombstone.payload = None;
    let mut empty = message(TOPIC, "");
    empty.key = Some(Key::Binary(vec![0, 255].into()));
    let mut keyless = message(TOPIC, "x");
    keyless.key = None;
    let sent = [first, tombstone, empty, keyless];
    let outcomes = send_all(&sender, sent.to_vec(), Duration::from_secs(15)).await;
    for (offset, message) in sent.iter().enumerate() {
        let outcome = &outcomes[&message.id];
        assert_eq!(outcome.class, Class::Succeeded, "{outcome:?}");
        assert_eq!(outcome.result.as_deref(), Some(format!(r#"{{"partition":0,"offset":{offset}}}"#).as_str()));
    }
    let arrived = read(&cluster.bootstrap_servers(), TOPIC, 4);
    assert_eq!(arrived.iter().map(|m| m.payload()).collect::<Vec<_>>(), [Some(&b"hello"[..]), None, Some(b""), Some(b"x")]);
    assert_eq!(arrived.iter().map(|m| m.key()).collect::<Vec<_>>(), [Some(&b"k-1"[..]), Some(b"k-1"), Some(&[0, 255]), None]);
    let headers: Vec<_> =
        arrived[0].headers().unwrap().iter().map(|h| (h.key.to_owned(), String::from_utf8(h.value.unwrap().to_vec()).unwrap())).collect();
    let expected = [("tenant", "ä"), ("redrive-id", &sent[0].id.to_string()), ("redrive-attempt", "3")];
    assert_eq!(headers, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    sender.close(Duration::from_secs(5)).await;
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
async fn a_broker_that_is_down_is_unreachable_within_the_timeout_and_says_why() {
    let cluster = cluster();
    let sender = source(&cluster, "2s");
    cluster.broker_down(-1).unwrap();
    let start = Instant::now();
    let outcome = send_one(&sender, message(TOPIC, "x")).await;
    assert_eq!((outcome.class, outcome.code.as_ref()), (Class::Unreachable, "kafka_msg_timed_out"), "{outcome:?}");
    assert!(outcome.detail.contains("last error"), "{outcome:?}");
    assert!(start.elapsed() < Duration::from_millis(3600), "{:?}", start.elapsed());
    cluster.broker_up(-1).unwrap();
    assert_eq!(send_one(&sender, message(TOPIC, "x")).await.class, Class::Succeeded);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_port_is_unreachable_and_so_is_what_is_left_at_the_close() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let sender = build("kafka", json!({"brokers": [format!("127.0.0.1:{port}")]}), &context_with_timeout("20s"));
    let start = Instant::now();
    let (outcomes, ()) = tokio::join!(send_all(&sender, vec![message(TOPIC, "x")], Duration::from_secs(10)), async {
        tokio::task::yield_now().await;
        sender.close(Duration::from_millis(300)).await;
    });
    let outcome = outcomes.into_values().next().unwrap();
    assert_eq!(outcome.class, Class::Unreachable, "{outcome:?}");
    assert!(start.elapsed() < Duration::from_secs(3));
    let late = send_one(&sender, message(TOPIC, "x")).await;
    assert_eq!((late.class, late.code.as_ref()), (Class::Unreachable, "kafka_closed"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_close_waits_for_what_is_under_way() {
    let cluster = cluster();
    cluster.broker_round_trip_time(-1, Duration::from_millis(300)).unwrap();
    let sender = source(&cluster, "10s");
    let messages: Vec<_> = (0..100).map(|n| message(TOPIC, n.to_string())).collect();
    let (outcomes, ()) = tokio::join!(send_all(&sender, messages, Duration::from_secs(15)), async {
        tokio::task::yield_now().await;
        sender.close(Duration::from_secs(10)).await;
    });
    assert!(outcomes.values().all(|outcome| outcome.class == Class::Succeeded), "{:?}", outcomes.values().next());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topics_are_checked_before_they_are_sent() {
    let cluster = cluster();
    let sender = build("kafka", json!({"brokers": [cluster.bootstrap_servers()]}), &context());
    for topic in ["", "..", "a b", "a/b", "x\0y"] {
        let outcome = send_one(&sender, message(topic, "x")).await;
        assert_eq!((outcome.class, outcome.code.as_ref()), (Class::Permanent, "kafka_invalid_topic"), "{topic:?}");
        assert!(sender.check(Some(topic)).is_err());
    }
    let mut nowhere = message(TOPIC, "x");
    nowhere.topic = None;
    assert!(sender.check(None).is_err());
    let outcome = send_one(&sender, nowhere).await;
    assert_eq!((outcome.class, outcome.code.as_ref()), (Class::Permanent, "kafka_no_topic"));
    assert!(sender.check(Some(TOPIC)).is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_too_large_fails_for_good_and_its_neighbours_arrive() {
    let cluster = cluster();
    let sender = source(&cluster, "10s");
    let large = message(TOPIC, vec![b'x'; 2_000_000]);
    let id = large.id;
    let outcomes = send_all(&sender, vec![message(TOPIC, "a"), large, message(TOPIC, "b")], Duration::from_secs(15)).await;
    for (have, outcome) in outcomes {
        if have == id {
            assert_eq!((outcome.class, outcome.code.as_ref()), (Class::Permanent, "kafka_msg_size_too_large"));
        } else {
            assert_eq!(outcome.class, Class::Succeeded);
        }
    }
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
        // Of a batch, and of the message alone.
        cluster.request_errors(RDKafkaApiKey::Produce, &[error, error]);
        let outcome = send_one(&sender, message(TOPIC, "x")).await;
        assert_eq!((outcome.class, outcome.code.as_ref()), (class, code), "{outcome:?}");
        cluster.clear_request_errors(RDKafkaApiKey::Produce);
        // A permanent error of an idempotent producer may end it: the next send must work all the same.
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
    // A broker that lost track of an idempotent producer ends it: every later send of that producer would fail.
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
async fn a_broker_that_stands_still_ends_every_send_within_the_timeout_and_is_used_again() {
    let cluster = cluster();
    let sender = source(&cluster, "2s");
    assert_eq!(send_one(&sender, message(TOPIC, "x")).await.class, Class::Succeeded);
    // Answers come later than anyone waits.
    cluster.broker_round_trip_time(-1, Duration::from_secs(60)).unwrap();
    let start = Instant::now();
    let outcomes = send_all(&sender, (0..500).map(|n| message(TOPIC, n.to_string())).collect(), Duration::from_secs(10)).await;
    assert!(outcomes.values().all(|outcome| outcome.class == Class::Unreachable), "{:?}", outcomes.values().next());
    assert!(start.elapsed() < Duration::from_millis(3600), "{:?}", start.elapsed());
    cluster.broker_round_trip_time(-1, Duration::ZERO).unwrap();
    until("the broker is used again", Duration::from_secs(10), async || send_one(&sender, message(TOPIC, "x")).await.class == Class::Succeeded).await;
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

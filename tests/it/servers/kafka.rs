//! The Kafka source against a real Apache Kafka.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Headers as _, Message as _, OwnedMessage};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use redrive::message::Key;
use redrive::outcome::Class;
use redrive::source::{Context, Sender};
use redrive::tls::Tls;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::sends::{build, context, context_with_timeout, message, send_all, send_one};
use crate::support::service;

/// A topic of its own, deleted with the test.
pub(super) struct Topic {
    pub(super) name: String,
    partitions: i32,
}

fn admin() -> AdminClient<DefaultClientContext> {
    ClientConfig::new().set("bootstrap.servers", service("REDRIVE_TEST_KAFKA")).create().unwrap()
}

impl Topic {
    pub(super) async fn with(partitions: i32, settings: &[(&str, &str)]) -> Self {
        let name = format!("redrive-test-{}", Uuid::now_v7());
        let mut topic = NewTopic::new(&name, partitions, TopicReplication::Fixed(1));
        for (key, value) in settings {
            topic = topic.set(key, value);
        }
        let results = admin().create_topics([&topic], &AdminOptions::new().operation_timeout(Some(Duration::from_secs(20)))).await.unwrap();
        results.into_iter().next().unwrap().unwrap();
        Self { name, partitions }
    }

    async fn new() -> Self {
        Self::with(1, &[]).await
    }

    /// Reads this many messages, or fewer if no more come.
    fn read(&self, count: usize) -> Vec<OwnedMessage> {
        let consumer: BaseConsumer =
            ClientConfig::new().set("bootstrap.servers", service("REDRIVE_TEST_KAFKA")).set("group.id", "reader").create().unwrap();
        let mut list = TopicPartitionList::new();
        for partition in 0..self.partitions {
            list.add_partition_offset(&self.name, partition, Offset::Beginning).unwrap();
        }
        consumer.assign(&list).unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        let mut messages = Vec::new();
        while messages.len() < count && Instant::now() < deadline {
            if let Some(Ok(message)) = consumer.poll(Duration::from_millis(100)) {
                messages.push(message.detach());
            }
        }
        messages
    }

    pub(super) async fn remove(self) {
        let _ = admin().delete_topics(&[&self.name], &AdminOptions::new()).await;
    }
}

fn source(section: Value) -> Sender {
    source_with(section, &context())
}

fn source_with(mut section: Value, cx: &Context) -> Sender {
    if section.get("brokers").is_none() {
        section["brokers"] = json!([service("REDRIVE_TEST_KAFKA")]);
    }
    build("kafka", section, cx)
}

#[allow(clippy::unnecessary_wraps, reason = "as the option takes it")]
fn certificate(name: &str) -> Option<PathBuf> {
    Some(PathBuf::from(service("REDRIVE_TEST_CERTS")).join(name))
}

fn id_of(message: &OwnedMessage) -> String {
    let header = message.headers().unwrap().iter().find(|header| header.key == "redrive-id").unwrap();
    String::from_utf8(header.value.unwrap().to_vec()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_topic_is_refused_and_delivered_once_it_is_there() {
    let sender = source_with(json!({}), &context_with_timeout("8s"));
    let start = Instant::now();
    let outcome = send_one(&sender, message(&format!("redrive-missing-{}", Uuid::now_v7()), "x")).await;
    assert_eq!((outcome.class, outcome.code.as_ref()), (Class::Refused, "kafka_unknown_topic_or_part"), "{outcome:?}");
    assert!(start.elapsed() < Duration::from_secs(6), "{:?}", start.elapsed());
    let topic = Topic::new().await;
    assert_eq!(send_one(&sender, message(&topic.name, "x")).await.class, Class::Succeeded);
    topic.remove().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_topic_is_told_from_a_silent_broker_under_the_shortest_lease_too() {
    let mut cx = context();
    cx.lease = Duration::from_secs(2);
    let sender = source_with(json!({}), &cx);
    let topic = Topic::new().await;
    assert_eq!(send_one(&sender, message(&topic.name, "x")).await.class, Class::Succeeded);
    let outcome = send_one(&sender, message(&format!("redrive-missing-{}", Uuid::now_v7()), "x")).await;
    assert_eq!((outcome.class, outcome.code.as_ref()), (Class::Refused, "kafka_unknown_topic_or_part"), "{outcome:?}");
    topic.remove().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_pipelined_arrive_once_each_and_those_to_nowhere_are_told_apart() {
    let topic = Topic::with(6, &[]).await;
    let nowhere = format!("redrive-missing-{}", Uuid::now_v7());
    let sender = source_with(json!({}), &context_with_timeout("15s"));
    let messages: Vec<_> = (0..10_000).map(|n| message(if n % 30 == 7 { &nowhere } else { &topic.name }, n.to_string())).collect();
    let lost: HashSet<_> = messages.iter().filter(|m| m.topic.as_deref() == Some(&nowhere)).map(|m| m.id).collect();
    let outcomes = send_all(&sender, messages, Duration::from_secs(40)).await;
    for (id, outcome) in &outcomes {
        let expected = if lost.contains(id) { Class::Refused } else { Class::Succeeded };
        assert_eq!(outcome.class, expected, "{outcome:?}");
    }
    let mut arrived = HashMap::new();
    for message in topic.read(10_000 - lost.len()) {
        *arrived.entry(id_of(&message)).or_insert(0) += 1;
    }
    assert_eq!(arrived.len(), 10_000 - lost.len());
    assert!(arrived.values().all(|copies| *copies == 1));
    topic.remove().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_goes_where_every_java_producer_puts_it() {
    let topic = Topic::with(7, &[]).await;
    let sender = source(json!({"topic": topic.name}));
    // murmur2 as Kafka's own Utils.murmur2 gives it, positive, modulo 7.
    for key in ["21", "foobar", "a-little-bit-long-string", "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8"] {
        let mut message = message(&topic.name, "x");
        message.key = Some(Key::Text(key.to_owned()));
        let outcome = send_one(&sender, message).await;
        let partition = (murmur2(key.as_bytes()) & 0x7fff_ffff) % 7;
        assert!(outcome.result.as_deref().unwrap().starts_with(&format!(r#"{{"partition":{partition},"#)), "{key} {outcome:?}");
    }
    topic.remove().await;
}

/// As Kafka defines it.
fn murmur2(data: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let mut hash = 0x9747_b28c_u32 ^ u32::try_from(data.len()).unwrap();
    let mut chunks = data.chunks_exact(4);
    for chunk in &mut chunks {
        let mut word = u32::from_le_bytes(chunk.try_into().unwrap()).wrapping_mul(M);
        word ^= word >> 24;
        hash = hash.wrapping_mul(M) ^ word.wrapping_mul(M);
    }
    let rest = chunks.remainder();
    for (index, byte) in rest.iter().enumerate() {
        hash ^= u32::from(*byte) << (8 * index);
    }
    if !rest.is_empty() {
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ (hash >> 15)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_with_a_private_authority_and_a_client_certificate() {
    let topic = Topic::new().await;
    let section = json!({"brokers": [service("REDRIVE_TEST_KAFKA_SSL")], "topic": topic.name});
    let mut cx = context_with_timeout("5s");
    cx.options.tls = Some(Tls { ca: certificate("ca.pem"), cert: certificate("client.pem"), key: certificate("client.key") });
    let outcome = send_one(&source_with(section.clone(), &cx), message(&topic.name, "x")).await;
    assert_eq!(outcome.class, Class::Succeeded, "{outcome:?}");

    for tls in [
        Tls { ca: certificate("other-ca.pem"), cert: certificate("client.pem"), key: certificate("client.key") },
        Tls { ca: certificate("ca.pem"), cert: certificate("other-client.pem"), key: certificate("other-client.key") },
        Tls { ca: certificate("ca.pem"), cert: None, key: None },
    ] {
        let mut cx = context_with_timeout("2s");
        cx.options.tls = Some(tls);
        let outcome = send_one(&source_with(section.clone(), &cx), message(&topic.name, "x")).await;
        assert_eq!(outcome.class, Class::Unreachable, "{outcome:?}");
    }
    topic.remove().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sasl_with_every_mechanism_with_and_without_tls_and_the_password_from_a_file() {
    let topic = Topic::new().await;
    let user = service("REDRIVE_TEST_KAFKA_SASL_SSL_USER");
    let password = service("REDRIVE_TEST_KAFKA_SASL_SSL_PASSWORD");
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("password"), format!("{password}\n")).unwrap();
    for (variable, tls) in [("REDRIVE_TEST_KAFKA_SASL_SSL", true), ("REDRIVE_TEST_KAFKA_SASL_PLAINTEXT", false)] {
        for mechanism in ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] {
            let mut cx = context_with_timeout("6s");
            cx.folder = folder.path().to_owned();
            cx.options.tls = tls.then(|| Tls { ca: certificate("ca.pem"), ..Tls::default() });
            let sender = source_with(
                json!({"brokers": [service(variable)], "username": user, "password_file": "password", "properties": {"sasl.mechanism": mechanism}}),
                &cx,
            );
            let outcome = send_one(&sender, message(&topic.name, "x")).await;
            assert_eq!(outcome.class, Class::Succeeded, "{mechanism} {outcome:?}");
        }
    }
    let wrong = source_with(
        json!({"brokers": [service("REDRIVE_TEST_KAFKA_SASL_PLAINTEXT")], "username": user, "password": "hunter2"}),
        &context_with_timeout("2s"),
    );
    let outcome = send_one(&wrong, message(&topic.name, "x")).await;
    assert_eq!(outcome.class, Class::Unreachable, "{outcome:?}");
    assert!(outcome.detail.to_lowercase().contains("authentication") && !outcome.detail.contains("hunter2"), "{outcome:?}");
    topic.remove().await;
}

//! A topic of one test, and what arrived in it.

use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Headers, Message};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::{Broker, Copies, service, unique};

const PARTITIONS: i32 = 3;
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(crate) struct Topic {
    pub(crate) name: String,
}

fn client() -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", service("REDRIVE_TEST_KAFKA"));
    config
}

impl Topic {
    pub(crate) async fn fresh() -> Self {
        Broker::Kafka.up().await;
        let name = unique("topic");
        let admin: AdminClient<DefaultClientContext> = client().create().unwrap();
        let topic = NewTopic::new(&name, PARTITIONS, TopicReplication::Fixed(1));
        let options = AdminOptions::new().operation_timeout(Some(PATIENCE)).request_timeout(Some(PATIENCE));
        for made in admin.create_topics([&topic], &options).await.unwrap() {
            made.unwrap();
        }
        Self { name }
    }

    /// A source that sends to it, with settings that make the tests quick.
    pub(crate) fn source(&self) -> String {
        format!("{{ kind: kafka, brokers: [\"{}\"], topic: {}, {} }}", service("REDRIVE_TEST_KAFKA"), self.name, super::node::QUICK)
    }

    /// Everything in the topic: the ids and how often each came.
    pub(crate) async fn copies(&self) -> Copies {
        let name = self.name.clone();
        tokio::task::spawn_blocking(move || copies(&name)).await.unwrap()
    }

    /// Removes it.
    pub(crate) async fn delete(self) {
        let admin: AdminClient<DefaultClientContext> = client().create().unwrap();
        let _ = admin.delete_topics(&[&self.name], &AdminOptions::new().request_timeout(Some(PATIENCE))).await;
    }
}

fn copies(name: &str) -> Copies {
    let consumer: BaseConsumer = client().set("group.id", name).set("enable.auto.commit", "false").create().unwrap();
    let mut partitions = TopicPartitionList::new();
    let mut left = 0;
    let deadline = Instant::now() + PATIENCE;
    for partition in 0..PARTITIONS {
        partitions.add_partition_offset(name, partition, Offset::Beginning).unwrap();
        // A broker that has just come back may not lead the partition yet.
        let (low, high) = loop {
            match consumer.fetch_watermarks(name, partition, Duration::from_secs(5)) {
                Ok(marks) => break marks,
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
        };
        left += high - low;
    }
    consumer.assign(&partitions).unwrap();
    let mut copies = Copies::new();
    while left > 0 {
        assert!(Instant::now() < deadline, "{left} records were not read");
        match consumer.poll(Duration::from_millis(200)) {
            Some(Ok(record)) => {
                let headers = record.headers().expect("every record carries headers");
                let id = headers.iter().find(|header| header.key == "redrive-id").and_then(|header| header.value).expect("redrive-id");
                *copies.entry(String::from_utf8(id.to_vec()).unwrap()).or_default() += 1;
                left -= 1;
            }
            Some(Err(error)) => eprintln!("consumer: {error}"),
            None => {}
        }
    }
    copies
}

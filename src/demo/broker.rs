//! The demo's broker, in this process or a real one, and the consumer that reads every message back.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication, TopicResult};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::{Headers as _, Message as _};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::time::Instant;
use uuid::Uuid;

/// The number of the mock cluster's only broker.
const BROKER: i32 = 1;
const PARTITIONS: i32 = 4;
/// How long a broker may take to make or delete a topic.
const ADMIN: Duration = Duration::from_secs(10);

/// The broker.
pub(super) struct Broker {
    address: String,
    ours: Option<MockCluster<'static, DefaultProducerContext>>,
}

impl Broker {
    /// Uses the one at `address`, or starts a new one in this process.
    pub(super) fn start(address: Option<String>) -> Result<Self, KafkaError> {
        if let Some(address) = address {
            return Ok(Self { address, ours: None });
        }
        let cluster = MockCluster::new(BROKER)?;
        Ok(Self { address: cluster.bootstrap_servers(), ours: Some(cluster) })
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// Whether it runs in this process, so that it can be taken away.
    pub(super) const fn is_ours(&self) -> bool {
        self.ours.is_some()
    }

    /// Creates a topic.
    pub(super) async fn create(&self, topic: &str) -> Result<(), KafkaError> {
        if let Some(cluster) = &self.ours {
            return cluster.create_topic(topic, PARTITIONS, 1);
        }
        let admin: AdminClient<DefaultClientContext> = client(&self.address).create()?;
        let new = NewTopic::new(topic, PARTITIONS, TopicReplication::Fixed(1));
        done(admin.create_topics([&new], &options()).await?)
    }

    /// Deletes it again from a broker that stays.
    pub(super) async fn remove(&self, topic: &str) -> Result<(), KafkaError> {
        if self.is_ours() {
            return Ok(());
        }
        let admin: AdminClient<DefaultClientContext> = client(&self.address).create()?;
        done(admin.delete_topics(&[topic], &options()).await?)
    }

    /// Takes the broker away, or brings it back.
    pub(super) fn set_up(&self, up: bool) -> Result<(), KafkaError> {
        match &self.ours {
            None => Ok(()),
            Some(cluster) if up => cluster.broker_up(BROKER),
            Some(cluster) => cluster.broker_down(BROKER),
        }
    }
}

fn options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(ADMIN)).operation_timeout(Some(ADMIN))
}

/// An answered request has a result for each topic.
fn done(results: Vec<TopicResult>) -> Result<(), KafkaError> {
    results.into_iter().try_for_each(|result| result.map(drop).map_err(|(_, code)| KafkaError::AdminOp(code)))
}

fn client(address: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    // The outage is the point of the demo: that the reader notices it too needs no log line.
    config.set("bootstrap.servers", address).set("log_level", "0").set("reconnect.backoff.max.ms", "200");
    config
}

/// Reads every message of the topic, from the start, until it is dropped.
pub(super) struct Consumer {
    seen: Arc<Mutex<HashMap<Uuid, Seen>>>,
    stop: Arc<AtomicBool>,
}

/// When a message was first read, and how often.
#[derive(Clone, Copy)]
pub(super) struct Seen {
    pub(super) first: Instant,
    pub(super) times: u32,
}

impl Consumer {
    pub(super) fn start(address: &str, topic: &str) -> Result<Self, KafkaError> {
        let consumer: BaseConsumer = client(address).set("group.id", "redrive-demo").set("enable.auto.commit", "false").create()?;
        let mut partitions = TopicPartitionList::new();
        for partition in 0..PARTITIONS {
            partitions.add_partition_offset(topic, partition, Offset::Beginning)?;
        }
        consumer.assign(&partitions)?;
        let (seen, stop): (Arc<Mutex<HashMap<Uuid, Seen>>>, Arc<AtomicBool>) = Default::default();
        let (sink, stopped) = (seen.clone(), stop.clone());
        tokio::task::spawn_blocking(move || {
            while !stopped.load(Ordering::Relaxed) {
                // Errors are the outage that is being shown.
                if let Some(Ok(message)) = consumer.poll(Duration::from_millis(50))
                    && let Some(id) = id_of(&message)
                {
                    let mut seen = sink.lock().unwrap_or_else(PoisonError::into_inner);
                    seen.entry(id).or_insert(Seen { first: Instant::now(), times: 0 }).times += 1;
                }
            }
        });
        Ok(Self { seen, stop })
    }

    /// How many distinct messages were read.
    pub(super) fn distinct(&self) -> usize {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// How many were read that had been read before.
    pub(super) fn duplicates(&self) -> u32 {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).values().map(|seen| seen.times - 1).sum()
    }

    /// When a message was first read.
    pub(super) fn first(&self, id: &Uuid) -> Option<Instant> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).get(id).map(|seen| seen.first)
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn id_of(message: &rdkafka::message::BorrowedMessage<'_>) -> Option<Uuid> {
    let headers = message.headers()?;
    let id = headers.iter().find(|header| header.key == "redrive-id")?;
    Uuid::try_parse_ascii(id.value?).ok()
}

#[cfg(test)]
mod tests {
    use rdkafka::error::RDKafkaErrorCode;

    use super::*;

    #[test]
    fn a_topic_that_was_refused_is_not_made() {
        assert_eq!(done(vec![Ok("t".to_owned())]), Ok(()));
        let refused = ("t".to_owned(), RDKafkaErrorCode::PolicyViolation);
        assert_eq!(done(vec![Err(refused)]), Err(KafkaError::AdminOp(RDKafkaErrorCode::PolicyViolation)));
    }
}

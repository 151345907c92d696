//! A Kafka topic.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Message as _};
use rdkafka::metadata::MetadataPartition;
use rdkafka::producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::{ClientContext, producer::NoCustomPartitioner};

use super::super::Error;
use super::super::payload::{Payloads, Tally};
use super::super::process::{self, Server};
use super::super::screen::Phase;
use super::super::setup::Subject;
use crate::source::kafka::Config;

/// How long the broker may take over a request.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long it may take to make or delete a topic.
const ADMIN: Duration = Duration::from_secs(5);

/// A topic, and one more for producing alone.
pub(in crate::bench) struct Kafka {
    client: ClientConfig,
    topic: String,
    beside: String,
    made: bool,
    /// The broker did not answer the request for topics, and made them when they were asked for.
    asked_in_vain: AtomicBool,
}

impl Kafka {
    pub(super) async fn make(subject: &Subject, topic: &str, partitions: i32, existing: bool) -> Result<Self, Error> {
        let config: Config = serde_json::from_value(subject.section.clone()).map_err(|error| Error::Failed(error.to_string()))?;
        let mut client =
            config.client(&subject.context).map_err(|faults| Error::Usage(faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")))?;
        client.set_log_level(RDKafkaLogLevel::Emerg);
        let beside = format!("redrive-bench-alone-{}", topic.trim_start_matches("redrive-bench-"));
        let kafka = Self { client, topic: topic.to_owned(), beside, made: !existing, asked_in_vain: AtomicBool::new(false) };
        let topics: Vec<&str> = if existing { vec![&kafka.beside] } else { vec![&kafka.topic, &kafka.beside] };
        if let Err(error) = kafka.create(&topics, partitions).await {
            let _ = kafka.remove().await;
            return Err(error);
        }
        Ok(kafka)
    }

    async fn create(&self, topics: &[&str], partitions: i32) -> Result<(), Error> {
        // -1 is what the brokers have for a default.
        let new: Vec<_> = topics.iter().map(|topic| NewTopic::new(topic, partitions, TopicReplication::Fixed(-1))).collect();
        let admin: AdminClient<DefaultClientContext> = self.client.create()?;
        let results = match admin.create_topics(&new, &options()).await {
            Ok(results) => results,
            // A broker that makes topics by itself may have no request for it, and no controller to take one.
            Err(KafkaError::AdminOp(RDKafkaErrorCode::UnsupportedFeature | RDKafkaErrorCode::OperationTimedOut)) => {
                self.asked_in_vain.store(true, Ordering::Relaxed);
                Vec::new()
            }
            Err(error) => return Err(Error::Unreachable(format!("the broker makes no topic: {error}"))),
        };
        for result in results {
            match result {
                Ok(_) | Err((_, RDKafkaErrorCode::UnsupportedFeature)) => {}
                Err((topic, code)) => return Err(Error::Failed(format!("topic {topic} can't be made: {code}; --into NAME uses one that is there"))),
            }
        }
        // The brokers learn of it one after another.
        for topic in topics {
            let (client, topic) = (self.client.clone(), (*topic).to_owned());
            blocking(move || led(&client, &topic)).await?;
        }
        Ok(())
    }

    pub(super) async fn remove(&self) -> Result<(), Error> {
        let mut topics = vec![self.beside.as_str()];
        if self.made {
            topics.push(&self.topic);
        }
        let admin: AdminClient<DefaultClientContext> = self.client.create()?;
        let gone = [RDKafkaErrorCode::UnsupportedFeature, RDKafkaErrorCode::UnknownTopicOrPartition];
        match admin.delete_topics(&topics, &options()).await {
            Ok(results) => {
                for (topic, code) in results.into_iter().filter_map(Result::err) {
                    if !gone.contains(&code) {
                        return Err(Error::Failed(format!("topic {topic} can't be deleted: {code}; delete it yourself")));
                    }
                }
                Ok(())
            }
            Err(KafkaError::AdminOp(code)) if gone.contains(&code) || self.asked_in_vain.load(Ordering::Relaxed) => Ok(()),
            Err(error) => Err(Error::Failed(format!("the topics {} can't be deleted: {error}; delete them yourself", topics.join(", ")))),
        }
    }

    pub(super) fn beside(&self) -> &str {
        &self.beside
    }

    pub(super) fn server(&self) -> Option<Server> {
        let (host, port) = self.client.get("bootstrap.servers")?.split(',').next()?.rsplit_once(':')?;
        if process::is_local(host) { Server::listening(port.parse().ok()?) } else { None }
    }

    /// Reads the topic from its beginning to what is now its end.
    pub(super) async fn count(&self, mut tally: Tally) -> Result<Tally, Error> {
        let mut client = self.client.clone();
        client.set("group.id", "redrive-bench").set("enable.auto.commit", "false").set("enable.partition.eof", "false");
        let topic = self.topic.clone();
        blocking(move || {
            let consumer: BaseConsumer = client.create()?;
            let (mut list, mut left) = (TopicPartitionList::new(), 0);
            for partition in partitions(&consumer, &topic)? {
                let (low, high) = consumer.fetch_watermarks(&topic, partition, PATIENCE)?;
                list.add_partition_offset(&topic, partition, Offset::Offset(low))?;
                left += high - low;
            }
            consumer.assign(&list)?;
            let mut silent_since = Instant::now();
            while left > 0 && silent_since.elapsed() < PATIENCE {
                if let Some(message) = consumer.poll(Duration::from_millis(200)) {
                    tally.see(message?.payload().unwrap_or_default());
                    (left, silent_since) = (left - 1, Instant::now());
                }
            }
            Ok(tally)
        })
        .await
    }

    /// Hands messages to the client library as fast as it takes them, and waits for all reports.
    pub(super) async fn alone(&self, payloads: &Payloads, messages: u64, phase: &Phase) -> Result<f64, Error> {
        let (client, topic, payloads) = (self.client.clone(), self.beside.clone(), payloads.clone());
        let reports = Arc::new(AtomicU64::new(0));
        let seen = reports.clone();
        let work = blocking(move || {
            let producer: ThreadedProducer<Reports> =
                client.create_with_context(Reports { delivered: reports.clone(), failed: AtomicU64::new(0) })?;
            // The first message pays for the connection.
            producer.send(BaseRecord::<(), [u8], ()>::to(&topic).payload(&payloads.of(0))).map_err(|(error, _)| error)?;
            producer.flush(PATIENCE)?;
            let begun = Instant::now();
            let mut payload = payloads.of(0);
            for number in 0..messages {
                super::super::payload::write_number(&mut payload, super::super::payload::AT, number);
                let mut record = BaseRecord::<(), [u8], ()>::to(&topic).payload(&payload);
                while let Err((error, back)) = producer.send(record) {
                    if error.rdkafka_error_code() != Some(RDKafkaErrorCode::QueueFull) {
                        return Err(error);
                    }
                    std::thread::sleep(Duration::from_micros(200));
                    record = back;
                }
            }
            producer.flush(PATIENCE)?;
            let took = begun.elapsed();
            if producer.context().failed.load(Ordering::Relaxed) > 0 {
                return Err(KafkaError::MessageProduction(RDKafkaErrorCode::Fail));
            }
            #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
            Ok(messages as f64 / took.as_secs_f64())
        });
        let mut ticks = tokio::time::interval(Duration::from_millis(200));
        tokio::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return done,
                _ = ticks.tick() => phase.set(seen.load(Ordering::Relaxed)),
            }
        }
    }
}

/// Counts delivery reports.
struct Reports {
    delivered: Arc<AtomicU64>,
    failed: AtomicU64,
}

impl ClientContext for Reports {}

impl ProducerContext<NoCustomPartitioner> for Reports {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        match result {
            Ok(_) => self.delivered.fetch_add(1, Ordering::Relaxed),
            Err(_) => self.failed.fetch_add(1, Ordering::Relaxed),
        };
    }
}

fn options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(ADMIN)).operation_timeout(Some(ADMIN))
}

fn partitions(consumer: &BaseConsumer, topic: &str) -> Result<Vec<i32>, KafkaError> {
    let metadata = consumer.fetch_metadata(Some(topic), PATIENCE)?;
    let found = metadata.topics().iter().filter(|found| found.name() == topic && found.error().is_none());
    Ok(found.flat_map(|found| found.partitions().iter().filter(|partition| partition.leader() >= 0).map(MetadataPartition::id)).collect())
}

/// Waits until a topic can be produced to.
fn led(client: &ClientConfig, topic: &str) -> Result<(), KafkaError> {
    // A consumer may ask for a topic that the broker then makes by itself.
    let consumer: BaseConsumer = client.clone().set("group.id", "redrive-bench").set("allow.auto.create.topics", "true").create()?;
    let begun = Instant::now();
    while partitions(&consumer, topic)?.is_empty() {
        if begun.elapsed() > PATIENCE {
            return Err(KafkaError::MetadataFetch(RDKafkaErrorCode::UnknownTopicOrPartition));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, KafkaError> + Send + 'static) -> Result<T, Error> {
    Ok(tokio::task::spawn_blocking(work).await.map_err(|error| Error::Failed(error.to_string()))??)
}

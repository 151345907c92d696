//! A Kafka topic.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Message as _};
use rdkafka::producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::{ClientContext, producer::NoCustomPartitioner};

use super::super::Error;
use super::super::payload::{Payloads, Tally};
use super::super::process::{self, Server};
use super::super::screen::Phase;
use super::super::setup::Subject;
use crate::fault;
use crate::source::kafka::{Config, is_away};

/// The time limit of a request to the broker, and of a topic that delivers nothing although it was not read to its end.
const PATIENCE: Duration = Duration::from_secs(30);
/// The time limit of the first request, which shows whether the broker is there at all.
const REACH: Duration = Duration::from_secs(10);
/// The names of a broker's process: Kafka in a virtual machine or compiled, and others that speak its protocol.
const SERVERS: [&str; 3] = ["java", "kafka.Kafka", "redpanda"];
/// Nothing is ever committed for this group.
const GROUP: &str = "redrive-bench";
/// The time limit for making or deleting a topic.
const ADMIN: Duration = Duration::from_secs(5);

/// A topic, and another one for producing alone.
pub(in crate::bench) struct Kafka {
    client: ClientConfig,
    topic: String,
    beside: String,
    made: bool,
    /// Where the partitions of a pre-existing topic ended before the run.
    starts: HashMap<i32, i64>,
    /// The broker did not answer the request for topics, and made them when they were first used.
    asked_in_vain: AtomicBool,
}

impl Kafka {
    pub(super) async fn make(subject: &Subject, topic: &str, partitions: i32, existing: bool) -> Result<Self, Error> {
        let config: Config = subject.config()?;
        let mut client = config.client(&subject.context).map_err(|faults| Error::Usage(fault::line(faults)))?;
        client.set_log_level(RDKafkaLogLevel::Emerg);
        let beside = format!("redrive-bench-alone-{}", topic.trim_start_matches("redrive-bench-"));
        let starts = {
            let (client, topic) = (client.clone(), topic.to_owned());
            blocking(move || ends(&client, &topic)).await?
        };
        if existing && starts.is_empty() {
            return Err(Error::Usage(format!("--into: there is no topic {topic}")));
        }
        let kafka = Self { client, topic: topic.to_owned(), beside, made: !existing, starts, asked_in_vain: AtomicBool::new(false) };
        let topics: Vec<&str> = if existing { vec![&kafka.beside] } else { vec![&kafka.topic, &kafka.beside] };
        if let Err(error) = kafka.create(&topics, partitions).await {
            let _ = kafka.remove().await;
            return Err(error);
        }
        Ok(kafka)
    }

    async fn create(&self, topics: &[&str], partitions: i32) -> Result<(), Error> {
        // -1 means the brokers' default.
        let new: Vec<_> = topics.iter().map(|topic| NewTopic::new(topic, partitions, TopicReplication::Fixed(-1))).collect();
        let admin: AdminClient<DefaultClientContext> = self.client.create()?;
        let results = match admin.create_topics(&new, &options()).await {
            Ok(results) => results,
            // A broker that makes topics by itself may not support the request, and may have no controller to handle it.
            Err(KafkaError::AdminOp(RDKafkaErrorCode::UnsupportedFeature | RDKafkaErrorCode::OperationTimedOut)) => {
                self.asked_in_vain.store(true, Ordering::Relaxed);
                Vec::new()
            }
            Err(error) => return Err(error.into()),
        };
        for result in results {
            match result {
                Ok(_) | Err((_, RDKafkaErrorCode::UnsupportedFeature)) => {}
                Err((topic, code)) => return Err(Error::Failed(format!("topic {topic} can't be made: {code}; --into NAME uses an existing one"))),
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
        if process::is_local(host) { Server::listening(port.parse().ok()?, &SERVERS) } else { None }
    }

    /// Reads the topic from its beginning, or from where it ended before the run, to its present end.
    pub(super) async fn count(&self, mut tally: Tally) -> Result<Tally, Error> {
        let mut client = self.client.clone();
        client.set("group.id", GROUP).set("enable.auto.commit", "false").set("enable.partition.eof", "true");
        // Transactions belong to others: an open one must not hide what comes after it.
        client.set("isolation.level", "read_uncommitted");
        let (topic, starts) = (self.topic.clone(), self.starts.clone());
        blocking(move || {
            let consumer: BaseConsumer = client.create()?;
            // The ends of the partitions that are still to be read.
            let (mut list, mut left) = (TopicPartitionList::new(), HashMap::new());
            let found = partitions(&consumer, &topic, PATIENCE)?;
            if found.is_empty() {
                return Err(Error::Failed(format!("topic {topic} no longer exists")));
            }
            // A partition without a leader can't be asked, which is an error: nobody knows what it contains.
            for (partition, _) in found {
                let (low, high) = consumer.fetch_watermarks(&topic, partition, PATIENCE)?;
                let first = starts.get(&partition).map_or(low, |start| low.max(*start));
                if first < high {
                    list.add_partition_offset(&topic, partition, Offset::Offset(first))?;
                    left.insert(partition, high);
                }
            }
            consumer.assign(&list)?;
            let mut silent_since = Instant::now();
            while !left.is_empty() {
                match consumer.poll(Duration::from_millis(200)) {
                    Some(Ok(message)) => {
                        tally.see(message.payload().unwrap_or_default());
                        if left.get(&message.partition()).is_some_and(|end| message.offset() + 1 >= *end) {
                            left.remove(&message.partition());
                        }
                        silent_since = Instant::now();
                    }
                    // The last offsets may be transaction markers, which are not messages.
                    Some(Err(KafkaError::PartitionEOF(partition))) => {
                        left.remove(&partition);
                    }
                    // The client keeps trying.
                    Some(Err(error)) if !is_away(&error) => return Err(error.into()),
                    Some(Err(_)) | None => {}
                }
                if silent_since.elapsed() > PATIENCE {
                    let (partitions, seconds) = (left.len(), PATIENCE.as_secs());
                    return Err(Error::Failed(format!(
                        "{partitions} partitions of topic {topic} have more messages but delivered nothing for {seconds} s"
                    )));
                }
            }
            Ok(tally)
        })
        .await
    }

    /// Hands messages to the client library as fast as it accepts them, and waits for all reports.
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
                        return Err(error.into());
                    }
                    std::thread::sleep(Duration::from_micros(200));
                    record = back;
                }
            }
            producer.flush(PATIENCE)?;
            let took = begun.elapsed();
            if producer.context().failed.load(Ordering::Relaxed) > 0 {
                return Err(KafkaError::MessageProduction(RDKafkaErrorCode::Fail).into());
            }
            #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
            Ok(messages as f64 / took.as_secs_f64())
        });
        phase.follow(work, || seen.load(Ordering::Relaxed)).await
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

/// The partitions of a topic, each with whether it has a leader; none if the topic does not exist.
fn partitions(consumer: &BaseConsumer, topic: &str, within: Duration) -> Result<Vec<(i32, bool)>, KafkaError> {
    let metadata = consumer.fetch_metadata(Some(topic), within)?;
    let found = metadata.topics().iter().filter(|found| found.name() == topic && found.error().is_none());
    Ok(found.flat_map(|found| found.partitions().iter().map(|partition| (partition.id(), partition.leader() >= 0))).collect())
}

/// Where the partitions of a topic end now; none if the topic does not exist.
fn ends(client: &ClientConfig, topic: &str) -> Result<HashMap<i32, i64>, Error> {
    let consumer: BaseConsumer = client.clone().set("group.id", GROUP).set("isolation.level", "read_uncommitted").create()?;
    let mut ends = HashMap::new();
    for (partition, _) in partitions(&consumer, topic, REACH)? {
        ends.insert(partition, consumer.fetch_watermarks(topic, partition, PATIENCE)?.1);
    }
    Ok(ends)
}

/// Waits until a topic can be produced to.
fn led(client: &ClientConfig, topic: &str) -> Result<(), Error> {
    // A consumer may ask for a topic that the broker then makes by itself.
    let consumer: BaseConsumer = client.clone().set("group.id", GROUP).set("allow.auto.create.topics", "true").create()?;
    let begun = Instant::now();
    loop {
        let found = partitions(&consumer, topic, PATIENCE)?;
        if !found.is_empty() && found.iter().all(|(_, led)| *led) {
            return Ok(());
        }
        if begun.elapsed() > PATIENCE {
            return Err(KafkaError::MetadataFetch(RDKafkaErrorCode::UnknownTopicOrPartition).into());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.map_err(|error| Error::Failed(error.to_string()))?
}

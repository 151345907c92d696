//! `kind: kafka`: publishes to Kafka with librdkafka's idempotent producer.
//!
//! A message is handed to the client, which copies it, batches it with others and reports later; nothing waits for a single message. The client is
//! made when the source is built, so that a faulty setting shows at start, and connects on its own, so that no broker need be up.

mod ages;
mod apart;
mod complaints;
mod errors;
mod producer;
mod properties;
mod settings;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use rdkafka::ClientConfig;
use schemars::JsonSchema;
use serde::Deserialize;

use self::apart::Apart;
use self::complaints::Complaints;
pub(crate) use self::errors::is_away;
use self::producer::{Broken, Events, Producer, Refusal, Ticket};
pub use self::properties::Property;
use super::codes::Code;
use super::{Context, Delivery, Pipeline, Sender};
use crate::fault::Fault;
use crate::message::Message;
use crate::outcome::Outcome;
use crate::units::Secret;

/// The minimum time between replacements of a producer that failed for good; one with a late message has lasted for most of a timeout anyway.
const REBUILD: Duration = Duration::from_secs(1);
/// After this many messages handed over in one go, other tasks of the runtime get their turn.
const TURN: usize = 256;

/// `kind: kafka`: publishes to Kafka with librdkafka's idempotent producer.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The bootstrap brokers, each `host:port`; the client finds the others.
    pub brokers: Vec<String>,
    /// The topic of messages that don't name one.
    pub topic: Option<String>,
    /// Any librdkafka property, except those that redrive's guarantees depend on.
    pub properties: BTreeMap<String, Property>,
    /// The SASL user; the mechanism is PLAIN unless `sasl.mechanism` in `properties` says otherwise.
    pub username: Option<String>,
    /// The SASL password.
    pub password: Option<Secret>,
    /// A file that holds the SASL password instead.
    pub password_file: Option<PathBuf>,
}

impl super::Config for Config {
    fn build(self, cx: &Context) -> Result<Sender, Vec<Fault>> {
        let mut faults = Vec::new();
        if let Some(fault) = self.topic.as_deref().and_then(topic_fault) {
            faults.push(Fault::new("topic", fault));
        }
        let settings = settings::settings(&self, cx).map_err(|more| faults.extend(more)).ok();
        let Some(settings) = settings.filter(|_| faults.is_empty()) else { return Err(faults) };
        let complaints = Arc::new(Complaints::default());
        let apart = Arc::new(Apart::new(cx.name.clone(), settings.client.clone(), settings.timeout, complaints.clone()));
        let events = Events::new(cx.name.clone(), settings.timeout, complaints.clone(), Some(apart.clone()));
        let producer = Producer::start(&settings.client, events).map_err(|error| vec![Fault::new("properties", error)])?;
        Ok(Sender::pipelined(Kafka {
            source: cx.name.clone(),
            topic: self.topic,
            settings: settings.client,
            timeout: settings.timeout,
            complaints,
            apart,
            producer: RwLock::new(Some(producer)),
            rebuilt: tokio::sync::Mutex::new(None),
        }))
    }

    fn codes() -> Option<Vec<Code>> {
        Some(errors::codes())
    }

    fn uses_tls() -> bool {
        true
    }
}

impl Config {
    /// The settings of the client library, for code that produces or consumes beside the source.
    pub(crate) fn client(&self, cx: &Context) -> Result<ClientConfig, Vec<Fault>> {
        Ok(settings::settings(self, cx)?.client)
    }
}

/// What is wrong with the name of a topic. The client and its mock cluster accept any; only a broker would complain, and late.
fn topic_fault(topic: &str) -> Option<String> {
    if topic.is_empty() || topic.len() > 249 {
        return Some(format!("a topic must have 1 to 249 characters, not {}", topic.len()));
    }
    if topic == "." || topic == ".." {
        return Some("`.` and `..` are not topics".to_owned());
    }
    (!topic.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')))
        .then(|| "a topic may contain only letters, digits, `.`, `_` and `-`".to_owned())
}

struct Kafka {
    source: Arc<str>,
    topic: Option<String>,
    settings: ClientConfig,
    timeout: Duration,
    complaints: Arc<Complaints>,
    apart: Arc<Apart>,
    /// `None` once the source is closed.
    producer: RwLock<Option<Arc<Producer>>>,
    rebuilt: tokio::sync::Mutex<Option<Instant>>,
}

impl Kafka {
    fn current(&self) -> Option<Arc<Producer>> {
        self.producer.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn replace(&self, with: Option<Arc<Producer>>) -> Option<Arc<Producer>> {
        std::mem::replace(&mut *self.producer.write().unwrap_or_else(PoisonError::into_inner), with)
    }

    /// The producer to use, a new one if the last one broke.
    async fn producer(&self) -> Result<Arc<Producer>, Outcome> {
        let closed = || Outcome::unreachable("kafka_closed", "the source is being closed");
        let producer = self.current().ok_or_else(closed)?;
        if producer.broken().is_none() {
            return Ok(producer);
        }
        let mut rebuilt = self.rebuilt.lock().await;
        let producer = self.current().ok_or_else(closed)?;
        let Some(broken) = producer.broken() else { return Ok(producer) };
        if broken == Broken::Fatal && rebuilt.is_some_and(|when| when.elapsed() < REBUILD) {
            return Err(Outcome::unreachable("kafka_fatal", "the producer failed and is replaced in a second"));
        }
        *rebuilt = Some(Instant::now());
        let events = Events::new(self.source.clone(), self.timeout, self.complaints.clone(), Some(self.apart.clone()));
        let settings = self.settings.clone();
        let fresh = match tokio::task::spawn_blocking(move || Producer::start(&settings, events)).await {
            Ok(Ok(fresh)) => fresh,
            Ok(Err(error)) => return Err(Outcome::unreachable("kafka_client", error)),
            Err(error) => return Err(Outcome::unreachable("kafka_client", error)),
        };
        match broken {
            Broken::Fatal => {
                tracing::warn!(source.name = %self.source, source.kind = "kafka", "the producer failed for good and was replaced");
            }
            Broken::Late => {
                tracing::debug!(source.name = %self.source, source.kind = "kafka", "a message was not acknowledged in time: the producer is replaced");
            }
        }
        producer.retire();
        self.replace(Some(fresh.clone()));
        Ok(fresh)
    }

    fn topic<'a>(&'a self, message: &'a Message) -> Result<&'a str, Outcome> {
        let Some(topic) = message.topic.as_deref() else {
            // The source's own topic was checked when it was built.
            return self.topic.as_deref().ok_or_else(|| Outcome::unsendable("kafka_no_topic", "neither the message nor the source has a topic"));
        };
        topic_fault(topic).map_or(Ok(topic), |fault| Err(Outcome::unsendable("kafka_invalid_topic", fault)))
    }
}

#[async_trait]
impl Pipeline for Kafka {
    async fn send(&self, batch: Vec<Delivery>) {
        let deadline = Instant::now() + self.timeout;
        let producer = match self.producer().await {
            Ok(producer) => producer,
            Err(outcome) => return batch.into_iter().for_each(|delivery| delivery.finish(outcome.clone())),
        };
        for (index, delivery) in batch.into_iter().enumerate() {
            if index % TURN == TURN - 1 {
                tokio::task::yield_now().await;
            }
            let (message, receipt) = delivery.split();
            let topic = match self.topic(&message) {
                Ok(topic) => topic,
                Err(outcome) => {
                    receipt.finish(outcome);
                    continue;
                }
            };
            let mut ticket = Box::new(Ticket::new(receipt, message.began_at));
            while let Err(refusal) = producer.push(topic, &message, ticket) {
                match refusal {
                    Refusal::Failed(back, outcome) => {
                        back.finish(outcome);
                        break;
                    }
                    Refusal::Full(back) if producer.room(deadline).await => ticket = back,
                    Refusal::Full(back) => {
                        back.finish(Outcome::unreachable("kafka_queue_full", "the client's queue stayed full for as long as a message may take"));
                        break;
                    }
                }
            }
        }
    }

    fn check(&self, topic: Option<&str>) -> Result<(), String> {
        match topic {
            Some(topic) => topic_fault(topic).map_or(Ok(()), Err),
            None if self.topic.is_some() => Ok(()),
            None => Err("the source has no topic: the message must name one".to_owned()),
        }
    }

    /// The partition and the offset.
    fn keeps_result(&self) -> bool {
        true
    }

    async fn close(&self, within: Duration) {
        let Some(producer) = self.replace(None) else { return };
        producer.retire();
        let (apart, deadline) = (self.apart.clone(), Instant::now() + within);
        // Flushing blocks the thread. Messages that the first client gives back may go to the second.
        let drain = move || {
            producer.drain(within);
            apart.drain(deadline.saturating_duration_since(Instant::now()));
        };
        let _ = tokio::task::spawn_blocking(drain).await;
    }
}

impl Drop for Kafka {
    fn drop(&mut self) {
        if let Some(producer) = self.replace(None) {
            producer.retire();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_topic_is_checked_as_a_broker_would() {
        for topic in ["orders", "a", "A.b_c-9", "...", &"x".repeat(249)] {
            assert_eq!(topic_fault(topic), None, "{topic}");
        }
        for topic in ["", ".", "..", "a b", "a/b", "ä", "a\0", "a\n", &"x".repeat(250)] {
            assert!(topic_fault(topic).is_some(), "{topic:?}");
        }
    }
}

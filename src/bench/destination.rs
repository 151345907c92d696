//! The destination: a topic or queue of the benchmark's own, and the consumer that counts what arrived.

mod amqp;
mod kafka;

use super::Error;
use super::payload::{Payloads, Tally};
use super::process::Server;
use super::screen::Phase;
use super::setup::Subject;

/// The minimum and maximum number of messages for measuring how fast producing alone is.
const ALONE: std::ops::RangeInclusive<u64> = 1000..=500_000;

/// Where the benchmark's messages go.
pub(super) enum Destination {
    Kafka(kafka::Kafka),
    Amqp(amqp::Amqp),
    /// Any other kind: nothing is made and nothing is counted.
    Other,
}

impl Destination {
    /// Makes the topic or queue; with `existing`, uses one that is already there and leaves it in place.
    pub(super) async fn make(subject: &Subject, name: &str, partitions: u16, existing: bool) -> Result<Self, Error> {
        Ok(match subject.kind.as_str() {
            "kafka" => Self::Kafka(kafka::Kafka::make(subject, name, i32::from(partitions), existing).await?),
            "amqp" => Self::Amqp(amqp::Amqp::make(subject, name, existing).await?),
            _ => Self::Other,
        })
    }

    /// Removes what was made.
    pub(super) async fn remove(&self) -> Result<(), Error> {
        match self {
            Self::Kafka(kafka) => kafka.remove().await,
            Self::Amqp(amqp) => amqp.remove().await,
            Self::Other => Ok(()),
        }
    }

    /// The broker's process, if it runs on this machine and can be seen.
    pub(super) fn server(&self) -> Option<Server> {
        match self {
            Self::Kafka(kafka) => kafka.server(),
            Self::Amqp(amqp) => amqp.server(),
            Self::Other => None,
        }
    }

    /// A Kafka topic that is not counted, for the other measurements.
    pub(super) fn beside(&self) -> Option<&str> {
        match self {
            Self::Kafka(kafka) => Some(kafka.beside()),
            Self::Amqp(_) | Self::Other => None,
        }
    }

    /// Counts what arrived; returns when nothing more is there. `None` if it can't be counted.
    pub(super) async fn count(&self, payloads: &Payloads, sent: u64) -> Result<Option<Tally>, Error> {
        let tally = Tally::new(payloads.clone(), sent);
        match self {
            Self::Kafka(kafka) => kafka.count(tally).await.map(Some),
            Self::Amqp(amqp) => amqp.count(tally).await,
            Self::Other => Ok(None),
        }
    }

    /// How many messages a second the client library delivers with nothing around it. `None` if that can't be measured for this kind.
    pub(super) async fn alone(&self, payloads: &Payloads, messages: u64, phase: &Phase) -> Result<Option<f64>, Error> {
        let messages = messages.clamp(*ALONE.start(), *ALONE.end());
        match self {
            Self::Kafka(kafka) => kafka.alone(payloads, messages, phase).await.map(Some),
            Self::Amqp(amqp) => amqp.alone(payloads, messages, phase).await.map(Some),
            Self::Other => Ok(None),
        }
    }
}

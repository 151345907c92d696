//! Sends again, each on its own, the messages of a batch that a broker refused.
//!
//! A broker takes a batch as a whole or not at all: one unwanted record, or the total size where a topic's limit is lower than the client thinks,
//! costs every message in it. Nothing of such a batch was appended, so nothing is sent twice, and each message then gets an outcome of its own.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::message::BorrowedMessage;

use super::complaints::Complaints;
use super::producer::{Events, Producer, Refusal, Ticket};
use crate::outcome::Outcome;

/// A client that sends messages one at a time, made when it is needed.
pub(super) struct Apart {
    source: Arc<str>,
    settings: ClientConfig,
    timeout: Duration,
    complaints: Arc<Complaints>,
    producer: Mutex<Option<Arc<Producer>>>,
}

impl Apart {
    /// Has the settings of the client whose batches were refused.
    pub(super) fn new(source: Arc<str>, mut settings: ClientConfig, timeout: Duration, complaints: Arc<Complaints>) -> Self {
        settings.set("batch.num.messages", "1");
        Self { source, settings, timeout, complaints, producer: Mutex::default() }
    }

    /// Sends a message again, within the time of its attempt, and finishes it.
    pub(super) fn again(&self, message: &BorrowedMessage<'_>, ticket: Box<Ticket>) {
        let producer = match self.producer() {
            Ok(producer) => producer,
            Err(error) => return ticket.finish(Outcome::unreachable("kafka_client", error)),
        };
        match producer.push_again(message, ticket) {
            Ok(()) => {}
            Err(Refusal::Failed(ticket, outcome)) => ticket.finish(outcome),
            Err(Refusal::Full(ticket)) => ticket.finish(Outcome::unreachable("kafka_queue_full", "the client's queue was full")),
        }
    }

    fn producer(&self) -> Result<Arc<Producer>, String> {
        let mut current = self.producer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(producer) = current.as_ref().filter(|producer| producer.broken().is_none()) {
            return Ok(producer.clone());
        }
        let events = Events::new(self.source.clone(), self.timeout, self.complaints.clone(), None);
        let fresh = Producer::start(&self.settings, events)?;
        if let Some(broken) = current.replace(fresh.clone()) {
            broken.retire();
        }
        Ok(fresh)
    }

    /// Waits until everything was delivered or given up, but at most for `within`. Blocks.
    pub(super) fn drain(&self, within: Duration) {
        let producer = self.producer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(producer) = producer {
            producer.retire();
            producer.drain(within);
        }
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        if let Some(producer) = self.producer.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            producer.retire();
        }
    }
}

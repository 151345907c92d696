//! What a broker refused together with others, once more, each message alone.
//!
//! A broker takes a batch whole or not at all: one record that it does not want, or the size of all of them where a topic takes less than the
//! client thinks, costs every message in it. Nothing of such a batch was appended, so nothing goes out twice, and what a message then comes to
//! is its own.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::message::BorrowedMessage;

use super::complaints::Complaints;
use super::producer::{Events, Producer, Refusal, Ticket};
use crate::outcome::Outcome;

/// A client that sends one message at a time, made when it is needed.
pub(super) struct Apart {
    source: Arc<str>,
    settings: ClientConfig,
    timeout: Duration,
    complaints: Arc<Complaints>,
    producer: Mutex<Option<Arc<Producer>>>,
}

impl Apart {
    /// With the settings of the client whose batches were refused.
    pub(super) fn new(source: Arc<str>, mut settings: ClientConfig, timeout: Duration, complaints: Arc<Complaints>) -> Self {
        settings.set("batch.num.messages", "1");
        Self { source, settings, timeout, complaints, producer: Mutex::default() }
    }

    /// Sends a message again, within the time that its attempt has, and finishes it.
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

    /// Waits until everything was delivered or given up, for `within` at most. Blocks.
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

//! The client library's producer, its thread, and its events.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedHeaders, BorrowedMessage, Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer as _, ProducerContext, PurgeConfig};
use rdkafka::types::RDKafkaErrorCode as Code;
use rdkafka::{ClientConfig, ClientContext, Message as _};
use tokio::sync::Notify;
use uuid::Uuid;

use super::ages::{Ages, Slice};
use super::apart::Apart;
use super::complaints::Complaints;
use super::errors;
use crate::message::{Key, Message};
use crate::outcome::{Outcome, cut};
use crate::source::{Receipt, is_own_header};

/// How often the thread checks whether it should end, and whether messages have arrived; events wake it at once.
const POLL: Duration = Duration::from_secs(1);
/// A wait for room in the client's queue checks again after this even if nothing woke it.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// A receipt on its way through the client library, which requires it to be `Sync`. The lock is never contended.
pub(super) struct Ticket {
    receipt: Mutex<Receipt>,
    /// The record's timestamp, in milliseconds. A broker refuses what seems to be from another time, and this machine's clock may be wrong.
    timestamp: Option<i64>,
    /// When it was first handed to a client.
    began: Option<Instant>,
    /// The slice of that time in the client's ages.
    slice: Option<Slice>,
}

impl Ticket {
    /// For an attempt that began at this time, on the database's clock.
    pub(super) fn new(receipt: Receipt, began_at: Option<DateTime<Utc>>) -> Self {
        Self { receipt: Mutex::new(receipt), timestamp: began_at.map(|at| at.timestamp_millis()), began: None, slice: None }
    }

    /// Reports the outcome of the ticket's message.
    pub(super) fn finish(self, outcome: Outcome) {
        self.receipt.into_inner().unwrap_or_else(PoisonError::into_inner).finish(outcome);
    }
}

/// Receives the client library's events.
pub(super) struct Events {
    source: Arc<str>,
    /// The client reported that it can't be used any more.
    fatal: AtomicBool,
    /// A message was not answered in time.
    late: AtomicBool,
    ages: Ages,
    waiting: AtomicBool,
    room: Notify,
    complaints: Arc<Complaints>,
    /// Takes the messages of a refused batch; `None` for a client that already sends each on its own.
    apart: Option<Arc<Apart>>,
}

impl Events {
    /// For a producer whose messages may take `timeout`.
    pub(super) fn new(source: Arc<str>, timeout: Duration, complaints: Arc<Complaints>, apart: Option<Arc<Apart>>) -> Self {
        let (fatal, late, waiting) = (AtomicBool::new(false), AtomicBool::new(false), AtomicBool::new(false));
        Self { source, fatal, late, ages: Ages::new(timeout), waiting, room: Notify::new(), complaints, apart }
    }

    /// Reports the outcome of a message, unless it has to be sent alone first.
    fn ended(&self, result: &DeliveryResult<'_>, ticket: Box<Ticket>) {
        let (error, message) = match result {
            Ok(message) => {
                let result = format!(r#"{{"partition":{},"offset":{}}}"#, message.partition(), message.offset());
                return ticket.finish(Outcome::succeeded().with_result(result));
            }
            Err((error, message)) => (error.rdkafka_error_code().unwrap_or(Code::Fail), message),
        };
        match &self.apart {
            Some(apart) if errors::is_of_a_batch(error) => {
                self.warn(Some(&errors::classify(error).0), "the broker refused a batch: each of its messages is sent again on its own");
                apart.again(message, ticket);
            }
            _ => ticket.finish(self.failed(error, message.topic())),
        }
    }

    fn failed(&self, code: Code, topic: &str) -> Outcome {
        let late = matches!(code, Code::PurgeQueue | Code::PurgeInflight) && self.late.load(Ordering::Acquire);
        errors::outcome(if late { Code::MessageTimedOut } else { code }, topic, self.complaints.last(Instant::now()).as_deref())
    }

    fn warn(&self, code: Option<&str>, reason: &str) {
        if let Some(held_back) = self.complaints.admit(Instant::now()) {
            tracing::warn!(source.name = %self.source, source.kind = "kafka", error.code = code, error.detail = reason, lines.held_back = held_back, "the Kafka client reports a problem");
        }
    }
}

impl ClientContext for Events {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        match level {
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical | RDKafkaLogLevel::Error | RDKafkaLogLevel::Warning => {
                self.warn(None, cut(message, 500));
            }
            RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info | RDKafkaLogLevel::Debug => {
                tracing::debug!(source.name = %self.source, source.kind = "kafka", client.facility = facility, client.line = message, "the Kafka client's log");
            }
        }
    }

    fn stats_raw(&self, _: &[u8]) {}

    fn error(&self, error: KafkaError, reason: &str) {
        let code = error.rdkafka_error_code();
        if code == Some(Code::Fatal) {
            self.fatal.store(true, Ordering::Release);
        }
        // "All brokers are down" says less than the error before it, which named the cause.
        if code != Some(Code::AllBrokersDown) {
            self.complaints.note(Instant::now(), cut(reason, 400));
        }
        self.warn(code.map(|code| errors::classify(code).0).as_deref(), cut(reason, 500));
    }
}

impl ProducerContext for Events {
    type DeliveryOpaque = Box<Ticket>;

    fn delivery(&self, result: &DeliveryResult<'_>, mut ticket: Box<Ticket>) {
        if let Some(slice) = ticket.slice.take() {
            self.ages.end(slice);
        }
        self.ended(result, ticket);
        if self.waiting.load(Ordering::Relaxed) && self.waiting.swap(false, Ordering::AcqRel) {
            self.room.notify_waiters();
        }
    }
}

/// Why a producer can't be used any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Broken {
    /// The client reported a fatal error.
    Fatal,
    /// A message was not answered in time; everything that the producer still has is given up.
    Late,
}

/// Why the client did not accept a message.
pub(super) enum Refusal {
    /// Its queue is full: try again when there is [room](Producer::room).
    Full(Box<Ticket>),
    /// It never will.
    Failed(Box<Ticket>, Outcome),
}

/// A producer, and the thread that serves its events.
pub(super) struct Producer {
    inner: BaseProducer<Events>,
    stop: AtomicBool,
}

impl Producer {
    /// Makes the client, which connects on its own, and starts its thread.
    pub(super) fn start(settings: &ClientConfig, events: Events) -> Result<Arc<Self>, String> {
        let name = format!("kafka-{}", cut(&events.source, 9));
        let inner = BaseProducer::from_config_and_context(settings, events).map_err(|error| match error {
            // The text would contain the value, which may be a secret.
            KafkaError::ClientConfig(_, _, key, _) => format!("librdkafka does not accept the value of {key}"),
            other => other.to_string(),
        })?;
        let producer = Arc::new(Self { inner, stop: AtomicBool::new(false) });
        let served = producer.clone();
        std::thread::Builder::new()
            .name(name)
            .spawn(move || serve(&served))
            .map_err(|error| format!("can't start a thread for the Kafka client: {error}"))?;
        Ok(producer)
    }

    /// Why it can't be used any more, if so.
    pub(super) fn broken(&self) -> Option<Broken> {
        let events = self.inner.context();
        if events.fatal.load(Ordering::Acquire) {
            return Some(Broken::Fatal);
        }
        events.late.load(Ordering::Acquire).then_some(Broken::Late)
    }

    /// Hands a message to the client, which copies it. Never waits.
    pub(super) fn push(&self, topic: &str, message: &Message, ticket: Box<Ticket>) -> Result<(), Refusal> {
        let mut id = Uuid::encode_buffer();
        let id: &str = message.id.hyphenated().encode_lower(&mut id);
        let mut headers = OwnedHeaders::new_with_capacity(message.headers.iter().len() + 2);
        for (name, value) in message.headers.iter().filter(|(name, _)| !is_own_header(name)) {
            headers = headers.insert(Header { key: name, value: Some(value) });
        }
        headers = headers
            .insert(Header { key: "redrive-id", value: Some(id) })
            .insert(Header { key: "redrive-attempt", value: Some(&message.attempt.to_string()) });
        self.hand_over(BaseRecord {
            topic,
            partition: None,
            payload: message.payload.as_deref(),
            key: message.key.as_ref().map(Key::as_bytes),
            timestamp: ticket.timestamp,
            headers: Some(headers),
            delivery_opaque: ticket,
        })
    }

    /// Hands over what another client had.
    pub(super) fn push_again(&self, message: &BorrowedMessage<'_>, ticket: Box<Ticket>) -> Result<(), Refusal> {
        self.hand_over(BaseRecord {
            topic: message.topic(),
            partition: Some(message.partition()),
            payload: message.payload(),
            key: message.key(),
            // The client does not report the timestamp of a failed message.
            timestamp: ticket.timestamp,
            headers: message.headers().map(BorrowedHeaders::detach),
            delivery_opaque: ticket,
        })
    }

    fn hand_over(&self, mut record: BaseRecord<'_, [u8], [u8], Box<Ticket>>) -> Result<(), Refusal> {
        let (events, topic) = (self.inner.context(), record.topic);
        let slice = events.ages.begin(*record.delivery_opaque.began.get_or_insert_with(Instant::now));
        record.delivery_opaque.slice = Some(slice);
        self.inner.send(record).map_err(|(error, record)| {
            events.ages.end(slice);
            let code = error.rdkafka_error_code().unwrap_or(Code::InvalidArgument);
            match code {
                Code::QueueFull => return Refusal::Full(record.delivery_opaque),
                Code::Fatal => events.fatal.store(true, Ordering::Release),
                _ => {}
            }
            Refusal::Failed(record.delivery_opaque, events.failed(code, topic).unasked())
        })
    }

    /// Waits until the queue may have room; `false` if the deadline passed.
    pub(super) async fn room(&self, deadline: Instant) -> bool {
        let events = self.inner.context();
        let freed = events.room.notified();
        events.waiting.store(true, Ordering::Release);
        let _ = tokio::time::timeout(LOOK_AGAIN, freed).await;
        Instant::now() < deadline
    }

    /// Waits until everything was delivered or given up, but at most for `within`; whatever is left then is given up at once. Blocks.
    pub(super) fn drain(&self, within: Duration) {
        if self.inner.flush(within).is_err() {
            self.inner.purge(PurgeConfig::default().queue().inflight());
            let _ = self.inner.flush(Duration::from_millis(500));
        }
    }

    /// To be called once per slice. If the time of a message is nearly over, the producer gets no more messages, and a slice later it gives up all it
    /// has; a slice is enough for messages that are answered normally, for example by another broker.
    ///
    /// The client's own timeout can't be used for this. It takes the late message out of the sequence, begins another sequence and sends the younger
    /// messages again under that, so the broker can't tell that it has them already: copies that no attempt accounts for.
    fn give_up_what_is_late(&self, now: Instant) {
        let events = self.inner.context();
        if self.broken().is_some() && events.ages.any() {
            self.inner.purge(PurgeConfig::default().queue().inflight().non_blocking());
        } else if events.ages.any_old(now) {
            events.late.store(true, Ordering::Release);
        }
    }

    /// Lets the thread end, and the client with it, once nobody else uses it, at most a slice later while messages are under way. Anything unanswered
    /// by then is given up.
    pub(super) fn retire(&self) {
        self.stop.store(true, Ordering::Release);
    }
}

/// Serves the client's events. The thread is the last owner of the producer, because dropping that blocks, which must not happen on a worker of the
/// runtime.
fn serve(producer: &Arc<Producer>) {
    let ages = &producer.inner.context().ages;
    // Messages that arrive during an idle poll are looked at after it, well before they are late.
    let idle = POLL.min(8 * ages.slice());
    let mut look = Instant::now();
    while !producer.stop.load(Ordering::Acquire) || Arc::strong_count(producer) > 1 {
        let wait = if ages.any() { look.saturating_duration_since(Instant::now()).min(POLL) } else { idle };
        // A panic in a receipt's callback must not end the thread: no delivery would ever be reported again.
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| producer.inner.poll(wait)));
        let now = Instant::now();
        if now >= look {
            producer.give_up_what_is_late(now);
            look = now + ages.slice();
        }
    }
}

//! Parameters and results of the engine's verbs: insert, claim, complete, take over.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::message::judge::Log;
use crate::message::{AttemptOutcome, ErrorClass, Headers, Key, Message, Standing, State};
use crate::retry;
use crate::store::Error;

/// What a store finds while it is being prepared.
#[derive(Clone, Debug, Default)]
pub struct Prepared {
    /// The column default of `project`: the project of rows that don't name one.
    pub default_project: Option<String>,
    /// The versions of the migrations that this call applied.
    pub applied: Vec<String>,
    /// The database and its version, as text.
    pub server: String,
}

/// A lease that is about to be taken.
#[derive(Clone, Debug)]
pub struct Lease {
    /// The fencing token: new for each call that takes leases, never reused. 0 is never a token.
    pub token: i64,
    /// The node that takes it.
    pub node: Arc<str>,
    /// How long it holds.
    pub ttl: Duration,
}

/// A message held under a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Held {
    /// The message.
    pub id: Uuid,
    /// The token under which it is held.
    pub token: i64,
}

/// Messages to be committed.
#[derive(Clone, Debug)]
pub struct Insert {
    /// The project of them all.
    pub project: Arc<str>,
    /// The messages. Shared, so that the caller can send what was committed without copying it.
    pub messages: Arc<Vec<NewMessage>>,
    /// The lease for those that are [`NewMessage::leased`].
    pub lease: Lease,
    /// How long idempotency keys are kept.
    pub keep_keys: Duration,
}

/// A message to be committed. Its `Debug` shows no contents.
#[derive(Clone)]
pub struct NewMessage {
    /// Its id, a UUIDv7.
    pub id: Uuid,
    /// The source that will send it.
    pub source: Arc<str>,
    /// As in [`Message`].
    pub topic: Option<String>,
    /// As in [`Message`].
    pub key: Option<Key>,
    /// As in [`Message`].
    pub payload: Option<Bytes>,
    /// As in [`Message`].
    pub headers: Headers,
    /// 0 to 9, larger first.
    pub priority: u8,
    /// When it is due.
    pub due: Due,
    /// Its age limit, counted from its creation or its due time, whichever is later; `None` for never.
    pub expires_after: Option<Duration>,
    /// What it overrides in its source's retry policy.
    pub retry: retry::Overrides,
    /// Its idempotency key.
    pub idempotency: Option<Idempotency>,
    /// Committed as `sending` under the lease, attempt 1 begun: the first send needs no claim.
    pub leased: bool,
}

impl fmt::Debug for NewMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewMessage").field("id", &self.id).field("source", &self.source).field("due", &self.due).finish_non_exhaustive()
    }
}

/// When a message is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Due {
    /// At once.
    Now,
    /// This long after it is committed.
    After(Duration),
    /// At this time on the database's clock.
    At(DateTime<Utc>),
}

/// An idempotency key and the content it stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idempotency {
    /// The key, as submitted.
    pub key: String,
    /// SHA-256 of topic, key, payload and headers.
    pub digest: [u8; 32],
}

/// The result of an [`Insert`].
#[derive(Clone, Debug)]
pub struct Inserted {
    /// The database's clock.
    pub now: DateTime<Utc>,
    /// One verdict per message, in order.
    pub verdicts: Vec<Verdict>,
}

/// The result for one message of an [`Insert`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is committed.
    New,
    /// Its idempotency key is known, with the same content; this is the id of the first message.
    Duplicate(Uuid),
    /// Its idempotency key is known, with other content; this is the id of the first message.
    Conflict(Uuid),
}

/// Asks what is due.
#[derive(Clone, Debug)]
pub struct Upcoming {
    /// The project.
    pub project: Arc<str>,
    /// The queues to look at. Leases are reported for all of their sources.
    pub queues: Vec<Queues>,
    /// How far ahead to look for leases that run out.
    pub horizon: Duration,
}

/// The queues of one source that are looked at.
#[derive(Clone, Debug)]
pub struct Queues {
    /// The source.
    pub source: Arc<str>,
    /// The levels of priority: bit n for level n. Nothing is reported about the others.
    pub levels: u16,
}

impl Queues {
    /// All queues of a source.
    #[must_use]
    pub fn all(source: Arc<str>) -> Self {
        Self { source, levels: (1 << 10) - 1 }
    }
}

/// What is due next.
#[derive(Clone, Debug)]
pub struct Outlook {
    /// The database's clock.
    pub now: DateTime<Utc>,
    /// The earliest due time of each requested source and level that has waiting messages.
    pub due: Vec<NextDue>,
    /// Whether a lease of the project and of these sources has run out.
    pub lapsed: bool,
    /// When the next lease runs out, if that is within the horizon.
    pub next_lapse: Option<DateTime<Utc>>,
}

/// The earliest due time of a source and level.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NextDue {
    /// The source.
    pub source: Arc<str>,
    /// The priority, 0 to 9.
    pub level: u8,
    /// The earliest due time.
    pub at: DateTime<Utc>,
}

/// Asks for due messages of one source and level.
#[derive(Clone, Debug)]
pub struct Claim {
    /// The project.
    pub project: Arc<str>,
    /// The source.
    pub source: Arc<str>,
    /// The priority, 0 to 9; rows outside that range count as the nearest level, rows without a priority as 0.
    pub level: u8,
    /// At most this many rows.
    pub limit: u32,
    /// Stops before the row that would take the total [weight](Message::weight) of the messages above this; the first row is always taken.
    pub max_bytes: u64,
    /// A larger payload is not read; its row is returned as [`Row::Unusable`].
    pub max_payload: u64,
    /// Only messages after this mark, which saves walking over what was just claimed. `None` for all.
    pub after: Option<Mark>,
    /// The lease to be taken.
    pub lease: Lease,
}

/// A position in a queue: right after the message with this due time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark {
    /// The due time.
    pub due_at: DateTime<Utc>,
    /// Its rank among messages with the same due time, in the store's own terms; 0 is before all of them.
    pub row: u128,
}

/// What a claim took.
#[derive(Debug)]
pub struct Claimed {
    /// The database's clock.
    pub now: DateTime<Utc>,
    /// What was taken, in order of due time.
    pub rows: Vec<Row>,
    /// How many it looked at: more than it took if some had ids that could not be mended.
    pub seen: usize,
    /// Where it ended; `None` if no row with a due time was taken.
    pub last: Option<Mark>,
    /// Whether something was left behind because of the limit on weight.
    pub cut: bool,
    /// How long it waited for its turn: claims of a source are made one at a time.
    pub waited: Duration,
    /// Why rows with malformed ids could not be given proper ones, if the database refused that: they were left as they are.
    pub refused: Option<Error>,
}

/// A row that a claim took.
#[derive(Clone, Debug)]
pub enum Row {
    /// It can be sent.
    Ready(Box<Ready>),
    /// It can't be sent, and will fail for this reason.
    Unusable(Unusable),
}

/// A claimed message.
#[derive(Clone, Debug)]
pub struct Ready {
    /// The message, its attempt begun.
    pub message: Message,
    /// Its progress so far: see [`Standing`].
    pub standing: Standing,
    /// What it overrides in its source's policy, the column `max_retries` included.
    pub retry: retry::Overrides,
    /// When it was created.
    pub created_at: DateTime<Utc>,
    /// When it was due.
    pub due_at: DateTime<Utc>,
    /// Whether it has an `order_key`, which is reported.
    pub ordered: bool,
    /// Where its row is stored, if the store reports that.
    pub address: Option<Address>,
}

/// Where a row is stored, in the database's own terms. The row is found there directly unless somebody has changed it since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address(pub u64);

/// A claimed row that can't be sent: invalid data that an application inserted.
#[derive(Clone, Debug)]
pub struct Unusable {
    /// Its id.
    pub id: Uuid,
    /// Its epoch.
    pub epoch: u32,
    /// The attempt that the claim began. A completion that did not [begin](Completion::begun) undoes it.
    pub attempt: u32,
    /// A code for its failure: `invalid_headers`, `payload_too_large`, `invalid_row`.
    pub code: &'static str,
    /// What is wrong with it, in words.
    pub detail: String,
}

/// The outcome of an attempt, to be written.
#[derive(Clone, Debug)]
pub struct Completion {
    /// The message and the token under which it is held.
    pub held: Held,
    /// Where the claim saw its row. A hint: otherwise the row is found by its id.
    pub address: Option<Address>,
    /// The epoch of the attempt.
    pub epoch: u32,
    /// The number of the attempt.
    pub attempt: u32,
    /// Whether anything was sent. If not, the attempt's number is freed and nothing is logged.
    pub begun: bool,
    /// The new state: `succeeded`, `retrying` or `failed`.
    pub state: State,
    /// For `retrying`: due this long from now.
    pub delay: Duration,
    /// Refused attempts of this epoch.
    pub retries: u32,
    /// The age limit, as far as it is known by now.
    pub expires_at: Option<DateTime<Utc>>,
    /// The outcome.
    pub outcome: AttemptOutcome,
    /// What went wrong; `None` when it succeeded.
    pub error: Option<Failure>,
    /// What the destination answered.
    pub result: Option<String>,
    /// When the attempt began, on the database's clock.
    pub started_at: DateTime<Utc>,
    /// How long it took.
    pub duration: Duration,
    /// The node that made it.
    pub node: Arc<str>,
    /// What to write to the attempt log.
    pub log: Log,
    /// Deletes the row and its attempts instead: its history is kept for `0s`.
    pub delete: bool,
}

/// Why an attempt failed, to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What kind of error it is.
    pub class: ErrorClass,
    /// A stable code.
    pub code: String,
    /// The details, in words.
    pub detail: String,
}

/// Asks for messages whose lease ran out.
#[derive(Clone, Debug)]
pub struct TakeOver {
    /// The project.
    pub project: Arc<str>,
    /// The sources that the node serves.
    pub sources: Vec<Arc<str>>,
    /// Messages to leave alone.
    pub except: Vec<Uuid>,
    /// At most this many.
    pub limit: u32,
    /// The new lease.
    pub lease: Lease,
}

/// A message whose lease ran out, now held under the new one.
#[derive(Clone, Debug)]
pub struct Lapsed {
    /// Its id.
    pub id: Uuid,
    /// Its source.
    pub source: Arc<str>,
    /// Its epoch.
    pub epoch: u32,
    /// The attempt that was lost; 0 if none had begun.
    pub attempt: u32,
    /// When that attempt began.
    pub started_at: DateTime<Utc>,
    /// The node that lost it.
    pub node: Arc<str>,
    /// Its progress so far: see [`Standing`].
    pub standing: Standing,
    /// What it overrides in its source's policy.
    pub retry: retry::Overrides,
    /// When it was created.
    pub created_at: DateTime<Utc>,
    /// When it was due.
    pub due_at: DateTime<Utc>,
}

//! What the verbs of the engine take and answer: in, claimed, completed, taken over.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::message::judge::Log;
use crate::message::{AttemptOutcome, ErrorClass, Headers, Key, Message, Standing, State};
use crate::retry;
use crate::store::Error;

/// What a store finds when it is prepared.
#[derive(Clone, Debug, Default)]
pub struct Prepared {
    /// The column default of `project`: the project of rows that name none.
    pub default_project: Option<String>,
    /// The versions of the migrations that this call applied.
    pub applied: Vec<String>,
    /// The database and its version, for people.
    pub server: String,
}

/// A lease that is about to be taken.
#[derive(Clone, Debug)]
pub struct Lease {
    /// The fencing token: new for each call that takes leases, never used twice. 0 is never a token.
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
    /// The messages. Shared, so that the caller can go on to send what was committed without a copy.
    pub messages: Arc<Vec<NewMessage>>,
    /// The lease of those that are [`NewMessage::leased`].
    pub lease: Lease,
    /// How long idempotency keys are kept.
    pub keep_keys: Duration,
}

/// A message to be committed.
#[derive(Clone, Debug)]
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
    /// What it overrides of its source's retry policy.
    pub retry: retry::Overrides,
    /// Its idempotency key.
    pub idempotency: Option<Idempotency>,
    /// Committed as `sending` under the lease, attempt 1 begun: the first send needs no claim.
    pub leased: bool,
}

/// When a message is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// At once.
    Now,
    /// So long after it is committed.
    After(Duration),
    /// At a time of the database's clock.
    At(DateTime<Utc>),
}

/// An idempotency key and what it stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idempotency {
    /// The key, as submitted.
    pub key: String,
    /// SHA-256 of topic, key, payload and headers.
    pub digest: [u8; 32],
}

/// What became of an [`Insert`].
#[derive(Clone, Debug)]
pub struct Inserted {
    /// The database's clock.
    pub now: DateTime<Utc>,
    /// One verdict a message, in order.
    pub verdicts: Vec<Verdict>,
}

/// What became of one message of an [`Insert`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is committed.
    New,
    /// Its idempotency key is known with the same content; the first message has this id.
    Duplicate(Uuid),
    /// Its idempotency key is known with other content; the first message has this id.
    Conflict(Uuid),
}

/// Asks what is due.
#[derive(Clone, Debug)]
pub struct Upcoming {
    /// The project.
    pub project: Arc<str>,
    /// What is looked at. Leases are told of all these sources.
    pub queues: Vec<Queues>,
    /// How far ahead ends of leases are looked for.
    pub horizon: Duration,
}

/// The queues of a source that are looked at.
#[derive(Clone, Debug)]
pub struct Queues {
    /// The source.
    pub source: Arc<str>,
    /// The levels of priority: bit n for level n. Of the others nothing is told.
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
    /// The earliest due time of each source and level that was asked for and has waiting messages.
    pub due: Vec<NextDue>,
    /// Whether a lease of the project and these sources has run out.
    pub lapsed: bool,
    /// When the next one will, if that is within the horizon.
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
    /// The priority, 0 to 9; rows outside count as the nearest, and as 0 without one.
    pub level: u8,
    /// At most so many rows.
    pub limit: u32,
    /// Stops before the row with which the messages would [weigh](Message::weight) more; the first row is always taken.
    pub max_bytes: u64,
    /// A larger payload is not read; its row comes as [`Row::Unusable`].
    pub max_payload: u64,
    /// Only what comes after this message: spares a walk over what was just claimed. `None` for all.
    pub after: Option<Mark>,
    /// The lease to be taken.
    pub lease: Lease,
}

/// A place in a queue: behind the message with this due time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark {
    /// The due time.
    pub due_at: DateTime<Utc>,
    /// Where it stands among those that are due at the same time, in the store's own terms; 0 is before all.
    pub row: u128,
}

/// What a claim took.
#[derive(Debug)]
pub struct Claimed {
    /// The database's clock.
    pub now: DateTime<Utc>,
    /// What was taken, in order of due time.
    pub rows: Vec<Row>,
    /// Where it ended; `None` if nothing was taken that has a due time.
    pub last: Option<Mark>,
    /// Whether something was left behind because it weighs too much.
    pub cut: bool,
    /// How long it waited for its turn: claims of a source go one after another.
    pub waited: Duration,
    /// Why rows whose ids have to be written anew could not be: they were left where they are.
    pub refused: Option<Error>,
}

/// A row that a claim took.
#[derive(Clone, Debug)]
pub enum Row {
    /// It can be sent.
    Ready(Box<Ready>),
    /// It can't; why is for its failure.
    Unusable(Unusable),
}

/// A claimed message.
#[derive(Clone, Debug)]
pub struct Ready {
    /// The message; its attempt is begun.
    pub message: Message,
    /// Where it stands.
    pub standing: Standing,
    /// What it overrides of its source's policy, the column `max_retries` included.
    pub retry: retry::Overrides,
    /// When it was created.
    pub created_at: DateTime<Utc>,
    /// When it was due.
    pub due_at: DateTime<Utc>,
    /// Whether it carries an `order_key`, which is reported.
    pub ordered: bool,
    /// Where its row stands, if the store tells.
    pub address: Option<Address>,
}

/// Where a row stands, in the database's own terms: it is found there at once unless somebody changed it since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address(pub u64);

/// A claimed row that can't be sent: nonsense that an application inserted.
#[derive(Clone, Debug)]
pub struct Unusable {
    /// Its id.
    pub id: Uuid,
    /// Its epoch.
    pub epoch: u32,
    /// The attempt that the claim began, and that is undone by a completion that did not [begin](Completion::begun).
    pub attempt: u32,
    /// A code for its failure: `invalid_headers`, `payload_too_large`, `invalid_row`.
    pub code: &'static str,
    /// What is wrong with it, for people.
    pub detail: String,
}

/// What an attempt came to, to be written.
#[derive(Clone, Debug)]
pub struct Completion {
    /// The message and the token under which it is held.
    pub held: Held,
    /// Where the claim saw its row. A hint: it is found by its id otherwise.
    pub address: Option<Address>,
    /// The epoch of the attempt.
    pub epoch: u32,
    /// The number of the attempt.
    pub attempt: u32,
    /// Whether anything was sent. If not, the attempt's number is given back and nothing is logged.
    pub begun: bool,
    /// The new state: `succeeded`, `retrying` or `failed`.
    pub state: State,
    /// For `retrying`: due so long from now.
    pub delay: Duration,
    /// Refused attempts of this epoch.
    pub retries: u32,
    /// The age limit, as it is known by now.
    pub expires_at: Option<DateTime<Utc>>,
    /// What the attempt came to.
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
    /// What the attempt log is told.
    pub log: Log,
    /// Deletes the row instead, with its attempts: history is kept for `0s`.
    pub delete: bool,
}

/// Why an attempt failed, to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What kind of error it is.
    pub class: ErrorClass,
    /// A stable code.
    pub code: String,
    /// For people.
    pub detail: String,
}

/// Asks for messages whose lease ran out.
#[derive(Clone, Debug)]
pub struct TakeOver {
    /// The project.
    pub project: Arc<str>,
    /// The sources that the node serves.
    pub sources: Vec<Arc<str>>,
    /// Messages that are left alone.
    pub except: Vec<Uuid>,
    /// At most so many.
    pub limit: u32,
    /// The new lease.
    pub lease: Lease,
}

/// A message whose lease ran out, held now under the new one.
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
    /// Where it stands.
    pub standing: Standing,
    /// What it overrides of its source's policy.
    pub retry: retry::Overrides,
    /// When it was created.
    pub created_at: DateTime<Utc>,
    /// When it was due.
    pub due_at: DateTime<Utc>,
}

//! The resend log: one method a domain verb, each a unit that either happened or did not.
//!
//! Every transition is a compare-and-set on the row, guarded by the lease token where there is one. Times are the database's: callers
//! say "after so long", and read the clock that answers bring along.

pub mod config;
pub mod sql;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use tokio::sync::Notify;
use uuid::Uuid;

use crate::message::judge::Log;
use crate::message::{AttemptOutcome, Headers, Key, Message, Standing, State};
use crate::retry;

pub use config::Config;
pub use sql::Guard;

/// The resend log of one database. All methods may be called at once from many tasks, and dropping the future of one leaves
/// the database either untouched or with the whole of it done, never with a transaction left open.
#[async_trait]
pub trait Store: Send + Sync + fmt::Debug + 'static {
    /// Connects, then creates or verifies the tables (`store.migrate`). Everything else may be called only after it succeeded once;
    /// it may be repeated until then.
    async fn prepare(&self) -> Result<Prepared, Error>;

    /// Whether the database answers a trivial question; what `/readyz` asks.
    async fn ping(&self) -> Result<(), Error>;

    /// Commits messages, all or none (idempotency verdicts aside).
    async fn insert(&self, insert: Insert) -> Result<Inserted, Error>;

    /// What is due next, and whether a lease has run out; one cheap question, asked when idle.
    async fn upcoming(&self, upcoming: Upcoming) -> Result<Outlook, Error>;

    /// Takes due messages of one source and level under a lease, the longest due first; raises `attempts` of each.
    async fn claim(&self, claim: Claim) -> Result<Claimed, Error>;

    /// Writes what attempts came to, each guarded by its token. The answer says, in order, which were still ours.
    async fn complete(&self, completions: Arc<Vec<Completion>>) -> Result<Vec<bool>, Error>;

    /// Prolongs leases; answers those that were not ours any more.
    async fn renew(&self, held: Vec<Held>, ttl: Duration) -> Result<Vec<Uuid>, Error>;

    /// Hands back messages that were claimed and not sent: pending again, the attempt's number is free again. Answers how many were ours.
    async fn release(&self, held: Vec<Held>) -> Result<u64, Error>;

    /// Takes messages whose lease ran out under a new one, without beginning an attempt.
    async fn take_over(&self, take: TakeOver) -> Result<Vec<Lapsed>, Error>;

    /// Takes, under a lease and without beginning an attempt, waiting rows that nobody can claim: of a source that neither `sources` nor a live node of the
    /// project serves, without a source, or with a due time that is no time. Rows younger than `min_age` are left. Rows without
    /// a project, or without a due time, are given this project and now, and go the usual way.
    async fn take_strays(&self, strays: Strays) -> Result<Vec<Stray>, Error>;

    /// Says that a node lives and what it serves, for `ttl`.
    async fn heartbeat(&self, beat: Heartbeat) -> Result<(), Error>;

    /// Takes the node out of the list of the living.
    async fn sign_off(&self, project: &str, node: &str) -> Result<(), Error>;

    /// Waiting rows, of any project, that no live node serves, at most `limit` kinds of them.
    async fn unserved(&self, min_age: Duration, limit: u32) -> Result<Vec<Unserved>, Error>;

    /// Counts the waiting messages of a project by source and state.
    async fn counts(&self, project: &str) -> Result<Vec<Count>, Error>;

    /// One message.
    async fn get(&self, project: &str, id: Uuid, payload: bool) -> Result<Option<Record>, Error>;

    /// Messages, the newest id first.
    async fn list(&self, list: List) -> Result<Page, Error>;

    /// The attempts of a message, oldest first; `None` if there is no such message.
    async fn attempts(&self, project: &str, id: Uuid) -> Result<Option<Vec<Attempt>>, Error>;

    /// Puts messages back to work: failed and cancelled ones in a new epoch, pending and retrying ones due now. In order of `ids`.
    async fn retry(&self, project: &str, ids: Vec<Uuid>) -> Result<Vec<Changed>, Error>;

    /// Gives up messages that wait. In order of `ids`.
    async fn cancel(&self, project: &str, ids: Vec<Uuid>) -> Result<Vec<Changed>, Error>;

    /// Replaces the payload of a failed message.
    async fn replace_payload(&self, project: &str, id: Uuid, payload: Bytes) -> Result<Changed, Error>;

    /// Deletes one bounded batch of what is past its retention.
    async fn purge(&self, purge: Purge) -> Result<Purged, Error>;

    /// Calls `wake` when rows were committed by others, until the store is closed; a hint only. A store that can't tell never returns.
    async fn listen(&self, project: &str, wake: Arc<Notify>);

    /// Lets go of all connections.
    async fn close(&self);
}

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
    pub retry: retry::Config,
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
    /// The sources that the node serves.
    pub sources: Vec<Arc<str>>,
}

/// What is due next.
#[derive(Clone, Debug)]
pub struct Outlook {
    /// The database's clock.
    pub now: DateTime<Utc>,
    /// The earliest due time of each source and level that has waiting messages.
    pub due: Vec<NextDue>,
    /// Whether a lease of the project and these sources has run out.
    pub lapsed: bool,
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
    /// Stops before the row with which the payloads would weigh more; the first row is always taken.
    pub max_bytes: u64,
    /// A larger payload is not read; its row comes as [`Row::Unusable`].
    pub max_payload: u64,
    /// Only rows due at this time or later: spares a walk over what was just claimed (dead index entries). `None` for all.
    pub floor: Option<DateTime<Utc>>,
    /// The lease to be taken.
    pub lease: Lease,
}

/// What a claim took.
#[derive(Clone, Debug)]
pub struct Claimed {
    /// The database's clock.
    pub now: DateTime<Utc>,
    /// What was taken, in order of due time.
    pub rows: Vec<Row>,
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
    pub retry: retry::Config,
    /// When it was created.
    pub created_at: DateTime<Utc>,
    /// When it was due.
    pub due_at: DateTime<Utc>,
    /// Whether it carries an `order_key`, which is reported.
    pub ordered: bool,
}

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
    pub error: Option<LastError>,
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

/// Why the last attempt of a message failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastError {
    /// `permanent`, `refused`, `unreachable`, `expired`, `lost` or `invalid`.
    pub class: String,
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
    pub retry: retry::Config,
    /// When it was created.
    pub created_at: DateTime<Utc>,
    /// When it was due.
    pub due_at: DateTime<Utc>,
}

/// Asks for rows that nobody can claim.
#[derive(Clone, Debug)]
pub struct Strays {
    /// The project.
    pub project: Arc<str>,
    /// The sources that the node's configuration names.
    pub sources: Vec<Arc<str>>,
    /// Rows younger than this are left.
    pub min_age: Duration,
    /// At most so many.
    pub limit: u32,
    /// The lease under which they are taken.
    pub lease: Lease,
}

/// A row that nobody can claim, held under the lease.
#[derive(Clone, Debug)]
pub struct Stray {
    /// Its id.
    pub id: Uuid,
    /// Its source, if it has one.
    pub source: Option<String>,
    /// Its epoch.
    pub epoch: u32,
    /// The number of its last attempt.
    pub attempt: u32,
    /// A code for its failure: `unknown_source`, `no_source`, `invalid_due_at`.
    pub code: &'static str,
}

/// A node that lives.
#[derive(Clone, Debug)]
pub struct Heartbeat {
    /// Its project.
    pub project: Arc<str>,
    /// Its name.
    pub node: Arc<str>,
    /// The sources that it serves; empty for a node that only accepts.
    pub sources: Vec<Arc<str>>,
    /// How long it is held for alive without another beat.
    pub ttl: Duration,
}

/// Waiting rows that no live node serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unserved {
    /// Their project.
    pub project: String,
    /// Their source.
    pub source: String,
    /// How long the oldest of them has been waiting.
    pub oldest: Duration,
}

/// How many messages of a source wait in a state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Count {
    /// The source.
    pub source: String,
    /// The state: pending, sending, retrying or blocked.
    pub state: State,
    /// How many.
    pub messages: u64,
    /// How long the longest due of them is overdue; zero if none is due.
    pub overdue: Duration,
}

/// A message as it is shown.
#[derive(Clone, Debug)]
pub struct Record {
    /// As in [`Message`].
    pub id: Uuid,
    /// As in [`Message`].
    pub project: String,
    /// As in [`Message`]; empty if the row has none.
    pub source: String,
    /// As in [`Message`].
    pub topic: Option<String>,
    /// As in [`Message`].
    pub key: Option<Key>,
    /// The payload, if it was asked for.
    pub payload: Option<Bytes>,
    /// Its headers as the JSON text that the row holds, valid or not.
    pub headers: Option<String>,
    /// Its state.
    pub state: State,
    /// 0 to 9.
    pub priority: u8,
    /// As in [`Message`].
    pub epoch: u32,
    /// Attempts of this epoch.
    pub attempts: u32,
    /// Refused attempts of this epoch.
    pub retries: u32,
    /// What it overrides of its source's policy.
    pub retry: retry::Config,
    /// When it is or was due; `None` where the row holds no time.
    pub due_at: Option<DateTime<Utc>>,
    /// When it was created.
    pub created_at: DateTime<Utc>,
    /// When it last changed.
    pub updated_at: DateTime<Utc>,
    /// When it was over.
    pub finished_at: Option<DateTime<Utc>>,
    /// When it is too old.
    pub expires_at: Option<DateTime<Utc>>,
    /// The idempotency key with which it came.
    pub idempotency_key: Option<String>,
    /// Why its last attempt failed.
    pub last_error: Option<LastError>,
    /// What the destination answered to its last attempt.
    pub result: Option<String>,
}

/// Asks for messages. What is `None` does not narrow.
#[derive(Clone, Debug, Default)]
pub struct List {
    /// The project.
    pub project: String,
    /// Only this state.
    pub state: Option<State>,
    /// Only this source.
    pub source: Option<String>,
    /// Only this topic.
    pub topic: Option<String>,
    /// Only this (text) key.
    pub key: Option<String>,
    /// Only the message of this idempotency key.
    pub idempotency_key: Option<String>,
    /// Only those whose last error has this code.
    pub error_code: Option<String>,
    /// Created at this time or later.
    pub since: Option<DateTime<Utc>>,
    /// Created before this time.
    pub until: Option<DateTime<Utc>>,
    /// At most so many.
    pub limit: u32,
    /// Those that follow this id.
    pub after: Option<Uuid>,
    /// With payloads.
    pub payload: bool,
}

/// A page of messages.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// The messages.
    pub items: Vec<Record>,
    /// Where the next page starts; `None` at the end.
    pub next: Option<Uuid>,
}

/// An entry of the attempt log.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// The epoch.
    pub epoch: u32,
    /// The number, or that of the first of the attempts that it stands for.
    pub number: u32,
    /// How many attempts it stands for.
    pub count: u32,
    /// The node.
    pub node: String,
    /// When it (the first) began.
    pub started_at: DateTime<Utc>,
    /// When the last of them began, where it stands for several.
    pub last_at: Option<DateTime<Utc>>,
    /// How long the last of them took.
    pub duration: Duration,
    /// What it came to.
    pub outcome: AttemptOutcome,
    /// What went wrong.
    pub error: Option<LastError>,
    /// What the destination answered.
    pub result: Option<String>,
}

/// What became of a person's wish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Changed {
    /// Done; the message is now in this state.
    Done(State),
    /// There is no such message.
    NotFound,
    /// Its state does not allow it.
    Wrong(State),
}

/// What is to be deleted.
#[derive(Clone, Debug)]
pub struct Purge {
    /// The project.
    pub project: Arc<str>,
    /// For each finished state, the age past which its rows go; `None` for never.
    pub keep: Vec<(State, Option<Duration>)>,
    /// At most so many finished rows stay, the oldest go first.
    pub max_rows: u64,
    /// At most so many rows a state are deleted by one call.
    pub batch: u32,
}

/// What was deleted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Purged {
    /// Rows by state.
    pub rows: Vec<(State, u64)>,
    /// Idempotency keys past their time.
    pub keys: u64,
    /// Whether there may be more.
    pub more: bool,
}

/// Why the store could not do it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database can't be reached, or broke off. What was under way may or may not have been done.
    #[error("the database can't be reached: {0}")]
    Unavailable(String),
    /// The database did not answer in time. What was under way may or may not have been done.
    #[error("the database did not answer within {0:?}")]
    TimedOut(Duration),
    /// A deadlock, a serialization failure, a lock that was not to be had: the same again may well work.
    #[error("the database asks to try again: {0}")]
    Contended(String),
    /// The tables are missing or of another version, and may not be changed.
    #[error("the tables are not ready: {0}")]
    Schema(String),
    /// Another process holds the file.
    #[error("the store is in use: {0}")]
    InUse(String),
    /// The database refused the statement for good: missing rights, a full disk, a bug.
    #[error("the database refused: {0}")]
    Refused(String),
    /// The configuration is wrong in a way that only connecting shows (password, unknown database, certificate).
    #[error("{0}")]
    Config(String),
}

impl Error {
    /// Whether the same again may work without anybody doing anything.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::TimedOut(_) | Self::Contended(_))
    }
}

/// Is told of each unit of work in the database: its name and how long it took.
pub type Observer = Arc<dyn Fn(&'static str, Duration) + Send + Sync>;

/// Builds the store that a configuration names. It does not connect: see [`Store::prepare`].
///
/// # Errors
/// Every fault of the configuration.
pub fn open(config: &Config, project: &str) -> Result<Arc<dyn Store>, Vec<crate::fault::Fault>> {
    open_observed(config, project, Arc::new(|_, _| {}))
}

/// The same; `observer` is told of each unit of work.
///
/// # Errors
/// As [`open`].
pub fn open_observed(config: &Config, project: &str, observer: Observer) -> Result<Arc<dyn Store>, Vec<crate::fault::Fault>> {
    sql::open(config, project, observer)
}

/// Keeps other nodes off the store for as long as the guard lives, where it serves one at a time: SQLite. The kernel lets go of it when
/// the process dies. Commands that look and act beside a running node don't take it.
///
/// # Errors
/// [`Error::InUse`] while another process has it; [`Error::Config`] where the file can't be locked.
pub fn guard(config: &Config) -> Result<Option<Guard>, Error> {
    sql::guard(config)
}

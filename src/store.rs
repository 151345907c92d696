//! The resend log: one method per domain verb, each of which either happens completely or not at all.
//!
//! Every transition is a compare-and-set on the row, guarded by the lease token where there is one. All times are the database's: callers pass
//! durations, and take the current time from the answers.

pub mod config;
mod look;
mod nodes;
#[doc(hidden)]
pub mod sql;
mod work;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::Notify;
use uuid::Uuid;

pub use config::Config;
pub use look::{Attempt, Changed, LastError, MAX_SHOWN_PAYLOAD, Record};
pub use work::Due;

// What the engine asks of a store, public for the conformance suite.
#[doc(hidden)]
pub use look::{Count, Id, List, MAX_PAGE_BYTES, Page, Purge, Purged, Sample, Surplus, Sweep, Swept};
#[doc(hidden)]
pub use nodes::{Heartbeat, Served, Stray, Strays, Taken, Unserved};
#[doc(hidden)]
pub use sql::Guard;
pub(crate) use sql::sqlite_file;
#[doc(hidden)]
pub use work::{
    Address, Claim, Claimed, Completion, Failure, Held, Idempotency, Insert, Inserted, Lapsed, Lease, Mark, NewMessage, NextDue, Outlook, Prepared,
    Queues, Ready, Row, TakeOver, Unusable, Upcoming, Verdict,
};

/// The resend log of one database. All methods may be called concurrently. If the future of a call is dropped, the database is left either untouched
/// or with all of the call's work done, never with an open transaction.
#[doc(hidden)]
#[async_trait]
pub trait Store: Send + Sync + fmt::Debug + 'static {
    /// Connects, then creates or verifies the tables (`store.migrate`). It may be repeated until it succeeds; nothing else may be called before that.
    async fn prepare(&self) -> Result<Prepared, Error>;

    /// The time limit of one unit of work: `store.timeout`.
    fn patience(&self) -> Duration;

    /// Commits messages, all or none (idempotency verdicts aside).
    async fn insert(&self, insert: Insert) -> Result<Inserted, Error>;

    /// What is due next, and whether a lease has run out. A single cheap query, made while idle.
    async fn upcoming(&self, upcoming: Upcoming) -> Result<Outlook, Error>;

    /// Takes due messages of one source and level under a lease, the longest due first. Their rows stay as they are: a sheet (see
    /// `store/sql/sheet.rs`) records the claim and begins an attempt of each.
    async fn claim(&self, claim: Claim) -> Result<Claimed, Error>;

    /// Writes the outcomes of attempts, each guarded by its token. The answer says, in order, which of the messages were still ours.
    async fn complete(&self, completions: Arc<Vec<Completion>>) -> Result<Vec<bool>, Error>;

    /// Which of these messages somebody else has locked right now, so that changing them would have to wait.
    async fn locked(&self, ids: Vec<Uuid>) -> Result<Vec<Uuid>, Error>;

    /// Deletes claims under which nothing is held any more. A claim that is not closed ends with its lease.
    async fn close_claims(&self, tokens: Vec<i64>) -> Result<(), Error>;

    /// Extends leases; returns the messages that were no longer ours.
    async fn renew(&self, held: Vec<Held>, ttl: Duration) -> Result<Vec<Uuid>, Error>;

    /// Hands back messages that were claimed but not sent: they are pending again, and the attempt's number is free again. Returns how many were
    /// ours.
    async fn release(&self, held: Vec<Held>) -> Result<u64, Error>;

    /// Takes messages whose lease has run out under a new one, without beginning an attempt. Messages that the database refuses to change don't keep
    /// the others from being taken over; the refusal is returned only if there are no others.
    async fn take_over(&self, take: TakeOver) -> Result<Vec<Lapsed>, Error>;

    /// Takes strays, which are waiting rows that nobody can claim, under a lease and without beginning an attempt. A row is a stray if it has no
    /// source, if its due time is not a valid time, or if its source is neither in `sources` nor known to a node of the project that was alive within
    /// the last day. Rows younger than `min_age` are left alone.
    ///
    /// Rows that lack a project or a due time are given this project or the current time, and are then sent as usual. Rows of known sources are
    /// handled first. If the database refuses to change rows of one kind, the other kinds are still handled; the refusal is returned only if there
    /// are no others.
    async fn take_strays(&self, strays: Strays) -> Result<Taken, Error>;

    /// Records that a node is alive, and which sources it knows and serves. Valid for `ttl`, at most a minute.
    async fn heartbeat(&self, beat: Heartbeat) -> Result<(), Error>;

    /// Records that the node has stopped. Its sources stay known for a day. Rows of other nodes are [deleted separately](Self::forget_nodes).
    async fn sign_off(&self, project: &str, node: &str) -> Result<(), Error>;

    /// Deletes the rows of nodes of the project that have not been alive within the last day, and of dead nodes that knew the same
    /// sources as one that lived longer.
    async fn forget_nodes(&self, project: &str) -> Result<(), Error>;

    /// Waiting rows, of any project, that neither the asking node nor any other live node serves, grouped by source; at most `limit` groups. Rows
    /// whose attempt was lost are included.
    async fn unserved(&self, own: Served, min_age: Duration, limit: u32) -> Result<Vec<Unserved>, Error>;

    /// Counts the waiting messages of a project by source and state. Counted by name are the sources that nodes of the project have known within the
    /// last day, and up to a hundred others, those whose messages have waited longest, their names cut to 100 bytes. All other sources are counted
    /// under the empty name, as are rows without a source.
    async fn counts(&self, project: &str) -> Result<Vec<Count>, Error>;

    /// As [`Self::counts`], with the asking node's own sources always included, but shared by all nodes: the first to ask when a count is due makes
    /// it, the others get the previous result. `None` while the very first count is being made.
    async fn sample(&self, sample: Sample) -> Result<Option<Vec<Count>>, Error>;

    /// One message; with its payload, up to [`MAX_SHOWN_PAYLOAD`], if `payload` is set.
    async fn get(&self, project: &str, id: Uuid, payload: bool) -> Result<Option<Record>, Error>;

    /// Messages, the newest id first. A page with payloads ends once they reach [`MAX_PAGE_BYTES`].
    async fn list(&self, list: List) -> Result<Page, Error>;

    /// The attempts of a message, oldest first; `None` if there is no such message.
    async fn attempts(&self, project: &str, id: Uuid) -> Result<Option<Vec<Attempt>>, Error>;

    /// Puts messages back to work: failed and cancelled ones in a new epoch; pending and retrying ones become due now. Answers in the order of `ids`.
    async fn retry(&self, project: &str, ids: Vec<Uuid>) -> Result<Vec<Changed>, Error>;

    /// Cancels waiting messages. Answers in the order of `ids`.
    async fn cancel(&self, project: &str, ids: Vec<Uuid>) -> Result<Vec<Changed>, Error>;

    /// Replaces the payload of a failed message.
    async fn replace_payload(&self, project: &str, id: Uuid, payload: Bytes) -> Result<Changed, Error>;

    /// Deletes one bounded batch of what is past its retention.
    async fn purge(&self, purge: Purge) -> Result<Purged, Error>;

    /// Deletes one bounded batch of leftovers: attempts, begun more than a day ago, of messages that somebody deleted, and rows of `redrive_turn` for
    /// sources that no node has known within the last day.
    async fn sweep(&self, sweep: Sweep) -> Result<Swept, Error>;

    /// Calls `wake` when others commit rows, until the store is closed. A hint only: a store that can't tell never returns.
    async fn listen(&self, project: &str, wake: Arc<Notify>);

    /// Closes all connections.
    async fn close(&self);
}

/// Why a store operation failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The database can't be reached, closed the connection, or has no room. The operation may or may not have taken effect.
    #[error("the database can't be reached: {0}")]
    Unavailable(String),
    /// The database did not answer in time. The operation may or may not have taken effect.
    #[error("the database did not answer within {0:?}")]
    TimedOut(Duration),
    /// Too many people are looking at messages already. Nothing was sent to the database.
    #[error("too many are looking at messages already; no connection was free within {0:?}")]
    Busy(Duration),
    /// A deadlock, a serialization failure, or a lock that could not be had: the same operation may well succeed if repeated.
    #[error("the database asks to try again: {0}")]
    Contended(String),
    /// The tables are missing or of another version, and redrive may not change them.
    #[error("the tables are not ready: {0}")]
    Schema(String),
    /// Another process holds the file.
    #[error("the store is in use: {0}")]
    InUse(String),
    /// The database refused the statement, and will again: missing rights, or a bug.
    #[error("the database refused: {0}")]
    Refused(String),
    /// The configuration is wrong in a way that shows only on connecting (password, unknown database, certificate).
    #[error("{0}")]
    Config(String),
}

impl Error {
    /// What is wrong, without anything internal: hosts, users, statements.
    #[must_use]
    pub const fn in_a_word(&self) -> &'static str {
        match self {
            Self::Unavailable(_) => "the database can't be reached",
            Self::TimedOut(_) => "the database did not answer in time",
            Self::Busy(_) => "too many are looking at messages",
            Self::Contended(_) => "the database asks to try again",
            Self::Schema(_) => "the tables are not ready",
            Self::InUse(_) => "the store is in use",
            Self::Refused(_) => "the database refused",
            Self::Config(_) => "the database can't be used as configured",
        }
    }

    /// Whether the same operation may succeed later without anybody stepping in.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::TimedOut(_) | Self::Busy(_) | Self::Contended(_))
    }
}

/// Is called after each unit of work in the database, with its name and duration.
#[doc(hidden)]
pub type Observer = Arc<dyn Fn(&'static str, Duration) + Send + Sync>;

/// Builds the store that a configuration names. It does not connect: see [`Store::prepare`].
///
/// # Errors
/// Every fault of the configuration.
#[doc(hidden)]
pub fn open(config: &Config, project: &str) -> Result<Arc<dyn Store>, Vec<crate::fault::Fault>> {
    open_observed(config, project, Arc::new(|_, _| {}))
}

/// As [`open`], with an `observer` of each unit of work.
///
/// # Errors
/// As [`open`].
#[doc(hidden)]
pub fn open_observed(config: &Config, project: &str, observer: Observer) -> Result<Arc<dyn Store>, Vec<crate::fault::Fault>> {
    sql::open(config, project, observer)
}

/// Keeps other nodes off a store that serves only one at a time (SQLite), for as long as the guard lives. The kernel releases the lock when the
/// process dies. Commands that look and act beside a running node don't take it.
///
/// # Errors
/// [`Error::InUse`] while another process holds it; [`Error::Config`] if the file can't be locked.
#[doc(hidden)]
pub fn guard(config: &Config) -> Result<Option<Guard>, Error> {
    sql::guard(config)
}

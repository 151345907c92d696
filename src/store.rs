//! The resend log: one method a domain verb, each a unit that either happened or did not.
//!
//! Every transition is a compare-and-set on the row, guarded by the lease token where there is one. Times are the database's: callers
//! say "after so long", and read the clock that answers bring along.

pub mod config;
mod look;
mod nodes;
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
pub use look::{
    Attempt, Changed, Count, Id, LastError, List, MAX_PAGE_BYTES, MAX_SHOWN_PAYLOAD, Page, Purge, Purged, Record, Sample, Surplus, Sweep, Swept,
};
pub use nodes::{Heartbeat, Served, Stray, Strays, Taken, Unserved};
pub use sql::Guard;
pub(crate) use sql::sqlite_file;
pub use work::{
    Address, Claim, Claimed, Completion, Due, Failure, Held, Idempotency, Insert, Inserted, Lapsed, Lease, Mark, NewMessage, NextDue, Outlook,
    Prepared, Queues, Ready, Row, TakeOver, Unusable, Upcoming, Verdict,
};

/// The resend log of one database. All methods may be called at once from many tasks, and dropping the future of one leaves
/// the database either untouched or with the whole of it done, never with a transaction left open.
#[async_trait]
pub trait Store: Send + Sync + fmt::Debug + 'static {
    /// Connects, then creates or verifies the tables (`store.migrate`). Everything else may be called only after it succeeded once;
    /// it may be repeated until then.
    async fn prepare(&self) -> Result<Prepared, Error>;

    /// How long one unit of work may take: `store.timeout`.
    fn patience(&self) -> Duration;

    /// Commits messages, all or none (idempotency verdicts aside).
    async fn insert(&self, insert: Insert) -> Result<Inserted, Error>;

    /// What is due next, and whether a lease has run out; one cheap question, asked when idle.
    async fn upcoming(&self, upcoming: Upcoming) -> Result<Outlook, Error>;

    /// Takes due messages of one source and level under a lease, the longest due first; raises `attempts` of each.
    async fn claim(&self, claim: Claim) -> Result<Claimed, Error>;

    /// Writes what attempts came to, each guarded by its token. The answer says, in order, which were still ours.
    async fn complete(&self, completions: Arc<Vec<Completion>>) -> Result<Vec<bool>, Error>;

    /// Which of these messages somebody else has locked at this moment, so that whoever would change them has to wait.
    async fn locked(&self, ids: Vec<Uuid>) -> Result<Vec<Uuid>, Error>;

    /// Forgets claims of which nothing is held any more. One that is not closed ends with its lease.
    async fn close_claims(&self, tokens: Vec<i64>) -> Result<(), Error>;

    /// Prolongs leases; answers those that were not ours any more.
    async fn renew(&self, held: Vec<Held>, ttl: Duration) -> Result<Vec<Uuid>, Error>;

    /// Hands back messages that were claimed and not sent: pending again, the attempt's number is free again. Answers how many were ours.
    async fn release(&self, held: Vec<Held>) -> Result<u64, Error>;

    /// Takes messages whose lease ran out under a new one, without beginning an attempt. Those that the database refuses to change keep no others
    /// from it; only if there are no others is that answered.
    async fn take_over(&self, take: TakeOver) -> Result<Vec<Lapsed>, Error>;

    /// Takes, under a lease and without beginning an attempt, waiting rows that nobody can claim: of a source that neither `sources` nor a node of the
    /// project knows that lived within the last day, without a source, or with a due time that is no time. Rows younger than `min_age` are left. Rows without
    /// a project, or without a due time, are given this project and now, and go the usual way. Those of sources that are known come first. What the
    /// database refuses to change keeps other kinds of them from nothing; only if there are no others is that answered.
    async fn take_strays(&self, strays: Strays) -> Result<Taken, Error>;

    /// Says that a node lives and what it knows and serves, for `ttl`, a minute at the most.
    async fn heartbeat(&self, beat: Heartbeat) -> Result<(), Error>;

    /// The node lives no more. What it knew stays known for a day. Others are [forgotten](Self::forget_nodes).
    async fn sign_off(&self, project: &str, node: &str) -> Result<(), Error>;

    /// Forgets nodes of the project that have not lived within the last day, and dead ones of which another that lived longer knows the same.
    async fn forget_nodes(&self, project: &str) -> Result<(), Error>;

    /// Waiting rows, of any project, that neither the asking node nor another that lives serves, at most `limit` kinds of them; those with them whose
    /// attempt is lost.
    async fn unserved(&self, own: Served, min_age: Duration, limit: u32) -> Result<Vec<Unserved>, Error>;

    /// Counts the waiting messages of a project by source and state: of all sources that nodes of the project have known within the last day, and of a
    /// hundred others at the most, those whose messages wait longest, with names cut to 100 bytes. What others there are is counted under the empty
    /// name, as are rows without a source.
    async fn counts(&self, project: &str) -> Result<Vec<Count>, Error>;

    /// The same, and of the asking node's sources in any case, counted once for all nodes: whoever asks first when a count is due makes it, all others are told what the last one found.
    /// `None` while the first is being made.
    async fn sample(&self, sample: Sample) -> Result<Option<Vec<Count>>, Error>;

    /// One message, with its payload up to [`MAX_SHOWN_PAYLOAD`] if that is asked for.
    async fn get(&self, project: &str, id: Uuid, payload: bool) -> Result<Option<Record>, Error>;

    /// Messages, the newest id first. A page with payloads ends once they weigh [`MAX_PAGE_BYTES`].
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

    /// Takes away one bounded batch of what nothing belongs to any more: attempts, begun more than a day ago, of messages that somebody deleted, and
    /// what claims of sources that no node has known within the last day took turns by.
    async fn sweep(&self, sweep: Sweep) -> Result<Swept, Error>;

    /// Calls `wake` when rows were committed by others, until the store is closed; a hint only. A store that can't tell never returns.
    async fn listen(&self, project: &str, wake: Arc<Notify>);

    /// Lets go of all connections.
    async fn close(&self);
}

/// Why the store could not do it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database can't be reached, broke off, or has no room. What was under way may or may not have been done.
    #[error("the database can't be reached: {0}")]
    Unavailable(String),
    /// The database did not answer in time. What was under way may or may not have been done.
    #[error("the database did not answer within {0:?}")]
    TimedOut(Duration),
    /// Too many look at messages already. Nothing was asked.
    #[error("too many look at messages already; there was no turn within {0:?}")]
    Busy(Duration),
    /// A deadlock, a serialization failure, a lock that was not to be had: the same again may well work.
    #[error("the database asks to try again: {0}")]
    Contended(String),
    /// The tables are missing or of another version, and may not be changed.
    #[error("the tables are not ready: {0}")]
    Schema(String),
    /// Another process holds the file.
    #[error("the store is in use: {0}")]
    InUse(String),
    /// The database refused the statement for good: missing rights, a bug.
    #[error("the database refused: {0}")]
    Refused(String),
    /// The configuration is wrong in a way that only connecting shows (password, unknown database, certificate).
    #[error("{0}")]
    Config(String),
}

impl Error {
    /// What is wrong, without anything that is nobody's business: hosts, users, statements.
    #[must_use]
    pub const fn in_a_word(&self) -> &'static str {
        match self {
            Self::Unavailable(_) => "the database can't be reached",
            Self::TimedOut(_) => "the database did not answer in time",
            Self::Busy(_) => "too many look at messages",
            Self::Contended(_) => "the database asks to try again",
            Self::Schema(_) => "the tables are not ready",
            Self::InUse(_) => "the store is in use",
            Self::Refused(_) => "the database refused",
            Self::Config(_) => "the database can't be used as configured",
        }
    }

    /// Whether the same again may work without anybody doing anything.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::TimedOut(_) | Self::Busy(_) | Self::Contended(_))
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

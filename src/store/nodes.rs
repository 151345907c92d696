//! What nodes report about themselves, and ask besides sending: who is alive, what nobody serves, what nobody can claim.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::work::Lease;
use crate::message::Standing;

/// What a node serves.
#[derive(Clone, Debug)]
pub struct Served {
    /// The project.
    pub project: Arc<str>,
    /// The sources; none for a node that only accepts.
    pub sources: Vec<Arc<str>>,
}

/// Asks for strays: rows that nobody can claim.
#[derive(Clone, Debug)]
pub struct Strays {
    /// The project.
    pub project: Arc<str>,
    /// The sources that the node's configuration names.
    pub sources: Vec<Arc<str>>,
    /// Rows younger than this are left alone.
    pub min_age: Duration,
    /// At most this many, and as many again without a project and, for each source and level, without a due time.
    pub limit: u32,
    /// The lease under which they are taken.
    pub lease: Lease,
}

/// What was done about strays.
#[derive(Clone, Debug, Default)]
pub struct Taken {
    /// Those that remain to be failed.
    pub strays: Vec<Stray>,
    /// Whether there may be more, of these or of those that were given a project or a due time: call again.
    pub more: bool,
}

/// A stray, held under the lease.
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
    /// Its progress so far: see [`Standing`].
    pub standing: Standing,
    /// When its last attempt began, if that attempt was lost: its lease ran out and its node never reported an outcome.
    pub lost: Option<DateTime<Utc>>,
    /// The node that lost it, if there is one.
    pub node: Arc<str>,
    /// A code for its failure: `unknown_source`, `no_source`, `invalid_due_at`.
    pub code: &'static str,
}

/// A node that is alive.
#[derive(Clone, Debug)]
pub struct Heartbeat {
    /// Its project.
    pub project: Arc<str>,
    /// Its name, unique to the process. A restart under the same configured name, perhaps with other sources, gets a new one, so that what the old
    /// process knew is not forgotten at once.
    pub node: Arc<str>,
    /// The sources that its configuration names.
    pub sources: Vec<Arc<str>>,
    /// Whether it serves them; one that only accepts does not.
    pub sends: bool,
    /// How long it is considered alive without another beat.
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

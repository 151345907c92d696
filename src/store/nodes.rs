//! What nodes say of themselves, and ask besides sending: who lives, what nobody serves, what nobody can claim.

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
    /// The sources; none for one that only accepts.
    pub sources: Vec<Arc<str>>,
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
    /// At most so many, and as many without a project and, of each source and level, without a due time.
    pub limit: u32,
    /// The lease under which they are taken.
    pub lease: Lease,
}

/// What was done about rows that nobody can claim.
#[derive(Clone, Debug, Default)]
pub struct Taken {
    /// Those that are left to be failed.
    pub strays: Vec<Stray>,
    /// Whether there may be more, of these or of those that were given a project or a due time: ask again.
    pub more: bool,
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
    /// Where it stands.
    pub standing: Standing,
    /// When its last attempt began, if that was lost: its lease ran out without a word.
    pub lost: Option<DateTime<Utc>>,
    /// The node that lost it, if one did.
    pub node: Arc<str>,
    /// A code for its failure: `unknown_source`, `no_source`, `invalid_due_at`.
    pub code: &'static str,
}

/// A node that lives.
#[derive(Clone, Debug)]
pub struct Heartbeat {
    /// Its project.
    pub project: Arc<str>,
    /// What it is known by, which no other process is nor was: what one knew that had the same name in the configuration, and perhaps other sources, is
    /// not forgotten at once.
    pub node: Arc<str>,
    /// The sources that its configuration names.
    pub sources: Vec<Arc<str>>,
    /// Whether it serves them; one that only accepts does not.
    pub sends: bool,
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

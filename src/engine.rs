//! The engine: takes messages in, sends what is due, writes down what came of it.

pub mod config;
pub mod submission;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use uuid::Uuid;

use crate::source::options::Mode;
use crate::source::{Options, Sender};
use crate::store::{self, Changed, Store};

pub use config::Config;
pub use submission::{Accepted, Refusal, Submission};

/// A source as the engine is given it.
#[derive(Clone, Debug)]
pub struct SourceSpec {
    /// Its name in the configuration.
    pub name: Arc<str>,
    /// Its kind, for people.
    pub kind: String,
    /// What every source takes.
    pub options: Options,
    /// What sends.
    pub sender: Sender,
}

/// The way into a running engine; cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle {
    // being built
    store: Arc<dyn Store>,
    project: Arc<str>,
}

impl Handle {
    /// The project.
    pub fn project(&self) -> &Arc<str> {
        &self.project
    }

    /// The resend log, for looking at it.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// The source of this name, if the configuration has one: its options and how it takes messages.
    pub fn source(&self, name: &str) -> Option<&SourceSpec> {
        let _ = name;
        None
    }

    /// How a message of this source is taken when it says nothing about it.
    pub fn mode(&self, name: &str) -> Option<Mode> {
        self.source(name).map(|source| source.options.mode)
    }

    /// Takes a message. Once it answers [`Accepted`], the message is kept (or delivered).
    ///
    /// Dropping the future doesn't undo what is under way.
    pub async fn submit(&self, submission: Submission) -> Result<Accepted, Refusal> {
        let _ = submission;
        Err(Refusal::Draining)
    }

    /// Takes many messages, with one verdict each, in order.
    pub async fn submit_many(&self, submissions: Vec<Submission>) -> Vec<Result<Accepted, Refusal>> {
        let mut verdicts = Vec::with_capacity(submissions.len());
        for submission in submissions {
            verdicts.push(self.submit(submission).await);
        }
        verdicts
    }

    /// Puts messages back to work; in order of `ids`.
    pub async fn retry(&self, ids: Vec<Uuid>) -> Result<Vec<Changed>, store::Error> {
        self.store.retry(&self.project, ids).await
    }

    /// Gives up messages; in order of `ids`.
    pub async fn cancel(&self, ids: Vec<Uuid>) -> Result<Vec<Changed>, store::Error> {
        self.store.cancel(&self.project, ids).await
    }

    /// Replaces the payload of a failed message.
    pub async fn replace_payload(&self, id: Uuid, payload: Bytes) -> Result<Changed, store::Error> {
        self.store.replace_payload(&self.project, id, payload).await
    }

    /// How the node is doing: what `/readyz` says.
    pub async fn status(&self) -> Status {
        Status { ready: false, store: None, draining: false, sources: Vec::new(), warnings: Vec::new() }
    }
}

/// How a node is doing.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// Whether it can accept durably: the store answers and the node is not draining.
    pub ready: bool,
    /// Why the store is of no use, if so.
    pub store: Option<String>,
    /// Whether it is about to stop.
    pub draining: bool,
    /// How each source is doing. Never makes the node unready.
    pub sources: Vec<SourceStatus>,
    /// What somebody should look at: rows that nobody serves, another project's table.
    pub warnings: Vec<String>,
}

/// How a source is doing on this node.
#[derive(Clone, Debug, Serialize)]
pub struct SourceStatus {
    /// Its name.
    pub name: Arc<str>,
    /// Its kind.
    pub kind: String,
    /// `closed`: sends go out. `open`: the destination can't be reached, one message a probe is tried. `blocked`: it asked not to be sent anything.
    pub breaker: &'static str,
    /// The last thing that went wrong, while it is open or blocked.
    pub last_error: Option<String>,
    /// Messages under way.
    pub in_flight: u64,
}

/// How long a producer should wait before it tries again.
pub const RETRY_AFTER: Duration = Duration::from_secs(1);

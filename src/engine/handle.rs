//! The way into a running engine: what the API, the commands and the composer ask of it.

use std::borrow::Cow;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use tokio::sync::Notify;
use tokio::time::Instant;
use uuid::Uuid;

use super::SourceSpec;
use super::intake::Intake;
use super::node::Node;
use super::submission::{Accepted, Refusal, Submission};
use super::upkeep::{SHOWN, Upkeep};
use crate::outcome::cut;
use crate::store::{self, Changed, Store};

/// How long to wait before a store that was not ready is prepared again.
const PREPARE_EVERY: Duration = Duration::from_secs(1);

/// The way into a running engine; cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle {
    pub(super) inner: Arc<Inner>,
}

impl Handle {
    pub(super) fn node(&self) -> &Node {
        &self.inner.node
    }

    /// The project.
    #[must_use]
    pub fn project(&self) -> &Arc<str> {
        &self.node().project
    }

    /// The resend log, for looking at it.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.node().store
    }

    /// The source of this name, if the configuration has one.
    #[must_use]
    pub fn source(&self, name: &str) -> Option<&SourceSpec> {
        self.node().lanes.get(name).map(|lane| &lane.spec)
    }

    /// Takes a message. Once it answers [`Accepted`], the message is kept (or delivered).
    ///
    /// Dropping the future doesn't undo what is under way.
    pub async fn submit(&self, submission: Submission) -> Result<Accepted, Refusal> {
        self.inner.intake.submit(submission).await
    }

    /// Takes many messages, with one verdict each, in order.
    pub async fn submit_many(&self, submissions: Vec<Submission>) -> Vec<Result<Accepted, Refusal>> {
        self.inner.intake.submit_many(submissions).await
    }

    /// Puts messages back to work; in order of `ids`.
    pub async fn retry(&self, ids: Vec<Uuid>) -> Result<Vec<Changed>, store::Error> {
        let changed = self.node().store.retry(&self.node().project, ids).await?;
        self.node().alarm.ring_by(Instant::now());
        Ok(changed)
    }

    /// Gives up messages; in order of `ids`.
    pub async fn cancel(&self, ids: Vec<Uuid>) -> Result<Vec<Changed>, store::Error> {
        self.node().store.cancel(&self.node().project, ids).await
    }

    /// Replaces the payload of a failed message.
    pub async fn replace_payload(&self, id: Uuid, payload: Bytes) -> Result<Changed, store::Error> {
        self.node().store.replace_payload(&self.node().project, id, payload).await
    }

    /// How many messages are under way on this node.
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        self.node().lanes.iter().map(|lane| lane.status().in_flight).sum()
    }

    /// Says that the node lives, gives rows that lack a project or a due time what they lack, and fails those that nobody can claim: what is else done
    /// now and then.
    pub async fn sort_out(&self) {
        self.inner.upkeep.sort_out().await;
    }

    /// What is due in the table, for a run that ends when nothing is left to do.
    pub async fn work(&self) -> Result<Work, store::Error> {
        let lanes = &self.node().lanes;
        let queues = lanes.names().into_iter().map(store::Queues::all).collect();
        let upcoming = store::Upcoming { project: self.node().project.clone(), queues, horizon: Duration::ZERO };
        let outlook = self.node().store.upcoming(upcoming).await?;
        let due = outlook.due.iter().filter(|due| due.at <= outlook.now).filter_map(|due| lanes.get(&due.source));
        let (unreachable, reachable): (Vec<_>, Vec<_>) = due.partition(|lane| lane.is_held_back());
        Ok(Work { sendable: outlook.lapsed || !reachable.is_empty(), unreachable: !unreachable.is_empty() })
    }

    /// Waits until the store is ready.
    pub async fn store_is_ready(&self) {
        self.node().health.is_back().await;
    }

    /// How the node is doing: what `/readyz` says.
    #[must_use]
    pub fn status(&self) -> Status {
        let Inner { node, upkeep, other_project, .. } = &*self.inner;
        let store = node.health.word();
        let draining = node.stopping.is_cancelled();
        let mut warnings = Vec::new();
        if let Some(other) = &*other_project.lock().unwrap_or_else(PoisonError::into_inner) {
            warnings.push(format!("rows inserted without a project belong to project `{other}`, not to `{}`", node.project));
        }
        for row in &*upkeep.unserved.lock().unwrap_or_else(PoisonError::into_inner) {
            let (project, source, seconds) = (cut(&row.project, SHOWN), cut(&row.source, SHOWN), row.oldest.as_secs());
            let message =
                format!("messages of project `{project}`, source `{source}` have been waiting for {seconds} s and no live node serves them");
            warnings.push(message);
        }
        let sources = node.lanes.iter().map(|lane| lane.status()).collect();
        Status { ready: store.is_none() && !draining, store, draining, sources, warnings }
    }
}

/// What is due in the table.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    /// Something is due that can be sent now.
    pub sendable: bool,
    /// Something is due whose destination can't be reached.
    pub unreachable: bool,
}

/// How a node is doing.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// Whether it can accept durably: the store answers and the node is not draining.
    pub ready: bool,
    /// Why the store is of no use, if so, in a few words: more is for the log.
    pub store: Option<&'static str>,
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
    /// The code of the last thing that went wrong, while it is open, or `blocked`: more is for the log.
    pub last_error: Option<Cow<'static, str>>,
    /// Messages under way.
    pub in_flight: u64,
}

/// What the way in leads to.
#[derive(Debug)]
pub(super) struct Inner {
    pub(super) node: Arc<Node>,
    pub(super) intake: Arc<Intake>,
    pub(super) upkeep: Arc<Upkeep>,
    /// The project of rows that name none, where it is not ours.
    pub(super) other_project: Mutex<Option<String>>,
}

impl Inner {
    /// Prepares the store, however long it is away.
    pub(super) async fn prepare(&self) {
        loop {
            match self.node.store.prepare().await {
                Ok(prepared) => {
                    for version in &prepared.applied {
                        tracing::info!(migration = %version, "migrated");
                    }
                    let other =
                        prepared.default_project.filter(|default| **default != *self.node.project).map(|default| cut(&default, SHOWN).to_owned());
                    if let Some(other) = &other {
                        tracing::warn!(project = %self.node.project, default_project = other,
                            "rows inserted without a project belong to a different project from the one that this node serves");
                    }
                    *self.other_project.lock().unwrap_or_else(PoisonError::into_inner) = other;
                    self.node.health.answered();
                    tracing::info!(store.server = prepared.server, "the store is ready");
                    return;
                }
                Err(error) => self.node.health.failed("prepare", &error),
            }
            tokio::time::sleep(PREPARE_EVERY).await;
        }
    }

    /// Lets the store's own wake-ups ring the alarm.
    pub(super) async fn listen(&self) {
        let wake = Arc::new(Notify::new());
        let ring = async {
            loop {
                wake.notified().await;
                self.node.alarm.ring_by(Instant::now());
            }
        };
        tokio::select! {
            () = self.node.store.listen(&self.node.project, wake.clone()) => {}
            () = ring => {}
        }
    }
}

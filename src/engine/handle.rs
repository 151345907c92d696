//! The way into a running engine: everything that the API, the commands and the composer ask of it.

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
use crate::store::{self, Attempt, Changed, Record, Store};

/// How long to wait before preparing the store is tried again.
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

    /// The resend log, for what the handle does not offer.
    #[doc(hidden)]
    #[must_use]
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.node().store
    }

    /// The source of this name, if the configuration has one.
    #[doc(hidden)]
    #[must_use]
    pub fn source(&self, name: &str) -> Option<&SourceSpec> {
        self.node().lanes.get(name).map(|lane| &lane.spec)
    }

    /// Accepts a message. Once this returns [`Accepted`], the message is kept (or delivered).
    ///
    /// Dropping the future does not undo what is under way.
    pub async fn submit(&self, submission: Submission) -> Result<Accepted, Refusal> {
        self.inner.intake.submit(submission).await
    }

    /// Accepts many messages; returns one result per message, in order.
    pub async fn submit_many(&self, submissions: Vec<Submission>) -> Vec<Result<Accepted, Refusal>> {
        self.inner.intake.submit_many(submissions).await
    }

    /// A message as the resend log has it; with its payload, up to [`MAX_SHOWN_PAYLOAD`](store::MAX_SHOWN_PAYLOAD), if `payload` is set. `None` if
    /// there is no such message, or no longer: see `history` in the configuration.
    pub async fn get(&self, id: Uuid, payload: bool) -> Result<Option<Record>, store::Error> {
        self.node().store.get(&self.node().project, id, payload).await
    }

    /// The attempts of a message, oldest first; `None` if there is no such message.
    pub async fn attempts(&self, id: Uuid) -> Result<Option<Vec<Attempt>>, store::Error> {
        self.node().store.attempts(&self.node().project, id).await
    }

    /// Puts messages back to be sent; results are in the order of `ids`.
    pub async fn retry(&self, ids: Vec<Uuid>) -> Result<Vec<Changed>, store::Error> {
        let changed = self.node().store.retry(&self.node().project, ids).await?;
        self.node().alarm.ring_by(Instant::now());
        Ok(changed)
    }

    /// Cancels messages; results are in the order of `ids`.
    pub async fn cancel(&self, ids: Vec<Uuid>) -> Result<Vec<Changed>, store::Error> {
        self.node().store.cancel(&self.node().project, ids).await
    }

    /// Replaces the payload of a failed message.
    pub async fn replace_payload(&self, id: Uuid, payload: Bytes) -> Result<Changed, store::Error> {
        self.node().store.replace_payload(&self.node().project, id, payload).await
    }

    /// The number of messages under way on this node.
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        self.node().lanes.iter().map(|lane| lane.status().in_flight).sum()
    }

    /// Does at once what upkeep otherwise does periodically: sends the heartbeat, gives rows without a project or a due time the default, and fails
    /// rows that no node can claim.
    #[doc(hidden)]
    pub async fn sort_out(&self) {
        self.inner.upkeep.sort_out().await;
    }

    /// What is due in the table, for a run that ends when nothing is left to do.
    #[doc(hidden)]
    pub async fn work(&self) -> Result<Work, store::Error> {
        let lanes = &self.node().lanes;
        let queues = lanes.names().into_iter().map(store::Queues::all).collect();
        let upcoming = store::Upcoming { project: self.node().project.clone(), queues, horizon: Duration::ZERO };
        let outlook = self.node().store.upcoming(upcoming).await?;
        let due = outlook.due.iter().filter(|due| due.at <= outlook.now).filter_map(|due| lanes.get(&due.source));
        let (unreachable, reachable): (Vec<_>, Vec<_>) = due.partition(|lane| lane.is_held_back());
        Ok(Work { sendable: outlook.lapsed || !reachable.is_empty(), unreachable: !unreachable.is_empty() })
    }

    /// Waits until the store is ready, or the node accepts nothing more.
    pub async fn store_is_ready(&self) {
        self.inner.intake.closed.run_until_cancelled(self.node().health.is_back()).await;
    }

    /// The status of the node, as `/readyz` reports it.
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
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub struct Work {
    /// Something is due that can be sent now.
    pub sendable: bool,
    /// Something is due whose destination can't be reached.
    pub unreachable: bool,
}

/// The status of a node.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Status {
    /// Whether it can accept messages durably: the store answers and the node is not draining.
    pub ready: bool,
    /// Why the store can't be used, in a few words, if it can't; details are in the log.
    pub store: Option<&'static str>,
    /// Whether the node is stopping.
    pub draining: bool,
    /// The status of each source. Never makes the node unready.
    pub sources: Vec<SourceStatus>,
    /// What somebody should look at: rows that no node serves, a table of another project.
    pub warnings: Vec<String>,
}

/// The status of a source on this node.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct SourceStatus {
    /// Its name.
    pub name: Arc<str>,
    /// Its kind.
    pub kind: String,
    /// Whether messages are sent to its destination.
    pub breaker: BreakerState,
    /// The code of the last error while it is open, or `blocked`; details are in the log.
    pub last_error: Option<Cow<'static, str>>,
    /// Messages under way.
    pub in_flight: u64,
}

/// Whether a source's messages are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum BreakerState {
    /// They are.
    Closed,
    /// The destination can't be reached, and one message per probe is tried.
    Open,
    /// The destination asked not to be sent anything.
    Blocked,
}

/// What a handle leads to.
#[derive(Debug)]
pub(super) struct Inner {
    pub(super) node: Arc<Node>,
    pub(super) intake: Arc<Intake>,
    pub(super) upkeep: Arc<Upkeep>,
    /// The project of rows that name none, where it is a different one.
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

    /// Rings the alarm whenever the store says that rows were added.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_breaker_is_shown_by_its_word() {
        let shown = serde_json::to_value([BreakerState::Closed, BreakerState::Open, BreakerState::Blocked]).unwrap();
        assert_eq!(shown, serde_json::json!(["closed", "open", "blocked"]));
    }
}

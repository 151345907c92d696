//! What the parts of an engine share.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::alarm::Alarm;
use super::health::StoreHealth;
use super::lane::Lanes;
use super::lease::Ledger;
use crate::clock::StoreClock;
use crate::store::Store;
use crate::telemetry::metrics::Metrics;

/// This node, as every part of its engine knows it.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) project: Arc<str>,
    pub(super) store: Arc<dyn Store>,
    pub(super) clock: Arc<StoreClock>,
    pub(super) health: StoreHealth,
    pub(super) ledger: Ledger,
    pub(super) lanes: Lanes,
    pub(super) alarm: Alarm,
    pub(super) metrics: Arc<Metrics>,
    /// Whether this node sends; one that only accepts serves no source.
    pub(super) sends: bool,
    /// Cancelled when nothing more may be claimed or sent.
    pub(super) stopping: CancellationToken,
    /// The tasks of the engine.
    pub(super) tracker: TaskTracker,
}

impl Node {
    /// Whether a message may be sent from memory.
    pub(super) fn may_send(&self) -> bool {
        self.sends && !self.stopping.is_cancelled()
    }
}

//! The engine: accepts messages, sends what is due and records the outcomes.
//!
//! Every message takes the same path: intake (or a claim by the poller) → lane → dispatcher → source → completer → store.

mod alarm;
mod breaker;
mod committer;
mod completer;
pub mod config;
mod dispatcher;
mod drain;
mod feed;
mod handle;
mod health;
mod intake;
mod lane;
mod lease;
mod levels;
mod loops;
mod memory;
mod node;
mod pipe;
mod poller;
mod portion;
#[doc(hidden)]
pub mod purge;
pub mod submission;
mod unbroken;
mod upkeep;
mod walk;
mod window;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::runtime::Handle as Runtime;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::StoreClock;
use crate::source::{Options, Sender};
use crate::store::{Guard, Store};
use crate::telemetry::metrics::Metrics;

use alarm::Alarm;
use committer::{Backlog, Committer};
use completer::Completer;
use dispatcher::Dispatcher;
use feed::Feed;
use handle::Inner;
use health::StoreHealth;
use intake::Intake;
use lane::{Lane, Lanes};
use lease::Ledger;
use loops::Loops;
use memory::Memory;
use node::Node;
use poller::Poller;
use purge::Purge;
use upkeep::Upkeep;

pub use config::Config;
#[doc(hidden)]
pub use handle::Work;
pub use handle::{BreakerState, Handle, SourceStatus, Status};
#[doc(hidden)]
pub use loops::Panic;
pub use submission::{Accepted, Refusal, Submission};

// What the fields of a submission take.
pub use crate::message::{Headers, Key};
pub use crate::retry::Config as Retry;
pub use crate::source::options::Mode;
pub use crate::store::Due;
pub use crate::units::Limit;

/// How long a producer should wait before it tries again.
pub const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Committers and writers that run at the same time: the next batch gathers while the last one is written.
const COMMITTERS: usize = 2;
const WRITERS: usize = 2;

/// A source as it is handed to the engine.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SourceSpec {
    /// Its name in the configuration.
    pub name: Arc<str>,
    /// Its kind, for display.
    pub kind: String,
    /// The options that every source has.
    pub options: Options,
    /// The sender.
    pub sender: Sender,
}

/// What an engine is made of.
#[doc(hidden)]
#[derive(Debug)]
pub struct Parts {
    /// The project.
    pub project: Arc<str>,
    /// The name of this node, in leases and in the attempt log; two nodes that run at the same time must not share one.
    pub node: Arc<str>,
    /// The resend log, not yet prepared.
    pub store: Arc<dyn Store>,
    /// What keeps other processes from serving the same store, where only one may; held for as long as a part of the engine runs.
    pub guard: Option<Guard>,
    /// The sources.
    pub sources: Vec<SourceSpec>,
    /// The configuration of the engine.
    pub config: Config,
    /// The metrics.
    pub metrics: Arc<Metrics>,
}

/// A running engine. If it is dropped, everything stops at once; what was under way is sent again when its lease has run out.
#[doc(hidden)]
#[derive(Debug)]
pub struct Engine {
    handle: Handle,
    loops: Loops,
    /// Cancelled when outcomes that the store refuses are no longer retried.
    settling: CancellationToken,
    /// Cancelled when the loops other than sending should end.
    ending: CancellationToken,
    /// Cancelled when nothing is waited for any longer.
    abandon: CancellationToken,
    runtime: Runtime,
    /// Whether everything was closed in good order.
    is_finished: bool,
}

impl Engine {
    /// Starts the engine without waiting for anything: the store is prepared as soon as it answers, and destinations may be down.
    pub fn start(parts: Parts) -> Self {
        let Parts { project, node: name, store, guard, sources, config, metrics } = parts;
        let (ending, abandon, clock) = (CancellationToken::new(), CancellationToken::new(), Arc::new(StoreClock::default()));
        let memory = Arc::new(Memory::new(config.limits.in_flight.bytes(), sources.len()));
        let lane = |spec: SourceSpec| {
            let counters = metrics.lane(&spec.name);
            Lane::new(spec, counters, memory.clone())
        };
        let lanes: Vec<_> = sources.into_iter().map(lane).collect();
        let node = Arc::new(Node {
            project,
            store,
            health: StoreHealth::default(),
            ledger: Ledger::new(name, config.poller.lease.get(), clock.clone()),
            clock,
            lanes: Lanes(lanes.iter().map(|(lane, _)| (lane.name().clone(), lane.clone())).collect()),
            alarm: Alarm::default(),
            metrics,
            sends: config.poller.enabled,
            stopping: CancellationToken::new(),
            tracker: TaskTracker::new(),
        });
        let (reports, queue) = mpsc::unbounded_channel();
        let committer =
            Arc::new(Committer { node: node.clone(), keep_keys: config.idempotency.keep.get(), backlog: Backlog::new(config.limits.intake.bytes()) });
        let settling = node.stopping.child_token();
        let completer =
            Arc::new(Completer { node: node.clone(), keep: config.history.keep.clone(), reports: Feed::new(queue), settling: settling.clone() });
        let poller = Arc::new(Poller { node: node.clone(), options: config.poller, reports: reports.clone() });
        let upkeep = Arc::new(Upkeep::new(node.clone(), config.history.keep.clone()));
        let purge = Purge { store: node.store.clone(), project: node.project.clone(), history: config.history };

        let loops = Loops::new(node.tracker.clone(), guard);
        for (lane, jobs) in lanes {
            let dispatcher = Dispatcher { node: node.clone(), lane, reports: reports.clone(), abandon: abandon.clone() };
            loops.spawn(&abandon, dispatcher.run(jobs));
        }
        for _ in 0..COMMITTERS {
            loops.spawn(&abandon, committer.clone().run());
        }
        for _ in 0..WRITERS {
            loops.spawn(&abandon, completer.clone().run(StdRng::from_rng(&mut rand::rng())));
        }
        loops.spawn(&abandon, node.clone().keep_leases());
        let abandoned = abandon.clone();
        let (commits, outcomes) = (committer.clone(), completer.clone());
        loops.spawn(&CancellationToken::new(), async move {
            abandoned.cancelled().await;
            commits.close().await;
            outcomes.reports.close().await;
        });
        let intake = Arc::new(Intake { node: node.clone(), committer, reports, closed: CancellationToken::new(), abandon: abandon.clone() });
        let inner = Arc::new(Inner { node, intake, upkeep, other_project: Mutex::default() });
        let (start, stop, last, spawn) = (inner.clone(), ending.clone(), abandon.clone(), loops.clone());
        loops.spawn(&ending, async move {
            start.prepare().await;
            spawn.spawn(&stop, purge.keep(start.node.clone(), stop.clone()));
            spawn.spawn(&last, start.upkeep.clone().run(stop.clone()));
            if start.node.sends {
                for lane in start.node.lanes.iter() {
                    spawn.spawn(&last, poller.clone().claim(lane.clone()));
                }
                spawn.spawn(&stop, async move { start.listen().await });
                poller.scout().await;
            }
        });
        Self { handle: Handle { inner }, loops, settling, ending, abandon, runtime: Runtime::current(), is_finished: false }
    }

    /// The handle through which the engine is used.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Whether no message is held under a lease or about to be, and none is waiting to be committed.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        // In this order: the messages of a claim are held before the claim ends.
        let node = self.handle.node();
        let claims = node.lanes.iter().any(|lane| lane.levels.is_claiming());
        !claims && node.ledger.is_empty() && !self.handle.inner.intake.committer.is_busy() && self.handle.in_flight() == 0
    }

    /// The number of messages held under a lease.
    #[must_use]
    pub fn held(&self) -> usize {
        self.handle.node().ledger.len()
    }

    /// Waits until a part of the engine has panicked. The engine is broken then; other nodes take over the messages that it holds under a lease.
    pub async fn panicked(&self) -> Panic {
        self.loops.panicked().await
    }

    /// Stops claims and first sends; messages that still come in are committed and left pending.
    pub fn stop_sending(&self) {
        self.handle.node().stopping.cancel();
    }

    /// From now on an outcome that the store refuses is given up at once; its message is sent again later.
    pub fn give_up_refused(&self) {
        self.settling.cancel();
    }

    /// Stops accepting messages.
    pub fn close_intake(&self) {
        self.handle.inner.intake.closed.cancel();
    }

    /// Waits until nothing is under way, until `deadline` at the latest, then releases everything. Other nodes find what is left when its lease
    /// expires. Returns the number of messages left; a panic in a part of the engine goes on here.
    pub async fn finish(mut self, deadline: Instant) -> usize {
        self.stop_sending();
        self.close_intake();
        let idle = async {
            while !self.is_idle() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let panic = tokio::select! {
            // One that came before counts, even if nothing is left.
            biased;
            panic = self.panicked() => Some(panic),
            _ = tokio::time::timeout_at(deadline, idle) => None,
        };
        self.ending.cancel();
        let left = self.held();
        let Inner { node, upkeep, .. } = &*self.handle.inner;
        let within = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(100));
        node.lanes.close(within).await;
        // A failure here is harmless: the node is considered dead a few seconds later anyway.
        let goodbye = node.store.sign_off(&node.project, &upkeep.process);
        let _ = tokio::time::timeout(within.min(Duration::from_secs(2)), goodbye).await;
        self.abandon.cancel();
        node.tracker.close();
        let _ = tokio::time::timeout(Duration::from_secs(1), node.tracker.wait()).await;
        let _ = tokio::time::timeout(Duration::from_secs(2), node.store.close()).await;
        self.is_finished = true;
        if let Some(panic) = panic {
            std::panic::resume_unwind(panic);
        }
        left
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.stop_sending();
        self.close_intake();
        self.ending.cancel();
        self.abandon.cancel();
        // Whoever keeps a handle keeps the senders and the store.
        if !self.is_finished {
            let (_runtime, node) = (self.runtime.enter(), self.handle.inner.node.clone());
            self.loops.spawn(&CancellationToken::new(), async move {
                node.lanes.close(Duration::ZERO).await;
                node.store.close().await;
            });
        }
    }
}

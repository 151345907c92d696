//! The engine: takes messages in, sends what is due, writes down what came of it.
//!
//! A message has one way through: intake (or a claim by the poller) → lane → dispatcher → source → completer → store.

mod alarm;
mod breaker;
mod committer;
mod completer;
pub mod config;
mod dispatcher;
mod feed;
mod health;
mod intake;
mod lane;
mod lease;
mod levels;
mod memory;
mod poller;
pub mod purge;
pub mod submission;
mod unbroken;
mod upkeep;
mod walk;
mod window;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::clock::StoreClock;
use crate::fault::Fault;
use crate::source::options::Mode;
use crate::source::{Options, Sender};
use crate::store::{self, Changed, Store};
use crate::telemetry::metrics::Metrics;

use alarm::Alarm;
use committer::{Backlog, Committer};
use completer::Completer;
use dispatcher::Dispatcher;
use feed::Feed;
use health::StoreHealth;
use intake::Intake;
use lane::Lane;
use lease::Ledger;
use memory::Memory;
use poller::Poller;
use upkeep::Upkeep;

pub use config::Config;
pub use submission::{Accepted, Refusal, Submission};

/// How long a producer should wait before it tries again.
pub const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Committers and writers that run at once: the next batch gathers while the last is written.
const COMMITTERS: usize = 2;
const WRITERS: usize = 2;
/// How long to wait before a store that was not ready is prepared again.
const PREPARE_EVERY: Duration = Duration::from_secs(1);

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

/// All lanes of a node, by the name of their source.
#[derive(Debug)]
struct Lanes(BTreeMap<Arc<str>, Arc<Lane>>);

impl Lanes {
    fn get(&self, source: &str) -> Option<&Arc<Lane>> {
        self.0.get(source)
    }

    fn names(&self) -> Vec<Arc<str>> {
        self.0.keys().cloned().collect()
    }

    fn iter(&self) -> impl Iterator<Item = &Arc<Lane>> {
        self.0.values()
    }
}

/// What an engine is made of.
#[derive(Debug)]
pub struct Parts {
    /// The project.
    pub project: Arc<str>,
    /// The name of this node; two that run at once must not share one.
    pub node: Arc<str>,
    /// The resend log, not prepared yet.
    pub store: Arc<dyn Store>,
    /// The sources.
    pub sources: Vec<SourceSpec>,
    /// What the engine takes.
    pub config: Config,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

/// A running engine.
#[derive(Debug)]
pub struct Engine {
    handle: Handle,
    ledger: Arc<Ledger>,
    tracker: TaskTracker,
    /// Cancelled when the loops beside sending shall end.
    ending: CancellationToken,
    /// Cancelled when nothing is waited for any more.
    abandon: CancellationToken,
}

/// The way into a running engine; cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    project: Arc<str>,
    store: Arc<dyn Store>,
    health: Arc<StoreHealth>,
    lanes: Arc<Lanes>,
    intake: Arc<Intake>,
    upkeep: Arc<Upkeep>,
    alarm: Arc<Alarm>,
    stopping: CancellationToken,
    closed: CancellationToken,
    /// The project of rows that name none, where it is not ours.
    other_project: Mutex<Option<String>>,
}

impl Engine {
    /// Starts the engine. It need not wait for anything: the store is prepared as soon as it answers, and destinations may be down.
    ///
    /// # Errors
    /// Every fault of the configuration that shows only here.
    pub fn start(parts: Parts) -> Result<Self, Vec<Fault>> {
        let Parts { project, node, store, sources, config, metrics } = parts;
        let (clock, health, alarm) = (Arc::new(StoreClock::default()), Arc::new(StoreHealth::default()), Arc::new(Alarm::default()));
        let (stopping, closed, ending, abandon) =
            (CancellationToken::new(), CancellationToken::new(), CancellationToken::new(), CancellationToken::new());
        let tracker = TaskTracker::new();
        let ledger = Arc::new(Ledger::new(node, config.poller.lease.get(), clock.clone()));
        let memory = Arc::new(Memory::new(config.limits.in_flight.bytes(), sources.len()));
        let (reports, queue) = mpsc::unbounded_channel();

        let (mut lanes, mut dispatchers, mut faults) = (BTreeMap::new(), Vec::new(), Vec::new());
        for spec in sources {
            let counters = metrics.lane(&spec.name);
            match Lane::new(spec, counters, memory.clone()) {
                Ok((lane, jobs)) => {
                    let dispatcher = Dispatcher {
                        lane: lane.clone(),
                        clock: clock.clone(),
                        reports: reports.clone(),
                        tracker: tracker.clone(),
                        stopping: stopping.clone(),
                    };
                    dispatchers.push((dispatcher, jobs));
                    lanes.insert(lane.name().clone(), lane);
                }
                Err(more) => faults.extend(more),
            }
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        let lanes = Arc::new(Lanes(lanes));
        let sends = config.poller.enabled;
        let committer = Arc::new(Committer {
            project: project.clone(),
            store: store.clone(),
            clock: clock.clone(),
            health: health.clone(),
            ledger: ledger.clone(),
            alarm: alarm.clone(),
            keep_keys: config.idempotency.keep.get(),
            sends,
            stopping: stopping.clone(),
            backlog: Backlog::new(config.limits.intake.bytes()),
        });
        let intake = Arc::new(Intake {
            committer: committer.clone(),
            lanes: lanes.clone(),
            reports: reports.clone(),
            tracker: tracker.clone(),
            closed: closed.clone(),
        });
        let completer = Arc::new(Completer {
            store: store.clone(),
            clock: clock.clone(),
            health: health.clone(),
            ledger: ledger.clone(),
            keep: config.history.keep.clone(),
            reports: Feed::new(queue),
            alarm: alarm.clone(),
            abandon: abandon.clone(),
        });
        let poller = Arc::new(Poller {
            project: project.clone(),
            store: store.clone(),
            clock,
            health: health.clone(),
            ledger: ledger.clone(),
            lanes: lanes.clone(),
            alarm: alarm.clone(),
            options: config.poller.clone(),
            reports,
            stopping: stopping.clone(),
        });
        let upkeep = Arc::new(Upkeep {
            project: project.clone(),
            store: store.clone(),
            health: health.clone(),
            ledger: ledger.clone(),
            lanes: lanes.clone(),
            metrics: metrics.clone(),
            keep: config.history.keep.clone(),
            sends,
            unserved: Mutex::default(),
        });
        let purge = purge::Purge { store: store.clone(), project: project.clone(), history: config.history };
        let inner = Inner {
            project,
            store: store.clone(),
            health: health.clone(),
            lanes: lanes.clone(),
            intake,
            upkeep: upkeep.clone(),
            alarm: alarm.clone(),
            stopping,
            closed,
            other_project: Mutex::default(),
        };
        let handle = Handle { inner: Arc::new(inner) };

        for (dispatcher, jobs) in dispatchers {
            tracker.spawn(until(abandon.clone(), dispatcher.run(jobs)));
        }
        for _ in 0..COMMITTERS {
            tracker.spawn(until(abandon.clone(), committer.clone().run()));
        }
        for _ in 0..WRITERS {
            tracker.spawn(until(abandon.clone(), completer.clone().run(StdRng::from_rng(&mut rand::rng()))));
        }
        tracker.spawn(until(abandon.clone(), ledger.clone().keep(store.clone(), health.clone(), abandon.clone())));
        let start = handle.clone();
        let (stop, spawn) = (ending.clone(), tracker.clone());
        tracker.spawn(until(ending.clone(), async move {
            start.prepare().await;
            spawn.spawn(until(stop.clone(), purge.keep(metrics, health, stop.clone())));
            spawn.spawn(upkeep.run(stop.clone()));
            if sends {
                for lane in lanes.iter() {
                    spawn.spawn(poller.clone().claim(lane.clone()));
                }
                let wakes = start.inner.clone();
                spawn.spawn(until(stop, async move { wakes.listen().await }));
                poller.scout().await;
            }
        }));
        Ok(Self { handle, ledger, tracker, ending, abandon })
    }

    /// The way in.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Whether nothing is held under a lease and nothing waits to be committed.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.held() == 0 && !self.handle.inner.intake.committer.is_busy() && self.handle.in_flight() == 0
    }

    /// How many messages are held under a lease.
    #[must_use]
    pub fn held(&self) -> usize {
        self.ledger.len()
    }

    /// Stops claims and first sends; what comes in is committed and left pending.
    pub fn stop_sending(&self) {
        self.handle.inner.stopping.cancel();
    }

    /// Takes nothing more in.
    pub fn close_intake(&self) {
        self.handle.inner.closed.cancel();
    }

    /// Waits until nothing is under way, `deadline` at the latest, then lets go of everything. What is left is found by others when its
    /// lease runs out. Answers how many messages that were.
    pub async fn finish(self, deadline: Instant) -> usize {
        self.stop_sending();
        self.close_intake();
        let idle = async {
            while !self.is_idle() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let _ = tokio::time::timeout_at(deadline, idle).await;
        self.ending.cancel();
        let left = self.ledger.len();
        let inner = &self.handle.inner;
        let within = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(100));
        futures::future::join_all(inner.lanes.iter().map(|lane| lane.spec.sender.close(within))).await;
        // A failure here costs nothing: the node is held for dead a few seconds later all the same.
        let goodbye = inner.store.sign_off(&inner.project, self.ledger.node());
        let _ = tokio::time::timeout(within.min(Duration::from_secs(2)), goodbye).await;
        self.abandon.cancel();
        self.tracker.close();
        let _ = tokio::time::timeout(Duration::from_secs(1), self.tracker.wait()).await;
        let _ = tokio::time::timeout(Duration::from_secs(2), inner.store.close()).await;
        left
    }
}

async fn until(stop: CancellationToken, work: impl Future<Output = ()>) {
    tokio::select! {
        () = work => {}
        () = stop.cancelled() => {}
    }
}

impl Inner {
    /// Lets the store's own wake-ups ring the alarm.
    async fn listen(&self) {
        let wake = Arc::new(tokio::sync::Notify::new());
        let ring = async {
            loop {
                wake.notified().await;
                self.alarm.ring_by(Instant::now());
            }
        };
        tokio::select! {
            () = self.store.listen(&self.project, wake.clone()) => {}
            () = ring => {}
        }
    }
}

impl Handle {
    /// Prepares the store, however long it is away.
    async fn prepare(&self) {
        let inner = &self.inner;
        loop {
            match inner.store.prepare().await {
                Ok(prepared) => {
                    for version in &prepared.applied {
                        tracing::info!(migration = %version, "migrated");
                    }
                    let other = prepared.default_project.filter(|default| **default != *inner.project);
                    if let Some(other) = &other {
                        tracing::warn!(project = %inner.project, default_project = %other,
                            "rows that are inserted without a project belong to another one than this node serves");
                    }
                    *inner.other_project.lock().unwrap_or_else(PoisonError::into_inner) = other;
                    inner.health.answered();
                    tracing::info!(store.server = %prepared.server, "the store is ready");
                    return;
                }
                Err(error) => inner.health.failed("prepare", &error),
            }
            tokio::time::sleep(PREPARE_EVERY).await;
        }
    }

    /// The project.
    #[must_use]
    pub fn project(&self) -> &Arc<str> {
        &self.inner.project
    }

    /// The resend log, for looking at it.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.inner.store
    }

    /// The source of this name, if the configuration has one.
    #[must_use]
    pub fn source(&self, name: &str) -> Option<&SourceSpec> {
        self.inner.lanes.get(name).map(|lane| &lane.spec)
    }

    /// How a message of this source is taken when it says nothing about it.
    #[must_use]
    pub fn mode(&self, name: &str) -> Option<Mode> {
        self.source(name).map(|source| source.options.mode)
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
        let changed = self.inner.store.retry(&self.inner.project, ids).await?;
        self.inner.alarm.ring_by(Instant::now());
        Ok(changed)
    }

    /// Gives up messages; in order of `ids`.
    pub async fn cancel(&self, ids: Vec<Uuid>) -> Result<Vec<Changed>, store::Error> {
        self.inner.store.cancel(&self.inner.project, ids).await
    }

    /// Replaces the payload of a failed message.
    pub async fn replace_payload(&self, id: Uuid, payload: Bytes) -> Result<Changed, store::Error> {
        self.inner.store.replace_payload(&self.inner.project, id, payload).await
    }

    /// How many messages are under way on this node.
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        self.inner.lanes.iter().map(|lane| lane.status().in_flight).sum()
    }

    /// Gives rows that lack a project or a due time what they lack, and fails those that nobody can claim: what is else done now and then.
    pub async fn sort_out(&self) {
        self.inner.upkeep.sort_out().await;
    }

    /// What is due in the table, for a run that ends when nothing is left to do.
    pub async fn work(&self) -> Result<Work, store::Error> {
        let lanes = &self.inner.lanes;
        let queues = lanes.names().into_iter().map(store::Queues::all).collect();
        let upcoming = store::Upcoming { project: self.inner.project.clone(), queues, horizon: Duration::ZERO };
        let outlook = self.inner.store.upcoming(upcoming).await?;
        let due = outlook.due.iter().filter(|due| due.at <= outlook.now).filter_map(|due| lanes.get(&due.source));
        let (unreachable, reachable): (Vec<_>, Vec<_>) = due.partition(|lane| lane.is_held_back());
        Ok(Work { sendable: outlook.lapsed || !reachable.is_empty(), unreachable: !unreachable.is_empty() })
    }

    /// Waits until the store is ready.
    pub async fn store_is_ready(&self) {
        self.inner.health.is_back().await;
    }

    /// How the node is doing: what `/readyz` says.
    #[allow(clippy::unused_async, reason = "asking the store may come to belong here")]
    pub async fn status(&self) -> Status {
        let inner = &self.inner;
        let store = inner.health.word();
        let draining = inner.stopping.is_cancelled();
        let mut warnings = Vec::new();
        if let Some(other) = &*inner.other_project.lock().unwrap_or_else(PoisonError::into_inner) {
            warnings.push(format!("rows inserted without a project belong to project `{other}`, not to `{}`", inner.project));
        }
        for row in &*inner.upkeep.unserved.lock().unwrap_or_else(PoisonError::into_inner) {
            let (project, source, seconds) = (&row.project, &row.source, row.oldest.as_secs());
            warnings.push(format!("messages of project `{project}`, source `{source}` wait since {seconds} s and no live node serves them"));
        }
        let sources = inner.lanes.iter().map(|lane| lane.status()).collect();
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

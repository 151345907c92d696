//! A lane: everything that belongs to one source on this node, its budget, breaker, sender and counters. A dead destination blocks only its own lane.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;

use super::breaker::{Allows, Breaker, Change};
use super::dispatcher::Job;
use super::levels::Levels;
use super::memory::{Budget, Memory};
use super::window::Window;
use super::{BreakerState, SourceSpec, SourceStatus};
use crate::outcome::{Class, MAX_DETAIL, Outcome, cut};
use crate::retry::{self, Policy};
use crate::source::Sender;
use crate::store::Queues;
use crate::telemetry::metrics::LaneMetrics;
use crate::units::millis;

/// How many messages are under way at once by default, for senders that pipeline and for those that take one at a time.
const PIPELINED_IN_FLIGHT: u32 = 10_000;
const SINGLE_IN_FLIGHT: u32 = 64;

/// How long a send should take at most with a sender that pipelines and has no configured timeout; with one, a quarter of it.
const PATIENCE: Duration = Duration::from_millis(2500);
/// Extra time that a source gets to close, beyond the time it was given.
const CLOSES_WITHIN: Duration = Duration::from_secs(2);
/// How long a claim waits for all the places that it asks for.
const GATHER: Duration = Duration::from_millis(50);

/// A place in a lane, and the memory of the message in it. Both are released when it is dropped; the memory may be released earlier.
#[derive(Debug)]
pub(super) struct Place {
    permit: Option<OwnedSemaphorePermit>,
    lane: Arc<Lane>,
    bytes: usize,
}

impl Place {
    /// Releases the memory, as the payload is no longer held; the place stays taken until the outcome is written.
    pub(super) fn release_memory(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        if bytes > 0 {
            self.lane.budget.give_back(bytes);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.release_memory();
        self.lane.metrics.in_flight.dec();
        self.permit = None;
        // A claimer may be waiting for places where there are few.
        if !self.lane.window.is_full() {
            self.lane.wake.notify_one();
        }
    }
}

/// Everything that belongs to one source on this node.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) spec: SourceSpec,
    pub(super) policy: Policy,
    pub(super) metrics: LaneMetrics,
    /// Wakes the lane's claimer.
    pub(super) wake: Notify,
    places: Arc<Semaphore>,
    capacity: u32,
    budget: Budget,
    breaker: Mutex<Breaker>,
    last_error: Mutex<Option<Cow<'static, str>>>,
    /// Whether the source was blocked when it was last looked at.
    was_blocked: AtomicBool,
    window: Window,
    /// Whether something is due in the table but the window has no room for it.
    claim_waits: AtomicBool,
    jobs: mpsc::UnboundedSender<Job>,
    pub(super) levels: Levels,
}

impl Lane {
    /// A lane, and the queue that feeds its dispatcher. The queue is bounded by the lane's places.
    pub(super) fn new(spec: SourceSpec, metrics: LaneMetrics, memory: Arc<Memory>) -> (Arc<Self>, mpsc::UnboundedReceiver<Job>) {
        let (default, patience) = match spec.sender {
            Sender::Pipelined(_) => (PIPELINED_IN_FLIGHT, Some(spec.options.timeout.map_or(PATIENCE, |timeout| timeout.get() / 4))),
            Sender::Each(_) => (SINGLE_IN_FLIGHT, None),
        };
        let capacity = spec.options.in_flight.unwrap_or(default).max(1);
        let (jobs, queue) = mpsc::unbounded_channel();
        let lane = Self {
            policy: Policy::of(&spec.options.retry),
            metrics,
            wake: Notify::new(),
            places: Arc::new(Semaphore::new(capacity as usize)),
            capacity,
            budget: Budget::of(memory),
            breaker: Mutex::new(Breaker::new(&spec.options.breaker, Instant::now())),
            last_error: Mutex::new(None),
            was_blocked: AtomicBool::new(false),
            window: Window::new(capacity, patience, Instant::now()),
            claim_waits: AtomicBool::new(false),
            jobs,
            levels: Levels::default(),
            spec,
        };
        (Arc::new(lane), queue)
    }

    pub(super) fn name(&self) -> &Arc<str> {
        &self.spec.name
    }

    /// A place for a first send, if one is free, the destination is not known to be away, and memory allows it.
    pub(super) fn try_enter(self: &Arc<Self>, bytes: usize) -> Option<Place> {
        if self.is_held_back() || !self.budget.has_room(bytes) {
            return None;
        }
        // A claim needs many places at once: first sends that took each one as it becomes free would leave it none.
        if self.in_flight() >= self.window.size() || (self.claim_waits.load(Ordering::Relaxed) && !self.window.is_full()) {
            return None;
        }
        let permit = self.places.clone().try_acquire_owned().ok()?;
        Some(self.enter(permit, bytes))
    }

    /// How many messages a claim may bring now, at most `batch`.
    pub(super) fn claim_count(&self, batch: u32) -> u32 {
        let most = batch.min(self.capacity.div_ceil(2));
        if self.window.is_full() { most } else { most.min(self.window.room(self.in_flight())) }
    }

    /// Records whether a claim is waiting for room.
    pub(super) fn claim_waits(&self, waits: bool) {
        self.claim_waits.store(waits, Ordering::Relaxed);
    }

    fn in_flight(&self) -> u32 {
        self.capacity.saturating_sub(u32::try_from(self.places.available_permits()).unwrap_or(u32::MAX))
    }

    /// Waits for places for a claim: for a moment for all of them, so that claims are large, then for whatever is free, so that slow sends do not
    /// hold up the others. Never `None`, as the semaphore is never closed.
    pub(super) async fn reserve(&self, count: u32) -> Option<OwnedSemaphorePermit> {
        self.budget.has_reserve().await;
        let count = count.clamp(1, self.capacity);
        if let Ok(all) = tokio::time::timeout(GATHER, self.places.clone().acquire_many_owned(count)).await {
            return all.ok();
        }
        let mut places = self.places.clone().acquire_owned().await.ok()?;
        let more = (count - 1).min(u32::try_from(self.places.available_permits()).unwrap_or(u32::MAX));
        if let Ok(more) = self.places.clone().try_acquire_many_owned(more) {
            places.merge(more);
        }
        Some(places)
    }

    /// How many bytes a claim may bring: a quarter of what is free, so that lanes that claim at the same time stay within the limit together.
    pub(super) fn claim_bytes(&self) -> usize {
        self.budget.free() / 4
    }

    /// Whether nothing but a probe may be sent.
    pub(super) fn is_held_back(&self) -> bool {
        self.is_open() || self.spec.sender.blocked().is_some()
    }

    /// Updates the metric of that, and logs why a source is blocked: it is so whether or not anything is sent.
    pub(super) fn show_held_back(&self) {
        let blocked = self.spec.sender.blocked();
        self.metrics.breaker.set(i64::from(self.is_open() || blocked.is_some()));
        if self.was_blocked.swap(blocked.is_some(), Ordering::Relaxed) != blocked.is_some() {
            let source = self.name();
            if let Some(reason) = &blocked {
                tracing::warn!(source.name = %source, error.detail = cut(reason, MAX_DETAIL), "the source is blocked; its messages wait");
            } else {
                tracing::info!(source.name = %source, "the source is no longer blocked; its messages are sent");
            }
        }
    }

    /// Occupies a reserved place.
    pub(super) fn enter(self: &Arc<Self>, permit: OwnedSemaphorePermit, bytes: usize) -> Place {
        self.budget.take(bytes);
        self.metrics.in_flight.inc();
        Place { permit: Some(permit), lane: self.clone(), bytes }
    }

    /// Hands a job to the dispatcher.
    pub(super) fn dispatch(&self, job: Job) {
        // If the dispatcher has been aborted, the job is dropped and its lease expires.
        let _ = self.jobs.send(job);
    }

    /// Records levels that have something due, and wakes the claimer.
    pub(super) fn due(&self, levels: u16) {
        self.levels.due(levels);
        self.wake.notify_one();
    }

    /// The queues that the scout should look at.
    pub(super) fn unknown(&self) -> Queues {
        let all = Queues::all(self.spec.name.clone());
        Queues { levels: all.levels & self.levels.unknown(), ..all }
    }

    /// What the breaker allows now.
    pub(super) fn allows(&self) -> Allows {
        self.breaker().allows(Instant::now())
    }

    /// A claimed message ended, or was handed back, without a send: behind an open breaker the next message becomes the probe.
    pub(super) fn probe_unused(&self) {
        if self.breaker().probe_unused(Instant::now()) {
            self.wake.notify_one();
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.breaker().is_open()
    }

    /// The outcome in a form that every database can store, with the class that the source's `outcomes` option gives to its code.
    pub(super) fn received(&self, outcome: Outcome) -> Outcome {
        let mut outcome = outcome.fitted();
        if let Some(class) = self.spec.options.outcomes.get(outcome.code.as_ref()) {
            outcome.class = *class;
        }
        outcome
    }

    /// Records the outcome of a send that began at `began` and ended at `now`, for the breaker and the counters.
    pub(super) fn note(&self, outcome: &Outcome, began: Instant, now: Instant) {
        self.count(outcome.class);
        let took = now.duration_since(began);
        self.metrics.send_seconds.observe(took.as_secs_f64());
        if outcome.class == Class::Succeeded {
            self.metrics.last_success.set(unix_seconds());
        }
        let unreachable = outcome.class == Class::Unreachable;
        if !outcome.asked && !unreachable {
            return self.probe_unused();
        }
        if unreachable {
            self.window.ended(took, now);
        } else if self.window.answered(took, now) {
            self.wake.notify_one();
        }
        let change = self.breaker().note(unreachable, began, now);
        if let Some(change) = change {
            self.report(change, outcome);
        }
    }

    /// A send was cut off, which says nothing about the destination.
    pub(super) fn note_cut(&self, outcome: &Outcome) {
        self.count(outcome.class);
        self.probe_unused();
    }

    fn count(&self, class: Class) {
        let counter = match class {
            Class::Succeeded => &self.metrics.succeeded,
            Class::Permanent => &self.metrics.permanent,
            Class::Refused => &self.metrics.refused,
            Class::Unreachable => &self.metrics.unreachable,
        };
        counter.inc();
    }

    /// A lease of this source expired without a report.
    pub(super) fn note_lost(&self) {
        self.metrics.lost.inc();
    }

    fn report(&self, change: Change, outcome: &Outcome) {
        let source = self.name();
        self.show_held_back();
        match change {
            Change::Opened(count) => {
                self.window.lost();
                *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome.code.clone());
                tracing::warn!(source.name = %source, error.code = &*outcome.code, error.detail = outcome.detail, attempts = count,
                    probe_ms = millis(self.spec.options.breaker.probe.get()),
                    "the destination can't be reached; its messages wait, and one is tried per probe");
            }
            Change::StillOpen { failed, since } => {
                tracing::warn!(source.name = %source, error.code = &*outcome.code, error.detail = outcome.detail, probes.failed = failed,
                    since_ms = millis(since), "the destination still can't be reached");
            }
            Change::Closed { after } => {
                *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) = None;
                tracing::info!(source.name = %source, after_ms = millis(after), "the destination is back; its messages are sent");
                self.wake.notify_one();
            }
        }
    }

    /// The status of the lane.
    pub(super) fn status(&self) -> SourceStatus {
        let blocked = self.spec.sender.blocked().is_some();
        let breaker = if self.is_open() {
            BreakerState::Open
        } else if blocked {
            BreakerState::Blocked
        } else {
            BreakerState::Closed
        };
        // Details belong in the log only: they may name hosts and users, or be what a command wrote to its stderr.
        let last_error = if blocked { Some("blocked".into()) } else { self.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone() };
        SourceStatus { name: self.name().clone(), kind: self.spec.kind.clone(), breaker, last_error, in_flight: u64::from(self.in_flight()) }
    }

    /// The policy for a message that overrides parts of it.
    pub(super) fn policy_for(&self, overrides: Option<&retry::Config>) -> Cow<'_, Policy> {
        overrides.map_or(Cow::Borrowed(&self.policy), |overrides| Cow::Owned(self.policy.with(overrides)))
    }

    fn breaker(&self) -> std::sync::MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All lanes of a node, by the name of their source.
#[derive(Debug)]
pub(super) struct Lanes(pub(super) BTreeMap<Arc<str>, Arc<Lane>>);

impl Lanes {
    pub(super) fn get(&self, source: &str) -> Option<&Arc<Lane>> {
        self.0.get(source)
    }

    pub(super) fn names(&self) -> Vec<Arc<str>> {
        self.0.keys().cloned().collect()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Lane>> {
        self.0.values()
    }

    /// Closes the senders, which have this time. A custom source may ignore that, or panic.
    pub(super) async fn close(&self, within: Duration) {
        let closing = self.iter().map(|lane| AssertUnwindSafe(lane.spec.sender.close(within)).catch_unwind());
        let _ = tokio::time::timeout(within + CLOSES_WITHIN, futures::future::join_all(closing)).await;
    }
}

#[allow(clippy::cast_precision_loss, reason = "milliseconds since 1970 fit 53 bits for 285 millennia")]
fn unix_seconds() -> f64 {
    chrono::Utc::now().timestamp_millis() as f64 / 1000.0
}

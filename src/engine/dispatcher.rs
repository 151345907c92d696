//! Passes held messages to the source's sender: one dispatcher per lane.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures::FutureExt;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::completer::{Ending, Report};
use super::lane::{Lane, Place};
use super::lease::Term;
use super::node::Node;
use super::pipe::Pipe;
use crate::clock;
use crate::message::{Message, Standing, State};
use crate::outcome::Outcome;
use crate::retry;
use crate::source::{Pipeline, Sender, Source, panicked};
use crate::store::{Address, Held};
use crate::units::Span;

/// The most messages handed to a pipeline at once.
const BATCH: usize = 1000;
/// How long a send may take for a source without a timeout of its own.
const LONGEST_SEND: Duration = Duration::from_secs(60);
/// A source with a timeout reports it itself (a command only once its processes are gone, see `source/command/process.rs`); the engine's own timeout
/// comes after it.
const TIMEOUT_GRACE: Duration = Duration::from_secs(3);

/// What the engine knows about an attempt while it is under way.
#[derive(Debug)]
pub(super) struct Ticket {
    pub(super) lane: Arc<Lane>,
    pub(super) held: Held,
    pub(super) address: Option<Address>,
    pub(super) term: Arc<Term>,
    pub(super) epoch: u32,
    pub(super) attempt: u32,
    pub(super) standing: Standing,
    pub(super) retry: retry::Overrides,
    pub(super) due_at: DateTime<Utc>,
    /// When the attempt began, on the database's clock and on the machine's.
    pub(super) started_at: DateTime<Utc>,
    pub(super) began: Instant,
    /// Its place in the lane; `None` for an attempt that is not sent from here, such as a lost one.
    pub(super) place: Option<Place>,
    /// Receives the state once it is written.
    pub(super) waiter: Option<oneshot::Sender<State>>,
}

impl Ticket {
    /// The ticket of a first attempt that begins now, on the database's clock and on the machine's; the caller replaces what differs.
    pub(super) fn new(lane: Arc<Lane>, held: Held, term: Arc<Term>, started_at: DateTime<Utc>, began: Instant) -> Self {
        Self {
            lane,
            held,
            address: None,
            term,
            epoch: 1,
            attempt: 1,
            standing: Standing::default(),
            retry: None,
            due_at: started_at,
            started_at,
            began,
            place: None,
            waiter: None,
        }
    }
}

/// A message to be sent, and its ticket.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) message: Message,
    pub(super) fate: Fate,
}

/// Where the outcome of a job goes.
#[derive(Debug)]
pub(super) enum Fate {
    /// To the completer: the message is held under a lease.
    Held(Box<Ticket>),
    /// To the intake: the message is committed only if the send fails (`on_failure`). `waiter` is dropped if nothing was sent, or the engine gives it
    /// up.
    Tried { place: Place, waiter: oneshot::Sender<Outcome>, until: Arc<Until> },
}

/// Until when a message that is tried first may be sent: without limit until it is about to be committed as being sent. From then on others may send
/// it once its lease has expired.
#[derive(Debug, Default)]
pub(super) struct Until(Mutex<Option<Arc<Term>>>);

impl Until {
    /// Limits it to the term of this lease.
    pub(super) fn set(&self, term: Arc<Term>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(term);
    }

    fn term(&self) -> Option<Arc<Term>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What becomes of an outcome. Where it is dropped, nothing does: a message that is held is sent again once its lease has run out.
#[derive(Debug)]
pub(super) enum End {
    Held { ticket: Box<Ticket>, reports: mpsc::UnboundedSender<Report> },
    Tried(Box<Tried>),
}

/// A message that is tried first.
#[derive(Debug)]
pub(super) struct Tried {
    lane: Arc<Lane>,
    place: Place,
    waiter: oneshot::Sender<Outcome>,
    began: Instant,
}

impl Tried {
    /// One that begins now.
    pub(super) fn new(lane: &Arc<Lane>, place: Place, waiter: oneshot::Sender<Outcome>) -> Self {
        Self { lane: lane.clone(), place, waiter, began: Instant::now() }
    }
}

impl End {
    /// Reports the outcome of the send.
    pub(super) fn finish(self, outcome: Outcome) {
        self.report(outcome, Lane::note);
    }

    /// Reports the end of a send that was cut off by a panic over another message, which says nothing about the destination.
    pub(super) fn cut(self, outcome: Outcome) {
        self.report(outcome, |lane, outcome, _, _| lane.note_cut(outcome));
    }

    /// Gives the message back unsent, to be sent later.
    pub(super) fn hand_back(self) {
        if let Self::Held { ticket, reports } = self {
            unsent(ticket, Ending::HandBack, &reports);
        }
    }

    fn report(self, outcome: Outcome, note: impl FnOnce(&Lane, &Outcome, Instant, Instant)) {
        let now = Instant::now();
        match self {
            Self::Held { mut ticket, reports } => {
                let outcome = ticket.lane.received(outcome);
                note(&ticket.lane, &outcome, ticket.began, now);
                if let Some(place) = &mut ticket.place {
                    place.release_memory();
                }
                let took = now.duration_since(ticket.began);
                let _ = reports.send(Report { ticket, ending: Ending::Sent { outcome, took } });
            }
            Self::Tried(tried) => {
                let Tried { lane, mut place, waiter, began } = *tried;
                let outcome = lane.received(outcome);
                note(&lane, &outcome, began, now);
                place.release_memory();
                // Release the place first: whoever waits for the outcome may need it as soon as it learns the outcome.
                drop(place);
                let _ = waiter.send(outcome);
            }
        }
    }
}

/// Feeds one lane's sender.
pub(super) struct Dispatcher {
    pub(super) node: Arc<Node>,
    pub(super) lane: Arc<Lane>,
    pub(super) reports: mpsc::UnboundedSender<Report>,
    /// Cancelled when no send is waited for any longer.
    pub(super) abandon: CancellationToken,
}

impl Dispatcher {
    /// Runs until the lane is gone.
    pub(super) async fn run(self, queue: mpsc::UnboundedReceiver<Job>) {
        let timeout = self.lane.spec.options.timeout.map_or(LONGEST_SEND, Span::get);
        match self.lane.spec.sender.clone() {
            Sender::Each(source) => self.spread(queue, &source, timeout + TIMEOUT_GRACE).await,
            // A message may wait for as long again before the client library has room for it.
            Sender::Pipelined(pipeline) => self.pipe(queue, pipeline, 2 * timeout + TIMEOUT_GRACE).await,
        }
    }

    /// Sends each message in a task of its own.
    async fn spread(&self, mut queue: mpsc::UnboundedReceiver<Job>, source: &Arc<dyn Source>, limit: Duration) {
        while let Some(job) = queue.recv().await {
            if let Some((message, end)) = self.prepare(job) {
                let (send, abandon) = (send_one(source.clone(), message, end, limit), self.abandon.clone());
                self.node.tracker.spawn(async move { abandon.run_until_cancelled(send).await });
            }
        }
    }

    /// Hands messages to the pipeline in batches.
    async fn pipe(&self, mut queue: mpsc::UnboundedReceiver<Job>, pipeline: Arc<dyn Pipeline>, limit: Duration) {
        let mut pipe = Pipe::new(&self.lane, pipeline, limit, self.abandon.clone());
        let mut jobs = Vec::with_capacity(BATCH);
        loop {
            tokio::select! {
                biased;
                count = queue.recv_many(&mut jobs, BATCH) => {
                    if count == 0 {
                        return;
                    }
                    pipe.send(count, jobs.drain(..).filter_map(|job| self.prepare(job))).await;
                }
                () = pipe.overdue() => {}
            }
        }
    }

    /// The message to be sent for a job; `None` if it must not be sent, which is reported.
    fn prepare(&self, job: Job) -> Option<(Message, End)> {
        match job.fate {
            Fate::Held(ticket) => self.prepare_held(job.message, ticket),
            Fate::Tried { place, waiter, until } => {
                // The intake learns that it was not sent, and hands the message back once it is committed.
                if until.term().is_some_and(|term| self.must_not_send(&term, &job.message.id, Instant::now())) {
                    drop(place);
                    self.lane.probe_unused();
                    return None;
                }
                let tried = Tried::new(&self.lane, place, waiter);
                let began = tried.began;
                Some((Message { began_at: Some(self.node.clock.at(began)), ..job.message }, End::Tried(Box::new(tried))))
            }
        }
    }

    /// A lease that expired while the message waited here may belong to another node by now; and a stopping node hands messages back.
    fn must_not_send(&self, term: &Term, id: &Uuid, now: Instant) -> bool {
        term.left_of(id, now).is_zero() || self.node.stopping.is_cancelled()
    }

    fn prepare_held(&self, message: Message, mut ticket: Box<Ticket>) -> Option<(Message, End)> {
        let now = Instant::now();
        if self.must_not_send(&ticket.term, &message.id, now) {
            unsent(ticket, Ending::HandBack, &self.reports);
            return None;
        }
        (ticket.started_at, ticket.began) = (self.node.clock.at(now), now);
        if ticket.standing.expires_at.is_some_and(|end| end <= ticket.started_at) {
            unsent(ticket, Ending::Expired, &self.reports);
            return None;
        }
        self.lane.metrics.due_to_send.observe(clock::between(ticket.due_at, ticket.started_at).as_secs_f64());
        Some((Message { began_at: Some(ticket.started_at), ..message }, End::Held { ticket, reports: self.reports.clone() }))
    }
}

/// Reports the end of an attempt that sent nothing.
fn unsent(ticket: Box<Ticket>, ending: Ending, reports: &mpsc::UnboundedSender<Report>) {
    ticket.lane.probe_unused();
    let _ = reports.send(Report { ticket, ending });
}

async fn send_one(source: Arc<dyn Source>, message: Message, end: End, limit: Duration) {
    // Also a panic before there is a future, or when it is dropped.
    let send = AssertUnwindSafe(async { tokio::time::timeout(limit, source.send(&message)).await });
    end.finish(match send.catch_unwind().await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(_)) => late(limit),
        Err(_) => panicked(),
    });
}

/// The outcome of a send that took longer than it may.
pub(super) fn late(limit: Duration) -> Outcome {
    Outcome::unreachable("timeout", format!("no outcome within {} ms", limit.as_millis()))
}

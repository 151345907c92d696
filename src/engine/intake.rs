//! Takes messages in. Whatever waits while a commit is under way goes into the next one (group commit, without any linger).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::alarm::Alarm;
use super::completer::{Ending, Report, age_limit};
use super::dispatcher::{Fate, Job, Ticket};
use super::health::StoreHealth;
use super::lane::{Lane, Place};
use super::lease::Ledger;
use super::submission::{Accepted, Refusal, Submission};
use super::unbroken::Unbroken;
use super::{Lanes, RETRY_AFTER};
use crate::clock::StoreClock;
use crate::message::{Message, Standing, State};
use crate::outcome::{Class, Outcome};
use crate::source::options::Mode;
use crate::store::{Due, Error, Held, Insert, NewMessage, Store, Verdict};
use crate::units::Limit;

/// At most so many messages, or so many bytes, a commit.
const BATCH: usize = 500;
const BATCH_BYTES: usize = 4 << 20;
/// A commit that the database asks to try again is tried so often.
const TRIES: u32 = 5;
/// What a message weighs besides its payload and headers while it waits, in bytes.
const OVERHEAD: usize = 512;

/// A message on its way to a commit.
#[derive(Debug)]
struct Entry {
    message: NewMessage,
    lane: Arc<Lane>,
    weight: usize,
    /// Committed under this node's lease although it has no place: its first send is already under way.
    sent_already: bool,
    reply: oneshot::Sender<Result<Committed, Refusal>>,
}

/// A message that is committed.
#[derive(Debug)]
enum Committed {
    New { id: Uuid, state: State, lease: Option<(i64, Arc<super::lease::Term>)> },
    Duplicate { id: Uuid },
}

/// The way in.
#[derive(Debug)]
pub(super) struct Intake {
    pub(super) project: Arc<str>,
    pub(super) store: Arc<dyn Store>,
    pub(super) clock: Arc<StoreClock>,
    pub(super) health: Arc<StoreHealth>,
    pub(super) ledger: Arc<Ledger>,
    pub(super) lanes: Arc<Lanes>,
    pub(super) alarm: Arc<Alarm>,
    pub(super) reports: mpsc::UnboundedSender<Report>,
    pub(super) tracker: TaskTracker,
    pub(super) keep_keys: Duration,
    /// Whether this node sends at all.
    pub(super) sends: bool,
    /// Cancelled when nothing more may be sent first.
    pub(super) stopping: CancellationToken,
    /// Cancelled when nothing more is taken.
    pub(super) closed: CancellationToken,
    max_bytes: usize,
    bytes: AtomicUsize,
    entries: mpsc::UnboundedSender<Entry>,
    queue: Mutex<mpsc::UnboundedReceiver<Entry>>,
}

/// What an intake is made of.
pub(super) struct Parts {
    pub(super) project: Arc<str>,
    pub(super) store: Arc<dyn Store>,
    pub(super) clock: Arc<StoreClock>,
    pub(super) health: Arc<StoreHealth>,
    pub(super) ledger: Arc<Ledger>,
    pub(super) lanes: Arc<Lanes>,
    pub(super) alarm: Arc<Alarm>,
    pub(super) reports: mpsc::UnboundedSender<Report>,
    pub(super) tracker: TaskTracker,
    pub(super) keep_keys: Duration,
    pub(super) sends: bool,
    pub(super) stopping: CancellationToken,
    pub(super) closed: CancellationToken,
    pub(super) max_bytes: usize,
}

impl Intake {
    pub(super) fn new(parts: Parts) -> Arc<Self> {
        let (entries, queue) = mpsc::unbounded_channel();
        let Parts { project, store, clock, health, ledger, lanes, alarm, reports, tracker, keep_keys, sends, stopping, closed, max_bytes } = parts;
        Arc::new(Self {
            project,
            store,
            clock,
            health,
            ledger,
            lanes,
            alarm,
            reports,
            tracker,
            keep_keys,
            sends,
            stopping,
            closed,
            max_bytes,
            bytes: AtomicUsize::new(0),
            entries,
            queue: Mutex::new(queue),
        })
    }

    /// Takes a message.
    pub(super) async fn submit(self: &Arc<Self>, submission: Submission) -> Result<Accepted, Refusal> {
        let (lane, mode) = self.admit(&submission)?;
        if mode == Mode::OnFailure
            && let Some(place) = self.may_try(&submission, &lane)
        {
            // Whoever asked may go away, the send and what follows must not.
            return Unbroken::new(self.clone().try_first(submission, lane, place), self.tracker.clone()).await;
        }
        let message = new_message(submission, &lane);
        kept(self.commit(message, lane, false)?.await)
    }

    /// Takes many messages: all are queued before the first answer is awaited, so that they share commits.
    pub(super) async fn submit_many(self: &Arc<Self>, submissions: Vec<Submission>) -> Vec<Result<Accepted, Refusal>> {
        let mut waiting = Vec::with_capacity(submissions.len());
        for submission in submissions {
            waiting.push(match self.admit(&submission) {
                Err(refusal) => Waiting::Done(Err(refusal)),
                Ok((_, Mode::OnFailure)) => {
                    let intake = self.clone();
                    Waiting::Task(self.tracker.spawn(async move { intake.submit(submission).await }))
                }
                Ok((lane, Mode::WriteAhead)) => match self.commit(new_message(submission, &lane), lane, false) {
                    Ok(answer) => Waiting::Commit(answer),
                    Err(refusal) => Waiting::Done(Err(refusal)),
                },
            });
        }
        let mut verdicts = Vec::with_capacity(waiting.len());
        for waiting in waiting {
            verdicts.push(match waiting {
                Waiting::Done(verdict) => verdict,
                Waiting::Commit(answer) => kept(answer.await),
                Waiting::Task(task) => task.await.unwrap_or(Err(Refusal::Draining)),
            });
        }
        verdicts
    }

    /// Checks a submission against its source and the state of the node.
    fn admit(&self, submission: &Submission) -> Result<(Arc<Lane>, Mode), Refusal> {
        submission.check()?;
        let Some(lane) = self.lanes.get(&submission.source) else {
            let known = self.lanes.names().iter().map(ToString::to_string).collect();
            return Err(Refusal::UnknownSource { name: submission.source.clone(), known });
        };
        let bytes = submission.payload.as_ref().map_or(0, bytes::Bytes::len);
        let max = lane.spec.options.max_payload.bytes();
        if bytes > max {
            return Err(Refusal::TooLarge { name: submission.source.clone(), bytes, max });
        }
        lane.spec.sender.check(submission.topic.as_deref()).map_err(|detail| Refusal::Invalid { field: "topic", detail })?;
        if self.closed.is_cancelled() {
            return Err(Refusal::Draining);
        }
        if let Some(detail) = self.health.reason() {
            return Err(Refusal::Unavailable { detail });
        }
        let mode = submission.mode.unwrap_or(lane.spec.options.mode);
        Ok((lane.clone(), mode))
    }

    /// A place for a send before anything is committed, if that is what may be done with this message now.
    fn may_try(&self, submission: &Submission, lane: &Arc<Lane>) -> Option<Place> {
        if submission.due.is_some() || submission.idempotency_key.is_some() || !self.sends || self.stopping.is_cancelled() {
            return None;
        }
        lane.try_enter(weigh(submission))
    }

    /// Sends first; commits only what the send did not settle in time.
    async fn try_first(self: Arc<Self>, submission: Submission, lane: Arc<Lane>, place: Place) -> Result<Accepted, Refusal> {
        let new = new_message(submission, &lane);
        let limit = lane.spec.options.on_failure.timeout.get();
        let (began, started_at) = (Instant::now(), self.clock.now());
        let (waiter, mut outcome) = oneshot::channel();
        lane.dispatch(Job { message: self.message(&new), fate: Fate::Tried(place, waiter) });
        let first = tokio::time::timeout(limit, &mut outcome).await;
        let settled = match first {
            Ok(Ok(outcome)) if outcome.class == Class::Succeeded => {
                lane.metrics.accepted_on_failure.inc();
                lane.metrics.finished_succeeded.inc();
                return Ok(Accepted::Delivered { id: new.id, result: outcome.result });
            }
            Ok(settled) => Some(settled.unwrap_or_else(|_| dropped())),
            Err(_) => None,
        };
        let (retry, took) = (new.retry.clone(), began.elapsed());
        let Committed::New { id, lease: Some((token, term)), .. } = answered(self.commit(new, lane.clone(), true)?.await)? else {
            return Err(Refusal::Unavailable { detail: "the message was not committed under a lease".to_owned() });
        };
        let now = self.clock.now();
        let standing = Standing { expires_at: age_limit(now, now, &lane.policy_for(&retry)), ..Standing::default() };
        let (waiter, written) = oneshot::channel();
        let held = Held { id, token };
        let ticket = Box::new(Ticket {
            lane,
            held,
            term,
            epoch: 1,
            attempt: 1,
            standing,
            retry,
            due_at: started_at,
            started_at,
            began,
            place: None,
            waiter: Some(waiter),
        });
        let reports = self.reports.clone();
        let report = move |outcome, took| drop(reports.send(Report { ticket, ending: Ending::Sent { outcome, took } }));
        if let Some(outcome) = settled {
            report(outcome, took);
            return Ok(Accepted::Kept { id, state: written.await.unwrap_or(State::Sending) });
        }
        // The running send decides the row; the producer is not kept waiting for it.
        self.tracker.spawn(async move {
            let outcome = outcome.await.unwrap_or_else(|_| dropped());
            report(outcome, began.elapsed());
        });
        Ok(Accepted::Kept { id, state: State::Sending })
    }

    /// Queues a message for the next commit. The answer comes once it is durable, whether or not anyone still waits for it.
    fn commit(&self, message: NewMessage, lane: Arc<Lane>, sent_already: bool) -> Result<oneshot::Receiver<Result<Committed, Refusal>>, Refusal> {
        let weight = OVERHEAD + message.payload.as_ref().map_or(0, bytes::Bytes::len);
        let before = self.bytes.fetch_add(weight, Ordering::Relaxed);
        if before + weight > self.max_bytes && before > 0 {
            self.bytes.fetch_sub(weight, Ordering::Relaxed);
            return Err(Refusal::Overloaded { after: RETRY_AFTER });
        }
        let (reply, answer) = oneshot::channel();
        let entry = Entry { message, lane, weight, sent_already, reply };
        if self.entries.send(entry).is_err() {
            return Err(Refusal::Draining);
        }
        Ok(answer)
    }

    /// Whether anything waits to be committed.
    pub(super) fn is_busy(&self) -> bool {
        self.bytes.load(Ordering::Relaxed) > 0
    }

    /// One committer; several may run, each with a batch of its own.
    pub(super) async fn run(self: Arc<Self>) {
        let mut entries = Vec::with_capacity(BATCH);
        loop {
            if self.queue.lock().await.recv_many(&mut entries, BATCH).await == 0 {
                return;
            }
            let mut batch = Vec::with_capacity(entries.len());
            let mut bytes = 0;
            for entry in entries.drain(..) {
                if bytes + entry.weight > BATCH_BYTES && !batch.is_empty() {
                    self.insert(std::mem::take(&mut batch)).await;
                    bytes = 0;
                }
                bytes += entry.weight;
                batch.push(entry);
            }
            self.insert(batch).await;
        }
    }

    /// Commits a batch and answers each of its producers.
    async fn insert(&self, entries: Vec<Entry>) {
        let mut waiting = Vec::with_capacity(entries.len());
        let mut messages = Vec::with_capacity(entries.len());
        for mut entry in entries {
            let place = self.place(&entry);
            entry.message.leased = place.is_some() || entry.sent_already;
            waiting.push(Answer { lane: entry.lane, weight: entry.weight, place, sent_already: entry.sent_already, reply: entry.reply });
            messages.push(entry.message);
        }
        let mut messages = Arc::new(messages);
        let mut tries = 0;
        loop {
            let lease = self.ledger.lease();
            let (token, asked) = (lease.token, Instant::now());
            let insert = Insert { project: self.project.clone(), messages: messages.clone(), lease, keep_keys: self.keep_keys };
            tries += 1;
            match self.store.insert(insert).await {
                Ok(inserted) => {
                    self.health.answered();
                    self.clock.read(inserted.now);
                    let messages = Arc::try_unwrap(messages).unwrap_or_else(|shared| shared.as_ref().clone());
                    let leased = messages.iter().zip(&inserted.verdicts).filter(|(message, verdict)| message.leased && **verdict == Verdict::New);
                    let term = self.ledger.hold(token, asked, leased.map(|(message, _)| message.id));
                    for ((message, verdict), answer) in messages.into_iter().zip(inserted.verdicts).zip(waiting) {
                        self.answer(answer, message, verdict, token, &term);
                    }
                    return;
                }
                Err(Error::Contended(why)) if tries < TRIES => {
                    tracing::debug!(error = %why, "a commit is tried again");
                    tokio::time::sleep(Duration::from_millis(5) * tries).await;
                }
                // One message that the database won't have must not take its neighbours along.
                Err(Error::Refused(why)) if waiting.len() > 1 => {
                    tracing::warn!(error = %why, batch = waiting.len(), "a commit was refused; its messages are committed one by one");
                    let owned = std::mem::take(Arc::make_mut(&mut messages));
                    for (message, answer) in owned.into_iter().zip(waiting) {
                        let Answer { lane, weight, sent_already, reply, .. } = answer;
                        Box::pin(self.insert(vec![Entry { message, lane, weight, sent_already, reply }])).await;
                    }
                    return;
                }
                Err(error) => {
                    self.health.failed("insert", &error);
                    for answer in waiting {
                        self.bytes.fetch_sub(answer.weight, Ordering::Relaxed);
                        let _ = answer.reply.send(Err(Refusal::Unavailable { detail: error.to_string() }));
                    }
                    return;
                }
            }
        }
    }

    /// A place for the first send, straight from memory, where nothing stands against it.
    fn place(&self, entry: &Entry) -> Option<Place> {
        if entry.sent_already || entry.message.due != Due::Now || !self.sends || self.stopping.is_cancelled() {
            return None;
        }
        entry.lane.try_enter(entry.weight)
    }

    fn answer(&self, answer: Answer, message: NewMessage, verdict: Verdict, token: i64, term: &Arc<super::lease::Term>) {
        let Answer { lane, weight, place, sent_already, reply } = answer;
        self.bytes.fetch_sub(weight, Ordering::Relaxed);
        let id = message.id;
        let committed = match verdict {
            Verdict::Duplicate(id) => Ok(Committed::Duplicate { id }),
            Verdict::Conflict(id) => Err(Refusal::Conflict { id }),
            Verdict::New => {
                if sent_already {
                    lane.metrics.accepted_on_failure.inc()
                } else {
                    lane.metrics.accepted_write_ahead.inc()
                };
                let state = if message.leased { State::Sending } else { State::Pending };
                let lease = sent_already.then(|| (token, term.clone()));
                Ok(Committed::New { id, state, lease })
            }
        };
        // The producer first: what follows is not its concern.
        let _ = reply.send(committed);
        if verdict != Verdict::New {
            return;
        }
        if let Some(place) = place {
            self.first_send(&lane, message, place, Held { id, token }, term.clone());
        } else if !message.leased {
            match message.due {
                Due::Now => lane.due(1 << message.priority.min(9)),
                Due::After(delay) => self.alarm.ring_by(Instant::now() + delay),
                Due::At(at) => self.alarm.ring_by(Instant::now() + crate::clock::between(self.clock.now(), at)),
            }
        }
    }

    fn first_send(&self, lane: &Arc<Lane>, new: NewMessage, place: Place, held: Held, term: Arc<super::lease::Term>) {
        let now = self.clock.now();
        let message = self.message(&new);
        let retry = new.retry;
        let standing = Standing { expires_at: new.expires_after.map(|age| crate::clock::after(now, age)), ..Standing::default() };
        let ticket = Ticket {
            lane: lane.clone(),
            held,
            term,
            epoch: 1,
            attempt: 1,
            standing,
            retry,
            due_at: now,
            started_at: now,
            began: Instant::now(),
            place: Some(place),
            waiter: None,
        };
        lane.dispatch(Job { message, fate: Fate::Held(Box::new(ticket)) });
    }

    fn message(&self, new: &NewMessage) -> Message {
        Message {
            id: new.id,
            project: self.project.clone(),
            source: new.source.clone(),
            topic: new.topic.clone(),
            key: new.key.clone(),
            payload: new.payload.clone(),
            headers: new.headers.clone(),
            epoch: 1,
            attempt: 1,
        }
    }
}

/// A submission whose verdict is not known yet.
enum Waiting {
    Done(Result<Accepted, Refusal>),
    Commit(oneshot::Receiver<Result<Committed, Refusal>>),
    Task(tokio::task::JoinHandle<Result<Accepted, Refusal>>),
}

/// Whom to answer when a commit is through.
struct Answer {
    lane: Arc<Lane>,
    weight: usize,
    place: Option<Place>,
    sent_already: bool,
    reply: oneshot::Sender<Result<Committed, Refusal>>,
}

fn new_message(submission: Submission, lane: &Lane) -> NewMessage {
    let idempotency = submission.idempotency();
    let policy = lane.policy_for(&submission.retry).expires_after();
    let mut retry = submission.retry;
    if submission.expires_after.is_some() {
        // Kept with the message: a retry by a person starts its age anew.
        retry.expires_after = submission.expires_after;
    }
    NewMessage {
        id: Uuid::now_v7(),
        source: lane.name().clone(),
        topic: submission.topic,
        key: submission.key,
        payload: submission.payload,
        headers: submission.headers,
        priority: submission.priority,
        due: submission.due.unwrap_or(Due::Now),
        expires_after: submission.expires_after.map_or(policy, Limit::get),
        retry,
        idempotency,
        leased: false,
    }
}

fn weigh(submission: &Submission) -> usize {
    OVERHEAD + submission.payload.as_ref().map_or(0, bytes::Bytes::len)
}

type Answered = Result<Result<Committed, Refusal>, oneshot::error::RecvError>;

fn answered(answer: Answered) -> Result<Committed, Refusal> {
    answer.unwrap_or_else(|_| Err(Refusal::Unavailable { detail: "the node stopped before the commit was known".to_owned() }))
}

fn kept(answer: Answered) -> Result<Accepted, Refusal> {
    Ok(match answered(answer)? {
        Committed::New { id, state, .. } => Accepted::Kept { id, state },
        Committed::Duplicate { id } => Accepted::Duplicate { id },
    })
}

fn dropped() -> Outcome {
    Outcome::unreachable("dropped", "the send was given up")
}

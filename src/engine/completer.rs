//! Records the outcomes of attempts, in batches. Outcomes reported while a batch is written go into the next one, or, if there are many, into one
//! beside it.

mod desk;

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use rand::rngs::StdRng;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::config::Keep;
use super::dispatcher::Ticket;
use super::feed::Feed;
use super::node::Node;
use crate::clock;
use crate::message::judge::{Log, judge};
use crate::message::{AttemptOutcome, ErrorClass, State};
use crate::outcome::{MAX_DETAIL, Outcome, fitting};
use crate::store::{Completion, Error, Failure, Held};
use crate::telemetry::throttle::Throttle;
use desk::{Desk, Outcomes};

/// The most outcomes in one batch.
const BATCH: usize = 1000;
/// An outcome that the store refuses even on its own is retried for this many leases, so that whoever made the table refuse it has time to notice and
/// fix it. No longer, since it occupies a place of its source; and not while the node stops, or a run has nothing else to do.
const REFUSED_LEASES: u32 = 3;

/// The end of an attempt.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) ticket: Box<Ticket>,
    pub(super) ending: Ending,
}

/// How an attempt ended.
#[derive(Debug)]
pub(super) enum Ending {
    /// The send was made.
    Sent { outcome: Outcome, took: Duration },
    /// Its lease expired without a report from the node that held it.
    Lost { node: Arc<str> },
    /// It was not sent: the message is too old.
    Expired,
    /// It was not sent: the row can't be sent.
    Invalid { code: &'static str, detail: String },
    /// It was not sent; another node, or this one later, should send it.
    HandBack,
}

/// The state that the completer's workers share.
#[derive(Debug)]
pub(super) struct Completer {
    pub(super) node: Arc<Node>,
    pub(super) keep: Keep,
    pub(super) reports: Feed<Report>,
    /// Cancelled when outcomes that the store refuses are no longer retried.
    pub(super) settling: CancellationToken,
}

impl Completer {
    /// Runs one worker; several may run, each with its own batch.
    pub(super) async fn run(self: Arc<Self>, rng: StdRng) {
        let mut desk = Desk::new(rng, BATCH);
        let mut reports = Vec::with_capacity(BATCH);
        let mut is_open = true;
        while is_open || !desk.aside.is_empty() {
            // `None` when it is time to retry what was set aside; reports taken before then are in `reports` all the same.
            let _turn = tokio::select! {
                // New reports are written before what was set aside is retried.
                biased;
                turn = self.reports.take(&mut reports, BATCH), if is_open => {
                    is_open = turn.is_some();
                    turn
                }
                () = tokio::time::sleep_until(desk.again), if !desk.aside.is_empty() => None,
            };
            let (now, mut back) = (self.node.clock.now(), Vec::new());
            let judged = reports.drain(..).filter_map(|mut report| match self.completion(&mut report, now, &mut desk.rng) {
                Some(completion) => Some((report, completion)),
                None => {
                    back.push(report);
                    None
                }
            });
            let outcomes = Outcomes::of(judged, false);
            if !back.is_empty() {
                self.hand_back(&back).await;
            }
            if outcomes.count() > 0 {
                self.write(outcomes, &mut desk).await;
            }
            if !desk.aside.is_empty() && desk.again <= Instant::now() {
                self.write_again(&mut desk).await;
            }
        }
    }

    /// Retries what was set aside, except for messages that are still locked by somebody else, as long as there is a point in trying.
    async fn write_again(&self, desk: &mut Desk) {
        let mut waiting = std::mem::take(&mut desk.aside);
        while !waiting.is_empty() {
            let batch = Outcomes::of(waiting.drain(..waiting.len().min(BATCH)), false);
            if let Some(free) = self.set_aside(batch, desk).await {
                self.write(free, desk).await;
                if desk.is_stuck() {
                    break;
                }
            }
        }
        desk.aside.append(&mut waiting);
    }

    /// Sets aside the outcomes of messages locked by somebody else; returns the others, if any.
    async fn set_aside(&self, outcomes: Outcomes, desk: &mut Desk) -> Option<Outcomes> {
        let ids = outcomes.completions.iter().map(|completion| completion.held.id).collect();
        let locked = self.node.locked(ids).await;
        if locked.is_empty() {
            return Some(outcomes);
        }
        let (locked, free) = outcomes.partition(|completion| locked.contains(&completion.held.id));
        desk.lay_aside(locked);
        (free.count() > 0).then_some(free)
    }

    /// The completion to write for an attempt, which takes texts out of its outcome; `None` if the message is handed back.
    fn completion(&self, report: &mut Report, now: DateTime<Utc>, rng: &mut StdRng) -> Option<Completion> {
        let Report { ticket, ending } = report;
        let mut completion = Completion {
            held: ticket.held,
            address: ticket.address,
            epoch: ticket.epoch,
            attempt: ticket.attempt,
            begun: true,
            state: State::Failed,
            delay: Duration::ZERO,
            retries: ticket.standing.retries,
            expires_at: ticket.standing.expires_at,
            outcome: AttemptOutcome::Permanent,
            error: None,
            result: None,
            started_at: ticket.started_at,
            duration: Duration::ZERO,
            node: self.node.ledger.node().clone(),
            log: Log::Own,
            delete: false,
        };
        let mut lost;
        let (outcome, is_lost) = match ending {
            Ending::Sent { outcome, took } => {
                completion.duration = *took;
                (outcome, false)
            }
            Ending::Lost { node } => {
                completion.node = node.clone();
                lost = Outcome::unreachable("lost", "the lease ran out without a word from the node that held it");
                (&mut lost, true)
            }
            Ending::Expired => return Some(unsent(completion, ErrorClass::Expired, "expired", "too old to be sent", &self.keep)),
            Ending::Invalid { code, detail } => return Some(unsent(completion, ErrorClass::Invalid, code, detail, &self.keep)),
            Ending::HandBack => return None,
        };
        let policy = ticket.lane.policy_for(ticket.retry.as_deref());
        let verdict = judge(outcome, is_lost, ticket.attempt, &ticket.standing, &policy, now, rng);
        completion.state = verdict.state;
        completion.delay = verdict.delay;
        completion.retries = verdict.retries;
        completion.outcome = verdict.outcome;
        completion.log = verdict.log;
        completion.delete = verdict.state.is_finished() && self.keep.deletes(verdict.state);
        let spec = &ticket.lane.spec;
        if (spec.options.keep_result || spec.sender.keeps_result()) && !completion.delete {
            completion.result = outcome.result.take();
        }
        let detail = std::mem::take(&mut outcome.detail);
        completion.error = verdict.error.map(|class| Failure { class, code: outcome.code.to_string(), detail });
        Some(completion)
    }

    /// Writes a batch, however long the store is away; meanwhile its leases are renewed, or they pass to other nodes and the write changes nothing.
    /// What can't be written whole is written in parts, so that the rest is not held up by a batch that is too large for the database, by messages
    /// that somebody else has locked, or by outcomes that the store refuses.
    async fn write(&self, outcomes: Outcomes, desk: &mut Desk) {
        desk.begin();
        // The last part is written next.
        let mut parts = vec![outcomes];
        while let Some(mut part) = parts.pop() {
            if part.count() > desk.portion.size() {
                parts.push(part.split_off(desk.portion.size()));
            }
            let error = match self.node.store.complete(part.completions.clone()).await {
                Ok(ours) => {
                    desk.wrote(part.count());
                    self.settle(part, ours, desk).await;
                    continue;
                }
                Err(error) => error,
            };
            let wait = match &error {
                Error::Refused(_) if part.count() > 1 => {
                    let (before, mut others) = if self.settling.is_cancelled() {
                        part.partition(|completion| desk.was_refused(&completion.held))
                    } else {
                        (Outcomes::default(), part)
                    };
                    if before.count() == 0 {
                        parts.extend(desk.halves(others, &error));
                    } else {
                        self.give_up(before, &error, desk).await;
                        // On PostgreSQL a batch may be two statements, each for itself.
                        others.is_repeated = true;
                        parts.extend((others.count() > 0).then_some(others));
                    }
                    continue;
                }
                Error::Refused(_) => {
                    self.refused(part, &error, desk).await;
                    continue;
                }
                Error::Contended(_) => {
                    self.node.health.failed("complete", &error);
                    // On PostgreSQL a batch may be two statements, each for itself.
                    part.is_repeated = true;
                    let count = part.count();
                    let Some(free) = self.set_aside(part, desk).await else { continue };
                    // If none of the messages is locked, it may be the attempt log, which most outcomes do not touch.
                    let (logged, free) =
                        if free.count() == count { free.partition(|completion| completion.log != Log::Own) } else { (Outcomes::default(), free) };
                    if logged.count() > 0 {
                        desk.lay_aside(logged);
                    }
                    if free.count() == 0 {
                        continue;
                    }
                    parts.push(free);
                    desk.wait()
                }
                _ => {
                    // Otherwise one outcome that is too large would make the node refuse messages each time that it is tried.
                    if desk.failed_before(&part) {
                        self.node.health.failed_again("complete", &error);
                    } else {
                        self.node.health.failed("complete", &error);
                    }
                    part.is_repeated = true;
                    desk.put_back(part, &mut parts, &error)
                }
            };
            tokio::time::sleep(wait).await;
        }
    }

    /// Ends the leases of outcomes that are written, or that no longer matter, and notifies whoever waits for them.
    async fn settle(&self, outcomes: Outcomes, ours: Vec<bool>, desk: &mut Desk) {
        self.node.health.answered();
        let Outcomes { reports, completions, is_repeated } = outcomes;
        let ended = self.node.ledger.drop_held(completions.iter().map(|completion| &completion.held));
        if let Some(soonest) = completions.iter().filter(|completion| completion.state == State::Retrying).map(|completion| completion.delay).min() {
            self.node.alarm.ring_by(Instant::now() + soonest);
        }
        let now = Instant::now();
        for ((report, completion), ours) in reports.into_iter().zip(completions.iter()).zip(ours) {
            let is_unsure = desk.forget(&completion.held) || is_repeated;
            // If the row has changed although no other node can have taken it yet, an earlier try, which failed or whose answer was lost, has written
            // it.
            let was_written = is_unsure && !report.ticket.term.left_of(&completion.held.id, now).is_zero();
            written(report, completion, ours || was_written, &mut desk.failures);
        }
        self.close(ended).await;
    }

    /// Handles an outcome that was refused on its own: it is retried later, or given up.
    async fn refused(&self, outcome: Outcomes, error: &Error, desk: &mut Desk) {
        // A refused outcome was not written by an earlier try.
        let outcome = Outcomes { is_repeated: false, ..outcome };
        if self.is_kept(&outcome.completions[0].held, error, desk) {
            desk.lay_aside(outcome);
        } else {
            self.give_up(outcome, error, desk).await;
        }
    }

    /// Gives outcomes up: the store treats them as lost once the leases expire.
    async fn give_up(&self, outcomes: Outcomes, error: &Error, desk: &mut Desk) {
        for Completion { held, .. } in outcomes.completions.iter() {
            // It was refused on its own, so no try has written it.
            desk.forget(held);
            self.node.ledger.leave_open(held);
            tracing::error!(message.id = %held.id, error.detail = error.to_string(),
                "an outcome can't be written and is given up; once its lease (or its claim's) expires, the attempt counts as lost and the message is sent again");
        }
        let ours = vec![false; outcomes.count()];
        self.settle(Outcomes { is_repeated: false, ..outcomes }, ours, desk).await;
    }

    /// Whether an outcome that the store refused on its own is retried; logs that once.
    fn is_kept(&self, held: &Held, error: &Error, desk: &mut Desk) -> bool {
        let now = Instant::now();
        let since = desk.refused_since(held, now);
        if !self.settling.is_cancelled() && now.duration_since(since.unwrap_or(now)) < self.node.ledger.ttl() * REFUSED_LEASES {
            if since.is_none()
                && let Some(held_back) = desk.failures.pass(now)
            {
                tracing::warn!(message.id = %held.id, error.detail = error.to_string(), lines.held_back = held_back,
                    "the database refuses an outcome; its lease is kept, and the outcome is tried again every second");
            }
            return true;
        }
        false
    }

    /// Closes claims that have no held messages left. Not retried: a claim that is left open ends with its lease.
    async fn close(&self, claims: Vec<i64>) {
        if !claims.is_empty()
            && let Err(error) = self.node.store.close_claims(claims).await
        {
            self.node.health.failed("close_claims", &error);
        }
    }

    async fn hand_back(&self, reports: &[Report]) {
        let held: Vec<_> = reports.iter().map(|report| report.ticket.held).collect();
        match self.node.store.release(held.clone()).await {
            Ok(ours) => {
                tracing::debug!(messages = ours, "messages handed back");
                self.node.alarm.ring_by(Instant::now());
            }
            // Not retried: the leases expire, which has the same effect a little later.
            Err(error) => self.node.health.failed("release", &error),
        }
        let ended = self.node.ledger.drop_held(held.iter());
        self.close(ended).await;
    }
}

/// Fails a message without this attempt having been made.
fn unsent(mut completion: Completion, class: ErrorClass, code: &str, detail: &str, keep: &Keep) -> Completion {
    completion.begun = false;
    completion.error = Some(Failure { class, code: code.to_owned(), detail: fitting(detail.to_owned(), MAX_DETAIL) });
    completion.delete = keep.deletes(State::Failed);
    completion
}

/// An outcome is recorded: counts it, logs a failure and notifies whoever waits.
fn written(report: Report, completion: &Completion, ours: bool, failures: &mut Throttle) {
    let Ticket { lane, waiter, attempt, .. } = *report.ticket;
    if !ours {
        lane.metrics.leases_lost.inc();
        tracing::debug!(message.id = %completion.held.id, "the outcome came after the lease had passed to another node");
        return;
    }
    if let Some(waiter) = waiter {
        let _ = waiter.send(completion.state);
    }
    match completion.state {
        State::Succeeded => {
            lane.metrics.finished_succeeded.inc();
        }
        State::Failed => {
            let error = completion.error.as_ref();
            let counter = match error.map(|error| error.class) {
                Some(ErrorClass::Permanent) => &lane.metrics.failed_permanent,
                Some(ErrorClass::Expired) => &lane.metrics.failed_expired,
                Some(ErrorClass::Invalid) => &lane.metrics.failed_invalid,
                Some(ErrorClass::Refused | ErrorClass::Unreachable | ErrorClass::Lost) | None => &lane.metrics.failed_exhausted,
            };
            counter.inc();
            if let Some(held_back) = failures.pass(Instant::now()) {
                tracing::warn!(message.id = %completion.held.id, source.name = %lane.name(), message.attempts = attempt,
                    error.class = error.map_or("", |error| error.class.as_str()), error.code = error.map_or("", |error| error.code.as_str()),
                    error.detail = error.map_or("", |error| error.detail.as_str()), lines.held_back = held_back, "the message failed");
            }
        }
        _ => tracing::debug!(message.id = %completion.held.id, source.name = %lane.name(), message.attempts = attempt,
            error.code = completion.error.as_ref().map_or("", |error| error.code.as_str()),
            retry_in_ms = u64::try_from(completion.delay.as_millis()).unwrap_or(u64::MAX), "the message will be sent again"),
    }
}

/// The age limit of a message at its first attempt in an epoch, where the row does not specify one.
pub(super) fn age_limit(created_at: DateTime<Utc>, due_at: DateTime<Utc>, policy: &crate::retry::Policy) -> Option<DateTime<Utc>> {
    policy.expires_after().map(|age| clock::after(created_at.max(due_at), age))
}

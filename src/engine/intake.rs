//! Accepts messages: checks them, sends them first in mode `on_failure`, and has them committed.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::committer::{Committed, Committer, weigh};
use super::completer::{Ending, Report, age_limit};
use super::dispatcher::{Fate, Job, Ticket, Until};
use super::lane::{Lane, Place};
use super::node::Node;
use super::submission::{Accepted, Refusal, Submission};
use super::unbroken::Unbroken;
use crate::message::{Standing, State};
use crate::outcome::{Class, Outcome};
use crate::source::options::Mode;
use crate::store::{Held, NewMessage};

/// Where messages come in.
#[derive(Debug)]
pub(super) struct Intake {
    pub(super) node: Arc<Node>,
    pub(super) committer: Arc<Committer>,
    pub(super) reports: mpsc::UnboundedSender<Report>,
    /// Cancelled when no more messages are accepted.
    pub(super) closed: CancellationToken,
    /// Cancelled when the engine gives up what is under way.
    pub(super) abandon: CancellationToken,
}

impl Intake {
    /// Accepts a message.
    pub(super) async fn submit(self: &Arc<Self>, submission: Submission) -> Result<Accepted, Refusal> {
        let (lane, mode) = self.admit(&submission)?;
        if mode == Mode::OnFailure
            && let Some(place) = self.may_try(&submission, &lane)
        {
            // The caller may go away; the send and what follows must go on.
            return Unbroken::new(self.clone().try_first(submission, lane, place), self.node.tracker.clone()).await;
        }
        let message = new_message(submission, &lane);
        answered(self.committer.commit(message, lane)?).await
    }

    /// Accepts many messages: all are queued before the first result is awaited, so that they share commits.
    pub(super) async fn submit_many(self: &Arc<Self>, submissions: Vec<Submission>) -> Vec<Result<Accepted, Refusal>> {
        let mut waiting = Vec::with_capacity(submissions.len());
        for submission in submissions {
            waiting.push(match self.admit(&submission) {
                Err(refusal) => Waiting::Done(Err(refusal)),
                Ok((_, Mode::OnFailure)) => {
                    let intake = self.clone();
                    Waiting::Task(self.node.tracker.spawn(async move { intake.submit(submission).await }))
                }
                Ok((lane, Mode::WriteAhead)) => match self.committer.commit(new_message(submission, &lane), lane) {
                    Ok(committed) => Waiting::Commit(committed),
                    Err(refusal) => Waiting::Done(Err(refusal)),
                },
            });
        }
        let mut verdicts = Vec::with_capacity(waiting.len());
        for waiting in waiting {
            verdicts.push(match waiting {
                Waiting::Done(verdict) => verdict,
                Waiting::Commit(committed) => answered(committed).await,
                Waiting::Task(task) => task.await.unwrap_or_else(|_| Err(unknown())),
            });
        }
        verdicts
    }

    /// Checks a submission against its source and the state of the node.
    fn admit(&self, submission: &Submission) -> Result<(Arc<Lane>, Mode), Refusal> {
        submission.check()?;
        let Some(lane) = self.node.lanes.get(&submission.source) else {
            let known = self.node.lanes.names().iter().map(ToString::to_string).collect();
            return Err(Refusal::UnknownSource { name: submission.source.clone(), known });
        };
        let bytes = submission.payload.as_ref().map_or(0, bytes::Bytes::len);
        let max = lane.spec.options.max_payload.bytes();
        if bytes > max {
            return Err(Refusal::TooLarge { name: submission.source.clone(), bytes, max });
        }
        lane.spec.sender.check(submission.topic.as_deref()).map_err(|detail| Refusal::Invalid { field: "topic".into(), detail })?;
        if self.closed.is_cancelled() {
            return Err(Refusal::Draining);
        }
        if let Some(detail) = self.node.health.reason() {
            return Err(Refusal::Unavailable { detail });
        }
        let mode = submission.mode.unwrap_or(lane.spec.options.mode);
        Ok((lane.clone(), mode))
    }

    /// A place to send the message before anything is committed, if that may be done now.
    fn may_try(&self, submission: &Submission, lane: &Arc<Lane>) -> Option<Place> {
        if submission.due.is_some() || submission.idempotency_key.is_some() || !self.node.may_send() || self.committer.is_full() {
            return None;
        }
        lane.try_enter(weigh(submission.payload.as_ref(), submission.key.as_ref(), &submission.headers))
    }

    /// Sends first; commits only if the send has not succeeded in time.
    async fn try_first(self: Arc<Self>, submission: Submission, lane: Arc<Lane>, place: Place) -> Result<Accepted, Refusal> {
        let new = new_message(submission, &lane);
        let limit = lane.spec.options.on_failure.timeout.get();
        let began = Instant::now();
        let (waiter, mut outcome) = oneshot::channel();
        let until = Arc::new(Until::default());
        lane.dispatch(Job { message: self.committer.message(&new), fate: Fate::Tried { place, waiter, until: until.clone() } });
        let first = tokio::time::timeout(limit, &mut outcome).await;
        let settled = match first {
            Ok(Ok(outcome)) if outcome.class == Class::Succeeded => {
                lane.metrics.accepted_on_failure.inc();
                lane.metrics.finished_succeeded.inc();
                return Ok(Accepted::Delivered { id: new.id, result: outcome.result });
            }
            Ok(settled) => Some(settled.unwrap_or_else(|_| dropped())),
            // The send may not have begun. From here on it must not begin once others may take the message, and the commit may be through long before
            // this node knows.
            Err(_) => {
                until.set(self.node.ledger.ahead());
                None
            }
        };
        let (id, retry, took) = (new.id, new.retry.clone(), began.elapsed());
        let (token, term) = answered(self.committer.commit_begun(new, lane.clone())?).await?;
        until.set(term.clone());
        let now = self.node.clock.now();
        let standing = Standing { expires_at: age_limit(now, now, &lane.policy_for(retry.as_deref())), ..Standing::default() };
        let (waiter, written) = oneshot::channel();
        let ticket = Box::new(Ticket {
            standing,
            retry,
            waiter: Some(waiter),
            ..Ticket::new(lane, Held { id, token }, term, self.node.clock.at(began), began)
        });
        let reports = self.reports.clone();
        let report = move |ending| drop(reports.send(Report { ticket, ending }));
        if let Some(outcome) = settled {
            report(Ending::Sent { outcome, took });
            // The message is committed, so the caller need not wait for a store that has gone away since.
            let state = tokio::time::timeout(limit, written).await.ok().and_then(Result::ok);
            return Ok(Accepted::Kept { id, state: state.unwrap_or(State::Sending) });
        }
        // The outcome of the running send is written later; the producer does not wait for it.
        let abandon = self.abandon.clone();
        self.node.tracker.spawn(async move {
            match outcome.await {
                Ok(outcome) => report(Ending::Sent { outcome, took: began.elapsed() }),
                // Nobody knows what became of it.
                Err(_) if abandon.is_cancelled() => {}
                Err(_) => report(Ending::HandBack),
            }
        });
        Ok(Accepted::Kept { id, state: State::Sending })
    }
}

/// A submission whose result is not known yet.
enum Waiting {
    Done(Result<Accepted, Refusal>),
    Commit(Committed<Accepted>),
    Task(tokio::task::JoinHandle<Result<Accepted, Refusal>>),
}

fn new_message(submission: Submission, lane: &Lane) -> NewMessage {
    submission.into_message(lane.name().clone(), &lane.policy)
}

async fn answered<T>(committed: Committed<T>) -> Result<T, Refusal> {
    committed.await.unwrap_or_else(|_| Err(unknown()))
}

/// The refusal where it is unknown what became of a message.
fn unknown() -> Refusal {
    Refusal::Unavailable { detail: "the node stopped before the commit was known".to_owned() }
}

fn dropped() -> Outcome {
    Outcome::unreachable("dropped", "the send was given up")
}

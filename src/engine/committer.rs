//! Commits messages in groups. Messages that arrive while a commit is under way go into the next one, or, if there are many, into one beside it; when
//! nothing is under way, a commit starts at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::RETRY_AFTER;
use super::dispatcher::{Fate, Job, Ticket};
use super::feed::Feed;
use super::lane::{Lane, Place};
use super::lease::{Holder, Term};
use super::node::Node;
use super::submission::{Accepted, Refusal};
use crate::clock;
use crate::message::{self, Headers, Key, Message, Standing, State};
use crate::store::{Due, Error, Held, Insert, NewMessage, Verdict};

/// The most messages, and the most bytes, in one commit.
const BATCH: usize = 500;
const BATCH_BYTES: usize = 4 << 20;
/// The most times that a commit is tried where the database asks for another try.
const TRIES: u32 = 5;
/// The overhead of a waiting message besides its payload, key and headers, in bytes.
const OVERHEAD: usize = 512;

/// A message on its way to a commit.
#[derive(Debug)]
struct Entry {
    message: NewMessage,
    answer: Answer,
}

/// What is to be done once a message is committed.
#[derive(Debug)]
struct Answer {
    lane: Arc<Lane>,
    weight: usize,
    /// When the message was queued.
    since: Instant,
    first: FirstSend,
}

type Reply<T> = oneshot::Sender<Result<T, Refusal>>;
/// Receives the result for a queued message.
pub(super) type Committed<T> = oneshot::Receiver<Result<T, Refusal>>;

/// How a message gets its first send, and who learns that it is committed.
#[derive(Debug)]
enum FirstSend {
    /// After the commit: directly from memory if it has a place, otherwise by a claim.
    Later { place: Option<Place>, reply: Reply<Accepted> },
    /// Already under way. The message is committed under this node's lease although it has no place; the reply tells the lease.
    Begun(Reply<(i64, Arc<Term>)>),
}

impl FirstSend {
    fn refuse(self, refusal: Refusal) {
        match self {
            Self::Later { reply, .. } => drop(reply.send(Err(refusal))),
            Self::Begun(reply) => drop(reply.send(Err(refusal))),
        }
    }
}

/// Commits incoming messages in batches; several workers may run.
#[derive(Debug)]
pub(super) struct Committer {
    pub(super) node: Arc<Node>,
    pub(super) keep_keys: Duration,
    pub(super) backlog: Backlog,
}

/// What waits to be committed.
#[derive(Debug)]
pub(super) struct Backlog {
    /// The limit in bytes.
    most: usize,
    bytes: AtomicUsize,
    entries: mpsc::UnboundedSender<Entry>,
    queue: Feed<Entry>,
}

impl Backlog {
    /// A backlog of at most `most` bytes.
    pub(super) fn new(most: usize) -> Self {
        let (entries, queue) = mpsc::unbounded_channel();
        Self { most, bytes: AtomicUsize::new(0), entries, queue: Feed::new(queue) }
    }
}

impl Committer {
    /// Queues a message for the next commit. The result comes once the message is durable, whether or not anyone is still waiting for it.
    pub(super) fn commit(&self, message: NewMessage, lane: Arc<Lane>) -> Result<Committed<Accepted>, Refusal> {
        let (reply, committed) = oneshot::channel();
        self.queue(message, lane, FirstSend::Later { place: None, reply })?;
        Ok(committed)
    }

    /// The same for a message whose first send is under way; the result is the lease under which it is committed.
    pub(super) fn commit_begun(&self, message: NewMessage, lane: Arc<Lane>) -> Result<Committed<(i64, Arc<Term>)>, Refusal> {
        let (reply, committed) = oneshot::channel();
        self.queue(message, lane, FirstSend::Begun(reply))?;
        Ok(committed)
    }

    fn queue(&self, message: NewMessage, lane: Arc<Lane>, first: FirstSend) -> Result<(), Refusal> {
        let weight = weigh(message.payload.as_ref(), message.key.as_ref(), &message.headers);
        let before = self.backlog.bytes.fetch_add(weight, Ordering::Relaxed);
        // A message that was already sent must not be refused as if nothing had happened. Their number is bounded by the places of the lane, and none
        // is sent first while the backlog is full.
        if before + weight > self.backlog.most && before > 0 && matches!(first, FirstSend::Later { .. }) {
            self.backlog.bytes.fetch_sub(weight, Ordering::Relaxed);
            return Err(Refusal::Overloaded { after: RETRY_AFTER });
        }
        let answer = Answer { lane, weight, since: Instant::now(), first };
        self.backlog.entries.send(Entry { message, answer }).map_err(|_| Refusal::Draining)
    }

    /// Whether the backlog is full. Messages that were sent first are never refused, so none is sent first then.
    pub(super) fn is_full(&self) -> bool {
        self.backlog.bytes.load(Ordering::Relaxed) >= self.backlog.most
    }

    /// Whether any message is waiting to be committed.
    pub(super) fn is_busy(&self) -> bool {
        self.backlog.bytes.load(Ordering::Relaxed) > 0
    }

    /// Commits nothing more: whoever waits for a commit, or asks for one, is told at once.
    pub(super) async fn close(&self) {
        self.backlog.queue.close().await;
    }

    /// Runs one worker; several may run, each with its own batch.
    pub(super) async fn run(self: Arc<Self>) {
        let mut entries = Vec::with_capacity(BATCH);
        loop {
            let Some(_turn) = self.backlog.queue.take(&mut entries, BATCH).await else { return };
            let mut batch = Vec::with_capacity(entries.len());
            let mut bytes = 0;
            for entry in entries.drain(..) {
                if bytes + entry.answer.weight > BATCH_BYTES && !batch.is_empty() {
                    self.insert(std::mem::take(&mut batch)).await;
                    bytes = 0;
                }
                bytes += entry.answer.weight;
                batch.push(entry);
            }
            self.insert(batch).await;
        }
    }

    /// Commits a batch and answers each of its producers.
    async fn insert(&self, entries: Vec<Entry>) {
        let entries = self.in_time(entries);
        let Some(first) = entries.first() else { return };
        let deadline = first.answer.since + self.node.store.patience();
        let mut answers = Vec::with_capacity(entries.len());
        let mut messages = Vec::with_capacity(entries.len());
        for Entry { mut message, mut answer } in entries {
            message.leased = match &mut answer.first {
                FirstSend::Begun(_) => true,
                FirstSend::Later { place, .. } => {
                    if place.is_none() && message.due == Due::Now && self.node.may_send() {
                        *place = answer.lane.try_enter(answer.weight);
                    }
                    place.is_some()
                }
            };
            messages.push(message);
            answers.push(answer);
        }
        let mut messages = Arc::new(messages);
        let mut tries = 0;
        loop {
            let lease = self.node.ledger.lease();
            let (token, asked) = (lease.token, Instant::now());
            let insert = Insert { project: self.node.project.clone(), messages: messages.clone(), lease, keep_keys: self.keep_keys };
            tries += 1;
            match self.node.store.insert(insert).await {
                Ok(inserted) => {
                    self.node.health.kept();
                    self.node.clock.read(inserted.now);
                    let messages = Arc::try_unwrap(messages).unwrap_or_else(|shared| shared.as_ref().clone());
                    let leased = messages.iter().zip(&inserted.verdicts).filter(|(message, verdict)| message.leased && **verdict == Verdict::New);
                    let term = self.node.ledger.hold(token, asked, inserted.now, leased.map(|(message, _)| message.id), Holder::Rows);
                    for ((message, verdict), answer) in messages.into_iter().zip(inserted.verdicts).zip(answers) {
                        self.answer(answer, message, verdict, token, &term);
                    }
                    return;
                }
                // Another try may wait for a lock as long as this one did, and producers give up at the deadline.
                Err(Error::Contended(why)) if tries < TRIES && Instant::now() + asked.elapsed() < deadline => {
                    tracing::debug!(error.detail = why, "a commit is tried again");
                    tokio::time::sleep(Duration::from_millis(5) * tries).await;
                }
                // One message that the database refuses must not fail the others.
                Err(Error::Refused(why)) if answers.len() > 1 => {
                    tracing::debug!(error.detail = why, batch = answers.len(), "a commit was refused; its halves are committed");
                    let owned = std::mem::take(Arc::make_mut(&mut messages));
                    let mut entries: Vec<_> = owned.into_iter().zip(answers).map(|(message, answer)| Entry { message, answer }).collect();
                    let rest = entries.split_off(entries.len() / 2);
                    Box::pin(self.insert(entries)).await;
                    Box::pin(self.insert(rest)).await;
                    return;
                }
                Err(error) => {
                    self.node.health.failed("insert", &error);
                    // A locked table accepts no messages either, although everything else goes on.
                    if matches!(error, Error::Refused(_) | Error::Contended(_)) {
                        self.node.health.refused();
                    }
                    let detail = error.to_string();
                    let refusal = if matches!(error, Error::Refused(_)) { Refusal::NotKept { detail } } else { Refusal::Unavailable { detail } };
                    for Answer { weight, first, .. } in answers {
                        self.backlog.bytes.fetch_sub(weight, Ordering::Relaxed);
                        first.refuse(refusal.clone());
                    }
                    return;
                }
            }
        }
    }

    /// The entries that should still be committed. All others are refused: every entry while the store is away, and entries whose producers have
    /// given up by now and would hand in the message again.
    fn in_time(&self, mut entries: Vec<Entry>) -> Vec<Entry> {
        let (reason, patience) = (self.node.health.reason(), self.node.store.patience());
        let (now, is_away) = (Instant::now(), reason.is_some());
        // Usually no entry is late, and the first one has waited longest.
        if !is_away && entries.first().is_none_or(|first| now - first.answer.since < patience) {
            return entries;
        }
        let detail = reason.unwrap_or_else(|| "the messages before it took too long to be kept".to_owned());
        for Entry { answer, .. } in entries.extract_if(.., |entry| is_away || now - entry.answer.since >= patience) {
            self.backlog.bytes.fetch_sub(answer.weight, Ordering::Relaxed);
            answer.first.refuse(Refusal::Unavailable { detail: detail.clone() });
        }
        entries
    }

    fn answer(&self, answer: Answer, message: NewMessage, verdict: Verdict, token: i64, term: &Arc<Term>) {
        let Answer { lane, weight, first, .. } = answer;
        self.backlog.bytes.fetch_sub(weight, Ordering::Relaxed);
        let id = message.id;
        match (verdict, first) {
            (Verdict::New, FirstSend::Begun(reply)) => {
                lane.metrics.accepted_on_failure.inc();
                let _ = reply.send(Ok((token, term.clone())));
            }
            (Verdict::New, FirstSend::Later { place, reply }) => {
                lane.metrics.accepted_write_ahead.inc();
                let state = if place.is_some() { State::Sending } else { State::Pending };
                // Answer the producer first; it is not concerned with what follows.
                let _ = reply.send(Ok(Accepted::Kept { id, state }));
                match (place, message.due) {
                    (Some(place), _) => self.first_send(&lane, message, place, Held { id, token }, term.clone()),
                    (None, Due::Now) => lane.due(1 << message.priority.min(9)),
                    (None, Due::After(delay)) => self.node.alarm.ring_by(Instant::now() + delay),
                    (None, Due::At(at)) => self.node.alarm.ring_by(Instant::now() + clock::between(self.node.clock.now(), at)),
                }
            }
            (Verdict::Duplicate(id), FirstSend::Later { reply, .. }) => drop(reply.send(Ok(Accepted::Duplicate { id }))),
            // A message that is sent first has no idempotency key.
            (Verdict::Duplicate(id) | Verdict::Conflict(id), first) => first.refuse(Refusal::Conflict { id }),
        }
    }

    fn first_send(&self, lane: &Arc<Lane>, new: NewMessage, place: Place, held: Held, term: Arc<Term>) {
        let began = Instant::now();
        let now = self.node.clock.at(began);
        let message = self.message(&new);
        let retry = new.retry;
        let standing = Standing { expires_at: new.expires_after.map(|age| clock::after(now, age)), ..Standing::default() };
        let ticket = Ticket { standing, retry, place: Some(place), ..Ticket::new(lane.clone(), held, term, now, began) };
        lane.dispatch(Job { message, fate: Fate::Held(Box::new(ticket)) });
    }

    /// The message to send for an incoming message.
    pub(super) fn message(&self, new: &NewMessage) -> Message {
        Message {
            id: new.id,
            project: self.node.project.clone(),
            source: new.source.clone(),
            topic: new.topic.clone(),
            key: new.key.clone(),
            payload: new.payload.clone(),
            headers: new.headers.clone(),
            epoch: 1,
            attempt: 1,
            began_at: None,
        }
    }
}

/// The weight of a message while it waits, in bytes.
pub(super) fn weigh(payload: Option<&bytes::Bytes>, key: Option<&Key>, headers: &Headers) -> usize {
    OVERHEAD + message::weight(payload, key, headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_and_keys_weigh_like_payloads() {
        let bytes = "x".repeat(10_000);
        let payload = weigh(Some(&bytes.clone().into()), None, &Headers::default());
        assert_eq!(weigh(None, Some(&Key::Text(bytes.clone())), &Headers::default()), payload);
        assert_eq!(weigh(None, None, &Headers::new(vec![("n".to_owned(), bytes[1..].to_owned())])), payload);
    }
}

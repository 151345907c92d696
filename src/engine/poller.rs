//! Finds due messages and claims them: one scout looks for all lanes, and one claimer per lane takes what is due.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use rand::RngExt;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::Instant;
use uuid::Uuid;

use super::breaker::Allows;
use super::completer::{Ending, Report, age_limit};
use super::config;
use super::dispatcher::{Fate, Job, Ticket};
use super::drain::Drain;
use super::lane::Lane;
use super::lease::{Holder, Term};
use super::node::Node;
use super::portion::Portion;
use crate::clock;
use crate::store::{Claim, Error, Held, Lapsed, Ready, Row, TakeOver, Upcoming};

/// The scout looks no more often than this, however often it is woken.
const SCOUT_GAP: Duration = Duration::from_millis(5);
/// The most expired leases that are taken over at once.
const TAKE_OVER: usize = 500;
/// How soon the next due message is looked for on a level that was just emptied; where rows come in all the time, the look that they cause does this
/// too.
const EMPTIED: Duration = Duration::from_millis(20);
/// When the database refuses to have expired leases taken over, the next try comes only after this fraction of a lease, since the scout finds nothing
/// due while it tries. After other failures, and when there was nothing to take over, because somebody has it locked or another node was faster, it
/// comes after `NOTHING_REST` at most.
const TAKE_OVER_REST: u32 = 6;
const NOTHING_REST: Duration = Duration::from_secs(1);
/// How long a claimer waits before it checks again whether its destination still holds back publishers.
const BLOCKED_WAIT: Duration = Duration::from_millis(250);

/// The state that the scout and the claimers share.
#[derive(Debug)]
pub(super) struct Poller {
    pub(super) node: Arc<Node>,
    pub(super) options: config::Poller,
    pub(super) reports: mpsc::UnboundedSender<Report>,
}

impl Poller {
    /// Looks for what is due, wakes the claimers concerned, and sleeps until something will be due or a lease ends, at most for the poll interval.
    pub(super) async fn scout(self: Arc<Self>) {
        let sources = self.node.lanes.names();
        let mut lapses = Lapses { from: Instant::now(), portion: Portion::new(TAKE_OVER) };
        loop {
            let asked = Instant::now();
            // Jitter keeps nodes from asking in step.
            let interval = self.options.interval.get().mul_f64(rand::rng().random_range(0.9..=1.1));
            let soonest = self.look(&sources, interval, &mut lapses).await;
            let latest = asked + soonest.map_or(interval, |soon| soon.min(interval)).max(SCOUT_GAP);
            tokio::select! {
                () = self.node.alarm.wait(latest) => {}
                () = self.node.stopping.cancelled() => return,
            }
            tokio::time::sleep_until(asked + SCOUT_GAP).await;
        }
    }

    /// Looks once; returns how soon the next message becomes due, or the next lease ends within the horizon.
    async fn look(&self, sources: &[Arc<str>], horizon: Duration, lapses: &mut Lapses) -> Option<Duration> {
        // Levels already known to be due are left to the claimers, which empty them: a look would have to pass over everything held there.
        let queues = self.node.lanes.iter().map(|lane| lane.unknown()).collect();
        let outlook = match self.node.store.upcoming(Upcoming { project: self.node.project.clone(), queues, horizon }).await {
            Ok(outlook) => outlook,
            Err(error) => {
                self.node.health.failed_question("upcoming", &error);
                return None;
            }
        };
        self.node.health.answered_question();
        self.node.clock.read(outlook.now);
        let mut next = outlook.next_lapse;
        for due in &outlook.due {
            let Some(lane) = self.node.lanes.get(&due.source) else { continue };
            if due.at <= outlook.now {
                lane.due(1 << due.level.min(9));
            } else {
                next = Some(next.map_or(due.at, |have| have.min(due.at)));
            }
        }
        if outlook.lapsed && lapses.from <= Instant::now() {
            // A lease that is still ours is not a lost attempt, however long the store was away: its outcome may be waiting to be written.
            let rest = match self.node.revive(outlook.now).await {
                Some(locked) => self.take_over(sources, locked, &mut lapses.portion).await,
                None => NOTHING_REST,
            };
            lapses.from = Instant::now() + rest;
        }
        next.map(|at| clock::between(outlook.now, at))
    }

    /// Takes over attempts whose lease has expired: they count as lost, are judged, and their messages go on. Messages in `own` are left alone: they
    /// are still held by this node, which could not renew them because somebody had them locked. Returns how long to wait before the next takeover.
    async fn take_over(&self, sources: &[Arc<str>], own: Vec<Uuid>, portion: &mut Portion) -> Duration {
        let rest = self.node.ledger.ttl() / TAKE_OVER_REST;
        let lease = self.node.ledger.lease();
        let token = lease.token;
        let (asked, limit) = (Instant::now(), u32::try_from(portion.size()).unwrap_or(u32::MAX));
        let take = TakeOver { project: self.node.project.clone(), sources: sources.to_vec(), except: own, limit, lease };
        self.node.ledger.set_taking_over(true);
        let taken = self.node.store.take_over(take).await;
        let lapsed = match taken {
            Ok(lapsed) => lapsed,
            Err(error) => {
                self.node.ledger.set_taking_over(false);
                // Otherwise lost attempts that are too many at once would make the node refuse messages each time that they are tried.
                if portion.size() < TAKE_OVER {
                    self.node.health.failed_again("take_over", &error);
                } else {
                    self.node.health.failed("take_over", &error);
                }
                portion.failed(limit as usize, &error, Instant::now());
                return if matches!(error, Error::Refused(_)) { rest } else { rest.min(NOTHING_REST) };
            }
        };
        let rest = if lapsed.is_empty() { rest.min(NOTHING_REST) } else { Duration::ZERO };
        // A node that dies may leave thousands: they are taken over until none is left, and reported in one line per batch.
        if let Some(first) = lapsed.first() {
            self.node.alarm.ring_by(Instant::now());
            tracing::warn!(messages = lapsed.len(), message.id = %first.id, source.name = &*first.source, lease.node = &*first.node,
                "leases expired without a report from their node; the attempts count as lost and the messages continue");
        }
        let term = self.node.ledger.hold(token, asked, self.node.clock.at(asked), lapsed.iter().map(|row| row.id), Holder::Rows);
        self.node.ledger.set_taking_over(false);
        portion.worked(lapsed.len(), Instant::now());
        for row in lapsed {
            let Some(lane) = self.node.lanes.get(&row.source) else { continue };
            tracing::debug!(message.id = %row.id, source.name = &*row.source, message.attempts = row.attempt, lease.node = &*row.node,
                "the lease expired without a report from its node; the attempt counts as lost");
            lane.note_lost();
            let ending = if row.attempt == 0 { Ending::HandBack } else { Ending::Lost { node: row.node.clone() } };
            let ticket = Box::new(lost_ticket(lane.clone(), token, term.clone(), row));
            let _ = self.reports.send(Report { ticket, ending });
        }
        rest
    }

    /// Claims what is due on one lane, the highest level first, as fast as the lane takes it. When the node stops, only its waits are cut short: a
    /// claim under way completes even if nobody waits for it, and its rows have to be handed back.
    pub(super) async fn claim(self: Arc<Self>, lane: Arc<Lane>) {
        let mut drain = Drain::new(self.options.batch);
        while let Some(Some(Turn { level, probe, places })) = self.node.stopping.run_until_cancelled(self.turn(&lane, drain.batch())).await {
            lane.levels.claim_begins(level);
            let claimed = self.claim_once(&lane, &mut drain, level, places).await;
            if lane.levels.claim_ended() {
                self.node.alarm.ring_by(Instant::now());
            }
            if probe && claimed == 0 {
                lane.probe_unused();
            }
        }
    }

    /// Waits until something is due and may be claimed. Never `None`, as in [`Lane::reserve`].
    async fn turn(&self, lane: &Arc<Lane>, batch: u32) -> Option<Turn> {
        loop {
            let Some(level) = lane.levels.highest_due() else {
                lane.claim_waits(false);
                lane.wake.notified().await;
                continue;
            };
            self.node.health.is_back().await;
            if lane.spec.sender.blocked().is_some() {
                tokio::time::sleep(BLOCKED_WAIT).await;
                continue;
            }
            let probe = match lane.allows() {
                Allows::All => false,
                Allows::Probe => true,
                Allows::Nothing(until) => {
                    // Woken early only when the breaker closes; if woken for something due, it finds the breaker still open and sleeps again.
                    tokio::select! {
                        () = tokio::time::sleep_until(until) => {}
                        () = lane.wake.notified() => {}
                    }
                    continue;
                }
            };
            let count = if probe { 1 } else { lane.claim_count(batch) };
            lane.claim_waits(count == 0);
            if count == 0 {
                // Woken by the first answer, by a free place, or because the breaker opens.
                let _ = tokio::time::timeout(BLOCKED_WAIT, lane.wake.notified()).await;
                continue;
            }
            let places = lane.reserve(count).await?;
            // Meanwhile the destination may have gone away, or something more urgent may have become due.
            if probe || !lane.is_held_back() {
                return Some(Turn { level: lane.levels.highest_due().unwrap_or(level), probe, places });
            }
        }
    }

    /// Makes one claim; returns how many rows it brought.
    async fn claim_once(&self, lane: &Arc<Lane>, drain: &mut Drain, level: u8, mut places: OwnedSemaphorePermit) -> usize {
        let max_bytes = lane.claim_bytes() as u64;
        let count = drain.limit(u32::try_from(places.num_permits()).unwrap_or(u32::MAX), max_bytes);
        let (lease, asked) = (self.node.ledger.lease(), Instant::now());
        let (token, after) = (lease.token, drain.walk.after(level, asked));
        let swept = after.is_none();
        let claim = Claim {
            project: self.node.project.clone(),
            source: lane.name().clone(),
            level,
            limit: count,
            max_bytes,
            max_payload: lane.spec.options.max_payload.bytes() as u64,
            after,
            lease,
        };
        let claimed = match self.node.store.claim(claim).await {
            Ok(claimed) => claimed,
            Err(error) => {
                self.node.health.failed("claim", &error);
                drain.failed(level, count, &error, Instant::now());
                lane.due(1 << level);
                tokio::time::sleep(BLOCKED_WAIT).await;
                return 0;
            }
        };
        self.node.health.answered();
        if let Some(error) = &claimed.refused {
            self.node.health.failed("claim", error);
        }
        self.node.clock.read(claimed.now);
        drain.made(&claimed, max_bytes, Instant::now());
        let term = self.node.ledger.hold(token, asked, claimed.now, claimed.rows.iter().map(id_of), Holder::Claim);
        let (rows, at) = (claimed.rows.len(), Instant::now());
        // Rows that stay where they are don't make a claim a full one by themselves: it would be repeated at once.
        let full = rows > 0 && (claimed.cut || claimed.seen >= count as usize);
        drain.walk.note(level, claimed.last.filter(|_| full), asked, at);
        if rows > 0 {
            drain.took |= 1 << level;
        }
        if full || !swept {
            lane.due(1 << level);
        } else if drain.took & (1 << level) != 0 {
            // The last look saw only the first message of this level, so what is due next there is unknown. A claim that brings nothing, such as for
            // a row that somebody has locked, is left to the next poll.
            drain.took &= !(1 << level);
            self.node.alarm.ring_by(at + EMPTIED);
        }
        let taken = Taken { token, term, at, now: self.node.clock.at(at) };
        for row in claimed.rows {
            let Some(place) = places.split(1) else { break };
            self.take(lane, row, &taken, place, drain);
        }
        rows
    }

    /// Sends a claimed row on its way.
    fn take(&self, lane: &Arc<Lane>, row: Row, taken: &Taken, permit: OwnedSemaphorePermit, drain: &mut Drain) {
        let row = match row {
            Row::Ready(ready) => *ready,
            Row::Unusable(row) => {
                // It keeps its place until that is written, so that no more are claimed meanwhile.
                let place = Some(lane.enter(permit, 0));
                let ticket = Ticket { epoch: row.epoch, attempt: row.attempt, place, ..taken.ticket(lane, row.id) };
                let ending = Ending::Invalid { code: row.code, detail: row.detail };
                let _ = self.reports.send(Report { ticket: Box::new(ticket), ending });
                lane.probe_unused();
                return;
            }
        };
        if row.ordered
            && let Some(held_back) = drain.ordered.pass(taken.at)
        {
            tracing::warn!(message.id = %row.message.id, source.name = %lane.name(), lines.held_back = held_back,
                "a row carries an order_key; ordering is not implemented, so it is sent like any other");
        }
        let Ready { message, mut standing, retry, created_at, due_at, address, .. } = row;
        if standing.expires_at.is_none() && message.attempt == 1 {
            standing.expires_at = age_limit(created_at, due_at, &lane.policy_for(retry.as_deref()));
        }
        let ticket = Ticket {
            epoch: message.epoch,
            attempt: message.attempt,
            standing,
            retry,
            due_at,
            address,
            place: Some(lane.enter(permit, message.weight())),
            ..taken.ticket(lane, message.id)
        };
        lane.dispatch(Job { message, fate: Fate::Held(Box::new(ticket)) });
    }
}

/// What the scout remembers about takeovers.
struct Lapses {
    /// Nothing is taken over before this.
    from: Instant,
    /// How many leases are taken over at once.
    portion: Portion,
}

/// A claim that may be made now.
struct Turn {
    level: u8,
    /// Whether it is for one message behind an open breaker.
    probe: bool,
    places: OwnedSemaphorePermit,
}

/// What the rows of one claim have in common.
struct Taken {
    token: i64,
    term: Arc<Term>,
    /// When they came, on the machine's clock and on the database's.
    at: Instant,
    now: DateTime<Utc>,
}

impl Taken {
    fn ticket(&self, lane: &Arc<Lane>, id: Uuid) -> Ticket {
        Ticket::new(lane.clone(), Held { id, token: self.token }, self.term.clone(), self.now, self.at)
    }
}

fn lost_ticket(lane: Arc<Lane>, token: i64, term: Arc<Term>, row: Lapsed) -> Ticket {
    let mut standing = row.standing;
    if standing.expires_at.is_none() && row.attempt <= 1 {
        standing.expires_at = age_limit(row.created_at, row.due_at, &lane.policy_for(row.retry.as_deref()));
    }
    Ticket {
        epoch: row.epoch,
        attempt: row.attempt,
        standing,
        retry: row.retry,
        due_at: row.due_at,
        ..Ticket::new(lane, Held { id: row.id, token }, term, row.started_at, Instant::now())
    }
}

const fn id_of(row: &Row) -> Uuid {
    match row {
        Row::Ready(ready) => ready.message.id,
        Row::Unusable(row) => row.id,
    }
}

//! The leases that this node holds: every attempt under way is in here until its outcome is written.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use rand::RngExt;
use tokio::time::Instant;
use uuid::Uuid;

use super::node::Node;
use crate::clock::{self, StoreClock};
use crate::store::{Error, Held, Lease};

/// Leases are renewed in batches of about this many.
const RENEW_AT_ONCE: usize = 1000;

/// The last moment at which a lease is certain to hold, on two clocks: the machine's monotonic clock stands still while the machine sleeps; the
/// database's may be set forward, or be that of another server that is ahead. Whichever comes first counts.
#[derive(Clone, Copy, Debug)]
struct End {
    here: Instant,
    there: DateTime<Utc>,
}

impl End {
    /// The end of a lease requested at `asked`, the moment before the store was asked, so that it ends here no later than there. `now` is the
    /// database's time when the lease was taken, or earlier.
    fn new(asked: Instant, now: DateTime<Utc>, ttl: Duration) -> Self {
        Self { here: asked + ttl, there: clock::after(now, ttl) }
    }

    fn left(self, here: Instant, there: DateTime<Utc>) -> Duration {
        self.here.saturating_duration_since(here).min(clock::between(there, self.there))
    }
}

/// Until when a group of leases taken together is certain to hold.
#[derive(Debug)]
pub(super) struct Term {
    clock: Arc<StoreClock>,
    ends: Mutex<Ends>,
}

#[derive(Debug)]
struct Ends {
    all: End,
    /// Messages not renewed together with the others, and when their leases end; `None` if they are no longer ours.
    apart: HashMap<Uuid, Option<End>>,
}

impl Term {
    fn new(clock: Arc<StoreClock>, end: End) -> Self {
        Self { clock, ends: Mutex::new(Ends { all: end, apart: HashMap::new() }) }
    }

    /// How long it still holds at a moment given on both clocks.
    fn left_at(&self, here: Instant, there: DateTime<Utc>) -> Duration {
        self.ends().all.left(here, there)
    }

    /// How long the lease of one of its messages still holds, whatever happens to the others.
    pub(super) fn left_of(&self, id: &Uuid, now: Instant) -> Duration {
        let ends = self.ends();
        let end = ends.apart.get(id).copied().unwrap_or(Some(ends.all));
        drop(ends);
        end.map_or(Duration::ZERO, |end| end.left(now, self.clock.at(now)))
    }

    /// Leaves a message out of a renewal, whether or not the others are renewed.
    fn leave_out(&self, id: Uuid) {
        let mut ends = self.ends();
        let all = ends.all;
        ends.apart.entry(id).or_insert(Some(all));
    }

    /// A message is no longer ours.
    fn lose(&self, id: Uuid) {
        self.ends().apart.insert(id, None);
    }

    /// A message was renewed, together with all others or on its own.
    fn renewed(&self, id: Uuid, end: End, with_all: bool) {
        let mut ends = self.ends();
        if with_all {
            ends.all = end;
        }
        if end.here >= ends.all.here {
            ends.apart.remove(&id);
        } else {
            ends.apart.insert(id, Some(end));
        }
    }

    /// The messages that were left out.
    fn left_out(&self) -> Vec<Uuid> {
        self.ends().apart.iter().filter(|(_, end)| end.is_some()).map(|(id, _)| *id).collect()
    }

    fn ends(&self) -> std::sync::MutexGuard<'_, Ends> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What marks messages as held in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holder {
    /// A claim, which is [closed](crate::store::Store::close_claims) once none of its messages is held any longer.
    Claim,
    /// Their own rows, or a claim that is left open and ends with its lease.
    Rows,
}

#[derive(Debug)]
struct Group {
    term: Arc<Term>,
    ids: HashSet<Uuid>,
    holder: Holder,
}

/// Leases that are renewed together.
#[derive(Debug)]
struct Aging {
    holder: Holder,
    /// Whether these are whole groups rather than messages left out of them before.
    whole: bool,
    held: Vec<Held>,
}

/// All leases that this node holds, by token.
#[derive(Debug)]
pub(super) struct Ledger {
    /// Whether lost attempts are being taken over; which ones are held is known only afterwards.
    taking_over: AtomicBool,
    node: Arc<str>,
    ttl: Duration,
    clock: Arc<StoreClock>,
    groups: Mutex<HashMap<i64, Group>>,
}

impl Ledger {
    pub(super) fn new(node: Arc<str>, ttl: Duration, clock: Arc<StoreClock>) -> Self {
        Self { taking_over: AtomicBool::new(false), node, ttl, clock, groups: Mutex::default() }
    }

    /// A lease about to be taken, with a token that was never used before: 63 random bits.
    pub(super) fn lease(&self) -> Lease {
        Lease { token: rand::rng().random_range(1..=i64::MAX), node: self.node.clone(), ttl: self.ttl }
    }

    /// The term of leases about to be taken: they hold at least this long.
    pub(super) fn ahead(&self) -> Arc<Term> {
        let now = Instant::now();
        Arc::new(Term::new(self.clock.clone(), End::new(now, self.clock.at(now), self.ttl)))
    }

    /// Records what was taken under a token, requested at `asked`, when the database's time was `now` or later.
    pub(super) fn hold(&self, token: i64, asked: Instant, now: DateTime<Utc>, ids: impl Iterator<Item = Uuid>, holder: Holder) -> Arc<Term> {
        let term = Arc::new(Term::new(self.clock.clone(), End::new(asked, now, self.ttl)));
        let ids: HashSet<Uuid> = ids.collect();
        if !ids.is_empty() {
            self.lock().insert(token, Group { term: term.clone(), ids, holder });
        }
        term
    }

    /// Forgets leases whose outcome is written or that are no longer ours. Returns the tokens of claims that have none left and are to be closed.
    pub(super) fn drop_held<'a>(&self, held: impl Iterator<Item = &'a Held>) -> Vec<i64> {
        let mut groups = self.lock();
        let mut ended = Vec::new();
        for held in held {
            if let Some(group) = groups.get_mut(&held.token) {
                group.ids.remove(&held.id);
                if group.ids.is_empty() {
                    ended.extend((group.holder == Holder::Claim).then_some(held.token));
                    groups.remove(&held.token);
                }
            }
        }
        ended
    }

    /// Leaves a lease to expire in the store because its outcome can't be written. A claim has one lease for all its messages: it is not closed then,
    /// and expires once this node holds none of them.
    pub(super) fn leave_open(&self, held: &Held) {
        if let Some(group) = self.lock().get_mut(&held.token) {
            group.holder = Holder::Rows;
        }
    }

    /// Records whether lost attempts are being taken over.
    pub(super) fn set_taking_over(&self, taking_over: bool) {
        self.taking_over.store(taking_over, Ordering::SeqCst);
    }

    /// Whether no leases are held, nor may be as soon as the store answers.
    pub(super) fn is_empty(&self) -> bool {
        // In this order: lost attempts are held before the takeover ends.
        !self.taking_over.load(Ordering::SeqCst) && self.len() == 0
    }

    /// The name of this node.
    pub(super) const fn node(&self) -> &Arc<str> {
        &self.node
    }

    /// How long a lease holds.
    pub(super) const fn ttl(&self) -> Duration {
        self.ttl
    }

    /// The number of leases held.
    pub(super) fn len(&self) -> usize {
        self.lock().values().map(|group| group.ids.len()).sum()
    }

    /// Leases that hold no longer than `left` from `now` on, by the database's clock, in batches. Groups stay whole, since they share a term. Those
    /// held by claims are kept apart from those held by rows. A message that was left out of a renewal counts as old whatever its term says, since
    /// the renewal of the others prolonged that.
    fn aging(&self, left: Duration, now: DateTime<Utc>) -> Vec<Aging> {
        let (groups, here) = (self.lock(), Instant::now());
        let is_old = |group: &Group| group.term.left_at(here, now) <= left;
        let mut batches = Vec::new();
        for holder in [Holder::Claim, Holder::Rows] {
            let mut held = Vec::new();
            for (token, group) in groups.iter().filter(|(_, group)| group.holder == holder && is_old(group)) {
                held.extend(group.ids.iter().map(|id| Held { id: *id, token: *token }));
                if held.len() >= RENEW_AT_ONCE {
                    batches.push(Aging { holder, whole: true, held: std::mem::take(&mut held) });
                }
            }
            if !held.is_empty() {
                batches.push(Aging { holder, whole: true, held });
            }
        }
        let mut behind = Vec::new();
        for (token, group) in groups.iter().filter(|(_, group)| !is_old(group)) {
            behind.extend(group.term.left_out().into_iter().filter(|id| group.ids.contains(id)).map(|id| Held { id, token: *token }));
        }
        batches.extend(behind.chunks(RENEW_AT_ONCE).map(|held| Aging { holder: Holder::Rows, whole: false, held: held.to_vec() }));
        batches
    }

    /// Applies a change to the terms of those of these leases that are still held.
    fn each_term(&self, held: &[Held], change: impl Fn(&Term, Uuid)) {
        let groups = self.lock();
        for held in held {
            if let Some(group) = groups.get(&held.token) {
                change(&group.term, held.id);
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<i64, Group>> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The work on leases that needs the store.
impl Node {
    /// Renews leases before they expire; never returns.
    pub(super) async fn keep_leases(self: Arc<Self>) {
        let ttl = self.ledger.ttl;
        let mut ticks = tokio::time::interval(ttl / 6);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            // With a tick every sixth of a lease and at most two thirds left, a renewal has three more chances before the lease ends.
            for aging in self.ledger.aging(ttl * 2 / 3, self.clock.now()) {
                self.renew(aging).await;
            }
        }
    }

    /// Renews leases that, at `now` on the database's clock, had expired or would before their next renewal, unless somebody else has taken them.
    /// Returns those that it left out because somebody has locked them; `None` if the store did not say which are still ours.
    pub(super) async fn revive(&self, now: DateTime<Utc>) -> Option<Vec<Uuid>> {
        let mut left_out = Vec::new();
        for aging in self.ledger.aging(self.ledger.ttl * 2 / 3, now) {
            left_out.extend(self.renew(aging).await?);
        }
        Some(left_out)
    }

    /// Returns those that it left out; `None` if the store failed.
    async fn renew(&self, aging: Aging) -> Option<Vec<Uuid>> {
        let asked = Instant::now();
        let end = End::new(asked, self.clock.at(asked), self.ledger.ttl);
        let Aging { holder, whole, held: mut batch } = aging;
        let mut left_out = Vec::new();
        if holder == Holder::Rows {
            // Renewing a locked message would wait and fail, together with the others in the batch. Nobody can take such a message meanwhile.
            let locked = self.locked(batch.iter().map(|held| held.id).collect()).await;
            let out: Vec<_> = batch.extract_if(.., |held| locked.contains(&held.id)).collect();
            // Before the others are renewed.
            self.ledger.each_term(&out, |term, id| term.leave_out(id));
            left_out.extend(out.iter().map(|held| held.id));
        }
        self.prolong(whole, batch, end).await.then_some(left_out)
    }

    /// Renews leases until at least `end`; returns whether the store said which are still ours.
    async fn prolong(&self, whole: bool, mut batch: Vec<Held>, end: End) -> bool {
        if batch.is_empty() {
            return true;
        }
        match self.store.renew(batch.clone(), self.ledger.ttl).await {
            Ok(lost) => {
                let lost: HashSet<Uuid> = lost.into_iter().collect();
                self.ledger.each_term(&batch, |term, id| {
                    if lost.contains(&id) {
                        term.lose(id);
                    } else {
                        term.renewed(id, end, whole);
                    }
                });
                if !lost.is_empty() {
                    tracing::debug!(leases.lost = lost.len(), "leases were no longer ours when they were to be renewed");
                    self.ledger.drop_held(batch.iter().filter(|held| lost.contains(&held.id)));
                }
                true
            }
            // A refused lease must not keep others from being renewed, and is not renewed with them.
            Err(Error::Refused(_)) if batch.len() > 1 => {
                self.ledger.each_term(&batch, |term, id| term.leave_out(id));
                let rest = batch.split_off(batch.len() / 2);
                // Keep the end of the first try: what is renewed later holds longer, and the group shares one term.
                Box::pin(self.prolong(whole, batch, end)).await && Box::pin(self.prolong(whole, rest, end)).await
            }
            Err(error) => {
                self.health.failed("renew", &error);
                matches!(error, Error::Refused(_))
            }
        }
    }

    /// Which of these messages somebody else has locked; none if the store does not say.
    pub(super) async fn locked(&self, ids: Vec<Uuid>) -> HashSet<Uuid> {
        match self.store.locked(ids).await {
            Ok(locked) => locked.into_iter().collect(),
            Err(error) => {
                self.health.failed_question("locked", &error);
                HashSet::new()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(30);
    /// When leases are renewed.
    const OLD: Duration = Duration::from_secs(20);

    /// A ledger, and the clock of its database, which has been read.
    fn ledger() -> (Ledger, Arc<StoreClock>) {
        let clock = Arc::new(StoreClock::default());
        clock.read(DateTime::UNIX_EPOCH);
        (Ledger::new("node".into(), TTL, clock.clone()), clock)
    }

    #[test]
    fn groups_are_renewed_whole_and_claims_apart_from_rows() {
        let (ledger, clock) = ledger();
        let holder_of = |token: i64| if token % 2 == 0 { Holder::Claim } else { Holder::Rows };
        for token in 0..6 {
            ledger.hold(token, Instant::now(), clock.now(), (0..600).map(|_| Uuid::now_v7()), holder_of(token));
        }
        let batches = ledger.aging(Duration::from_secs(31), clock.now());
        assert_eq!(batches.iter().map(|batch| batch.held.len()).sum::<usize>(), 6 * 600);
        for Aging { holder, held, .. } in &batches {
            let tokens: HashSet<_> = held.iter().map(|held| held.token).collect();
            assert_eq!(held.len(), tokens.len() * 600, "whole groups");
            assert!(tokens.len() <= 2 && tokens.iter().all(|token| holder_of(*token) == *holder));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn leases_end_by_the_databases_clock_too_if_that_goes_ahead() {
        let (ledger, clock) = ledger();
        let term = ledger.hold(1, Instant::now(), clock.now(), [Uuid::now_v7()].into_iter(), Holder::Rows);
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(term.left_of(&Uuid::nil(), Instant::now()), Duration::from_secs(25));
        assert!(ledger.aging(OLD, clock.now()).is_empty());
        // The machine slept, or another server has taken over.
        let ahead = clock::after(clock.now(), TTL);
        assert_eq!(ledger.aging(OLD, ahead).len(), 1, "it is what the database said that counts");
        clock.read(ahead);
        assert_eq!(term.left_of(&Uuid::nil(), Instant::now()), Duration::ZERO);
        let fresh = ledger.hold(2, Instant::now(), clock.now(), [Uuid::now_v7()].into_iter(), Holder::Rows);
        assert_eq!(fresh.left_of(&Uuid::nil(), Instant::now()), TTL, "what is taken by the new time is not concerned");
        assert_eq!(ledger.aging(OLD, clock.now()).len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_was_read_late_or_is_put_back_prolongs_no_lease_and_shortens_none() {
        let (ledger, clock) = ledger();
        let (asked, taken) = (Instant::now(), clock.now());
        // The answer takes 4 s, and so the clock is taken for 4 s behind, until it is read again.
        tokio::time::advance(Duration::from_secs(4)).await;
        clock.read(taken);
        let term = ledger.hold(1, asked, taken, [Uuid::now_v7()].into_iter(), Holder::Rows);
        assert_eq!(term.left_of(&Uuid::nil(), Instant::now()), Duration::from_secs(26));
        clock.read(clock::after(taken, Duration::from_secs(4)));
        assert_eq!(term.left_of(&Uuid::nil(), Instant::now()), Duration::from_secs(26));
        clock.read(DateTime::UNIX_EPOCH);
        assert_eq!(term.left_of(&Uuid::nil(), Instant::now()), Duration::from_secs(26));
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_left_out_of_a_renewal_ends_by_itself_and_is_renewed_at_the_next_look() {
        let (ledger, clock) = ledger();
        let ids = [Uuid::now_v7(), Uuid::now_v7(), Uuid::now_v7()];
        let [kept, locked, lost] = ids;
        let term = ledger.hold(1, Instant::now(), clock.now(), ids.into_iter(), Holder::Rows);
        let end = || End::new(Instant::now(), clock.now(), TTL);
        let left = |id: Uuid| term.left_of(&id, Instant::now()).as_secs();
        tokio::time::advance(Duration::from_secs(12)).await;
        term.leave_out(locked);
        term.lose(lost);
        term.renewed(kept, end(), true);
        assert_eq!((left(kept), left(locked), left(lost)), (30, 18, 0));
        tokio::time::advance(Duration::from_secs(1)).await;
        let behind = ledger.aging(OLD, clock.now());
        let [Aging { holder: Holder::Rows, whole: false, held }] = &behind[..] else { panic!("{behind:?}") };
        assert_eq!(*held, [Held { id: locked, token: 1 }]);
        tokio::time::advance(Duration::from_secs(6)).await;
        term.leave_out(locked);
        assert_eq!(left(locked), 11, "left out once more, it ends no later");
        term.renewed(locked, end(), false);
        assert_eq!((left(kept), left(locked), left(lost)), (23, 23, 0), "by itself it prolongs no other");
        assert!(ledger.aging(OLD, clock.now()).is_empty());
        // What is on record is nobody's concern.
        term.leave_out(locked);
        ledger.drop_held([Held { id: locked, token: 1 }].iter());
        assert!(ledger.aging(OLD, clock.now()).is_empty());
    }
}

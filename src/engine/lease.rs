//! The leases that this node holds: every attempt under way is in here until its outcome is written.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rand::RngExt;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::health::StoreHealth;
use crate::store::{Error, Held, Lease, Store};
use crate::units::millis;

/// From so many on, leases are not renewed with others.
const RENEW_AT_ONCE: usize = 1000;

/// Until when a group of leases taken together surely holds, by the machine's monotonic clock.
#[derive(Debug)]
pub(super) struct Term {
    start: Instant,
    ends_ms: AtomicU64,
}

impl Term {
    /// A term that began at `asked`: the moment before the store was asked, so that it ends here no later than there.
    fn new(asked: Instant, ttl: Duration) -> Self {
        Self { start: asked, ends_ms: AtomicU64::new(millis(ttl)) }
    }

    /// How long it holds from `now` on.
    pub(super) fn left(&self, now: Instant) -> Duration {
        Duration::from_millis(self.ends_ms.load(Ordering::Relaxed)).saturating_sub(now.duration_since(self.start))
    }

    fn prolong(&self, asked: Instant, ttl: Duration) {
        self.ends_ms.store(millis(asked.duration_since(self.start) + ttl), Ordering::Relaxed);
    }
}

#[derive(Debug)]
struct Group {
    term: Arc<Term>,
    ids: HashSet<Uuid>,
    /// Whether the store wants to know when none is left.
    open: bool,
}

/// Leases that are renewed together.
#[derive(Debug)]
struct Aging {
    /// Whether claims hold them, and not their rows.
    open: bool,
    held: Vec<Held>,
}

/// All leases that this node holds, by token.
#[derive(Debug)]
pub(super) struct Ledger {
    node: Arc<str>,
    ttl: Duration,
    groups: Mutex<HashMap<i64, Group>>,
}

impl Ledger {
    pub(super) fn new(node: Arc<str>, ttl: Duration) -> Self {
        Self { node, ttl, groups: Mutex::default() }
    }

    /// A lease about to be taken, with a token that was never used: 63 random bits.
    pub(super) fn lease(&self) -> Lease {
        Lease { token: rand::rng().random_range(1..=i64::MAX), node: self.node.clone(), ttl: self.ttl }
    }

    /// Notes what was taken under a token, asked for at `asked`, and whether a claim of the store took it, which is
    /// [closed](Store::close_claims) in the end.
    pub(super) fn hold(&self, token: i64, asked: Instant, ids: impl Iterator<Item = Uuid>, open: bool) -> Arc<Term> {
        let term = Arc::new(Term::new(asked, self.ttl));
        let ids: HashSet<Uuid> = ids.collect();
        if !ids.is_empty() {
            self.lock().insert(token, Group { term: term.clone(), ids, open });
        }
        term
    }

    /// Forgets leases: their outcome is written, or they are not ours any more. Answers the tokens of open claims of which nothing is left.
    pub(super) fn drop_held<'a>(&self, held: impl Iterator<Item = &'a Held>) -> Vec<i64> {
        let mut groups = self.lock();
        let mut ended = Vec::new();
        for held in held {
            if let Some(group) = groups.get_mut(&held.token) {
                group.ids.remove(&held.id);
                if group.ids.is_empty() {
                    ended.extend(group.open.then_some(held.token));
                    groups.remove(&held.token);
                }
            }
        }
        ended
    }

    /// Has the store find out by itself that this lease ends: its outcome can't be written.
    pub(super) fn leave_open(&self, held: &Held) {
        if let Some(group) = self.lock().get_mut(&held.token) {
            group.open = false;
        }
    }

    /// The name of this node.
    pub(super) const fn node(&self) -> &Arc<str> {
        &self.node
    }

    /// How long a lease holds.
    pub(super) const fn ttl(&self) -> Duration {
        self.ttl
    }

    /// How many leases are held.
    pub(super) fn len(&self) -> usize {
        self.lock().values().map(|group| group.ids.len()).sum()
    }

    /// Prolongs leases before they run out, until it is told to stop and nothing is held.
    pub(super) async fn keep(self: Arc<Self>, store: Arc<dyn Store>, health: Arc<StoreHealth>, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(self.ttl / 6);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = stop.cancelled() => return,
            }
            // With a tick every sixth and two thirds left at the most, a renewal has three more chances before a lease ends.
            for aging in self.aging(self.ttl * 2 / 3) {
                self.renew(&*store, &health, aging).await;
            }
        }
    }

    /// Leases that hold no longer than this, in batches. Groups stay whole: their term is one. Those of claims go apart from those that rows
    /// hold.
    fn aging(&self, left: Duration) -> Vec<Aging> {
        let (groups, now) = (self.lock(), Instant::now());
        let mut batches = Vec::new();
        for open in [true, false] {
            let mut held = Vec::new();
            for (token, group) in groups.iter().filter(|(_, group)| group.open == open && group.term.left(now) <= left) {
                held.extend(group.ids.iter().map(|id| Held { id: *id, token: *token }));
                if held.len() >= RENEW_AT_ONCE {
                    batches.push(Aging { open, held: std::mem::take(&mut held) });
                }
            }
            if !held.is_empty() {
                batches.push(Aging { open, held });
            }
        }
        batches
    }

    /// Renews leases whose time has run out, or will before they would have been renewed, and that nobody else took; answers whether the store
    /// said which these are.
    pub(super) async fn revive(&self, store: &dyn Store, health: &StoreHealth) -> bool {
        for aging in self.aging(self.ttl * 2 / 3) {
            if !self.renew(store, health, aging).await {
                return false;
            }
        }
        true
    }

    async fn renew(&self, store: &dyn Store, health: &StoreHealth, aging: Aging) -> bool {
        let asked = Instant::now();
        let mut batch = aging.held;
        if !aging.open {
            // A renewal of what somebody has locked would wait and fail, and its neighbours' with it. Nobody can take such a message meanwhile.
            let locked = locked(store, health, batch.iter().map(|held| held.id).collect()).await;
            batch.retain(|held| !locked.contains(&held.id));
        }
        if batch.is_empty() {
            return true;
        }
        match store.renew(batch.clone(), self.ttl).await {
            Ok(lost) => {
                let lost: HashSet<Uuid> = lost.into_iter().collect();
                let groups = self.lock();
                for held in batch.iter().filter(|held| !lost.contains(&held.id)) {
                    if let Some(group) = groups.get(&held.token) {
                        group.term.prolong(asked, self.ttl);
                    }
                }
                drop(groups);
                if !lost.is_empty() {
                    tracing::debug!(leases.lost = lost.len(), "leases were not ours any more when they were to be renewed");
                    self.drop_held(batch.iter().filter(|held| lost.contains(&held.id)));
                }
                true
            }
            // One that is refused keeps no other from being renewed.
            Err(Error::Refused(_)) if batch.len() > 1 => {
                let rest = batch.split_off(batch.len() / 2);
                let mut is_told = true;
                for held in [batch, rest] {
                    is_told &= Box::pin(self.renew(store, health, Aging { open: aging.open, held })).await;
                }
                is_told
            }
            Err(error) => {
                health.failed("renew", &error);
                matches!(error, Error::Refused(_))
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<i64, Group>> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Which of these messages somebody else has locked; none if the store does not say.
pub(super) async fn locked(store: &dyn Store, health: &StoreHealth, ids: Vec<Uuid>) -> HashSet<Uuid> {
    match store.locked(ids).await {
        Ok(locked) => locked.into_iter().collect(),
        Err(error) => {
            health.told_nothing("locked", &error);
            HashSet::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_renewed_whole_and_claims_apart_from_rows() {
        let ledger = Ledger::new("node".into(), Duration::from_secs(30));
        for token in 0..6 {
            ledger.hold(token, Instant::now(), (0..600).map(|_| Uuid::now_v7()), token % 2 == 0);
        }
        let batches = ledger.aging(Duration::from_secs(31));
        assert_eq!(batches.iter().map(|batch| batch.held.len()).sum::<usize>(), 6 * 600);
        for Aging { open, held } in &batches {
            let tokens: HashSet<_> = held.iter().map(|held| held.token).collect();
            assert_eq!(held.len(), tokens.len() * 600, "whole groups");
            assert!(tokens.len() <= 2 && tokens.iter().all(|token| (token % 2 == 0) == *open));
        }
    }
}

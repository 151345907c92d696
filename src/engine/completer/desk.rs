//! The working state of one writer of outcomes: its batch size, and what it has set aside.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use tokio::time::Instant;

use super::Report;
use crate::engine::portion::Portion;
use crate::store::{Completion, Error, Held};
use crate::telemetry::throttle::Throttle;

/// How long to wait before outcomes that could not be written are retried, at first and at most.
const FIRST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_secs(2);
/// How long outcomes that are locked by somebody else, or that the store refused on their own, are left alone.
const ASIDE_WAIT: Duration = Duration::from_secs(1);
/// When this many outcomes in a row could not be written, each on its own, the others are left alone for a while too: it looks like an outage.
const ALONE_IN_A_ROW: u32 = 2;
/// How many previously refused outcomes are retried together.
const REFUSED_AT_ONCE: usize = 32;

/// Attempts that ended, and the completion of each.
#[derive(Debug, Default)]
pub(super) struct Outcomes {
    pub(super) reports: Vec<Report>,
    pub(super) completions: Arc<Vec<Completion>>,
    /// Whether an earlier, failed try may have written some of them.
    pub(super) is_repeated: bool,
}

impl Outcomes {
    pub(super) fn of(pairs: impl IntoIterator<Item = (Report, Completion)>, is_repeated: bool) -> Self {
        let (reports, completions) = pairs.into_iter().unzip();
        Self { reports, completions: Arc::new(completions), is_repeated }
    }

    pub(super) fn count(&self) -> usize {
        self.reports.len()
    }

    /// Keeps the first `count`; returns the others.
    pub(super) fn split_off(&mut self, count: usize) -> Self {
        let completions = Arc::make_mut(&mut self.completions).split_off(count);
        Self { reports: self.reports.split_off(count), completions: Arc::new(completions), is_repeated: self.is_repeated }
    }

    /// Splits into those that match and those that do not.
    pub(super) fn partition(self, holds: impl Fn(&Completion) -> bool) -> (Self, Self) {
        let is_repeated = self.is_repeated;
        let (these, those): (Vec<_>, Vec<_>) = self.pairs().partition(|(_, completion)| holds(completion));
        (Self::of(these, is_repeated), Self::of(those, is_repeated))
    }

    fn pairs(self) -> impl Iterator<Item = (Report, Completion)> {
        self.reports.into_iter().zip(Arc::unwrap_or_clone(self.completions))
    }
}

/// The state of one worker.
pub(super) struct Desk {
    pub(super) rng: StdRng,
    pub(super) failures: Throttle,
    /// How many outcomes are written at once.
    pub(super) portion: Portion,
    wait: Duration,
    /// How many in a row could not be written, each on its own.
    alone: u32,
    /// Outcomes set aside, because somebody else has locked their messages or the store refused them on their own, and when they are retried if there
    /// are any.
    pub(super) aside: Vec<(Report, Completion)>,
    pub(super) again: Instant,
    /// Those of the outcomes set aside that an earlier try may have written.
    unsure: HashSet<Held>,
    /// When the store first refused each outcome on its own.
    refused: HashMap<Held, Instant>,
}

impl Desk {
    /// A desk that writes at most `batch` outcomes at once.
    pub(super) fn new(rng: StdRng, batch: usize) -> Self {
        Self {
            rng,
            failures: Throttle::new(10, Duration::from_secs(1)),
            portion: Portion::new(batch),
            wait: FIRST_WAIT,
            alone: 0,
            aside: Vec::new(),
            again: Instant::now(),
            unsure: HashSet::new(),
            refused: HashMap::new(),
        }
    }

    /// `count` outcomes were written at once.
    pub(super) fn wrote(&mut self, count: usize) {
        (self.wait, self.alone) = (FIRST_WAIT, 0);
        self.portion.worked(count, Instant::now());
    }

    /// Counts a consecutive failure that was not caused by batch size; returns how long to wait.
    pub(super) fn wait(&mut self) -> Duration {
        let wait = self.wait;
        self.wait = (wait * 2).min(LONGEST_WAIT);
        wait
    }

    /// Another batch is about to be written, whatever happened to the last.
    pub(super) const fn begin(&mut self) {
        self.alone = 0;
    }

    /// Whether the last tries look as if nothing can be written.
    pub(super) const fn is_stuck(&self) -> bool {
        self.alone >= ALONE_IN_A_ROW
    }

    /// Whether all of these were set aside before because they could not be written.
    pub(super) fn failed_before(&self, outcomes: &Outcomes) -> bool {
        outcomes.completions.iter().all(|completion| self.unsure.contains(&completion.held))
    }

    /// Outcomes were not written, for a reason other than a refusal. `parts` are the others still to be written, the last one first. Returns how long
    /// to wait before going on.
    pub(super) fn put_back(&mut self, part: Outcomes, parts: &mut Vec<Outcomes>, error: &Error) -> Duration {
        let (count, is_least) = (part.count(), self.portion.size() == 1);
        if !self.portion.failed(count, error, Instant::now()) {
            parts.push(part);
            return self.wait();
        }
        // Waiting does not make a batch smaller. An outage shows soon: a single outcome can't be written either.
        if !is_least {
            parts.push(part);
            return FIRST_WAIT;
        }
        self.alone = self.alone.saturating_add(1);
        if !self.is_stuck() {
            self.lay_aside(part);
            return FIRST_WAIT;
        }
        // However many outcomes are too large on their own, the others are delayed by one wait at most. Those not yet tried on their own come before
        // those that were.
        let (tried, again) = (std::mem::take(&mut self.aside), self.again);
        for rest in parts.drain(..).rev() {
            self.lay_aside(rest);
        }
        if !tried.is_empty() {
            self.again = again;
            self.aside.extend(tried);
        }
        self.lay_aside(part);
        self.wait()
    }

    /// Sets outcomes aside to be retried later.
    pub(super) fn lay_aside(&mut self, outcomes: Outcomes) {
        if self.aside.is_empty() {
            self.again = Instant::now() + ASIDE_WAIT;
        }
        if outcomes.is_repeated {
            self.unsure.extend(outcomes.completions.iter().map(|completion| completion.held));
        }
        self.aside.extend(outcomes.pairs());
    }

    /// The halves of a refused batch, the one to be written next last. Most of the outcomes that were refused before are left for later; once the
    /// store accepts a whole batch, it soon shows whether it still refuses them.
    pub(super) fn halves(&mut self, mut outcomes: Outcomes, error: &Error) -> [Outcomes; 2] {
        // On PostgreSQL a batch may be two statements, each for itself.
        let (batch, is_reported) = (outcomes.count(), std::mem::replace(&mut outcomes.is_repeated, true));
        let (mut before, others) = outcomes.partition(|completion| self.was_refused(&completion.held));
        if !is_reported && others.count() > 0 {
            tracing::warn!(error.detail = error.to_string(), batch, "a batch of outcomes was refused; those that the database accepts are written");
        }
        // These come before those that are refused once more, so that it is their turn next time.
        if before.count() > REFUSED_AT_ONCE {
            let later = before.split_off(REFUSED_AT_ONCE);
            self.lay_aside(later);
        }
        let mut first = Outcomes::of(before.pairs().chain(others.pairs()), true);
        let rest = first.split_off(first.count().div_ceil(2));
        [rest, first]
    }

    /// Whether the store has already refused this outcome on its own.
    pub(super) fn was_refused(&self, held: &Held) -> bool {
        self.refused.contains_key(held)
    }

    /// When the store first refused this outcome; `None` if it has not before. Remembers it either way.
    pub(super) fn refused_since(&mut self, held: &Held, now: Instant) -> Option<Instant> {
        // The refusal shows that no earlier try has written it.
        self.unsure.remove(held);
        let since = self.refused.get(held).copied();
        if since.is_none() {
            self.refused.insert(*held, now);
        }
        since
    }

    /// Forgets an outcome that is settled; returns whether a try before it was set aside may have written it.
    pub(super) fn forget(&mut self, held: &Held) -> bool {
        // Usually there are none.
        if !self.refused.is_empty() {
            self.refused.remove(held);
        }
        !self.unsure.is_empty() && self.unsure.remove(held)
    }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use chrono::DateTime;
    use rand::SeedableRng;
    use uuid::Uuid;

    use super::super::Ending;
    use super::*;
    use crate::clock::StoreClock;
    use crate::engine::SourceSpec;
    use crate::engine::dispatcher::Ticket;
    use crate::engine::lane::Lane;
    use crate::engine::lease::Ledger;
    use crate::engine::memory::Memory;
    use crate::message::judge::Log;
    use crate::message::{AttemptOutcome, Message, State};
    use crate::outcome::Outcome;
    use crate::source::{Options, Sender, Source};
    use crate::telemetry::metrics::Metrics;

    struct Willing;

    #[async_trait]
    impl Source for Willing {
        async fn send(&self, _: &Message) -> Outcome {
            Outcome::succeeded()
        }
    }

    /// So many successes, each to be written.
    fn successes(count: usize) -> Vec<(Report, Completion)> {
        let spec = SourceSpec { name: "main".into(), kind: "test".to_owned(), options: Options::default(), sender: Sender::each(Willing) };
        let (lane, _jobs) = Lane::new(spec, Metrics::new("orders".into()).lane("main"), Arc::new(Memory::new(1 << 20, 1)));
        let ledger = Ledger::new("node-1".into(), Duration::from_secs(30), Arc::new(StoreClock::default()));
        let success = |_| {
            let held = Held { id: Uuid::now_v7(), token: 1 };
            let ticket = Box::new(Ticket::new(lane.clone(), held, ledger.ahead(), DateTime::UNIX_EPOCH, Instant::now()));
            let ending = Ending::Sent { outcome: Outcome::succeeded(), took: Duration::ZERO };
            let completion = Completion {
                held,
                address: None,
                epoch: 1,
                attempt: 1,
                begun: true,
                state: State::Succeeded,
                delay: Duration::ZERO,
                retries: 0,
                expires_at: None,
                outcome: AttemptOutcome::Succeeded,
                error: None,
                result: None,
                started_at: DateTime::UNIX_EPOCH,
                duration: Duration::ZERO,
                node: "node-1".into(),
                log: Log::Own,
                delete: false,
            };
            (Report { ticket, ending }, completion)
        };
        (0..count).map(success).collect()
    }

    #[test]
    fn what_is_left_for_another_time_may_have_been_written_by_the_batch_that_was_refused() {
        let mut desk = Desk::new(StdRng::seed_from_u64(7), 1000);
        let all = successes(REFUSED_AT_ONCE + 8);
        for (_, completion) in &all {
            desk.refused_since(&completion.held, Instant::now());
        }
        let halves = desk.halves(Outcomes::of(all, false), &Error::Refused("no".to_owned()));
        assert_eq!((halves.iter().map(Outcomes::count).sum::<usize>(), desk.aside.len()), (REFUSED_AT_ONCE, 8));
        let aside: Vec<_> = desk.aside.iter().map(|(_, completion)| completion.held).collect();
        assert!(aside.iter().all(|held| desk.forget(held)));
    }
}

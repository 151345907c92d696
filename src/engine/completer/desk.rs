//! What one writer of outcomes has before it: batches, and what has to wait.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use tokio::time::Instant;

use super::Report;
use crate::engine::portion::Portion;
use crate::store::{Completion, Error, Held};
use crate::telemetry::throttle::Throttle;

/// How long to wait before what could not be written is tried again, at first and at the most.
const FIRST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_secs(2);
/// How long what somebody else has locked, or the store did not take by itself, is left alone.
const ASIDE_WAIT: Duration = Duration::from_secs(1);
/// Where so many in a row could not be written, each by itself, the others are left alone too for a while: it looks like an outage.
const ALONE_IN_A_ROW: u32 = 2;
/// So many that the store refused before are tried at once.
const REFUSED_AT_ONCE: usize = 32;

/// Attempts that ended, and what is written of each.
#[derive(Debug, Default)]
pub(super) struct Outcomes {
    pub(super) reports: Vec<Report>,
    pub(super) completions: Arc<Vec<Completion>>,
    /// Whether a try that failed may have written some of them.
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

    /// Leaves so many; answers the others.
    pub(super) fn split_off(&mut self, count: usize) -> Self {
        let completions = Arc::make_mut(&mut self.completions).split_off(count);
        Self { reports: self.reports.split_off(count), completions: Arc::new(completions), is_repeated: self.is_repeated }
    }

    /// Those of which this holds, and those of which it does not.
    pub(super) fn partition(self, holds: impl Fn(&Completion) -> bool) -> (Self, Self) {
        let is_repeated = self.is_repeated;
        let (these, those): (Vec<_>, Vec<_>) = self.pairs().partition(|(_, completion)| holds(completion));
        (Self::of(these, is_repeated), Self::of(those, is_repeated))
    }

    fn pairs(self) -> impl Iterator<Item = (Report, Completion)> {
        self.reports.into_iter().zip(Arc::unwrap_or_clone(self.completions))
    }
}

/// What one worker has of its own.
pub(super) struct Desk {
    pub(super) rng: StdRng,
    pub(super) failures: Throttle,
    /// How many outcomes are written at once.
    pub(super) portion: Portion,
    wait: Duration,
    /// How many in a row could not be written, each by itself.
    alone: u32,
    /// Outcomes of messages that somebody else has locked, and those that the store did not take by themselves; and when they are tried again if
    /// there are any.
    pub(super) aside: Vec<(Report, Completion)>,
    pub(super) again: Instant,
    /// Of those aside the ones that an earlier try may have written.
    unsure: HashSet<Held>,
    /// Since when the store has refused outcomes, each by itself.
    refused: HashMap<Held, Instant>,
}

impl Desk {
    /// One that writes at most so many outcomes at once.
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

    /// So many were written at once.
    pub(super) fn wrote(&mut self, count: usize) {
        (self.wait, self.alone) = (FIRST_WAIT, 0);
        self.portion.worked(count, Instant::now());
    }

    /// How long to wait after one more failure in a row that is none of size.
    pub(super) fn wait(&mut self) -> Duration {
        let wait = self.wait;
        self.wait = (wait * 2).min(LONGEST_WAIT);
        wait
    }

    /// Another batch is about to be written, whatever became of the last.
    pub(super) const fn begin(&mut self) {
        self.alone = 0;
    }

    /// Whether what was tried last looks as if nothing could be written.
    pub(super) const fn is_stuck(&self) -> bool {
        self.alone >= ALONE_IN_A_ROW
    }

    /// Whether all of these were laid aside before because they could not be written.
    pub(super) fn failed_before(&self, outcomes: &Outcomes) -> bool {
        outcomes.completions.iter().all(|completion| self.unsure.contains(&completion.held))
    }

    /// Outcomes were not written, and it is not they that the store refuses. `parts` is what is to be written besides, the last of it first. Answers
    /// how long to wait before that.
    pub(super) fn put_back(&mut self, part: Outcomes, parts: &mut Vec<Outcomes>, error: &Error) -> Duration {
        let (count, is_least) = (part.count(), self.portion.size() == 1);
        if !self.portion.failed(count, error, Instant::now()) {
            parts.push(part);
            return self.wait();
        }
        // What is too much for the database gets no less by waiting; that it is an outage shows soon, where one alone is not written either.
        if !is_least {
            parts.push(part);
            return FIRST_WAIT;
        }
        self.alone = self.alone.saturating_add(1);
        if !self.is_stuck() {
            self.lay_aside(part);
            return FIRST_WAIT;
        }
        // However many are too much by themselves, others are not kept from their turn for longer than one wait. What was not tried by itself comes
        // before what was.
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

    /// Has outcomes tried another time.
    pub(super) fn lay_aside(&mut self, outcomes: Outcomes) {
        if self.aside.is_empty() {
            self.again = Instant::now() + ASIDE_WAIT;
        }
        if outcomes.is_repeated {
            self.unsure.extend(outcomes.completions.iter().map(|completion| completion.held));
        }
        self.aside.extend(outcomes.pairs());
    }

    /// The halves of a batch that the store refuses, the one to be written next behind the other. Most of those that it refused before are left for
    /// another time: that it takes the whole batch shows soon enough that it refuses them no more.
    pub(super) fn halves(&mut self, mut outcomes: Outcomes, error: &Error) -> [Outcomes; 2] {
        // On PostgreSQL a batch may be two statements, each for itself.
        let (batch, is_told) = (outcomes.count(), std::mem::replace(&mut outcomes.is_repeated, true));
        let (mut before, others) = outcomes.partition(|completion| self.was_refused(&completion.held));
        if !is_told && others.count() > 0 {
            tracing::warn!(error.detail = error.to_string(), batch, "a batch of outcomes was refused; those that the database accepts are written");
        }
        // These go before those that are refused once more, so that the next time it is their turn.
        if before.count() > REFUSED_AT_ONCE {
            let later = before.split_off(REFUSED_AT_ONCE);
            self.lay_aside(later);
        }
        let mut first = Outcomes::of(before.pairs().chain(others.pairs()), true);
        let rest = first.split_off(first.count().div_ceil(2));
        [rest, first]
    }

    /// Whether the store refused this outcome by itself before.
    pub(super) fn was_refused(&self, held: &Held) -> bool {
        self.refused.contains_key(held)
    }

    /// Since when the store has refused this outcome; `None` if this is the first time.
    pub(super) fn refused_since(&mut self, held: &Held, now: Instant) -> Option<Instant> {
        // That it refuses it says that it was not written before.
        self.unsure.remove(held);
        let since = self.refused.get(held).copied();
        if since.is_none() {
            self.refused.insert(*held, now);
        }
        since
    }

    /// Forgets an outcome that is dealt with; answers whether a try before it was laid aside may have written it.
    pub(super) fn forget(&mut self, held: &Held) -> bool {
        // Nearly always there are none.
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

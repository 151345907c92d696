//! What an outcome means for a message: a pure function of the outcome, the message's standing, its policy, the time and chance.

use std::time::Duration;

use chrono::{DateTime, Utc};
use rand::Rng;

use super::{AttemptOutcome, Entry, ErrorClass, Standing, State};
use crate::outcome::{Class, Outcome};
use crate::retry::Policy;

/// The maximum number of attempt log entries for a message and epoch.
pub const MOST_ENTRIES: u32 = 20;

/// What becomes of the message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// `succeeded`, `retrying` or `failed`.
    pub state: State,
    /// For `retrying`: the wait from now until it is due.
    pub delay: Duration,
    /// Refused attempts of this epoch, this one included.
    pub retries: u32,
    /// The outcome of the attempt.
    pub outcome: AttemptOutcome,
    /// What went wrong; `None` if it succeeded.
    pub error: Option<ErrorClass>,
    /// What to write to the attempt log.
    pub log: Log,
}

/// What to write to the attempt log. An attempt that succeeded is kept on its message's own row, which saves a write for each message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Log {
    /// Nothing: it is on the message's own row.
    Own,
    /// A new entry with the attempt's number.
    Insert,
    /// The entry with this number stands for one more attempt.
    Extend(u32),
}

/// Judges attempt number `attempt` of an epoch. `lost` means that the lease ran out and no outcome was reported.
pub fn judge(outcome: &Outcome, lost: bool, attempt: u32, standing: &Standing, policy: &Policy, now: DateTime<Utc>, rng: &mut impl Rng) -> Verdict {
    let counts = match outcome.class {
        Class::Succeeded | Class::Permanent => false,
        Class::Refused => true,
        Class::Unreachable => policy.counts_unreachable(),
    };
    let retries = standing.retries.saturating_add(u32::from(counts));
    let came_to = attempt_outcome(outcome.class, lost);
    let verdict = |state, delay| Verdict { state, delay, retries, outcome: came_to, error: came_to.error(), log: log(came_to, standing) };
    match outcome.class {
        Class::Succeeded => return verdict(State::Succeeded, Duration::ZERO),
        Class::Permanent => return verdict(State::Failed, Duration::ZERO),
        _ if counts && retries > policy.max_retries() => return verdict(State::Failed, Duration::ZERO),
        _ => {}
    }
    let delay = match outcome.class {
        Class::Refused => policy.after_refusal(retries, outcome.retry_after, rng),
        _ => policy.after_unreachable(attempt, outcome.retry_after, rng),
    };
    // A message that can't be tried again before it expires fails now: waiting for the age limit would only hide it from the operator.
    if standing.expires_at.is_some_and(|end| now + delay >= end) {
        return Verdict { error: Some(ErrorClass::Expired), ..verdict(State::Failed, Duration::ZERO) };
    }
    verdict(State::Retrying, delay)
}

/// The name of an outcome in the attempt log.
const fn attempt_outcome(class: Class, lost: bool) -> AttemptOutcome {
    match class {
        Class::Succeeded => AttemptOutcome::Succeeded,
        Class::Permanent => AttemptOutcome::Permanent,
        Class::Refused => AttemptOutcome::Refused,
        Class::Unreachable if lost => AttemptOutcome::Lost,
        Class::Unreachable => AttemptOutcome::Unreachable,
    }
}

/// Consecutive unreachable attempts collapse into one entry; when the log is full, the last entry stands for all attempts that follow.
pub(crate) fn log(outcome: AttemptOutcome, standing: &Standing) -> Log {
    if outcome == AttemptOutcome::Succeeded {
        return Log::Own;
    }
    let collapses = |last: &Entry| matches!(outcome, AttemptOutcome::Unreachable | AttemptOutcome::Lost) && last.outcome == outcome;
    match &standing.last_entry {
        Some(last) if collapses(last) || standing.logged >= MOST_ENTRIES => Log::Extend(last.number),
        _ => Log::Insert,
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;
    use crate::retry;

    fn judged(outcome: &Outcome, attempt: u32, standing: &Standing) -> Verdict {
        judge(outcome, false, attempt, standing, &Policy::default(), DateTime::UNIX_EPOCH, &mut StdRng::seed_from_u64(7))
    }

    fn refused() -> Outcome {
        Outcome::refused("x", "no")
    }

    #[test]
    fn a_message_fails_on_refused_attempt_max_retries_plus_one() {
        for (before, state) in [(0, State::Retrying), (3, State::Retrying), (4, State::Failed)] {
            let verdict = judged(&refused(), before + 1, &Standing { retries: before, ..Standing::default() });
            assert_eq!((verdict.state, verdict.retries), (state, before + 1));
        }
    }

    #[test]
    fn an_outage_never_uses_up_the_retries() {
        let verdict = judged(&Outcome::unreachable("x", "down"), 100_000, &Standing { retries: 4, ..Standing::default() });
        assert_eq!((verdict.state, verdict.retries, verdict.delay), (State::Retrying, 4, Duration::from_secs(30)));
    }

    #[test]
    fn an_outage_counts_where_the_policy_says_so() {
        let config = retry::Config { unreachable: Some(retry::Unreachable::Count), ..retry::Config::default() };
        let policy = Policy::of(&config);
        let standing = Standing { retries: 4, ..Standing::default() };
        let verdict = judge(&Outcome::unreachable("x", "down"), false, 5, &standing, &policy, DateTime::UNIX_EPOCH, &mut StdRng::seed_from_u64(7));
        assert_eq!((verdict.state, verdict.error), (State::Failed, Some(ErrorClass::Unreachable)));
    }

    #[test]
    fn a_lost_attempt_counts_as_an_outage_and_is_told_apart() {
        let lost = |standing: &Standing| {
            let outcome = Outcome::unreachable("lost", "no word");
            judge(&outcome, true, 2, standing, &Policy::default(), DateTime::UNIX_EPOCH, &mut StdRng::seed_from_u64(7))
        };
        let verdict = lost(&Standing { retries: 4, ..Standing::default() });
        assert_eq!((verdict.state, verdict.retries, verdict.delay), (State::Retrying, 4, Duration::from_secs(30)), "it uses up no retry");
        assert_eq!((verdict.outcome, verdict.log), (AttemptOutcome::Lost, Log::Insert));
        let after = |outcome| lost(&Standing { logged: 1, last_entry: Some(Entry { number: 3, outcome }), ..Standing::default() }).log;
        assert_eq!(after(AttemptOutcome::Unreachable), Log::Insert, "it does not pass for an outage");
        assert_eq!(after(AttemptOutcome::Lost), Log::Extend(3));
    }

    #[test]
    fn what_the_destination_asks_to_wait_is_waited_within_its_bounds() {
        for outcome in [refused(), Outcome::unreachable("x", "")] {
            let asked = |seconds| outcome.clone().with_retry_after(Some(Duration::from_secs(seconds)));
            let wait = |seconds| judged(&asked(seconds), 1, &Standing::default()).delay.as_secs();
            assert_eq!([wait(1), wait(60), wait(1_000_000)], [5, 60, 21_600], "{}", outcome.class);
            let soon_too_old = Standing { expires_at: Some(DateTime::UNIX_EPOCH + Duration::from_secs(30)), ..Standing::default() };
            assert_eq!(judged(&asked(60), 1, &soon_too_old).error, Some(ErrorClass::Expired), "{}", outcome.class);
        }
    }

    #[test]
    fn after_a_refusal_the_wait_counts_refusals_and_after_an_outage_all_attempts() {
        let standing = Standing { retries: 0, ..Standing::default() };
        assert_eq!(judged(&refused(), 9, &standing).delay, Duration::from_secs(5), "the first refusal, whatever came before it");
        assert_eq!(judged(&Outcome::unreachable("x", ""), 1, &standing).delay, Duration::from_secs(5));
        assert_eq!(judged(&Outcome::unreachable("x", ""), 2, &standing).delay, Duration::from_secs(30));
    }

    #[test]
    fn a_permanent_refusal_fails_at_once() {
        let verdict = judged(&Outcome::permanent("x", ""), 1, &Standing::default());
        assert_eq!((verdict.state, verdict.error, verdict.retries), (State::Failed, Some(ErrorClass::Permanent), 0));
    }

    #[test]
    fn a_message_whose_next_try_would_be_past_its_age_is_over() {
        let at = |seconds| Some(DateTime::UNIX_EPOCH + Duration::from_secs(seconds));
        let early = judged(&refused(), 1, &Standing { expires_at: at(5), ..Standing::default() });
        assert_eq!((early.state, early.error), (State::Failed, Some(ErrorClass::Expired)));
        assert_eq!(judged(&refused(), 1, &Standing { expires_at: at(6), ..Standing::default() }).state, State::Retrying);
    }

    #[test]
    fn the_log_collapses_outages_and_is_bounded() {
        let standing = |logged, outcome| Standing { logged, last_entry: Some(Entry { number: 3, outcome }), ..Standing::default() };
        let down = Outcome::unreachable("x", "");
        assert_eq!(judged(&down, 1, &Standing::default()).log, Log::Insert);
        assert_eq!(judged(&down, 9, &standing(1, AttemptOutcome::Unreachable)).log, Log::Extend(3));
        assert_eq!(judged(&down, 9, &standing(1, AttemptOutcome::Lost)).log, Log::Insert, "a lost attempt stays on record");
        assert_eq!(judged(&refused(), 9, &standing(1, AttemptOutcome::Refused)).log, Log::Insert, "refusals are each their own");
        assert_eq!(judged(&refused(), 99, &standing(MOST_ENTRIES, AttemptOutcome::Refused)).log, Log::Extend(3));
        assert_eq!(judged(&Outcome::succeeded(), 99, &standing(1, AttemptOutcome::Refused)).log, Log::Own);
    }
}

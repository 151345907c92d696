//! How the claims of a drain move through the queues of a source.

use std::time::Duration;

use tokio::time::Instant;

use crate::store::Mark;

/// A drain continues where its last claim ended, and starts over this often, to find what was committed late.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// Such a sweep passes over everything that any node holds, and over dead index entries that can't be removed yet. It may take at most this share of
/// the time, so that sweeps become rarer where many nodes drain; but it happens at least this often.
const SWEEP_SHARE: u32 = 50;
const SWEEP_AT_LEAST_EVERY: Duration = Duration::from_secs(10);

/// Where a drain stands on each level, so that it need not pass again over what it has just claimed.
#[derive(Debug, Default)]
pub(super) struct Walk {
    levels: [Option<Step>; 10],
}

#[derive(Debug)]
struct Step {
    last: Mark,
    sweep_at: Instant,
}

impl Walk {
    /// The message behind which a claim at `now` may start; `None` for the very beginning.
    pub(super) fn after(&mut self, level: u8, now: Instant) -> Option<Mark> {
        let step = self.levels.get_mut(usize::from(level))?;
        if step.as_ref().is_some_and(|step| step.sweep_at <= now) {
            *step = None;
        }
        step.as_ref().map(|step| step.last)
    }

    /// The next claim starts from the very beginning.
    pub(super) fn end(&mut self, level: u8) {
        if let Some(step) = self.levels.get_mut(usize::from(level)) {
            *step = None;
        }
    }

    /// A claim made from `asked` to `now` ended behind this message; `None` if there was nothing more.
    pub(super) fn note(&mut self, level: u8, last: Option<Mark>, asked: Instant, now: Instant) {
        let Some(step) = self.levels.get_mut(usize::from(level)) else { return };
        // A claim without a step to continue from was itself a sweep.
        let next_sweep = || now + (now.duration_since(asked) * SWEEP_SHARE).clamp(SWEEP_EVERY, SWEEP_AT_LEAST_EVERY);
        *step = last.map(|last| Step { last, sweep_at: step.as_ref().map_or_else(next_sweep, |step| step.sweep_at) });
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;

    /// How long after a first claim that took `took` the walk starts over, while claims keep coming.
    fn swept_after(took: Duration) -> Duration {
        let (mut walk, asked) = (Walk::default(), Instant::now());
        let begun = asked + took;
        assert_eq!(walk.after(3, asked), None);
        let mut now = begun;
        loop {
            let last = Mark { due_at: DateTime::UNIX_EPOCH, row: 7 };
            walk.note(3, Some(last), asked, now);
            now += Duration::from_millis(100);
            match walk.after(3, now) {
                Some(mark) => assert_eq!(mark, last),
                None => return now - begun,
            }
        }
    }

    #[test]
    fn sweeps_take_a_share_of_the_time() {
        let ms = Duration::from_millis;
        assert_eq!(swept_after(ms(1)), ms(1000));
        assert_eq!(swept_after(ms(40)), ms(2000));
        assert_eq!(swept_after(ms(3000)), ms(10_000));
    }

    #[test]
    fn a_claim_that_ended_a_queue_is_followed_by_one_from_the_start() {
        let (mut walk, now) = (Walk::default(), Instant::now());
        let mark = Mark { due_at: DateTime::UNIX_EPOCH, row: 7 };
        walk.note(0, Some(mark), now, now);
        walk.note(1, Some(mark), now, now);
        walk.note(0, None, now, now);
        assert_eq!((walk.after(0, now), walk.after(1, now)), (None, Some(mark)));
        walk.end(1);
        assert_eq!(walk.after(1, now), None);
    }
}

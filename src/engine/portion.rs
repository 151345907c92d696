//! How much is asked of the store at once: less where that fails, more again where it works.

use std::time::Duration;

use tokio::time::Instant;

use crate::store::Error;

/// A size that fails where half of it has just worked is not tried again for this long.
const CONTENT: Duration = Duration::from_secs(60);

/// A limit on batch sizes. A batch that is too large for the database, in bytes or for the time it is given, fails however often it is repeated:
/// after two failures in a row the size is halved, and halved again at once if that fails too, down to one; where it works, the size is doubled. An
/// outage looks the same while it lasts; once it is over, the limit is gone after about ten batches.
#[derive(Debug)]
pub(super) struct Portion {
    most: usize,
    size: usize,
    /// Whether the last batch failed.
    has_failed: bool,
    /// Whether a batch has worked since the size was last reduced.
    has_worked: bool,
    /// Until when the size is not raised.
    content: Option<Instant>,
}

impl Portion {
    /// At most `most` at the best of times, and never less than one.
    pub(super) fn new(most: usize) -> Self {
        let most = most.max(1);
        Self { most, size: most, has_failed: false, has_worked: false, content: None }
    }

    /// The present size.
    pub(super) const fn size(&self) -> usize {
        self.size
    }

    /// A batch of `count` worked.
    pub(super) fn worked(&mut self, count: usize, now: Instant) {
        (self.has_failed, self.has_worked) = (false, true);
        // A smaller batch that worked says nothing about a larger one.
        if self.size < self.most && count >= self.size && self.content.is_none_or(|until| until <= now) {
            self.size = self.size.saturating_mul(2).min(self.most);
        }
    }

    /// A batch of `count` failed. Returns whether its size may be the reason.
    pub(super) fn failed(&mut self, count: usize, error: &Error, now: Instant) -> bool {
        if !matches!(error, Error::TimedOut(_) | Error::Unavailable(_)) {
            return false;
        }
        let is_lowered = self.size < self.most;
        // Once a smaller batch has worked, a single failure means no more than one at the best of times.
        if std::mem::replace(&mut self.has_failed, true) || (is_lowered && !self.has_worked) {
            // A smaller batch has worked since, so it is not an outage, and the next try would fail as this one did.
            self.content = (is_lowered && self.has_worked && count > 1).then(|| now + CONTENT);
            self.has_worked = false;
            self.size = (self.size.min(count) / 2).max(1);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gone() -> Error {
        Error::Unavailable("gone".to_owned())
    }

    /// Tries until it works where batches of up to `works` do; returns how many tries that took.
    fn tries(portion: &mut Portion, works: usize, now: Instant) -> usize {
        for tries in 1..100 {
            let count = portion.size();
            if count <= works {
                portion.worked(count, now);
                return tries;
            }
            assert!(portion.failed(count, &gone(), now));
        }
        panic!("it never works: {portion:?}");
    }

    #[test]
    fn what_fails_twice_is_halved_until_it_works() {
        let (mut portion, now) = (Portion::new(1000), Instant::now());
        portion.worked(1000, now);
        assert!(portion.failed(1000, &Error::TimedOut(CONTENT), now));
        assert_eq!(portion.size(), 1000, "once is nothing");
        portion.worked(1000, now);
        assert!(portion.failed(1000, &gone(), now));
        assert_eq!(portion.size(), 1000, "it was not twice in a row");
        portion.failed(1000, &gone(), now);
        assert_eq!(portion.size(), 500);
        assert_eq!(tries(&mut portion, 7, now), 7);
        for _ in 0..100 {
            portion.failed(portion.size(), &gone(), now);
        }
        assert_eq!(portion.size(), 1);
    }

    #[test]
    fn what_is_too_large_is_tried_again_only_once_a_while() {
        let (mut portion, mut now) = (Portion::new(1000), Instant::now());
        tries(&mut portion, 7, now);
        assert_eq!((portion.size(), tries(&mut portion, 7, now)), (14, 3));
        for _ in 0..100 {
            assert_eq!(tries(&mut portion, 7, now), 1);
        }
        now += CONTENT;
        assert_eq!(tries(&mut portion, 7, now), 1);
        assert_eq!(portion.size(), 14);
        assert_eq!((tries(&mut portion, 7, now), tries(&mut portion, 7, now)), (3, 1));
    }

    #[test]
    fn after_an_outage_it_is_soon_as_large_as_ever() {
        let (mut portion, now) = (Portion::new(1000), Instant::now());
        portion.worked(1000, now);
        for _ in 0..100 {
            portion.failed(portion.size(), &gone(), now);
        }
        for _ in 0..10 {
            assert_eq!(tries(&mut portion, 1000, now), 1);
        }
        assert_eq!(portion.size(), 1000);
        // A small batch that fails says no more than any other.
        portion.failed(1, &gone(), now);
        portion.failed(1, &gone(), now);
        assert_eq!(portion.size(), 1);
        portion.worked(1, now);
        assert_eq!(portion.size(), 2);
        // Nor does a batch that is not full say anything about more.
        portion.worked(1, now);
        assert_eq!(portion.size(), 2);
    }

    #[test]
    fn one_failure_on_the_way_back_from_an_outage_is_nothing() {
        let (mut portion, now) = (Portion::new(1000), Instant::now());
        for _ in 0..100 {
            portion.failed(portion.size(), &gone(), now);
        }
        for batch in 0..10 {
            if [1, 6].contains(&batch) {
                assert!(portion.failed(portion.size(), &gone(), now));
            }
            assert_eq!(tries(&mut portion, 1000, now), 1);
        }
        assert_eq!(portion.size(), 1000);
    }

    #[test]
    fn what_has_another_reason_changes_nothing() {
        let (mut portion, now) = (Portion::new(10), Instant::now());
        for error in [Error::Contended(String::new()), Error::Refused(String::new()), Error::Schema(String::new())] {
            assert!(!portion.failed(10, &error, now) && !portion.failed(10, &error, now));
        }
        assert_eq!(portion.size(), 10);
    }
}

//! How old the oldest unanswered message of the client is, without keeping a list: messages are counted by when they were handed over.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// The maximum time of a message is divided into this many slices.
const SLICES: u8 = 16;
/// Twice as many counters as slices, so that a counter is reused only long after its messages are done.
const COUNTERS: u8 = 2 * SLICES;

/// Counts unanswered messages by the slice of time in which they were handed over.
#[derive(Debug)]
pub(super) struct Ages {
    began: Instant,
    slice: Duration,
    counters: [Counter; COUNTERS as usize],
}

/// The messages of one slice.
#[derive(Debug, Default)]
struct Counter {
    slice: AtomicU64,
    messages: AtomicUsize,
}

/// The slice of a message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slice(usize);

impl Ages {
    /// For messages that may take `longest`; a slice is at least a millisecond.
    pub(super) fn new(longest: Duration) -> Self {
        let slice = (longest / u32::from(SLICES)).max(Duration::from_millis(1));
        Self { began: Instant::now(), slice, counters: std::array::from_fn(|_| Counter::default()) }
    }

    /// The length of a slice.
    pub(super) const fn slice(&self) -> Duration {
        self.slice
    }

    /// Counts a message that is handed over now.
    pub(super) fn begin(&self, now: Instant) -> Slice {
        let number = self.number(now);
        let slice = usize::try_from(number % u64::from(COUNTERS)).unwrap_or_default();
        let counter = &self.counters[slice];
        if counter.messages.load(Ordering::Relaxed) == 0 {
            counter.slice.store(number, Ordering::Relaxed);
        }
        counter.messages.fetch_add(1, Ordering::Release);
        Slice(slice)
    }

    /// A message of this slice was answered.
    pub(super) fn end(&self, slice: Slice) {
        self.counters[slice.0].messages.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether any message is unanswered.
    pub(super) fn any(&self) -> bool {
        self.counters.iter().any(|counter| counter.messages.load(Ordering::Relaxed) > 0)
    }

    /// Whether the time of any message runs out within a slice.
    pub(super) fn any_old(&self, now: Instant) -> bool {
        let Some(old) = self.number(now).checked_sub(u64::from(SLICES - 1)) else { return false };
        self.counters.iter().any(|counter| counter.messages.load(Ordering::Acquire) > 0 && counter.slice.load(Ordering::Relaxed) <= old)
    }

    fn number(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.began).as_nanos() / self.slice.as_nanos()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONGEST: Duration = Duration::from_millis(1600);
    const SLICE: Duration = Duration::from_millis(100);

    #[test]
    fn one_is_old_a_slice_before_its_time_is_over_until_it_is_answered() {
        let ages = Ages::new(LONGEST);
        let begun = ages.began + 50 * SLICE;
        let slice = ages.begin(begun + SLICE / 2);
        assert!(!ages.any_old(begun + 14 * SLICE));
        assert!(ages.any_old(begun + 15 * SLICE));
        // A younger message with the same counter does not hide it.
        ages.end(ages.begin(begun + 32 * SLICE));
        assert!(ages.any_old(begun + 1000 * SLICE));
        ages.end(slice);
        assert!(!ages.any() && !ages.any_old(begun + 1000 * SLICE));
    }

    #[test]
    fn those_that_are_answered_make_none_old() {
        let ages = Ages::new(LONGEST);
        for count in 0..200 {
            let now = ages.began + count * SLICE;
            assert!(!ages.any_old(now), "{count}");
            ages.end(ages.begin(now));
        }
    }
}

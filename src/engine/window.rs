//! How many messages of one lane may be under way: few until the destination answers, then as many as it answers in time.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The window for a destination that has not answered since the start, or since its breaker opened: enough to find out, so that an outage costs no
/// more attempts than this.
const FEWEST: u32 = 16;
/// The window once it has answered, until its speed is known: even at fifty a second these are answered in time.
const FIRST: u32 = 256;

/// With senders that pipeline, each message waits for those before it: a destination that takes a hundred a second would hold ten thousand for longer
/// than any timeout, and none of them could be given to another node or make way for a more urgent one.
#[derive(Debug)]
pub(super) struct Window {
    most: u32,
    /// An answer that took longer than this is late. `None`: no send waits for another.
    patience: Option<Duration>,
    /// Whether the destination has answered since the start, or since its breaker opened.
    proven: AtomicBool,
    size: AtomicU32,
    /// How many were answered, and whether any was in time since the mark.
    answers: AtomicU64,
    in_time: AtomicBool,
    mark: Mutex<Mark>,
}

/// Where the measurement of the answer rate starts.
#[derive(Debug)]
struct Mark {
    at: Instant,
    answers: u64,
}

impl Window {
    /// A window of at most `most` messages, each of which should be answered within `patience`.
    pub(super) fn new(most: u32, patience: Option<Duration>, now: Instant) -> Self {
        Self {
            most,
            patience,
            proven: AtomicBool::new(false),
            size: AtomicU32::new(patience.map_or(most, |_| most.min(FIRST))),
            answers: AtomicU64::new(0),
            in_time: AtomicBool::new(false),
            mark: Mutex::new(Mark { at: now, answers: 0 }),
        }
    }

    /// How many may be under way.
    pub(super) fn size(&self) -> u32 {
        let size = self.size.load(Ordering::Relaxed);
        if self.proven.load(Ordering::Relaxed) { size } else { size.min(FEWEST) }
    }

    /// Whether the window is at its largest.
    pub(super) fn is_full(&self) -> bool {
        self.size() >= self.most
    }

    /// How many messages a claim may bring while `under_way` are; 0 until there is room enough to be worth it.
    pub(super) fn room(&self, under_way: u32) -> u32 {
        let size = self.size();
        let room = size.saturating_sub(under_way);
        let worth = if self.proven.load(Ordering::Relaxed) { size / 4 } else { 1 };
        if room >= worth { room } else { 0 }
    }

    /// The destination answered a message that was under way for `took`. Returns whether that was its first answer.
    pub(super) fn answered(&self, took: Duration, now: Instant) -> bool {
        self.answers.fetch_add(1, Ordering::Relaxed);
        if let Some(patience) = self.patience.filter(|patience| took <= *patience) {
            if !self.in_time.load(Ordering::Relaxed) {
                self.in_time.store(true, Ordering::Relaxed);
            }
            if took <= patience / 2 && self.size.load(Ordering::Relaxed) < self.most {
                let _ = self.size.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |size| Some(self.most.min(size + 1)));
            }
        }
        self.ended(took, now);
        !self.proven.load(Ordering::Relaxed) && !self.proven.swap(true, Ordering::Relaxed)
    }

    /// A message was under way for `took`, answered or not. Once no answers are in time any longer, the window shrinks to as many messages as are
    /// answered within half of the patience. Slow messages beside quick ones, such as those for a partition that has lost its leader, do not count.
    pub(super) fn ended(&self, took: Duration, now: Instant) {
        let Some(patience) = self.patience.filter(|patience| took > *patience) else { return };
        let mut mark = self.mark.lock().unwrap_or_else(PoisonError::into_inner);
        let span = now.saturating_duration_since(mark.at);
        if span < patience / 2 {
            return;
        }
        let answers = self.answers.load(Ordering::Relaxed);
        let in_time = self.in_time.swap(false, Ordering::Relaxed);
        // An old mark says nothing about the present.
        if !in_time && span < patience * 2 {
            let measured = u128::from(answers - mark.answers) * (patience / 2).as_nanos() / span.as_nanos().max(1);
            self.size.fetch_min(u32::try_from(measured).unwrap_or(u32::MAX).max(FEWEST), Ordering::Relaxed);
        }
        *mark = Mark { at: now, answers };
    }

    /// The destination can't be reached any longer.
    pub(super) fn lost(&self) {
        self.proven.store(false, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(2);

    /// A window of 10,000 to a destination that answers quickly.
    fn proven(now: Instant) -> Window {
        let window = Window::new(10_000, Some(PATIENCE), now);
        assert_eq!((window.size(), window.room(0), window.room(10)), (16, 16, 6));
        assert!(window.answered(Duration::ZERO, now), "its first word");
        assert!(!window.answered(Duration::ZERO, now));
        assert!((256..300).contains(&window.size()), "{}", window.size());
        answers(&window, now, 1, 10_000, Duration::ZERO);
        assert!(window.is_full());
        window
    }

    /// `rate` answers a second for `seconds`, each after `took`.
    fn answers(window: &Window, from: Instant, seconds: u32, rate: u32, took: Duration) -> Instant {
        for n in 0..seconds * rate {
            window.answered(took, from + Duration::from_secs(1) * n / rate);
        }
        from + Duration::from_secs(1) * seconds
    }

    #[test]
    fn a_slow_destination_gets_what_it_takes_in_half_the_time() {
        let now = Instant::now();
        let window = proven(now);
        let now = answers(&window, now, 6, 100, PATIENCE * 2);
        assert!((90..=110).contains(&window.size()), "{}", window.size());
        window.lost();
        assert_eq!(window.size(), 16);
        assert!(window.answered(PATIENCE, now));
        assert!((90..=110).contains(&window.size()), "what was learnt is kept: {}", window.size());
    }

    #[test]
    fn one_that_answers_nothing_gets_the_fewest() {
        let now = Instant::now();
        let window = proven(now);
        for second in 3..8 {
            window.ended(PATIENCE * 2, now + Duration::from_secs(second));
        }
        assert_eq!(window.size(), 16);
    }

    #[test]
    fn quick_answers_open_it_again() {
        let now = Instant::now();
        let window = proven(now);
        let now = answers(&window, now, 6, 100, PATIENCE * 2);
        let now = answers(&window, now, 1, 500, PATIENCE * 3 / 4);
        assert!(window.size() < 200, "in time, and no more: {}", window.size());
        answers(&window, now, 1, 10_000, PATIENCE / 2);
        assert!(window.is_full());
    }

    #[test]
    fn what_takes_long_beside_quick_ones_is_no_reason() {
        let now = Instant::now();
        let window = proven(now);
        for n in 0..1000 {
            let now = now + Duration::from_millis(n * 10);
            window.answered(Duration::from_millis(1), now);
            window.ended(PATIENCE * 2, now);
        }
        assert!(window.is_full());
    }

    #[test]
    fn a_small_window_is_claimed_for_in_portions() {
        let now = Instant::now();
        let window = proven(now);
        answers(&window, now, 6, 100, PATIENCE * 2);
        let size = window.size();
        assert_eq!(window.room(size), 0);
        assert_eq!(window.room(size - size / 4 + 1), 0);
        assert_eq!(window.room(size / 2), size - size / 2);
    }

    #[test]
    fn sends_that_wait_for_no_others_may_take_their_time() {
        let now = Instant::now();
        let window = Window::new(64, None, now);
        assert_eq!(window.size(), 16);
        answers(&window, now, 10, 10, Duration::from_secs(60));
        assert!(window.is_full());
    }
}

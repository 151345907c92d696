//! The node's own breaker: keeps load off a destination that can't be reached.
//!
//! Closed until a number of outcomes in a row were unreachable, then open: one message per `probe` is tried, and the first one that reaches the
//! destination, whatever the answer, closes it.

use std::time::Duration;

use tokio::time::Instant;

use crate::source::options;

/// How often an open breaker reports.
const REPORT_EVERY: Duration = Duration::from_secs(60);

/// What a breaker lets through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Allows {
    /// Everything.
    All,
    /// One message, now.
    Probe,
    /// Nothing until then.
    Nothing(Instant),
}

/// A change that deserves a line in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// It opened after this many unreachable outcomes in a row.
    Opened(u32),
    /// It is still open; `failed` probes have failed since it opened.
    StillOpen { failed: u32, since: Duration },
    /// It closed after having been open for this long.
    Closed { after: Duration },
}

#[derive(Debug)]
pub(super) struct Breaker {
    after: u32,
    probe: Duration,
    in_a_row: u32,
    /// An attempt that began before the last change says nothing about the destination as it is now.
    changed: Instant,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    next_probe: Instant,
    failed: u32,
    reported: Instant,
}

impl Breaker {
    pub(super) fn new(options: &options::Breaker, now: Instant) -> Self {
        Self { after: options.after, probe: options.probe.get(), in_a_row: 0, changed: now, open: None }
    }

    /// What may be sent now. An allowed probe counts as taken: the next one is a `probe` away.
    pub(super) fn allows(&mut self, now: Instant) -> Allows {
        match &mut self.open {
            None => Allows::All,
            Some(open) if open.next_probe <= now => {
                open.next_probe = now + self.probe;
                Allows::Probe
            }
            Some(open) => Allows::Nothing(open.next_probe),
        }
    }

    /// Nothing was sent for an allowed probe, so the next message may be sent at once. Returns whether the breaker is open.
    pub(super) fn probe_unused(&mut self, now: Instant) -> bool {
        if let Some(open) = &mut self.open {
            open.next_probe = now;
        }
        self.open.is_some()
    }

    /// Records the outcome of an attempt that began at `began`.
    pub(super) fn note(&mut self, unreachable: bool, began: Instant, now: Instant) -> Option<Change> {
        match (&mut self.open, unreachable) {
            (None, false) => {
                self.in_a_row = 0;
                None
            }
            (None, true) if began < self.changed => None,
            (None, true) => {
                self.in_a_row += 1;
                if self.in_a_row < self.after {
                    return None;
                }
                self.changed = now;
                self.open = Some(Open { next_probe: now + self.probe, failed: 0, reported: now });
                Some(Change::Opened(self.in_a_row))
            }
            (Some(open), true) => {
                if began >= self.changed {
                    open.failed += 1;
                }
                if now.duration_since(open.reported) < REPORT_EVERY {
                    return None;
                }
                open.reported = now;
                Some(Change::StillOpen { failed: open.failed, since: now.duration_since(self.changed) })
            }
            (Some(_), false) => {
                let after = now.duration_since(self.changed);
                self.open = None;
                self.in_a_row = 0;
                self.changed = now;
                Some(Change::Closed { after })
            }
        }
    }

    pub(super) const fn is_open(&self) -> bool {
        self.open.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Span;

    const PROBE: Duration = Duration::from_secs(5);

    fn opened() -> (Breaker, Instant) {
        let now = Instant::now();
        let mut breaker = Breaker::new(&options::Breaker { after: 3, probe: Span::secs(5) }, now);
        assert_eq!(breaker.note(true, now, now), None);
        assert_eq!(breaker.note(true, now, now), None);
        assert_eq!(breaker.note(true, now, now), Some(Change::Opened(3)));
        (breaker, now)
    }

    #[test]
    fn one_that_is_reached_starts_the_count_anew() {
        let now = Instant::now();
        let mut breaker = Breaker::new(&options::Breaker { after: 2, probe: Span::secs(5) }, now);
        for _ in 0..10 {
            assert_eq!(breaker.note(true, now, now), None);
            assert_eq!(breaker.note(false, now, now), None);
        }
        assert_eq!(breaker.allows(now), Allows::All);
    }

    #[test]
    fn open_it_lets_one_message_a_probe_through() {
        let (mut breaker, now) = opened();
        assert_eq!(breaker.allows(now), Allows::Nothing(now + PROBE));
        assert_eq!(breaker.allows(now + PROBE), Allows::Probe);
        assert_eq!(breaker.allows(now + PROBE), Allows::Nothing(now + PROBE * 2));
        breaker.probe_unused(now + PROBE);
        assert_eq!(breaker.allows(now + PROBE), Allows::Probe, "a probe that found nothing to send is not lost");
    }

    #[test]
    fn the_first_one_that_gets_through_closes_it() {
        let (mut breaker, now) = opened();
        assert_eq!(breaker.note(false, now + PROBE, now + PROBE), Some(Change::Closed { after: PROBE }));
        assert_eq!(breaker.allows(now + PROBE), Allows::All);
    }

    #[test]
    fn what_began_before_it_closed_does_not_open_it_again() {
        let (mut breaker, now) = opened();
        breaker.note(false, now, now + PROBE);
        for _ in 0..10 {
            assert_eq!(breaker.note(true, now, now + PROBE * 2), None);
        }
        assert!(!breaker.is_open());
    }

    #[test]
    fn it_reports_once_a_minute() {
        let (mut breaker, now) = opened();
        let reports =
            (1..=180).filter(|second| breaker.note(true, now + Duration::from_secs(*second), now + Duration::from_secs(*second)).is_some()).count();
        assert_eq!(reports, 3);
    }
}

//! The client library's complaints. The last one explains why a broker was silent; only a few are logged, since an outage of hours must not fill the
//! log. A producer that replaces another carries on with them.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// At most one line in this time.
const EVERY: Duration = Duration::from_secs(60);
/// Complaints older than this explain nothing.
const STALE: Duration = Duration::from_secs(120);

/// The last complaint; lets one line per minute through and counts the others.
#[derive(Debug, Default)]
pub(super) struct Complaints(Mutex<Held>);

#[derive(Debug, Default)]
struct Held {
    last: Option<(Instant, String)>,
    written: Option<Instant>,
    held_back: u64,
}

impl Complaints {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers one.
    pub(super) fn note(&self, now: Instant, reason: &str) {
        self.held().last = Some((now, reason.to_owned()));
    }

    /// The last one, unless it is old.
    pub(super) fn last(&self, now: Instant) -> Option<String> {
        self.held().last.as_ref().filter(|(when, _)| now.saturating_duration_since(*when) < STALE).map(|(_, reason)| reason.clone())
    }

    /// Whether a line may be written now; if so, how many were held back since the previous one.
    pub(super) fn admit(&self, now: Instant) -> Option<u64> {
        let mut held = self.held();
        if held.written.is_some_and(|written| now.saturating_duration_since(written) < EVERY) {
            held.held_back = held.held_back.saturating_add(1);
            return None;
        }
        held.written = Some(now);
        Some(std::mem::take(&mut held.held_back))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_minute_passes_and_says_how_many_did_not() {
        let complaints = Complaints::default();
        let start = Instant::now();
        assert_eq!(complaints.admit(start), Some(0));
        for second in 0..59 {
            assert_eq!(complaints.admit(start + Duration::from_secs(second)), None);
        }
        assert_eq!(complaints.admit(start + EVERY), Some(59));
        assert_eq!(complaints.admit(start + EVERY), None);
    }

    #[test]
    fn the_last_one_is_told_until_it_is_old() {
        let complaints = Complaints::default();
        let start = Instant::now();
        assert_eq!(complaints.last(start), None);
        complaints.note(start, "Connection refused");
        assert_eq!(complaints.last(start + STALE / 2).as_deref(), Some("Connection refused"));
        assert_eq!(complaints.last(start + STALE), None);
    }
}

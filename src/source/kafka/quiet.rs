//! What a client library says of itself, kept short: an outage that lasts hours must not fill the log.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// One line in this time.
const EVERY: Duration = Duration::from_secs(60);

/// Lets one line through a minute and counts the others.
#[derive(Debug, Default)]
pub(super) struct Quiet(Mutex<Held>);

#[derive(Debug, Default)]
struct Held {
    last: Option<Instant>,
    suppressed: u64,
}

impl Quiet {
    /// Whether a line may be written now: how many were held back since the one before.
    pub(super) fn admit(&self, now: Instant) -> Option<u64> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if held.last.is_some_and(|last| now.saturating_duration_since(last) < EVERY) {
            held.suppressed = held.suppressed.saturating_add(1);
            return None;
        }
        held.last = Some(now);
        Some(std::mem::take(&mut held.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_minute_passes_and_says_how_many_did_not() {
        let quiet = Quiet::default();
        let start = Instant::now();
        assert_eq!(quiet.admit(start), Some(0));
        for second in 0..59 {
            assert_eq!(quiet.admit(start + Duration::from_secs(second)), None);
        }
        assert_eq!(quiet.admit(start + EVERY), Some(59));
        assert_eq!(quiet.admit(start + EVERY), None);
    }
}

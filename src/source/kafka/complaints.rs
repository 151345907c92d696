//! The client library's complaints. The last one explains why a broker was silent; only a few are logged, since an outage of hours must not fill the
//! log. A producer that replaces another carries on with them.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::telemetry::throttle::Throttle;

/// At most one line in this time.
const EVERY: Duration = Duration::from_secs(60);
/// Complaints older than this explain nothing.
const STALE: Duration = Duration::from_secs(120);

/// The last complaint, and a limit on the lines written about them.
#[derive(Debug)]
pub(super) struct Complaints {
    last: Mutex<Option<(Instant, String)>>,
    lines: Mutex<Throttle>,
}

impl Default for Complaints {
    fn default() -> Self {
        Self { last: Mutex::default(), lines: Mutex::new(Throttle::new(1, EVERY)) }
    }
}

impl Complaints {
    /// Remembers one.
    pub(super) fn note(&self, now: Instant, reason: &str) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some((now, reason.to_owned()));
    }

    /// The last one, unless it is old.
    pub(super) fn last(&self, now: Instant) -> Option<String> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.as_ref().filter(|(when, _)| now.saturating_duration_since(*when) < STALE).map(|(_, reason)| reason.clone())
    }

    /// Whether a line may be written now; if so, how many were held back since the previous one.
    pub(super) fn admit(&self, now: Instant) -> Option<u64> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).pass(now.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

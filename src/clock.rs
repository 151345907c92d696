//! The database's clock as this node knows it. Due times and leases are measured by it, since a node's own clock may be wrong.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::time::Instant;

/// The last reading of the database's clock, carried forward by the machine's monotonic clock.
#[derive(Debug)]
pub(crate) struct StoreClock {
    start: Instant,
    /// The database's time at `start`, in microseconds since 1970.
    origin: AtomicI64,
}

impl Default for StoreClock {
    /// Before the first reading it shows the node's own time.
    fn default() -> Self {
        Self { start: Instant::now(), origin: AtomicI64::new(Utc::now().timestamp_micros()) }
    }
}

impl StoreClock {
    /// Takes a reading that came with an answer of the database; the answer's travel time makes it slightly late.
    pub(crate) fn read(&self, now: DateTime<Utc>) {
        self.origin.store(now.timestamp_micros().saturating_sub(self.since_start(Instant::now())), Ordering::Relaxed);
    }

    /// The database's time now.
    pub(crate) fn now(&self) -> DateTime<Utc> {
        self.at(Instant::now())
    }

    /// The database's time at an instant of the machine's monotonic clock.
    pub(crate) fn at(&self, moment: Instant) -> DateTime<Utc> {
        let micros = self.origin.load(Ordering::Relaxed).saturating_add(self.since_start(moment));
        DateTime::from_timestamp_micros(micros).unwrap_or_default()
    }

    fn since_start(&self, moment: Instant) -> i64 {
        i64::try_from(moment.duration_since(self.start).as_micros()).unwrap_or(i64::MAX)
    }
}

/// The time from `earlier` to `later`; zero if `later` is not later.
#[must_use]
pub(crate) fn between(earlier: DateTime<Utc>, later: DateTime<Utc>) -> Duration {
    later.signed_duration_since(earlier).to_std().unwrap_or_default()
}

/// `moment` plus `span`, at most the end of time.
#[must_use]
pub(crate) fn after(moment: DateTime<Utc>, span: Duration) -> DateTime<Utc> {
    chrono::TimeDelta::from_std(span).ok().and_then(|delta| moment.checked_add_signed(delta)).unwrap_or(DateTime::<Utc>::MAX_UTC)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_shows_the_databases_time_whatever_the_nodes_own_is() {
        let clock = StoreClock::default();
        let reading = DateTime::from_timestamp(4_000_000_000, 0).unwrap();
        clock.read(reading);
        let shown = clock.now();
        assert!(shown >= reading && shown < after(reading, Duration::from_secs(60)), "{shown}");
    }

    #[test]
    fn spans_are_never_negative_and_moments_never_overflow() {
        assert_eq!(between(DateTime::<Utc>::MAX_UTC, DateTime::UNIX_EPOCH), Duration::ZERO);
        assert_eq!(after(DateTime::UNIX_EPOCH, Duration::MAX), DateTime::<Utc>::MAX_UTC);
    }
}

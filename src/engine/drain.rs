//! What a claimer remembers from one claim to the next, and how much it asks for.

use std::time::Duration;

use tokio::time::Instant;

use super::portion::Portion;
use super::walk::Walk;
use crate::store::{Claimed, Error};
use crate::telemetry::throttle::Throttle;

/// A claim that waited longer than this for other claims of its source is followed by one that takes this many times as much, so that the cost of a
/// claim and the wait for its turn are spread over more messages.
const CROWDED: Duration = Duration::from_millis(3);
const CROWDED_BATCHES: u32 = 5;

/// The state of draining one lane's queues.
#[derive(Debug)]
pub(super) struct Drain {
    pub(super) walk: Walk,
    /// The set of levels from which something was taken since they were last found empty.
    pub(super) took: u16,
    pub(super) ordered: Throttle,
    usual: u32,
    /// Whether the last claim had to wait for claims of other nodes.
    is_crowded: bool,
    portion: Portion,
    /// The approximate weight of a message if not all that were asked for fitted, otherwise 0.
    weight: u64,
}

impl Drain {
    /// A drain that usually claims `usual` messages at once.
    pub(super) fn new(usual: u32) -> Self {
        let portion = Portion::new(usual.saturating_mul(CROWDED_BATCHES) as usize);
        let ordered = Throttle::new(1, Duration::from_secs(60));
        Self { walk: Walk::default(), took: 0, ordered, usual, is_crowded: false, portion, weight: 0 }
    }

    /// The most messages that the next claim may take.
    pub(super) fn batch(&self) -> u32 {
        let batch = if self.is_crowded { self.usual.saturating_mul(CROWDED_BATCHES) } else { self.usual };
        batch.min(u32::try_from(self.portion.size()).unwrap_or(u32::MAX))
    }

    /// How many messages a claim with these places and bytes asks for. The store reads everything that it is asked for, headers and keys included,
    /// and leaves behind what does not fit; where that happened, no more than twice what probably fits is asked for.
    pub(super) fn limit(&self, places: u32, max_bytes: u64) -> u32 {
        let fitting = max_bytes.checked_div(self.weight).map_or(u32::MAX, |count| u32::try_from(count.saturating_mul(2)).unwrap_or(u32::MAX));
        places.min(fitting).max(1)
    }

    /// Records a claim made for at most `max_bytes`.
    pub(super) fn made(&mut self, claimed: &Claimed, max_bytes: u64, now: Instant) {
        self.is_crowded = claimed.waited > CROWDED;
        self.portion.worked(claimed.seen, now);
        // The next messages may be lighter.
        self.weight = if claimed.cut { max_bytes / (claimed.rows.len() as u64).max(1) } else { self.weight / 2 };
    }

    /// Records a failed claim of `limit` messages on this level.
    pub(super) fn failed(&mut self, level: u8, limit: u32, error: &Error, now: Instant) {
        self.walk.end(level);
        self.portion.failed(limit as usize, error, now);
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use uuid::Uuid;

    use super::*;
    use crate::store::{Row, Unusable};

    const BYTES: u64 = 8 << 20;

    fn claimed(count: usize, cut: bool) -> Claimed {
        let row = Row::Unusable(Unusable { id: Uuid::nil(), epoch: 1, attempt: 1, code: "invalid_row", detail: String::new() });
        Claimed { now: DateTime::UNIX_EPOCH, rows: vec![row; count], seen: count, last: None, cut, waited: Duration::ZERO, refused: None }
    }

    #[test]
    fn no_more_is_asked_for_than_twice_what_fits() {
        let (mut drain, now) = (Drain::new(1000), Instant::now());
        assert_eq!(drain.limit(1000, BYTES), 1000);
        drain.made(&claimed(8, true), BYTES, now);
        assert_eq!((drain.limit(1000, BYTES), drain.limit(5, BYTES)), (16, 5));
        assert_eq!((drain.limit(1000, BYTES / 4), drain.limit(1000, 0)), (4, 1), "there may be less room than there was");
        // Those that come next are lighter.
        for expected in [32, 64, 128, 256, 512, 1000, 1000] {
            drain.made(&claimed(16, false), BYTES, now);
            assert_eq!(drain.limit(1000, BYTES), expected);
        }
        // Where most fit, all are asked for.
        drain.made(&claimed(600, true), BYTES, now);
        assert_eq!(drain.limit(1000, BYTES), 1000);
        // The first is taken whatever it weighs.
        drain.made(&claimed(1, true), BYTES, now);
        assert_eq!(drain.limit(1000, BYTES), 2);
    }

    #[test]
    fn less_is_asked_for_where_claims_fail() {
        let (mut drain, now) = (Drain::new(1000), Instant::now());
        let slow = Error::TimedOut(Duration::from_secs(10));
        drain.failed(0, 1000, &slow, now);
        assert_eq!(drain.batch(), 1000, "once is nothing");
        for expected in [500, 250, 125, 62, 31, 15, 7, 3, 1, 1] {
            drain.failed(0, drain.batch(), &slow, now);
            assert_eq!(drain.batch(), expected, "no more places are taken than are asked for");
        }
        drain.made(&claimed(1, false), BYTES, now);
        assert_eq!(drain.batch(), 2);
    }
}

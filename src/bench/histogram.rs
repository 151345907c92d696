//! Latencies in buckets that grow with them: every value is known to within 1.6 %, with little memory and at little cost.

use std::time::Duration;

/// The number of buckets in each power of two, as a power of two.
const FINE: u32 = 6;
/// The number of powers of two that are distinguished, in microseconds; anything longer (19 hours) counts as the largest.
const POWERS: u32 = 36;
const BUCKETS: usize = ((POWERS - FINE + 1) << FINE) as usize;

/// How often each latency was seen.
#[derive(Clone, Debug)]
pub(super) struct Histogram {
    buckets: Box<[u32]>,
    count: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: vec![0; BUCKETS].into(), count: 0 }
    }
}

impl Histogram {
    pub(super) fn record(&mut self, latency: Duration) {
        self.record_micros(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX));
    }

    pub(super) fn record_micros(&mut self, micros: u64) {
        if let Some(bucket) = self.buckets.get_mut(index(micros)) {
            *bucket = bucket.saturating_add(1);
            self.count += 1;
        }
    }

    pub(super) fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.buckets.iter_mut().zip(&other.buckets) {
            *mine = mine.saturating_add(*theirs);
        }
        self.count += other.count;
    }

    /// The latency in milliseconds that this share of all values did not exceed; `None` if there were none.
    pub(super) fn quantile_ms(&self, share: f64) -> Option<f64> {
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "counts are far below 2^52, shares between 0 and 1"
        )]
        let rank = ((self.count as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        for (index, count) in self.buckets.iter().enumerate() {
            seen += u64::from(*count);
            if seen >= rank {
                #[expect(clippy::cast_precision_loss, reason = "below 2^36")]
                return Some(highest(index) as f64 / 1000.0);
            }
        }
        None
    }
}

/// The bucket of a number of microseconds.
fn index(micros: u64) -> usize {
    let micros = micros.min((1 << POWERS) - 1);
    // Below the first power that is divided, each number has a bucket of its own.
    let power = (u64::BITS - micros.leading_zeros()).saturating_sub(FINE + 1);
    let within = micros >> power;
    usize::try_from((u64::from(power) << FINE) + within).unwrap_or(BUCKETS - 1)
}

/// The largest number of microseconds in a bucket.
fn highest(index: usize) -> u64 {
    let index = index as u64;
    let power = (index >> FINE).saturating_sub(1);
    let within = index - (power << FINE);
    ((within + 1) << power) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_told_to_within_two_percent() {
        for exponent in 0..POWERS {
            for micros in [1_u64 << exponent, (1 << exponent) + (1 << exponent) / 3] {
                let told = highest(index(micros));
                assert!(told >= micros && told - micros <= micros / 60, "{micros} is told as {told}");
            }
        }
        assert!(index(u64::MAX) < BUCKETS);
    }

    #[test]
    fn quantiles_are_ranks() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile_ms(0.5), None);
        let mut other = Histogram::default();
        for millis in 1..=50 {
            histogram.record(Duration::from_millis(millis));
            other.record(Duration::from_millis(50 + millis));
        }
        histogram.merge(&other);
        for (share, least) in [(0.5, 50.0), (0.95, 95.0), (0.99, 99.0), (1.0, 100.0)] {
            let told = histogram.quantile_ms(share).unwrap();
            assert!(told >= least && told < least * 1.02, "{share}: {told}");
        }
    }
}

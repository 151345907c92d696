//! Keeps a log line that could be written for each message from filling the log.

use std::time::Duration;

use tokio::time::Instant;

/// Lets a number of lines per period through and counts the others.
#[derive(Debug)]
pub struct Throttle {
    most: u32,
    period: Duration,
    since: Instant,
    passed: u32,
    held_back: u64,
}

impl Throttle {
    /// At most `most` per `period`.
    #[must_use]
    pub fn new(most: u32, period: Duration) -> Self {
        Self { most, period, since: Instant::now(), passed: 0, held_back: 0 }
    }

    /// Whether one more may pass; if so, how many were held back since the last one.
    pub fn pass(&mut self, now: Instant) -> Option<u64> {
        if now.duration_since(self.since) >= self.period {
            self.since = now;
            self.passed = 0;
        }
        if self.passed >= self.most {
            self.held_back += 1;
            return None;
        }
        self.passed += 1;
        Some(std::mem::take(&mut self.held_back))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_lets_so_many_through_a_period_and_says_how_many_it_held_back() {
        let mut throttle = Throttle::new(2, Duration::from_secs(1));
        let now = Instant::now();
        assert_eq!([throttle.pass(now), throttle.pass(now), throttle.pass(now), throttle.pass(now)], [Some(0), Some(0), None, None]);
        assert_eq!(throttle.pass(now + Duration::from_secs(2)), Some(2));
    }
}

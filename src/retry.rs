//! When a message is sent again: the retry policy, as data.
//!
//! `delay(1) = first_delay`; `delay(n) = min(max_delay, base_delay × multiplier^(n−1))` for n ≥ 2; then jitter.

use std::time::Duration;

use rand::{Rng, RngExt};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::fault::Fault;
use crate::units::{LONGEST, Limit, Span};

/// The highest `max_retries` that is accepted.
pub const MOST_RETRIES: u32 = 1_000_000;

/// How an unreachable destination is treated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Unreachable {
    /// An outage is not the message's fault: it does not count against `max_retries`, and the wait is at most `unreachable_delay`.
    #[default]
    Wait,
    /// It counts like a refusal, and waits the full delay.
    Count,
}

/// The retry policy as it is written in YAML, and the part of it that a message overrides. Omitted fields take their defaults.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// How many times a refused message is sent again before it fails, at most 1000000. Default 4.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_retries: Option<u32>,
    /// The wait before the first retry. Default 5s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_delay: Option<Span>,
    /// The base from which later waits grow. Default 10s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base_delay: Option<Span>,
    /// The factor between one wait and the next, 1 to 1000; 1 is a fixed interval. Default 10.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub multiplier: Option<f64>,
    /// The longest wait from the second retry on, jitter aside. Default 6h.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_delay: Option<Span>,
    /// Spreads each wait uniformly over plus or minus this share of it, 0 to 1. Default 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jitter: Option<f64>,
    /// The age at which an undelivered message fails, counted from its creation or its first due time, whichever is later. Default 7d; `never` is
    /// allowed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_after: Option<Limit>,
    /// `wait`: an unreachable destination doesn't count against `max_retries`. `count`: it does, and waits the full delay. Default wait.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unreachable: Option<Unreachable>,
    /// The longest wait after an unreachable destination, jitter and `Retry-After` aside. Default 30s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unreachable_delay: Option<Span>,
}

/// What a message overrides in its source's policy. For most messages that is nothing, which takes no space.
pub type Overrides = Option<Box<Config>>;

impl Config {
    /// These settings as overrides.
    #[must_use]
    pub fn overrides(self) -> Overrides {
        (self != Self::default()).then(|| Box::new(self))
    }

    /// Every field that is out of range, all at once. Code that accepts a config from outside has to check this and refuse it.
    #[must_use]
    pub fn faults(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        if let Some(multiplier) = self.multiplier
            && !(1.0..=1000.0).contains(&multiplier)
        {
            faults.push(Fault::new("multiplier", format!("{multiplier} is not between 1 and 1000")));
        }
        if let Some(jitter) = self.jitter
            && !(0.0..=1.0).contains(&jitter)
        {
            faults.push(Fault::new("jitter", format!("{jitter} is not between 0 and 1")));
        }
        if let Some(retries) = self.max_retries
            && retries > MOST_RETRIES
        {
            faults.push(Fault::new("max_retries", format!("{retries} is more than {MOST_RETRIES}")));
        }
        faults
    }
}

/// A retry policy in which every field is within its range, however it was made.
///
/// ```
/// use redrive::retry::Policy;
/// use std::time::Duration;
/// let policy = Policy::default();
/// let waits: Vec<u64> = (1..=4).map(|n| policy.delay(n).as_secs()).collect();
/// assert_eq!(waits, [5, 100, 1000, 10_000]);
/// ```
#[doc(hidden)]
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    max_retries: u32,
    first_delay: Duration,
    base_delay: Duration,
    multiplier: f64,
    max_delay: Duration,
    jitter: f64,
    expires_after: Option<Duration>,
    unreachable: Unreachable,
    unreachable_delay: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            max_retries: 4,
            first_delay: Duration::from_secs(5),
            base_delay: Duration::from_secs(10),
            multiplier: 10.0,
            max_delay: Duration::from_secs(6 * 3600),
            jitter: 0.0,
            expires_after: Some(Duration::from_secs(7 * 24 * 3600)),
            unreachable: Unreachable::Wait,
            unreachable_delay: Duration::from_secs(30),
        }
    }
}

impl Policy {
    /// The default policy with what `config` sets.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        Self::default().with(config)
    }

    /// This policy with what `config` overrides, or unchanged if that has [faults](Config::faults). The API refuses such a config, so it can only
    /// have come by SQL.
    #[must_use]
    pub fn with(&self, config: &Config) -> Self {
        if !config.faults().is_empty() {
            return self.clone();
        }
        Self {
            max_retries: config.max_retries.unwrap_or(self.max_retries),
            first_delay: config.first_delay.map_or(self.first_delay, Span::get),
            base_delay: config.base_delay.map_or(self.base_delay, Span::get),
            multiplier: config.multiplier.unwrap_or(self.multiplier),
            max_delay: config.max_delay.map_or(self.max_delay, Span::get),
            jitter: config.jitter.unwrap_or(self.jitter),
            expires_after: config.expires_after.map_or(self.expires_after, Limit::get),
            unreachable: config.unreachable.unwrap_or(self.unreachable),
            unreachable_delay: config.unreachable_delay.map_or(self.unreachable_delay, Span::get),
        }
    }

    /// The wait before the `n`-th retry, without jitter; `n` counts from 1 (0 is treated as 1).
    #[must_use]
    pub fn delay(&self, n: u32) -> Duration {
        if n <= 1 {
            return self.first_delay;
        }
        // Zero times infinity would be NaN.
        if self.base_delay.is_zero() {
            return Duration::ZERO;
        }
        // For large n this exceeds f64 and becomes infinity, which the cap handles. `powi` would need n to fit an i32.
        let seconds = self.base_delay.as_secs_f64() * self.multiplier.powf(f64::from(n - 1));
        Duration::try_from_secs_f64(seconds).unwrap_or(LONGEST).min(self.max_delay)
    }

    /// The wait before the `n`-th retry after a refusal, with jitter; or, within [delay, `max_delay`], the longer wait that the destination asked
    /// for.
    pub fn after_refusal(&self, n: u32, retry_after: Option<Duration>, rng: &mut impl Rng) -> Duration {
        let delay = self.jittered(self.delay(n), rng);
        retry_after.map_or(delay, |wait| wait.min(self.max_delay).max(delay))
    }

    /// The wait after the `n`-th failed attempt, if that was unreachable, with jitter.
    pub fn after_unreachable(&self, n: u32, retry_after: Option<Duration>, rng: &mut impl Rng) -> Duration {
        let delay = match self.unreachable {
            Unreachable::Wait => self.delay(n).min(self.unreachable_delay),
            Unreachable::Count => self.delay(n),
        };
        let delay = self.jittered(delay, rng);
        retry_after.map_or(delay, |wait| wait.min(self.max_delay).max(delay))
    }

    fn jittered(&self, delay: Duration, rng: &mut impl Rng) -> Duration {
        if self.jitter == 0.0 {
            return delay;
        }
        let factor = rng.random_range(1.0 - self.jitter..=1.0 + self.jitter);
        Duration::try_from_secs_f64(delay.as_secs_f64() * factor).unwrap_or(LONGEST).min(LONGEST)
    }

    /// How many times a refused message is sent again before it fails.
    #[must_use]
    pub const fn max_retries(&self) -> u32 {
        self.max_retries
    }

    /// The age at which a message fails; `None` for never.
    #[must_use]
    pub const fn expires_after(&self) -> Option<Duration> {
        self.expires_after
    }

    /// The longest wait after an unreachable attempt.
    #[must_use]
    pub const fn unreachable_delay(&self) -> Duration {
        self.unreachable_delay
    }

    /// Whether an unreachable destination counts against `max_retries`.
    #[must_use]
    pub const fn counts_unreachable(&self) -> bool {
        matches!(self.unreachable, Unreachable::Count)
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    #[test]
    fn a_multiplier_of_one_is_a_fixed_interval() {
        let fixed = Config { first_delay: Some(Span::secs(7)), base_delay: Some(Span::secs(7)), multiplier: Some(1.0), ..Config::default() };
        assert!((1..50).all(|n| Policy::of(&fixed).delay(n).as_secs() == 7));
    }

    #[test]
    fn doubling_from_a_minute_goes_60_120_240() {
        let doubling = Config { first_delay: Some(Span::secs(60)), base_delay: Some(Span::secs(60)), multiplier: Some(2.0), ..Config::default() };
        let waits: Vec<_> = (1..=3).map(|n| Policy::of(&doubling).delay(n).as_secs()).collect();
        assert_eq!(waits, [60, 120, 240]);
    }

    #[test]
    fn a_delay_is_capped_however_often_it_is_retried() {
        assert_eq!(Policy::default().delay(5), Duration::from_secs(21_600));
        assert_eq!(Policy::default().delay(u32::MAX), Duration::from_secs(21_600));
        let short = Policy::of(&Config { max_delay: Some(Span::secs(1)), ..Config::default() });
        assert_eq!([1, 2].map(|n| short.delay(n).as_secs()), [5, 1], "the first delay is what it is");
        let at_once = Policy::of(&Config { base_delay: Some(Span::secs(0)), ..Config::default() });
        assert_eq!(at_once.delay(u32::MAX), Duration::ZERO);
    }

    #[test]
    fn jitter_spreads_over_both_sides_and_no_further() {
        let policy = Policy::of(&Config { jitter: Some(0.1), first_delay: Some(Span::secs(100)), ..Config::default() });
        let mut rng = StdRng::seed_from_u64(1);
        let waits: Vec<_> = (0..1000).map(|_| policy.after_refusal(1, None, &mut rng).as_secs_f64()).collect();
        assert!(waits.iter().all(|wait| (90.0..=110.0).contains(wait)));
        assert!(waits.iter().any(|wait| *wait < 92.0) && waits.iter().any(|wait| *wait > 108.0));
    }

    #[test]
    fn retry_after_stretches_the_wait_within_its_bounds() {
        let mut rng = StdRng::seed_from_u64(1);
        let mut wait = |asked: u64| Policy::default().after_refusal(1, Some(Duration::from_secs(asked)), &mut rng).as_secs();
        assert_eq!([wait(1), wait(60), wait(1_000_000)], [5, 60, 21_600]);
    }

    #[test]
    fn an_outage_pushes_no_message_far_away() {
        let mut rng = StdRng::seed_from_u64(1);
        let wait = |policy: &Policy, rng: &mut StdRng| policy.after_unreachable(9, None, rng).as_secs();
        assert_eq!(wait(&Policy::default(), &mut rng), 30);
        let old_way = Policy::of(&Config { unreachable: Some(Unreachable::Count), ..Config::default() });
        assert_eq!(wait(&old_way, &mut rng), 21_600);
    }

    #[test]
    fn every_field_out_of_range_is_named() {
        let config = Config { multiplier: Some(0.5), jitter: Some(f64::NAN), max_retries: Some(u32::MAX), ..Config::default() };
        let fields: Vec<_> = config.faults().into_iter().map(|fault| fault.path).collect();
        assert_eq!(fields, ["multiplier", "jitter", "max_retries"]);
        assert_eq!(Policy::of(&config), Policy::default(), "no policy is made of it");
    }
}

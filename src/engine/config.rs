//! `poller:`, `history:`, `idempotency:`, `shutdown:` and `limits:` in the configuration.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::fault::Fault;
use crate::message::State;
use crate::units::{Limit, Size, Span, millis};

/// The configuration of the engine.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// `poller:`
    pub poller: Poller,
    /// `history:`
    pub history: History,
    /// `idempotency:`
    pub idempotency: Idempotency,
    /// `shutdown:`
    pub shutdown: Shutdown,
    /// `limits:`
    pub limits: Limits,
}

/// How due messages are found and claimed.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Poller {
    /// `false`: this node only accepts messages; other nodes send them.
    pub enabled: bool,
    /// The maximum number of messages per claim, 1 to 10000; five times as many if the claim before had to wait for other nodes.
    pub batch: u32,
    /// How often the table is checked when nothing else signals due messages: 10ms to 1m.
    pub interval: Span,
    /// How long a claim lasts without renewal; when a node dies, others take over its messages after this. 2s to 1h, and at least twenty times as long
    /// as the database takes to answer: a renewal is several questions.
    pub lease: Span,
}

impl Default for Poller {
    fn default() -> Self {
        Self { enabled: true, batch: 1000, interval: Span::secs(1), lease: Span::secs(30) }
    }
}

/// How long finished messages are kept.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct History {
    /// By state; `0s` deletes a message as soon as it finishes.
    pub keep: Keep,
    /// The maximum number of finished messages, whatever their age; beyond it, delivered ones are deleted first, then cancelled, then failed ones.
    pub max_rows: u64,
    /// How often old messages are purged: 100ms to 1d.
    pub every: Span,
    /// The maximum number of messages deleted at once, 1 to 10000.
    pub batch: u32,
}

impl Default for History {
    fn default() -> Self {
        Self { keep: Keep::default(), max_rows: 5_000_000, every: Span::secs(600), batch: 200 }
    }
}

/// How long messages in each finished state are kept; `0s` deletes them as soon as they finish.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Keep {
    /// Delivered messages.
    pub succeeded: Limit,
    /// Failed messages.
    pub failed: Limit,
    /// Cancelled messages.
    pub cancelled: Limit,
}

impl Default for Keep {
    fn default() -> Self {
        let days = |count: u64| Limit::After(Span::secs(count * 24 * 3600));
        Self { succeeded: days(1), failed: days(30), cancelled: days(7) }
    }
}

impl Keep {
    /// How long messages in a finished state are kept; `None` for ever, and for states that are not finished.
    #[must_use]
    pub const fn of(&self, state: State) -> Option<Duration> {
        match state {
            State::Succeeded => self.succeeded.get(),
            State::Failed => self.failed.get(),
            State::Cancelled => self.cancelled.get(),
            _ => None,
        }
    }

    /// Whether messages in this state are deleted as soon as they finish.
    #[must_use]
    pub fn deletes(&self, state: State) -> bool {
        self.of(state) == Some(Duration::ZERO)
    }
}

/// How long idempotency keys are kept.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Idempotency {
    /// How long a key is remembered, whatever happens to its message: 1s to 365d.
    pub keep: Span,
}

impl Default for Idempotency {
    fn default() -> Self {
        Self { keep: Span::secs(24 * 3600) }
    }
}

/// What happens on SIGTERM.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Shutdown {
    /// How long messages are still accepted, at most `grace`.
    pub accept_for: Span,
    /// How long the process waits for work in progress before it exits.
    pub grace: Span,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self { accept_for: Span::secs(5), grace: Span::secs(20) }
    }
}

/// How much the node may hold in memory.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Messages waiting to be committed; beyond this, producers are asked to wait (429). At least 1MiB.
    pub intake: Size,
    /// Messages being sent, for all sources together; beyond this, no more are claimed. Half of it is reserved for the sources in equal shares. At
    /// least 1MiB.
    pub in_flight: Size,
}

impl Default for Limits {
    fn default() -> Self {
        Self { intake: Size::mib(32), in_flight: Size::mib(32) }
    }
}

impl Config {
    /// Every value that is out of range, with paths from the root of the file.
    #[must_use]
    pub fn faults(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        let mut check = |wrong: bool, path: &str, message: &str| {
            if wrong {
                faults.push(Fault::new(path, message));
            }
        };
        let between = |span: Span, low: u64, high: u64| (low..=high).contains(&millis(span.get()));
        check(!between(self.poller.lease, 2_000, 3_600_000), "poller.lease", "must be between 2s and 1h");
        check(!between(self.poller.interval, 10, 60_000), "poller.interval", "must be between 10ms and 1m");
        check(!(1..=10_000).contains(&self.poller.batch), "poller.batch", "must be between 1 and 10000");
        check(!(1..=10_000).contains(&self.history.batch), "history.batch", "must be between 1 and 10000");
        check(!between(self.history.every, 100, 86_400_000), "history.every", "must be between 100ms and 1d");
        check(!between(self.idempotency.keep, 1_000, 365 * 86_400_000), "idempotency.keep", "must be between 1s and 365d");
        check(self.shutdown.accept_for > self.shutdown.grace, "shutdown.accept_for", "must not be longer than shutdown.grace");
        check(self.limits.intake < Size::mib(1), "limits.intake", "must be at least 1MiB");
        check(self.limits.in_flight < Size::mib(1), "limits.in_flight", "must be at least 1MiB");
        faults
    }
}

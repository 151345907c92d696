//! `poller:`, `history:`, `idempotency:`, `shutdown:` and `limits:` in the configuration.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::fault::Fault;
use crate::message::State;
use crate::units::{Limit, Size, Span, millis};

/// What the engine takes.
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
    /// `false`: this node only accepts; others send.
    pub enabled: bool,
    /// The most messages per claim, 1 to 10000; five times as many where a claim has to wait for claims of other nodes.
    pub batch: u32,
    /// How often the table is checked when nothing else says that something is due: 10ms to 1m.
    pub interval: Span,
    /// How long a claim holds without renewal; a node that dies loses its messages to others after this. 2s to 1h.
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
    /// By state; `0s` deletes a message as it finishes.
    pub keep: Keep,
    /// The most finished messages that are kept, whatever their age; beyond it, delivered ones are deleted first, then cancelled, then failed ones.
    pub max_rows: u64,
    /// How often old ones are purged: 100ms to 1d.
    pub every: Span,
    /// The most messages deleted at once, 1 to 10000.
    pub batch: u32,
}

impl Default for History {
    fn default() -> Self {
        Self { keep: Keep::default(), max_rows: 5_000_000, every: Span::secs(600), batch: 200 }
    }
}

/// How long messages of a finished state are kept; `0s` deletes them as they finish.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Keep {
    /// Delivered ones.
    pub succeeded: Limit,
    /// Failed ones.
    pub failed: Limit,
    /// Cancelled ones.
    pub cancelled: Limit,
}

impl Default for Keep {
    fn default() -> Self {
        let days = |count: u64| Limit::After(Span::secs(count * 24 * 3600));
        Self { succeeded: days(1), failed: days(30), cancelled: days(7) }
    }
}

impl Keep {
    /// The retention of a finished state; `None` for never (and for states that are not finished).
    #[must_use]
    pub const fn of(&self, state: State) -> Option<Duration> {
        match state {
            State::Succeeded => self.succeeded.get(),
            State::Failed => self.failed.get(),
            State::Cancelled => self.cancelled.get(),
            _ => None,
        }
    }

    /// Whether messages of this state are deleted as they finish.
    #[must_use]
    pub fn deletes(&self, state: State) -> bool {
        self.of(state) == Some(Duration::ZERO)
    }
}

/// How idempotency keys are kept.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Idempotency {
    /// How long a key is remembered, whatever becomes of its message: 1s to 365d.
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
    /// How long to wait for what is under way before the process ends.
    pub grace: Span,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self { accept_for: Span::secs(5), grace: Span::secs(20) }
    }
}

/// What the node may hold in memory.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Messages that are waiting to be committed; beyond it producers are told to wait (429). From 1MiB.
    pub intake: Size,
    /// Messages that are being sent, all sources together; beyond it no more are claimed. One half is reserved for all sources in equal shares. From 1MiB.
    pub in_flight: Size,
}

impl Default for Limits {
    fn default() -> Self {
        Self { intake: Size::mib(32), in_flight: Size::mib(32) }
    }
}

impl Config {
    /// What is out of range, with paths from the root of the file.
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

//! The options that every source has, whatever its kind.

use std::collections::BTreeMap;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::fault::Fault;
use crate::outcome::Class;
use crate::retry;
use crate::tls::Tls;
use crate::units::{Size, Span};

/// How a message gets to its first send.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Mode {
    /// Committed, answered, then sent.
    #[default]
    WriteAhead,
    /// Sent first; committed only if that fails.
    OnFailure,
}

impl Mode {
    /// The name in the API and the metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::WriteAhead => "write_ahead",
            Self::OnFailure => "on_failure",
        }
    }
}

/// The options that every source has.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// How long one send may take, from 1ms. Default: 10s for `http` and `amqp`, 30s for `command`; for `kafka` what the lease leaves, at most 20s. A
    /// custom kind has a default of its own; without one, a send is given up after 63s, in a pipeline after 123s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Span>,
    /// How many messages may be under way at once, 1 to 1000000. Default: 10000 for `kafka` and `amqp`, 64 for `http`, `command` and `log`; for a custom
    /// kind 10000 if it takes batches, else 64. A slow broker gets fewer: as many as it answers in an eighth of `timeout`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub in_flight: Option<u32>,
    /// When a message is sent again.
    pub retry: retry::Config,
    /// `write_ahead` or `on_failure`.
    pub mode: Mode,
    /// Options of the mode `on_failure`.
    pub on_failure: OnFailure,
    /// Larger payloads are refused at intake (413), and fail if they come by SQL. At most 1GiB.
    pub max_payload: Size,
    /// When to stop trying a destination that can't be reached.
    pub breaker: Breaker,
    /// Moves error codes of its kind into another class: `{ http_409: succeeded }`, `{ exit_2: permanent }`.
    pub outcomes: BTreeMap<String, Class>,
    /// Whether to keep the first 2 KiB of the destination's answer.
    pub keep_result: bool,
    /// Certificates for the connection. A fault for kinds that don't use them, such as `command` and `log`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            timeout: None,
            in_flight: None,
            retry: retry::Config::default(),
            mode: Mode::default(),
            on_failure: OnFailure::default(),
            max_payload: Size::mib(16),
            breaker: Breaker::default(),
            outcomes: BTreeMap::new(),
            keep_result: false,
            tls: None,
        }
    }
}

/// [`Options::KEYS`] and `kind`: what the section of a source may hold besides the keys of its kind.
pub(crate) const RESERVED: [&str; Options::KEYS.len() + 1] = {
    let mut keys = ["kind"; Options::KEYS.len() + 1];
    let mut index = 0;
    while index < Options::KEYS.len() {
        keys[index + 1] = Options::KEYS[index];
        index += 1;
    }
    keys
};

impl Options {
    /// The names of the keys, by which the loader tells them from those of the kind.
    pub const KEYS: [&'static str; 10] =
        ["timeout", "in_flight", "retry", "mode", "on_failure", "max_payload", "breaker", "outcomes", "keep_result", "tls"];

    /// Every value that is out of range.
    #[must_use]
    pub fn faults(&self) -> Vec<Fault> {
        let mut faults: Vec<Fault> = self.retry.faults().into_iter().map(|fault| fault.within("retry")).collect();
        if self.in_flight.is_some_and(|count| !(1..=1_000_000).contains(&count)) {
            faults.push(Fault::new("in_flight", "must be between 1 and 1000000"));
        }
        if self.timeout.is_some_and(|timeout| timeout.get() < Duration::from_millis(1)) {
            faults.push(Fault::new("timeout", "must be at least 1ms"));
        }
        if self.max_payload.bytes() > 1 << 30 {
            faults.push(Fault::new("max_payload", "must be at most 1GiB"));
        }
        if self.outcomes.contains_key("") {
            faults.push(Fault::new("outcomes", "a send that succeeds has no error code and always counts as succeeded; remove the empty key"));
        }
        faults.extend(self.breaker.faults().into_iter().map(|fault| fault.within("breaker")));
        faults
    }
}

/// Options of the mode `on_failure`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct OnFailure {
    /// After this long the message is committed while its send goes on.
    pub timeout: Span,
}

impl Default for OnFailure {
    fn default() -> Self {
        Self { timeout: Span::secs(2) }
    }
}

/// When to stop trying a destination that can't be reached.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Breaker {
    /// Opens after this many unreachable outcomes in a row, 1 or more.
    pub after: u32,
    /// While it is open, one message is tried each time this long has passed. From 10ms.
    pub probe: Span,
}

impl Default for Breaker {
    fn default() -> Self {
        Self { after: 5, probe: Span::secs(5) }
    }
}

impl Breaker {
    fn faults(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        if self.after == 0 {
            faults.push(Fault::new("after", "must be at least 1"));
        }
        if self.probe.get() < Duration::from_millis(10) {
            faults.push(Fault::new("probe", "must be at least 10ms"));
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_list_of_keys_is_that_of_the_struct() {
        let schema = schemars::schema_for!(Options);
        let keys: BTreeSet<_> = schema.get("properties").and_then(|properties| properties.as_object()).unwrap().keys().map(String::as_str).collect();
        assert_eq!(keys, BTreeSet::from(Options::KEYS));
    }
}

//! The metrics. Their names are a contract with dashboards; `docs/metrics.md` lists them.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, LabelSetEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use crate::message::State;

/// Labels, in the order in which they are written. Few and small: names of projects, sources, states and classes, never ids.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Labels(Vec<(&'static str, Arc<str>)>);

impl EncodeLabelSet for Labels {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), std::fmt::Error> {
        let pairs: Vec<(&str, &str)> = self.0.iter().map(|(name, value)| (*name, value.as_ref())).collect();
        pairs.encode(encoder)
    }
}

type Float = Gauge<f64, AtomicU64>;
type Timings = Family<Labels, Histogram, fn() -> Histogram>;

/// All of redrive's metrics; one per process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    project: Arc<str>,
    accepted: Family<Labels, Counter>,
    attempts: Family<Labels, Counter>,
    finished: Family<Labels, Counter>,
    purged: Family<Labels, Counter>,
    messages: Family<Labels, Gauge>,
    oldest_due: Family<Labels, Float>,
    due_to_send: Timings,
    in_flight: Family<Labels, Gauge>,
    last_success: Family<Labels, Float>,
    breaker: Family<Labels, Gauge>,
    store_seconds: Timings,
    send_seconds: Timings,
    leases_lost: Family<Labels, Counter>,
    store_up: Family<Labels, Gauge>,
}

fn timings() -> Histogram {
    Histogram::new([0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 3600.0])
}

impl Metrics {
    /// The metrics of a process that serves this project.
    #[must_use]
    pub fn new(project: Arc<str>) -> Self {
        let timings = || Timings::new_with_constructor(timings);
        let mut registry = Registry::with_prefix("redrive");
        let build = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "The version that is running", build);
        let metrics = Self {
            project,
            accepted: Family::default(),
            attempts: Family::default(),
            finished: Family::default(),
            purged: Family::default(),
            messages: Family::default(),
            oldest_due: Family::default(),
            due_to_send: timings(),
            in_flight: Family::default(),
            last_success: Family::default(),
            breaker: Family::default(),
            store_seconds: timings(),
            send_seconds: timings(),
            leases_lost: Family::default(),
            store_up: Family::default(),
            registry: Registry::default(),
        };
        registry.register("accepted", "Messages taken from producers over HTTP", metrics.accepted.clone());
        registry.register("attempts", "Attempts by outcome", metrics.attempts.clone());
        registry.register("finished", "Finished messages by state and class", metrics.finished.clone());
        registry.register("purged", "Finished messages deleted from the history", metrics.purged.clone());
        registry.register("messages", "Messages waiting in the table, sampled (table-wide: max over nodes, not sum)", metrics.messages.clone());
        registry.register_with_unit(
            "oldest_due",
            "How long the message that has been due longest is overdue, sampled (table-wide)",
            Unit::Seconds,
            metrics.oldest_due.clone(),
        );
        registry.register_with_unit("due_to_send", "Time from due to the start of the send", Unit::Seconds, metrics.due_to_send.clone());
        registry.register("in_flight", "Messages under way on this node", metrics.in_flight.clone());
        registry.register_with_unit(
            "last_success_timestamp",
            "When a send last succeeded on this node, Unix time",
            Unit::Seconds,
            metrics.last_success.clone(),
        );
        registry.register("breaker_state", "0: sends go out; 1: the destination can't be reached (this node)", metrics.breaker.clone());
        registry.register_with_unit("store", "Units of work in the database", Unit::Seconds, metrics.store_seconds.clone());
        registry.register_with_unit("send", "Sends, from start to outcome", Unit::Seconds, metrics.send_seconds.clone());
        registry.register(
            "leases_lost",
            "Outcomes that could not be written because the lease had passed to another node",
            metrics.leases_lost.clone(),
        );
        registry.register("store_up", "1: the store can be written to; 0: it can't (this node)", metrics.store_up.clone());
        let metrics = Self { registry, ..metrics };
        // A counter that appears with its first increment shows no increase.
        let _ = metrics.stray();
        for state in State::FINISHED {
            metrics.purged(state.as_str(), 0);
        }
        metrics.store_up(false);
        metrics
    }

    /// The text that Prometheus scrapes. Only reads memory.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = String::with_capacity(8192);
        // Writing to a string can't fail.
        let _ = encode(&mut text, &self.registry);
        text
    }

    fn labels<const N: usize>(&self, more: [(&'static str, &str); N]) -> Labels {
        let mut labels = Vec::with_capacity(N + 1);
        labels.push(("project", self.project.clone()));
        labels.extend(more.into_iter().map(|(name, value)| (name, Arc::from(value))));
        Labels(labels)
    }

    /// The counters of one source, looked up once.
    #[must_use]
    pub fn lane(&self, source: &str) -> LaneMetrics {
        let labels = self.labels([("source", source)]);
        let counter = |family: &Family<Labels, Counter>, name, value| family.get_or_create_owned(&self.labels([("source", source), (name, value)]));
        let finished = |state, class| self.finished.get_or_create_owned(&self.labels([("source", source), ("state", state), ("class", class)]));
        LaneMetrics {
            accepted_write_ahead: counter(&self.accepted, "mode", "write_ahead"),
            accepted_on_failure: counter(&self.accepted, "mode", "on_failure"),
            succeeded: counter(&self.attempts, "outcome", "succeeded"),
            permanent: counter(&self.attempts, "outcome", "permanent"),
            refused: counter(&self.attempts, "outcome", "refused"),
            unreachable: counter(&self.attempts, "outcome", "unreachable"),
            lost: counter(&self.attempts, "outcome", "lost"),
            finished_succeeded: finished("succeeded", "succeeded"),
            failed_permanent: finished("failed", "permanent"),
            failed_exhausted: finished("failed", "exhausted"),
            failed_expired: finished("failed", "expired"),
            failed_invalid: finished("failed", "invalid"),
            due_to_send: self.due_to_send.get_or_create_owned(&labels),
            send_seconds: self.send_seconds.get_or_create_owned(&labels),
            in_flight: self.in_flight.get_or_create_owned(&labels),
            last_success: self.last_success.get_or_create_owned(&labels),
            breaker: self.breaker.get_or_create_owned(&labels),
            leases_lost: self.leases_lost.get_or_create_owned(&labels),
        }
    }

    /// A unit of work in the database took this long.
    pub fn store_took(&self, op: &str, took: Duration) {
        self.store_seconds.get_or_create(&self.labels([("op", op)])).observe(took.as_secs_f64());
    }

    /// Rows were purged.
    pub fn purged(&self, state: &str, rows: u64) {
        self.purged.get_or_create(&self.labels([("state", state)])).inc_by(rows);
    }

    /// A message of a source that no configuration names has failed.
    pub fn stray_failed(&self) {
        self.stray().inc();
    }

    fn stray(&self) -> Counter {
        self.finished.get_or_create_owned(&self.labels([("source", ""), ("state", "failed"), ("class", "invalid")]))
    }

    /// Whether the store can be written to.
    pub fn store_up(&self, up: bool) {
        self.store_up.get_or_create(&self.labels([])).set(i64::from(up));
    }

    /// The number of messages of a source that wait in a state.
    pub fn waiting(&self, source: &str, state: &str, messages: u64) {
        self.messages.get_or_create(&self.labels([("source", source), ("state", state)])).set(i64::try_from(messages).unwrap_or(i64::MAX));
    }

    /// Nothing waits for a source any more, and this node does not serve it.
    pub fn forget_waiting(&self, source: &str) {
        for state in State::WAITING {
            self.messages.remove(&self.labels([("source", source), ("state", state.as_str())]));
        }
        self.oldest_due.remove(&self.labels([("source", source)]));
    }

    /// How long the longest due message of a source is overdue.
    pub fn overdue(&self, source: &str, overdue: Duration) {
        self.oldest_due.get_or_create(&self.labels([("source", source)])).set(overdue.as_secs_f64());
    }
}

/// The counters of one source.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "each is the metric and label that it is named after")]
pub struct LaneMetrics {
    pub accepted_write_ahead: Counter,
    pub accepted_on_failure: Counter,
    pub succeeded: Counter,
    pub permanent: Counter,
    pub refused: Counter,
    pub unreachable: Counter,
    pub lost: Counter,
    pub finished_succeeded: Counter,
    pub failed_permanent: Counter,
    pub failed_exhausted: Counter,
    pub failed_expired: Counter,
    pub failed_invalid: Counter,
    pub due_to_send: Histogram,
    pub send_seconds: Histogram,
    pub in_flight: Gauge,
    pub last_success: Float,
    pub breaker: Gauge,
    pub leases_lost: Counter,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_are_those_of_the_contract() {
        let metrics = Metrics::new("orders".into());
        let lane = metrics.lane("crm");
        lane.accepted_write_ahead.inc();
        lane.due_to_send.observe(0.1);
        metrics.purged("failed", 1);
        metrics.store_up(true);
        metrics.waiting("crm", "pending", 1);
        metrics.overdue("crm", Duration::from_secs(1));
        metrics.store_took("claim", Duration::from_millis(1));
        metrics.waiting("made-up", "retrying", 1);
        metrics.overdue("made-up", Duration::from_secs(1));
        metrics.forget_waiting("made-up");
        let text = metrics.render();
        assert!(!text.contains("made-up"), "{text}");
        for name in [
            r#"redrive_accepted_total{project="orders",source="crm",mode="write_ahead"} 1"#,
            r#"redrive_attempts_total{project="orders",source="crm",outcome="lost"} 0"#,
            r#"redrive_finished_total{project="orders",source="crm",state="failed",class="expired"} 0"#,
            r#"redrive_finished_total{project="orders",source="",state="failed",class="invalid"} 0"#,
            r#"redrive_purged_total{project="orders",state="failed"} 1"#,
            r#"redrive_purged_total{project="orders",state="succeeded"} 0"#,
            r#"redrive_store_up{project="orders"} 1"#,
            r#"redrive_messages{project="orders",source="crm",state="pending"} 1"#,
            r#"redrive_oldest_due_seconds{project="orders",source="crm"} 1.0"#,
            r#"redrive_due_to_send_seconds_bucket{le="0.1",project="orders",source="crm"} 1"#,
            r#"redrive_in_flight{project="orders",source="crm"} 0"#,
            r#"redrive_last_success_timestamp_seconds{project="orders",source="crm"} 0.0"#,
            r#"redrive_breaker_state{project="orders",source="crm"} 0"#,
            r#"redrive_store_seconds_count{project="orders",op="claim"} 1"#,
            r#"redrive_send_seconds_count{project="orders",source="crm"} 0"#,
            "redrive_build_info{",
        ] {
            assert!(text.contains(name), "{name} is missing in\n{text}");
        }
    }
}

//! The result of a benchmark: one JSON object for programs, a table for people.

use comfy_table::Table;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use serde::Serialize;

use super::histogram::Histogram;

/// The result of one case. Fields that don't apply to it are `None`, `null` in JSON.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// The case.
    pub case: &'static str,
    /// Messages a second.
    pub rate: Option<f64>,
    /// What the smallest possible code achieved in the same run, in messages a second.
    pub limit: Option<f64>,
    /// `rate` divided by `limit`.
    pub ratio: Option<f64>,
    /// The median latency.
    pub p50_ms: Option<f64>,
    /// The 95th percentile.
    pub p95_ms: Option<f64>,
    /// The 99th percentile.
    pub p99_ms: Option<f64>,
    /// The 99.9th percentile.
    pub p999_ms: Option<f64>,
    /// CPU seconds of redrive per million messages.
    pub cpu_s_per_million: Option<f64>,
    /// CPU seconds of the database server, if it runs on this machine.
    pub db_cpu_s_per_million: Option<f64>,
    /// CPU seconds of the broker, if it runs on this machine.
    pub broker_cpu_s_per_million: Option<f64>,
    /// CPU of redrive during the measurement, in percent of one core.
    pub cpu_percent: Option<f64>,
    /// The peak memory of redrive.
    pub rss_peak_bytes: Option<u64>,
    /// Messages that were measured.
    pub rows: Option<u64>,
    /// What the database wrote to its log meanwhile, in bytes.
    pub wal_bytes: Option<u64>,
    /// How often the consumer got a message again.
    pub copies: Option<u64>,
    /// Accepted messages that the consumer did not get.
    pub lost: Option<u64>,
    /// The rate of one row per commit, on as many connections as the messages came on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub one_row_rate: Option<f64>,
    /// The number of those connections: not every database allows as many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub one_row_connections: Option<u64>,
    /// The rate of claiming and completing with SQL alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sql_rate: Option<f64>,
    /// The rate of producing alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub produce_rate: Option<f64>,
    /// Requests that were answered 429 or 503.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<u64>,
    /// Accepted messages that were not delivered when the time was up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backlog: Option<u64>,
    /// Statements a second at the database.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub statements_per_s: Option<f64>,
    /// Units of work a second that redrive gave the database, by its own count; each is a statement or a transaction.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operations_per_s: Option<f64>,
    /// Connections to the database.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connections: Option<u64>,
    /// The time from the start of the process to the first positive answer of `/readyz`, with an existing store.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready_ms: Option<f64>,
    /// Finished messages that were purged meanwhile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub purged: Option<u64>,
    /// The latency of the same load beforehand, without a purge.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p99_without_purge_ms: Option<f64>,
}

impl Report {
    pub(super) fn new(case: &'static str) -> Self {
        Self { case, ..Self::default() }
    }

    pub(super) fn latencies(&mut self, histogram: &Histogram) {
        (self.p50_ms, self.p95_ms) = (quantile(histogram, 0.5), quantile(histogram, 0.95));
        (self.p99_ms, self.p999_ms) = (quantile(histogram, 0.99), quantile(histogram, 0.999));
    }

    /// Sets the latencies of the load without a purge.
    pub(super) fn without_purge(&mut self, histogram: &Histogram) {
        self.p99_without_purge_ms = quantile(histogram, 0.99);
    }

    /// Sets the ratio, and reduces each figure to its significant digits.
    pub(super) fn finish(mut self) -> Self {
        self.ratio = self.rate.zip(self.limit).filter(|(_, limit)| *limit > 0.0).map(|(rate, limit)| round(rate / limit, 3));
        for rate in [&mut self.rate, &mut self.limit, &mut self.one_row_rate, &mut self.sql_rate, &mut self.produce_rate] {
            *rate = rate.map(|rate| round(rate, 1));
        }
        for figure in [&mut self.cpu_s_per_million, &mut self.db_cpu_s_per_million, &mut self.broker_cpu_s_per_million, &mut self.cpu_percent] {
            *figure = figure.map(|figure| round(figure, 2));
        }
        for figure in [&mut self.statements_per_s, &mut self.operations_per_s, &mut self.ready_ms] {
            *figure = figure.map(|figure| round(figure, 2));
        }
        self
    }

    /// What should not have happened: no node was killed, so every message should have arrived exactly once.
    #[must_use]
    pub fn complaint(&self) -> Option<String> {
        let (lost, copies) = (self.lost.unwrap_or(0), self.copies.unwrap_or(0));
        (lost + copies > 0).then(|| format!("of the accepted messages {lost} did not arrive, and {copies} copies did; there should be neither"))
    }

    /// The report as a table.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "counts and bytes for people")]
    pub fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_style(UTF8_FULL_CONDENSED).set_header([self.case, ""]);
        let mut row = |name: &str, value: Option<String>| {
            if let Some(value) = value {
                table.add_row([name.to_owned(), value]);
            }
        };
        let per_second = |rate: f64| format!("{}/s", thousands(rate));
        let count = |count: u64| thousands(count as f64);
        row("messages", self.rows.map(count));
        row("rate", self.rate.map(per_second));
        row("limit", self.limit.map(per_second));
        row("rate by limit", self.ratio.map(|ratio| format!("{:.0} %", ratio * 100.0)));
        row("SQL alone", self.sql_rate.map(per_second));
        row("producing alone", self.produce_rate.map(per_second));
        let one_row =
            self.one_row_connections.map_or_else(|| "one row a commit".to_owned(), |count| format!("one row a commit, {count} connections"));
        row(&one_row, self.one_row_rate.map(per_second));
        let ms = |ms: f64| format!("{ms:.2} ms");
        for (name, latency) in [("p50", self.p50_ms), ("p95", self.p95_ms), ("p99", self.p99_ms), ("p99.9", self.p999_ms)] {
            row(name, latency.map(ms));
        }
        let seconds = |seconds: f64| format!("{seconds:.1} s a million");
        row("CPU, redrive", self.cpu_s_per_million.map(seconds));
        row("CPU, database", self.db_cpu_s_per_million.map(seconds));
        row("CPU, broker", self.broker_cpu_s_per_million.map(seconds));
        row("CPU of one core", self.cpu_percent.map(|percent| format!("{percent:.1} %")));
        let mib = |bytes: u64| format!("{:.1} MiB", bytes as f64 / 1_048_576.0);
        row("memory, at most", self.rss_peak_bytes.map(mib));
        row("written to the database's log", self.wal_bytes.map(mib));
        row("statements at the database, of all who use it", self.statements_per_s.map(|rate| format!("{rate:.1}/s")));
        row("units of work in the database", self.operations_per_s.map(|rate| format!("{rate:.1}/s")));
        row("connections to the database", self.connections.map(count));
        row("start to ready", self.ready_ms.map(ms));
        row("purged", self.purged.map(count));
        row("latency p99 without a purge", self.p99_without_purge_ms.map(ms));
        row("refused", self.refused.map(count));
        row("waiting when the time was up", self.backlog.map(count));
        row("copies", self.copies.map(count));
        row("lost", self.lost.map(count));
        table
    }
}

fn quantile(histogram: &Histogram, share: f64) -> Option<f64> {
    histogram.quantile_ms(share).map(|ms| round(ms, 3))
}

fn round(value: f64, digits: i32) -> f64 {
    let scale = 10_f64.powi(digits);
    (value * scale).round() / scale
}

/// A number with separated thousands.
fn thousands(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            out.push(' ');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_object_has_every_field_that_is_promised_and_the_ratio() {
        let report = Report { rate: Some(50.0), limit: Some(200.0), ..Report::new("accept") }.finish();
        let json = serde_json::to_value(&report).unwrap();
        let promised = "case, rate, limit, ratio, p50_ms, p95_ms, p99_ms, p999_ms, cpu_s_per_million, db_cpu_s_per_million, cpu_percent, rss_peak_bytes, rows, wal_bytes, copies, lost";
        for field in promised.split(", ") {
            assert!(json.get(field).is_some(), "{field}");
        }
        assert_eq!((json["ratio"].as_f64(), json["lost"].is_null()), (Some(0.25), true));
    }

    #[test]
    fn what_was_lost_or_came_twice_is_complained_of() {
        let report = |lost, copies| Report { copies, lost, ..Report::new("drain") };
        assert_eq!(report(Some(0), Some(0)).complaint(), None);
        assert_eq!(report(None, None).complaint(), None, "nobody counted");
        assert!(report(Some(3), Some(0)).complaint().unwrap().contains("3 did not arrive"));
        assert!(report(Some(0), Some(2)).complaint().unwrap().contains("2 copies"));
    }

    #[test]
    fn thousands_are_apart() {
        assert_eq!([thousands(7.0), thousands(1234.4), thousands(1_000_000.0)], ["7", "1 234", "1 000 000"]);
    }
}

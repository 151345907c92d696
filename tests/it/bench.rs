//! `redrive bench`, each case on SQLite, with a source that logs or librdkafka's mock cluster: no server is needed.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use rdkafka::mocking::MockCluster;
use serde_json::Value;
use sqlx::{Connection as _, SqliteConnection};

const PROMISED: &str = "case, rate, limit, ratio, p50_ms, p95_ms, p99_ms, p999_ms, cpu_s_per_million, db_cpu_s_per_million, cpu_percent, rss_peak_bytes, rows, wal_bytes, copies, lost";

/// A folder with a configuration.
struct Setup {
    folder: tempfile::TempDir,
}

impl Setup {
    fn new(source: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let text = format!(
            "project: orders\nstore: {{ url: \"sqlite://{}/redrive.db\" }}\napi: {{ listen: 127.0.0.1:0 }}\nsources:\n  events: {source}\npoller: {{ interval: 50ms }}\n",
            folder.path().display()
        );
        std::fs::write(folder.path().join("redrive.yaml"), text).unwrap();
        Self { folder }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_redrive"));
        let (case, rest) = arguments.split_first().unwrap();
        command
            .args(["bench", case, "--config"])
            .arg(self.folder.path().join("redrive.yaml"))
            .args(rest)
            .env_remove("REDRIVE_LOG")
            .env_remove("RUST_LOG");
        command
    }

    /// Runs a case and returns the object that it prints.
    fn measure(&self, arguments: &[&str]) -> Value {
        let output = self.command(arguments).arg("--json").output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(text.lines().count(), 1, "one object and nothing else: {text}");
        let report: Value = serde_json::from_str(&text).unwrap();
        for field in PROMISED.split(", ") {
            assert!(report.get(field).is_some(), "{field} is missing in {text}");
        }
        assert_eq!(report["case"], arguments[0]);
        assert_eq!(self.files(), ["redrive.yaml"], "something is left behind");
        report
    }

    fn files(&self) -> Vec<String> {
        let mut names: Vec<_> =
            std::fs::read_dir(self.folder.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[track_caller]
fn positive(report: &Value, fields: &[&str]) {
    for field in fields {
        assert!(report[field].as_f64().is_some_and(|value| value > 0.0), "{field}: {report}");
    }
}

fn cluster() -> (MockCluster<'static, rdkafka::producer::DefaultProducerContext>, Setup) {
    let cluster = MockCluster::new(1).unwrap();
    let setup = Setup::new(&format!("{{ kind: kafka, brokers: [\"{}\"], topic: orders }}", cluster.bootstrap_servers()));
    (cluster, setup)
}

#[test]
fn accept_is_measured_in_each_form_of_request_against_batched_and_single_inserts() {
    let setup = Setup::new("{ kind: log }");
    for body in ["raw", "json", "ndjson"] {
        let report = setup.measure(&["accept", "--messages", "1000", "--connections", "8", "--body", body]);
        positive(&report, &["rate", "limit", "ratio", "one_row_rate", "p50_ms", "p999_ms", "rss_peak_bytes"]);
        assert_eq!((report["rows"].as_u64(), report["refused"].as_u64()), (Some(1000), Some(0)), "{body}");
        assert!(report["copies"].is_null() && report["db_cpu_s_per_million"].is_null(), "{report}");
    }
}

#[test]
fn accept_on_failure_is_measured_against_producing_through_a_plain_server() {
    let (_cluster, setup) = cluster();
    let report = setup.measure(&["accept", "--messages", "500", "--connections", "8", "--mode", "on_failure"]);
    positive(&report, &["rate", "limit", "ratio"]);
    assert_eq!((report["rows"].as_u64(), report["copies"].as_u64(), report["lost"].as_u64()), (Some(500), Some(0), Some(0)));
}

#[test]
fn a_purge_beside_accept_is_counted_and_the_load_before_it_is_without_one() {
    let setup = Setup::new("{ kind: log }");
    let file = setup.folder.path().join("redrive.yaml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text + "history: { max_rows: 100 }\n").unwrap();
    let report = setup.measure(&["accept", "--messages", "300", "--connections", "4", "--rate", "300", "--purge", "500"]);
    // If the load before it had purged everything above 100, nothing would be left.
    assert!(report["purged"].as_u64().is_some_and(|purged| purged > 100), "{report}");
}

#[test]
fn drain_counts_at_the_consumer_what_arrived() {
    let (_cluster, setup) = cluster();
    for keep in ["0s", "1d"] {
        let report = setup.measure(&["drain", "--messages", "2000", "--keep", keep]);
        positive(&report, &["rate", "limit", "sql_rate", "produce_rate", "rss_peak_bytes"]);
        assert_eq!((report["rows"].as_u64(), report["copies"].as_u64(), report["lost"].as_u64()), (Some(2000), Some(0), Some(0)));
    }
}

#[test]
fn through_counts_at_the_consumer_what_arrived() {
    let (_cluster, setup) = cluster();
    let report = setup.measure(&["through", "--seconds", "1", "--connections", "4", "--rate", "500"]);
    positive(&report, &["rate", "rows", "p50_ms"]);
    assert_eq!((report["copies"].as_u64(), report["lost"].as_u64()), (Some(0), Some(0)));
    assert!(report["backlog"].is_u64());
}

#[test]
fn through_may_last_longer_than_a_connection_may_be_silent() {
    let (_cluster, setup) = cluster();
    let file = setup.folder.path().join("redrive.yaml");
    let text = std::fs::read_to_string(&file).unwrap().replace("api: { ", "api: { header_timeout: 200ms, ");
    std::fs::write(&file, text).unwrap();
    let report = setup.measure(&["through", "--seconds", "1", "--connections", "1", "--rate", "2"]);
    assert_eq!((report["rows"].as_u64(), report["lost"].as_u64()), (Some(2), Some(0)), "{report}");
}

#[test]
fn lag_is_measured_for_both_ways_in() {
    let (_cluster, setup) = cluster();
    for via in ["api", "sql"] {
        let report = setup.measure(&["lag", "--seconds", "1", "--rate", "200", "--connections", "4", "--via", via, "--poll", "20ms"]);
        positive(&report, &["rate", "rows", "p50_ms", "p99_ms"]);
        assert_eq!((report["copies"].as_u64(), report["lost"].as_u64()), (Some(0), Some(0)), "{via}");
    }
}

#[test]
fn a_short_lag_has_percentiles_too() {
    let (_cluster, setup) = cluster();
    // A quarter of a second, of the 30 that it might have taken.
    let report = setup.measure(&["lag", "--messages", "50", "--rate", "200", "--connections", "4"]);
    positive(&report, &["p50_ms", "p99_ms"]);
}

#[test]
fn growth_compares_a_large_table_with_a_small_one() {
    let setup = Setup::new("{ kind: log }");
    let report = setup.measure(&["growth", "--messages", "12000", "--finished", "1000"]);
    positive(&report, &["rate", "limit", "ratio", "p50_ms"]);
    assert_eq!(report["rows"], 13_000);
}

#[test]
fn idle_tells_memory_cpu_and_the_time_to_be_ready() {
    let setup = Setup::new("{ kind: log }");
    let report = setup.measure(&["idle", "--seconds", "1"]);
    positive(&report, &["rss_peak_bytes", "ready_ms"]);
    assert!(report["cpu_percent"].is_number() && report["rate"].is_null(), "{report}");
}

#[test]
fn without_json_there_is_a_table() {
    let setup = Setup::new("{ kind: log }");
    let output = setup.command(&["accept", "--messages", "1000", "--connections", "2"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && text.contains("rate by limit") && text.contains("p99.9"), "{text}");
}

#[test]
fn what_can_not_be_measured_is_a_usage_error_and_makes_nothing() {
    let setup = Setup::new("{ kind: http, url: \"http://127.0.0.1:1/\" }");
    for (arguments, word) in [
        (&["drain"][..], "--into"),
        (&["accept", "--source", "other"], "events"),
        (&["accept", "--size", "1"], "64"),
        (&["accept", "--messages", "0"], "--messages"),
        (&["accept", "--into", "x"], "--yes"),
        (&["lag", "--into", "x;y", "--yes"], "--into takes letters"),
        (&["drain", "--into", "x", "--yes", "--keep", "0s"], "--keep"),
        (&["accept", "--into", "x", "--yes"], "due in a month"),
        (&["accept", "--into", "x", "--yes", "--purge", "5"], "--purge"),
        (&["idle", "--into", "x", "--yes", "--messages", "5"], "--messages"),
        (&["growth", "--into", "x", "--yes"], "of its own"),
        (&["accept", "--mode", "on_failure", "--purge", "5"], "--purge"),
        (&["growth", "--messages", "5499"], "5500"),
        (&["accept", "--seconds", "1"], "--seconds"),
        (&["idle", "--body", "raw"], "--body"),
        (&["sprint"], "sprint"),
        (&["node"], "not for use by itself"),
    ] {
        let output = setup.command(arguments).stdin(Stdio::null()).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(word), "{arguments:?}: {}", stderr(&output));
        assert!(output.stdout.is_empty());
        assert_eq!(setup.files(), ["redrive.yaml"]);
    }
    std::fs::write(setup.folder.path().join("redrive.yaml"), "project: NO\n").unwrap();
    assert_eq!(setup.command(&["idle"]).output().unwrap().status.code(), Some(64));
}

#[tokio::test]
async fn into_names_a_place_where_everything_stays() {
    let setup = Setup::new("{ kind: log }");
    let place: PathBuf = setup.folder.path().join("kept.db");
    for rows in [200_i64, 400] {
        let output = setup.command(&["drain", "--messages", "200", "--json", "--yes", "--into"]).arg(&place).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(report["limit"].is_null() && report["rate"].is_number(), "{report}");
        let mut connection = SqliteConnection::connect(&format!("sqlite://{}", place.display())).await.unwrap();
        let kept: i64 = sqlx::query_scalar("SELECT count(*) FROM resend_log WHERE state = 'succeeded'").fetch_one(&mut connection).await.unwrap();
        assert_eq!(kept, rows, "what was there before is still there");
    }
    // The node under test would fail it, since it does not know the source.
    let mut connection = SqliteConnection::connect(&format!("sqlite://{}", place.display())).await.unwrap();
    sqlx::query("INSERT INTO resend_log (source, topic, payload) VALUES ('other', 't', 'x')").execute(&mut connection).await.unwrap();
    let output = setup.command(&["drain", "--messages", "200", "--yes", "--into"]).arg(&place).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(stderr(&output).contains("messages wait"), "{}", stderr(&output));
    let waiting: String =
        sqlx::query_scalar("SELECT group_concat(state) FROM resend_log WHERE state <> 'succeeded'").fetch_one(&mut connection).await.unwrap();
    assert_eq!(waiting, "pending");
}

#[test]
fn into_counts_in_a_topic_that_is_there_and_refuses_one_that_is_not() {
    let (cluster, setup) = cluster();
    cluster.create_topic("kept.db", 2, 1).unwrap();
    let place = setup.folder.path().join("kept.db");
    for _ in 0..2 {
        let output = setup.command(&["drain", "--messages", "300", "--json", "--yes", "--into"]).arg(&place).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((report["copies"].as_u64(), report["lost"].as_u64()), (Some(0), Some(0)), "{report}");
    }
    let output = setup.command(&["drain", "--messages", "300", "--yes", "--into"]).arg(setup.folder.path().join("other.db")).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(stderr(&output).contains("no topic other.db"), "{}", stderr(&output));
}

#[test]
fn a_broker_that_is_away_is_told_from_a_failure() {
    for source in ["{ kind: amqp, url: \"amqp://127.0.0.1:1\", exchange: x }", "{ kind: kafka, brokers: [\"127.0.0.1:1\"], topic: orders }"] {
        let setup = Setup::new(source);
        let output = setup.command(&["drain", "--messages", "500"]).output().unwrap();
        assert_eq!(output.status.code(), Some(69), "{source}: {}", stderr(&output));
        assert_eq!(setup.files(), ["redrive.yaml"]);
    }
}

/// `store.migrate: verify` means that somebody else makes the tables: there are none in a file that does not exist.
#[test]
fn into_makes_no_tables_where_the_configuration_only_verifies_them() {
    let setup = Setup::new("{ kind: log }");
    let file = setup.folder.path().join("redrive.yaml");
    let text = std::fs::read_to_string(&file).unwrap().replace("redrive.db\" }", "redrive.db\", migrate: verify }");
    std::fs::write(&file, text).unwrap();
    let output = setup.command(&["drain", "--messages", "10", "--yes", "--into"]).arg(setup.folder.path().join("other.db")).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(stderr(&output).contains("not applied"), "{}", stderr(&output));
}

#[test]
fn a_signal_ends_it_and_nothing_is_left() {
    let setup = Setup::new("{ kind: log }");
    let mut child = setup.command(&["idle", "--seconds", "600"]).stderr(Stdio::piped()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    // Its tables are there, and its sidecar has begun.
    while setup.files().len() < 2 || sidecars(child.id()).is_empty() {
        assert!(Instant::now() < deadline && child.try_wait().unwrap().is_none(), "it never began");
        std::thread::sleep(Duration::from_millis(10));
    }
    let started = sidecars(child.id());
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("interrupted"), "{}", stderr(&output));
    assert_eq!(setup.files(), ["redrive.yaml"]);
    while started.iter().any(|pid| Path::new(&format!("/proc/{pid}/exe")).read_link().is_ok()) {
        assert!(Instant::now() < deadline, "the sidecar goes on");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The children of a process.
fn sidecars(parent: u32) -> Vec<u32> {
    std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"))
        .unwrap_or_default()
        .split_whitespace()
        .filter_map(|pid| pid.parse().ok())
        .collect()
}

//! `redrive bench` against real servers: what arrived is counted, and nothing is left behind.

use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::{FieldTable, ShortString};
use lapin::{BasicProperties, ConnectionProperties};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use serde_json::Value;
use sqlx::{Connection as _, MySqlConnection, PgConnection};

use crate::support::{Raw, service, unique_name};

/// Each looks for leftovers, which must not be what another one is using.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn kafka() -> String {
    format!("{{ kind: kafka, brokers: [\"{}\"], topic: orders }}", service("REDRIVE_TEST_KAFKA"))
}

/// Runs a case with a store and a source; returns what it printed. Nothing that it made may be left.
fn measure(store: &str, source: &str, arguments: &[&str]) -> Value {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let there = || topics().into_iter().chain(runtime.block_on(places(store)));
    let before: Vec<String> = there().collect();
    let report = run(store, source, arguments);
    let left: Vec<String> = there().filter(|name| !before.contains(name)).collect();
    assert!(left.is_empty(), "{left:?}");
    report
}

fn run(store: &str, source: &str, arguments: &[&str]) -> Value {
    run_on(&format!("url: \"{}\"", service(store)), source, arguments)
}

fn run_on(store: &str, source: &str, arguments: &[&str]) -> Value {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("redrive.yaml");
    let text = format!("project: orders\nstore: {{ {store} }}\nsources:\n  events: {source}\npoller: {{ interval: 100ms }}\n");
    std::fs::write(&file, text).unwrap();
    let (case, rest) = arguments.split_first().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_redrive"));
    let output = command.args(["bench", case, "--json", "--config"]).arg(&file).args(rest).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {stderr}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[track_caller]
fn arrived_once(report: &Value, messages: u64) {
    assert_eq!((report["rows"].as_u64(), report["copies"].as_u64(), report["lost"].as_u64()), (Some(messages), Some(0), Some(0)), "{report}");
    for field in ["rate", "limit", "ratio", "sql_rate", "produce_rate"] {
        assert!(report[field].as_f64().is_some_and(|value| value > 0.0), "{field}: {report}");
    }
}

/// The existing topics of benchmarks.
fn topics() -> Vec<String> {
    let consumer: BaseConsumer = ClientConfig::new().set("bootstrap.servers", service("REDRIVE_TEST_KAFKA")).create().unwrap();
    let metadata = consumer.fetch_metadata(None, Duration::from_secs(20)).unwrap();
    metadata.topics().iter().map(|topic| topic.name().to_owned()).filter(|name| name.starts_with("redrive-bench-")).collect()
}

#[test]
fn postgres_to_kafka_drains_on_two_nodes() {
    let report = measure("REDRIVE_TEST_POSTGRES_URL", &kafka(), &["drain", "--messages", "3000", "--keep", "0s", "--nodes", "2"]);
    arrived_once(&report, 3000);
    assert!(report["wal_bytes"].as_u64().is_some_and(|bytes| bytes > 0), "{report}");
}

/// The existing schemas of benchmarks, or tables with their prefix.
async fn places(store: &str) -> Vec<String> {
    if store.contains("POSTGRES") {
        let mut connection = PgConnection::connect(&service(store)).await.unwrap();
        sqlx::query_scalar("SELECT nspname::text FROM pg_namespace WHERE nspname LIKE 'redrive-bench-%'").fetch_all(&mut connection).await.unwrap()
    } else {
        let mut connection = MySqlConnection::connect(&service(store)).await.unwrap();
        let tables = "SELECT CAST(table_name AS CHAR) FROM information_schema.tables WHERE table_schema = database() AND table_name LIKE 'redrive\\_bench\\_%'";
        sqlx::query_scalar(tables).fetch_all(&mut connection).await.unwrap()
    }
}

#[test]
fn mariadb_and_mysql_keep_history() {
    for store in ["REDRIVE_TEST_MARIADB_URL", "REDRIVE_TEST_MYSQL_URL"] {
        let report = measure(store, "{ kind: log }", &["drain", "--messages", "2000", "--keep", "1d"]);
        assert_eq!(report["rows"], 2000, "{store}: {report}");
        assert!(report["ratio"].as_f64().is_some_and(|ratio| ratio > 0.0), "{report}");
    }
}

#[test]
fn postgres_to_rabbitmq_drains() {
    let source = format!("{{ kind: amqp, url: \"{}\", exchange: not-there }}", service("REDRIVE_TEST_AMQP_URL"));
    arrived_once(&measure("REDRIVE_TEST_POSTGRES_URL", &source, &["drain", "--messages", "1000"]), 1000);
}

#[test]
fn rows_inserted_by_sql_have_a_lag() {
    let report = measure("REDRIVE_TEST_POSTGRES_URL", &kafka(), &["lag", "--seconds", "1", "--rate", "100", "--via", "sql"]);
    assert_eq!((report["rows"].as_u64(), report["lost"].as_u64()), (Some(100), Some(0)), "{report}");
    assert!(report["p99_ms"].as_f64().is_some_and(|latency| latency > 0.0), "{report}");
}

#[tokio::test]
async fn a_user_who_may_make_no_schema_leaves_no_tables_in_the_configured_one() {
    let (mut url, name): (url::Url, _) = (service("REDRIVE_TEST_POSTGRES_URL").parse().unwrap(), unique_name());
    let mut admin = Raw::connect(&url).await;
    // Not named like the schema, which would then be the current one.
    let user = format!("{name}_user");
    admin.run(&format!("CREATE ROLE {user} LOGIN PASSWORD 'secret'; CREATE SCHEMA {name}; GRANT USAGE, CREATE ON SCHEMA {name} TO {user}")).await;
    url.set_username(&user).unwrap();
    url.set_password(Some("secret")).unwrap();
    let report =
        run_on(&format!("url: \"{url}\", schema: {name}, notify: true"), "{ kind: log }", &["accept", "--messages", "500", "--connections", "4"]);
    assert_eq!(report["rows"], 500, "{report}");
    let left = admin.number(&format!("SELECT count(*) FROM pg_class WHERE relnamespace = '{name}'::regnamespace")).await;
    let functions = admin.number(&format!("SELECT count(*) FROM pg_proc WHERE pronamespace = '{name}'::regnamespace")).await;
    admin.run(&format!("DROP SCHEMA {name} CASCADE; DROP ROLE {user}")).await;
    assert_eq!((left, functions), (0, 0));
}

#[tokio::test]
async fn a_queue_of_others_keeps_what_it_holds() {
    let (url, folder, name) = (service("REDRIVE_TEST_AMQP_URL"), tempfile::tempdir().unwrap(), unique_name());
    let connection = lapin::Connection::connect(&url, ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    let queue = || ShortString::from(name.as_str());
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(queue(), durable, FieldTable::default()).await.unwrap();
    let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
    channel.basic_publish(ShortString::default(), queue(), options, b"not the benchmark's", properties).await.unwrap().await.unwrap();

    let store = format!("url: \"sqlite://{}/redrive.db\"", folder.path().display());
    let place = folder.path().join(&name).display().to_string();
    let report =
        run_on(&store, &format!("{{ kind: amqp, url: \"{url}\", exchange: x }}"), &["drain", "--messages", "100", "--into", &place, "--yes"]);
    assert!(report["rate"].is_number() && report["copies"].is_null() && report["lost"].is_null(), "{report}");
    let held = channel.queue_declare(queue(), durable, FieldTable::default()).await.unwrap().message_count();
    channel.queue_delete(queue(), QueueDeleteOptions::default()).await.unwrap();
    assert_eq!(held, 101);
}

//! The process from outside: exit codes, ports, the lock of a SQLite file.

use std::net::TcpListener;
use std::process::Stdio;
use std::time::Duration;

use reqwest::StatusCode;

use crate::support::node::redrive;
use crate::support::{Database, Kind, Node, Sink, Yaml, free_port};

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_configuration_exits_64_before_any_port_is_bound() {
    // The port is taken: if it had been tried, the complaint would be a different one.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("redrive.yaml");
    let listen = taken.local_addr().unwrap();
    let text = format!(
        "project: Orders!\nstore: {{ url: \"sqlite://{}\" }}\napi: {{ listen: \"{listen}\" }}\npoller: {{ lease: 1ms }}\nsources:\n  a: {{ kind: nonsense }}\n  b: {{ kind: log, frobnicate: 1 }}\n",
        folder.path().join("x.db").display()
    );
    std::fs::write(&file, text).unwrap();
    let output = tokio::time::timeout(Duration::from_secs(20), redrive(&["serve"], &file).output()).await.unwrap().unwrap();
    let complaint = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(64), "{complaint}");
    for fault in ["project:", "poller.lease:", "sources.a.kind:", "sources.b.frobnicate:"] {
        assert!(complaint.contains(fault), "every fault at once; `{fault}` is missing in:\n{complaint}");
    }
    assert!(!complaint.contains(&listen.to_string()), "{complaint}");
    assert!(!folder.path().join("x.db").exists(), "nothing is touched");

    // The same port with a good configuration: now it is tried, with a different fault.
    std::fs::write(
        &file,
        format!("project: orders\nstore: {{ url: \"sqlite://{}\" }}\napi: {{ listen: \"{listen}\" }}\n", folder.path().join("x.db").display()),
    )
    .unwrap();
    let output = tokio::time::timeout(Duration::from_secs(20), redrive(&["serve"], &file).output()).await.unwrap().unwrap();
    let complaint = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{complaint}");
    assert!(complaint.contains(&listen.to_string()), "it says which port: {complaint}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_sqlite_file_serves_one_at_a_time_and_is_free_after_kill_9() {
    let sink = Sink::start().await;
    let database = Database::fresh(Kind::Sqlite).await;
    let yaml = Yaml::on(&database).source("crm", &sink.source(""));
    let mut first = Node::start(&yaml).await;
    let second = Node::new(&yaml);
    let output = redrive(&["serve"], &second.config()).stdout(Stdio::null()).stderr(Stdio::piped()).output();
    let output = tokio::time::timeout(Duration::from_secs(20), output).await.expect("it does not wait").unwrap();
    let complaint = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{complaint}");
    assert!(complaint.contains("redrive.db") && complaint.contains("another"), "it says which file and why: {complaint}");
    assert_eq!(first.publish("crm", "x").await.status, StatusCode::ACCEPTED, "the first one is not disturbed");

    first.kill().await;
    let mut second = second;
    second.respawn().await;
    assert_eq!(second.publish("crm", "x").await.status, StatusCode::ACCEPTED);
    database.finished(Duration::from_secs(20)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_other_commands_work_beside_a_node_that_serves_from_the_same_file() {
    let sink = Sink::start().await;
    let database = Database::fresh(Kind::Sqlite).await;
    let dead = format!("{{ kind: http, url: \"http://127.0.0.1:{}/\", {} }}", free_port(), crate::support::node::QUICK);
    let node = Node::start(&Yaml::on(&database).source("crm", &sink.source("")).source("dead", &dead)).await;
    let waiting = node.publish("dead", "x").await;
    let listed = redrive(&["list", "--json"], &node.config()).output().await.unwrap();
    assert_eq!(listed.status.code(), Some(0), "{}", String::from_utf8_lossy(&listed.stderr));
    assert!(String::from_utf8(listed.stdout).unwrap().contains(waiting.id()));
}

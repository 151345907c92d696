//! Producers that hang up in the middle: 10,000 requests whose connections are cut within 5 ms, on a small pool.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::future::join_all;
use rand::RngExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{Database, Kind, Node, Producer, Sink, Yaml};

const REQUESTS: usize = 10_200;
const AT_ONCE: usize = 64;
/// At least this many messages of a producer that waits for its answers, beside the storm.
const PATIENT: usize = 500;

#[tokio::test(flavor = "multi_thread")]
async fn no_accepted_message_is_missing_on_sqlite() {
    storm(Kind::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_accepted_message_is_missing_on_postgres() {
    storm(Kind::Postgres).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_accepted_message_is_missing_on_mariadb() {
    storm(Kind::Mariadb).await;
}

async fn storm(kind: Kind) {
    let sink = Sink::start().await;
    let database = Database::fresh(kind).await;
    let node = Node::start(&Yaml::on(&database).store_more(", pool: 2").source("crm", &sink.source(""))).await;
    let producer = Producer::of(&node, "crm", 8);
    producer.up_to(usize::MAX);
    let (next, answered) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    join_all((0..AT_ONCE).map(async |_| {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= REQUESTS {
                return;
            }
            if let Some(id) = hang_up(node.port, number).await {
                answered.lock().unwrap().push(id);
            }
        }
    }))
    .await;
    producer.accepted(PATIENT, Duration::from_secs(60)).await;
    let (patient, answered) = (producer.stop().await, answered.into_inner().unwrap());

    let records = database.records().await;
    eprintln!("{kind:?}: {} of {REQUESTS} were answered before they hung up, {} beside them; {} rows", answered.len(), patient.len(), records.len());
    assert!(answered.len() >= REQUESTS / 60, "{kind:?}: only {} were answered", answered.len());
    assert!(answered.len() < REQUESTS * 9 / 10, "{kind:?}: {} were answered: nobody hung up", answered.len());
    assert!(records.len() > patient.len() + answered.len(), "{kind:?}: some were under way when their producer hung up");
    let missing = answered.iter().chain(&patient).filter(|id| !records.contains_key(*id)).count();
    assert_eq!(missing, 0, "{kind:?}: messages that were accepted are not in the table");
    sink.received(&patient, format!("all are sent, on {kind:?}"), Duration::from_secs(60)).await;
    // Everything is as before, and nothing stays under way; the message that waits for an hour doesn't count.
    assert!(node.publish("crm", "after").await.status.is_success());
    database.session().await.run("DELETE FROM resend_log WHERE state = 'pending'").await;
    database.finished(Duration::from_secs(60)).await;
}

/// Submits a message and cuts the connection 0 to 5 ms later; returns the id if a 2xx came first.
async fn hang_up(port: u16, number: usize) -> Option<String> {
    // One in fifty waits for its answer, so that some answers come from within the storm too.
    let patience = if number.is_multiple_of(50) { Duration::from_secs(10) } else { Duration::from_micros(rand::rng().random_range(0..5000)) };
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
    // Some leave with a reset, some in an orderly way; some have an idempotency key, which takes the store more than one statement.
    if number.is_multiple_of(2) {
        stream.set_zero_linger().ok()?;
    }
    let key = if number.is_multiple_of(3) { format!("Idempotency-Key: storm-{number}\r\n") } else { String::new() };
    let path = if number.is_multiple_of(4) { "/v1/publish/crm" } else { "/v1/publish/crm?delay=1h" };
    let body = format!("storm {number}");
    let request = format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n{key}\r\n{body}", body.len());
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = Vec::new();
    let read = async {
        let mut buffer = [0; 1024];
        while !answer.windows(4).any(|end| end == b"\r\n\r\n") {
            match stream.read(&mut buffer).await {
                Ok(read @ 1..) => answer.extend_from_slice(&buffer[..read]),
                _ => return,
            }
        }
    };
    let _ = tokio::time::timeout(patience, read).await;
    let head = String::from_utf8(answer).ok()?;
    let accepted = head.starts_with("HTTP/1.1 202") && head.contains("\r\n\r\n");
    let location = head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("location: ").map(str::to_owned))?;
    accepted.then(|| location.rsplit('/').next().unwrap_or_default().trim().to_owned())
}

//! SIGTERM while a producer keeps posting, and a second one for whoever can't wait.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use reqwest::StatusCode;
use rustix::process::Signal;

use crate::support::{Database, Kind, Node, Producer, Sink, Yaml, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn what_is_accepted_while_it_drains_is_kept_and_sent_by_the_next_start() {
    let all = Kind::ALL.map(drains);
    futures::future::join_all(all).await;
}

async fn drains(kind: Kind) {
    let sink = Sink::start().await;
    let database = Database::fresh(kind).await;
    let yaml = Yaml::on(&database).source("crm", &sink.source("")).section("shutdown: { accept_for: 4s, grace: 10s }");
    let mut node = Node::start(&yaml).await;
    let producer = Producer::of(&node, "crm", 8);
    producer.up_to(usize::MAX);
    producer.accepted(50, Duration::from_secs(20)).await;

    node.signal(Signal::TERM);
    let asked = Instant::now();
    node.answers("/readyz", StatusCode::SERVICE_UNAVAILABLE, Duration::from_secs(1)).await;
    let when_asked = producer.count();
    tokio::time::sleep(Duration::from_secs(3).saturating_sub(asked.elapsed())).await;
    let heard = producer.count() - when_asked;
    let accepted = producer.stop().await;
    assert!(heard > 10, "{kind:?}: only {heard} were accepted while it drained");
    let status = node.exit(Duration::from_secs(12)).await;
    assert_eq!(status.code(), Some(0), "{kind:?}");
    assert!(asked.elapsed() < Duration::from_secs(11), "{kind:?}: within its grace, not after {:?}", asked.elapsed());

    let records = database.records().await;
    let missing: Vec<_> = accepted.iter().filter(|id| !records.contains_key(*id)).collect();
    assert!(missing.is_empty(), "{kind:?}: {} of {} accepted ones are not in the table", missing.len(), accepted.len());
    let waiting: HashSet<_> = records.iter().filter(|(_, record)| record.state != "succeeded").map(|(id, _)| id.clone()).collect();
    assert!(records.values().all(|record| record.state != "sending"), "{kind:?}: nothing is left under a lease");
    assert!(!waiting.is_empty(), "{kind:?}: what came in while it drained is left pending");
    eprintln!("{kind:?}: {} accepted, {heard} of them while it drained, {} left to the next start", accepted.len(), waiting.len());

    node.respawn().await;
    database.finished(Duration::from_secs(90)).await;
    let copies = sink.copies();
    let lost: Vec<_> = accepted.iter().filter(|id| !copies.contains_key(*id)).collect();
    assert!(lost.is_empty(), "{kind:?}: {} of {} accepted ones were never sent", lost.len(), accepted.len());
    let twice = copies.values().filter(|count| **count > 1).count();
    assert_eq!(twice, 0, "{kind:?}: an orderly stop sends nothing twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_sigterm_stops_hard() {
    let sink = Sink::start().await;
    sink.hold();
    let database = Database::fresh(Kind::Sqlite).await;
    let yaml = Yaml::on(&database).source("crm", &sink.source(", timeout: 60s")).section("shutdown: { accept_for: 20s, grace: 40s }");
    let mut node = Node::start(&yaml).await;
    let accepted = node.publish("crm", "x").await;
    assert_eq!(accepted.status, StatusCode::ACCEPTED);
    eventually("it is under way", Duration::from_secs(10), async || if sink.distinct() == 1 { Ok(()) } else { Err(String::new()) }).await;

    node.signal(Signal::TERM);
    node.answers("/readyz", StatusCode::SERVICE_UNAVAILABLE, Duration::from_secs(5)).await;
    node.signal(Signal::TERM);
    let status = node.exit(Duration::from_secs(3)).await;
    assert_ne!(status.code(), Some(0), "it was not an orderly end");

    // What was under way is not lost.
    sink.let_go();
    node.respawn().await;
    database.finished(Duration::from_secs(20)).await;
    assert_eq!(database.records().await[accepted.id()].state, "succeeded");
}

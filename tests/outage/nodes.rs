//! Several nodes on one database.

use std::time::Duration;

use futures::future::join_all;
use reqwest::StatusCode;
use rustix::process::Signal;

use crate::support::database::new_ids;
use crate::support::{Database, Kind, Node, Producer, Sink, Yaml, eventually};

/// Half of them through the API, half by SQL.
const MESSAGES: usize = 6000;

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_send_nothing_twice() {
    for kind in Kind::SHARED {
        share(kind, 2).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn four_nodes_send_nothing_twice() {
    for kind in Kind::SHARED {
        share(kind, 4).await;
    }
}

async fn share(kind: Kind, count: usize) {
    let sink = Sink::start().await;
    let database = Database::fresh(kind).await;
    // A lease long enough that none is lost because the machine is busy, which would be a reason for a copy.
    let yaml = Yaml::on(&database).source("crm", &sink.source(", timeout: 30s")).poller("lease: 30s, interval: 100ms, batch: 100");
    let mut nodes = vec![Node::start(&yaml).await];
    nodes.extend(join_all((1..count).map(|_| Node::start(&yaml))).await);

    let each = MESSAGES / 2 / count;
    let producers: Vec<_> = nodes.iter().map(|node| Producer::of(node, "crm", 4)).collect();
    for producer in &producers {
        producer.up_to(each);
    }
    let inserted = new_ids(MESSAGES / 2);
    let inserting = async {
        for ids in inserted.chunks(250) {
            database.insert("crm", ids).await;
        }
    };
    tokio::join!(inserting, join_all(producers.iter().map(|producer| producer.accepted(each, Duration::from_secs(120)))));
    database.finished(Duration::from_secs(150)).await;

    let copies = sink.copies();
    let mut expected: Vec<_> = inserted.iter().map(ToString::to_string).collect();
    for producer in producers {
        expected.extend(producer.stop().await);
    }
    assert_eq!(expected.len(), MESSAGES);
    assert!(expected.iter().all(|id| copies.contains_key(id)), "{kind:?}: all are sent");
    let twice: Vec<_> = copies.iter().filter(|(_, count)| **count > 1).collect();
    assert!(twice.is_empty(), "{kind:?}, {count} nodes: {} sent more than once, such as {:?}", twice.len(), twice[0]);
    assert!(database.records().await.values().all(|record| record.attempts == 1), "{kind:?}: one attempt each");
    let mut shares = Vec::new();
    for node in &nodes {
        shares.push(node.metrics().await.sum("redrive_attempts_total", &[("outcome", "succeeded")]));
    }
    eprintln!("{kind:?}: {count} nodes sent {shares:?}");
    assert!(shares.iter().all(|share| *share > 0.0), "{kind:?}: every node does its part: {shares:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_paused_beyond_its_lease_changes_no_row_afterwards() {
    join_all(Kind::SHARED.map(pause)).await;
}

async fn pause(kind: Kind) {
    const UNDER_WAY: usize = 40;
    let sink = Sink::start().await;
    let database = Database::fresh(kind).await;
    let yaml = Yaml::on(&database).source("crm", &sink.source(", timeout: 60s, in_flight: 64")).poller("lease: 3s, interval: 200ms");
    let paused = Node::start(&yaml).await;
    // Only a destination that has answered once is sent many at a time.
    let first = paused.publish("crm", "first").await.id().to_owned();
    database.finished(Duration::from_secs(20)).await;
    sink.hold();
    // Some are sent from memory, some were claimed.
    database.insert("crm", &new_ids(UNDER_WAY / 2)).await;
    for number in 0..UNDER_WAY / 2 {
        assert_eq!(paused.publish("crm", format!("{number}")).await.status, StatusCode::ACCEPTED);
    }
    let arrived = async |count| {
        eventually(format!("{count} have arrived"), Duration::from_secs(40), async || match sink.distinct() {
            have if have == count => Ok(()),
            have => Err(format!("{have} have")),
        })
        .await;
    };
    arrived(UNDER_WAY + 1).await;

    paused.signal(Signal::STOP);
    let other = Node::start(&yaml).await;
    database.finished(Duration::from_secs(30)).await;
    let twice = |id: &str, times: u32| times == if id == first { 1 } else { 2 };
    let records = database.records().await;
    assert!(records.iter().all(|(id, record)| record.state == "succeeded" && twice(id, record.attempts)), "{kind:?}: {records:?}");
    assert!(sink.copies().iter().all(|(id, count)| twice(id, *count)), "{kind:?}: the other node sent each once more");
    let before = database.snapshot().await;

    sink.let_go();
    paused.signal(Signal::CONT);
    eventually(format!("the paused node sees that its leases are lost, on {kind:?}"), Duration::from_secs(30), async || {
        let lost = paused.metrics().await.sum("redrive_leases_lost_total", &[("source", "crm")]);
        #[allow(clippy::cast_precision_loss, reason = "a small number")]
        if lost >= UNDER_WAY as f64 { Ok(()) } else { Err(format!("{lost} are counted")) }
    })
    .await;
    assert_eq!(database.snapshot().await, before, "{kind:?}: no row is changed");
    assert!(sink.copies().iter().all(|(id, count)| twice(id, *count)), "{kind:?}: nothing more is sent");
    // It is a node like any other again.
    let accepted = paused.publish("crm", "after").await;
    assert_eq!(accepted.status, StatusCode::ACCEPTED);
    arrived(UNDER_WAY + 2).await;
    drop(other);
}

//! kill -9 in the middle of a drain.

use std::time::{Duration, Instant};

use crate::support::database::new_ids;
use crate::support::{Database, Kind, Node, Sink, Yaml, eventually};

/// Few enough that the rest is drained before the leases of those under way run out: those come last, being due last.
const BACKLOG: usize = 800;
const LEASE: Duration = Duration::from_secs(4);

#[tokio::test(flavor = "multi_thread")]
async fn after_a_kill_in_the_middle_of_a_drain_it_is_whole_again_within_the_lease_and_5_s() {
    for kind in Kind::ALL {
        drain(kind).await;
    }
}

async fn drain(kind: Kind) {
    // Slow enough that many are under way at any moment.
    let sink = Sink::that_takes(Duration::from_millis(50)).await;
    let database = Database::fresh(kind).await;
    let mut node = Node::start(&Yaml::on(&database).source("crm", &sink.source(", in_flight: 64"))).await;
    let ids = new_ids(BACKLOG);
    database.insert("crm", &ids).await;
    eventually("half is sent", Duration::from_secs(60), async || match sink.distinct() {
        have if have > BACKLOG / 2 => Ok(()),
        have => Err(format!("{have} are sent")),
    })
    .await;

    node.kill().await;
    let killed = Instant::now();
    let orphans: Vec<_> = database.records().await.into_iter().filter(|(_, record)| record.state == "sending").map(|(id, _)| id).collect();
    assert!(!orphans.is_empty(), "{kind:?}: something was under way");
    node.respawn().await;
    let limit = LEASE + Duration::from_secs(5);
    eventually(format!("what was under way when it was killed is sent, on {kind:?}"), limit.saturating_sub(killed.elapsed()), async || {
        let records = database.records().await;
        let left = orphans.iter().filter(|id| records[*id].state != "succeeded").count();
        if left == 0 { Ok(()) } else { Err(format!("{left} of {} are left", orphans.len())) }
    })
    .await;
    let whole = killed.elapsed();
    database.finished(Duration::from_secs(60)).await;

    let (copies, records) = (sink.copies(), database.records().await);
    assert_eq!(copies.len(), BACKLOG, "{kind:?}: all are sent");
    for (id, count) in &copies {
        assert!(*count <= records[id].attempts, "{kind:?}: {count} copies of {id} and {} attempts on record", records[id].attempts);
    }
    let twice = copies.iter().filter(|(_, count)| **count > 1).count();
    assert!(copies.iter().all(|(id, count)| *count == 1 || orphans.contains(id)), "{kind:?}: only what was under way is sent twice");
    eprintln!("{kind:?}: {} were under way when it was killed; whole again after {whole:?}, {twice} copies", orphans.len());
}

//! The transactional outbox: rows that an application inserts in its own transactions, a fifth of which roll back.

use std::collections::HashSet;
use std::time::Duration;

use futures::future::join_all;
use tokio::sync::watch;
use uuid::Uuid;

use crate::support::amqp::Queue;
use crate::support::database::{insert_statement, new_ids};
use crate::support::kafka::Topic;
use crate::support::{Broker, Copies, Database, Kind, Node, Yaml, eventually};

const TRANSACTIONS: usize = 500;
/// Rows per transaction, for each of the two sources.
const ROWS: usize = 5;
const WRITERS: usize = 4;
const PATIENCE: Duration = Duration::from_secs(150);

#[tokio::test(flavor = "multi_thread")]
async fn what_is_committed_is_sent_and_what_is_rolled_back_is_not() {
    let brokers = join_all(Kind::ALL.map(|_| async { (Topic::fresh().await, Queue::fresh().await) })).await;
    let mut runs = join_all(Kind::ALL.iter().zip(&brokers).map(|(kind, (topic, queue))| async move {
        let database = Database::fresh(*kind).await;
        let node = Node::start(&Yaml::on(&database).source("events", &topic.source()).source("billing", &queue.source())).await;
        (database, node)
    }))
    .await;
    let (kafka, rabbitmq) = (Broker::Kafka.kill().await, Broker::Rabbitmq.kill().await);

    let (databases, nodes): (Vec<_>, Vec<_>) = runs.iter_mut().map(|(database, node)| (&*database, node)).unzip();
    let progress = watch::Sender::new(0_usize);
    let writing = join_all(databases.iter().map(|database| write(database, &progress)));
    let outage = async {
        let _ = progress.subscribe().wait_for(|done| *done > TRANSACTIONS).await;
        let nodes = join_all(nodes.into_iter().map(async |node| {
            node.kill().await;
            node.respawn().await;
            node
        }))
        .await;
        tokio::join!(kafka.restart(), rabbitmq.restart());
        // Once more, in the middle of the drain.
        join_all(nodes.into_iter().zip(&databases).map(async |(node, database)| {
            eventually("the backlog drains", PATIENCE, async || match database.states().await.get("succeeded") {
                Some(200..) => Ok(()),
                other => Err(format!("{other:?} succeeded")),
            })
            .await;
            node.kill().await;
            node.respawn().await;
        }))
        .await;
    };
    let (written, ()) = tokio::join!(writing, outage);
    join_all(databases.iter().map(|database| database.finished(PATIENCE))).await;

    for ((database, written), (topic, queue)) in databases.into_iter().zip(written).zip(brokers) {
        let kind = database.kind;
        let records = database.records().await;
        for (copies, source) in [(topic.copies().await, 0), (queue.copies().await, 1)] {
            let (committed, rolled_back) = (&written.committed[source], &written.rolled_back[source]);
            let sent: HashSet<Uuid> = copies.keys().map(|id| id.parse().unwrap()).collect();
            assert_eq!(sent.intersection(rolled_back).count(), 0, "{kind:?}: something that was rolled back was sent");
            let missing: Vec<_> = committed.difference(&sent).map(|id| records.get(&id.to_string())).collect();
            assert!(missing.is_empty(), "{kind:?}: {} committed ones were not sent, such as {:?}", missing.len(), missing[0]);
            assert_eq!(sent.len(), committed.len(), "{kind:?}: nothing else was sent");
            judge_copies(kind, &copies, &records);
            eprintln!("{kind:?}: {} committed and sent, {} rolled back, {} copies", committed.len(), rolled_back.len(), copies.values().sum::<u32>());
        }
        topic.delete().await;
        queue.delete().await;
    }
}

fn judge_copies(kind: Kind, copies: &Copies, records: &std::collections::HashMap<String, crate::support::database::Record>) {
    for (id, count) in copies {
        let attempts = records[id].attempts;
        assert!(*count <= attempts, "{kind:?}: {count} copies of {id} and {attempts} attempts on record");
    }
}

/// Ids by source: Kafka's, RabbitMQ's.
#[derive(Default)]
struct Written {
    committed: [HashSet<Uuid>; 2],
    rolled_back: [HashSet<Uuid>; 2],
}

async fn write(database: &Database, progress: &watch::Sender<usize>) -> Written {
    let parts = join_all((0..WRITERS).map(async |writer| {
        let mut session = database.session().await;
        let mut written = Written::default();
        for number in (writer..TRANSACTIONS).step_by(WRITERS) {
            let commits = number % 5 != 0;
            // SQLite has a single writer: a transaction that begins by reading could not wait for its turn.
            session.run(if database.kind == Kind::Sqlite { "BEGIN IMMEDIATE" } else { "BEGIN" }).await;
            for (index, source) in ["events", "billing"].into_iter().enumerate() {
                let ids = new_ids(ROWS);
                session.run(&insert_statement(source, &ids)).await;
                if commits { &mut written.committed[index] } else { &mut written.rolled_back[index] }.extend(ids);
            }
            session.run(if commits { "COMMIT" } else { "ROLLBACK" }).await;
            progress.send_modify(|done| *done += 1);
        }
        written
    }))
    .await;
    parts.into_iter().fold(Written::default(), |mut all, part| {
        for index in 0..2 {
            all.committed[index].extend(&part.committed[index]);
            all.rolled_back[index].extend(&part.rolled_back[index]);
        }
        all
    })
}

//! The main job: 10,000 messages through the API while the broker is killed and restarted, and redrive itself is killed twice.

use std::time::Duration;

use futures::future::join_all;

use crate::support::amqp::Queue;
use crate::support::kafka::Topic;
use crate::support::{Broker, Copies, Database, Kind, Node, Producer, Yaml, eventually};

const MESSAGES: usize = 10_000;
const PATIENCE: Duration = Duration::from_secs(150);

#[tokio::test(flavor = "multi_thread")]
async fn every_message_arrives_across_an_outage_of_kafka() {
    let topics = join_all(Kind::ALL.map(|_| Topic::fresh())).await;
    let mut runs = join_all(Kind::ALL.iter().zip(&topics).map(|(kind, topic)| Run::begin(*kind, topic.source()))).await;
    across_an_outage(Broker::Kafka, &mut runs).await;
    for (run, topic) in runs.into_iter().zip(topics) {
        run.judge(&topic.copies().await).await;
        topic.delete().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_message_arrives_across_an_outage_of_rabbitmq() {
    let queues = join_all(Kind::ALL.map(|_| Queue::fresh())).await;
    let mut runs = join_all(Kind::ALL.iter().zip(&queues).map(|(kind, queue)| Run::begin(*kind, queue.source()))).await;
    across_an_outage(Broker::Rabbitmq, &mut runs).await;
    for (run, queue) in runs.into_iter().zip(queues) {
        run.judge(&queue.copies().await).await;
        queue.delete().await;
    }
}

/// One node on one database, and a producer.
struct Run {
    kind: Kind,
    database: Database,
    node: Node,
    producer: Producer,
}

/// One outage for all databases at once, since waiting for the broker's return takes the time.
async fn across_an_outage(broker: Broker, runs: &mut [Run]) {
    join_all(runs.iter().map(|run| run.submit(MESSAGES / 4))).await;
    // The next quarter is on its way when the broker is killed, and during the third so is redrive.
    allow(runs, MESSAGES / 2);
    join_all(runs.iter().map(|run| run.producer.accepted(MESSAGES * 3 / 8, PATIENCE))).await;
    let down = broker.kill().await;
    allow(runs, MESSAGES * 3 / 4);
    join_all(runs.iter_mut().map(async |run| {
        run.producer.accepted(MESSAGES * 5 / 8, PATIENCE).await;
        run.node.kill().await;
        run.node.respawn().await;
        run.producer.accepted(MESSAGES * 3 / 4, PATIENCE).await;
    }))
    .await;
    let before = join_all(runs.iter().map(Run::succeeded)).await;
    down.restart().await;
    // The last quarter comes while the backlog drains, and in the middle of that redrive is killed a second time.
    allow(runs, MESSAGES);
    join_all(runs.iter_mut().zip(before).map(async |(run, before)| {
        eventually(format!("the backlog drains on {:?}", run.kind), PATIENCE, async || match run.succeeded().await {
            now if now > before + 500 => Ok(()),
            now => Err(format!("{before} had succeeded before the broker came back, now {now}")),
        })
        .await;
        run.node.kill().await;
        run.node.respawn().await;
        run.producer.accepted(MESSAGES, PATIENCE).await;
        run.database.finished(PATIENCE).await;
    }))
    .await;
}

/// Lets each producer submit up to this many messages in total.
fn allow(runs: &[Run], limit: usize) {
    for run in runs {
        run.producer.up_to(limit);
    }
}

impl Run {
    async fn begin(kind: Kind, source: String) -> Self {
        let database = Database::fresh(kind).await;
        let node = Node::start(&Yaml::on(&database).source("events", &source)).await;
        let producer = Producer::of(&node, "events", 16);
        Self { kind, database, node, producer }
    }

    async fn submit(&self, count: usize) {
        self.producer.up_to(count);
        self.producer.accepted(count, PATIENCE).await;
    }

    async fn succeeded(&self) -> u64 {
        self.database.states().await.get("succeeded").copied().unwrap_or_default()
    }

    /// Whether every accepted message arrived or failed with a reason, and how often.
    async fn judge(self, copies: &Copies) {
        let Self { kind, database, node, producer } = self;
        let accepted = producer.stop().await;
        let records = database.records().await;
        let (mut failed, mut lost) = (0, Vec::new());
        for id in &accepted {
            match records.get(id) {
                Some(record) if record.state == "failed" => {
                    assert!(record.error_code.is_some() && record.error_detail.is_some(), "{kind:?}: {id} failed without a reason");
                    failed += 1;
                }
                Some(record) if copies.contains_key(id) => assert_eq!(record.state, "succeeded", "{kind:?}: {id}"),
                other => lost.push((id, other)),
            }
        }
        assert!(lost.is_empty(), "{kind:?}: {} of {} accepted messages did not arrive, such as {:?}", lost.len(), accepted.len(), lost[0]);
        for (id, count) in copies {
            let attempts = records.get(id).map_or(0, |record| record.attempts);
            assert!(*count <= attempts, "{kind:?}: {count} copies of {id} and {attempts} attempts on record");
        }
        let attempts: u64 = records.values().map(|record| u64::from(record.attempts)).sum();
        let arrived: u64 = copies.values().map(|count| u64::from(*count)).sum();
        eprintln!(
            "{kind:?}: {} accepted, {} rows, {failed} failed, {arrived} arrivals of {} messages, {attempts} attempts on record, {} lines in the log",
            accepted.len(),
            records.len(),
            copies.len(),
            node.log().lines().count()
        );
        assert_eq!(accepted.len(), MESSAGES);
        // None should fail because of an outage that was over so soon.
        assert_eq!(failed, 0, "{kind:?}: {:?}", records.values().find(|record| record.state == "failed"));
    }
}

//! A queue of one test, and what arrived in it.

use std::time::{Duration, Instant};

use futures::StreamExt;
use lapin::options::{BasicConsumeOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, ConnectionProperties};

use super::{Broker, Copies, service, unique};

const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(crate) struct Queue {
    pub(crate) name: String,
}

/// A channel; a broker that has just come back may refuse the first attempts.
async fn channel() -> (Connection, Channel) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let connected = async {
            let connection = Connection::connect(&service("REDRIVE_TEST_AMQP_URL"), ConnectionProperties::default()).await?;
            let channel = connection.create_channel().await?;
            lapin::Result::Ok((connection, channel))
        };
        match connected.await {
            Ok(both) => return both,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

impl Queue {
    pub(crate) async fn fresh() -> Self {
        Broker::Rabbitmq.up().await;
        let name = unique("queue");
        let (_connection, channel) = channel().await;
        let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        channel.queue_declare(name.as_str().into(), durable, FieldTable::default()).await.unwrap();
        Self { name }
    }

    /// A source that sends to it, with settings that make the tests quick.
    pub(crate) fn source(&self) -> String {
        format!("{{ kind: amqp, url: \"{}\", routing_key: {}, {} }}", service("REDRIVE_TEST_AMQP_URL"), self.name, super::node::QUICK)
    }

    /// Takes everything out of the queue; returns the ids and how often each came.
    pub(crate) async fn copies(&self) -> Copies {
        let (_connection, channel) = channel().await;
        let passive = QueueDeclareOptions { passive: true, durable: true, ..QueueDeclareOptions::default() };
        let queue = channel.queue_declare(self.name.as_str().into(), passive, FieldTable::default()).await.unwrap();
        let unacknowledged = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
        let mut arrivals = channel.basic_consume(self.name.as_str().into(), "outage".into(), unacknowledged, FieldTable::default()).await.unwrap();
        let mut copies = Copies::new();
        for _ in 0..queue.message_count() {
            let arrival = tokio::time::timeout(PATIENCE, arrivals.next()).await.expect("a message that the queue counted").unwrap().unwrap();
            let id = arrival.properties.message_id().as_ref().expect("message_id").to_string();
            *copies.entry(id).or_default() += 1;
        }
        copies
    }

    /// Removes it.
    pub(crate) async fn delete(self) {
        let (_connection, channel) = channel().await;
        let _ = channel.queue_delete(self.name.as_str().into(), QueueDeleteOptions::default()).await;
    }
}

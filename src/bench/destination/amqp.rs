//! An AMQP queue, reached by its name through the default exchange.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use lapin::options::{BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions, QueueDeleteOptions, QueuePurgeOptions};
use lapin::tcp::OwnedTLSConfig;
use lapin::types::{FieldTable, ShortString};
use lapin::uri::AMQPUri;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::super::payload::{Payloads, Tally};
use super::super::process::{self, Server};
use super::super::screen::Phase;
use super::super::setup::Subject;
use super::super::{Error, all};
use crate::fault;
use crate::source::amqp::Config;

/// The names of a broker's process: RabbitMQ, or LavinMQ.
const SERVERS: [&str; 2] = ["beam.smp", "lavinmq"];
/// A queue that has delivered nothing for this long is asked whether it is empty.
const SILENCE: Duration = Duration::from_secs(1);
/// The maximum number of unconfirmed messages.
const UNCONFIRMED: usize = 1000;
/// The time limit for connecting and for each request, and for a queue with messages that delivers none.
const PATIENCE: Duration = Duration::from_secs(30);

/// A queue, and another one for producing alone.
pub(in crate::bench) struct Amqp {
    uri: AMQPUri,
    tls: OwnedTLSConfig,
    queue: ShortString,
    beside: ShortString,
    made: bool,
}

impl Amqp {
    pub(super) async fn make(subject: &Subject, queue: &str, existing: bool) -> Result<Self, Error> {
        let config: Config = subject.config()?;
        let (uri, tls) = config.broker(&subject.context).map_err(|faults| Error::Usage(fault::line(faults)))?;
        let name = |name: String| ShortString::try_new(name).map_err(|_| Error::Usage("--into: the name is too long for a queue".to_owned()));
        let beside = name(format!("redrive-bench-alone-{}", queue.trim_start_matches("redrive-bench-")))?;
        let amqp = Self { uri, tls, queue: name(queue.to_owned())?, beside, made: !existing };
        let (_connection, channel) = amqp.open().await?;
        let mut queues = vec![&amqp.beside];
        if amqp.made {
            queues.push(&amqp.queue);
        }
        for queue in queues {
            let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
            if let Err(error) = channel.queue_declare(queue.clone(), durable, FieldTable::default()).await {
                let _ = amqp.remove().await;
                return Err(error.into());
            }
        }
        Ok(amqp)
    }

    async fn open(&self) -> Result<(Connection, Channel), Error> {
        let runtime = lapin::runtime::default_runtime().map_err(|error| Error::Failed(error.to_string()))?;
        let connecting = Connection::connect_uri_with_config(self.uri.clone(), ConnectionProperties::default(), self.tls.clone(), runtime);
        let connected = tokio::time::timeout(PATIENCE, async {
            let connection = connecting.await?;
            let channel = connection.create_channel().await?;
            Ok::<_, lapin::Error>((connection, channel))
        });
        Ok(connected.await.map_err(|_| Error::Unreachable("the AMQP broker does not answer".to_owned()))??)
    }

    pub(super) async fn remove(&self) -> Result<(), Error> {
        let (_connection, channel) = self.open().await?;
        channel.queue_delete(self.beside.clone(), QueueDeleteOptions::default()).await?;
        if self.made {
            channel.queue_delete(self.queue.clone(), QueueDeleteOptions::default()).await?;
        }
        Ok(())
    }

    pub(super) fn server(&self) -> Option<Server> {
        if process::is_local(&self.uri.authority.host) { Server::listening(self.uri.authority.port, &SERVERS) } else { None }
    }

    /// Reads the queue until it is empty. A queue that existed before is not read: taking a message, if only to hand it back, keeps it from its
    /// consumers meanwhile, and counts against the broker's delivery limit.
    pub(super) async fn count(&self, mut tally: Tally) -> Result<Option<Tally>, Error> {
        if !self.made {
            return Ok(None);
        }
        let (_connection, channel) = self.open().await?;
        // The queue is removed anyway, so messages need no acknowledgement.
        let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
        let mut consumer = channel.basic_consume(self.queue.clone(), ShortString::default(), options, FieldTable::default()).await?;
        let (mut silent_since, mut was_empty) = (Instant::now(), false);
        loop {
            match tokio::time::timeout(SILENCE, consumer.next()).await {
                Ok(Some(delivery)) => {
                    tally.see(&delivery?.data);
                    (silent_since, was_empty) = (Instant::now(), false);
                }
                Ok(None) => return Err(Error::Failed(format!("the broker ended the consumer of queue {} before all was counted", self.queue))),
                // Whatever had just left the queue when it was asked has arrived by now.
                Err(_) if was_empty => return Ok(Some(tally)),
                Err(_) => {
                    let waiting = self.waiting(&channel).await?;
                    if waiting > 0 && silent_since.elapsed() > PATIENCE {
                        let (queue, seconds) = (&self.queue, PATIENCE.as_secs());
                        return Err(Error::Failed(format!("queue {queue} has {waiting} messages but delivered none for {seconds} s")));
                    }
                    was_empty = waiting == 0;
                }
            }
        }
    }

    /// How many messages are in the queue.
    async fn waiting(&self, channel: &Channel) -> Result<u32, Error> {
        let ask = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let asked = tokio::time::timeout(PATIENCE, channel.queue_declare(self.queue.clone(), ask, FieldTable::default()));
        Ok(asked.await.map_err(|_| Error::Unreachable("the AMQP broker does not answer".to_owned()))??.message_count())
    }

    /// Publishes as fast as confirms come back, with many messages under way.
    pub(super) async fn alone(&self, payloads: &Payloads, messages: u64, phase: &Phase) -> Result<f64, Error> {
        let (_connection, channel) = self.open().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        let (places, properties) = (Arc::new(Semaphore::new(UNCONFIRMED)), BasicProperties::default().with_delivery_mode(2));
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let begun = Instant::now();
        let mut tasks = JoinSet::new();
        for number in 0..messages {
            let place = places.clone().acquire_owned().await.map_err(|error| Error::Failed(error.to_string()))?;
            let confirm =
                channel.basic_publish(ShortString::default(), self.beside.clone(), options, &payloads.of(number), properties.clone()).await?;
            tasks.spawn(async move {
                let confirmed = confirm.await;
                drop(place);
                confirmed
            });
            while let Some(done) = tasks.try_join_next() {
                done.map_err(|error| Error::Failed(error.to_string()))??;
                phase.add(1);
            }
        }
        all(tasks, drop).await?;
        let took = begun.elapsed();
        channel.queue_purge(self.beside.clone(), QueuePurgeOptions::default()).await?;
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        Ok(messages as f64 / took.as_secs_f64())
    }
}

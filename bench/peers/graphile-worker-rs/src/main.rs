//! graphile_worker works the queue, librdkafka sends. The reasons for the settings are in peer.toml.

use std::env;
use std::fmt;
use std::time::Duration;

use graphile_worker::{IntoTaskHandlerResult, LocalQueueConfig, TaskHandler, WorkerContext, WorkerOptions};
use rdkafka::ClientConfig;
use rdkafka::producer::{FutureProducer, FutureRecord};
use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;

type Error = Box<dyn std::error::Error>;

#[derive(Clone)]
struct Kafka {
    producer: FutureProducer,
    topic: String,
}

impl fmt::Debug for Kafka {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Kafka")
    }
}

impl Kafka {
    fn connect() -> Result<Self, Error> {
        let producer = ClientConfig::new()
            .set("bootstrap.servers", env::var("KAFKA")?)
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("linger.ms", "2")
            .create()?;
        Ok(Self { producer, topic: env::var("TOPIC")? })
    }
}

#[derive(Serialize, Deserialize)]
struct Message {
    id: u64,
    text: String,
}

impl TaskHandler for Message {
    const IDENTIFIER: &'static str = "message";

    async fn run(self, context: WorkerContext) -> impl IntoTaskHandlerResult {
        let kafka = context.get_ext::<Kafka>().ok_or("no producer")?;
        let key = self.id.to_string();
        let payload = serde_json::to_vec(&self).map_err(|e| e.to_string())?;
        let record = FutureRecord::to(&kafka.topic).key(&key).payload(&payload);
        kafka.producer.send(record, Duration::from_secs(30)).await.map(drop).map_err(|(e, _)| e.to_string())
    }
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    tracing_subscriber::fmt().with_env_filter(EnvFilter::new("warn")).with_writer(std::io::stderr).init();
    let worker = WorkerOptions::default()
        .database_url(&env::var("DATABASE_URL")?)
        .concurrency(1000)
        .local_queue(LocalQueueConfig::default().with_size(5000))
        .complete_job_batch_delay(Duration::from_millis(5))
        .fail_job_batch_delay(Duration::from_millis(5))
        .add_extension(Kafka::connect()?)
        .define_job::<Message>()
        .init()
        .await?;
    if env::args().nth(1).as_deref() != Some("migrate") {
        worker.run().await?;
    }
    Ok(())
}

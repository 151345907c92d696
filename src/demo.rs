//! `redrive demo`: messages survive a broker outage, before one's eyes and with nothing to install.
//!
//! SQLite in a temporary folder, the real API on a free port, and a broker that speaks Kafka's protocol inside this process (librdkafka's mock
//! cluster). Messages are submitted over HTTP at a steady rate, the broker is taken away in the middle and comes back, and every message is read back
//! from the broker and counted.

mod broker;
mod census;
mod producer;
mod screen;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rdkafka::error::KafkaError;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::app::{self, App};
use crate::config::{Config, Scope};
use crate::engine::Handle;
use crate::source::{Registry, kafka};

use broker::{Broker, Consumer};
use census::Census;
use producer::Producer;
use screen::{Screen, View};

/// The options of the demo.
#[derive(Clone, Debug)]
pub struct Options {
    /// A real broker, `host:port`, instead of the one in this process. It is not taken away: stop and start it yourself, if you like.
    pub kafka: Option<String>,
    /// Messages a second.
    pub rate: u32,
    /// How long messages are submitted; the broker is away for the middle third.
    pub span: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self { kafka: None, rate: 250, span: Duration::from_secs(12) }
    }
}

/// How long the last messages may take to arrive.
const DRAIN: Duration = Duration::from_secs(12);
/// A copy would follow right behind the original: the reader continues for this long before copies are counted.
const AFTERMATH: Duration = Duration::from_millis(500);
/// How often the screen is drawn.
const DRAW_EVERY: Duration = Duration::from_millis(100);

/// Why the demo could not be shown.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The broker could not be started, or reached.
    #[error("the broker: {0}")]
    Broker(#[from] KafkaError),
    /// The sidecar could not be started, or stopped by itself.
    #[error(transparent)]
    App(#[from] app::Error),
    /// A look into the store failed.
    #[error(transparent)]
    Store(#[from] crate::store::Error),
    /// The demo's configuration is wrong, which is a bug.
    #[error("the demo's own configuration: {0}")]
    Config(String),
    /// The temporary folder could not be made.
    #[error("the temporary folder {}: {error}", path.display())]
    Folder {
        /// Its path.
        path: PathBuf,
        /// What went wrong.
        error: std::io::Error,
    },
    /// Ctrl-C. What was made is removed.
    #[error("interrupted; everything the demo made has been removed")]
    Interrupted,
}

impl Error {
    /// Whether the broker could not be reached at all.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Broker(error) if kafka::is_away(error))
    }
}

/// Runs and shows the demo. Returns whether nothing was lost. Everything it made is removed again, also when `stop` is cancelled.
///
/// # Errors
/// If it could not be shown, or not to its end.
pub async fn run(options: Options, stop: CancellationToken) -> Result<bool, Error> {
    let folder = Folder::make()?;
    let broker = Broker::start(options.kafka.clone())?;
    let topic = format!("redrive-demo-{}", &uuid::Uuid::now_v7().simple().to_string()[20..]);
    broker.create(&topic).await?;
    let shown = show(&options, &folder, &broker, &topic, &stop).await;
    if let Err(error) = broker.remove(&topic).await {
        screen::left_behind(&topic, &error);
    }
    shown
}

/// Runs the sidecar from start to end, with everything that is shown in between.
async fn show(options: &Options, folder: &Folder, broker: &Broker, topic: &str, stop: &CancellationToken) -> Result<bool, Error> {
    let app = App::build(config(folder.path(), broker.address(), topic)?).await?;
    let address = app.address().map(|address| address.to_string()).unwrap_or_default();
    let (handle, end) = (app.handle(), CancellationToken::new());
    let sidecar = tokio::spawn(app.run(end.clone().cancelled_owned()));
    let shown = tokio::select! {
        biased;
        () = stop.cancelled() => Err(Error::Interrupted),
        shown = watch(options, broker, topic, &address, &handle) => shown,
    };
    end.cancel();
    // The topic and the file are removed next: nobody may be using them any more.
    let ended = sidecar.await.unwrap_or_else(|error| Err(app::Error::Api(error.to_string())));
    let shown = shown?;
    ended?;
    Ok(shown)
}

/// Submits, takes the broker away and brings it back, watches, and counts.
async fn watch(options: &Options, broker: &Broker, topic: &str, address: &str, handle: &Handle) -> Result<bool, Error> {
    handle.store_is_ready().await;
    let screen = Screen::new(options, address, broker.address());
    let consumer = Consumer::start(broker.address(), topic)?;
    let producer = Arc::new(Producer::default());
    let begun = Instant::now();
    let submitting = AbortOnDropHandle::new(tokio::spawn(producer.clone().submit(address.to_owned(), options.rate, options.span)));
    let outage = options.span / 3..options.span * 2 / 3;
    let mut was_up = true;
    loop {
        let elapsed = begun.elapsed();
        let up = !broker.is_ours() || !outage.contains(&elapsed);
        if up != was_up {
            broker.set_up(up)?;
            was_up = up;
        }
        let view =
            View { elapsed, broker_up: up, accepted: producer.accepted(), delivered: consumer.distinct(), waiting: Census::waiting(handle).await? };
        screen.draw(&view);
        let all_in = submitting.is_finished() && view.delivered >= view.accepted;
        if all_in || elapsed >= options.span + DRAIN {
            break;
        }
        tokio::time::sleep(DRAW_EVERY).await;
    }
    tokio::time::sleep(AFTERMATH).await;
    let census = Census::take(handle).await?;
    let lost = screen.finish(&producer, &consumer, &census, begun.elapsed());
    Ok(lost == 0 && producer.accepted() > 0)
}

fn config(folder: &Path, broker: &str, topic: &str) -> Result<Config, Error> {
    let text = format!(
        r#"
project: demo
store: {{ url: "sqlite://{folder}/redrive.db" }}
api: {{ listen: 127.0.0.1:0 }}
sources:
  events:
    kind: kafka
    brokers: ["{broker}"]
    topic: {topic}
    timeout: 2s
    breaker: {{ after: 5, probe: 500ms }}
    retry: {{ first_delay: 500ms, base_delay: 1s, multiplier: 1, jitter: 0.2, unreachable_delay: 1s }}
poller: {{ interval: 200ms, lease: 10s }}
shutdown: {{ accept_for: 0s, grace: 5s }}
"#,
        folder = folder.display()
    );
    Config::parse(&text, &folder.join("redrive.yaml"), &|_| None, &Registry::default(), Scope::Whole)
        .map_err(|faults| Error::Config(faults.to_string()))
}

/// A temporary folder, removed when it is dropped.
struct Folder(PathBuf);

impl Folder {
    fn make() -> Result<Self, Error> {
        let path = std::env::temp_dir().join(format!("redrive-demo-{}", uuid::Uuid::now_v7().simple()));
        std::fs::create_dir(&path).map_err(|error| Error::Folder { path: path.clone(), error })?;
        Ok(Self(path))
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // It is in the system's temporary folder, so what can't be removed is left to the system.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

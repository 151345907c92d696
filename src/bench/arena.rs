//! Everything a run needs: the configuration, tables and a destination of its own, and the meters of the servers.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use tokio::time::Instant;

use super::Error;
use super::destination::Destination;
use super::load::Load;
use super::node::Overrides;
use super::options::{Body, Case, Common};
use super::payload::{Payloads, Tally};
use super::place::Place;
use super::process::Server;
use super::report::Report;
use super::screen::{Phase, Screen};
use super::setup::{Setup, Subject};
use super::sidecar::Sidecar;
use crate::config::Config;
use crate::message::State;
use crate::source::Registry;
use crate::store::config;

/// How often the sidecars are asked for their progress.
const LOOK: Duration = Duration::from_millis(50);
/// After this long without any progress the run is given up.
const STUCK: Duration = Duration::from_secs(60);

/// Everything a run needs.
pub(super) struct Arena {
    pub(super) common: Common,
    pub(super) config: Config,
    pub(super) subject: Subject,
    pub(super) place: Place,
    pub(super) destination: Destination,
    pub(super) payloads: Payloads,
    pub(super) screen: Screen,
    file: PathBuf,
    name: String,
    topic: String,
    tag: String,
    database_server: Option<Server>,
}

impl Arena {
    /// Makes the tables, and the topic or queue.
    pub(super) async fn make(case: &Case, registry: &Registry) -> Result<Self, Error> {
        case.check()?;
        let common = case.common().clone();
        let Setup { config, subject } = Setup::load(&common.config, registry, common.source.as_deref())?;
        let into = common.into.as_deref();
        if case.sends() && into.is_none() && !matches!(subject.kind.as_str(), "kafka" | "amqp" | "log") {
            return Err(Error::Usage(format!(
                "this case sends, and a source of kind {} would send to its real destination; --into NAME --yes says that you want that",
                subject.kind
            )));
        }
        if config.store.migrate == config::Migrate::Verify && into.is_none() {
            tracing::debug!("store.migrate is verify; the benchmark makes tables of its own nevertheless");
        }
        let tag = format!("{:08x}", rand::random::<u32>());
        let name = into.map_or_else(|| format!("redrive-bench-{tag}"), str::to_owned);
        if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte)) {
            return Err(Error::Usage("--into takes letters, digits, `-`, `_`, `.` and, for a file, `/`".to_owned()));
        }
        // If it is a file's name, only the part after the folder becomes the topic.
        let topic = name.rsplit('/').next().unwrap_or_default().to_owned();
        let place = Place::make(&config.store, &config.project, &subject.context.name, &name, &topic, into).await?;
        let destination =
            if case.sends() { Destination::make(&subject, &topic, common.partitions, into.is_some()).await } else { Ok(Destination::Other) };
        let destination = match destination {
            Ok(destination) => destination,
            Err(error) => {
                let _ = place.remove().await;
                return Err(error);
            }
        };
        let database_server = place.database.server().await;
        let payloads = Payloads::new(&tag, common.size as usize);
        let (file, screen) = (common.config.clone(), Screen::new(common.json));
        Ok(Self { common, config, subject, place, destination, payloads, screen, file, name, topic, tag, database_server })
    }

    /// Removes everything that was made, even if some of it can't be removed.
    pub(super) async fn remove(&self) -> Result<(), Error> {
        let destination = self.destination.remove().await;
        let place = self.place.remove().await;
        destination.and(place).map_err(|error| {
            let what = format!("`{}` could not be removed: {error}", self.name);
            if error.is_unreachable() { Error::Unreachable(what) } else { Error::Failed(what) }
        })
    }

    /// The topic, or routing key.
    pub(super) fn topic(&self) -> &str {
        &self.topic
    }

    pub(super) fn source(&self) -> &str {
        &self.subject.context.name
    }

    /// The settings of the sidecar that replace those of the configuration.
    pub(super) fn overrides(&self) -> Overrides {
        Overrides {
            url: self.place.config.url.expose().to_owned(),
            schema: self.place.config.schema.clone(),
            table_prefix: self.place.config.table_prefix.clone(),
            migrate: self.place.config.migrate,
            notify: self.place.config.notify,
            source: self.source().to_owned(),
            connections: self.common.connections,
            keep: self.common.keep.map(|keep| keep.to_string()),
            max_rows: None,
            poll: None,
            node: format!("redrive-bench-{}", self.tag),
        }
    }

    /// Whether delivered messages are deleted at once.
    pub(super) fn deletes(&self) -> bool {
        let mut keep = self.config.engine.history.keep.clone();
        if let Some(succeeded) = self.common.keep {
            keep.succeeded = succeeded;
        }
        keep.deletes(State::Succeeded)
    }

    pub(super) async fn sidecar(&self, overrides: &Overrides) -> Result<Sidecar, Error> {
        Sidecar::start(&self.file, overrides).await
    }

    /// A load on the source under test, of as many messages as the user asked for, as fast as they are accepted.
    pub(super) fn load(&self, address: SocketAddr, body: Body) -> Load {
        Load {
            address,
            source: self.source().to_owned(),
            topic: self.topic().to_owned(),
            payloads: self.payloads.clone(),
            body,
            connections: self.common.connections,
            extra: Vec::new(),
            messages: self.common.messages,
            span: None,
            rate: None,
        }
    }

    /// Reads all meters.
    pub(super) async fn meters(&self, sidecars: &[Sidecar]) -> Meters {
        Meters {
            wal: self.place.database.read(self.place.database.wal_meter()).await,
            cpu: sidecars.iter().map(Sidecar::cpu).sum(),
            database: self.database_server.and_then(Server::cpu),
            broker: self.destination.server().and_then(Server::cpu),
        }
    }

    /// Waits until as many messages were delivered, or failed, as were accepted.
    pub(super) async fn delivered(&self, sidecar: &mut Sidecar, accepted: u64) -> Result<(), Error> {
        let phase = self.screen.phase("waiting for what is under way", accepted);
        arrive(&phase, accepted, async || Ok::<_, Error>(sidecar.delivered().await? + sidecar.failed().await?)).await
    }

    /// Waits until these sidecars have delivered this many messages.
    pub(super) async fn drained(&self, sidecars: &mut [Sidecar], messages: u64) -> Result<(), Error> {
        let phase = self.screen.phase("drain", messages);
        arrive(&phase, messages, async || {
            let mut delivered = 0;
            for sidecar in &mut *sidecars {
                delivered += sidecar.delivered().await?;
            }
            Ok::<_, Error>(delivered)
        })
        .await
    }

    /// Adds to the report what the consumer received.
    pub(super) async fn count(&self, report: &mut Report, submitted: u64, refused: &[u64]) -> Result<(), Error> {
        let _phase = self.screen.phase("counting what arrived", submitted);
        let tally: Option<Tally> = self.destination.count(&self.payloads, submitted).await?;
        if let Some(verdict) = tally.map(|tally| tally.verdict(refused)) {
            (report.copies, report.lost) = (Some(verdict.copies), Some(verdict.lost));
        }
        Ok(())
    }
}

/// Asks how many messages have arrived until all have; gives up when no more arrive.
async fn arrive(phase: &Phase, messages: u64, mut ask: impl AsyncFnMut() -> Result<u64, Error>) -> Result<(), Error> {
    let (mut best, mut since) = (0, Instant::now());
    loop {
        let arrived = ask().await?;
        phase.set(arrived);
        if arrived >= messages {
            return Ok(());
        }
        if arrived > best {
            (best, since) = (arrived, Instant::now());
        }
        if since.elapsed() > STUCK {
            return Err(Error::Failed(format!("{arrived} of {messages} messages were delivered, and then nothing more for {} s", STUCK.as_secs())));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// A reading of the meters.
#[derive(Clone, Copy, Debug)]
pub(super) struct Meters {
    wal: Option<i64>,
    cpu: Option<Duration>,
    database: Option<Duration>,
    broker: Option<Duration>,
}

impl Meters {
    /// This reading with no CPU used by the sidecars: for sidecars that were started after it.
    pub(super) const fn with_no_cpu(self) -> Self {
        Self { cpu: Some(Duration::ZERO), ..self }
    }

    /// Adds to the report what was used since this reading: in total, and per million messages.
    pub(super) fn used(self, now: Self, messages: u64, took: Duration, report: &mut Report) {
        let used = |before: Option<Duration>, after: Option<Duration>| Some(after?.saturating_sub(before?).as_secs_f64());
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        let per_million = |seconds: f64| (messages > 0).then(|| seconds * 1e6 / messages as f64);
        let cpu = used(self.cpu, now.cpu);
        report.cpu_s_per_million = cpu.and_then(per_million);
        report.db_cpu_s_per_million = used(self.database, now.database).and_then(per_million);
        report.broker_cpu_s_per_million = used(self.broker, now.broker).and_then(per_million);
        report.cpu_percent = cpu.filter(|_| !took.is_zero()).map(|cpu| cpu * 100.0 / took.as_secs_f64());
        report.wal_bytes = self.wal.zip(now.wal).and_then(|(before, after)| u64::try_from(after - before).ok());
    }
}

/// The rate per second.
pub(super) fn rate(messages: u64, took: Duration) -> Option<f64> {
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    (!took.is_zero()).then(|| messages as f64 / took.as_secs_f64())
}

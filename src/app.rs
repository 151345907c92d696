//! The only composer: a configuration in, a running sidecar out.
//!
//! The order matters at both ends. At start the ports are bound, then the store is locked, then the engine starts; nothing waits for a destination or
//! for the database. At the end sends stop first and intake later, so that a producer that stops at the same moment is still heard; health is served
//! to the last.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinError;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::api;
use crate::config::Config;
use crate::engine::{self, Engine, Handle};
use crate::fault::Fault;
use crate::store::{self, Store};
use crate::telemetry::metrics::Metrics;
use crate::units::millis;

/// How long the API may take to finish the requests that it has begun, once it accepts no more.
const LAST_REQUESTS: Duration = Duration::from_secs(2);
/// The same for health and metrics.
const LAST_PROBES: Duration = Duration::from_millis(200);
/// How long a one-shot run waits for the store.
const STORE_WAIT: Duration = Duration::from_secs(30);
/// How often it checks the store meanwhile.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// How often a one-shot run checks whether anything is left to do.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Why the sidecar could not start, or could not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The configuration is wrong in a way that shows only when its parts are put together.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Config(Vec<Fault>),
    /// A port or socket can't be bound.
    #[error("can't listen: {0}")]
    Bind(#[source] io::Error),
    /// The store can't be used by this process.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The store did not answer in time (one-shot commands only).
    #[error("the store is not ready after {} s: {reason}", waited.as_secs())]
    #[non_exhaustive]
    NotReady {
        /// How long the command waited for it.
        waited: Duration,
        /// What is wrong with it.
        reason: String,
    },
    /// The API stopped by itself.
    #[error("the API stopped: {0}")]
    Api(String),
}

/// A sidecar that is bound and running; it accepts messages as soon as the store answers.
///
/// A program that embeds it needs no port: with neither `config.api.listen`, `config.api.unix` nor `config.health.listen`, which it sets to `None`
/// after loading, everything goes through the [handle](Self::handle).
///
/// ```no_run
/// # use redrive::{app::App, config::{Config, Scope}, engine::Submission, source::Registry};
/// # async fn embed() -> Result<(), Box<dyn std::error::Error>> {
/// let mut config = Config::load("redrive.yaml".as_ref(), &Registry::default(), Scope::Whole)?;
/// (config.api.listen, config.api.unix, config.health.listen) = (None, None, None);
/// let app = App::build(config).await?;
/// let handle = app.handle();
/// let (stop, stopped) = tokio::sync::oneshot::channel();
/// let running = tokio::spawn(app.run(async { stopped.await.unwrap_or(()) }));
///
/// handle.store_is_ready().await;
/// let accepted = handle.submit(Submission::new("crm", "hello")).await?;
/// let record = handle.get(accepted.id(), false).await?;
///
/// stop.send(()).ok();
/// running.await??;
/// # Ok(())
/// # }
/// ```
///
/// [`run`](Self::run) returns once everything is in good order. Dropping the app, or the future of `run`, stops everything at once, as a crash does:
/// what was under way is sent again when its lease has run out. A SQLite file stays locked until the last part has stopped, so that two apps never
/// serve one.
#[derive(Debug)]
pub struct App {
    engine: Engine,
    bound: api::Bound,
    metrics: Arc<Metrics>,
    shutdown: engine::config::Shutdown,
}

impl App {
    /// Binds the ports, locks the store and starts the engine.
    ///
    /// # Errors
    /// Faults of the configuration, a port that is taken, a store that is in use.
    #[allow(clippy::unused_async, reason = "it needs a runtime, and says so by its type")]
    pub async fn build(config: Config) -> Result<Self, Error> {
        let bound = api::Server::bind(&config.api, &config.health).map_err(Error::Bind)?;
        let guard = store::guard(&config.store)?;
        let shutdown = config.engine.shutdown.clone();
        let metrics = Arc::new(Metrics::new(config.project.clone()));
        let store = open(&config, &metrics)?;
        let engine = start(config, store, guard, metrics.clone());
        Ok(Self { engine, bound, metrics, shutdown })
    }

    /// The way into the engine.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.engine.handle()
    }

    /// Where the API listens, port 0 resolved; `None` if it has no port.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.bound.address()
    }

    /// Where health and metrics are served in addition to the API's own port.
    #[must_use]
    pub fn health_address(&self) -> Option<SocketAddr> {
        self.bound.health_address()
    }

    /// Serves until `stop` is ready, then drains: sends stop at once, intake goes on for `shutdown.accept_for`, and what is under way is finished
    /// within `shutdown.grace`.
    ///
    /// # Errors
    /// If the API stops by itself.
    ///
    /// # Panics
    /// If a part of redrive panics, which is a bug: the panic goes on here.
    pub async fn run(self, stop: impl Future<Output = ()> + Send) -> Result<(), Error> {
        let Self { engine, mut bound, metrics, shutdown } = self;
        let (close, end) = (CancellationToken::new(), CancellationToken::new());
        let render: api::Metrics = Arc::new(move || metrics.render());
        // Health checks and scrapes are answered until the very end.
        let probes = AbortOnDropHandle::new(tokio::spawn(bound.split_health().serve(engine.handle(), render.clone(), end.clone(), LAST_PROBES)));
        let mut server = AbortOnDropHandle::new(tokio::spawn(bound.serve(engine.handle(), render, close.clone(), LAST_REQUESTS)));
        tokio::select! {
            () = stop => {}
            // A bug, so the process exits as after one: a restarted node sends what this one held once the leases have run out.
            panic = engine.panicked() => std::panic::resume_unwind(panic),
            ended = &mut server => {
                engine.finish(Instant::now() + shutdown.grace.get()).await;
                return Err(Error::Api(why(ended)));
            }
        }
        let asked = Instant::now();
        engine.stop_sending();
        tokio::time::sleep_until(asked + shutdown.accept_for.get()).await;
        close.cancel();
        let _ = tokio::time::timeout(LAST_REQUESTS * 2, server).await;
        let left = engine.finish(asked + shutdown.grace.get()).await;
        end.cancel();
        let _ = tokio::time::timeout(LAST_PROBES * 2, probes).await;
        let took_ms = millis(asked.elapsed());
        if left == 0 {
            tracing::info!(took_ms, "stopped; nothing was under way");
        } else {
            tracing::warn!(took_ms, messages.left = left, "stopped; what was under way is sent again when its lease has run out");
        }
        Ok(())
    }
}

/// Why the API ended by itself. If it panicked, the panic is resumed here: that is a bug, and the process exits as after one.
fn why(ended: Result<io::Result<()>, JoinError>) -> String {
    match ended.map_err(JoinError::try_into_panic) {
        Ok(Ok(())) => "it was not asked to".to_owned(),
        Ok(Err(error)) => error.to_string(),
        Err(Err(cancelled)) => cancelled.to_string(),
        Err(Ok(panic)) => std::panic::resume_unwind(panic),
    }
}

fn open(config: &Config, metrics: &Arc<Metrics>) -> Result<Arc<dyn Store>, Error> {
    let metrics = metrics.clone();
    store::open_observed(&config.store, &config.project, Arc::new(move |op, took| metrics.store_took(op, took))).map_err(Error::Config)
}

fn start(config: Config, store: Arc<dyn Store>, guard: Option<store::Guard>, metrics: Arc<Metrics>) -> Engine {
    let Config { project, node, sources, engine, .. } = config;
    Engine::start(engine::Parts { project, node, store, guard, sources, config: engine, metrics })
}

/// The result of a one-shot run.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Ran {
    /// Messages are due that were left because their destination can't be reached.
    pub waiting: bool,
    /// The run was stopped before everything that is due had been tried.
    pub cut_short: bool,
}

/// Claims and sends what is due, then ends, or earlier when `stop` is ready; for cron. Opens no port.
///
/// # Errors
/// If the store can't be used, or did not answer for half a minute.
pub async fn run_once(config: Config, stop: impl Future<Output = ()> + Send) -> Result<Ran, Error> {
    // A token can be asked more than once whether it is time to stop.
    let stopped = CancellationToken::new();
    let watch = async {
        stop.await;
        stopped.cancel();
        std::future::pending::<Result<Ran, Error>>().await
    };
    tokio::select! {
        biased;
        never = watch => never,
        ran = send_due(config, &stopped) => ran,
    }
}

async fn send_due(mut config: Config, stop: &CancellationToken) -> Result<Ran, Error> {
    config.engine.poller.enabled = true;
    let grace = config.engine.shutdown.grace.get();
    let metrics = Arc::new(Metrics::new(config.project.clone()));
    let store = open(&config, &metrics)?;
    let ready = stop.run_until_cancelled(ready(store.as_ref())).await;
    if !matches!(ready, Some(Ok(()))) {
        store.close().await;
        return ready.unwrap_or(Ok(())).map(|()| Ran { waiting: false, cut_short: true });
    }
    let engine = start(config, store, None, metrics);
    let handle = engine.handle();
    // Rows without a due time become due now, and sources that only this run knows are known from now on, whether or not anything is due.
    stop.run_until_cancelled(handle.sort_out()).await;
    let (mut waiting, mut answered, mut busy, mut until) = (false, Instant::now(), Instant::now(), None);
    let cut_short = loop {
        let was_idle = engine.is_idle();
        match handle.work().await {
            Ok(work) => {
                (waiting, answered) = (work.unreachable, Instant::now());
                if !work.sendable {
                    // A run that has nothing more to claim does not wait for somebody to repair the table.
                    engine.give_up_refused();
                }
                // After it was told to stop, nothing more is claimed, and what was claimed but not sent is due again.
                let over = was_idle && (until.is_some() || (!work.sendable && engine.is_idle()));
                if over {
                    break work.sendable;
                }
                if engine.held() > 0 {
                    busy = Instant::now();
                } else if busy.elapsed() >= STORE_WAIT {
                    engine.finish(Instant::now() + grace).await;
                    let reason = "messages are due but none can be claimed; the log says why".to_owned();
                    return Err(Error::NotReady { waited: STORE_WAIT, reason });
                }
            }
            // The engine goes on meanwhile: what is under way is sent and recorded.
            Err(error) if answered.elapsed() < STORE_WAIT => tracing::debug!(error.detail = error.to_string(), "can't see what is left to do"),
            Err(error) => {
                engine.finish(Instant::now() + grace).await;
                return Err(error.into());
            }
        }
        if until.is_some_and(|until| Instant::now() >= until) {
            break true;
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            panic = engine.panicked() => std::panic::resume_unwind(panic),
            () = stop.cancelled(), if until.is_none() => {
                engine.stop_sending();
                until = Some(Instant::now() + grace);
            }
        }
    };
    engine.finish(until.unwrap_or_else(|| Instant::now() + grace)).await;
    Ok(Ran { waiting, cut_short })
}

/// Waits until the store is ready, but not for errors that waiting does not cure: a wrong password, missing tables.
async fn ready(store: &dyn Store) -> Result<(), Error> {
    let mut reason = "the store has not answered yet".to_owned();
    let preparing = async {
        loop {
            match store.prepare().await {
                Ok(prepared) => {
                    for version in &prepared.applied {
                        tracing::info!(migration = %version, "migrated");
                    }
                    return Ok(());
                }
                Err(error) if error.is_transient() => reason = error.to_string(),
                Err(error) => return Err(error.into()),
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
    };
    let prepared = tokio::time::timeout(STORE_WAIT, preparing).await;
    prepared.unwrap_or(Err(Error::NotReady { waited: STORE_WAIT, reason }))
}

#[cfg(test)]
mod tests {
    use std::panic::AssertUnwindSafe;

    use super::*;

    #[tokio::test]
    async fn a_panic_of_the_api_goes_on() {
        fn panics() -> io::Result<()> {
            panic!("on purpose")
        }
        let ended = tokio::spawn(async { panics() }).await;
        assert!(std::panic::catch_unwind(AssertUnwindSafe(|| why(ended))).is_err());
        assert_eq!(why(Ok(Err(io::Error::other("no more files")))), "no more files");
    }
}

//! The sidecar under test, from inside: a process of its own that serves the user's configuration with a few things replaced.
//!
//! The replacements come on stdin, since they may contain a password. The process ends when stdin does, however its parent ended.

use std::io::{BufRead as _, Read as _, Write as _};
use std::net::SocketAddr;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::Error;
use super::setup::Nowhere;
use crate::app::App;
use crate::config::{Config, Scope};
use crate::source::{Registry, Sender};
use crate::store::config::Migrate;
use crate::telemetry;
use crate::units::{Limit, Secret, Span};

/// What is replaced.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Overrides {
    pub(super) url: String,
    pub(super) schema: Option<String>,
    pub(super) table_prefix: String,
    pub(super) migrate: Migrate,
    pub(super) notify: bool,
    /// The source under test; the others are removed.
    pub(super) source: String,
    /// How many connections will be opened.
    pub(super) connections: u32,
    pub(super) keep: Option<String>,
    pub(super) max_rows: Option<u64>,
    pub(super) poll: Option<String>,
    pub(super) node: String,
}

/// What the process reports on stdout, once.
#[derive(Serialize, Deserialize)]
pub(super) struct Started {
    pub(super) address: SocketAddr,
}

/// Serves until stdin ends.
///
/// # Errors
/// As `redrive serve`.
pub async fn serve(file: &Path, registry: &Registry) -> Result<(), Error> {
    let overrides: Overrides = told()?;
    let mut config = Config::load(file, &only(registry, &overrides.source), Scope::Whole)?;
    // Log lines that don't matter in a benchmark must not scroll the screen away.
    let log = telemetry::Config { level: "warn".to_owned(), ..config.log.clone() };
    telemetry::init(&log, &|name| std::env::var(name).ok()).map_err(|fault| Error::Failed(fault.to_string()))?;
    replace(&mut config, overrides)?;
    let app = App::build(config).await?;
    let address = app.address().ok_or_else(|| Error::Failed("the API has no address".to_owned()))?;
    tell(address)?;
    Ok(app.run(until_parent_ends().cancelled_owned()).await?)
}

/// Reads what the parent writes on stdin.
pub(super) fn told<T: DeserializeOwned>() -> Result<T, Error> {
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    serde_json::from_str(&line).map_err(|_| Error::Usage("this is a part of `redrive bench`, and not for use by itself".to_owned()))
}

/// Reports to the parent, on stdout, where this process listens.
pub(super) fn tell(address: SocketAddr) -> Result<(), Error> {
    let mut started = serde_json::to_vec(&Started { address }).map_err(|error| Error::Failed(error.to_string()))?;
    started.push(b'\n');
    let mut stdout = std::io::stdout();
    stdout.write_all(&started)?;
    Ok(stdout.flush()?)
}

/// Cancelled when stdin ends: the parent is done, or gone.
pub(super) fn until_parent_ends() -> CancellationToken {
    let stop = CancellationToken::new();
    let ended = stop.clone();
    // In a thread of its own: a pending read can't be cancelled, and must not hold up the end of the runtime.
    std::thread::spawn(move || {
        // The parent writes nothing more, so anything that arrives means the end.
        let _ = std::io::stdin().lock().read(&mut [0]);
        ended.cancel();
    });
    stop
}

/// The registry's kinds, which build only the given source and a stand-in for the others.
fn only(registry: &Registry, source: &str) -> Registry {
    let (real, source) = (registry.clone(), source.to_owned());
    registry.built_by(move |kind, mut section, cx| {
        if *cx.name != *source {
            return Ok(Sender::each(Nowhere));
        }
        // The queue is reached by its name, so that messages don't end up in the user's queues through a catch-all binding.
        if kind == "amqp"
            && let Value::Object(section) = &mut section
        {
            section.insert("exchange".to_owned(), json!(""));
        }
        real.build(kind, section, cx)
    })
}

fn replace(config: &mut Config, overrides: Overrides) -> Result<(), Error> {
    let store = &mut config.store;
    store.url = Secret::new(overrides.url);
    (store.schema, store.table_prefix) = (overrides.schema, overrides.table_prefix);
    (store.migrate, store.notify) = (overrides.migrate, overrides.notify);
    let api = &mut config.api;
    (api.listen, api.unix, api.token) = (Some(([127, 0, 0, 1], 0).into()), None, None);
    // The connection that reads the metrics is silent while the load is on, and so are those of a load with a low rate.
    api.header_timeout = Span::secs(3600);
    // One more reads the metrics.
    api.max_connections = api.max_connections.max(overrides.connections.saturating_add(8));
    config.health.listen = None;
    config.node = overrides.node.into();
    let span = |text: String| text.parse::<Span>().map_err(Error::Usage);
    if let Some(keep) = overrides.keep {
        config.engine.history.keep.succeeded = keep.parse::<Limit>().map_err(Error::Usage)?;
    }
    if let Some(rows) = overrides.max_rows {
        config.engine.history.max_rows = rows;
    }
    if let Some(interval) = overrides.poll {
        config.engine.poller.interval = span(interval)?;
    }
    (config.engine.shutdown.accept_for, config.engine.shutdown.grace) = (Span::secs(0), Span::secs(5));
    config.sources.retain(|source| *source.name == *overrides.source);
    config.options.retain(|name, _| *name == overrides.source);
    Ok(())
}

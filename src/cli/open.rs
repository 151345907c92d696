//! What most commands start with: the configuration, the log, the store.

use std::sync::Arc;

use uuid::Uuid;

use super::{ConfigFile, Failure, filter};
use crate::config::{Config, Scope};
use crate::fault::{self, Fault};
use crate::retry::Policy;
use crate::source::Registry;
use crate::store::config::Migrate;
use crate::store::{self, List, Prepared, Store};
use crate::telemetry;

/// An open store, and the configuration it came from.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) config: Config,
    pub(super) store: Arc<dyn Store>,
    pub(super) prepared: Prepared,
}

impl ConfigFile {
    /// Reads the whole configuration and starts the log.
    pub(super) fn load(&self, registry: &Registry) -> Result<Config, Failure> {
        let config = Config::load(&self.config, registry, Scope::Whole)?;
        start_log(&config.log)?;
        Ok(config)
    }

    /// Opens the store. `migrate` overrides the configuration: a command that looks at messages, or submits one, creates neither tables nor a SQLite
    /// file. Run in the wrong folder, it would create one that nobody serves.
    pub(super) async fn open(&self, registry: &Registry, migrate: Migrate) -> Result<Opened, Failure> {
        self.open_with(registry, migrate, Scope::Store).await
    }

    /// The same, building the sources in `scope` as well.
    pub(super) async fn open_with(&self, registry: &Registry, migrate: Migrate, scope: Scope<'_>) -> Result<Opened, Failure> {
        let mut config = Config::load(&self.config, registry, scope)?;
        // A command's output is its result; nothing below a warning is worth a line beside it.
        start_log(&telemetry::Config { level: "warn".to_owned(), ..config.log.clone() })?;
        config.store.migrate = migrate;
        let store = store::open(&config.store, &config.project).map_err(|faults| Failure::Config(fault::line_within("store", faults)))?;
        let prepared = store.prepare().await?;
        Ok(Opened { config, store, prepared })
    }
}

impl Opened {
    /// The number of retries after which a message of a source fails, unless the message sets its own.
    pub(super) fn max_retries(&self, source: &str) -> Option<u32> {
        self.config.options.get(source).map(|options| Policy::of(&options.retry).max_retries())
    }

    /// The text if no message was found. Nobody who misspelt a filter should mistake it for an all-clear.
    pub(super) fn nothing(&self, list: &List) -> String {
        let (project, filters) = (&self.config.project, filter::spelt(list));
        if filters.is_empty() {
            return format!("no messages of project {project}: submit one with `redrive send`, or by POST /v1/messages");
        }
        let is_unknown = list.source.as_ref().is_some_and(|source| !self.config.options.contains_key(source));
        let hint = if is_unknown { "; the configuration has no such source" } else { "" };
        format!("no messages of project {project} match {filters}{hint}")
    }

    /// The error if the project has no such message.
    pub(super) fn no_message(&self, id: Uuid) -> Failure {
        Failure::Failed(format!("there is no message {id} in project {}; it may have been purged", self.config.project))
    }
}

/// Starts the log according to the configuration and the environment.
pub(super) fn start_log(config: &telemetry::Config) -> Result<(), Fault> {
    telemetry::init(config, &|name| std::env::var(name).ok())
}

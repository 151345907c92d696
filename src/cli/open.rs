//! What most commands begin with: the configuration, the log, the store.

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

/// A store that answers, and the configuration that led there.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) config: Config,
    pub(super) store: Arc<dyn Store>,
    pub(super) prepared: Prepared,
}

impl ConfigFile {
    /// Reads the configuration whole and starts the log as it says.
    pub(super) fn load(&self, registry: &Registry) -> Result<Config, Failure> {
        let config = Config::load(&self.config, registry, Scope::Whole)?;
        start_log(&config.log)?;
        Ok(config)
    }

    /// Opens the store. `migrate` goes before what the configuration says of the tables: a command that looks at messages, or submits one, makes none,
    /// and no file of SQLite. Where it is run in another folder it would make one that nobody serves.
    pub(super) async fn open(&self, registry: &Registry, migrate: Migrate) -> Result<Opened, Failure> {
        self.open_with(registry, migrate, Scope::Store).await
    }

    /// The same with what is to be built besides.
    pub(super) async fn open_with(&self, registry: &Registry, migrate: Migrate, scope: Scope<'_>) -> Result<Opened, Failure> {
        let mut config = Config::load(&self.config, registry, scope)?;
        // A command's output is its result; below a warning nothing is worth a line beside it.
        start_log(&telemetry::Config { level: "warn".to_owned(), ..config.log.clone() })?;
        config.store.migrate = migrate;
        let store = store::open(&config.store, &config.project).map_err(|faults| Failure::Config(fault::line_within("store", faults)))?;
        let prepared = store.prepare().await?;
        Ok(Opened { config, store, prepared })
    }
}

impl Opened {
    /// After how many retries a message of a source fails, if it does not say so itself.
    pub(super) fn max_retries(&self, source: &str) -> Option<u32> {
        self.config.options.get(source).map(|options| Policy::of(&options.retry).max_retries())
    }

    /// What to say where no message is found. Whoever misspelt a filter must not read it as an all-clear.
    pub(super) fn nothing(&self, list: &List) -> String {
        let (project, filters) = (&self.config.project, filter::spelt(list));
        if filters.is_empty() {
            return format!("no messages of project {project}: submit one with `redrive send`, or by POST /v1/messages");
        }
        let is_unknown = list.source.as_ref().is_some_and(|source| !self.config.options.contains_key(source));
        let hint = if is_unknown { "; the configuration has no such source" } else { "" };
        format!("no messages of project {project} match {filters}{hint}")
    }

    /// The project has no such message.
    pub(super) fn no_message(&self, id: Uuid) -> Failure {
        Failure::Failed(format!("there is no message {id} in project {}; it may have been purged", self.config.project))
    }
}

/// Starts the log as the configuration and the environment say.
pub(super) fn start_log(config: &telemetry::Config) -> Result<(), Fault> {
    telemetry::init(config, &|name| std::env::var(name).ok())
}

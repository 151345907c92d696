//! The configuration: one YAML file per project, composed of the modules' own `Config` structs, and the factory of the sources.
//!
//! Loading reads the file, fills in its variables, deserialises and checks each section, and builds each source. All faults are reported at once,
//! with their lines; the result is either a complete [`Config`] or none. Nothing below [`crate::app`] imports this module.

mod de;
mod faults;
mod interpolate;
mod load;
#[doc(hidden)]
pub mod schema;
mod sources;
mod tree;
mod wording;
mod yaml;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::engine::SourceSpec;
use crate::source::{Options, Registry};
use crate::{api, engine, store, telemetry};
use tree::Step;

pub use faults::{Faults, Located};
pub use interpolate::Environment;

/// A complete and checked configuration.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// The project.
    pub project: Arc<str>,
    /// The name of this process in leases and the attempt log.
    pub node: Arc<str>,
    /// `store:`, with the URL read from its file, if there is one.
    pub store: store::Config,
    /// `api:`, with the token read from its file, if there is one.
    pub api: api::Config,
    /// `health:`
    pub health: api::config::Health,
    /// `poller:`, `history:`, `idempotency:`, `shutdown:` and `limits:`
    pub engine: engine::Config,
    /// `log:`, which only the command line reads: a program that embeds redrive installs its own `tracing` subscriber.
    pub log: telemetry::Config,
    /// The options of each source under `sources:` that don't depend on its kind, by name.
    pub options: BTreeMap<String, Options>,
    /// The sources that were built; none with [`Scope::Store`].
    pub sources: Vec<SourceSpec>,
}

/// How much of the configuration is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Scope<'a> {
    /// Everything.
    Whole,
    /// No sources: for commands that only work on the store. The keys of a kind and the API's token are not read either, so that such a command needs
    /// neither their variables nor their files.
    Store,
    /// The same, except that the source of this name is built.
    Source(&'a str),
}

impl Scope<'_> {
    /// Whether a source is built.
    fn builds(self, name: &str) -> bool {
        match self {
            Self::Whole => true,
            Self::Store => false,
            Self::Source(only) => only == name,
        }
    }

    /// Whether the API's token is read.
    fn serves(self) -> bool {
        self == Self::Whole
    }

    /// Whether the value at a path is used.
    fn looks_at(self, path: &[Step]) -> bool {
        let keys: Vec<&str> = path.iter().map_while(|step| if let Step::Key(key) = step { Some(key.as_str()) } else { None }).collect();
        match keys[..] {
            ["api", "token" | "token_file", ..] => self.serves(),
            ["sources", name, key, ..] => self.builds(name) || key == "kind" || Options::KEYS.contains(&key),
            _ => true,
        }
    }
}

impl Config {
    /// Reads a file, taking variables from the process's environment.
    ///
    /// ```no_run
    /// # use redrive::{config::{Config, Scope}, source::Registry};
    /// let config = Config::load("redrive.yaml".as_ref(), &Registry::default(), Scope::Whole)?;
    /// # Ok::<(), redrive::config::Faults>(())
    /// ```
    ///
    /// # Errors
    /// Every fault, each with its line.
    pub fn load(file: &Path, registry: &Registry, scope: Scope<'_>) -> Result<Self, Faults> {
        let text = load::text(file)?;
        Self::parse(&text, file, &|name| std::env::var(name).ok(), registry, scope)
    }

    /// Parses the text of a file. Faults name `file`, and most relative paths start at its folder.
    ///
    /// # Errors
    /// Every fault, each with its line.
    pub fn parse(text: &str, file: &Path, environment: Environment<'_>, registry: &Registry, scope: Scope<'_>) -> Result<Self, Faults> {
        load::parse(text, file, environment, registry, scope)
    }
}

/// The file without its sources.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct File {
    /// The application that the messages belong to: 1 to 63 lower-case letters, digits, `-` and `_`, starting with a letter or digit.
    #[schemars(regex(pattern = r"^[a-z0-9][a-z0-9_-]{0,62}$"))]
    project: Option<String>,
    /// The name of this process in leases and the attempt log; no two running processes may share it. 1 to 100 visible ASCII characters. Default: the
    /// host's name and a random suffix.
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<String>,
    /// The database that holds the resend log.
    store: store::Config,
    /// Where and how producers reach redrive.
    api: api::Config,
    /// Where health and metrics are served in addition to the API's own port.
    health: api::config::Health,
    /// How due messages are found and claimed.
    poller: engine::config::Poller,
    /// How long finished messages are kept.
    history: engine::config::History,
    /// How long idempotency keys are kept.
    idempotency: engine::config::Idempotency,
    /// What happens on SIGTERM.
    shutdown: engine::config::Shutdown,
    /// How much the node may hold in memory.
    limits: engine::config::Limits,
    /// What is logged, and how.
    log: telemetry::Config,
}

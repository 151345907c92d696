//! The configuration: one YAML file a project, composed of what each module takes, and the factory of the sources.
//!
//! A file is read, its variables put in, each section deserialised and checked, each source built. Every fault is found and reported at once,
//! with its line; then there is either a whole [`Config`] or none. Nothing below [`crate::app`] knows this module.

mod de;
mod faults;
mod interpolate;
mod load;
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

/// A configuration that was checked whole.
#[derive(Clone, Debug)]
pub struct Config {
    /// The project.
    pub project: Arc<str>,
    /// The name of this process, in leases and in the attempt log.
    pub node: Arc<str>,
    /// `store:`, with the URL in place.
    pub store: store::Config,
    /// `api:`, with the token in place.
    pub api: api::Config,
    /// `health:`
    pub health: api::config::Health,
    /// `poller:`, `history:`, `idempotency:`, `shutdown:` and `limits:`
    pub engine: engine::Config,
    /// `log:`
    pub log: telemetry::Config,
    /// What each source under `sources:` takes, whatever its kind, by name.
    pub options: BTreeMap<String, Options>,
    /// The sources that were to be built; none with [`Scope::Store`].
    pub sources: Vec<SourceSpec>,
}

/// How much is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope<'a> {
    /// Everything.
    Whole,
    /// No sources: for commands that only look at the store. The keys of a kind are not looked at either, nor is the API's token: who only looks
    /// needs neither these variables nor these files.
    Store,
    /// The same, but for the source of this name.
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

    /// Whether anything comes of the value at a path.
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
    /// Reads a file, with the variables of the process's environment.
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

    /// Reads the text of a file. `file` is named in faults, and its folder is where most relative paths start.
    ///
    /// # Errors
    /// Every fault, each with its line.
    pub fn parse(text: &str, file: &Path, environment: Environment<'_>, registry: &Registry, scope: Scope<'_>) -> Result<Self, Faults> {
        load::parse(text, file, environment, registry, scope)
    }
}

/// The file, its sources aside.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct File {
    /// The application whose messages these are: 1 to 63 lower-case letters, digits, `-` and `_`, the first one a letter or digit.
    #[schemars(regex(pattern = r"^[a-z0-9][a-z0-9_-]{0,62}$"))]
    project: Option<String>,
    /// The name of this process, in leases and in the attempt log; no two running ones may share it. 1 to 100 visible ASCII characters. Default: the
    /// host's name and something random.
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<String>,
    /// Where the resend log lives.
    store: store::Config,
    /// Where and how producers are heard.
    api: api::Config,
    /// Where health and metrics are served besides the API's own port.
    health: api::config::Health,
    /// How due messages are found and claimed.
    poller: engine::config::Poller,
    /// How long finished messages are kept.
    history: engine::config::History,
    /// How idempotency keys are kept.
    idempotency: engine::config::Idempotency,
    /// What happens on SIGTERM.
    shutdown: engine::config::Shutdown,
    /// What the node may hold in memory.
    limits: engine::config::Limits,
    /// What is logged, and how.
    log: telemetry::Config,
}

//! The kinds of sources by name: the built-in ones, and those that a program registers before it builds the app.

use std::collections::BTreeMap;
use std::sync::Arc;

use schemars::{Schema, SchemaGenerator};
use serde_json::Value;

use super::codes::{Code, OF_THE_ENGINE};
use super::{Config, Context, Section, Sender, amqp, command, http, kafka, log};
use crate::fault::Fault;

type Build = Arc<dyn Fn(Value, &Context) -> Result<Sender, Vec<Fault>> + Send + Sync>;

/// The kinds of sources that a configuration may name.
///
/// ```
/// # use redrive::{message::Message, outcome::Outcome, source::{Registry, Sender, Source}};
/// struct Printer;
/// #[async_trait::async_trait]
/// impl Source for Printer {
///     async fn send(&self, message: &Message) -> Outcome {
///         println!("{}", message.id);
///         Outcome::succeeded()
///     }
/// }
/// let mut registry = Registry::default();
/// registry.register_with("printer", |_config, _cx| Ok(Sender::each(Printer)));
/// assert!(registry.names().any(|name| name == "printer"));
/// ```
#[derive(Clone)]
pub struct Registry {
    kinds: BTreeMap<String, Kind>,
}

#[derive(Clone)]
struct Kind {
    build: Build,
    schema: Option<fn(&mut SchemaGenerator) -> Schema>,
    codes: fn() -> Option<Vec<Code>>,
}

impl Default for Registry {
    /// The built-in kinds: kafka, amqp, http, command, log.
    fn default() -> Self {
        let mut registry = Self { kinds: BTreeMap::new() };
        registry.register::<kafka::Config>("kafka");
        registry.register::<amqp::Config>("amqp");
        registry.register::<http::Config>("http");
        registry.register::<command::Config>("command");
        registry.register::<log::Config>("log");
        registry
    }
}

impl Registry {
    /// Registers a kind by its configuration type. Replaces a kind of the same name.
    pub fn register<C: Config>(&mut self, kind: &str) {
        let build: Build = Arc::new(|value, cx| {
            let config: C = serde_path_to_error::deserialize(Section(value)).map_err(|error| {
                let path = error.path().to_string();
                vec![Fault::new(if path == "." { String::new() } else { path }, error.inner())]
            })?;
            config.build(cx)
        });
        self.kinds.insert(kind.to_owned(), Kind { build, schema: Some(SchemaGenerator::subschema_for::<C>), codes: C::codes });
    }

    /// Registers a kind as a function of its section of the YAML (without the [`super::Options`] and `kind`).
    pub fn register_with(&mut self, kind: &str, build: impl Fn(Value, &Context) -> Result<Sender, Vec<Fault>> + Send + Sync + 'static) {
        self.kinds.insert(kind.to_owned(), Kind { build: Arc::new(build), schema: None, codes: || None });
    }

    /// The names of the kinds.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.kinds.keys().map(String::as_str)
    }

    /// The JSON schemas of the kinds that have one.
    pub fn schemas(&self, generator: &mut SchemaGenerator) -> Vec<(String, Option<Schema>)> {
        self.kinds.iter().map(|(name, kind)| (name.clone(), kind.schema.map(|schema| schema(generator)))).collect()
    }

    /// The error codes that a send of this kind may report, including the engine's own; `None` if the kind does not list them.
    pub fn codes(&self, kind: &str) -> Option<Vec<Code>> {
        let own = (self.kinds.get(kind)?.codes)()?;
        Some(own.into_iter().chain(OF_THE_ENGINE.map(Code::from)).collect())
    }

    /// Builds a source of a kind.
    ///
    /// # Errors
    /// Every fault of its section; an unknown kind is one at `kind`.
    pub fn build(&self, kind: &str, section: Value, cx: &Context) -> Result<Sender, Vec<Fault>> {
        let Some(found) = self.kinds.get(kind) else {
            let known = self.names().collect::<Vec<_>>().join(", ");
            return Err(vec![Fault::new("kind", format!("unknown kind of source `{kind}`; known kinds: {known}"))]);
        };
        (found.build)(section, cx)
    }
}

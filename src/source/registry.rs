//! The kinds of sources by name: the built-in ones, and those that a program registers before it builds the app.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::codes::{Code, OF_THE_ENGINE};
use super::options::RESERVED;
use super::sender::caught;
use super::{Config, Context, Section, Sender, amqp, command, http, kafka, keys, log};
use crate::fault::Fault;

type Build = Arc<dyn Fn(Value, &Context) -> Result<Sender, Vec<Fault>> + Send + Sync>;

/// The kinds of sources that a configuration may name. A kind that needs nothing but its section of the YAML is a [`Config`], which has an example;
/// this one needs something of the program too:
///
/// ```
/// use redrive::async_trait;
/// use redrive::message::Message;
/// use redrive::outcome::Outcome;
/// use redrive::schemars::{self, JsonSchema};
/// use redrive::source::{Kind, Registry, Sender, Source};
/// use serde::Deserialize;
/// use std::sync::{Arc, Mutex};
///
/// /// `kind: memory`, which has no keys of its own.
/// #[derive(Deserialize, JsonSchema)]
/// #[serde(deny_unknown_fields)]
/// struct Keys {}
///
/// struct Memory(Arc<Mutex<Vec<Message>>>);
///
/// #[async_trait]
/// impl Source for Memory {
///     async fn send(&self, message: &Message) -> Outcome {
///         match self.0.lock() {
///             Ok(mut kept) => kept.push(message.clone()),
///             Err(_) => return Outcome::refused("memory_poisoned", "another send panicked"),
///         }
///         Outcome::succeeded()
///     }
/// }
///
/// let kept = Arc::default();
/// let mut registry = Registry::default();
/// let kind = Kind::new(move |_: Keys, _cx| Ok(Sender::each(Memory(Arc::clone(&kept)))));
/// registry.register_kind("memory", kind.with_codes(vec!["memory_poisoned".into()]));
/// assert!(registry.names().any(|name| name == "memory"));
/// ```
#[derive(Clone)]
pub struct Registry {
    kinds: BTreeMap<String, Kind>,
}

/// A kind of source: how it is built, and what redrive knows about it besides.
#[derive(Clone)]
pub struct Kind {
    build: Build,
    schema: fn(&mut SchemaGenerator) -> Schema,
    codes: Option<Vec<Code>>,
    uses_tls: bool,
}

impl Kind {
    /// A kind whose keys in the YAML are those of `C`, built by a function that may own what it needs of the program. All that is said of
    /// [`Config::build`] holds for `build`.
    pub fn new<C: DeserializeOwned + JsonSchema + 'static>(
        build: impl Fn(C, &Context) -> Result<Sender, Vec<Fault>> + Send + Sync + 'static,
    ) -> Self {
        Self {
            build: Arc::new(move |section: Value, cx: &Context| build(read::<C>(section)?, cx)),
            schema: SchemaGenerator::subschema_for::<C>,
            codes: None,
            uses_tls: false,
        }
    }

    /// Its error codes, as [`Config::codes`] lists them.
    #[must_use]
    pub fn with_codes(mut self, codes: Vec<Code>) -> Self {
        self.codes = Some(codes);
        self
    }

    /// It uses the option `tls`, as [`Config::uses_tls`] says.
    #[must_use]
    pub fn with_tls(mut self) -> Self {
        self.uses_tls = true;
        self
    }

    /// The keys that it names although they are not its own.
    fn taken(&self) -> Vec<&'static str> {
        let mut generator = SchemaSettings::draft2020_12().into_generator();
        let schema = (self.schema)(&mut generator);
        let definitions = Value::Object(generator.take_definitions(false));
        let named = keys::named(schema.as_value(), &definitions);
        RESERVED.into_iter().filter(|key| named.contains(*key)).collect()
    }
}

/// The section of a kind, with the path of the value at fault.
fn read<C: DeserializeOwned>(section: Value) -> Result<C, Vec<Fault>> {
    serde_path_to_error::deserialize(Section(section)).map_err(|error| {
        let path = error.path().to_string();
        vec![Fault::new(if path == "." { String::new() } else { path }, error.inner())]
    })
}

/// Whether this is a valid name for a source, which appears in URLs, metrics and rows, or for a kind.
pub(crate) fn is_name(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

impl Default for Registry {
    /// The built-in kinds: kafka, amqp, http, command, log.
    fn default() -> Self {
        let mut registry = Self { kinds: BTreeMap::new() };
        registry
            .register::<kafka::Config>("kafka")
            .register::<amqp::Config>("amqp")
            .register::<http::Config>("http")
            .register::<command::Config>("command")
            .register::<log::Config>("log");
        registry
    }
}

impl Registry {
    /// Registers a kind by its configuration type. Replaces a kind of the same name.
    ///
    /// # Panics
    /// As [`Self::register_kind`].
    pub fn register<C: Config>(&mut self, name: &str) -> &mut Self {
        self.register_kind(name, Kind { codes: C::codes(), uses_tls: C::uses_tls(), ..Kind::new::<C>(C::build) })
    }

    /// Registers a kind that needs more than its section of the YAML. Replaces a kind of the same name.
    ///
    /// # Panics
    /// These are mistakes in the program, which no configuration could make good:
    ///
    /// - The name is not 1 to 63 letters, digits, `-`, `_` and `.`, beginning with a letter or digit.
    /// - One of its keys is `kind` or one of [`Options::KEYS`](super::Options::KEYS), which it would never be given.
    pub fn register_kind(&mut self, name: &str, kind: Kind) -> &mut Self {
        assert!(
            is_name(name),
            "{name:?} is not a valid name for a kind of source; write 1 to 63 letters, digits, `-`, `_` and `.`, beginning with a letter or digit"
        );
        let taken = kind.taken();
        assert!(taken.is_empty(), "the kind of source `{name}` can't have keys of its own that every source has; rename {}", taken.join(", "));
        self.kinds.insert(name.to_owned(), kind);
        self
    }

    /// The same kinds, each built by `build`, which is given the kind's name.
    pub(crate) fn built_by(&self, build: impl Fn(&str, Value, &Context) -> Result<Sender, Vec<Fault>> + Send + Sync + 'static) -> Self {
        let build = Arc::new(build);
        let kinds = self.kinds.iter().map(|(name, kind)| {
            let (build, own) = (build.clone(), name.clone());
            let kind = Kind { build: Arc::new(move |section: Value, cx: &Context| build(&own, section, cx)), ..kind.clone() };
            (name.clone(), kind)
        });
        Self { kinds: kinds.collect() }
    }

    /// The names of the kinds.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.kinds.keys().map(String::as_str)
    }

    /// The JSON schemas of the kinds' own keys.
    pub fn schemas(&self, generator: &mut SchemaGenerator) -> Vec<(String, Schema)> {
        self.kinds.iter().map(|(name, kind)| (name.clone(), (kind.schema)(generator))).collect()
    }

    /// The error codes that a send of this kind may report, including the engine's own; `None` if the kind does not list them.
    pub fn codes(&self, kind: &str) -> Option<Vec<Code>> {
        let own = self.kinds.get(kind)?.codes.clone()?;
        Some(own.into_iter().chain(OF_THE_ENGINE.map(Code::from)).collect())
    }

    /// Whether sources of this kind use the option `tls`.
    pub fn uses_tls(&self, kind: &str) -> bool {
        self.kinds.get(kind).is_some_and(|kind| kind.uses_tls)
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
        let panicked = || Err(vec![Fault::new("", "the kind panicked over this section; this is a bug in it")]);
        caught(|| (found.build)(section, cx)).unwrap_or_else(panicked)
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Registry ")?;
        f.debug_set().entries(self.names()).finish()
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    fn register<C: DeserializeOwned + JsonSchema + 'static>(name: &str) {
        Registry::default().register_kind(name, Kind::new(|_: C, _| Err(Vec::new())));
    }

    /// What registering it panics with.
    fn said<C: DeserializeOwned + JsonSchema + 'static>(name: &str) -> String {
        let panic = std::panic::catch_unwind(|| register::<C>(name)).expect_err("it should be refused");
        *panic.downcast::<String>().unwrap()
    }

    #[test]
    fn a_name_that_no_file_should_have_is_refused() {
        for name in ["", "my kind:\n", "-x", "ümlaut", "a/b", &"x".repeat(64)] {
            assert!(said::<Value>(name).starts_with(&format!("{name:?} is not a valid name for a kind of source; write ")));
        }
        for name in ["x", "My-kind_2.0", &"x".repeat(63)] {
            register::<Value>(name);
        }
    }

    #[test]
    fn a_key_that_would_never_be_given_is_refused_with_its_name() {
        #[derive(Deserialize, JsonSchema)]
        #[allow(dead_code, reason = "only its keys matter")]
        struct Plain {
            timeout: u32,
            tls: bool,
        }
        #[derive(Deserialize, JsonSchema)]
        #[allow(dead_code, reason = "only its keys matter")]
        struct Flat {
            a: u8,
            #[serde(flatten)]
            plain: Plain,
        }
        #[derive(Deserialize, JsonSchema)]
        #[serde(tag = "kind", rename_all = "snake_case")]
        #[allow(dead_code, reason = "only its keys matter")]
        enum Tagged {
            One { retry: u8 },
            Other { a: u8 },
        }
        #[derive(Deserialize, JsonSchema)]
        #[allow(dead_code, reason = "only its keys matter")]
        struct Deep {
            inner: Plain,
        }
        let words = "the kind of source `mine` can't have keys of its own that every source has; rename ";
        assert_eq!(said::<Plain>("mine"), format!("{words}timeout, tls"));
        assert_eq!(said::<Flat>("mine"), format!("{words}timeout, tls"));
        assert_eq!(said::<Tagged>("mine"), format!("{words}kind, retry"));
        // Further down they are its own.
        register::<Deep>("mine");
    }

    #[test]
    fn what_is_shown_of_it_are_the_names() {
        assert_eq!(format!("{:?}", Registry::default()), r#"Registry {"amqp", "command", "http", "kafka", "log"}"#);
    }
}

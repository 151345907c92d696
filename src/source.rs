//! A source: the strategy that performs the send for a message.
//!
//! Implement [`Source`] for a destination that takes one message at a time, [`Pipeline`] for one that is fast only with many messages under way. A
//! kind of source is its [`Config`]: the contents of the YAML, and the factory for the sender; or a [`Kind`], if it needs something of the program
//! as well.

#[doc(hidden)]
pub mod amqp;
#[doc(hidden)]
pub mod answer;
pub mod codes;
#[doc(hidden)]
pub mod command;
#[doc(hidden)]
pub mod http;
#[doc(hidden)]
pub mod kafka;
pub(crate) mod keys;
#[doc(hidden)]
pub mod log;
pub mod options;
pub mod registry;
mod section;

use std::fmt;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::{self, StreamExt as _};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;

use crate::fault::Fault;
use crate::message::Message;
use crate::outcome::Outcome;
use crate::units::Secret;

use codes::Code;
pub use options::Options;
pub use registry::{Kind, Registry};
pub(crate) use section::Section;

/// How many messages of a [`Source`] a [`Sender::send`] has under way at once.
const AT_ONCE: usize = 64;
/// How long a claim holds if nothing else is said.
const LEASE: Duration = Duration::from_secs(30);
/// The code of an outcome after a panic of the source.
pub(crate) const PANICKED: &str = "panic";
/// The code of the outcome of a delivery that was dropped.
pub(crate) const DROPPED: &str = "dropped";

/// Redrive's own headers in a record or message. A consumer that forwards a message with all its headers brings those of another redrive along.
const OWN_HEADERS: [&str; 3] = ["redrive-id", "redrive-attempt", "redrive-key"];

/// Whether a header of a message would be mistaken for one of redrive's own.
fn is_own_header(name: &str) -> bool {
    OWN_HEADERS.iter().any(|own| name.eq_ignore_ascii_case(own))
}

/// Performs the send for one message at a time. Many calls run concurrently, up to the source's `in_flight`.
///
/// A call should end within the source's `timeout`, which is in [`Options::timeout`] of the [`Context`] that it was built with, and say itself what
/// it waited for. The engine only makes sure that it ends: three seconds after the `timeout`, or after 63 seconds if none is set, it drops the call (an
/// unreachable outcome, `timeout`); it also does so when the node has waited long enough at its end. A panic in it is caught (a refused one, `panic`).
/// It must not block the thread: use [`tokio::task::spawn_blocking`] for what does.
///
/// ```
/// use redrive::async_trait;
/// use redrive::message::Message;
/// use redrive::outcome::Outcome;
/// use redrive::source::Source;
///
/// struct Printer;
///
/// #[async_trait]
/// impl Source for Printer {
///     async fn send(&self, message: &Message) -> Outcome {
///         match &message.payload {
///             Some(payload) => println!("{}: {}", message.id, String::from_utf8_lossy(payload)),
///             None => return Outcome::permanent("no_payload", "there is nothing to print"),
///         }
///         Outcome::succeeded()
///     }
/// }
/// ```
///
/// [`Config`] shows how it gets into a configuration.
#[async_trait]
pub trait Source: Send + Sync + 'static {
    /// Sends the message and reports the outcome. The same message may come again: [`Message::id`] identifies a copy.
    async fn send(&self, message: &Message) -> Outcome;

    /// What is wrong with a topic, as far as that is known without sending. Asked at intake (which answers 422), so that the producer learns of its
    /// mistake.
    fn check(&self, topic: Option<&str>) -> Result<(), String> {
        let _ = topic;
        Ok(())
    }

    /// Why nothing should be sent right now although the destination is up, for example because a broker is holding back publishers. Asked for nearly
    /// every message, so it must answer at once.
    fn blocked(&self) -> Option<String> {
        None
    }

    /// Whether the [result](Outcome::result) of a send is kept with the message even where the option `keep_result` is not set: for results that are
    /// short and say where the message is now, such as a partition and an offset.
    fn keeps_result(&self) -> bool {
        false
    }

    /// Closes connections. Nothing is under way when it is called, or else `within` is all the time that is left; things that take a moment to end in
    /// good order, such as a process, may use it.
    async fn close(&self, within: Duration) {
        let _ = within;
    }
}

/// Performs sends that are pipelined: many under way on one connection, acknowledged later and in any order.
///
/// ```
/// use redrive::async_trait;
/// use redrive::outcome::Outcome;
/// use redrive::source::{Delivery, Pipeline};
/// use tokio::sync::mpsc;
///
/// /// Hands deliveries to a task that writes them to a connection and finishes each when its acknowledgement comes.
/// struct Line(mpsc::Sender<Delivery>);
///
/// #[async_trait]
/// impl Pipeline for Line {
///     async fn send(&self, batch: Vec<Delivery>) {
///         for delivery in batch {
///             // The channel's bound is the pipeline's: this waits while too much is under way.
///             if let Err(returned) = self.0.send(delivery).await {
///                 returned.0.finish(Outcome::unreachable("line_closed", "the connection is closed"));
///             }
///         }
///     }
/// }
/// ```
#[async_trait]
pub trait Pipeline: Send + Sync + 'static {
    /// Takes a batch. Returns as soon as another batch can be taken, which bounds how much waits inside; each delivery is
    /// [finished](Delivery::finish) on its own, now or later, but within the source's `timeout`, or a minute if it has none.
    ///
    /// After twice that time and three seconds, a delivery that has not been finished is unreachable, whatever is reported later, and a call that has
    /// not returned is dropped. If a panic drops a delivery that was alone in its batch, it is refused. Several are unreachable, and those that are tried
    /// again within a minute are sent one by one, so that the one that caused it is found.
    async fn send(&self, batch: Vec<Delivery>);

    /// As [`Source::check`].
    fn check(&self, topic: Option<&str>) -> Result<(), String> {
        let _ = topic;
        Ok(())
    }

    /// As [`Source::blocked`].
    fn blocked(&self) -> Option<String> {
        None
    }

    /// As [`Source::keeps_result`].
    fn keeps_result(&self) -> bool {
        false
    }

    /// As [`Source::close`].
    async fn close(&self, within: Duration) {
        let _ = within;
    }
}

/// What a kind of source builds.
///
/// A test of a kind needs neither a store nor a configuration file:
///
/// ```
/// use redrive::message::Message;
/// use redrive::outcome::Class;
/// use redrive::source::{Context, Delivery, Registry};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let section = serde_json::json!({});
/// let sender = Registry::default().build("log", section, &Context::new("shop", "audit")).unwrap();
/// let (tell, told) = std::sync::mpsc::channel();
/// let delivery = Delivery::new(Message::new("audit", "hello"), move |outcome| tell.send(outcome).unwrap());
/// sender.send(vec![delivery]).await;
/// assert_eq!(told.recv().unwrap().class, Class::Succeeded);
/// # }
/// ```
#[derive(Clone)]
#[non_exhaustive]
pub enum Sender {
    /// One call per message.
    #[doc(hidden)]
    Each(Arc<dyn Source>),
    /// One call per batch, acknowledged later.
    #[doc(hidden)]
    Pipelined(Arc<dyn Pipeline>),
}

impl Sender {
    /// A sender of a [`Source`].
    pub fn each(source: impl Source) -> Self {
        Self::Each(Arc::new(source))
    }

    /// A sender of a [`Pipeline`].
    pub fn pipelined(pipeline: impl Pipeline) -> Self {
        Self::Pipelined(Arc::new(pipeline))
    }

    /// Sends a batch without an engine, for tests: there is no time limit, and panics are not caught. A [`Source`] has finished each delivery when
    /// this returns, a [`Pipeline`] may do so later.
    pub async fn send(&self, batch: Vec<Delivery>) {
        match self {
            Self::Each(source) => {
                let send = |delivery: Delivery| async move {
                    let outcome = source.send(delivery.message()).await;
                    delivery.finish(outcome);
                };
                stream::iter(batch).for_each_concurrent(AT_ONCE, send).await;
            }
            Self::Pipelined(pipeline) => pipeline.send(batch).await,
        }
    }

    /// What is wrong with a topic, as far as that is known without sending. A source that panics over it knows nothing.
    pub fn check(&self, topic: Option<&str>) -> Result<(), String> {
        caught(
            || Ok(()),
            || match self {
                Self::Each(source) => source.check(topic),
                Self::Pipelined(pipeline) => pipeline.check(topic),
            },
        )
    }

    /// Why nothing should be sent right now. A source that panics instead of answering gives no reason.
    #[must_use]
    pub fn blocked(&self) -> Option<String> {
        caught(
            || None,
            || match self {
                Self::Each(source) => source.blocked(),
                Self::Pipelined(pipeline) => pipeline.blocked(),
            },
        )
    }

    /// Whether results are kept even where `keep_result` is not set.
    #[must_use]
    pub fn keeps_result(&self) -> bool {
        caught(
            || false,
            || match self {
                Self::Each(source) => source.keeps_result(),
                Self::Pipelined(pipeline) => pipeline.keeps_result(),
            },
        )
    }

    /// Closes connections.
    pub async fn close(&self, within: Duration) {
        match self {
            Self::Each(source) => source.close(within).await,
            Self::Pipelined(pipeline) => pipeline.close(within).await,
        }
    }
}

impl fmt::Debug for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Each(_) => "Sender::Each",
            Self::Pipelined(_) => "Sender::Pipelined",
        })
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Registry ")?;
        f.debug_set().entries(self.names()).finish()
    }
}

/// A message under way in a [`Pipeline`]. It must be finished exactly once; one that is dropped counts as unreachable, or as refused if a panic dropped
/// it, so that none is forgotten.
pub struct Delivery {
    message: Message,
    receipt: Receipt,
}

impl Delivery {
    /// A delivery whose outcome goes to `finish`, which must neither block nor panic.
    pub fn new(message: Message, finish: impl FnOnce(Outcome) + Send + 'static) -> Self {
        Self { message, receipt: Receipt(Some(Box::new(finish))) }
    }

    /// The message to be sent.
    #[must_use]
    pub const fn message(&self) -> &Message {
        &self.message
    }

    /// Reports the outcome.
    pub fn finish(self, outcome: Outcome) {
        self.receipt.finish(outcome);
    }

    /// Splits it into the message and its receipt, so that the message can be dropped early if a client library has made its own copy.
    #[must_use]
    pub fn split(self) -> (Message, Receipt) {
        (self.message, self.receipt)
    }
}

impl fmt::Debug for Delivery {
    /// Shows which message it is, and nothing of its contents.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery").field("id", &self.message.id).finish_non_exhaustive()
    }
}

/// The remaining duty of a [`Delivery`]: to report its outcome.
pub struct Receipt(Option<Box<dyn FnOnce(Outcome) + Send>>);

impl Receipt {
    /// Reports the outcome.
    pub fn finish(mut self, outcome: Outcome) {
        if let Some(finish) = self.0.take() {
            finish(outcome);
        }
    }
}

impl fmt::Debug for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receipt").finish_non_exhaustive()
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        if let Some(finish) = self.0.take() {
            finish(if std::thread::panicking() {
                Outcome::refused(PANICKED, "the source panicked; this is a bug in it")
            } else {
                Outcome::unreachable(DROPPED, "the source dropped the message without reporting its outcome")
            });
        }
    }
}

/// What a source answers, or `otherwise` if it panics, which whoever asks must survive. The panic is reported as any is.
fn caught<T>(otherwise: impl FnOnce() -> T, ask: impl FnOnce() -> T) -> T {
    std::panic::catch_unwind(AssertUnwindSafe(ask)).unwrap_or_else(|_| otherwise())
}

/// What a kind of source may use to build itself. A new facility becomes a new field, so the signature of [`Config::build`] stays the same.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Context {
    /// The project whose messages are sent.
    pub project: Arc<str>,
    /// The name of the source in the YAML.
    pub name: Arc<str>,
    /// The options that every source has.
    pub options: Options,
    /// How long a claim holds without renewal. Anything that can't be stopped once it was handed to a client library must end well within it.
    pub lease: Duration,
    /// The folder of the configuration file, against which relative paths are resolved.
    pub folder: PathBuf,
}

impl Context {
    /// The context of a source without options, in the working directory; its fields can be set.
    ///
    /// ```
    /// use redrive::source::Context;
    /// let mut cx = Context::new("shop", "audit");
    /// cx.folder = "/etc/redrive".into();
    /// assert_eq!(cx.path("token".as_ref()), std::path::Path::new("/etc/redrive/token"));
    /// ```
    pub fn new(project: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self { project: project.into(), name: name.into(), options: Options::default(), lease: LEASE, folder: PathBuf::from(".") }
    }

    /// A path from the configuration, resolved against the folder of its file.
    #[must_use]
    pub fn path(&self, path: &Path) -> PathBuf {
        self.folder.join(path)
    }

    /// A secret that is given as `key`, or read from the file that `{key}_file` names.
    ///
    /// # Errors
    /// Both are given, or the file holds no secret.
    pub fn secret(&self, key: &str, value: Option<Secret>, file: Option<&Path>) -> Result<Option<Secret>, Fault> {
        let Some(file) = file else { return Ok(value) };
        if value.is_some() {
            return Err(Fault::new(format!("{key}_file"), format!("give {key} or {key}_file, not both")));
        }
        crate::secret::read(&self.path(file)).map(Some).map_err(|message| Fault::new(format!("{key}_file"), message))
    }
}

/// The configuration of a kind of source: its keys in the YAML besides `kind` and [`Options`], and the factory for the sender.
///
/// - Unknown keys should be refused (`#[serde(deny_unknown_fields)]`), or a key that is misspelt has no effect.
/// - [`JsonSchema`] puts its keys into `redrive schema`. The derive finds its crate by the name `schemars`, which redrive exports.
/// - A number or a boolean where text is expected is read as text. In an enum with a tag, an untagged one or a flattened value, serde does not say
///   which value is wrong: there text that looks like a number needs quotes, and a fault is shown at the line of the whole.
///
/// ```
/// use std::fs::OpenOptions;
/// use std::io::Write as _;
/// use std::path::{Path, PathBuf};
///
/// use redrive::async_trait;
/// use redrive::fault::Fault;
/// use redrive::message::Message;
/// use redrive::outcome::Outcome;
/// use redrive::schemars::{self, JsonSchema};
/// use redrive::source::codes::Code;
/// use redrive::source::{Config, Context, Registry, Sender, Source};
/// use serde::Deserialize;
///
/// /// `kind: journal`: appends a line for each message to a file.
/// #[derive(Deserialize, JsonSchema)]
/// #[serde(deny_unknown_fields)]
/// struct JournalConfig {
///     /// The file.
///     file: PathBuf,
///     /// What each line begins with.
///     #[serde(default)]
///     prefix: String,
/// }
///
/// impl Config for JournalConfig {
///     fn build(self, cx: &Context) -> Result<Sender, Vec<Fault>> {
///         let mut faults = Vec::new();
///         if self.file.as_os_str().is_empty() {
///             faults.push(Fault::new("file", "is empty; write the path of a file"));
///         }
///         if self.prefix.contains('\n') {
///             faults.push(Fault::new("prefix", "must be a single line"));
///         }
///         if !faults.is_empty() {
///             return Err(faults);
///         }
///         // A relative path starts at the folder of the configuration.
///         Ok(Sender::each(Journal { file: cx.path(&self.file), prefix: self.prefix }))
///     }
///
///     fn codes() -> Option<Vec<Code>> {
///         Some(vec!["journal_unwritable".into()])
///     }
/// }
///
/// struct Journal {
///     file: PathBuf,
///     prefix: String,
/// }
///
/// #[async_trait]
/// impl Source for Journal {
///     async fn send(&self, message: &Message) -> Outcome {
///         let file = OpenOptions::new().append(true).create(true).open(&self.file);
///         match file.and_then(|mut file| writeln!(file, "{}{}", self.prefix, message.id)) {
///             Ok(()) => Outcome::succeeded(),
///             Err(error) => Outcome::unreachable("journal_unwritable", error.to_string()),
///         }
///     }
/// }
///
/// let mut registry = Registry::default();
/// registry.register::<JournalConfig>("journal");
/// // A program that is to have the whole command line calls `redrive::cli::main(&registry)` now.
///
/// # use redrive::config::{Config as File, Scope};
/// let read = |source: &str| {
///     let text = format!("project: orders\nsources:\n  journal:\n    kind: journal\n    {source}\n");
///     File::parse(&text, Path::new("redrive.yaml"), &|_| None, &registry, Scope::Whole)
/// };
/// assert!(read("file: sent.txt").is_ok());
/// assert_eq!(read("file: ''").unwrap_err().to_string(), "redrive.yaml:5: sources.journal.file: is empty; write the path of a file");
/// ```
pub trait Config: DeserializeOwned + JsonSchema + Send + 'static {
    /// Checks everything and builds the sender. It must not wait for the destination: redrive starts with any destination down.
    ///
    /// It may be called several times for one source while a file is loaded, to find every fault, and by commands that send nothing, such as
    /// `redrive check`. A sender that is not used is dropped without [`Source::close`]. So connect, spawn and open when the first message is sent,
    /// not here. Redrive's commands call it within a Tokio runtime; a program that loads a configuration itself should do the same, because any kind
    /// may rely on it.
    ///
    /// # Errors
    /// Every fault, with the path of the key within the source.
    fn build(self, cx: &Context) -> Result<Sender, Vec<Fault>>;

    /// The error codes that its sends may report. Any other key in `outcomes:` would have no effect, and is a fault. `None` allows every key.
    fn codes() -> Option<Vec<Code>> {
        None
    }

    /// Whether its sources use the certificates of [`Options::tls`]. If not, `tls:` is a fault, because it would have no effect.
    fn uses_tls() -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::outcome::Class;

    #[test]
    fn what_is_shown_of_a_delivery_or_a_registry_is_harmless() {
        let message = Message::new("crm", "hunter2");
        let (id, delivery) = (message.id, Delivery::new(message, drop));
        assert_eq!(format!("{delivery:?}"), format!("Delivery {{ id: {id}, .. }}"));
        assert_eq!(format!("{:?}", delivery.split().1), "Receipt { .. }");
        assert_eq!(format!("{:?}", Registry::default()), r#"Registry {"amqp", "command", "http", "kafka", "log"}"#);
    }

    #[test]
    fn a_delivery_that_is_dropped_is_reported_unreachable_once() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let sink = seen.clone();
        let delivery = Delivery::new(Message::new("log", "x"), move |outcome| sink.lock().unwrap().push(outcome.class));
        drop(delivery);
        let sink = seen.clone();
        Delivery::new(Message::new("log", "x"), move |outcome| sink.lock().unwrap().push(outcome.class)).finish(Outcome::succeeded());
        assert_eq!(*seen.lock().unwrap(), [Class::Unreachable, Class::Succeeded]);
    }
}

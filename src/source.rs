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
mod context;
mod delivery;
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
mod sender;

use std::time::Duration;

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;

use crate::fault::Fault;
use crate::message::Message;
use crate::outcome::Outcome;

use codes::Code;
pub use context::Context;
pub(crate) use delivery::{DROPPED, PANICKED, panicked};
pub use delivery::{Delivery, Receipt};
pub use options::Options;
pub use registry::{Kind, Registry};
pub(crate) use section::Section;
pub use sender::Sender;

/// Redrive's own headers in a record or message. A consumer that forwards a message with all its headers brings those of another redrive along.
const OWN_HEADERS: [&str; 3] = ["redrive-id", "redrive-attempt", "redrive-key"];

/// Whether a header of a message would be mistaken for one of redrive's own.
fn is_own_header(name: &str) -> bool {
    OWN_HEADERS.iter().any(|own| name.eq_ignore_ascii_case(own))
}

/// Performs the send for one message at a time. Many calls run concurrently, up to the source's `in_flight`.
///
/// A call should end within the source's `timeout`, which is in [`Options::timeout`] of the [`Context`] that it was built with, and say itself what
/// it waited for. The engine only makes sure that it ends: three seconds after the `timeout`, or after 63 seconds if none is set, it drops the call
/// (an unreachable outcome, `timeout`); it also does so when the node has waited long enough at its end. A panic in it is caught (a refused one,
/// `panic`). It must not block the thread: use [`tokio::task::spawn_blocking`] for what does.
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
    /// not returned is dropped. If a panic drops a delivery that was alone in its batch, it is refused. Several are unreachable, and what is tried
    /// again is sent one by one for at least a minute, and three times `unreachable_delay`, so that the one that caused it is found.
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

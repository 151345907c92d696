//! A custom source, registered by name in a program that embeds redrive. It runs and finishes on its own:
//!
//! ```sh
//! cargo run --example custom_source
//! ```
//!
//! The destination is a mailbox in memory that is full at first: the message is refused, waits, and is sent again. A program that wants the whole
//! command line instead calls `redrive::cli::main(&registry)` and nothing else.

#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use redrive::app::App;
use redrive::async_trait;
use redrive::config::{Config, Scope};
use redrive::engine::Submission;
use redrive::fault::Fault;
use redrive::message::Message;
use redrive::outcome::Outcome;
use redrive::schemars::{self, JsonSchema};
use redrive::source::{Kind, Registry, Sender, Source};
use serde::Deserialize;
use tokio::sync::{mpsc, oneshot};

/// The YAML of `kind: mailbox`, besides the options that every source has.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct MailboxConfig {
    /// How many messages the mailbox refuses before it takes one.
    refusals: u32,
}

struct Mailbox {
    refusals: AtomicU32,
    /// Where the mailbox puts the messages it takes, for this program to look at.
    taken: mpsc::Sender<Message>,
}

impl Mailbox {
    /// Checks the YAML and builds the source. All faults are shown with their lines before anything runs.
    fn build(config: &MailboxConfig, taken: mpsc::Sender<Message>) -> Result<Sender, Vec<Fault>> {
        if config.refusals > 3 {
            return Err(vec![Fault::new("refusals", "must be at most 3, or the message fails")]);
        }
        Ok(Sender::each(Self { refusals: AtomicU32::new(config.refusals), taken }))
    }
}

#[async_trait]
impl Source for Mailbox {
    async fn send(&self, message: &Message) -> Outcome {
        // Only report what happened; whether and when the message is sent again is not up to the source.
        if self.refusals.fetch_update(Ordering::AcqRel, Ordering::Acquire, |left| left.checked_sub(1)).is_ok() {
            return Outcome::refused("mailbox_full", "the mailbox is full");
        }
        match self.taken.send(message.clone()).await {
            Ok(()) => Outcome::succeeded(),
            Err(_) => Outcome::unreachable("mailbox_gone", "nobody reads the mailbox any more"),
        }
    }

    fn check(&self, topic: Option<&str>) -> Result<(), String> {
        if topic.is_some() { Ok(()) } else { Err("a mailbox needs a topic: the recipient of the message".to_owned()) }
    }
}

const CONFIGURATION: &str = "
project: example
store: { url: sqlite://mailbox.db }
api: { listen: 127.0.0.1:0 }
poller: { interval: 100ms }
shutdown: { accept_for: 0s }
sources:
  mailbox: { kind: mailbox, refusals: 2, retry: { first_delay: 200ms, base_delay: 200ms, multiplier: 1 } }
";

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("redrive.yaml");
    std::fs::write(&file, CONFIGURATION.replace("sqlite://", &format!("sqlite://{}/", folder.path().display())))?;

    // The mailbox needs something from this program. A kind that needs nothing but its YAML implements `redrive::source::Config` instead, and is
    // registered with `registry.register::<MailboxConfig>("mailbox")`.
    let (tell, mut taken) = mpsc::channel(16);
    let mut registry = Registry::default();
    let kind = Kind::new(move |config: MailboxConfig, _cx| Mailbox::build(&config, tell.clone()));
    registry.register_kind("mailbox", kind.with_codes(vec!["mailbox_full".into(), "mailbox_gone".into()]));
    let app = App::build(Config::load(&file, &registry, Scope::Whole)?).await?;
    let handle = app.handle();
    let (stop, stopped) = oneshot::channel::<()>();
    let running = tokio::spawn(app.run(async { stopped.await.unwrap_or(()) }));

    // A program that embeds redrive can submit messages without HTTP; once this returns, the message is kept.
    tokio::time::timeout(Duration::from_secs(10), handle.store_is_ready()).await?;
    let mut submission = Submission::new("mailbox", "hello");
    submission.topic = Some("ada".to_owned());
    println!("submitted: {:?}", handle.submit(submission).await?);

    let message = tokio::time::timeout(Duration::from_secs(20), taken.recv()).await?.ok_or("the mailbox is gone")?;
    println!("received: {} for {:?}, on attempt {}", message.id, message.topic, message.attempt);

    drop(stop);
    running.await??;
    if message.attempt == 3 { Ok(()) } else { Err("expected two refusals and then a success".into()) }
}

//! `redrive send`

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde_json::json;

use super::filter::time;
use super::{ConfigFile, Failure, Terminal, output};
use crate::config::{Config, Scope};
use crate::engine::Submission;
use crate::message::{Headers, Key};
use crate::retry::{self, Policy};
use crate::source::Options;
use crate::store::config::Migrate;
use crate::store::{Due, Insert, Lease, Verdict};
use crate::units::{Limit, Size, Span};

/// Submit a message
///
/// It is committed to the resend log as pending; a running node, or `redrive run`, sends it. The payload is --payload, --file,
/// or else what comes on stdin, byte by byte. Prints the message's id.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:
  redrive send orders-events --topic orders --key o-17 --payload '{\"id\": 17}'
  redrive send billing --header tenant=a --delay 10m < invoice.json
  redrive send orders-events --key o-17 --tombstone")]
pub(super) struct Command {
    #[command(flatten)]
    file: ConfigFile,
    /// The source that sends it, by its name in the configuration
    source: String,
    /// The topic, routing key or path, where the message names its own
    #[arg(long)]
    topic: Option<String>,
    /// The record key
    #[arg(long, conflicts_with = "key_base64")]
    key: Option<String>,
    /// The record key, in base64
    #[arg(long, value_name = "BASE64")]
    key_base64: Option<String>,
    /// The payload
    #[arg(long, value_name = "TEXT", conflicts_with_all = ["payload_file", "tombstone"])]
    payload: Option<String>,
    /// A file that holds the payload
    #[arg(long = "file", value_name = "FILE", id = "payload_file", conflicts_with = "tombstone")]
    payload_file: Option<PathBuf>,
    /// No payload at all: a Kafka tombstone, an empty body elsewhere
    #[arg(long)]
    tombstone: bool,
    /// A header; may be given again
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = pair)]
    headers: Vec<(String, String)>,
    /// 0 to 9, larger first
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=9))]
    priority: u8,
    /// Not before so long from now
    #[arg(long, value_name = "TIME", conflicts_with = "due_at")]
    delay: Option<Span>,
    /// Not before this time (RFC 3339)
    #[arg(long, value_name = "TIME", value_parser = time)]
    due_at: Option<DateTime<Utc>>,
    /// Fails at this age, or never
    #[arg(long, value_name = "TIME")]
    expires_after: Option<Limit>,
    /// Fails after so many retries
    #[arg(long, value_name = "N")]
    max_retries: Option<u32>,
    /// The same key with the same content is taken once
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    /// Print one JSON object: {"id", "state"}
    #[arg(long)]
    json: bool,
}

fn pair(text: &str) -> Result<(String, String), String> {
    text.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned())).ok_or_else(|| "write NAME=VALUE".to_owned())
}

impl Command {
    pub(super) async fn run(self, terminal: Terminal<'_>) -> Result<(), Failure> {
        // What the source has to say against a topic it says itself.
        let opened = self.file.open_with(terminal.registry, Migrate::Verify, Scope::Source(&self.source)).await?;
        let config = &opened.config;
        let Some(options) = config.options.get(&self.source) else {
            let known: Vec<&str> = config.options.keys().map(String::as_str).collect();
            return Err(Failure::Usage(format!("there is no source `{}` in this project; there are {}", self.source, known.join(", "))));
        };
        let as_json = self.json;
        let submission = self.submission(options)?;
        submission.check().map_err(|invalid| Failure::Usage(format!("{}: {}", invalid.field, invalid.detail)))?;
        if let Some(source) = config.sources.first() {
            source.sender.check(submission.topic.as_deref()).map_err(|detail| Failure::Usage(format!("topic: {detail}")))?;
        }
        let insert = insert(submission, config, options);
        let id = insert.messages.first().map(|message| message.id).unwrap_or_default();
        let inserted = opened.store.insert(insert).await?;
        opened.store.close().await;
        let (id, duplicate) = match inserted.verdicts.first() {
            Some(Verdict::New) => (id, false),
            Some(Verdict::Duplicate(first)) => (*first, true),
            Some(Verdict::Conflict(first)) => {
                return Err(Failure::Failed(format!("the idempotency key was used for message {first} with other content")));
            }
            None => return Err(Failure::Failed("the store gave no verdict".to_owned())),
        };
        if as_json {
            let answer = if duplicate { json!({ "id": id, "duplicate": true }) } else { json!({ "id": id, "state": "pending" }) };
            return output::json(terminal.out, &answer);
        }
        Ok(writeln!(terminal.out, "{id}")?)
    }

    fn submission(self, options: &Options) -> Result<Submission, Failure> {
        let payload = match (self.tombstone, self.payload, self.payload_file) {
            (true, ..) => None,
            (false, Some(text), _) => Some(fitting(text.into_bytes(), options.max_payload)?),
            (false, None, file) => Some(read(file.as_deref(), options.max_payload)?),
        };
        let key = match (self.key, self.key_base64) {
            (Some(text), _) => Some(Key::Text(text)),
            (None, Some(text)) => {
                let bytes = STANDARD.decode(text).map_err(|error| Failure::Usage(format!("--key-base64: {error}")))?;
                Some(Key::Binary(bytes.into()))
            }
            (None, None) => None,
        };
        Ok(Submission {
            source: self.source,
            topic: self.topic,
            key,
            payload,
            headers: Headers::new(self.headers),
            priority: self.priority,
            due: self.delay.map(|delay| Due::After(delay.get())).or(self.due_at.map(Due::At)),
            expires_after: self.expires_after,
            retry: retry::Config { max_retries: self.max_retries, ..retry::Config::default() },
            idempotency_key: self.idempotency_key,
            mode: None,
        })
    }
}

/// The payload that a file holds, or else what comes on stdin.
pub(super) fn read(file: Option<&Path>, most: Size) -> Result<Bytes, Failure> {
    let name = file.map_or_else(|| "stdin".to_owned(), |path| path.display().to_string());
    let bytes = match file {
        Some(path) => std::fs::File::open(path).and_then(|file| take(file, most)),
        None => take(std::io::stdin().lock(), most),
    };
    fitting(bytes.map_err(|error| Failure::Failed(format!("{name}: {error}")))?, most)
}

/// At most one byte more than may be taken, which is enough to know that it is too much.
fn take(from: impl Read, most: Size) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take((most.bytes() as u64).saturating_add(1)).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The payload, unless it is larger than its source takes.
fn fitting(payload: Vec<u8>, most: Size) -> Result<Bytes, Failure> {
    if payload.len() > most.bytes() {
        return Err(Failure::Usage(format!("the payload is larger than the source takes (max_payload: {most})")));
    }
    Ok(payload.into())
}

/// The message for the store, pending: nobody here is going to send it.
fn insert(submission: Submission, config: &Config, options: &Options) -> Insert {
    let policy = Policy::of(&options.retry);
    let source = submission.source.as_str().into();
    Insert {
        project: config.project.clone(),
        messages: Arc::new(vec![submission.into_message(source, &policy)]),
        // Not used, since the message is not leased; a token is never 0 all the same.
        lease: Lease { token: i64::MAX, node: config.node.clone(), ttl: Duration::from_secs(2) },
        keep_keys: config.engine.idempotency.keep.get(),
    }
}

//! Parameters and results of the verbs that people use: count, show, list, put back, purge.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::Serialize;
use uuid::Uuid;

use crate::message::{AttemptOutcome, Key, State};
use crate::retry;

/// The largest payload that is shown, in bytes. Of a larger one only the size is reported.
pub const MAX_SHOWN_PAYLOAD: u32 = 64 << 20;
/// A page with payloads ends once they reach this size, in bytes.
pub const MAX_PAGE_BYTES: usize = 16 << 20;

/// The id of a row, as it is stored. Its text form is what `after` takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Id {
    /// Written the way redrive writes ids.
    Known(Uuid),
    /// Any other text, chosen by an application.
    Text(String),
    /// Any other id, in binary.
    Bytes(Vec<u8>),
    /// Text that is not valid UTF-8, which SQLite accepts.
    Raw(Vec<u8>),
}

impl Id {
    /// The id with this text.
    pub(super) fn of(text: String) -> Self {
        match Uuid::try_parse(&text) {
            Ok(id) if id.as_hyphenated().encode_lower(&mut Uuid::encode_buffer()) == text.as_str() => Self::Known(id),
            _ => Self::Text(text),
        }
    }
}

/// Prefixes of ids that are not UUIDs; base64 follows.
const TEXT: &str = "text:";
const BYTES: &str = "bytes:";
const NO_ID: &str = "is neither a message id nor what a page gave as `next`";

fn is_uuid(text: &str) -> bool {
    text.len() == uuid::fmt::Hyphenated::LENGTH && Uuid::try_parse(text).is_ok()
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Known(id) => id.fmt(f),
            Self::Text(text) if is_uuid(text) => f.write_str(text),
            Self::Text(text) => write!(f, "{TEXT}{}", URL_SAFE_NO_PAD.encode(text)),
            Self::Raw(bytes) => write!(f, "{TEXT}{}", URL_SAFE_NO_PAD.encode(bytes)),
            Self::Bytes(bytes) => write!(f, "{BYTES}{}", URL_SAFE_NO_PAD.encode(bytes)),
        }
    }
}

impl FromStr for Id {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(coded) = text.strip_prefix(BYTES) {
            return URL_SAFE_NO_PAD.decode(coded).map(Self::Bytes).map_err(|_| NO_ID);
        }
        if let Some(coded) = text.strip_prefix(TEXT) {
            let bytes = URL_SAFE_NO_PAD.decode(coded).map_err(|_| NO_ID)?;
            return Ok(String::from_utf8(bytes).map_or_else(|error| Self::Raw(error.into_bytes()), Self::of));
        }
        if is_uuid(text) { Ok(Self::of(text.to_owned())) } else { Err(NO_ID) }
    }
}

/// How many messages of a source are waiting.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// The source; empty for rows without one, and for all sources that are not listed by name.
    pub source: String,
    /// How many are pending, sending, retrying and blocked; states without messages are left out.
    pub states: BTreeMap<State, u64>,
    /// How long the message that has been due longest is overdue; zero if none is due.
    pub overdue: Duration,
}

/// Asks for the sample: a count that all nodes of a project share.
#[derive(Clone, Debug)]
pub struct Sample {
    /// The project.
    pub project: Arc<str>,
    /// The sources that the asking node knows.
    pub sources: Vec<Arc<str>>,
    /// How long a count stays valid.
    pub every: Duration,
    /// A count stays valid for at least this many times as long as it took: counting a long table is slow.
    pub share: u32,
}

/// A message as it is shown. Its `Debug` shows no contents.
#[derive(Clone)]
#[non_exhaustive]
pub struct Record {
    /// As in [`crate::message::Message`].
    pub id: Uuid,
    /// As in [`crate::message::Message`].
    pub project: String,
    /// As in [`crate::message::Message`]; empty if the row has none.
    pub source: String,
    /// As in [`crate::message::Message`].
    pub topic: Option<String>,
    /// As in [`crate::message::Message`].
    pub key: Option<Key>,
    /// The payload, if it was asked for and is no larger than [`MAX_SHOWN_PAYLOAD`].
    pub payload: Option<Bytes>,
    /// The size of the payload; `None` is a tombstone.
    pub payload_bytes: Option<u64>,
    /// Its headers as the JSON text that the row holds, valid or not.
    pub headers: Option<String>,
    /// Its state.
    pub state: State,
    /// 0 to 9.
    pub priority: u8,
    /// As in [`crate::message::Message`].
    pub epoch: u32,
    /// Attempts of this epoch.
    pub attempts: u32,
    /// Refused attempts of this epoch.
    pub retries: u32,
    /// What it overrides in its source's retry policy.
    pub retry: retry::Overrides,
    /// When it is or was due; `None` if the row does not hold a valid time.
    pub due_at: Option<DateTime<Utc>>,
    /// When it was created.
    pub created_at: DateTime<Utc>,
    /// When it last changed.
    pub updated_at: DateTime<Utc>,
    /// When it reached a final state.
    pub finished_at: Option<DateTime<Utc>>,
    /// When it expires.
    pub expires_at: Option<DateTime<Utc>>,
    /// The idempotency key that it was submitted with.
    pub idempotency_key: Option<String>,
    /// Why its last attempt failed.
    pub last_error: Option<LastError>,
    /// What the destination answered to its last attempt.
    pub result: Option<String>,
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, source, topic, state, epoch, attempts, last_error, .. } = self;
        f.debug_struct("Record")
            .field("id", id)
            .field("source", source)
            .field("topic", topic)
            .field("state", state)
            .field("epoch", epoch)
            .field("attempts", attempts)
            .field("last_error", last_error)
            .finish_non_exhaustive()
    }
}

/// Asks for messages. A filter that is `None` is not applied.
#[derive(Clone, Debug, Default)]
pub struct List {
    /// The project.
    pub project: String,
    /// Only this state.
    pub state: Option<State>,
    /// Only this source.
    pub source: Option<String>,
    /// Only this topic.
    pub topic: Option<String>,
    /// Only this (text) key.
    pub key: Option<String>,
    /// Only the message of this idempotency key.
    pub idempotency_key: Option<String>,
    /// Only those whose last error has this code.
    pub error_code: Option<String>,
    /// Created at this time or later.
    pub since: Option<DateTime<Utc>>,
    /// Created before this time.
    pub until: Option<DateTime<Utc>>,
    /// Finished at this time or later; unfinished messages are left out.
    pub finished_since: Option<DateTime<Utc>>,
    /// Finished before this time; unfinished messages are left out.
    pub finished_until: Option<DateTime<Utc>>,
    /// At most this many messages.
    pub limit: u32,
    /// Only those that follow this id.
    pub after: Option<Id>,
    /// With payloads; the page may then end before it is full.
    pub payload: bool,
}

/// A page of messages.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// The messages.
    pub items: Vec<Record>,
    /// Where the next page starts; `None` at the end. It may be the id of a row that can't itself be shown.
    pub next: Option<Id>,
}

/// An entry of the attempt log.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Attempt {
    /// The epoch.
    pub epoch: u32,
    /// The number of the attempt, or of the first one if the entry stands for several.
    pub number: u32,
    /// How many attempts the entry stands for.
    pub count: u32,
    /// The node.
    pub node: String,
    /// When the attempt, or the first of several, began.
    pub started_at: DateTime<Utc>,
    /// When the last one began, if the entry stands for several.
    pub last_at: Option<DateTime<Utc>>,
    /// How long the last one took.
    pub duration: Duration,
    /// The outcome.
    pub outcome: AttemptOutcome,
    /// What went wrong.
    pub error: Option<LastError>,
    /// What the destination answered.
    pub result: Option<String>,
}

/// Why an attempt failed, as the row says it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LastError {
    /// Redrive writes one of [`ErrorClass`](crate::message::ErrorClass).
    pub class: String,
    /// A stable code.
    pub code: String,
    /// The details, in words.
    pub detail: String,
}

/// The result of a change that a person asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Changed {
    /// Done; the message is now in this state.
    Done(State),
    /// There is no such message.
    NotFound,
    /// Its state, given here, does not allow it.
    Wrong(State),
}

/// What is to be deleted.
#[derive(Clone, Debug)]
pub struct Purge {
    /// The project.
    pub project: Arc<str>,
    /// For each finished state, the age past which its rows are deleted; `None` for never.
    pub keep: Vec<(State, Option<Duration>)>,
    /// At most this many finished rows stay: delivered ones are deleted first, then cancelled, then failed ones, the oldest of each first.
    pub max_rows: u64,
    /// [`Purged::surplus`] of the previous call, which saves counting the rows again for each batch.
    pub surplus: Option<Surplus>,
    /// At most this many rows per state are deleted by one call.
    pub batch: u32,
}

/// Surplus rows of a state: all that finished before a certain time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Surplus {
    /// Their state.
    pub state: State,
    /// The time.
    pub until: DateTime<Utc>,
}

/// What was deleted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Purged {
    /// Deleted rows by state; states without any are left out.
    pub rows: BTreeMap<State, u64>,
    /// Expired idempotency keys.
    pub keys: u64,
    /// Rows above the limit. Pass this to the next call, which deletes them first, without counting.
    pub surplus: Option<Surplus>,
    /// Whether there may be more.
    pub more: bool,
}

/// Asks for leftovers: data whose message or source is gone.
#[derive(Clone, Debug)]
pub struct Sweep {
    /// The project.
    pub project: Arc<str>,
    /// The attempt log is looked through behind this message: [`Swept::after`] of the previous call, or nil.
    pub after: Uuid,
    /// At most this many of its entries, and of rows of `redrive_turn`, are looked at.
    pub limit: u32,
}

/// What was deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Entries of the attempt log whose message is gone.
    pub attempts: u64,
    /// Rows of `redrive_turn` for sources that no node knows.
    pub turns: u64,
    /// Where to continue; `None` once the whole log has been looked through.
    pub after: Option<Uuid>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_as_it_is_written_whatever_it_is() {
        let known = Uuid::now_v7();
        let upper = known.to_string().to_uppercase();
        assert_eq!((Id::Known(known).to_string(), Id::of(upper.clone()).to_string()), (known.to_string(), upper.clone()));
        for id in [
            Id::Known(known),
            Id::Text(upper),
            Id::Text("order-17".to_owned()),
            Id::Text("text:".to_owned()),
            Id::Text(String::new()),
            Id::Text(known.simple().to_string()),
            Id::Bytes(known.as_bytes().to_vec()),
            Id::Raw(vec![0xff, 0]),
        ] {
            assert_eq!(id.to_string().parse(), Ok(id));
        }
        for text in ["", "7", "order-17", "text:?", "bytes:=", &known.simple().to_string()] {
            assert!(text.parse::<Id>().is_err(), "{text}");
        }
    }
}

//! What the verbs of people take and answer: counted, shown, listed, put back, purged.

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

/// The largest payload that is shown, in bytes. Of one that is larger only its size is told.
pub const MAX_SHOWN_PAYLOAD: u32 = 64 << 20;
/// A page with payloads ends once they weigh so much.
pub const MAX_PAGE_BYTES: usize = 16 << 20;

/// The id of a row, as it stands in the table. As text it is what `after` takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Id {
    /// Written as redrive writes it.
    Known(Uuid),
    /// Something else that an application chose.
    Text(String),
    /// The same, in binary.
    Bytes(Vec<u8>),
    /// Text that is not UTF-8, which SQLite takes.
    Raw(Vec<u8>),
}

impl Id {
    /// The id that is spelt so.
    pub(super) fn of(text: String) -> Self {
        match Uuid::try_parse(&text) {
            Ok(id) if id.as_hyphenated().encode_lower(&mut Uuid::encode_buffer()) == text.as_str() => Self::Known(id),
            _ => Self::Text(text),
        }
    }
}

/// What begins the text of ids that are no UUIDs; base64 follows.
const TEXT: &str = "text:";
const BYTES: &str = "bytes:";
/// What is said of a text that is no id.
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

/// How many messages of a source wait.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// The source; empty for rows that name none, and for all that are not told apart.
    pub source: String,
    /// How many are pending, sending, retrying and blocked; where there are none, there is no number.
    pub states: BTreeMap<State, u64>,
    /// How long the longest due of them is overdue; zero if none is due.
    pub overdue: Duration,
}

/// A count that all nodes of a project share.
#[derive(Clone, Debug)]
pub struct Sample {
    /// The project.
    pub project: Arc<str>,
    /// The sources that the node knows.
    pub sources: Vec<Arc<str>>,
    /// How long a count is good.
    pub every: Duration,
    /// It is good at least this many times as long as it took: counting a long table takes a while.
    pub share: u32,
}

/// A message as it is shown.
#[derive(Clone, Debug)]
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
    /// How large the payload is; `None` is a tombstone.
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
    /// What it overrides of its source's policy.
    pub retry: retry::Overrides,
    /// When it is or was due; `None` where the row holds no time.
    pub due_at: Option<DateTime<Utc>>,
    /// When it was created.
    pub created_at: DateTime<Utc>,
    /// When it last changed.
    pub updated_at: DateTime<Utc>,
    /// When it was over.
    pub finished_at: Option<DateTime<Utc>>,
    /// When it is too old.
    pub expires_at: Option<DateTime<Utc>>,
    /// The idempotency key with which it came.
    pub idempotency_key: Option<String>,
    /// Why its last attempt failed.
    pub last_error: Option<LastError>,
    /// What the destination answered to its last attempt.
    pub result: Option<String>,
}

/// Asks for messages. What is `None` does not narrow.
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
    /// Finished at this time or later; what is not over is left out.
    pub finished_since: Option<DateTime<Utc>>,
    /// Finished before this time; what is not over is left out.
    pub finished_until: Option<DateTime<Utc>>,
    /// At most so many.
    pub limit: u32,
    /// Those that follow this id.
    pub after: Option<Id>,
    /// With payloads; the page may then end before it is full.
    pub payload: bool,
}

/// A page of messages.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// The messages.
    pub items: Vec<Record>,
    /// Where the next page starts; `None` at the end. It is the id of a row that may be none of those that can be shown.
    pub next: Option<Id>,
}

/// An entry of the attempt log.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// The epoch.
    pub epoch: u32,
    /// The number, or that of the first of the attempts that it stands for.
    pub number: u32,
    /// How many attempts it stands for.
    pub count: u32,
    /// The node.
    pub node: String,
    /// When it (the first) began.
    pub started_at: DateTime<Utc>,
    /// When the last of them began, where it stands for several.
    pub last_at: Option<DateTime<Utc>>,
    /// How long the last of them took.
    pub duration: Duration,
    /// What it came to.
    pub outcome: AttemptOutcome,
    /// What went wrong.
    pub error: Option<LastError>,
    /// What the destination answered.
    pub result: Option<String>,
}

/// Why an attempt failed, as the table says it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LastError {
    /// What redrive writes is one of [`ErrorClass`](crate::message::ErrorClass).
    pub class: String,
    /// A stable code.
    pub code: String,
    /// For people.
    pub detail: String,
}

/// What became of a person's wish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Changed {
    /// Done; the message is now in this state.
    Done(State),
    /// There is no such message.
    NotFound,
    /// Its state does not allow it.
    Wrong(State),
}

/// What is to be deleted.
#[derive(Clone, Debug)]
pub struct Purge {
    /// The project.
    pub project: Arc<str>,
    /// For each finished state, the age past which its rows go; `None` for never.
    pub keep: Vec<(State, Option<Duration>)>,
    /// At most so many finished rows stay: delivered ones go first, then cancelled, then failed ones, of each the oldest.
    pub max_rows: u64,
    /// What the last call answered as [`Purged::surplus`], so that they are not counted for each batch.
    pub surplus: Option<Surplus>,
    /// At most so many rows a state are deleted by one call.
    pub batch: u32,
}

/// Rows of a state that are too many: those that finished before a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Surplus {
    /// Their state.
    pub state: State,
    /// The moment.
    pub until: DateTime<Utc>,
}

/// What was deleted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Purged {
    /// Rows by state; where there are none, there is no number.
    pub rows: BTreeMap<State, u64>,
    /// Idempotency keys past their time.
    pub keys: u64,
    /// These are too many; they are deleted first, uncounted, if the next call is told so.
    pub surplus: Option<Surplus>,
    /// Whether there may be more.
    pub more: bool,
}

/// Asks for what nothing belongs to any more.
#[derive(Clone, Debug)]
pub struct Sweep {
    /// The project.
    pub project: Arc<str>,
    /// The attempt log is looked at behind this message: what the last call answered as [`Swept::after`], or none.
    pub after: Uuid,
    /// At most so many of its entries are looked at, and at most so many turns of claims.
    pub limit: u32,
}

/// What was taken away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Entries of the attempt log whose message is gone.
    pub attempts: u64,
    /// Turns of claims of sources that no node knows.
    pub turns: u64,
    /// Where the next look begins; `None` once the log has been looked through.
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

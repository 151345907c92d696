//! A message, its states, and what every part of redrive has to agree on about it.

#[doc(hidden)]
pub mod judge;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

/// The state of a message. `docs/state-machine.md` has the chart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum State {
    /// Due now or later; not tried in this epoch, or handed back.
    Pending,
    /// Leased by a node.
    Sending,
    /// Waits for its next due time after a failed attempt.
    Retrying,
    /// Waits for a dependency or for the head of its order key; not used yet.
    Blocked,
    /// The destination has it.
    Succeeded,
    /// Refused for good, retries used up, or expired.
    Failed,
    /// Given up by a person.
    Cancelled,
}

impl State {
    /// All states, waiting ones first.
    pub const ALL: &'static [Self] = &[Self::Pending, Self::Sending, Self::Retrying, Self::Blocked, Self::Succeeded, Self::Failed, Self::Cancelled];
    /// The states in which a message waits or is being sent.
    pub const WAITING: &'static [Self] = &[Self::Pending, Self::Sending, Self::Retrying, Self::Blocked];
    /// The final states, which a message leaves only if a person puts it back.
    pub const FINISHED: &'static [Self] = &[Self::Succeeded, Self::Failed, Self::Cancelled];

    /// The name in the table, in the API and in metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Sending => "sending",
            Self::Retrying => "retrying",
            Self::Blocked => "blocked",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether the state is final.
    #[must_use]
    pub const fn is_finished(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for State {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.iter().copied().find(|state| state.as_str() == text).ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|state| state.as_str()).collect();
            let names = names.join(", ");
            format!("unknown state `{text}`; known states: {names}")
        })
    }
}

/// What moves a message from one state to another.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// A node takes it under a lease, by a claim or by a leased insert.
    Claimed,
    /// The attempt succeeded.
    Succeeded,
    /// The attempt failed and there will be another.
    Failed,
    /// The attempt failed for good, or used up the retries or the age limit.
    GaveUp,
    /// The node handed it back before anything was sent.
    HandedBack,
    /// A person wants it sent (again).
    Retried,
    /// A person gave it up.
    Cancelled,
}

/// Every transition there is; the store's compare-and-set refuses any other.
#[doc(hidden)]
pub const TRANSITIONS: &[(State, Event, State)] = &[
    (State::Pending, Event::Claimed, State::Sending),
    (State::Retrying, Event::Claimed, State::Sending),
    (State::Sending, Event::Succeeded, State::Succeeded),
    (State::Sending, Event::Failed, State::Retrying),
    (State::Sending, Event::GaveUp, State::Failed),
    (State::Sending, Event::HandedBack, State::Pending),
    (State::Pending, Event::Retried, State::Pending),
    (State::Retrying, Event::Retried, State::Retrying),
    (State::Failed, Event::Retried, State::Pending),
    (State::Cancelled, Event::Retried, State::Pending),
    (State::Pending, Event::Cancelled, State::Cancelled),
    (State::Retrying, Event::Cancelled, State::Cancelled),
    (State::Blocked, Event::Cancelled, State::Cancelled),
];

/// The key of a message: usually text, or bytes if the application's keys are binary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key {
    /// Kept in `msg_key`.
    Text(String),
    /// Kept in `msg_key_bytes`.
    Binary(Bytes),
}

impl Key {
    /// The bytes that go to the destination.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Text(text) => text.as_bytes(),
            Self::Binary(bytes) => bytes,
        }
    }

    /// The key, if it is text.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Binary(bytes) => std::str::from_utf8(bytes).ok(),
        }
    }
}

/// The headers of a message, in their original order; names may differ in case alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers(Vec<(String, String)>);

impl Headers {
    /// Headers from pairs of a name and a value.
    #[must_use]
    pub const fn new(pairs: Vec<(String, String)>) -> Self {
        Self(pairs)
    }

    /// The pairs.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The value of a header, whatever the case of its name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter().find(|(have, _)| have.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The JSON object as stored in the table; `None` if there are no headers.
    #[must_use]
    pub fn to_json(&self) -> Option<String> {
        if self.0.is_empty() { None } else { Some(serde_json::to_string(self).unwrap_or_default()) }
    }

    /// Reads the JSON object that is stored in the table. Numbers and booleans are taken as text.
    ///
    /// # Errors
    /// What is wrong with it, in words: not JSON, not an object, a value that is neither a string nor a number nor a boolean.
    pub fn from_json(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        serde_json::from_str(text).map_err(|error| format!("headers are not a JSON object of strings: {error}"))
    }
}

impl Serialize for Headers {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

/// The value of a header. A number or a boolean is taken as written: parsing a number could lose digits.
struct Text(String);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let json = Box::<RawValue>::deserialize(deserializer)?;
        let json = json.get();
        match json.as_bytes().first() {
            Some(b'"') => serde_json::from_str(json).map(Self).map_err(serde::de::Error::custom),
            Some(b'-' | b'0'..=b'9' | b't' | b'f') => Ok(Self(json.to_owned())),
            _ => Err(serde::de::Error::custom("is not a string")),
        }
    }
}

impl<'de> Deserialize<'de> for Headers {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pairs;
        impl<'de> serde::de::Visitor<'de> for Pairs {
            type Value = Headers;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of strings")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Headers, A::Error> {
                let mut pairs = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    let Ok(Text(text)) = map.next_value() else {
                        return Err(serde::de::Error::custom(format!("the value of `{name}` is not a string")));
                    };
                    pairs.push((name, text));
                }
                Ok(Headers(pairs))
            }
        }
        deserializer.deserialize_map(Pairs)
    }
}

/// The combined size of payload, key and headers, in bytes.
pub(crate) fn weight(payload: Option<&Bytes>, key: Option<&Key>, headers: &Headers) -> usize {
    let headers: usize = headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    payload.map_or(0, Bytes::len) + key.map_or(0, |key| key.as_bytes().len()) + headers
}

/// One message as it is given to a source: what to send, and which attempt this is. Its `Debug` shows no contents.
#[derive(Clone)]
#[non_exhaustive]
pub struct Message {
    /// A UUIDv7 unless the application chose another id; everywhere in lower-case hyphenated form.
    pub id: Uuid,
    /// The project that it belongs to.
    pub project: Arc<str>,
    /// The name of the source that sends it.
    pub source: Arc<str>,
    /// The topic, routing key or path, if the message names one.
    pub topic: Option<String>,
    /// The record key.
    pub key: Option<Key>,
    /// The payload, unchanged; `None` is a Kafka tombstone, and an empty body elsewhere.
    pub payload: Option<Bytes>,
    /// The headers, unchanged.
    pub headers: Headers,
    /// Starts at 1; raised each time a person puts a finished message back.
    pub epoch: u32,
    /// The number of this attempt within the epoch, from 1.
    pub attempt: u32,
    /// When this attempt began, on the database's clock; `None` before it does.
    pub began_at: Option<DateTime<Utc>>,
}

impl Message {
    /// A message as the tests of a source need one: with a new id, in the project `test`, at its first attempt. Its other fields can be set.
    ///
    /// ```
    /// use redrive::message::{Key, Message};
    /// let mut message = Message::new("printer", "hello");
    /// message.key = Some(Key::Text("o-17".to_owned()));
    /// assert_eq!((message.attempt, message.payload.as_deref()), (1, Some(&b"hello"[..])));
    /// ```
    pub fn new(source: impl Into<Arc<str>>, payload: impl Into<Bytes>) -> Self {
        Self {
            id: Uuid::now_v7(),
            project: "test".into(),
            source: source.into(),
            topic: None,
            key: None,
            payload: Some(payload.into()),
            headers: Headers::default(),
            epoch: 1,
            attempt: 1,
            began_at: None,
        }
    }

    /// The approximate size of the message in memory, in bytes.
    #[must_use]
    pub fn weight(&self) -> usize {
        const OVERHEAD: usize = 256;
        OVERHEAD + weight(self.payload.as_ref(), self.key.as_ref(), &self.headers)
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, source, topic, attempt, payload, .. } = self;
        let payload_bytes = payload.as_ref().map(Bytes::len);
        f.debug_struct("Message")
            .field("id", id)
            .field("source", source)
            .field("topic", topic)
            .field("attempt", attempt)
            .field("payload_bytes", &payload_bytes)
            .finish_non_exhaustive()
    }
}

/// The progress of a message within its epoch, at the moment an attempt begins: what the verdict on the attempt depends on.
#[doc(hidden)]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Refused attempts of this epoch so far.
    pub retries: u32,
    /// When it becomes too old to be sent, on the database's clock.
    pub expires_at: Option<DateTime<Utc>>,
    /// The number of entries in the attempt log for this epoch.
    pub logged: u32,
    /// The last of these entries.
    pub last_entry: Option<Entry>,
}

/// The last entry of the attempt log, which absorbs further attempts of the same kind.
#[doc(hidden)]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its number, which is that of the first attempt it stands for.
    pub number: u32,
    /// Its outcome.
    pub outcome: AttemptOutcome,
}

/// The outcome of an attempt as the attempt log records it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum AttemptOutcome {
    /// The destination took it.
    Succeeded,
    /// Refused for good.
    Permanent,
    /// Refused this time.
    Refused,
    /// The destination could not be reached, or its answer was lost.
    Unreachable,
    /// The lease ran out and no outcome was reported: the node died, or lost the database.
    Lost,
}

impl AttemptOutcome {
    /// The name in the table and in the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Permanent => "permanent",
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::Lost => "lost",
        }
    }

    /// What that says went wrong; `None` if nothing did.
    #[must_use]
    pub const fn error(self) -> Option<ErrorClass> {
        match self {
            Self::Succeeded => None,
            Self::Permanent => Some(ErrorClass::Permanent),
            Self::Refused => Some(ErrorClass::Refused),
            Self::Unreachable => Some(ErrorClass::Unreachable),
            Self::Lost => Some(ErrorClass::Lost),
        }
    }
}

impl FromStr for AttemptOutcome {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        [Self::Succeeded, Self::Permanent, Self::Refused, Self::Unreachable, Self::Lost]
            .into_iter()
            .find(|outcome| outcome.as_str() == text)
            .ok_or(())
    }
}

/// What kind of error a message keeps as its last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorClass {
    /// Refused for good.
    Permanent,
    /// Refused this time.
    Refused,
    /// The destination could not be asked.
    Unreachable,
    /// The node that held it died, or lost the database.
    Lost,
    /// Too old, or would be before its next try.
    Expired,
    /// The row can't be sent.
    Invalid,
}

impl ErrorClass {
    /// The name in the table, the API and the log.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Permanent => "permanent",
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::Lost => "lost",
            Self::Expired => "expired",
            Self::Invalid => "invalid",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_keep_order_and_repeat_what_they_read() {
        let text = r#"{"b":"1","a":"2","n":3,"t":true,"big":12345678901234567890,"exact":1.10,"e":-1E400,"\u0041":"\u00e4\n"}"#;
        let headers = Headers::from_json(text).unwrap();
        let read = r#"{"b":"1","a":"2","n":"3","t":"true","big":"12345678901234567890","exact":"1.10","e":"-1E400","A":"ä\n"}"#;
        assert_eq!(headers.to_json().unwrap(), read);
        assert_eq!(headers.get("A"), Some("2"));
    }

    #[test]
    fn headers_that_are_no_object_of_strings_are_named() {
        for text in ["[]", "{", "7", r#"{"a":{}}"#, r#"{"a":null}"#, "\u{0}"] {
            assert!(Headers::from_json(text).is_err(), "{text}");
        }
        assert!(Headers::from_json(r#"{"a":[1]}"#).unwrap_err().contains("`a`"));
    }

    #[test]
    fn every_state_can_be_left_or_is_reserved_and_no_transition_stands_twice() {
        for &state in State::ALL {
            assert_eq!(state.as_str().parse::<State>().unwrap(), state);
            assert!(state == State::Succeeded || TRANSITIONS.iter().any(|(from, _, _)| *from == state), "{state} is a dead end");
        }
        for (index, (from, event, _)) in TRANSITIONS.iter().enumerate() {
            assert!(!TRANSITIONS[..index].iter().any(|(other, what, _)| other == from && what == event), "{from} {event:?}");
        }
    }
}

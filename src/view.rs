//! How a message and its attempts look from outside: the JSON of the API and of `--json`, whose names are a contract.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Serialize, Serializer};
use serde_json::value::{RawValue, to_raw_value};
use uuid::Uuid;

use crate::message::{AttemptOutcome, Key, State};
use crate::store::{Attempt, Changed, LastError, Page, Record};
use crate::units::millis;

/// A message as it is shown. Fields may be added, but not renamed.
#[derive(Clone, Debug, Serialize)]
pub struct MessageView {
    /// Its id.
    pub id: Uuid,
    /// Its project.
    pub project: String,
    /// Its source; empty if the row has none.
    pub source: String,
    /// The topic, if the message names one.
    pub topic: Option<String>,
    /// The record key, if it is text.
    pub key: Option<String>,
    /// The record key, if it is binary.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_base64: Option<String>,
    /// The size of the payload; `null` is a tombstone.
    pub payload_bytes: Option<u64>,
    /// The payload, only if it was asked for and is not too large to be shown; `null` is then a tombstone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload_base64: Option<Option<String>>,
    /// The headers as the exact JSON object in the row; anything but a JSON object is given as a string.
    pub headers: Box<RawValue>,
    /// Its state.
    pub state: State,
    /// 0 to 9, larger first.
    pub priority: u8,
    /// Raised each time a person puts a finished message back.
    pub epoch: u32,
    /// Attempts of this epoch.
    pub attempts: u32,
    /// Refused attempts of this epoch.
    pub retries: u32,
    /// The message fails after this many retries; `null` if neither it nor a configured source says so.
    pub max_retries: Option<u32>,
    /// When it is or was due.
    #[serde(serialize_with = "time_or_null")]
    pub due_at: Option<DateTime<Utc>>,
    /// When it was created.
    #[serde(serialize_with = "time")]
    pub created_at: DateTime<Utc>,
    /// When it last changed.
    #[serde(serialize_with = "time")]
    pub updated_at: DateTime<Utc>,
    /// When it reached a final state.
    #[serde(serialize_with = "time_or_null")]
    pub finished_at: Option<DateTime<Utc>>,
    /// When it expires.
    #[serde(serialize_with = "time_or_null")]
    pub expires_at: Option<DateTime<Utc>>,
    /// The idempotency key that it was submitted with.
    pub idempotency_key: Option<String>,
    /// Why its last attempt failed.
    pub last_error: Option<LastError>,
    /// The destination's answer: a JSON value if it is one, else a string.
    pub result: Option<Box<RawValue>>,
}

impl MessageView {
    /// The view of a row. `max_retries` is the value from its source's policy, for a message that doesn't override it; `payload` says whether the
    /// payload was asked for.
    #[must_use]
    pub fn new(record: Record, max_retries: Option<u32>, payload: bool) -> Self {
        let (key, key_base64) = match record.key {
            None => (None, None),
            Some(Key::Text(text)) => (Some(text), None),
            Some(Key::Binary(bytes)) => (None, Some(STANDARD.encode(bytes))),
        };
        // If the payload has a size but is missing, it is too large to be shown.
        let shown = payload && record.payload_bytes.is_some() == record.payload.is_some();
        Self {
            id: record.id,
            project: record.project,
            source: record.source,
            topic: record.topic,
            key,
            key_base64,
            payload_bytes: record.payload_bytes,
            payload_base64: shown.then(|| record.payload.map(|bytes| STANDARD.encode(bytes))),
            headers: headers(record.headers),
            state: record.state,
            priority: record.priority,
            epoch: record.epoch,
            attempts: record.attempts,
            retries: record.retries,
            max_retries: record.retry.as_ref().and_then(|overrides| overrides.max_retries).or(max_retries),
            due_at: record.due_at,
            created_at: record.created_at,
            updated_at: record.updated_at,
            finished_at: record.finished_at,
            expires_at: record.expires_at,
            idempotency_key: record.idempotency_key,
            last_error: record.last_error,
            result: record.result.as_deref().map(json_or_text),
        }
    }
}

/// One attempt, or several similar ones in a row, as they are shown.
#[derive(Clone, Debug, Serialize)]
pub struct AttemptView {
    /// The epoch.
    pub epoch: u32,
    /// The number of the attempt, or of the first one it stands for.
    pub number: u32,
    /// How many attempts it stands for.
    pub count: u32,
    /// The node that made it.
    pub node: String,
    /// When the attempt, or the first of several, began.
    #[serde(serialize_with = "time")]
    pub started_at: DateTime<Utc>,
    /// When the last one began, if it stands for several.
    #[serde(serialize_with = "time_or_null")]
    pub last_at: Option<DateTime<Utc>>,
    /// How long the last one took.
    pub duration_ms: u64,
    /// The outcome.
    pub outcome: AttemptOutcome,
    /// What went wrong.
    pub error: Option<LastError>,
    /// The destination's answer: a JSON value if it is one, else a string.
    pub result: Option<Box<RawValue>>,
}

impl From<Attempt> for AttemptView {
    fn from(attempt: Attempt) -> Self {
        Self {
            epoch: attempt.epoch,
            number: attempt.number,
            count: attempt.count,
            node: attempt.node,
            started_at: attempt.started_at,
            last_at: attempt.last_at,
            duration_ms: millis(attempt.duration),
            outcome: attempt.outcome,
            error: attempt.error,
            result: attempt.result.as_deref().map(json_or_text),
        }
    }
}

/// A page of messages as it is shown.
#[derive(Clone, Debug, Serialize)]
pub struct PageView {
    /// The messages, the newest first.
    pub items: Vec<MessageView>,
    /// What to pass as `after` for the next page; `null` at the end.
    pub next: Option<String>,
}

impl PageView {
    /// The view of a page; `max_retries` looks up the value in a source's policy.
    #[must_use]
    pub fn new(page: Page, max_retries: impl Fn(&str) -> Option<u32>, payload: bool) -> Self {
        let view = |record: Record| {
            let policy = max_retries(&record.source);
            MessageView::new(record, policy, payload)
        };
        Self { items: page.items.into_iter().map(view).collect(), next: page.next.map(|id| id.to_string()) }
    }
}

/// The result for one message of a bulk retry or cancel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ChangeView {
    /// The message.
    pub id: Uuid,
    /// Its state now; absent if there is no such message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<State>,
    /// Why nothing was changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<Refused>,
}

/// Why a message was not changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refused {
    /// `not_found` or `wrong_state`.
    pub code: &'static str,
    /// The details, in words.
    pub detail: String,
}

impl ChangeView {
    /// The view of a change; `verb` names it: `retried`, `cancelled`.
    #[must_use]
    pub fn new(id: Uuid, changed: Changed, verb: &str) -> Self {
        match changed {
            Changed::Done(state) => Self { id, state: Some(state), error: None },
            Changed::NotFound => {
                let detail = "there is no such message in this project".to_owned();
                Self { id, state: None, error: Some(Refused { code: "not_found", detail }) }
            }
            Changed::Wrong(state) => {
                let detail = wrong_state(state, verb);
                Self { id, state: Some(state), error: Some(Refused { code: "wrong_state", detail }) }
            }
        }
    }
}

/// The error text for a message whose state does not allow a change; `verb` names the change: `retried`, `cancelled`.
#[must_use]
pub fn wrong_state(state: State, verb: &str) -> String {
    format!("a message that is {state} can't be {verb}")
}

/// The same for replacing its payload.
#[must_use]
pub fn not_failed(state: State) -> String {
    format!("only a failed message's payload can be replaced; this one is {state}")
}

/// A time as the API writes it: RFC 3339, UTC, microseconds.
///
/// ```
/// let time = chrono::DateTime::from_timestamp(0, 1_000).unwrap();
/// assert_eq!(redrive::view::rfc3339(time), "1970-01-01T00:00:00.000001Z");
/// ```
#[must_use]
pub fn rfc3339(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Micros, true)
}

fn time<S: Serializer>(time: &DateTime<Utc>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&rfc3339(*time))
}

// serde passes a reference to the field.
#[allow(clippy::ref_option)]
fn time_or_null<S: Serializer>(time: &Option<DateTime<Utc>>, serializer: S) -> Result<S::Ok, S::Error> {
    time.map(rfc3339).serialize(serializer)
}

fn headers(text: Option<String>) -> Box<RawValue> {
    match text {
        None => empty_object(),
        Some(text) if text.is_empty() => empty_object(),
        // Only an object can be what it claims to be; a bare number or list is shown as the text that somebody wrote.
        Some(text) if text.trim_start().starts_with('{') => json_or_text(&text),
        Some(text) => string(&text),
    }
}

/// The value that the text spells, unchanged (`serde_json::Value` would round large numbers and drop repeated keys), else the text as a string.
fn json_or_text(text: &str) -> Box<RawValue> {
    RawValue::from_string(text.to_owned()).unwrap_or_else(|_| string(text))
}

fn string(text: &str) -> Box<RawValue> {
    to_raw_value(text).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

fn empty_object() -> Box<RawValue> {
    RawValue::from_string("{}".to_owned()).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use serde_json::json;

    use super::*;
    use crate::retry;

    fn record() -> Record {
        let now = DateTime::from_timestamp(1_700_000_000, 123_456_000).unwrap();
        Record {
            id: Uuid::nil(),
            project: "orders".into(),
            source: "events".into(),
            topic: None,
            key: Some(Key::Text("o-17".into())),
            payload: None,
            payload_bytes: None,
            headers: None,
            state: State::Retrying,
            priority: 3,
            epoch: 1,
            attempts: 2,
            retries: 1,
            retry: None,
            due_at: Some(now),
            created_at: now,
            updated_at: now,
            finished_at: None,
            expires_at: None,
            idempotency_key: None,
            last_error: Some(LastError { class: "refused".into(), code: "http_503".into(), detail: "no".into() }),
            result: None,
        }
    }

    fn shown(record: Record, payload: bool) -> serde_json::Value {
        serde_json::from_str(&serde_json::to_string(&MessageView::new(record, Some(4), payload)).unwrap()).unwrap()
    }

    #[test]
    fn a_message_reads_as_the_contract_says() {
        assert_eq!(
            shown(record(), false),
            json!({
                "id": "00000000-0000-0000-0000-000000000000", "project": "orders", "source": "events", "topic": null, "key": "o-17", "payload_bytes": null, "headers": {},
                "state": "retrying", "priority": 3, "epoch": 1, "attempts": 2, "retries": 1, "max_retries": 4,
                "due_at": "2023-11-14T22:13:20.123456Z", "created_at": "2023-11-14T22:13:20.123456Z", "updated_at": "2023-11-14T22:13:20.123456Z",
                "finished_at": null, "expires_at": null, "idempotency_key": null,
                "last_error": {"class": "refused", "code": "http_503", "detail": "no"}, "result": null,
            })
        );
    }

    #[test]
    fn a_payload_is_shown_when_asked_for_and_a_tombstone_is_null() {
        assert_eq!(shown(record(), true)["payload_base64"], json!(null));
        assert!(shown(record(), false).get("payload_base64").is_none());
        let full = Record { payload: Some(Bytes::from_static(b"hi")), payload_bytes: Some(2), ..record() };
        assert_eq!(shown(full, true)["payload_base64"], json!("aGk="));
        let too_large = shown(Record { payload_bytes: Some(1 << 30), ..record() }, true);
        assert_eq!((&too_large["payload_bytes"], too_large.get("payload_base64")), (&json!(1 << 30), None), "no tombstone");
    }

    #[test]
    fn a_binary_key_is_base64_and_an_override_wins() {
        let record = Record {
            key: Some(Key::Binary(Bytes::from_static(&[0, 255]))),
            retry: retry::Config { max_retries: Some(9), ..retry::Config::default() }.overrides(),
            ..record()
        };
        let shown = shown(record, false);
        assert_eq!((&shown["key"], &shown["key_base64"], &shown["max_retries"]), (&json!(null), &json!("AP8="), &json!(9)));
    }

    #[test]
    fn headers_and_results_keep_their_very_text_or_become_strings() {
        let text = |headers: &str, result: &str| {
            let record = Record { headers: Some(headers.into()), result: Some(result.into()), ..record() };
            let view = MessageView::new(record, None, false);
            (view.headers.get().to_owned(), view.result.unwrap().get().to_owned())
        };
        let exact = r#"{"n": 123456789012345678901234567890, "a":1, "a":2}"#;
        assert_eq!(text(exact, r#"{"offset":1}"#), (exact.to_owned(), r#"{"offset":1}"#.to_owned()));
        assert_eq!(text("{broken", "OK <b>"), (r#""{broken""#.to_owned(), r#""OK <b>""#.to_owned()));
        assert_eq!(text("[1]", "17"), (r#""[1]""#.to_owned(), "17".to_owned()));
        assert_eq!(text("", "").0, "{}");
    }

    #[test]
    fn an_attempt_reads_as_the_contract_says() {
        let at = DateTime::from_timestamp(0, 0).unwrap();
        let attempt = Attempt {
            epoch: 1,
            number: 2,
            count: 3,
            node: "n".into(),
            started_at: at,
            last_at: None,
            duration: Duration::from_millis(12),
            outcome: AttemptOutcome::Unreachable,
            error: None,
            result: Some(r#"{"partition":0}"#.into()),
        };
        let shown: serde_json::Value = serde_json::from_str(&serde_json::to_string(&AttemptView::from(attempt)).unwrap()).unwrap();
        assert_eq!(
            shown,
            json!({
                "epoch": 1, "number": 2, "count": 3, "node": "n", "started_at": "1970-01-01T00:00:00.000000Z", "last_at": null,
                "duration_ms": 12, "outcome": "unreachable", "error": null, "result": {"partition": 0},
            })
        );
    }

    #[test]
    fn what_could_not_be_changed_says_why() {
        let view = ChangeView::new(Uuid::nil(), Changed::Wrong(State::Sending), "cancelled");
        assert_eq!(view.error.unwrap().detail, "a message that is sending can't be cancelled");
        assert_eq!(ChangeView::new(Uuid::nil(), Changed::NotFound, "retried").error.unwrap().code, "not_found");
        assert_eq!(not_failed(State::Pending), "only a failed message's payload can be replaced; this one is pending");
    }
}

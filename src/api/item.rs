//! One message as a producer writes it in JSON.
//!
//! The payload is never parsed: of a JSON string its text is sent, of any other value the exact bytes as written.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::de::value::MapAccessDeserializer;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::problem::{Code, Problem};
use super::query::parse_time;
use crate::engine::Submission;
use crate::message::{Headers, Key};
use crate::retry;
use crate::source::options::Mode;
use crate::store::Due;
use crate::units::{LONGEST, Limit, Span};

/// The JSON object.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Item<'a> {
    source: String,
    #[serde(default)]
    topic: Option<String>,
    #[serde(default)]
    key: Option<String>,
    #[serde(default)]
    key_base64: Option<String>,
    // `null` is a JSON value like any other; only an omitted field is absent.
    #[serde(default, borrow, deserialize_with = "present")]
    payload: Option<&'a RawValue>,
    #[serde(default, borrow)]
    payload_base64: Option<Cow<'a, str>>,
    #[serde(default)]
    tombstone: Option<bool>,
    #[serde(default)]
    headers: Option<Headers>,
    #[serde(default)]
    priority: Option<i64>,
    #[serde(default)]
    delay: Option<Span>,
    #[serde(default)]
    due_at: Option<String>,
    #[serde(default)]
    expires_after: Option<Limit>,
    #[serde(default)]
    retry: Option<Object<retry::Config>>,
    #[serde(default)]
    idempotency_key: Option<String>,
    #[serde(default)]
    mode: Option<Mode>,
    #[serde(default)]
    order_key: Option<IgnoredAny>,
}

fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// A struct that is written as a JSON object. A derived struct alone would also accept a list of its fields' values, which nobody means.
pub(super) struct Object<T>(pub(super) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OnlyMap<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for OnlyMap<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map))
            }
        }
        deserializer.deserialize_map(OnlyMap(PhantomData)).map(Object)
    }
}

/// Reads a JSON object into `T`; an error has the path of the field.
pub(super) fn read<'a, T: Deserialize<'a>>(text: &'a [u8]) -> Result<T, Problem> {
    match serde_json::from_slice::<Object<T>>(text) {
        Ok(Object(value)) => Ok(value),
        // The path is found by parsing a second time, so that valid input pays nothing for it.
        Err(error) => Err(explain::<T>(text, &error)),
    }
}

fn explain<'a, T: Deserialize<'a>>(text: &'a [u8], error: &serde_json::Error) -> Problem {
    // A number or an escape without a value is still JSON: it is the field that is out of range.
    if !error.is_data() && serde_json::from_slice::<&RawValue>(text).is_err() {
        return Problem::new(Code::MalformedJson, format!("not JSON: {error}"));
    }
    let mut json = serde_json::Deserializer::from_slice(text);
    let Err(located) = serde_path_to_error::deserialize::<_, Object<T>>(&mut json) else {
        return Problem::new(Code::InvalidField, in_words(&without_place(&error.to_string())));
    };
    let path = located.path().to_string();
    let message = in_words(&without_place(&located.inner().to_string()));
    let named = |prefix: &str| message.strip_prefix(prefix).and_then(|rest| rest.split('`').next()).map(str::to_owned);
    if let Some(name) = named("unknown field `") {
        return Problem::new(Code::UnknownField, message).at(inside(&path, name));
    }
    if let Some(name) = named("missing field `") {
        return Problem::field(inside(&path, name), "is required");
    }
    if let Some(name) = named("duplicate field `") {
        return Problem::field(inside(&path, name), "is given twice");
    }
    if path == "." { Problem::new(Code::InvalidField, message) } else { Problem::field(path, message) }
}

/// The path of a field within the object at `path`.
fn inside(path: &str, name: String) -> String {
    match path {
        "." | "" => name,
        // If the parser had already stepped into the field.
        path if path == name || path.ends_with(&format!(".{name}")) => path.to_owned(),
        path => format!("{path}.{name}"),
    }
}

/// An error without "at line 1 column 17", which helps nobody once the field is named.
fn without_place(message: &str) -> String {
    message.rfind(" at line ").map_or(message, |end| &message[..end]).to_owned()
}

/// An error that says what is expected in plain words: Rust's type names help no producer.
fn in_words(message: &str) -> String {
    let Some((found, expected)) = message.rsplit_once(", expected ") else { return message.to_owned() };
    if found.starts_with("unknown variant `") {
        return format!("must be {}", expected.replace('`', ""));
    }
    let expected = match expected {
        "u32" if found.starts_with("invalid value: integer `-") => "0 or more",
        "u32" | "i64" if found.starts_with("invalid value: integer `") => "a smaller number",
        "u32" | "i64" => "a whole number",
        "f64" => "a number",
        "a sequence" => "an array",
        other => other,
    };
    format!("{found}, expected {expected}")
}

/// The priority that was asked for, or the default. One that is out of range stays so, and is reported along with all other faults.
pub(super) fn priority(asked: Option<i64>) -> u8 {
    u8::try_from(asked.unwrap_or(0)).unwrap_or(u8::MAX)
}

/// How the payload of an item is taken out of the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Take {
    /// Shares the body's memory if most of that is the payload.
    Share,
    /// Is copied, so that one item doesn't keep the memory of all.
    Copy,
}

/// Reads one message. `body` is the buffer that contains `text`, the object.
pub(super) fn parse(body: &Bytes, text: &[u8], take: Take) -> Result<Submission, Problem> {
    let item: Item<'_> = read(text)?;
    if item.order_key.is_some() {
        let detail = "order keys are not supported yet; omit it, or submit each message once the previous one has succeeded";
        return Err(Problem::new(Code::NotSupported, detail).at("order_key"));
    }
    let payload = payload(body, take, &item)?;
    let key = match (item.key, item.key_base64) {
        (Some(_), Some(_)) => return Err(Problem::field("key_base64", "either `key` or `key_base64`, not both")),
        (Some(text), None) => Some(Key::Text(text)),
        (None, Some(text)) => Some(Key::Binary(base64("key_base64", &text)?.into())),
        (None, None) => None,
    };
    let due_at = item.due_at.as_deref().map(parse_time).transpose().map_err(|detail| Problem::field("due_at", detail))?;
    Ok(Submission {
        source: item.source,
        topic: item.topic,
        key,
        payload,
        headers: item.headers.unwrap_or_default(),
        priority: priority(item.priority),
        due: due(item.delay, due_at)?,
        expires_after: item.expires_after,
        retry: item.retry.map(|Object(retry)| retry).unwrap_or_default(),
        idempotency_key: item.idempotency_key,
        mode: item.mode,
    })
}

fn payload(body: &Bytes, take: Take, item: &Item<'_>) -> Result<Option<Bytes>, Problem> {
    let one = || Problem::field("payload", "exactly one of `payload`, `payload_base64` and `\"tombstone\": true` is required");
    match (item.payload, &item.payload_base64, item.tombstone.unwrap_or(false)) {
        (Some(raw), None, false) => raw_payload(body, take, raw.get()).map(Some),
        (None, Some(text), false) => base64("payload_base64", text).map(|bytes| Some(bytes.into())),
        (None, None, true) => Ok(None),
        _ => Err(one()),
    }
}

fn raw_payload(body: &Bytes, take: Take, raw: &str) -> Result<Bytes, Problem> {
    let Some(quoted) = raw.strip_prefix('"') else {
        return Ok(taken(body, take, raw.as_bytes()));
    };
    let text = quoted.strip_suffix('"').unwrap_or(quoted);
    if !text.contains('\\') {
        return Ok(taken(body, take, text.as_bytes()));
    }
    serde_json::from_str::<String>(raw)
        .map(Bytes::from)
        .map_err(|error| Problem::field("payload", format!("is not text: {}; use `payload_base64` for bytes", without_place(&error.to_string()))))
}

fn taken(body: &Bytes, take: Take, part: &[u8]) -> Bytes {
    if take == Take::Share && part.len() > super::SMALL && part.len() > body.len() / 2 { body.slice_ref(part) } else { Bytes::copy_from_slice(part) }
}

fn base64(field: &'static str, text: &str) -> Result<Vec<u8>, Problem> {
    STANDARD.decode(text).map_err(|error| Problem::field(field, format!("is not base64 (RFC 4648, section 4, with padding): {error}")))
}

/// When a message is due.
pub(super) fn due(delay: Option<Span>, due_at: Option<DateTime<Utc>>) -> Result<Option<Due>, Problem> {
    match (delay, due_at) {
        (None, None) => Ok(None),
        (Some(_), Some(_)) => Err(Problem::field("due_at", "either `delay` or `due_at`, not both")),
        (Some(delay), None) => Ok(Some(Due::After(delay.get()))),
        // Anything further away is a mistake, and more than some databases can store. This node's clock is good enough for that.
        (None, Some(at)) if at.signed_duration_since(Utc::now()).abs().to_std().is_ok_and(|off| off > LONGEST) => {
            Err(Problem::field("due_at", "is more than 100 years away"))
        }
        (None, Some(at)) => Ok(Some(Due::At(at))),
    }
}

#[cfg(test)]
mod tests;

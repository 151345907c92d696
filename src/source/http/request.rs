//! The headers of a request: the message's own, the source's configured ones, and redrive's facts; of equal names the later ones win.

use std::borrow::Cow;

use percent_encoding::{AsciiSet, CONTROLS, percent_encode};
use reqwest::header::{self, HeaderMap, HeaderName, HeaderValue};

use crate::message::Message;

/// The maximum size of a request's headers, in bytes, which the topic, key and headers that the API accepts never reach; common servers accept 8 to
/// 32 KiB.
pub(super) const MOST_BYTES: usize = 96 << 10;
/// The maximum number of headers that a message may add to a request.
pub(super) const MOST_HEADERS: usize = 1000;

/// Everything but visible ASCII, and `%` itself, so that decoding always yields the original.
const FACT: &AsciiSet = &CONTROLS.add(b' ').add(b'%');

/// Names that belong to the connection, to redrive or to the body: neither a message nor a configuration may set them.
pub(super) fn is_reserved(name: &HeaderName) -> bool {
    name.as_str().starts_with("redrive-")
        || matches!(
            name.as_str(),
            "connection"
                | "content-length"
                | "expect"
                | "http2-settings"
                | "keep-alive"
                | "proxy-authenticate"
                | "proxy-authorization"
                | "proxy-connection"
                | "te"
                | "trailer"
                | "transfer-encoding"
                | "upgrade"
        )
}

/// Names that a configuration may set, but a message may not.
fn is_configured_only(name: &HeaderName) -> bool {
    matches!(*name, header::HOST | header::USER_AGENT)
}

/// The header names of a Standard Webhooks signature.
pub(super) fn is_signature(name: &HeaderName) -> bool {
    matches!(name.as_str(), "webhook-id" | "webhook-timestamp" | "webhook-signature")
}

/// A header value. Surrounding blanks are not part of it (RFC 9110, section 5.5), and anybody who forwards it over HTTP/2 would be refused because of
/// them.
pub(super) fn header_value(text: &str) -> Option<HeaderValue> {
    HeaderValue::from_bytes(text.trim_matches([' ', '\t']).as_bytes()).ok()
}

/// The headers for a message. Those in `configured` can't be overridden, except for `Content-Type`, which the message knows best.
///
/// Headers of the message whose name or value HTTP does not allow are left out: they may have been meant for another kind of destination.
pub(super) fn headers(message: &Message, id: &str, configured: &HeaderMap, signed: bool) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    let mut bytes = 0_usize;
    for (name, value) in message.headers.iter() {
        let (Ok(name), Some(value)) = (HeaderName::from_bytes(name.as_bytes()), header_value(value)) else {
            continue;
        };
        let taken = is_reserved(&name) || is_configured_only(&name) || (signed && is_signature(&name));
        if taken || (configured.contains_key(&name) && name != header::CONTENT_TYPE) {
            continue;
        }
        bytes = bytes.saturating_add(name.as_str().len() + value.len());
        if bytes > MOST_BYTES || headers.len() >= MOST_HEADERS {
            return Err(format!("the message's headers exceed {MOST_HEADERS} in number or {} KiB", MOST_BYTES >> 10));
        }
        headers.append(name, value);
    }
    for (name, value) in configured {
        if name != header::CONTENT_TYPE || !headers.contains_key(header::CONTENT_TYPE) {
            headers.insert(name.clone(), value.clone());
        }
    }
    let payload = message.payload.as_deref().unwrap_or_default();
    if !payload.is_empty() && !headers.contains_key(header::CONTENT_TYPE) {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type(payload)));
    }
    let mut fact = |name: &'static str, value: &[u8]| {
        bytes = bytes.saturating_add(name.len() + value.len());
        // After encoding, nothing is left that a header value may not contain.
        HeaderValue::from_str(&encoded(value)).ok().filter(|_| bytes <= MOST_BYTES).map(|value| headers.insert(name, value)).is_none()
    };
    let attempt = message.attempt.to_string();
    let mut left_out = fact("redrive-id", id.as_bytes());
    left_out |= fact("redrive-attempt", attempt.as_bytes());
    if let Some(topic) = &message.topic {
        left_out |= fact("redrive-topic", topic.as_bytes());
    }
    if let Some(key) = &message.key {
        left_out |= fact("redrive-key", key.as_bytes());
    }
    if left_out { Err(format!("the message's topic, key and headers exceed {} KiB", MOST_BYTES >> 10)) } else { Ok(headers) }
}

/// A fact as a header value: visible ASCII, the rest percent-encoded.
fn encoded(fact: &[u8]) -> Cow<'_, str> {
    percent_encode(fact, FACT).into()
}

/// The type of a payload that came without one: a JSON object or list is recognised.
fn content_type(payload: &[u8]) -> &'static str {
    let looks_like_json = payload.iter().find(|byte| !byte.is_ascii_whitespace()).is_some_and(|byte| matches!(byte, b'{' | b'['));
    if looks_like_json && serde_json::from_slice::<serde::de::IgnoredAny>(payload).is_ok() { "application/json" } else { "application/octet-stream" }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::message::{Headers, Key};

    fn message(payload: &str) -> Message {
        Message::new("log", payload.to_owned())
    }

    fn with(pairs: &[(&str, &str)]) -> Message {
        Message { headers: Headers::new(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()), ..message("{}") }
    }

    fn sent(message: &Message, configured: &HeaderMap) -> Vec<String> {
        let headers = headers(message, "the-id", configured, true).unwrap();
        let mut lines: Vec<_> = headers.iter().map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value.as_bytes()))).collect();
        lines.sort();
        lines
    }

    #[test]
    fn a_message_overrides_no_fact_no_connection_header_and_nothing_configured() {
        let message = with(&[
            ("Redrive-Id", "forged"),
            ("REDRIVE-anything", "forged"),
            ("Content-Length", "7"),
            ("Transfer-Encoding", "chunked"),
            ("Connection", "close"),
            ("Host", "elsewhere"),
            ("Webhook-Signature", "forged"),
            ("Authorization", "forged"),
            ("bad name", "x"),
            ("", "x"),
            ("X-Split", "a\r\nInjected: b"),
            ("X-Nul", "a\0"),
            ("X-Tenant", "a"),
        ]);
        let mut configured = HeaderMap::new();
        configured.insert(header::AUTHORIZATION, HeaderValue::from_static("ours"));
        configured.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/cloudevents+json"));
        let lines = sent(&message, &configured);
        let expected =
            ["authorization: ours", "content-type: application/cloudevents+json", "redrive-attempt: 1", "redrive-id: the-id", "x-tenant: a"];
        assert_eq!(lines, expected);
    }

    #[test]
    fn the_type_is_the_messages_or_the_configured_one_or_what_the_payload_looks_like() {
        let mut configured = HeaderMap::new();
        configured.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        let of = |message: &Message, configured: &HeaderMap| {
            headers(message, "i", configured, false).unwrap().get(header::CONTENT_TYPE).map(|value| value.to_str().unwrap().to_owned())
        };
        let none = HeaderMap::new();
        assert_eq!(of(&with(&[("content-type", "text/csv")]), &configured).unwrap(), "text/csv");
        assert_eq!(of(&message("{}"), &configured).unwrap(), "text/plain");
        for (payload, kind) in [
            ("{\"a\": [1]}", Some("application/json")),
            (" [1,2]\n", Some("application/json")),
            ("{broken", Some("application/octet-stream")),
            ("plain", Some("application/octet-stream")),
            ("7", Some("application/octet-stream")),
            ("", None),
        ] {
            assert_eq!(of(&message(payload), &none).as_deref(), kind, "{payload}");
        }
        let deep = "[".repeat(1_000_000);
        assert_eq!(of(&message(&deep), &none).unwrap(), "application/octet-stream", "however deep it is nested");
    }

    #[test]
    fn blanks_around_a_value_are_no_part_of_it() {
        let lines = sent(&with(&[("a", " a"), ("b", "b\t "), ("c", "\t c c\t"), ("d", "  ")]), &HeaderMap::new());
        assert_eq!(lines[..4], ["a: a", "b: b", "c: c c", "content-type: application/json"]);
        assert_eq!(lines[4], "d: ");
    }

    #[test]
    fn facts_are_visible_ascii_and_can_be_decoded() {
        let key = Key::Binary(Bytes::from_static(b"a b%\xff\n"));
        let message = Message { topic: Some("örders/x".into()), key: Some(key), ..message("") };
        let lines = sent(&message, &HeaderMap::new());
        assert_eq!(lines, ["redrive-attempt: 1", "redrive-id: the-id", "redrive-key: a%20b%25%FF%0A", "redrive-topic: %C3%B6rders/x"]);
    }

    #[test]
    fn headers_are_bounded_in_number_and_size() {
        let pairs: Vec<_> = (0..100_000).map(|n| (format!("x-{n}"), String::new())).collect();
        let many = Message { headers: Headers::new(pairs), ..message("") };
        assert!(headers(&many, "i", &HeaderMap::new(), false).is_err());
        let large = Message { headers: Headers::new(vec![("x".into(), "y".repeat(MOST_BYTES))]), ..message("") };
        assert!(headers(&large, "i", &HeaderMap::new(), false).is_err());
        let long = Message { topic: Some("t".repeat(MOST_BYTES)), ..message("") };
        assert!(headers(&long, "i", &HeaderMap::new(), false).is_err());
        let mut most = Message::new("crm", "");
        most.topic = Some("t".repeat(1 << 10));
        most.key = Some(Key::Text("k".repeat(16 << 10)));
        most.headers = Headers::new(vec![("x".into(), "y".repeat((64 << 10) - 1))]);
        assert!(headers(&most, "i", &HeaderMap::new(), false).is_ok(), "the most that the API accepts");
    }
}

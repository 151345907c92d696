//! The error table: what a status or an error means, and how long the server asks to wait. `docs/sources-endpoints.md` documents it.

use std::borrow::Cow;
use std::error::Error;
use std::io;
use std::time::Duration;

use chrono::DateTime;
use reqwest::StatusCode;
use reqwest::header::{DATE, HeaderMap, RETRY_AFTER};

use crate::outcome::{Class, Outcome};
use crate::source::codes::Code;
use crate::units::LONGEST;

/// The class of a status.
///
/// *Permanent* is a verdict on this very message that no repetition changes; *unreachable* is what a gateway reports when there is nobody behind it;
/// anything that an operator or the receiver's owner can fix (credentials, a route, a bug) is *refused*.
#[must_use]
pub(super) const fn class(status: u16) -> Class {
    match status {
        200..=299 => Class::Succeeded,
        // malformed, gone on purpose, too large, URL too long, wrong type, unprocessable, headers too large, forbidden by law
        400 | 410 | 413 | 414 | 415 | 422 | 431 | 451 => Class::Permanent,
        // bad gateway, unavailable, gateway timeout; then those of a well-known delivery network: down, timed out, unreachable, timed out
        502..=504 | 521..=524 => Class::Unreachable,
        _ => Class::Refused,
    }
}

/// The codes of unsuccessful sends.
pub(super) fn codes() -> Vec<Code> {
    let unanswered =
        ["http_dns", "http_connect", "http_tls", "http_timeout", "http_closed", "http_protocol", "http_request", "http_topic", "http_headers"];
    // 2xx means success, and has no code.
    let statuses = [100..=199, 300..=999].map(|statuses| Code::Numbered("http_", statuses));
    statuses.into_iter().chain(unanswered.map(Code::from)).collect()
}

/// The meaning of an answer's head.
pub(super) fn answered(status: StatusCode, headers: &HeaderMap) -> Outcome {
    let class = class(status.as_u16());
    if class == Class::Succeeded {
        return Outcome::succeeded();
    }
    let code = Cow::Owned(format!("http_{}", status.as_u16()));
    let reason = status.canonical_reason().unwrap_or("unknown status");
    let detail = if status.is_redirection() {
        format!("{} {reason}: redirects are not followed; write the final URL into the configuration", status.as_u16())
    } else {
        format!("{} {reason}", status.as_u16())
    };
    let header = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let wait = header(RETRY_AFTER).and_then(|value| retry_after(value, header(DATE)));
    Outcome::failure(class, code, detail).with_retry_after(wait)
}

/// Reads `Retry-After`: seconds, or an HTTP date (a past one asks for no wait). A date is compared with the answer's own `Date`, since this machine's
/// clock may be wrong. Anything else is ignored.
fn retry_after(value: &str, date: Option<&str>) -> Option<Duration> {
    let value = value.trim();
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        // More digits than fit into a number: a long time.
        return Some(value.parse().map_or(LONGEST, Duration::from_secs).min(LONGEST));
    }
    let (until, now) = (DateTime::parse_from_rfc2822(value).ok()?, DateTime::parse_from_rfc2822(date?.trim()).ok()?);
    Some((until - now).to_std().unwrap_or_default().min(LONGEST))
}

/// A host that could not be looked up.
#[derive(Debug, thiserror::Error)]
#[error("the host could not be looked up: {0}")]
pub(super) struct LookUp(pub(super) io::Error);

/// The meaning of an error that came before the answer.
pub(super) fn failed(error: reqwest::Error) -> Outcome {
    // The URL may contain a secret.
    let error = error.without_url();
    let detail = explain(&error);
    if find::<LookUp>(&error).is_some() {
        return Outcome::unreachable("http_dns", detail);
    }
    // In TLS 1.3 a server refuses our certificate after the handshake, as an error of the stream of a kind that plain sockets don't have.
    let alert = find::<io::Error>(&error).is_some_and(|error| error.kind() == io::ErrorKind::Other && error.get_ref().is_some());
    if alert || find::<native_tls::Error>(&error).is_some() {
        return Outcome::unreachable("http_tls", detail);
    }
    if error.is_connect() {
        return Outcome::unreachable("http_connect", detail);
    }
    if error.is_timeout() {
        return Outcome::unreachable("http_timeout", detail);
    }
    if find::<hyper::Error>(&error).is_some_and(hyper::Error::is_parse) {
        return Outcome::refused("http_protocol", format!("the answer is not HTTP: {detail}"));
    }
    if error.is_builder() {
        return Outcome::refused("http_request", detail);
    }
    Outcome::unreachable("http_closed", format!("the connection was lost before the answer: {detail}"))
}

/// The first error of this type in the chain of causes.
fn find<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    chain(error).find_map(|cause| cause.downcast_ref::<E>())
}

fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    // An io::Error hides what it wraps: its `source` is that of the wrapped error.
    std::iter::successors(Some(error), |error| {
        let error: &'a (dyn Error + 'static) = *error;
        match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => error.source(),
        }
    })
    .take(16)
}

/// The chain of causes on one line, skipping those that only repeat what was already said.
fn explain(error: &reqwest::Error) -> String {
    let mut text = String::new();
    for cause in chain(error) {
        let cause = cause.to_string();
        if text.contains(&cause) {
            continue;
        }
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&cause);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_status_has_its_class() {
        let of = |class| (100..=999).filter(|status| self::class(*status) == class).collect::<Vec<u16>>();
        assert_eq!(of(Class::Succeeded), (200..=299).collect::<Vec<_>>());
        assert_eq!(of(Class::Permanent), [400, 410, 413, 414, 415, 422, 431, 451]);
        assert_eq!(of(Class::Unreachable), [502, 503, 504, 521, 522, 523, 524]);
    }

    #[test]
    fn retry_after_takes_seconds_and_dates() {
        let seconds = |value| retry_after(value, Some("Sun, 06 Nov 1994 08:49:00 GMT")).map(|wait| wait.as_secs());
        assert_eq!(seconds("120"), Some(120));
        assert_eq!(seconds(" 0 "), Some(0));
        assert_eq!(seconds("Sun, 06 Nov 1994 08:49:37 GMT"), Some(37));
        assert_eq!(seconds("Sun, 06 Nov 1994 08:48:00 GMT"), Some(0), "a past date asks for no wait");
        assert_eq!(seconds("99999999999999999999999"), Some(LONGEST.as_secs()));
        for nonsense in ["", "-1", "1.5", "soon", "5s", "+5", "\u{ff15}"] {
            assert_eq!(seconds(nonsense), None, "{nonsense}");
        }
        for unknown in [None, Some("now")] {
            assert_eq!(retry_after("Sun, 06 Nov 1994 08:49:37 GMT", unknown), None);
            assert!(retry_after("120", unknown).is_some());
        }
    }
}

//! The answer when something is not done: RFC 9457 problem details with stable codes.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use axum::body::Body;
use axum::http::header::{CONNECTION, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use uuid::Uuid;

use crate::engine::{self, Refusal};
use crate::store;

/// A stable code. `docs/api.md` lists them, and a test compares the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Code {
    /// The body is not JSON, or not text where text is required.
    MalformedJson,
    /// The body ended early.
    IncompleteBody,
    /// No token, or a wrong one.
    Unauthorized,
    /// A browser's request from another site.
    Forbidden,
    /// There is no such message, or no such path.
    NotFound,
    /// The configuration has no such source: 404 where the path names it, 422 where the body does.
    UnknownSource,
    /// The path exists, but not with this method.
    MethodNotAllowed,
    /// The body did not arrive in time.
    RequestTimeout,
    /// The idempotency key was used with other content.
    IdempotencyConflict,
    /// The message's state does not allow it.
    WrongState,
    /// The body is larger than `api.max_body`.
    BodyTooLarge,
    /// The payload is larger than the source's `max_payload`.
    PayloadTooLarge,
    /// More items than one request may contain.
    TooManyItems,
    /// The path and query are too long.
    UriTooLong,
    /// The body's content type or encoding is not supported.
    UnsupportedMediaType,
    /// A field has a wrong type or value, or is missing.
    InvalidField,
    /// A field or query key that does not exist.
    UnknownField,
    /// A field that is known but not supported yet.
    NotSupported,
    /// Too many messages are waiting.
    Overloaded,
    /// Something is wrong that is not the caller's fault.
    Internal,
    /// The store is unavailable.
    Unavailable,
    /// The node is stopping.
    Draining,
}

impl Code {
    /// All codes.
    pub const ALL: &'static [Self] = &[
        Self::MalformedJson,
        Self::IncompleteBody,
        Self::Unauthorized,
        Self::Forbidden,
        Self::NotFound,
        Self::UnknownSource,
        Self::MethodNotAllowed,
        Self::RequestTimeout,
        Self::IdempotencyConflict,
        Self::WrongState,
        Self::BodyTooLarge,
        Self::PayloadTooLarge,
        Self::TooManyItems,
        Self::UriTooLong,
        Self::UnsupportedMediaType,
        Self::InvalidField,
        Self::UnknownField,
        Self::NotSupported,
        Self::Overloaded,
        Self::Internal,
        Self::Unavailable,
        Self::Draining,
    ];

    /// The code as it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        self.facts().0
    }

    /// The HTTP status it is sent with.
    #[must_use]
    pub const fn status(self) -> StatusCode {
        self.facts().1
    }

    const fn facts(self) -> (&'static str, StatusCode, &'static str) {
        match self {
            Self::MalformedJson => ("malformed_json", StatusCode::BAD_REQUEST, "The body is not JSON"),
            Self::IncompleteBody => ("incomplete_body", StatusCode::BAD_REQUEST, "The request body ended early"),
            Self::Unauthorized => ("unauthorized", StatusCode::UNAUTHORIZED, "A valid token is needed"),
            Self::Forbidden => ("forbidden", StatusCode::FORBIDDEN, "Cross-site request refused"),
            Self::NotFound => ("not_found", StatusCode::NOT_FOUND, "Not found"),
            Self::UnknownSource => ("unknown_source", StatusCode::UNPROCESSABLE_ENTITY, "There is no such source"),
            Self::MethodNotAllowed => ("method_not_allowed", StatusCode::METHOD_NOT_ALLOWED, "Method not allowed"),
            Self::RequestTimeout => ("request_timeout", StatusCode::REQUEST_TIMEOUT, "The body did not come in time"),
            Self::IdempotencyConflict => ("idempotency_conflict", StatusCode::CONFLICT, "The idempotency key is taken"),
            Self::WrongState => ("wrong_state", StatusCode::CONFLICT, "The message's state does not allow it"),
            Self::BodyTooLarge => ("body_too_large", StatusCode::PAYLOAD_TOO_LARGE, "The body is too large"),
            Self::PayloadTooLarge => ("payload_too_large", StatusCode::PAYLOAD_TOO_LARGE, "The payload is too large for its source"),
            Self::TooManyItems => ("too_many_items", StatusCode::PAYLOAD_TOO_LARGE, "Too many items in one request"),
            Self::UriTooLong => ("uri_too_long", StatusCode::URI_TOO_LONG, "The path and query are too long"),
            Self::UnsupportedMediaType => ("unsupported_media_type", StatusCode::UNSUPPORTED_MEDIA_TYPE, "Unsupported content type"),
            Self::InvalidField => ("invalid_field", StatusCode::UNPROCESSABLE_ENTITY, "A field is not valid"),
            Self::UnknownField => ("unknown_field", StatusCode::UNPROCESSABLE_ENTITY, "There is no such field"),
            Self::NotSupported => ("not_supported", StatusCode::UNPROCESSABLE_ENTITY, "Not supported yet"),
            Self::Overloaded => ("overloaded", StatusCode::TOO_MANY_REQUESTS, "Too many messages are waiting"),
            Self::Internal => ("internal", StatusCode::INTERNAL_SERVER_ERROR, "Internal error"),
            Self::Unavailable => ("unavailable", StatusCode::SERVICE_UNAVAILABLE, "The store is unavailable"),
            Self::Draining => ("draining", StatusCode::SERVICE_UNAVAILABLE, "The node is about to stop"),
        }
    }
}

/// Why something was not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    code: Code,
    status: StatusCode,
    detail: Cow<'static, str>,
    field: Option<Cow<'static, str>>,
    id: Option<Uuid>,
    retry_after: Option<Duration>,
}

impl Problem {
    /// A problem; `detail` is for people.
    pub fn new(code: Code, detail: impl Into<Cow<'static, str>>) -> Self {
        let retry_after = matches!(code, Code::Overloaded | Code::Unavailable | Code::Draining).then_some(engine::RETRY_AFTER);
        Self { code, status: code.status(), detail: detail.into(), field: None, id: None, retry_after }
    }

    /// A field that is not valid.
    pub fn field(field: impl Into<Cow<'static, str>>, detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Code::InvalidField, detail).at(field)
    }

    /// Adds the name of the field that is wrong.
    #[must_use]
    pub fn at(mut self, field: impl Into<Cow<'static, str>>) -> Self {
        self.field = Some(field.into());
        self
    }

    /// There is no message with this id.
    pub fn no_message(id: impl fmt::Display) -> Self {
        Self::new(Code::NotFound, format!("there is no message `{id}` in this project"))
    }

    /// Turns the problem of an unknown source into 404: the path names it, so it is the path that leads nowhere.
    #[must_use]
    pub fn of_path(mut self) -> Self {
        if self.code == Code::UnknownSource {
            self.status = StatusCode::NOT_FOUND;
        }
        self
    }

    /// Its code.
    #[must_use]
    pub const fn code(&self) -> Code {
        self.code
    }

    /// Whether the caller did nothing wrong, so that the same request may succeed later.
    #[must_use]
    pub const fn is_ours(&self) -> bool {
        matches!(self.code, Code::Overloaded | Code::Unavailable | Code::Draining | Code::Internal)
    }

    /// The form of the problem for an item of a batch.
    #[must_use]
    pub fn item(&self) -> ItemError<'_> {
        ItemError { code: self.code.as_str(), detail: &self.detail, field: self.field.as_deref(), id: self.id }
    }
}

/// The form of a problem for an item of a batch.
#[derive(Debug, Serialize)]
pub struct ItemError<'a> {
    code: &'static str,
    detail: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<Uuid>,
}

#[derive(Serialize)]
struct Details<'a> {
    r#type: String,
    title: &'static str,
    status: u16,
    #[serde(flatten)]
    item: ItemError<'a>,
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let (code, _, title) = self.code.facts();
        let details = Details { r#type: format!("urn:redrive:error:{code}"), title, status: self.status.as_u16(), item: self.item() };
        // A struct of strings and numbers always serialises; even with an empty body there would still be the status.
        let mut response = Response::new(Body::from(serde_json::to_vec(&details).unwrap_or_default()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(wait) = self.retry_after {
            // Whole seconds, and never 0, which would invite a storm of retries.
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        }
        match self.code {
            Code::Unauthorized => {
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"redrive\""));
            }
            // The next request should go to another node; or else the body was not read to its end.
            Code::Draining | Code::RequestTimeout | Code::IncompleteBody => {
                headers.insert(CONNECTION, HeaderValue::from_static("close"));
            }
            _ => {}
        }
        response
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let text = refusal.to_string();
        match refusal {
            Refusal::UnknownSource { .. } => Self::new(Code::UnknownSource, text).at("source"),
            Refusal::Invalid { field, detail } => Self::field(field, detail),
            Refusal::TooLarge { .. } => Self::new(Code::PayloadTooLarge, text).at("payload"),
            Refusal::Conflict { id } => Self { id: Some(id), ..Self::new(Code::IdempotencyConflict, text).at("idempotency_key") },
            Refusal::Overloaded { after } => Self { retry_after: Some(after), ..Self::new(Code::Overloaded, text) },
            // What exactly is wrong with the database is for the log, which the engine writes, not for callers.
            Refusal::Unavailable { .. } => Self::new(
                Code::Unavailable,
                "not known to be kept: the store does not answer; submit again, with the same idempotency key if a second copy would hurt",
            ),
            Refusal::NotKept { .. } => {
                Self::new(Code::Internal, "the database refuses to keep the message; nothing was kept, and the log of this node says why")
            }
            Refusal::Draining => Self::new(Code::Draining, "the node is stopping and accepts nothing more; nothing was kept"),
        }
    }
}

impl From<store::Error> for Problem {
    fn from(error: store::Error) -> Self {
        if matches!(error, store::Error::Busy(_)) {
            return Self::new(Code::Overloaded, "too many requests are reading messages; try again");
        }
        if matches!(error, store::Error::Refused(_)) {
            tracing::error!(error.detail = error.to_string(), "the resend log could not be read or changed");
            return Self::new(Code::Internal, "the store refused; the log of this node says why");
        }
        tracing::warn!(error.detail = error.to_string(), error.transient = error.is_transient(), "the resend log can't be reached");
        Self::new(Code::Unavailable, "the store does not answer; try again")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use http_body_util::BodyExt;

    use super::*;

    async fn read(problem: Problem) -> (Response<()>, serde_json::Value) {
        let (parts, body) = problem.into_response().into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        (Response::from_parts(parts, ()), serde_json::from_slice(&bytes).unwrap())
    }

    #[tokio::test]
    async fn a_problem_is_written_as_rfc_9457_says() {
        let (response, body) = read(Problem::field("retry.jitter", "2 is not between 0 and 1")).await;
        assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
        assert_eq!(
            body,
            serde_json::json!({
                "type": "urn:redrive:error:invalid_field", "title": "A field is not valid", "status": 422,
                "code": "invalid_field", "detail": "2 is not between 0 and 1", "field": "retry.jitter",
            })
        );
    }

    #[tokio::test]
    async fn who_must_wait_is_told_how_long_in_whole_seconds_and_never_zero() {
        for (millis, seconds) in [(0, "1"), (1, "1"), (1000, "1"), (1001, "2")] {
            let (response, _) = read(Refusal::Overloaded { after: Duration::from_millis(millis) }.into()).await;
            assert_eq!((response.status().as_u16(), &response.headers()[RETRY_AFTER]), (429, &HeaderValue::from_static(seconds)));
        }
        let (response, body) = read(store::Error::Busy(Duration::from_secs(2)).into()).await;
        assert_eq!(
            (response.status().as_u16(), &response.headers()[RETRY_AFTER], &body["code"]),
            (429, &HeaderValue::from_static("1"), &"overloaded".into())
        );
        assert_eq!(body["detail"], "too many requests are reading messages; try again");
        let (response, _) = read(Refusal::Draining.into()).await;
        assert_eq!((response.status().as_u16(), &response.headers()[RETRY_AFTER]), (503, &HeaderValue::from_static("1")));
        assert_eq!(response.headers()[CONNECTION], "close");
    }

    #[tokio::test]
    async fn what_is_wrong_with_the_database_is_not_told() {
        for error in [store::Error::Refused("secret-host".into()), store::Error::Unavailable("secret-host".into())] {
            let (_, body) = read(error.into()).await;
            assert!(!body.to_string().contains("secret-host"), "{body}");
        }
        let (response, body) = read(Refusal::NotKept { detail: "secret-host".into() }.into()).await;
        assert_eq!((response.status().as_u16(), &body["code"]), (500, &"internal".into()));
        assert!(!body.to_string().contains("secret-host"), "{body}");
        let (response, body) = read(Refusal::Unavailable { detail: "secret-host".into() }.into()).await;
        assert_eq!(response.status().as_u16(), 503);
        assert!(!body.to_string().contains("secret-host"), "{body}");
    }

    #[test]
    fn an_unknown_source_is_404_in_a_path_and_422_in_a_body() {
        let problem = Problem::from(Refusal::UnknownSource { name: "x".into(), known: vec![] });
        assert_eq!((problem.status.as_u16(), problem.of_path().status.as_u16()), (422, 404));
    }

    #[test]
    fn each_code_stands_in_the_list_and_in_the_document() {
        let names: BTreeSet<_> = Code::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(names.len(), Code::ALL.len());
        let document = include_str!("../../docs/api.md");
        let listed: BTreeSet<_> = document
            .lines()
            .skip_while(|line| !line.starts_with("| code |"))
            .skip(2)
            .take_while(|line| line.starts_with('|'))
            .filter_map(|line| line.split('`').nth(1))
            .collect();
        assert_eq!(listed, names);
        for code in Code::ALL {
            let row = document.lines().find(|line| line.starts_with(&format!("| `{}` |", code.as_str()))).unwrap();
            assert!(row.contains(code.status().as_str()), "{row}");
        }
    }
}

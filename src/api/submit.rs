//! `POST /v1/messages`: one message as a JSON object.

use axum::body::Body;
use axum::extract::State;
use axum::http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use axum::http::{HeaderMap, Request};
use axum::response::Response;
use bytes::Bytes;
use http_body_util::BodyExt;

use super::item::{self, Take};
use super::problem::{Code, Problem};
use super::{App, answer};

/// The header that may stand for the field `idempotency_key`.
const IDEMPOTENCY_KEY: &str = "idempotency-key";

pub(super) async fn submit(State(app): State<App>, request: Request<Body>) -> Result<Response, Problem> {
    let (head, body) = request.into_parts();
    no_query(head.uri.query())?;
    content_type(&head.headers, &["application/json"])?;
    let body = whole(body).await?;
    let mut submission = item::parse(&body, &body, Take::Share)?;
    if let Some(key) = idempotency_key(&head.headers)? {
        match &submission.idempotency_key {
            Some(own) if *own != key => {
                return Err(Problem::field("idempotency_key", "the field and the header Idempotency-Key differ; give one of them"));
            }
            _ => submission.idempotency_key = Some(key),
        }
    }
    Ok(answer::accepted(&app.handle().submit(submission).await?))
}

/// The body, which the gate has already read: nothing waits here and nothing is copied.
pub(super) async fn whole(body: Body) -> Result<Bytes, Problem> {
    match body.collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) => Err(Problem::new(Code::IncompleteBody, format!("the request body ended early: {error}"))),
    }
}

/// Refuses a query where none is read.
pub(super) fn no_query(query: Option<&str>) -> Result<(), Problem> {
    match query.unwrap_or_default().split(['=', '&']).find(|key| !key.is_empty()) {
        None => Ok(()),
        Some(key) => Err(Problem::new(Code::UnknownField, "no query is read at this path").at(key.to_owned())),
    }
}

/// Which of `wanted` the body is; anything else is refused.
pub(super) fn content_type(headers: &HeaderMap, wanted: &[&'static str]) -> Result<&'static str, Problem> {
    plain(headers, "send the body as it is")?;
    let given = headers.get(CONTENT_TYPE).map(|value| String::from_utf8_lossy(value.as_bytes()));
    let essence = given.as_deref().unwrap_or_default().split(';').next().unwrap_or_default().trim();
    wanted.iter().copied().find(|known| known.eq_ignore_ascii_case(essence)).ok_or_else(|| {
        let given = if given.is_some() { format!("`{}` is not read here", essence.escape_debug()) } else { "there is none".to_owned() };
        Problem::new(Code::UnsupportedMediaType, format!("Content-Type: {given}; send {}", wanted.join(" or "))).at("Content-Type")
    })
}

/// Refuses a body that is encoded: it would be passed on without a word of its encoding.
pub(super) fn plain(headers: &HeaderMap, advice: &str) -> Result<(), Problem> {
    match headers.get(CONTENT_ENCODING) {
        Some(encoding) if !encoding.as_bytes().eq_ignore_ascii_case(b"identity") => {
            Err(Problem::new(Code::UnsupportedMediaType, format!("no Content-Encoding is read here; {advice}")).at("Content-Encoding"))
        }
        _ => Ok(()),
    }
}

/// The idempotency key that a header gives.
pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Problem::field("idempotency_key", "the header Idempotency-Key is given twice"));
    }
    match std::str::from_utf8(value.as_bytes()) {
        Ok(text) => Ok(Some(text.to_owned())),
        Err(_) => Err(Problem::field("idempotency_key", "the header Idempotency-Key is not UTF-8")),
    }
}

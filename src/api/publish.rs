//! `POST /v1/publish/{source}` and `/v1/publish/{source}/{topic}`: the body is the payload.

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use axum::http::{HeaderMap, Request};
use axum::response::Response;
use bytes::Bytes;

use super::problem::{Code, Problem};
use super::query::Query;
use super::submit::{idempotency_key, plain, whole};
use super::{App, answer, item};
use crate::engine::Submission;
use crate::message::{Headers, Key};
use crate::source::options::Mode;
use crate::units::Span;

/// The query keys that are read.
const QUERY: [&str; 5] = ["key", "delay", "due_at", "priority", "mode"];
/// The prefix of request headers that become headers of the message.
const PREFIX: &str = "redrive-header-";

pub(super) async fn publish(State(app): State<App>, path: Result<Path<String>, PathRejection>, request: Request<Body>) -> Result<Response, Problem> {
    let Path(source) = path.map_err(not_text)?;
    let (head, body) = request.into_parts();
    take(&app, source, None, &head, whole(body).await?).await
}

pub(super) async fn publish_to(
    State(app): State<App>,
    path: Result<Path<(String, String)>, PathRejection>,
    request: Request<Body>,
) -> Result<Response, Problem> {
    let Path((source, topic)) = path.map_err(not_text)?;
    let (head, body) = request.into_parts();
    take(&app, source, Some(topic), &head, whole(body).await?).await
}

fn not_text(_: PathRejection) -> Problem {
    Problem::new(Code::InvalidField, "the source and topic of the path are not UTF-8")
}

/// Accepts a payload for a source and, if the path has one, a topic.
pub(super) async fn take(app: &App, source: String, topic: Option<String>, head: &Parts, payload: Bytes) -> Result<Response, Problem> {
    let submission = submission(head, source, topic, payload)?;
    let accepted = app.handle().submit(submission).await.map_err(|refusal| Problem::from(refusal).of_path())?;
    Ok(answer::accepted(&accepted))
}

fn submission(head: &Parts, source: String, topic: Option<String>, body: Bytes) -> Result<Submission, Problem> {
    let query = Query::parse(head.uri.query(), &QUERY)?;
    plain(&head.headers, "tell the consumer with `Redrive-Header-Content-Encoding`")?;
    // Most requests have no query and one header: nothing is looked up for them.
    let (key, due, priority, mode) = if query.is_empty() {
        (None, None, 0, None)
    } else {
        (
            query.owned("key").map(Key::Text),
            item::due(query.value::<Span>("delay")?, query.time("due_at")?)?,
            item::priority(query.number("priority")?),
            query.text("mode").map(mode).transpose()?,
        )
    };
    let idempotency_key = idempotency_key(&head.headers)?;
    let headers = headers(&head.headers)?;
    // A small payload is copied, because it would keep the connection's whole buffer in memory while it waits.
    let payload = if body.len() <= super::SMALL { Bytes::copy_from_slice(&body) } else { body };
    Ok(Submission { topic, key, headers, priority, due, idempotency_key, mode, ..Submission::new(source, payload) })
}

fn mode(text: &str) -> Result<Mode, Problem> {
    [Mode::WriteAhead, Mode::OnFailure]
        .into_iter()
        .find(|mode| mode.as_str() == text)
        .ok_or_else(|| Problem::field("mode", "must be write_ahead or on_failure"))
}

/// The headers that become the message's. Their names are in lower case, as HTTP libraries deliver them.
fn headers(headers: &HeaderMap) -> Result<Headers, Problem> {
    let mut pairs = Vec::new();
    for (name, value) in headers {
        let name = match name.as_str().strip_prefix(PREFIX) {
            Some(name) => name,
            None if name == CONTENT_TYPE => "content-type",
            None => continue,
        };
        let Ok(value) = std::str::from_utf8(value.as_bytes()) else {
            return Err(Problem::field("headers", format!("the value of `{name}` is not UTF-8")));
        };
        pairs.push((name.to_owned(), value.to_owned()));
    }
    Ok(Headers::new(pairs))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Due;

    fn parse(uri: &str, headers: &[(&str, &[u8])], body: &'static [u8]) -> Result<Submission, Problem> {
        let mut request = Request::builder().uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (head, ()) = request.body(()).unwrap().into_parts();
        submission(&head, "s".into(), None, Bytes::from_static(body))
    }

    fn field(uri: &str, headers: &[(&str, &[u8])]) -> String {
        let problem = parse(uri, headers, b"").expect_err(uri);
        serde_json::to_value(problem.item()).unwrap()["field"].as_str().unwrap_or_default().to_owned()
    }

    #[test]
    fn the_body_is_the_payload_and_an_empty_one_an_empty_payload() {
        assert_eq!(parse("/", &[], b"\xff\0").unwrap().payload.unwrap(), &b"\xff\0"[..]);
        assert_eq!(parse("/", &[], b"").unwrap().payload, Some(Bytes::new()), "no tombstone");
        let large: &'static [u8] = Box::leak(vec![7; super::super::SMALL + 1].into_boxed_slice());
        assert_eq!(parse("/", &[], large).unwrap().payload.unwrap().as_ptr(), large.as_ptr(), "not copied");
    }

    #[test]
    fn the_query_and_the_headers_arrive() {
        let submission = parse(
            "/?key=o%2F17&delay=5s&priority=9&mode=on_failure",
            &[("content-type", b"text/plain"), ("Redrive-Header-Tenant", "é".as_bytes()), ("idempotency-key", b"k"), ("accept", b"*/*")],
            b"x",
        )
        .unwrap();
        assert_eq!((submission.key, submission.priority, submission.mode), (Some(Key::Text("o/17".into())), 9, Some(Mode::OnFailure)));
        assert!(matches!(submission.due, Some(Due::After(delay)) if delay.as_secs() == 5));
        let headers: Vec<_> = submission.headers.iter().collect();
        assert_eq!(headers, [("content-type", "text/plain"), ("tenant", "é")]);
        assert_eq!(submission.idempotency_key.as_deref(), Some("k"));
        assert!(matches!(parse("/?due_at=2026-01-31T12:00:00%2B02:00", &[], b"").unwrap().due, Some(Due::At(_))));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (uri, name) in [
            ("/?topic=x", "topic"),
            ("/?expires_after=2d", "expires_after"),
            ("/?priority=high", "priority"),
            ("/?delay=5", "delay"),
            ("/?delay=5s&due_at=2026-01-31T12:00:00Z", "due_at"),
            ("/?due_at=soon", "due_at"),
            ("/?mode=now", "mode"),
            ("/?key=a&key=b", "key"),
            ("/?key=%ff", "key"),
        ] {
            assert_eq!(field(uri, &[]), name, "{uri}");
        }
        let mode = parse("/?mode=foo", &[], b"").unwrap_err();
        assert_eq!(serde_json::to_value(mode.item()).unwrap()["detail"], "must be write_ahead or on_failure");
        for uri in ["/?priority=300", "/?priority=-1", "/?priority=99999999999999999999"] {
            let invalid = parse(uri, &[], b"").unwrap().check().unwrap_err();
            assert_eq!((&*invalid.field, invalid.detail.as_str()), ("priority", "must be between 0 and 9"), "{uri}");
        }
        assert_eq!(field("/", &[("redrive-header-a", b"\xff")]), "headers");
        assert_eq!(field("/", &[("idempotency-key", b"1"), ("idempotency-key", b"2")]), "idempotency_key");
        assert_eq!(field("/", &[("content-encoding", b"gzip")]), "Content-Encoding");
    }
}

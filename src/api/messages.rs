//! `/v1/messages`: looking at messages and acting on them.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, RawQuery, State};
use axum::http::{Request, StatusCode};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;
use uuid::Uuid;

use super::problem::{Code, Problem};
use super::query::{NO_ID, Query, parse_id};
use super::submit::{content_type, no_query, plain, whole};
use super::{App, MAX_IDS, MAX_PAGE, PAGE, READER_WAIT, answer, item};
use crate::message::State as MessageState;
use crate::retry::Policy;
use crate::store::{Changed, List};
use crate::view::{AttemptView, ChangeView, MessageView, PageView, not_failed, wrong_state};

const FILTERS: [&str; 13] = [
    "state",
    "source",
    "topic",
    "key",
    "idempotency_key",
    "error_code",
    "since",
    "until",
    "finished_since",
    "finished_until",
    "limit",
    "after",
    "include",
];

/// The id in the path. A text that is not an id can't be that of a message.
type Id = Result<Path<String>, PathRejection>;

fn id(path: Id) -> Result<Uuid, Problem> {
    let Ok(Path(text)) = path else {
        return Err(Problem::new(Code::NotFound, "the id in the path is not UTF-8"));
    };
    parse_id(&text).ok_or_else(|| Problem::new(Code::NotFound, format!("`{}` {NO_ID}", text.escape_debug())))
}

/// A list, as an object so that fields can be added.
#[derive(Serialize)]
struct Items<T> {
    items: Vec<T>,
}

pub(super) async fn get(State(app): State<App>, path: Id, RawQuery(query): RawQuery) -> Result<Response, Problem> {
    no_query(query.as_deref())?;
    let id = id(path)?;
    let permit = reader(&app).await?;
    let record = app.handle().get(id, true).await?.ok_or_else(|| Problem::no_message(id))?;
    let policy = max_retries(&app, &record.source);
    Ok(answer::holding(answer::json(StatusCode::OK, &MessageView::new(record, policy, true)), permit))
}

pub(super) async fn list(State(app): State<App>, RawQuery(query): RawQuery) -> Result<Response, Problem> {
    let list = filters(app.handle().project(), query.as_deref())?;
    let payload = list.payload;
    let permit = reader(&app).await?;
    let page = app.handle().store().list(list).await?;
    let view = PageView::new(page, |source| max_retries(&app, source), payload);
    Ok(answer::holding(answer::json(StatusCode::OK, &view), permit))
}

fn filters(project: &str, query: Option<&str>) -> Result<List, Problem> {
    let query = Query::parse(query, &FILTERS)?;
    let limit = query.number("limit")?.map_or(Some(PAGE), |limit| u32::try_from(limit).ok());
    let Some(limit) = limit.filter(|limit| (1..=MAX_PAGE).contains(limit)) else {
        return Err(Problem::field("limit", format!("must be between 1 and {MAX_PAGE}")));
    };
    let payload = match query.text("include") {
        None => false,
        Some("payload") => true,
        Some(_) => return Err(Problem::field("include", "only `payload` can be included")),
    };
    Ok(List {
        project: project.to_owned(),
        state: query.value("state")?,
        source: query.owned("source"),
        topic: query.owned("topic"),
        key: query.owned("key"),
        idempotency_key: query.owned("idempotency_key"),
        error_code: query.owned("error_code"),
        since: query.time("since")?,
        until: query.time("until")?,
        finished_since: query.time("finished_since")?,
        finished_until: query.time("finished_until")?,
        limit,
        after: query.value("after")?,
        payload,
    })
}

pub(super) async fn attempts(State(app): State<App>, path: Id, RawQuery(query): RawQuery) -> Result<Response, Problem> {
    no_query(query.as_deref())?;
    let id = id(path)?;
    let attempts = app.handle().attempts(id).await?.ok_or_else(|| Problem::no_message(id))?;
    Ok(answer::json(StatusCode::OK, &Items { items: attempts.into_iter().map(AttemptView::from).collect() }))
}

pub(super) async fn retry(State(app): State<App>, path: Id, RawQuery(query): RawQuery) -> Result<Response, Problem> {
    no_query(query.as_deref())?;
    let id = id(path)?;
    let changed = app.handle().retry(vec![id]).await?;
    one(StatusCode::ACCEPTED, id, changed.first().copied(), |state| wrong_state(state, "retried"))
}

pub(super) async fn cancel(State(app): State<App>, path: Id, RawQuery(query): RawQuery) -> Result<Response, Problem> {
    no_query(query.as_deref())?;
    let id = id(path)?;
    let changed = app.handle().cancel(vec![id]).await?;
    one(StatusCode::OK, id, changed.first().copied(), |state| wrong_state(state, "cancelled"))
}

/// The answer to a change of one message; `refusal` explains why its state does not allow it.
fn one(status: StatusCode, id: Uuid, changed: Option<Changed>, refusal: impl FnOnce(MessageState) -> String) -> Result<Response, Problem> {
    match changed {
        Some(Changed::Done(state)) => Ok(answer::changed(status, id, state)),
        Some(Changed::Wrong(state)) => Err(Problem::new(Code::WrongState, refusal(state))),
        Some(Changed::NotFound) | None => Err(Problem::no_message(id)),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Ids {
    ids: Vec<String>,
}

pub(super) async fn retry_many(State(app): State<App>, request: Request<Body>) -> Result<Response, Problem> {
    let (head, body) = request.into_parts();
    no_query(head.uri.query())?;
    content_type(&head.headers, &["application/json"])?;
    let ids = ids(&whole(body).await?)?;
    let changed = if ids.is_empty() { Vec::new() } else { app.handle().retry(ids.clone()).await? };
    let items = ids.into_iter().zip(changed).map(|(id, changed)| ChangeView::new(id, changed, "retried")).collect();
    Ok(answer::json(StatusCode::OK, &Items { items }))
}

fn ids(body: &[u8]) -> Result<Vec<Uuid>, Problem> {
    let Ids { ids } = item::read(body)?;
    if ids.len() > MAX_IDS {
        return Err(Problem::new(Code::TooManyItems, format!("at most {MAX_IDS} ids at once")).at("ids"));
    }
    let id = |(index, text): (usize, &String)| parse_id(text).ok_or_else(|| Problem::field(format!("ids[{index}]"), NO_ID));
    ids.iter().enumerate().map(id).collect()
}

pub(super) async fn replace_payload(State(app): State<App>, path: Id, request: Request<Body>) -> Result<Response, Problem> {
    let (head, body) = request.into_parts();
    no_query(head.uri.query())?;
    plain(&head.headers, "send the payload exactly as it should be delivered")?;
    let id = id(path)?;
    let body = whole(body).await?;
    let record = app.handle().get(id, false).await?.ok_or_else(|| Problem::no_message(id))?;
    if let Some(source) = app.handle().source(&record.source) {
        let max = source.options.max_payload.bytes();
        if body.len() > max {
            let detail = format!("the payload has {} bytes; source `{}` takes at most {max}", body.len(), record.source);
            return Err(Problem::new(Code::PayloadTooLarge, detail).at("payload"));
        }
    }
    let changed = app.handle().replace_payload(id, body).await?;
    one(StatusCode::OK, id, Some(changed), not_failed)
}

/// The value in a source's policy, for messages that don't override it.
fn max_retries(app: &App, source: &str) -> Option<u32> {
    let source = app.handle().source(source)?;
    Some(Policy::of(&source.options.retry).max_retries())
}

/// Waits until another answer that shows messages may be assembled.
async fn reader(app: &App) -> Result<OwnedSemaphorePermit, Problem> {
    let permit = timeout(READER_WAIT, Arc::clone(&app.0.readers).acquire_owned()).await;
    permit.ok().and_then(Result::ok).ok_or_else(|| Problem::new(Code::Overloaded, "too many large reads in progress; try again"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Id;

    fn field(query: &str) -> String {
        let problem = filters("p", Some(query)).expect_err(query);
        serde_json::to_value(problem.item()).unwrap()["field"].as_str().unwrap_or_default().to_owned()
    }

    #[test]
    fn filters_are_read() {
        let after = Uuid::now_v7();
        let text = format!(
            "state=failed&source=s&topic=t&key=k&idempotency_key=i&error_code=http_503&since=2026-01-01T00:00:00Z&until=2026-02-01T00:00:00%2B01:00&limit=1000&after={after}&include=payload"
        );
        let list = filters("p", Some(&text)).unwrap();
        assert_eq!(
            (list.project.as_str(), list.state, list.limit, list.after.clone(), list.payload),
            ("p", Some(MessageState::Failed), 1000, Some(Id::Known(after)), true)
        );
        assert_eq!((list.source.as_deref(), list.topic.as_deref(), list.key.as_deref()), (Some("s"), Some("t"), Some("k")));
        assert_eq!((list.idempotency_key.as_deref(), list.error_code.as_deref()), (Some("i"), Some("http_503")));
        assert_eq!(list.until.unwrap().to_rfc3339(), "2026-01-31T23:00:00+00:00");
        let list = filters("p", Some("finished_since=2026-01-01T00:00:00Z&finished_until=2026-02-01T00:00:00Z")).unwrap();
        assert_eq!([list.finished_since, list.finished_until].map(|time| time.unwrap().timestamp()), [1_767_225_600, 1_769_904_000]);
        let list = filters("p", None).unwrap();
        assert_eq!((list.limit, list.payload), (50, false));
    }

    #[test]
    fn every_state_is_a_filter() {
        for &state in MessageState::ALL {
            assert_eq!(filters("p", Some(&format!("state={state}"))).unwrap().state, Some(state));
        }
    }

    #[test]
    fn a_bad_filter_is_named() {
        for (query, name) in [
            ("state=done", "state"),
            ("limit=0", "limit"),
            ("limit=1001", "limit"),
            ("limit=-1", "limit"),
            ("limit=many", "limit"),
            ("after=7", "after"),
            ("since=yesterday", "since"),
            ("until=", "until"),
            ("finished_since=2h", "finished_since"),
            ("include=everything", "include"),
            ("page=2", "page"),
            ("limit=1&limit=2", "limit"),
        ] {
            assert_eq!(field(query), name, "{query}");
        }
    }

    #[test]
    fn a_bad_id_among_many_is_named_and_a_thousand_are_enough() {
        let (good, bad) = (Uuid::now_v7(), "nonsense");
        let problem = ids(format!(r#"{{"ids":["{good}","{bad}"]}}"#).as_bytes()).unwrap_err();
        assert_eq!(serde_json::to_value(problem.item()).unwrap()["field"], "ids[1]");
        let many = |count| serde_json::to_vec(&serde_json::json!({"ids": vec![good; count]})).unwrap();
        assert_eq!(ids(&many(MAX_IDS)).unwrap().len(), MAX_IDS);
        assert_eq!(ids(&many(MAX_IDS + 1)).unwrap_err().code(), Code::TooManyItems);
        for text in [r#"["x"]"#, r#"{"ids":"x"}"#, r#"{"ids":[7]}"#, "{}", r#"{"ids":[],"all":true}"#] {
            assert!(ids(text.as_bytes()).is_err(), "{text}");
        }
    }
}

//! `POST /v1/messages/batch`: many messages, with a verdict each.

use std::fmt;

use axum::body::Body;
use axum::extract::State;
use axum::http::{Request, StatusCode};
use axum::response::Response;
use bytes::Bytes;
use serde::de::{IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::item::{self, Take};
use super::problem::{Code, Problem};
use super::submit::{content_type, idempotency_key, no_query, whole};
use super::{App, MAX_BATCH, answer};
use crate::engine::{Accepted, Submission};

const ARRAY: &str = "application/json";
const LINES: [&str; 2] = ["application/x-ndjson", "application/ndjson"];

pub(super) async fn submit(State(app): State<App>, request: Request<Body>) -> Result<Response, Problem> {
    let (head, body) = request.into_parts();
    no_query(head.uri.query())?;
    let kind = content_type(&head.headers, &[ARRAY, LINES[0], LINES[1]])?;
    if idempotency_key(&head.headers)?.is_some() {
        return Err(Problem::field("idempotency_key", "a batch has no key of its own; give each item an `idempotency_key`"));
    }
    let body = whole(body).await?;
    let items = if kind == ARRAY { array(&body)? } else { lines(&body)? };
    drop(body);
    let (submissions, faults): (Vec<_>, Vec<_>) = apart(items);
    let taken = if submissions.is_empty() { Vec::new() } else { app.handle().submit_many(submissions).await };
    let verdicts = together(faults, taken.into_iter().map(|verdict| verdict.map_err(Problem::from)));
    respond(verdicts)
}

/// The result for an item, or what is wrong with it.
type Verdict = Result<Accepted, Problem>;

fn array(body: &Bytes) -> Result<Vec<Result<Submission, Problem>>, Problem> {
    let items: Items<'_> = serde_json::from_slice(body).map_err(|error| {
        let detail = format!("not a JSON array: {error}");
        if error.is_data() { Problem::new(Code::InvalidField, detail) } else { Problem::new(Code::MalformedJson, detail) }
    })?;
    if items.many {
        return Err(too_many());
    }
    Ok(items.items.into_iter().map(|raw| item::parse(body, raw.get().as_bytes(), Take::Copy)).collect())
}

fn lines(body: &Bytes) -> Result<Vec<Result<Submission, Problem>>, Problem> {
    let lines = || body.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).filter(|line| !line.is_empty());
    if lines().take(MAX_BATCH + 1).count() > MAX_BATCH {
        return Err(too_many());
    }
    Ok(lines().map(|line| item::parse(body, line, Take::Copy)).collect())
}

fn too_many() -> Problem {
    Problem::new(Code::TooManyItems, format!("a batch holds at most {MAX_BATCH} items"))
}

/// The items of an array; those past the limit are not kept.
struct Items<'a> {
    items: Vec<&'a RawValue>,
    many: bool,
}

impl<'de> Deserialize<'de> for Items<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Seq;
        impl<'de> Visitor<'de> for Seq {
            type Value = Items<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array of messages (newline-delimited JSON is application/x-ndjson)")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Items<'de>, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element()? {
                    if items.len() == MAX_BATCH {
                        while seq.next_element::<IgnoredAny>()?.is_some() {}
                        return Ok(Items { items: Vec::new(), many: true });
                    }
                    items.push(item);
                }
                Ok(Items { items, many: false })
            }
        }
        deserializer.deserialize_seq(Seq)
    }
}

/// Separates the submissions from the faults: for each item its fault, if it has one.
fn apart(items: Vec<Result<Submission, Problem>>) -> (Vec<Submission>, Vec<Option<Problem>>) {
    let mut submissions = Vec::with_capacity(items.len());
    let faults = items
        .into_iter()
        .map(|item| match item {
            Ok(submission) => {
                submissions.push(submission);
                None
            }
            Err(problem) => Some(problem),
        })
        .collect();
    (submissions, faults)
}

fn together(faults: Vec<Option<Problem>>, mut taken: impl Iterator<Item = Verdict>) -> Vec<Verdict> {
    let missing = || Err(Problem::new(Code::Internal, "there is no verdict for this item: not known to be kept"));
    faults
        .into_iter()
        .map(|fault| match fault {
            Some(problem) => Err(problem),
            None => taken.next().unwrap_or_else(missing),
        })
        .collect()
}

/// 200 with one verdict per item. But if nothing was accepted and no item is to blame, the batch is answered as a single message would be.
fn respond(verdicts: Vec<Verdict>) -> Result<Response, Problem> {
    let ours = |verdict: &Verdict| verdict.as_ref().is_err_and(Problem::is_ours);
    if !verdicts.is_empty() && verdicts.iter().all(ours) {
        // "Not known to be kept" outweighs "wait a little": the answer is 429 only if every item was told to wait.
        let weight = |problem: &Problem| match problem.code() {
            Code::Overloaded => 0,
            Code::Draining => 1,
            Code::Unavailable => 2,
            _ => 3,
        };
        if let Some(problem) = verdicts.into_iter().filter_map(Result::err).max_by_key(weight) {
            return Err(problem);
        }
        return Err(Problem::new(Code::Internal, "there is no verdict"));
    }
    let accepted = verdicts.iter().filter(|verdict| verdict.is_ok()).count();
    let mut text = Vec::with_capacity(64 + verdicts.len() * 80);
    text.extend_from_slice(format!(r#"{{"accepted":{accepted},"rejected":{},"items":["#, verdicts.len() - accepted).as_bytes());
    for (index, verdict) in verdicts.iter().enumerate() {
        if index > 0 {
            text.push(b',');
        }
        match verdict {
            Ok(accepted) => answer::write(&mut text, accepted),
            Err(problem) => {
                text.extend_from_slice(br#"{"error":"#);
                text.extend_from_slice(&serde_json::to_vec(&problem.item()).unwrap_or_else(|_| b"null".to_vec()));
                text.push(b'}');
            }
        }
    }
    text.extend_from_slice(b"]}");
    Ok(answer::written(StatusCode::OK, text))
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use serde_json::{Value, json};
    use uuid::Uuid;

    use super::*;
    use crate::engine::Refusal;
    use crate::message::State as MessageState;

    fn verdicts(items: Vec<Result<Submission, Problem>>) -> Vec<String> {
        items
            .into_iter()
            .map(|item| match item {
                Ok(submission) => submission.source,
                Err(problem) => problem.code().as_str().to_owned(),
            })
            .collect()
    }

    #[test]
    fn a_broken_line_is_its_own_fault() {
        let body =
            Bytes::from_static(b"{\"source\":\"a\",\"payload\":1}\r\n\n{broken\n  {\"source\":\"b\",\"payload\":2}  \n\xff\n[1]\n{\"source\":\"c\"}");
        assert_eq!(verdicts(lines(&body).unwrap()), ["a", "malformed_json", "b", "malformed_json", "invalid_field", "invalid_field"]);
    }

    #[test]
    fn a_broken_array_is_the_fault_of_the_whole_and_a_wrong_item_its_own() {
        for text in ["[", "", "[{\"source\":\"a\",\"payload\":1},", "[]x"] {
            assert_eq!(array(&Bytes::from(text)).unwrap_err().code(), Code::MalformedJson, "{text}");
        }
        assert_eq!(array(&Bytes::from("{}")).unwrap_err().code(), Code::InvalidField);
        let body = Bytes::from(r#"[{"source":"a","payload":1}, 7, {"source":"b","payload":1,"x":1}, null]"#);
        assert_eq!(verdicts(array(&body).unwrap()), ["a", "invalid_field", "unknown_field", "invalid_field"]);
        assert!(array(&Bytes::from("[]")).unwrap().is_empty());
    }

    #[test]
    fn ten_thousand_items_are_taken_and_no_more() {
        let array_of = |count: usize| Bytes::from(format!("[{}]", vec!["1"; count].join(",")));
        assert_eq!(array(&array_of(MAX_BATCH)).unwrap().len(), MAX_BATCH);
        assert_eq!(array(&array_of(MAX_BATCH + 1)).unwrap_err().code(), Code::TooManyItems);
        assert_eq!(lines(&Bytes::from("1\n".repeat(MAX_BATCH))).unwrap().len(), MAX_BATCH);
        assert_eq!(lines(&Bytes::from("1\n".repeat(MAX_BATCH + 1))).unwrap_err().code(), Code::TooManyItems);
    }

    async fn body(verdicts: Vec<Verdict>) -> Result<Value, Code> {
        let response = respond(verdicts).map_err(|problem| problem.code())?;
        assert_eq!(response.status(), StatusCode::OK);
        Ok(serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap())
    }

    #[tokio::test]
    async fn each_item_has_its_verdict_in_order() {
        let id = Uuid::now_v7();
        let verdicts = vec![
            Ok(Accepted::Kept { id, state: MessageState::Sending }),
            Err(Problem::field("topic", "no")),
            Err(Refusal::Conflict { id }.into()),
            Err(Refusal::Draining.into()),
            Ok(Accepted::Duplicate { id }),
        ];
        let body = body(verdicts).await.unwrap();
        assert_eq!((&body["accepted"], &body["rejected"]), (&json!(2), &json!(3)));
        let codes: Vec<_> = body["items"].as_array().unwrap().iter().map(|item| item["error"]["code"].as_str().unwrap_or("")).collect();
        assert_eq!(codes, ["", "invalid_field", "idempotency_conflict", "draining", ""]);
        assert_eq!(body["items"][0], json!({"id": id.to_string(), "state": "sending"}));
        assert_eq!(body["items"][1]["error"], json!({"code": "invalid_field", "detail": "no", "field": "topic"}));
        assert_eq!(body["items"][4]["duplicate"], json!(true));
    }

    #[tokio::test]
    async fn only_if_nothing_was_taken_and_no_item_is_to_blame_the_whole_is_refused() {
        let down = || Err(Refusal::Unavailable { detail: String::new() }.into());
        let full = || Err(Refusal::Overloaded { after: crate::engine::RETRY_AFTER }.into());
        let fault = || Err(Problem::field("topic", "no"));
        assert_eq!(body(vec![full(), down()]).await.unwrap_err(), Code::Unavailable);
        assert_eq!(body(vec![full(), full()]).await.unwrap_err(), Code::Overloaded);
        assert_eq!(body(vec![down(), fault()]).await.unwrap()["rejected"], 2);
        assert_eq!(body(vec![fault(), fault()]).await.unwrap()["rejected"], 2);
        assert_eq!(body(vec![]).await.unwrap(), json!({"accepted": 0, "rejected": 0, "items": []}));
    }
}

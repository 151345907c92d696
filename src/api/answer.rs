//! The answer to a message that was accepted, and how answers are written.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, LOCATION};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::sync::OwnedSemaphorePermit;
use uuid::Uuid;

use crate::engine::Accepted;
use crate::message::State;

/// The path of a message, without its id.
const MESSAGES: &str = "/v1/messages/";
const UUID: usize = uuid::fmt::Hyphenated::LENGTH;
/// Large enough for an answer with Kafka's result of a delivery.
const USUAL: usize = 256;

/// JSON, with a status.
pub(super) fn json(status: StatusCode, body: &impl Serialize) -> Response {
    match serde_json::to_vec(body) {
        Ok(text) => written(status, text),
        Err(error) => {
            tracing::error!(error.detail = error.to_string(), "an answer could not be written as JSON");
            super::Problem::new(super::Code::Internal, "the answer could not be written").into_response()
        }
    }
}

/// The answer, which holds its permit until it has been written.
pub(super) fn holding(response: Response, permit: OwnedSemaphorePermit) -> Response {
    response.map(|body| Body::new(Held { body, _permit: permit }))
}

/// A body that never reports its own end: hyper drops one that does as soon as it has the last frame, which may be the whole body, and only then
/// writes it.
struct Held {
    body: Body,
    _permit: OwnedSemaphorePermit,
}

impl hyper::body::Body for Held {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The answer to a single accepted message.
pub(super) fn accepted(accepted: &Accepted) -> Response {
    let mut text = Vec::with_capacity(USUAL);
    write(&mut text, accepted);
    match accepted {
        Accepted::Kept { id, .. } => located(written(StatusCode::ACCEPTED, text), *id),
        Accepted::Duplicate { .. } | Accepted::Delivered { .. } => written(StatusCode::OK, text),
    }
}

/// The answer to a change of one message.
pub(super) fn changed(status: StatusCode, id: Uuid, state: State) -> Response {
    let mut text = Vec::with_capacity(USUAL);
    write(&mut text, &Accepted::Kept { id, state });
    located(written(status, text), id)
}

/// The JSON object for an accepted message, assembled by hand because it is written for every message that comes in.
pub(super) fn write(text: &mut Vec<u8>, accepted: &Accepted) {
    text.extend_from_slice(br#"{"id":""#);
    text.extend_from_slice(accepted.id().as_hyphenated().encode_lower(&mut [0; UUID]).as_bytes());
    match accepted {
        Accepted::Kept { state, .. } => {
            text.extend_from_slice(br#"","state":""#);
            text.extend_from_slice(state.as_str().as_bytes());
            text.push(b'"');
        }
        Accepted::Duplicate { .. } => text.extend_from_slice(br#"","duplicate":true"#),
        Accepted::Delivered { result, .. } => {
            text.extend_from_slice(br#"","state":"succeeded""#);
            if let Some(result) = result {
                text.extend_from_slice(br#","result":"#);
                match serde_json::from_str::<&RawValue>(result) {
                    Ok(json) => text.extend_from_slice(json.get().as_bytes()),
                    // A result that was cut may no longer be valid JSON.
                    Err(_) => text.extend_from_slice(serde_json::Value::from(result.as_str()).to_string().as_bytes()),
                }
            }
        }
    }
    text.push(b'}');
}

/// JSON text, with a status.
pub(super) fn written(status: StatusCode, text: Vec<u8>) -> Response {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn located(mut response: Response, id: Uuid) -> Response {
    let mut path = [0; MESSAGES.len() + UUID];
    path[..MESSAGES.len()].copy_from_slice(MESSAGES.as_bytes());
    id.as_hyphenated().encode_lower(&mut path[MESSAGES.len()..]);
    if let Ok(value) = HeaderValue::from_bytes(&path) {
        response.headers_mut().insert(LOCATION, value);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(accepted: &Accepted) -> serde_json::Value {
        let mut text = Vec::new();
        write(&mut text, accepted);
        serde_json::from_slice(&text).unwrap()
    }

    #[test]
    fn each_answer_is_json_as_the_contract_says() {
        let id = Uuid::now_v7();
        let name = id.to_string();
        assert_eq!(text(&Accepted::Kept { id, state: State::Pending }), serde_json::json!({"id": name, "state": "pending"}));
        assert_eq!(text(&Accepted::Duplicate { id }), serde_json::json!({"id": name, "duplicate": true}));
        assert_eq!(text(&Accepted::Delivered { id, result: None }), serde_json::json!({"id": name, "state": "succeeded"}));
        for (result, shown) in [(r#"{"partition":3}"#, serde_json::json!({"partition": 3})), ("{\"cut", serde_json::json!("{\"cut"))] {
            assert_eq!(text(&Accepted::Delivered { id, result: Some(result.into()) })["result"], shown);
        }
    }

    #[test]
    fn a_kept_message_is_located() {
        let id = Uuid::now_v7();
        let response = accepted(&Accepted::Kept { id, state: State::Failed });
        assert_eq!((response.status().as_u16(), response.headers()[LOCATION].to_str().unwrap()), (202, format!("/v1/messages/{id}").as_str()));
        assert!(accepted(&Accepted::Delivered { id, result: None }).headers().get(LOCATION).is_none(), "it leaves no row");
    }
}

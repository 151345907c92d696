//! `kind: http`: one request per message, to an endpoint or to a handler beside the producer.
//!
//! The body is the payload, unchanged; the answer's status decides, by the table in `http/table.rs`. Redirects are never followed, because that could
//! carry credentials to a place that nobody configured. A 2xx answer counts as soon as its head is there: whatever happens to its body, the receiver
//! has taken the message and must not be sent it again.

mod config;
mod request;
mod signature;
mod table;
mod target;

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use chrono::Utc;
use reqwest::header::{CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue};
use tokio::time::Instant;

use super::{Source, answer};
use crate::message::Message;
use crate::outcome::{MAX_RESULT, Outcome};
use signature::Signer;
use target::Target;

pub use config::{Basic, Config, Method};

/// How much of an answer's body is read so that its connection can be reused; beyond that a new connection is cheaper.
const DRAIN_BYTES: usize = 64 << 10;
/// How long the body of an answer may take after its head.
const DRAIN_TIME: Duration = Duration::from_secs(1);

struct Http {
    client: reqwest::Client,
    target: Target,
    method: reqwest::Method,
    headers: HeaderMap,
    signer: Option<Signer>,
    timeout: Duration,
    keep_result: bool,
}

#[async_trait]
impl Source for Http {
    async fn send(&self, message: &Message) -> Outcome {
        let deadline = Instant::now() + self.timeout;
        let request = match self.request(message) {
            Ok(request) => request,
            Err(outcome) => return *outcome,
        };
        let response = match tokio::time::timeout_at(deadline, self.client.execute(request)).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return table::failed(error),
            Err(_) => return Outcome::unreachable("http_timeout", format!("no answer within {:?}", self.timeout)),
        };
        let status = response.status();
        let outcome = table::answered(status, response.headers());
        let body = drain(response, deadline.min(Instant::now() + DRAIN_TIME)).await;
        if self.keep_result { outcome.with_result(answer::json("status", status.as_u16().into(), "body", &body)) } else { outcome }
    }

    fn check(&self, topic: Option<&str>) -> Result<(), String> {
        self.target.url(topic).map(drop)
    }
}

impl Http {
    /// The request for a message; one that HTTP can't express is refused for good.
    fn request(&self, message: &Message) -> Result<reqwest::Request, Box<Outcome>> {
        let unsendable = |code, detail: String| Box::new(Outcome::unsendable(code, detail));
        let url = self.target.url(message.topic.as_deref()).map_err(|detail| unsendable("http_topic", detail))?;
        let id = message.id.to_string();
        let mut headers =
            request::headers(message, &id, &self.headers, self.signer.is_some()).map_err(|detail| unsendable("http_headers", detail))?;
        let body = message.payload.clone().unwrap_or_default();
        if let Some(signer) = &self.signer {
            // By the database's clock: receivers refuse what seems old, and this machine's clock may be wrong.
            sign(signer, &id, message.began_at.unwrap_or_else(Utc::now).timestamp(), &body, &mut headers);
        }
        // Always sent, even for an empty body with DELETE, where the client library would omit it.
        headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
        let mut request = reqwest::Request::new(self.method.clone(), url);
        *request.headers_mut() = headers;
        *request.body_mut() = Some(body.into());
        Ok(request)
    }
}

fn sign(signer: &Signer, id: &str, timestamp: i64, body: &Bytes, headers: &mut HeaderMap) {
    let signature = signer.sign(id, timestamp, body);
    for (name, value) in [("webhook-id", id), ("webhook-timestamp", &timestamp.to_string()), ("webhook-signature", &signature)] {
        // A UUID, a number and base64 contain nothing that a header value may not.
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
}

/// Reads the body of an answer, keeps its beginning, and gives up if it is long or slow.
async fn drain(mut response: reqwest::Response, deadline: Instant) -> Vec<u8> {
    let mut kept = Vec::new();
    let mut seen = 0_usize;
    let reading = async {
        while let Ok(Some(chunk)) = response.chunk().await {
            let room = MAX_RESULT.saturating_sub(kept.len()).min(chunk.len());
            kept.extend_from_slice(&chunk[..room]);
            seen = seen.saturating_add(chunk.len());
            if seen > DRAIN_BYTES {
                break;
            }
        }
    };
    // What has been read so far is kept either way.
    let _ = tokio::time::timeout_at(deadline, reading).await;
    kept
}

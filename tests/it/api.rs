//! The HTTP API of the whole application, on SQLite. Every answer is checked against `docs/openapi.yaml`.

mod act;
mod document;
mod look;
mod publish;
mod refuse;
mod submit;

use std::time::Duration;

use reqwest::header::{CONTENT_TYPE, HeaderMap};
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::support::app::{Running, start};

/// A client of an application.
pub(crate) struct Client {
    pub(crate) app: Running,
    http: reqwest::Client,
}

/// An answer, completely read.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The id of an accepted message.
    pub(crate) fn id(&self) -> String {
        self.json()["id"].as_str().unwrap_or_else(|| panic!("{self:?}")).to_owned()
    }

    /// The code and field of a problem, whose form is checked.
    pub(crate) fn problem(&self) -> (u16, String, String) {
        let body = self.json();
        assert_eq!(self.headers[CONTENT_TYPE], "application/problem+json", "{self:?}");
        assert_eq!(body["status"], self.status, "{self:?}");
        let code = body["code"].as_str().unwrap_or_else(|| panic!("{self:?}"));
        assert_eq!(body["type"], format!("urn:redrive:error:{code}"));
        (self.status, code.to_owned(), body["field"].as_str().unwrap_or_default().to_owned())
    }
}

/// An application that accepts messages, with this added to its configuration.
pub(crate) async fn client(yaml: &str) -> Client {
    let client = Client { app: start(yaml).await, http: reqwest::Client::new() };
    client.until_ready().await;
    client
}

impl Client {
    pub(crate) async fn until_ready(&self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let answer = self.get("/readyz").await;
            if answer.status == 200 {
                return;
            }
            assert!(Instant::now() < deadline, "{answer:?}");
            sleep(Duration::from_millis(10)).await;
        }
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, self.app.url(path))
    }

    /// Sends a request and checks its answer against the document.
    pub(crate) async fn send(&self, request: RequestBuilder) -> Answer {
        let request = request.build().expect("a request");
        let (method, path) = (request.method().clone(), request.url().path().to_owned());
        let response = self.http.execute(request).await.expect("an answer");
        let (status, headers) = (response.status(), response.headers().clone());
        let text = String::from_utf8(response.bytes().await.expect("a body").to_vec()).expect("text");
        document::assert_documented(&method, &path, status);
        if status == StatusCode::TOO_MANY_REQUESTS || (status == StatusCode::SERVICE_UNAVAILABLE && path != "/readyz") {
            assert!(headers["retry-after"].to_str().unwrap().parse::<u32>().unwrap() >= 1);
        }
        Answer { status: status.as_u16(), headers, text }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(self.request(Method::GET, path)).await
    }

    pub(crate) async fn post(&self, path: &str) -> Answer {
        self.send(self.request(Method::POST, path)).await
    }

    pub(crate) async fn post_json(&self, path: &str, body: impl Into<reqwest::Body>) -> Answer {
        self.send(self.request(Method::POST, path).header(CONTENT_TYPE, "application/json").body(body)).await
    }

    /// Submits a message to `main` with these additional fields; returns its id.
    pub(crate) async fn submitted(&self, fields: &str) -> String {
        let answer = self.post_json("/v1/messages", format!(r#"{{"source":"main","payload":"x"{fields}}}"#)).await;
        assert_eq!(answer.status, 202, "{answer:?}");
        answer.id()
    }

    pub(crate) async fn message(&self, id: &str) -> Value {
        let answer = self.get(&format!("/v1/messages/{id}")).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    }

    /// The message once it is in this state.
    pub(crate) async fn until(&self, id: &str, state: &str) -> Value {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let message = self.message(id).await;
            if message["state"] == state {
                return message;
            }
            assert!(Instant::now() < deadline, "not {state}: {message}");
            sleep(Duration::from_millis(5)).await;
        }
    }
}

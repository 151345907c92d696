//! What is refused, and what happens while the store is away or the node is stopping.

use std::net::TcpListener;
use std::time::Duration;

use reqwest::Method;
use reqwest::header::CONTENT_TYPE;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Client, client};
use crate::support::app::start;
use crate::support::{Raw, eventually};

#[tokio::test]
async fn nonsense_is_refused_with_a_code_and_the_field() {
    let client = client("sources: { main: { kind: scripted, max_payload: 8B } }").await;
    let long = "x".repeat(2000);
    for (body, status, code, field) in [
        ("", 400, "malformed_json", ""),
        ("{", 400, "malformed_json", ""),
        ("[]", 422, "invalid_field", ""),
        ("{}", 422, "invalid_field", "source"),
        (r#"{"source":"main"}"#, 422, "invalid_field", "payload"),
        (r#"{"source":"nowhere","payload":"x"}"#, 422, "unknown_source", "source"),
        (r#"{"source":"main","payload":"x","colour":"red"}"#, 422, "unknown_field", "colour"),
        (r#"{"source":"main","payload":"x","order_key":"o"}"#, 422, "not_supported", "order_key"),
        (r#"{"source":"main","payload":"x","topic":""}"#, 422, "invalid_field", "topic"),
        (&format!(r#"{{"source":"main","payload":"x","topic":"{long}"}}"#), 422, "invalid_field", "topic"),
        (r#"{"source":"main","payload":"x","topic":"a\u0000b"}"#, 422, "invalid_field", "topic"),
        (r#"{"source":"main","payload":"x","topic":"no such"}"#, 422, "invalid_field", "topic"),
        (&format!(r#"{{"source":"main","payload":"x","key":"{}"}}"#, long.repeat(9)), 422, "invalid_field", "key"),
        (r#"{"source":"main","payload":"x","priority":10}"#, 422, "invalid_field", "priority"),
        (r#"{"source":"main","payload":"x","headers":{"a b":"c"}}"#, 422, "invalid_field", "headers"),
        (r#"{"source":"main","payload":"x","headers":{"a":"b\r\nc: d"}}"#, 422, "invalid_field", "headers"),
        (r#"{"source":"main","payload":"x","headers":{"a":"1","a":"2"}}"#, 422, "invalid_field", "headers"),
        (r#"{"source":"main","payload":"x","retry":{"jitter":2}}"#, 422, "invalid_field", "retry.jitter"),
        (r#"{"source":"main","payload":"x","retry":{"max_retries":1000001}}"#, 422, "invalid_field", "retry.max_retries"),
        (r#"{"source":"main","payload":"x","retry":{"multiplier":1e400}}"#, 422, "invalid_field", "retry.multiplier"),
        (r#"{"source":"main","payload":"x","topic":"\ud800"}"#, 422, "invalid_field", "topic"),
        (r#"{"source":"main","payload":"x","idempotency_key":""}"#, 422, "invalid_field", "idempotency_key"),
        (r#"{"source":"main","payload":"123456789"}"#, 413, "payload_too_large", "payload"),
    ] {
        assert_eq!(client.post_json("/v1/messages", body.to_owned()).await.problem(), (status, code.into(), field.into()), "{body}");
    }
    assert!(client.get("/v1/messages").await.json()["items"].as_array().unwrap().is_empty());
    client.app.end().await;
}

#[tokio::test]
async fn a_content_type_that_is_not_read_is_415() {
    let client = client("").await;
    let body = r#"{"source":"main","payload":"x"}"#;
    for path in ["/v1/messages", "/v1/messages/batch", "/v1/messages/retry"] {
        for kind in [None, Some("text/plain"), Some("application/x-www-form-urlencoded"), Some("")] {
            let mut request = client.request(Method::POST, path).body(body);
            if let Some(kind) = kind {
                request = request.header(CONTENT_TYPE, kind);
            }
            assert_eq!(client.send(request).await.problem().1, "unsupported_media_type", "{path} {kind:?}");
        }
    }
    let with_charset = client.request(Method::POST, "/v1/messages").header(CONTENT_TYPE, "Application/JSON; charset=utf-8").body(body);
    assert_eq!(client.send(with_charset).await.status, 202);
    let zipped = client.request(Method::POST, "/v1/messages").header(CONTENT_TYPE, "application/json").header("Content-Encoding", "gzip");
    assert_eq!(client.send(zipped.body(body)).await.problem().1, "unsupported_media_type");
    client.app.end().await;
}

#[tokio::test]
async fn a_query_that_is_not_read_is_422() {
    let client = client("").await;
    for path in ["/v1/messages/batch", "/v1/messages/retry"] {
        assert_eq!(client.post_json(&format!("{path}?dry_run=true"), "[]").await.problem(), (422, "unknown_field".into(), "dry_run".into()));
    }
    for query in ["limit=0", "limit=1001", "state=done", "since=yesterday", "after=7", "include=all", "page=2"] {
        let answer = client.get(&format!("/v1/messages?{query}")).await;
        assert_eq!((answer.status, answer.problem().2.as_str()), (422, query.split('=').next().unwrap()), "{query}");
    }
    client.app.end().await;
}

#[tokio::test]
async fn while_the_store_is_away_it_lives_and_says_so() {
    // A port on which nothing answers.
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let app = start(&format!("store: {{ url: \"postgres://nobody:hunter2@{closed}/none\" }}")).await;
    let client = Client { app, http: reqwest::Client::new() };
    assert_eq!(client.get("/healthz").await.status, 200);
    let ready = client.get("/readyz").await;
    assert!(ready.status == 503 && !ready.text.contains("hunter2"), "{ready:?}");
    eventually(Duration::from_secs(10), async || (client.get("/readyz").await.json()["store"] == "the database can't be reached").then_some(()))
        .await;
    let answers = [
        client.post_json("/v1/messages", r#"{"source":"main","payload":"x"}"#).await,
        client.post_json("/v1/messages/batch", r#"[{"source":"main","payload":"x"}]"#).await,
        client.post("/v1/publish/main").await,
        client.get("/v1/messages").await,
        client.get("/v1/messages?include=payload").await,
        client.get("/v1/messages/01890a5d-ac96-774b-bcce-b302099a8057").await,
        client.get("/v1/messages/01890a5d-ac96-774b-bcce-b302099a8057/attempts").await,
        client.post("/v1/messages/01890a5d-ac96-774b-bcce-b302099a8057/retry").await,
        client.post("/v1/messages/01890a5d-ac96-774b-bcce-b302099a8057/cancel").await,
    ];
    for answer in answers {
        assert_eq!(answer.problem(), (503, "unavailable".into(), String::new()), "{answer:?}");
        assert!(!answer.text.contains("hunter2") && !answer.text.contains(&closed.port().to_string()), "{answer:?}");
    }
    // What is wrong with an item is its own fault even now.
    let mixed = client.post_json("/v1/messages/batch", r#"[{"source":"main","payload":"x"},{"source":"main"}]"#).await;
    assert_eq!((mixed.status, mixed.json()["items"][0]["error"]["code"].as_str()), (200, Some("unavailable")));
    client.app.end().await;
}

#[tokio::test]
async fn what_the_database_refuses_to_keep_is_told_and_so_is_that_it_refuses() {
    let client = client("").await;
    let mut raw = Raw::connect(&format!("sqlite://{}", client.app.folder().join("redrive.db").display()).parse().unwrap()).await;
    raw.run("CREATE TRIGGER strict BEFORE INSERT ON resend_log WHEN NEW.topic = 'bad' BEGIN SELECT RAISE(ABORT, 'hunter2'); END").await;
    let bad = async || client.post_json("/v1/messages", r#"{"source":"main","payload":"x","topic":"bad"}"#).await;
    for _ in 0..2 {
        let answer = bad().await;
        assert_eq!(answer.problem(), (500, "internal".into(), String::new()));
        assert!(!answer.text.contains("hunter2"), "{answer:?}");
    }
    let batch = r#"[{"source":"main","payload":"x","topic":"bad"},{"source":"main","payload":"x","topic":"good"}]"#;
    let answer = client.post_json("/v1/messages/batch", batch).await.json();
    assert_eq!((&answer["accepted"], &answer["items"][0]["error"]["code"]), (&json!(1), &json!("internal")), "{answer}");
    assert_eq!(client.get("/readyz").await.status, 200, "some it keeps");
    for _ in 0..3 {
        bad().await;
    }
    let ready = client.get("/readyz").await;
    assert_eq!((ready.status, &ready.json()["store"]), (503, &json!("the database keeps no messages")));
    client.submitted("").await;
    assert_eq!(client.get("/readyz").await.status, 200);
    client.app.end().await;
}

#[tokio::test]
async fn while_it_drains_it_is_not_ready_and_still_takes_messages() {
    let client = client("shutdown: { accept_for: 3s, grace: 10s }").await;
    client.app.stop.cancel();
    let answer = client.post_json("/v1/messages", r#"{"source":"main","payload":"x"}"#).await;
    assert_eq!((answer.status, answer.json()["state"].as_str()), (202, Some("pending")));
    let ready = client.get("/readyz").await;
    assert_eq!((ready.status, ready.json()["draining"].as_bool()), (503, Some(true)));
    let folder = client.app.end().await;
    let after = Client { app: crate::support::app::start_in(folder, "").await, http: reqwest::Client::new() };
    after.until_ready().await;
    after.until(&answer.id(), "succeeded").await;
    after.app.end().await;
}

#[tokio::test]
async fn health_is_told_until_the_last_send_is_over() {
    let client = client("").await;
    client.submitted(r#","topic":"hold""#).await;
    client.app.stop.cancel();
    eventually(Duration::from_secs(10), async || tokio::net::TcpStream::connect(client.app.api).await.is_err().then_some(())).await;
    let ready = reqwest::get(format!("http://{}/readyz", client.app.health)).await.unwrap();
    assert_eq!(ready.status(), 503);
    assert!(ready.text().await.unwrap().contains(r#""draining":true"#));
    client.app.hold.add_permits(1);
    client.app.end().await;
}

#[tokio::test]
async fn the_same_is_served_on_a_unix_socket() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("redrive.sock");
    let app = start(&format!("api: {{ listen: null, unix: \"{}\" }}", path.display())).await;
    let ask = async |request: &str| {
        let mut stream = tokio::net::UnixStream::connect(&path).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    };
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while !ask("GET /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.starts_with("HTTP/1.1 200") {
        assert!(tokio::time::Instant::now() < deadline);
    }
    let answer = ask("POST /v1/publish/main HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 2\r\n\r\nhi").await;
    assert!(answer.starts_with("HTTP/1.1 202"), "{answer}");
    app.end().await;
    assert!(!path.exists());
}

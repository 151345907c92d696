//! `POST /v1/publish/{source}` and `/v1/publish/{source}/{topic}`.

use reqwest::Method;
use serde_json::json;

use super::client;

#[tokio::test]
async fn the_body_is_the_payload_and_headers_and_query_go_with_it() {
    let client = client("").await;
    let request = client
        .request(Method::POST, "/v1/publish/main/a%2Fb%20%C3%A9?key=o%2F17&delay=1h&priority=7")
        .header("Content-Type", "application/octet-stream")
        .header("Redrive-Header-Tenant", "a")
        .header("X-Other", "stays behind")
        .body(vec![0, 255, 10]);
    let answer = client.send(request).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    let message = client.message(&answer.id()).await;
    for (name, value) in [
        ("topic", json!("a/b é")),
        ("key", json!("o/17")),
        ("payload_base64", json!("AP8K")),
        ("headers", json!({"content-type": "application/octet-stream", "tenant": "a"})),
        ("priority", json!(7)),
        ("state", json!("pending")),
    ] {
        assert_eq!(message[name], value, "{name}: {message}");
    }
    client.app.end().await;
}

#[tokio::test]
async fn an_empty_body_is_an_empty_payload_and_no_topic_is_none() {
    let client = client("").await;
    let message = client.message(&client.post("/v1/publish/main?delay=1h").await.id()).await;
    assert_eq!((&message["payload_base64"], &message["topic"], &message["headers"]), (&json!(""), &json!(null), &json!({})));
    client.app.end().await;
}

#[tokio::test]
async fn a_large_payload_arrives_whole() {
    let client = client("").await;
    let payload: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    let id = client.send(client.request(Method::POST, "/v1/publish/main?delay=1h").body(payload.clone())).await.id();
    let message = client.message(&id).await;
    let kept = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, message["payload_base64"].as_str().unwrap()).unwrap();
    assert!(kept == payload);
    client.app.end().await;
}

#[tokio::test]
async fn what_is_wrong_is_refused_with_its_field() {
    let client = client("sources: { main: { kind: scripted, max_payload: 8B } }").await;
    for (path, status, code, field) in [
        ("/v1/publish/nowhere", 404, "unknown_source", "source"),
        ("/v1/publish/nowhere/topic", 404, "unknown_source", "source"),
        ("/v1/publish/main?colour=red", 422, "unknown_field", "colour"),
        ("/v1/publish/main?priority=10", 422, "invalid_field", "priority"),
        ("/v1/publish/main/no%20such", 422, "invalid_field", "topic"),
        ("/v1/publish/main/%00", 422, "invalid_field", "topic"),
        ("/v1/publish/main/%ff", 422, "invalid_field", ""),
        ("/v1/publish/main/a/b", 404, "not_found", ""),
    ] {
        assert_eq!(client.post(path).await.problem(), (status, code.into(), field.into()), "{path}");
    }
    let large = client.send(client.request(Method::POST, "/v1/publish/main").body("123456789")).await;
    assert_eq!(large.problem(), (413, "payload_too_large".into(), "payload".into()));
    let twice = client.request(Method::POST, "/v1/publish/main").header("Redrive-Header-A", "1").header("Redrive-Header-A", "2");
    assert_eq!(client.send(twice).await.problem(), (422, "invalid_field".into(), "headers".into()));
    client.app.end().await;
}

#[tokio::test]
async fn an_idempotency_key_works_here_too() {
    let client = client("").await;
    let publish =
        async |body: &'static str| client.send(client.request(Method::POST, "/v1/publish/main").header("Idempotency-Key", "p-1").body(body)).await;
    let first = publish("a").await;
    assert_eq!(first.status, 202);
    assert_eq!(publish("a").await.json(), json!({"id": first.id(), "duplicate": true}));
    assert_eq!(publish("b").await.problem().1, "idempotency_conflict");
    client.app.end().await;
}

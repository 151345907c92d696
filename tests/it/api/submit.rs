//! `POST /v1/messages` and `/v1/messages/batch`.

use reqwest::Method;
use reqwest::header::{CONTENT_TYPE, LOCATION};
use serde_json::json;

use super::client;

#[tokio::test]
async fn a_message_is_kept_located_sent_and_shown() {
    let client = client("").await;
    let body = r#"{"source":"main","topic":"orders","key":"o-17","payload":{"n": 1.0, "n":123456789012345678901234567890},
        "headers":{"tenant":"a"},"priority":3,"retry":{"max_retries":8},"expires_after":"2d"}"#;
    let answer = client.post_json("/v1/messages", body).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    let id = answer.id();
    assert_eq!(answer.headers[LOCATION], format!("/v1/messages/{id}"));
    assert_eq!(answer.headers[CONTENT_TYPE], "application/json");
    let message = client.until(&id, "succeeded").await;
    for (name, value) in [
        ("project", json!("test")),
        ("source", json!("main")),
        ("topic", json!("orders")),
        ("key", json!("o-17")),
        // The exact bytes, to the last space.
        ("payload_base64", json!("eyJuIjogMS4wLCAibiI6MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwfQ==")),
        ("headers", json!({"tenant": "a"})),
        ("priority", json!(3)),
        ("epoch", json!(1)),
        ("attempts", json!(1)),
        ("retries", json!(0)),
        ("max_retries", json!(8)),
        ("last_error", json!(null)),
    ] {
        assert_eq!(message[name], value, "{name}: {message}");
    }
    client.app.end().await;
}

#[tokio::test]
async fn an_idempotency_key_takes_the_same_content_once() {
    let client = client("").await;
    let body = |payload: &str| format!(r#"{{"source":"main","payload":"{payload}","idempotency_key":"k-1"}}"#);
    let first = client.post_json("/v1/messages", body("a")).await;
    assert_eq!(first.status, 202, "{first:?}");
    let again = client.post_json("/v1/messages", body("a")).await;
    assert_eq!((again.status, again.json()), (200, json!({"id": first.id(), "duplicate": true})));
    let other = client.post_json("/v1/messages", body("b")).await;
    assert_eq!(other.problem(), (409, "idempotency_conflict".into(), "idempotency_key".into()));
    assert_eq!(other.json()["id"], first.id());
    // The header is equivalent to the field.
    let by_header = client.request(Method::POST, "/v1/messages").header("Idempotency-Key", "k-1").header(CONTENT_TYPE, "application/json");
    let by_header = client.send(by_header.body(r#"{"source":"main","payload":"a"}"#)).await;
    assert_eq!((by_header.status, by_header.id()), (200, first.id()));
    let differing = client.request(Method::POST, "/v1/messages").header("Idempotency-Key", "k-2").header(CONTENT_TYPE, "application/json");
    assert_eq!(client.send(differing.body(body("a"))).await.problem(), (422, "invalid_field".into(), "idempotency_key".into()));
    let listed = client.get("/v1/messages?idempotency_key=k-1").await.json();
    assert_eq!((listed["items"].as_array().unwrap().len(), &listed["items"][0]["id"]), (1, &json!(first.id())));
    client.app.end().await;
}

#[tokio::test]
async fn on_failure_leaves_no_row_when_it_succeeds_and_tells_the_state_when_not() {
    let client = client("sources: { main: { kind: scripted, mode: on_failure, on_failure: { timeout: 200ms } } }").await;
    let submit = async |topic: &str| client.post_json("/v1/messages", format!(r#"{{"source":"main","topic":"{topic}","payload":"x"}}"#)).await;
    let delivered = submit("fine").await;
    assert_eq!((delivered.status, &delivered.json()["state"], &delivered.json()["result"]), (200, &json!("succeeded"), &json!({"took": "it"})));
    assert_eq!(client.get(&format!("/v1/messages/{}", delivered.id())).await.problem().1, "not_found");
    for (topic, state) in [("refuse", "retrying"), ("forbid", "failed"), ("hold", "sending")] {
        let kept = submit(topic).await;
        assert_eq!((kept.status, &kept.json()["state"]), (202, &json!(state)), "{topic}");
        assert_eq!(client.message(&kept.id()).await["state"], state, "{topic}");
    }
    client.app.hold.add_permits(1);
    // A message may ask for the other mode.
    let ahead = client.post_json("/v1/messages", r#"{"source":"main","payload":"x","mode":"write_ahead"}"#).await;
    assert_eq!(ahead.status, 202);
    client.app.end().await;
}

#[tokio::test]
async fn on_failure_writes_ahead_what_is_due_later_or_has_an_idempotency_key() {
    let client = client("sources: { main: { kind: scripted, mode: on_failure, on_failure: { timeout: 200ms } } }").await;
    for fields in [r#","delay":"1h""#, r#","due_at":"2099-01-31T12:00:00Z""#] {
        let message = client.message(&client.submitted(fields).await).await;
        assert_eq!((&message["state"], &message["attempts"]), (&json!("pending"), &json!(0)), "{fields}");
    }
    let keyed = async || client.post_json("/v1/messages", r#"{"source":"main","payload":"x","idempotency_key":"k-1"}"#).await;
    let first = keyed().await;
    assert_eq!(first.status, 202, "{first:?}");
    client.until(&first.id(), "succeeded").await;
    let again = keyed().await;
    assert_eq!((again.status, again.json()), (200, json!({"id": first.id(), "duplicate": true})));
    let metrics = client.get("/metrics").await.text;
    for (name, label, count) in
        [("attempts", r#"outcome="succeeded""#, 1), ("accepted", r#"mode="write_ahead""#, 3), ("accepted", r#"mode="on_failure""#, 0)]
    {
        let line = format!(r#"redrive_{name}_total{{project="test",source="main",{label}}} {count}"#);
        assert!(metrics.lines().any(|have| have == line), "{line} is missing in\n{metrics}");
    }
    client.app.end().await;
}

#[tokio::test]
async fn a_delayed_message_waits_pending() {
    let client = client("").await;
    let id = client.submitted(r#","delay":"1h""#).await;
    let message = client.message(&id).await;
    assert_eq!((&message["state"], &message["attempts"]), (&json!("pending"), &json!(0)));
    let (due, created) = (message["due_at"].as_str().unwrap(), message["created_at"].as_str().unwrap());
    let time = |text: &str| chrono::DateTime::parse_from_rfc3339(text).unwrap();
    assert_eq!((time(due) - time(created)).num_minutes(), 60);
    let id = client.submitted(r#","due_at":"2099-01-31T12:00:00+02:00""#).await;
    assert_eq!(client.message(&id).await["due_at"], "2099-01-31T10:00:00.000000Z");
    client.app.end().await;
}

#[tokio::test]
async fn a_tombstone_a_binary_payload_and_a_binary_key_come_back_as_they_went() {
    let client = client("").await;
    let body = r#"{"source":"main","tombstone":true,"key_base64":"AP8=","delay":"1h"}"#;
    let message = client.message(&client.post_json("/v1/messages", body).await.id()).await;
    assert_eq!((&message["payload_base64"], &message["key"], &message["key_base64"]), (&json!(null), &json!(null), &json!("AP8=")));
    let body = r#"{"source":"main","payload_base64":"AP8=","delay":"1h"}"#;
    assert_eq!(client.message(&client.post_json("/v1/messages", body).await.id()).await["payload_base64"], "AP8=");
    client.app.end().await;
}

#[tokio::test]
async fn a_batch_gives_each_item_its_verdict_in_order() {
    let client = client("").await;
    let items = [
        r#"{"source":"main","payload":"a","idempotency_key":"b-1"}"#,
        r#"{"source":"main","payload":"a","colour":"red"}"#,
        r#"{"source":"nowhere","payload":"a"}"#,
        r#"{"source":"main","topic":"no such","payload":"a"}"#,
        r#"{"source":"main","payload":"b"}"#,
    ];
    let lines = client.request(Method::POST, "/v1/messages/batch").header(CONTENT_TYPE, "application/x-ndjson");
    let broken = "{\"source\":\"main\",";
    let lines = client.send(lines.body(format!("{}\n{broken}\n", items.join("\n")))).await;
    assert_eq!(lines.status, 200, "{lines:?}");
    let body = lines.json();
    assert_eq!((&body["accepted"], &body["rejected"]), (&json!(2), &json!(4)));
    let codes: Vec<_> = body["items"].as_array().unwrap().iter().map(|item| item["error"]["code"].as_str().unwrap_or("")).collect();
    assert_eq!(codes, ["", "unknown_field", "unknown_source", "invalid_field", "", "malformed_json"]);
    client.until(body["items"][4]["id"].as_str().unwrap(), "succeeded").await;
    // As an array, the first is a duplicate now.
    let array = client.post_json("/v1/messages/batch", format!("[{}]", items.join(","))).await.json();
    assert_eq!(array["items"][0], json!({"id": body["items"][0]["id"], "duplicate": true}));
    assert_eq!((&array["accepted"], &array["rejected"]), (&json!(2), &json!(3)));
    assert_eq!(client.post_json("/v1/messages/batch", "[]").await.json(), json!({"accepted": 0, "rejected": 0, "items": []}));
    let all_bad = client.post_json("/v1/messages/batch", "[1,2]").await;
    assert_eq!((all_bad.status, &all_bad.json()["rejected"]), (200, &json!(2)));
    client.app.end().await;
}

#[tokio::test]
async fn a_batch_of_ten_thousand_is_kept_whole() {
    let client = client("").await;
    let line = r#"{"source":"main","payload":"x","delay":"1h"}"#;
    let request = client.request(Method::POST, "/v1/messages/batch").header(CONTENT_TYPE, "application/x-ndjson");
    let body = client.send(request.body(format!("{line}\n").repeat(10_000))).await.json();
    assert_eq!((&body["accepted"], &body["rejected"]), (&json!(10_000), &json!(0)));
    let mut ids: Vec<_> = body["items"].as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap()).collect();
    client.message(ids[0]).await;
    client.message(ids[9_999]).await;
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 10_000);
    client.app.end().await;
}

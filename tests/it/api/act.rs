//! Retry, cancel, and another payload.

use reqwest::Method;
use reqwest::header::LOCATION;
use serde_json::json;
use uuid::Uuid;

use super::client;

#[tokio::test]
async fn a_failed_message_is_given_another_payload_and_put_back_to_work() {
    let client = client("sources: { main: { kind: scripted, max_payload: 1KiB } }").await;
    let id = client.submitted(r#","topic":"forbid""#).await;
    client.until(&id, "failed").await;
    let put = async |body: Vec<u8>| client.send(client.request(Method::PUT, &format!("/v1/messages/{id}/payload")).body(body)).await;
    let replaced = put(b"better".to_vec()).await;
    assert_eq!((replaced.status, replaced.json()), (200, json!({"id": id, "state": "failed"})));
    assert_eq!(client.message(&id).await["payload_base64"], "YmV0dGVy");
    assert_eq!(put(vec![b'x'; 1025]).await.problem(), (413, "payload_too_large".into(), "payload".into()));
    let retried = client.post(&format!("/v1/messages/{id}/retry")).await;
    assert_eq!((retried.status, &retried.json()["state"]), (202, &json!("pending")));
    assert_eq!(retried.headers[LOCATION], format!("/v1/messages/{id}"));
    let message = client.until(&id, "failed").await;
    assert_eq!(message["epoch"], 2);
    client.app.end().await;
}

#[tokio::test]
async fn a_waiting_message_is_cancelled_once_and_can_come_back() {
    let client = client("").await;
    let id = client.submitted(r#","delay":"1h""#).await;
    let cancel = async || client.post(&format!("/v1/messages/{id}/cancel")).await;
    let cancelled = cancel().await;
    assert_eq!((cancelled.status, cancelled.json()), (200, json!({"id": id, "state": "cancelled"})));
    assert_eq!(cancel().await.problem(), (409, "wrong_state".into(), String::new()));
    assert_eq!(client.post(&format!("/v1/messages/{id}/retry")).await.status, 202);
    client.until(&id, "succeeded").await;
    assert_eq!(client.post(&format!("/v1/messages/{id}/retry")).await.problem().1, "wrong_state", "it was delivered");
    let replaced = client.send(client.request(Method::PUT, &format!("/v1/messages/{id}/payload"))).await;
    assert_eq!(replaced.problem().1, "wrong_state");
    assert_eq!(replaced.json()["detail"], "only a failed message's payload can be replaced; this one is succeeded");
    client.app.end().await;
}

#[tokio::test]
async fn many_are_retried_with_a_result_each() {
    let client = client("").await;
    let failed = client.submitted(r#","topic":"forbid""#).await;
    client.until(&failed, "failed").await;
    let done = client.submitted("").await;
    client.until(&done, "succeeded").await;
    let missing = Uuid::now_v7().to_string();
    let body = json!({"ids": [done, missing, failed]}).to_string();
    let answer = client.post_json("/v1/messages/retry", body).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let items = answer.json()["items"].clone();
    let told: Vec<_> =
        items.as_array().unwrap().iter().map(|item| (item["id"].as_str().unwrap(), item["error"]["code"].as_str().unwrap_or(""))).collect();
    assert_eq!(told, [(done.as_str(), "wrong_state"), (missing.as_str(), "not_found"), (failed.as_str(), "")]);
    assert_eq!(items[2]["state"], "pending");
    assert_eq!(client.post_json("/v1/messages/retry", r#"{"ids":[]}"#).await.json(), json!({"items": []}));
    assert_eq!(client.post_json("/v1/messages/retry", r#"{"ids":["x"]}"#).await.problem().2, "ids[0]");
    let many = json!({"ids": vec![missing; 1001]}).to_string();
    assert_eq!(client.post_json("/v1/messages/retry", many).await.problem(), (413, "too_many_items".into(), "ids".into()));
    client.app.end().await;
}

#[tokio::test]
async fn what_is_not_there_is_404_everywhere() {
    let client = client("").await;
    for id in [Uuid::now_v7().to_string(), "nonsense".to_owned(), "%ff".to_owned(), Uuid::now_v7().simple().to_string()] {
        for (method, path) in [("GET", ""), ("GET", "/attempts"), ("POST", "/retry"), ("POST", "/cancel"), ("PUT", "/payload")] {
            let answer = client.send(client.request(method.parse().unwrap(), &format!("/v1/messages/{id}{path}"))).await;
            assert_eq!(answer.problem(), (404, "not_found".into(), String::new()), "{method} {id}{path}");
        }
    }
    client.app.end().await;
}

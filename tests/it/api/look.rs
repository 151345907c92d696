//! Looking at messages, at health, and at metrics.

use std::collections::BTreeSet;
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use super::{Client, client};
use crate::support::app::start_in;
use crate::support::{Raw, eventually};

async fn ids(client: &Client, query: &str) -> Vec<String> {
    let answer = client.get(&format!("/v1/messages?{query}")).await;
    assert_eq!(answer.status, 200, "{query}: {answer:?}");
    answer.json()["items"].as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn messages_are_listed_newest_first_page_by_page() {
    let client = client("").await;
    let mut submitted = Vec::new();
    for _ in 0..7 {
        submitted.push(client.submitted(r#","delay":"1h""#).await);
    }
    submitted.reverse();
    assert_eq!(ids(&client, "").await, submitted);
    let (mut seen, mut after) = (Vec::new(), String::new());
    for _ in 0..4 {
        let page = client.get(&format!("/v1/messages?limit=2{after}")).await.json();
        seen.extend(page["items"].as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap().to_owned()));
        match &page["next"] {
            Value::Null => break,
            next => after = format!("&after={}", next.as_str().unwrap()),
        }
    }
    assert_eq!(seen, submitted);
    client.app.end().await;
}

#[tokio::test]
async fn each_filter_narrows() {
    let client = client("sources: { main: { kind: scripted }, other: { kind: scripted } }").await;
    let plain = client.submitted(r#","topic":"t","key":"k","delay":"1h""#).await;
    let other = client.post_json("/v1/messages", r#"{"source":"other","payload":"x","delay":"1h"}"#).await.id();
    let failed = client.submitted(r#","topic":"forbid""#).await;
    client.until(&failed, "failed").await;
    for (query, wanted) in [
        ("state=pending", vec![&other, &plain]),
        ("state=failed", vec![&failed]),
        ("state=blocked", vec![]),
        ("source=other", vec![&other]),
        ("topic=t", vec![&plain]),
        ("key=k", vec![&plain]),
        ("error_code=scripted_never", vec![&failed]),
        ("state=pending&source=main&topic=t&key=k", vec![&plain]),
        ("until=2020-01-01T00:00:00Z", vec![]),
        ("since=2020-01-01T00:00:00Z&until=2999-01-01T00:00:00Z", vec![&failed, &other, &plain]),
        ("finished_since=2020-01-01T00:00:00Z", vec![&failed]),
        ("state=failed&finished_since=2020-01-01T00:00:00Z&finished_until=2999-01-01T00:00:00Z", vec![&failed]),
        ("finished_until=2020-01-01T00:00:00Z", vec![]),
        ("idempotency_key=none", vec![]),
    ] {
        assert_eq!(ids(&client, query).await.iter().collect::<Vec<_>>(), wanted, "{query}");
    }
    client.app.end().await;
}

#[tokio::test]
async fn payloads_are_listed_only_when_asked_for_and_a_page_of_them_ends_early() {
    let client = client("").await;
    let large = vec![b'x'; 9 << 20];
    let mut submitted = BTreeSet::new();
    for _ in 0..4 {
        submitted.insert(client.send(client.request(Method::POST, "/v1/publish/main?delay=1h").body(large.clone())).await.id());
    }
    assert!(client.get("/v1/messages").await.json()["items"][0].get("payload_base64").is_none());
    let mut seen = Vec::new();
    let mut after = String::new();
    loop {
        let page = client.get(&format!("/v1/messages?include=payload{after}")).await.json();
        let items = page["items"].as_array().unwrap();
        assert_eq!(items.len(), 2, "two weigh 18 MiB");
        assert_eq!(items[0]["payload_base64"].as_str().unwrap().len(), 12 << 20);
        seen.extend(items.iter().map(|item| item["id"].as_str().unwrap().to_owned()));
        match page["next"].as_str() {
            None => break,
            Some(next) => after = format!("&after={next}"),
        }
    }
    assert_eq!((seen.len(), seen.into_iter().collect::<BTreeSet<_>>()), (4, submitted));
    client.app.end().await;
}

#[tokio::test]
async fn attempts_are_shown_with_what_they_came_to() {
    let client = client("sources: { main: { kind: scripted, retry: { max_retries: 1, first_delay: 1ms } } }").await;
    let id = client.submitted(r#","topic":"refuse""#).await;
    let message = client.until(&id, "failed").await;
    assert_eq!((&message["attempts"], &message["retries"], &message["max_retries"]), (&json!(2), &json!(2), &json!(1)));
    assert_eq!(message["last_error"], json!({"class": "refused", "code": "scripted_no", "detail": "not this time"}));
    let attempts = client.get(&format!("/v1/messages/{id}/attempts")).await.json();
    let attempts = attempts["items"].as_array().unwrap();
    let told: Vec<_> = attempts.iter().map(|attempt| (&attempt["epoch"], &attempt["number"], &attempt["outcome"])).collect();
    assert_eq!(told, [(&json!(1), &json!(1), &json!("refused")), (&json!(1), &json!(2), &json!("refused"))]);
    assert_eq!(attempts[0]["error"]["code"], "scripted_no");
    client.app.end().await;
}

#[tokio::test]
async fn health_and_metrics_are_served_on_both_ports_and_the_api_on_one() {
    let client = client("api: { listen: \"127.0.0.1:0\", token: s3cret }").await;
    let http = reqwest::Client::new();
    let health = async |path: &str| {
        let response = http.get(format!("http://{}{path}", client.app.health)).send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    };
    assert_eq!(health("/healthz").await.0, 200);
    let (status, text) = health("/readyz").await;
    let body: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((status, &body["ready"], &body["draining"], &body["sources"][0]["name"]), (200, &json!(true), &json!(false), &json!("main")));
    let (status, text) = health("/metrics").await;
    assert!(status == 200 && text.contains("redrive_build_info"), "{text}");
    assert_eq!(health("/v1/messages").await.0, 404);
    // Those three ask for no token on the API's port either; all else does.
    assert_eq!(client.get("/metrics").await.status, 200);
    assert_eq!(client.get("/healthz").await.status, 200);
    assert_eq!(client.get("/v1/messages").await.problem().1, "unauthorized");
    let shown = client.request(Method::GET, "/v1/messages").header("Authorization", "Bearer s3cret");
    assert_eq!(client.send(shown).await.status, 200);
    client.app.end().await;
}

#[tokio::test]
async fn what_somebody_should_look_at_is_told_in_a_few_words() {
    let folder = client("project: other").await.app.end().await;
    let client = Client { app: start_in(folder, "").await, http: reqwest::Client::new() };
    client.until_ready().await;
    let warnings = async || client.get("/readyz").await.json()["warnings"].as_array().unwrap().clone();
    let default = "rows inserted without a project belong to project `other`, not to `test`";
    assert_eq!(warnings().await, [default]);

    let mut raw = Raw::connect(&format!("sqlite://{}", client.app.folder().join("redrive.db").display()).parse().unwrap()).await;
    for source in ["'crm'", "hex(zeroblob(1500000))"] {
        let due = "CAST(unixepoch('subsec') * 1000 AS INTEGER) - 60000";
        raw.run(&format!("INSERT INTO resend_log (project, source, due_at) VALUES ('elsewhere', {source}, {due})")).await;
    }
    let all = eventually(Duration::from_secs(30), async || Some(warnings().await).filter(|told| told.len() == 3)).await;
    assert_eq!(all[0], default);
    for (told, source) in all[1..].iter().zip(["0".repeat(100).as_str(), "crm"]) {
        let words = told.as_str().unwrap().strip_prefix(&format!("messages of project `elsewhere`, source `{source}` have been waiting for "));
        let seconds = words.and_then(|words| words.strip_suffix(" s and no live node serves them")).unwrap_or_else(|| panic!("{told}"));
        assert!((60..120).contains(&seconds.parse::<u32>().unwrap()), "{told}");
    }
    let ready = client.get("/readyz").await;
    assert!(ready.status == 200 && ready.text.len() < 10_000, "{} bytes", ready.text.len());
    client.app.end().await;
}

#[tokio::test]
async fn the_metrics_tell_what_came_in_what_became_of_it_and_what_waits() {
    // What waits is counted as a node starts, and then no more for a while: the row is there before.
    let folder = client("").await.app.end().await;
    let mut raw = Raw::connect(&format!("sqlite://{}", folder.path().join("redrive.db").display()).parse().unwrap()).await;
    raw.run("INSERT INTO resend_log (source, due_at) VALUES ('main', '2099-01-31T12:00:00Z'); DELETE FROM redrive_sample").await;
    let client = Client { app: start_in(folder, "").await, http: reqwest::Client::new() };
    client.until_ready().await;
    let lines = async || client.get("/metrics").await.text.lines().map(str::to_owned).collect::<Vec<_>>();
    let of = |name: &str, more: &str, value: u64| format!(r#"redrive_{name}{{project="test",source="main"{more}}} {value}"#);
    let told = async |line: String| eventually(Duration::from_secs(10), async || lines().await.contains(&line).then_some(())).await;
    told(of("messages", r#",state="pending""#, 1)).await;

    let (fine, refused) = (client.submitted("").await, client.submitted(r#","topic":"forbid""#).await);
    client.until(&fine, "succeeded").await;
    client.until(&refused, "failed").await;
    told(of("finished_total", r#",state="succeeded",class="succeeded""#, 1)).await;
    told(of("finished_total", r#",state="failed",class="permanent""#, 1)).await;
    let lines = lines().await;
    for line in [
        of("accepted_total", r#",mode="write_ahead""#, 2),
        of("accepted_total", r#",mode="on_failure""#, 0),
        of("attempts_total", r#",outcome="succeeded""#, 1),
        of("attempts_total", r#",outcome="permanent""#, 1),
        of("attempts_total", r#",outcome="refused""#, 0),
        of("send_seconds_count", "", 2),
        of("due_to_send_seconds_count", "", 2),
        of("in_flight", "", 0),
        of("messages", r#",state="retrying""#, 0),
    ] {
        assert!(lines.contains(&line), "{line} is missing in {lines:#?}");
    }
    let last = lines.iter().find_map(|line| line.strip_prefix(r#"redrive_last_success_timestamp_seconds{project="test",source="main"} "#));
    let ago = chrono::Utc::now().timestamp() as f64 - last.unwrap().parse::<f64>().unwrap();
    assert!((-5.0..60.0).contains(&ago), "{ago} s ago");
    client.app.end().await;
}

#[tokio::test]
async fn what_is_wrong_with_a_destination_is_told_by_its_code_alone() {
    let client = client("sources: { main: { kind: scripted, breaker: { after: 1 } } }").await;
    let id = client.submitted(r#","topic":"away""#).await;
    client.until(&id, "retrying").await;
    let source = client.get("/readyz").await.json()["sources"][0].clone();
    assert_eq!((&source["breaker"], &source["last_error"]), (&json!("open"), &json!("scripted_away")));
    client.app.end().await;
}

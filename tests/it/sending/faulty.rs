//! Sources with bugs: they cost their own messages at most.

use std::io;

use serde_json::{Value, json};

use super::writer;
use crate::api::client;

/// A log that panics over a source that panicked, and with it whoever reports that: nothing else makes a part of the engine panic.
struct Touchy;

impl io::Write for Touchy {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        assert!(!String::from_utf8_lossy(bytes).contains("the source panicked"), "touched");
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The whole application runs in this thread.
fn touchy() -> tracing::subscriber::DefaultGuard {
    tracing::subscriber::set_default(tracing_subscriber::fmt().with_writer(|| Touchy).finish())
}

#[tokio::test]
async fn a_pipeline_that_panics_sends_what_comes_after() {
    let client = client("sources: { main: { kind: fragile, retry: { first_delay: 1h } } }").await;
    let broken = client.submitted(r#","topic":"panic""#).await;
    let refused = client.until(&broken, "retrying").await;
    assert_eq!((&refused["last_error"]["code"], &refused["retries"]), (&json!("panic"), &json!(1)));
    let fine = client.submitted("").await;
    client.until(&fine, "succeeded").await;
    client.app.end().await;
}

#[tokio::test]
async fn a_source_that_panics_whenever_it_is_asked_something_sends() {
    let client = client("sources: { main: { kind: rude } }").await;
    for fields in ["", r#","delay":"100ms""#] {
        let id = client.submitted(fields).await;
        assert_eq!(client.until(&id, "succeeded").await["result"], Value::Null);
    }
    assert_eq!(client.get("/readyz").await.status, 200);
    client.app.end().await;
}

#[tokio::test]
async fn a_send_that_panics_is_refused_whenever_it_does() {
    let client = client("sources: { main: { kind: rude, timeout: 10ms, retry: { first_delay: 1h } } }").await;
    for topic in ["now", "later", "late"] {
        let id = client.submitted(&format!(r#","topic":"{topic}""#)).await;
        assert_eq!(client.until(&id, "retrying").await["last_error"]["code"], "panic", "{topic}");
    }
    assert!(client.get("/metrics").await.text.contains(r#"redrive_in_flight{project="test",source="main"} 0"#));
    client.app.end().await;
}

#[tokio::test]
async fn outcomes_are_made_to_fit_however_they_were_made() {
    let client = client("sources: { main: { kind: scripted, keep_result: true } }").await;
    let id = client.submitted(r#","topic":"raw""#).await;
    let message = client.until(&id, "failed").await;
    let length = |value: &Value| value.as_str().map(str::len);
    let error = &message["last_error"];
    assert_eq!([length(&error["code"]), length(&error["detail"])], [Some(64), Some(1024)]);
    assert!(error["detail"].as_str().unwrap().starts_with("a?b"));
    // In the table, since the API shows what is no JSON as text.
    let result = super::number(&mut writer(client.app.folder()).await, "SELECT length(result) FROM resend_log").await;
    assert_eq!(result, 2048);
    client.app.end().await;
}

/// If a part of the engine panicked, only the messages would miss it.
#[tokio::test]
async fn a_loop_that_panics_ends_the_node_as_a_bug() {
    let client = client("sources: { main: { kind: fragile } }").await;
    let _log = touchy();
    client.submitted(r#","topic":"panic""#).await;
    assert!(client.app.bug().await.is_panic());
}

/// Also if it is stopping already: what it held is not reported as handed over in good order.
#[tokio::test]
async fn a_loop_that_panics_while_the_node_stops_ends_it_as_a_bug() {
    let client = client("sources: { main: { kind: fragile } }\nshutdown: { accept_for: 4s, grace: 10s }").await;
    let _log = touchy();
    let id = client.submitted(r#","topic":"hold""#).await;
    client.until(&id, "sending").await;
    client.app.stop.cancel();
    client.app.hold.add_permits(1);
    assert!(client.app.bug().await.is_panic());
}

//! Sends through a source as the engine does.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use redrive::message::{Headers, Key, Message};
use redrive::outcome::Outcome;
use redrive::source::{Context, Delivery, Registry, Sender};
use serde_json::Value;
use tokio::sync::mpsc;
use uuid::Uuid;

/// The context of a source named `tested` with a lease of 30 s.
pub(crate) fn context() -> Context {
    let mut cx = Context::new("test", "tested");
    cx.folder = "/".into();
    cx
}

/// The same, with this timeout and a lease that suits it.
pub(crate) fn context_with_timeout(timeout: &str) -> Context {
    let mut cx = context();
    cx.options.timeout = Some(timeout.parse().unwrap());
    cx
}

/// Builds a source of a kind.
pub(crate) fn build(kind: &str, section: Value, cx: &Context) -> Sender {
    Registry::default().build(kind, section, cx).unwrap_or_else(|faults| panic!("{faults:?}"))
}

/// A message to a topic.
pub(crate) fn message(topic: &str, payload: impl Into<Bytes>) -> Message {
    let mut message = Message::new("tested", payload);
    message.topic = Some(topic.to_owned());
    message.key = Some(Key::Text("k-1".to_owned()));
    message.headers = Headers::new(vec![("tenant".to_owned(), "ä".to_owned())]);
    message.attempt = 3;
    message
}

/// Deliveries of messages, and the receiver of their outcomes.
pub(crate) fn deliveries(messages: Vec<Message>) -> (Vec<Delivery>, Outcomes) {
    let (results, come) = mpsc::unbounded_channel();
    let outcomes = Outcomes { expected: messages.len(), come };
    let batch = messages
        .into_iter()
        .map(|message| {
            let (id, results) = (message.id, results.clone());
            Delivery::new(message, move |outcome| results.send((id, outcome)).unwrap_or(()))
        })
        .collect();
    (batch, outcomes)
}

/// The outcomes of deliveries.
pub(crate) struct Outcomes {
    expected: usize,
    come: mpsc::UnboundedReceiver<(Uuid, Outcome)>,
}

impl Outcomes {
    /// Waits until each delivery was finished or dropped.
    pub(crate) async fn all(mut self) -> HashMap<Uuid, Outcome> {
        let mut collected = HashMap::new();
        while let Some((id, outcome)) = self.come.recv().await {
            assert!(collected.insert(id, outcome).is_none(), "{id} was finished twice");
        }
        assert_eq!(collected.len(), self.expected);
        collected
    }
}

/// Sends messages in one batch and waits for every outcome.
pub(crate) async fn send_all(sender: &Sender, messages: Vec<Message>, within: Duration) -> HashMap<Uuid, Outcome> {
    let (batch, outcomes) = deliveries(messages);
    let sends = async {
        sender.send(batch).await;
        outcomes.all().await
    };
    tokio::time::timeout(within, sends).await.unwrap_or_else(|_| panic!("not every message was finished within {within:?}"))
}

/// Sends one message and waits for its outcome.
pub(crate) async fn send_one(sender: &Sender, message: Message) -> Outcome {
    send_all(sender, vec![message], Duration::from_secs(40)).await.into_values().next().unwrap()
}

/// Tries until the condition holds.
pub(crate) async fn until(what: &str, within: Duration, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + within;
    while !holds().await {
        assert!(Instant::now() < deadline, "{what}: not within {within:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

//! `kind: log`: writes each message to the log, for trying things out. It always succeeds.

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Deserialize;

use super::codes::Code;
use super::{Context, Sender, Source};
use crate::fault::Fault;
use crate::message::Message;
use crate::outcome::Outcome;

/// `kind: log`: writes each message to redrive's log. It has no keys of its own.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {}

impl super::Config for Config {
    fn build(self, _: &Context) -> Result<Sender, Vec<Fault>> {
        Ok(Sender::each(Log))
    }

    fn codes() -> Option<Vec<Code>> {
        Some(Vec::new())
    }
}

struct Log;

#[async_trait]
impl Source for Log {
    async fn send(&self, message: &Message) -> Outcome {
        // The payload stays out of the log, here as everywhere; its length shows that it arrived.
        tracing::info!(
            message.id = %message.id,
            source.name = %message.source,
            message.topic = message.topic.as_deref().unwrap_or_default(),
            message.key = message.key.as_ref().and_then(|key| key.as_str()).unwrap_or_default(),
            message.payload_bytes = message.payload.as_ref().map_or(0, bytes::Bytes::len),
            message.attempt = message.attempt,
            "message sent to the log"
        );
        Outcome::succeeded()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_succeeds() {
        assert_eq!(Log.send(&Message::new("log", "x")).await, Outcome::succeeded());
    }
}

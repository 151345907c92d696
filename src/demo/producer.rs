//! The demo's producer: posts messages at a steady rate, as an application would.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::task::TaskTracker;
use uuid::Uuid;

/// What was accepted, and when it was submitted.
#[derive(Debug, Default)]
pub(super) struct Producer {
    accepted: Mutex<HashMap<Uuid, Instant>>,
}

#[derive(Deserialize)]
struct Answer {
    id: Uuid,
}

impl Producer {
    /// Posts `rate` messages a second for `span`.
    pub(super) async fn submit(self: Arc<Self>, address: String, rate: u32, span: Duration) {
        let client = reqwest::Client::new();
        let mut ticks = tokio::time::interval(Duration::from_secs(1) / rate.max(1));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let (end, posts) = (Instant::now() + span, TaskTracker::new());
        let mut number = 0_u64;
        while Instant::now() < end {
            ticks.tick().await;
            number += 1;
            let body = format!(r#"{{"order":{number},"note":"a message of the redrive demo"}}"#);
            let post = client.post(format!("http://{address}/v1/publish/events?key=order-{number}")).body(body);
            let producer = self.clone();
            posts.spawn(async move {
                let submitted = Instant::now();
                // A message that was not accepted comes with no promise, and is not counted.
                if let Ok(answer) = post.send().await
                    && answer.status().is_success()
                    && let Ok(body) = answer.bytes().await
                    && let Ok(Answer { id }) = serde_json::from_slice(&body)
                {
                    producer.accepted.lock().unwrap_or_else(PoisonError::into_inner).insert(id, submitted);
                }
            });
        }
        posts.close();
        posts.wait().await;
    }

    /// How many messages were accepted.
    pub(super) fn accepted(&self) -> usize {
        self.accepted.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Calls `see` for each message that was accepted.
    pub(super) fn each(&self, mut see: impl FnMut(&Uuid, Instant)) {
        for (id, submitted) in &*self.accepted.lock().unwrap_or_else(PoisonError::into_inner) {
            see(id, *submitted);
        }
    }
}

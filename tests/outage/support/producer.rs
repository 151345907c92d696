//! A producer: submits messages one by one on many connections, retries as it is told to, and remembers every id for which it got a 2xx.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use reqwest::Client;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::{Node, eventually};

#[derive(Debug)]
pub(crate) struct Producer {
    shared: Arc<Shared>,
    /// How many it may have submitted so far.
    limit: watch::Sender<usize>,
    workers: JoinSet<()>,
}

#[derive(Debug)]
struct Shared {
    url: String,
    client: Client,
    next: AtomicUsize,
    accepted: Mutex<Vec<String>>,
}

impl Producer {
    /// A producer for a source of this node, which submits nothing until [`Self::up_to`] allows it.
    pub(crate) fn of(node: &Node, source: &str, connections: usize) -> Self {
        let client = Client::builder().timeout(Duration::from_secs(20)).no_proxy().build().unwrap();
        let shared = Shared { url: node.url(&format!("/v1/publish/{source}")), client, next: AtomicUsize::new(0), accepted: Mutex::default() };
        let (shared, limit) = (Arc::new(shared), watch::Sender::new(0));
        let mut workers = JoinSet::new();
        for _ in 0..connections {
            workers.spawn(shared.clone().submit(limit.subscribe()));
        }
        Self { shared, limit, workers }
    }

    /// Lets it submit up to this many messages in total.
    pub(crate) fn up_to(&self, limit: usize) {
        self.limit.send_replace(limit);
    }

    /// Waits until this many are accepted.
    pub(crate) async fn accepted(&self, count: usize, within: Duration) {
        eventually(format!("{count} messages are accepted"), within, async || match self.count() {
            have if have >= count => Ok(()),
            have => Err(format!("{have} are")),
        })
        .await;
    }

    pub(crate) fn count(&self) -> usize {
        self.shared.accepted.lock().unwrap().len()
    }

    /// Ends it; returns the ids that were accepted.
    pub(crate) async fn stop(mut self) -> Vec<String> {
        self.workers.shutdown().await;
        std::mem::take(&mut *self.shared.accepted.lock().unwrap())
    }
}

impl Shared {
    async fn submit(self: Arc<Self>, mut limit: watch::Receiver<usize>) {
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            if limit.wait_for(|limit| number < *limit).await.is_err() {
                return;
            }
            while !self.attempt(number).await {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }

    /// One try; returns whether the message is known to be kept.
    async fn attempt(&self, number: usize) -> bool {
        let Ok(response) = self.client.post(&self.url).body(number.to_string()).send().await else { return false };
        let status = response.status();
        if status.is_success() {
            // The 2xx itself is the promise: an answer whose body is cut off by a kill still counts, but has no id to look for.
            let Some(location) = response.headers().get("location") else { panic!("{status} without a Location") };
            let id = location.to_str().unwrap().rsplit('/').next().unwrap().to_owned();
            self.accepted.lock().unwrap().push(id);
            return true;
        }
        assert!(matches!(status.as_u16(), 429 | 503), "{status}: {:?}", response.text().await);
        assert!(response.headers().contains_key("retry-after"), "{status} says when to try again");
        false
    }
}

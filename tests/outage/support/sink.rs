//! An HTTP endpoint that counts what it is sent, and withholds its answers when the test says so.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::{Copies, eventually};

#[derive(Debug)]
pub(crate) struct Sink {
    address: SocketAddr,
    inner: Arc<Inner>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Inner {
    copies: Mutex<Copies>,
    holding: watch::Sender<bool>,
    takes: Duration,
}

impl Sink {
    /// One that answers at once.
    pub(crate) async fn start() -> Self {
        Self::that_takes(Duration::ZERO).await
    }

    /// One that takes this long for each message.
    pub(crate) async fn that_takes(takes: Duration) -> Self {
        let inner = Arc::new(Inner { copies: Mutex::default(), holding: watch::Sender::new(false), takes });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let app = Router::new().route("/", post(arrive)).with_state(inner.clone());
        let task = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { address, inner, task }
    }

    /// A source that sends to it; `more` begins with a comma.
    pub(crate) fn source(&self, more: &str) -> String {
        format!("{{ kind: http, url: \"http://{}/\", {}{more} }}", self.address, super::node::QUICK)
    }

    /// From now on the first copy of a message gets no answer until [`Self::let_go`]; a second one does.
    pub(crate) fn hold(&self) {
        self.inner.holding.send_replace(true);
    }

    pub(crate) fn let_go(&self) {
        self.inner.holding.send_replace(false);
    }

    /// The ids that arrived, and how often each did.
    pub(crate) fn copies(&self) -> Copies {
        self.inner.copies.lock().unwrap().clone()
    }

    /// Waits until all of these have arrived.
    pub(crate) async fn received(&self, ids: &[String], what: String, within: Duration) {
        eventually(what, within, async || {
            let copies = self.copies();
            let left = ids.iter().filter(|id| !copies.contains_key(*id)).count();
            if left == 0 { Ok(()) } else { Err(format!("{left} are left")) }
        })
        .await;
    }

    /// How many messages arrived, copies not counted.
    pub(crate) fn distinct(&self) -> usize {
        self.inner.copies.lock().unwrap().len()
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn arrive(State(sink): State<Arc<Inner>>, headers: HeaderMap) -> StatusCode {
    let id = headers.get("redrive-id").expect("Redrive-Id").to_str().unwrap().to_owned();
    let first = {
        let mut copies = sink.copies.lock().unwrap();
        let count = copies.entry(id).or_default();
        *count += 1;
        *count == 1
    };
    if !sink.takes.is_zero() {
        tokio::time::sleep(sink.takes).await;
    }
    if first {
        let _ = sink.holding.subscribe().wait_for(|holding| !holding).await;
    }
    StatusCode::NO_CONTENT
}

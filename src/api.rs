//! The HTTP API, version 1: submit, look, act; health and metrics.
//!
//! `docs/api.md` describes it for people and `docs/openapi.yaml` for programs; tests hold both to the code. `Server` serves it on a TCP port and a
//! Unix socket. Handlers see only requests that are complete, authorised and within bounds: see `api/gate.rs`.

mod answer;
mod batch;
mod browser;
pub mod config;
mod connection;
mod crowd;
mod gate;
mod health;
mod item;
mod listener;
mod messages;
mod problem;
mod publish;
mod query;
mod routes;
mod server;
mod submit;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::engine::Handle;

pub use config::{Config, Health};
#[doc(hidden)]
pub use problem::{Code, Problem};
#[doc(hidden)]
pub use server::{Bound, Server};

/// Writes the metrics in the text format of Prometheus or OpenMetrics.
#[doc(hidden)]
pub type Metrics = Arc<dyn Fn() -> String + Send + Sync>;

/// The maximum number of items in a batch.
#[doc(hidden)]
pub const MAX_BATCH: usize = 10_000;
/// The maximum number of ids in a bulk retry.
#[doc(hidden)]
pub const MAX_IDS: usize = 1000;
/// The maximum number of messages on a page.
#[doc(hidden)]
pub const MAX_PAGE: u32 = 1000;
/// The number of messages on a page if `limit` is not given.
#[doc(hidden)]
pub const PAGE: u32 = 50;

/// Smaller payloads are copied out of the buffer they arrived in: a waiting message should occupy its own bytes, not 8 KiB of buffer.
const SMALL: usize = 4096;
/// How many answers that show messages may be in memory at once, until their last byte is written; and how long others wait for a free place.
const READERS: usize = 4;
const READER_WAIT: Duration = Duration::from_secs(10);

/// What the handlers share.
#[derive(Clone)]
struct App(Arc<Shared>);

struct Shared {
    handle: Handle,
    metrics: Metrics,
    readers: Arc<Semaphore>,
}

impl App {
    fn new(handle: Handle, metrics: Metrics) -> Self {
        Self(Arc::new(Shared { handle, metrics, readers: Arc::new(Semaphore::new(READERS)) }))
    }

    fn handle(&self) -> &Handle {
        &self.0.handle
    }
}

/// Whether a path is served without a token: it exposes nothing secret, and probes and scrapers have none.
fn is_open(path: &str) -> bool {
    matches!(path, "/healthz" | "/readyz" | "/metrics")
}

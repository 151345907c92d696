//! The HTTP API, version 1: submit, look, act; health and metrics.
//!
//! `docs/api.md` describes it for people and `docs/openapi.yaml` for programs; tests hold both to the code. [`Server`] brings it to a
//! TCP port and a Unix socket. Handlers see only requests that are complete, allowed and within bounds: see `api/gate.rs`.

mod answer;
mod batch;
mod browser;
pub mod config;
mod connection;
mod gate;
mod health;
mod item;
mod listener;
mod messages;
mod problem;
mod publish;
mod query;
mod server;
mod submit;

use std::sync::Arc;

use axum::Router;
use axum::http::Method;
use axum::routing::{get, post, put};
use tokio::sync::Semaphore;

use crate::engine::Handle;

pub use config::{Config, Health};
pub use problem::{Code, Problem};
pub use server::{Bound, Server};

/// Writes the metrics in the text format of Prometheus or OpenMetrics.
pub type Metrics = Arc<dyn Fn() -> String + Send + Sync>;

/// The most items of a batch.
pub const MAX_BATCH: usize = 10_000;
/// The most ids of a retry of many.
pub const MAX_IDS: usize = 1000;
/// The most messages of a page.
pub const MAX_PAGE: u32 = 1000;
/// The messages of a page that says nothing about it.
pub const PAGE: u32 = 50;
/// A page with payloads ends once they weigh so much.
pub const MAX_PAGE_BYTES: usize = 16 << 20;

/// Smaller payloads are copied out of the buffer in which they came: a waiting message should hold its own bytes, not 8 KiB of buffer.
const SMALL: usize = 4096;
/// How many answers with payloads may be in memory at once; others wait.
const PAYLOAD_READERS: usize = 4;

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
        Self(Arc::new(Shared { handle, metrics, readers: Arc::new(Semaphore::new(PAYLOAD_READERS)) }))
    }

    fn handle(&self) -> &Handle {
        &self.0.handle
    }
}

/// The whole API.
fn router(app: App) -> Router {
    let router = Router::new()
        .route("/v1/messages", get(messages::list).post(submit::submit))
        .route("/v1/messages/batch", post(batch::submit))
        .route("/v1/messages/retry", post(messages::retry_many))
        .route("/v1/messages/{id}", get(messages::get))
        .route("/v1/messages/{id}/attempts", get(messages::attempts))
        .route("/v1/messages/{id}/retry", post(messages::retry))
        .route("/v1/messages/{id}/cancel", post(messages::cancel))
        .route("/v1/messages/{id}/payload", put(messages::replace_payload))
        .route("/v1/publish/{source}", post(publish::publish))
        .route("/v1/publish/{source}/{topic}", post(publish::publish_to));
    with_health(router, app)
}

/// Health and metrics alone, for a port that others may reach.
fn health_router(app: App) -> Router {
    with_health(Router::new(), app)
}

fn with_health(router: Router<App>, app: App) -> Router {
    router
        .route("/healthz", get(health::healthz))
        .route("/readyz", get(health::readyz))
        .route("/metrics", get(health::metrics))
        .fallback(async || Problem::new(Code::NotFound, "there is nothing at this path; docs/api.md lists what there is"))
        .method_not_allowed_fallback(async |method: Method| {
            Problem::new(Code::MethodNotAllowed, format!("not with {method}; the header Allow says with which"))
        })
        .with_state(app)
}

/// Whether a path is served without a token: it holds nothing secret, and probes and scrapers have none.
fn is_open(path: &str) -> bool {
    matches!(path, "/healthz" | "/readyz" | "/metrics")
}

//! Producing alone through an HTTP server, with which `accept --mode on_failure` is compared. No store, no log, no retries.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::routing::post;
use rdkafka::producer::{FutureProducer, FutureRecord};
use serde::{Deserialize, Serialize};

use super::Error;
use super::node::{tell, told, until_parent_ends};
use super::setup::Setup;
use crate::fault;
use crate::source::Registry;
use crate::source::kafka::Config;

/// What the process reads on stdin.
#[derive(Serialize, Deserialize)]
pub(super) struct Plain {
    pub(super) source: String,
    pub(super) topic: String,
}

struct Target {
    producer: FutureProducer,
    topic: String,
}

/// Serves until stdin ends.
///
/// # Errors
/// If it can't start.
pub async fn serve(file: &Path, registry: &Registry) -> Result<(), Error> {
    let Plain { source, topic } = told()?;
    let Setup { subject, .. } = Setup::load(file, registry, Some(&source))?;
    let config: Config = subject.config()?;
    let client = config.client(&subject.context).map_err(|faults| Error::Usage(fault::line(faults)))?;
    let target = Arc::new(Target { producer: client.create()?, topic });
    let router = axum::Router::new().route("/{*path}", post(produce)).layer(DefaultBodyLimit::disable()).with_state(target);
    let listener = tokio::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
    tell(listener.local_addr()?)?;
    tokio::select! {
        served = axum::serve(listener, router) => Ok(served?),
        () = until_parent_ends().cancelled_owned() => Ok(()),
    }
}

async fn produce(State(target): State<Arc<Target>>, body: Bytes) -> StatusCode {
    let record = FutureRecord::<(), [u8]>::to(&target.topic).payload(&body);
    match target.producer.send_result(record) {
        Ok(report) => match report.await {
            Ok(Ok(_)) => StatusCode::OK,
            _ => StatusCode::BAD_GATEWAY,
        },
        Err(_) => StatusCode::SERVICE_UNAVAILABLE,
    }
}

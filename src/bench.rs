//! `redrive bench`: what this set-up can do, measured with the real thing.
//!
//! The sidecar under test is a process of its own (`node.rs`) with the user's store and source, in a place of its own making (`place.rs`,
//! `destination.rs`) that is removed again whatever happens. This process drives it and watches; what it uses itself is not counted. Each case also
//! measures, in the same run, what the smallest possible code achieves with the same database and broker: that is the limit.

mod accept;
mod arena;
mod database;
mod destination;
mod drain;
mod growth;
mod histogram;
mod http;
mod idle;
mod lag;
mod limit;
mod load;
pub mod node;
pub mod options;
mod payload;
mod place;
pub mod plain;
mod process;
pub mod report;
mod screen;
mod setup;
mod sidecar;
mod through;

use std::io;

use rdkafka::error::KafkaError;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::config::Faults;
use crate::source::{Registry, kafka};
use crate::{app, store};

use arena::Arena;
use options::Case;
use report::Report;

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The command line or the configuration asks for something that can't be measured.
    #[error("{0}")]
    Usage(String),
    /// The configuration has faults.
    #[error(transparent)]
    Config(#[from] Faults),
    /// The sidecar could not be built.
    #[error(transparent)]
    App(#[from] app::Error),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// A request to the database failed.
    #[error("the database: {0}")]
    Database(#[from] sqlx::Error),
    /// A request to Kafka failed.
    #[error("Kafka: {0}")]
    Kafka(#[from] KafkaError),
    /// A request to the AMQP broker failed.
    #[error("AMQP: {0}")]
    Amqp(#[from] lapin::Error),
    /// Files, sockets, processes.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// Something that is needed does not answer.
    #[error("{0}")]
    Unreachable(String),
    /// Anything else.
    #[error("{0}")]
    Failed(String),
    /// Ctrl-C. What was made is removed.
    #[error("interrupted; everything the benchmark made has been removed")]
    Interrupted,
}

impl Error {
    /// Whether the database or the broker could not be reached at all.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::Database(sqlx::Error::Io(_) | sqlx::Error::Tls(_)) => true,
            Self::Kafka(error) => kafka::is_away(error),
            Self::Amqp(error) => error.is_io_error() || matches!(error.kind(), lapin::ErrorKind::MissingHeartbeatError),
            _ => false,
        }
    }
}

/// Measures a case. Whatever it makes it removes again, even if it fails or `stop` is cancelled.
///
/// # Errors
/// Why it could not be measured.
pub async fn run(case: Case, registry: &Registry, stop: CancellationToken) -> Result<Report, Error> {
    // Not interrupted by Ctrl-C: something half made could not be removed.
    let arena = Arena::make(&case, registry).await?;
    let measured = tokio::select! {
        biased;
        () = stop.cancelled() => Err(Error::Interrupted),
        measured = measure(&case, &arena) => measured,
    };
    let removed = arena.remove().await;
    let report = measured?;
    removed?;
    Ok(report.finish())
}

/// Waits for all tasks. The first failure ends it, and the other tasks with it.
async fn all<T: 'static, E: 'static>(mut tasks: JoinSet<Result<T, E>>, mut take: impl FnMut(T)) -> Result<(), Error>
where
    Error: From<E>,
{
    while let Some(ended) = tasks.join_next().await {
        take(ended.map_err(|error| Error::Failed(error.to_string()))??);
    }
    Ok(())
}

async fn measure(case: &Case, arena: &Arena) -> Result<Report, Error> {
    match case {
        Case::Accept(options) => accept::run(options, arena).await,
        Case::Drain(options) => drain::run(options, arena).await,
        Case::Through(options) => through::run(options, arena).await,
        Case::Lag(options) => lag::run(options, arena).await,
        Case::Growth(options) => growth::run(options, arena).await,
        Case::Idle(options) => idle::run(options, arena).await,
    }
}

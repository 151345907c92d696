//! `redrive demo`

use super::{Failure, Terminal};
use crate::demo;

/// See a message survive a broker outage, with nothing to install
///
/// Starts the real thing on a temporary SQLite file and a Kafka broker inside this process, submits messages at a steady rate,
/// takes the broker away in the middle, brings it back, and counts what arrived. Exits 0 only if nothing is lost.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:
  redrive demo
  redrive demo --kafka localhost:9092")]
pub(super) struct Command {
    /// Use this broker instead of the one inside this process
    #[arg(long, value_name = "HOST:PORT")]
    kafka: Option<String>,
}

impl Command {
    pub(super) async fn run(self, _terminal: Terminal<'_>) -> Result<(), Failure> {
        let options = demo::Options { kafka: self.kafka, ..demo::Options::default() };
        if demo::run(options).await.map_err(|error| Failure::Failed(error.to_string()))? { Ok(()) } else { Err(Failure::Partly) }
    }
}

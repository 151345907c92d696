//! `redrive demo`

use super::{Failure, Terminal};
use crate::demo::{self, Error};
use crate::shutdown;

/// See messages survive a broker outage, with nothing to install
///
/// Starts the real thing on a temporary SQLite file and a Kafka broker inside this process, submits messages at a steady rate, takes the broker away
/// in the middle, brings it back, and counts what arrived. Exits 0 only if nothing was lost. Everything it makes, including a topic in your own
/// broker, is removed again, also on Ctrl-C.
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
    pub(super) async fn run(self, terminal: Terminal<'_>) -> Result<(), Failure> {
        let options = demo::Options { kafka: self.kafka, ..demo::Options::default() };
        if demo::run(options, shutdown::on_signal(terminal.hard)?).await? { Ok(()) } else { Err(Failure::Partly) }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        if error.is_unreachable() { Self::Unreachable(error.to_string()) } else { Self::Failed(error.to_string()) }
    }
}

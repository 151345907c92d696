//! `redrive bench`

use clap::{Args, Subcommand};

use super::{ConfigFile, Failure, Terminal, output};
use crate::bench::options::Case;
use crate::bench::{self, Error};
use crate::shutdown;

/// Measure what this set-up can do: your store, your broker, this machine
///
/// Runs the real sidecar in a separate process with the store and the source of a configuration, puts load on it, and measures in the same run what
/// the smallest possible code achieves with the same database and broker (the limit). It uses its own tables, topics and queues, which are called
/// `redrive-bench-…` and are removed again, also on Ctrl-C. While it runs, it puts full load on the database and the broker.
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:
  redrive bench accept -c redrive.yaml
  redrive bench accept -c redrive.yaml --body ndjson --connections 64
  redrive bench drain -c redrive.yaml --messages 100000 --keep 0s
  redrive bench lag -c redrive.yaml --rate 5000 --via sql
  redrive bench idle -c redrive.yaml --json | jq .cpu_percent

What the figures mean is in docs/benchmarks.md.")]
pub(super) struct Command {
    #[command(subcommand)]
    case: Which,
}

#[derive(Debug, Subcommand)]
enum Which {
    #[command(flatten)]
    Case(Case),
    /// The sidecar under test
    #[command(hide = true)]
    Node(Part),
    /// The plain server that some cases are compared with
    #[command(hide = true)]
    Plain(Part),
}

#[derive(Debug, Args)]
struct Part {
    #[command(flatten)]
    file: ConfigFile,
}

impl Command {
    pub(super) async fn run(self, terminal: Terminal<'_>) -> Result<(), Failure> {
        let case = match self.case {
            Which::Case(case) => case,
            Which::Node(part) => return Ok(bench::node::serve(&part.file.config, terminal.registry).await?),
            Which::Plain(part) => return Ok(bench::plain::serve(&part.file.config, terminal.registry).await?),
        };
        let json = case.common().json;
        let report = bench::run(case, terminal.registry, shutdown::on_signal(terminal.hard)?).await?;
        if json {
            output::json(terminal.out, &report)?;
        } else {
            output::show(terminal.out, &report.table())?;
        }
        report.complaint().map_or(Ok(()), |complaint| Err(Failure::Failed(complaint)))
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Usage(message) => Self::Usage(message),
            Error::Config(faults) => Self::Faults(faults),
            Error::App(error) => error.into(),
            Error::Store(error) => error.into(),
            error if error.is_unreachable() => Self::Unreachable(error.to_string()),
            other => Self::Failed(other.to_string()),
        }
    }
}

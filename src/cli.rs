//! The command line. A program with custom sources gets all of it by calling [`main`] with its registry.

mod bench;
mod cancel;
mod check;
mod chosen;
mod demo;
mod failure;
mod files;
mod filter;
mod health;
mod list;
mod migrate;
mod open;
mod output;
mod payload;
mod purge;
mod retry;
mod run;
mod schema;
mod send;
mod serve;
mod show;

use std::io::{self, Write};
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use tokio_util::sync::CancellationToken;

use crate::source::Registry;

use failure::Failure;

/// The end of every help text.
const ABOUT_EXITS: &str = "\
Exit codes:
  0   done
  1   failed; what and why is on stderr
  2   the command line is wrong
  64  the configuration is wrong; every fault is on stderr
  69  something needed can't be reached (one-shot commands; serve keeps trying)
  70  a bug in redrive
  143 stopped at once by a second signal

Environment:
  REDRIVE_CONFIG            the configuration file, where -c is not given
  REDRIVE_LOG (or RUST_LOG) what is logged: error, warn, info, debug, or info,redrive::engine=debug
  NO_COLOR                  no colours in log lines";

/// Makes sure that a message is delivered: keeps it in your own database, sends it, sends it again.
#[derive(Debug, Parser)]
#[command(name = "redrive", version, propagate_version = true, arg_required_else_help = true, after_help = ABOUT_EXITS)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Command),
    Run(run::Command),
    Check(check::Command),
    Schema(schema::Command),
    Migrate(migrate::Command),
    Purge(purge::Command),
    Send(send::Command),
    List(list::Command),
    Show(show::Command),
    Retry(retry::Command),
    Cancel(cancel::Command),
    Payload(payload::Command),
    Health(health::Command),
    Demo(demo::Command),
    Bench(bench::Command),
}

/// Selects the configuration.
#[derive(Args, Clone, Debug)]
struct ConfigFile {
    /// The configuration file
    #[arg(short = 'c', long = "config", value_name = "FILE", env = "REDRIVE_CONFIG", default_value = "redrive.yaml", hide_env_values = true)]
    config: PathBuf,
}

/// What a command may use.
struct Terminal<'a> {
    registry: &'a Registry,
    out: &'a mut dyn Write,
    /// Cancelled by a signal to stop at once.
    hard: CancellationToken,
}

/// Runs the command line with the kinds of sources in `registry`; returns the exit code.
///
/// ```no_run
/// use redrive::source::Registry;
///
/// fn main() -> std::process::ExitCode {
///     let registry = Registry::default(); // and registry.register::<MyConfig>("mine"), see `redrive::source::Config`
///     redrive::cli::main(&registry)
/// }
/// ```
#[must_use]
pub fn main(registry: &Registry) -> ExitCode {
    ExitCode::from(guarded(|| parse_and_run(registry)))
}

/// The exit code of the work, or that of a bug if it panics.
fn guarded(work: impl FnOnce() -> u8) -> u8 {
    std::panic::catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
        // The panic hook has already reported what and where.
        complain("redrive: this is a bug in redrive; please report it with the lines above");
        failure::BUG
    })
}

fn parse_and_run(registry: &Registry) -> u8 {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help that is piped into a pager which closes early is no failure.
            let _ = error.print();
            return if error.use_stderr() { failure::USAGE } else { 0 };
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(&format!("redrive: can't start the worker threads: {error}"));
            return failure::FAILED;
        }
    };
    let mut out = io::BufWriter::new(io::stdout());
    let hard = CancellationToken::new();
    let done = std::panic::catch_unwind(AssertUnwindSafe(|| {
        runtime.block_on(async {
            let work = Box::pin(cli.command.run(Terminal { registry, out: &mut out, hard: hard.clone() }));
            let done = hard.run_until_cancelled(work).await.unwrap_or(Err(Failure::StoppedHard));
            done.and_then(|()| out.flush().map_err(Failure::from))
        })
    }));
    // Whatever still runs ends with the runtime, along with its processes. A client library's own threads must not hold up the exit.
    runtime.shutdown_timeout(Duration::from_secs(1));
    match done.unwrap_or_else(|panic| std::panic::resume_unwind(panic)) {
        Ok(()) => 0,
        Err(failure) => {
            // What was printed before the failure stays printed.
            let _ = out.flush();
            if let Some(message) = failure.message() {
                complain(&message);
            }
            failure.exit_code()
        }
    }
}

/// Writes a message to stderr; if that fails, there is nobody left to tell.
fn complain(message: &str) {
    let _ = writeln!(io::stderr(), "{message}");
}

impl Command {
    async fn run(self, mut terminal: Terminal<'_>) -> Result<(), Failure> {
        match self {
            Self::Serve(command) => command.run(terminal).await,
            Self::Run(command) => command.run(terminal).await,
            Self::Check(command) => command.run(&mut terminal),
            Self::Schema(command) => command.run(&mut terminal),
            Self::Migrate(command) => command.run(terminal).await,
            Self::Purge(command) => command.run(terminal).await,
            Self::Send(command) => command.run(terminal).await,
            Self::List(command) => command.run(terminal).await,
            Self::Show(command) => command.run(terminal).await,
            Self::Retry(command) => command.run(terminal).await,
            Self::Cancel(command) => command.run(terminal).await,
            Self::Payload(command) => command.run(terminal).await,
            Self::Health(command) => command.run(terminal).await,
            Self::Demo(command) => command.run(terminal).await,
            Self::Bench(command) => command.run(terminal).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn a_panic_is_a_bug_and_exits_so() {
        assert_eq!(guarded(|| panic!("on purpose")), 70);
        assert_eq!(guarded(|| 3), 3);
    }

    #[test]
    fn the_command_line_is_well_formed_and_every_command_says_how_it_exits() {
        Cli::command().debug_assert();
        for command in Cli::command().get_subcommands() {
            assert!(command.get_about().is_some(), "{}", command.get_name());
            let after = command.get_after_long_help().map(ToString::to_string).unwrap_or_default();
            assert!(after.contains("Example"), "{} has no example", command.get_name());
        }
    }
}

//! `redrive retry`

use super::chosen::Chosen;
use super::{ConfigFile, Failure, Terminal};
use crate::message::State;
use crate::store::config::Migrate;
use crate::view;

/// Put messages back to work
///
/// Failed and cancelled messages become pending, due now, with all their retries ahead of them. Pending and retrying ones become due now.
#[derive(Debug, clap::Args)]
#[command(override_usage = "redrive retry [OPTIONS] <ID>...
       redrive retry [OPTIONS] <FILTERS>, such as --source NAME --topic TOPIC")]
#[command(after_long_help = "Examples:
  redrive retry 01890a5d-ac96-774b-bcce-b302099a8057
  redrive retry --source billing --limit 1000          what failed, the newest first
  redrive retry --source billing --after ID            and on, with what the run before said at its end
  redrive retry --source billing --state retrying      don't wait for the next due time

Exits 1 if one of them was not put back; each says why.")]
pub(super) struct Command {
    #[command(flatten)]
    file: ConfigFile,
    /// Filter: messages in this state, failed or retrying (or cancelled, or pending)
    #[arg(long, default_value = "failed", group = "filter", value_parser = retriable)]
    state: State,
    #[command(flatten)]
    chosen: Chosen,
}

const VERB: &str = "put back";

fn retriable(text: &str) -> Result<State, String> {
    match text.parse()? {
        state @ (State::Failed | State::Retrying | State::Cancelled | State::Pending) => Ok(state),
        state => Err(format!("{}; choose failed, retrying, cancelled or pending", view::wrong_state(state, VERB))),
    }
}

impl Command {
    pub(super) async fn run(self, terminal: Terminal<'_>) -> Result<(), Failure> {
        let opened = self.file.open(terminal.registry, Migrate::Verify).await?;
        let retry = |ids| opened.store.retry(&opened.config.project, ids);
        self.chosen.change(&opened, terminal.out, self.state, VERB, retry).await
    }
}

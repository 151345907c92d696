//! `redrive cancel`

use super::chosen::Chosen;
use super::{ConfigFile, Failure, Terminal};
use crate::message::State;
use crate::store::config::Migrate;
use crate::view;

/// Cancel waiting messages
///
/// Pending, retrying and blocked messages become cancelled and are not sent. `redrive retry` brings them back.
#[derive(Debug, clap::Args)]
#[command(override_usage = "redrive cancel [OPTIONS] <ID>...
       redrive cancel [OPTIONS] <FILTERS>, such as --source NAME --topic TOPIC")]
#[command(after_long_help = "Examples:
  redrive cancel 01890a5d-ac96-774b-bcce-b302099a8057
  redrive cancel --source billing --topic invoices     what waits and was not tried yet
  redrive cancel --source billing --state retrying     what was tried and waits for its next attempt

Exits 1 if one of them was not cancelled; each says why.")]
pub(super) struct Command {
    #[command(flatten)]
    file: ConfigFile,
    /// Filter: messages in this state, pending or retrying (or blocked)
    #[arg(long, default_value = "pending", group = "filter", value_parser = waiting)]
    state: State,
    #[command(flatten)]
    chosen: Chosen,
}

const VERB: &str = "cancelled";

fn waiting(text: &str) -> Result<State, String> {
    match text.parse()? {
        state @ (State::Pending | State::Retrying | State::Blocked) => Ok(state),
        state => Err(format!("{}; choose pending, retrying or blocked", view::wrong_state(state, VERB))),
    }
}

impl Command {
    pub(super) async fn run(self, terminal: Terminal<'_>) -> Result<(), Failure> {
        let opened = self.file.open(terminal.registry, Migrate::Verify).await?;
        let cancel = |ids| opened.store.cancel(&opened.config.project, ids);
        self.chosen.change(&opened, terminal.out, self.state, VERB, cancel).await
    }
}

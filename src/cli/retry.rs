//! `redrive retry`

use uuid::Uuid;

use super::filter::Filter;
use super::{ConfigFile, Failure, Terminal, chunks, list, output};
use crate::message::State;
use crate::store::List;
use crate::store::config::Migrate;

/// Put messages back to work
///
/// Failed and cancelled messages become pending, due now, with all their retries before them. Pending and retrying ones become due now.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:
  redrive retry 01890a5d-ac96-774b-bcce-b302099a8057
  redrive retry --source billing --state failed --limit 1000
  redrive retry --source billing --state retrying      don't wait for the next due time

Exits 1 if one of them was not put back; each says why.")]
pub(super) struct Command {
    #[command(flatten)]
    file: ConfigFile,
    /// The messages' ids
    #[arg(value_name = "ID", required_unless_present = "source", conflicts_with_all = ["source", "state", "limit", "error_code"])]
    ids: Vec<Uuid>,
    /// Those of this source instead
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// With --source: those in this state, failed or retrying (or cancelled, or pending)
    #[arg(long, default_value = "failed", requires = "source", value_parser = retriable)]
    state: State,
    /// With --source: only those whose last error has this code
    #[arg(long, value_name = "CODE", requires = "source")]
    error_code: Option<String>,
    /// With --source: at most so many, the newest first
    #[arg(long, default_value_t = 1000, requires = "source", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    limit: u32,
    /// Print one JSON object: {"items": [{"id", "state"} or {"id", "error": {"code", "detail"}}]}
    #[arg(long)]
    json: bool,
}

fn retriable(text: &str) -> Result<State, String> {
    match text.parse()? {
        state @ (State::Failed | State::Retrying | State::Cancelled | State::Pending) => Ok(state),
        state => Err(format!("a message that is {state} can't be put back; choose failed, retrying, cancelled or pending")),
    }
}

impl Command {
    pub(super) async fn run(self, terminal: Terminal<'_>) -> Result<(), Failure> {
        let opened = self.file.open(terminal.registry, Migrate::Verify).await?;
        let project = opened.config.project.clone();
        let mut more = false;
        let ids = if self.source.is_some() {
            let filter = Filter { source: self.source, state: Some(self.state), error_code: self.error_code, ..Filter::default() };
            // All ids first: what is put back must not turn up again further down the list.
            let page = list::collect(opened.store.as_ref(), List { ..filter.list(&project) }, self.limit).await?;
            more = page.next.is_some();
            page.items.into_iter().map(|record| record.id).collect()
        } else {
            self.ids
        };
        let (changed, unfinished) = chunks::change(&ids, |ids| opened.store.retry(&project, ids)).await?;
        opened.store.close().await;
        let told = output::changes(terminal.out, &ids, &changed, "put back", self.json);
        if let Some(error) = unfinished {
            return Err(error.into());
        }
        if !self.json {
            if ids.is_empty() {
                writeln!(terminal.out, "no message is {}", self.state)?;
            } else if more {
                writeln!(terminal.out, "more are {}: run it again, or with a larger --limit", self.state)?;
            }
        }
        told
    }
}

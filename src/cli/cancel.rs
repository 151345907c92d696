//! `redrive cancel`

use uuid::Uuid;

use super::{ConfigFile, Failure, Terminal, chunks, output};
use crate::store::config::Migrate;

/// Give up messages that wait
///
/// Pending, retrying and blocked messages become cancelled and are not sent. `redrive retry` brings them back.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Example:
  redrive cancel 01890a5d-ac96-774b-bcce-b302099a8057

Exits 1 if one of them was not cancelled; each says why.")]
pub(super) struct Command {
    #[command(flatten)]
    file: ConfigFile,
    /// The messages' ids
    #[arg(value_name = "ID", required = true)]
    ids: Vec<Uuid>,
    /// Print one JSON object: {"items": [{"id", "state"} or {"id", "error": {"code", "detail"}}]}
    #[arg(long)]
    json: bool,
}

impl Command {
    pub(super) async fn run(self, terminal: Terminal<'_>) -> Result<(), Failure> {
        let opened = self.file.open(terminal.registry, Migrate::Verify).await?;
        let (changed, unfinished) = chunks::change(&self.ids, |ids| opened.store.cancel(&opened.config.project, ids)).await?;
        opened.store.close().await;
        let told = output::changes(terminal.out, &self.ids, &changed, "cancelled", self.json);
        unfinished.map_or(told, |error| Err(error.into()))
    }
}

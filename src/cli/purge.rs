//! `redrive purge`

use serde_json::{Map, Value, json};

use super::{ConfigFile, Failure, Terminal, output};
use crate::engine::purge::Purge;
use crate::message::State;
use crate::store::Purged;
use crate::store::config::Migrate;

/// Delete finished messages that are past their retention (history.keep)
///
/// A running node does the same by itself every `history.every`. It deletes in batches that don't disturb sending.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:
  redrive purge
  0 3 * * *  redrive purge -c /etc/redrive/orders.yaml")]
pub(super) struct Command {
    #[command(flatten)]
    file: ConfigFile,
    /// Print one JSON object: {"rows": {"succeeded", "failed", "cancelled"}, "keys", "attempts"}
    #[arg(long)]
    json: bool,
}

impl Command {
    pub(super) async fn run(self, terminal: Terminal<'_>) -> Result<(), Failure> {
        let opened = self.file.open(terminal.registry, Migrate::Verify).await?;
        let (store, project, history) = (opened.store.clone(), opened.config.project.clone(), opened.config.engine.history.clone());
        let purge = Purge { store, project, history };
        let Purged { rows: purged, keys, .. } = purge.run(|_| true).await?;
        let attempts = purge.sweep().await?.attempts;
        let rows: Vec<_> = State::FINISHED.iter().map(|state| (state, purged.get(state).copied().unwrap_or(0))).collect();
        opened.store.close().await;
        if self.json {
            let rows: Map<String, Value> = rows.iter().map(|(state, count)| (state.to_string(), json!(count))).collect();
            return output::json(terminal.out, &json!({ "rows": rows, "keys": keys, "attempts": attempts }));
        }
        let rows: Vec<String> = rows.iter().map(|(state, count)| format!("{count} {state}")).collect();
        let attempts = if attempts > 0 { format!(", and {attempts} attempts of messages that no longer exist") } else { String::new() };
        Ok(writeln!(terminal.out, "deleted: {} messages and {keys} idempotency keys{attempts}", rows.join(", "))?)
    }
}

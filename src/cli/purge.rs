//! `redrive purge`

use serde_json::{Map, Value, json};

use super::{ConfigFile, Failure, Terminal, output};
use crate::message::State;
use crate::store::Purge;
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
    /// Print one JSON object: {"rows": {"succeeded", "failed", "cancelled"}, "keys"}
    #[arg(long)]
    json: bool,
}

impl Command {
    pub(super) async fn run(self, terminal: Terminal<'_>) -> Result<(), Failure> {
        let opened = self.file.open(terminal.registry, Some(Migrate::Verify)).await?;
        let history = &opened.config.engine.history;
        let purge = Purge {
            project: opened.config.project.clone(),
            keep: State::FINISHED.map(|state| (state, history.keep.of(state))).to_vec(),
            max_rows: history.max_rows,
            batch: history.batch,
        };
        let mut rows = State::FINISHED.map(|state| (state, 0_u64));
        let mut keys = 0_u64;
        // Each batch takes rows away or says that there is no more.
        loop {
            let purged = opened.store.purge(purge.clone()).await?;
            for (state, count) in &purged.rows {
                if let Some((_, total)) = rows.iter_mut().find(|(have, _)| have == state) {
                    *total = total.saturating_add(*count);
                }
            }
            keys = keys.saturating_add(purged.keys);
            if !purged.more {
                break;
            }
        }
        opened.store.close().await;
        if self.json {
            let rows: Map<String, Value> = rows.iter().map(|(state, count)| (state.to_string(), json!(count))).collect();
            return output::json(terminal.out, &json!({ "rows": rows, "keys": keys }));
        }
        let rows: Vec<String> = rows.iter().map(|(state, count)| format!("{count} {state}")).collect();
        Ok(writeln!(terminal.out, "deleted: {} messages and {keys} idempotency keys", rows.join(", "))?)
    }
}

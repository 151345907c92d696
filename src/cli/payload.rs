//! `redrive payload`

use std::path::PathBuf;

use serde_json::json;
use uuid::Uuid;

use super::{ConfigFile, Failure, Terminal, output, send};
use crate::message::State;
use crate::source::Options;
use crate::store::Changed;
use crate::store::config::Migrate;
use crate::view::not_failed;

/// Replace the payload of a failed message
///
/// The new payload is what --file holds, or else what comes on stdin, byte by byte. The message stays failed: `redrive retry` sends it.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Example:
  redrive show ID --payload > payload.json      what was to be sent; mend it
  redrive payload ID --file payload.json
  redrive retry ID

Exits 1 if the message is not failed.")]
pub(super) struct Command {
    #[command(flatten)]
    file: ConfigFile,
    /// The message's id
    id: Uuid,
    /// A file that holds the payload
    #[arg(long = "file", value_name = "FILE")]
    payload_file: Option<PathBuf>,
    /// Print one JSON object: {"id", "state"}
    #[arg(long)]
    json: bool,
}

impl Command {
    pub(super) async fn run(self, terminal: Terminal<'_>) -> Result<(), Failure> {
        let opened = self.file.open(terminal.registry, Migrate::Verify).await?;
        let project = &opened.config.project;
        let record = opened.store.get(project, self.id, false).await?.ok_or_else(|| opened.no_message(self.id))?;
        // Nobody is asked for a payload that is not taken.
        if record.state != State::Failed {
            return Err(Failure::Failed(not_failed(record.state)));
        }
        let most = opened.config.options.get(&record.source).map_or_else(|| Options::default().max_payload, |options| options.max_payload);
        let payload = send::read(self.payload_file.as_deref(), most)?;
        let changed = opened.store.replace_payload(project, self.id, payload).await?;
        opened.store.close().await;
        match changed {
            Changed::Done(state) if self.json => output::json(terminal.out, &json!({ "id": self.id, "state": state })),
            Changed::Done(state) => Ok(writeln!(terminal.out, "{}  payload replaced, still {state}: `redrive retry` sends it", self.id)?),
            Changed::Wrong(state) => Err(Failure::Failed(not_failed(state))),
            Changed::NotFound => Err(opened.no_message(self.id)),
        }
    }
}

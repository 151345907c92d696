//! `redrive check`

use serde::Serialize;

use super::{ConfigFile, Failure, Terminal, output};
use crate::config::{Config, Located, Scope};

/// Check the configuration without running anything
///
/// Reads the file, puts environment variables in, reads the files of secrets and certificates and builds each source as `serve` would.
/// It connects to nothing. Every fault is reported at once, with its line.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:
  redrive check
  redrive check -c orders.yaml && redrive serve -c orders.yaml

Exits 0 if the configuration is fine, 64 if not.")]
pub(super) struct Command {
    #[command(flatten)]
    file: ConfigFile,
    /// Print one JSON object: {"ok", "file", "faults": [{"line", "path", "message"}]}
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Verdict<'a> {
    ok: bool,
    file: String,
    faults: &'a [Located],
}

impl Command {
    pub(super) fn run(self, terminal: &mut Terminal<'_>) -> Result<(), Failure> {
        let file = self.file.config.display().to_string();
        match Config::load(&self.file.config, terminal.registry, Scope::Whole) {
            Ok(_) if self.json => output::json(terminal.out, &Verdict { ok: true, file, faults: &[] }),
            Err(faults) if self.json => {
                output::json(terminal.out, &Verdict { ok: false, file, faults: faults.list() })?;
                Err(Failure::FaultsShown)
            }
            Err(faults) => Err(faults.into()),
            Ok(config) => {
                let sources: Vec<String> = config.sources.iter().map(|source| format!("{} ({})", source.name, source.kind)).collect();
                let sources = if sources.is_empty() { "no sources yet".to_owned() } else { format!("sources: {}", sources.join(", ")) };
                Ok(writeln!(terminal.out, "{file} is fine: project {}, {sources}", config.project)?)
            }
        }
    }
}

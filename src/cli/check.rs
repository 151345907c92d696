//! `redrive check`

use serde::Serialize;

use super::open::start_log;
use super::{ConfigFile, Failure, Terminal, output};
use crate::config::{Config, Located, Scope};
use crate::fault::Fault;

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

/// Prints the faults as JSON.
fn refuse(terminal: &mut Terminal<'_>, file: String, faults: &[Located]) -> Result<(), Failure> {
    output::json(terminal.out, &Verdict { ok: false, file, faults })?;
    Err(Failure::FaultsShown)
}

impl Command {
    pub(super) fn run(self, terminal: &mut Terminal<'_>) -> Result<(), Failure> {
        let file = self.file.config.display().to_string();
        let config = match Config::load(&self.file.config, terminal.registry, Scope::Whole) {
            Ok(config) => config,
            Err(faults) if self.json => return refuse(terminal, file, faults.list()),
            Err(faults) => return Err(faults.into()),
        };
        // A variable that keeps `serve` from starting is told here too.
        match start_log(&config.log) {
            Ok(()) if self.json => output::json(terminal.out, &Verdict { ok: true, file, faults: &[] }),
            Err(Fault { path, message }) if self.json => refuse(terminal, file, &[Located { line: None, path, message }]),
            Err(fault) => Err(fault.into()),
            Ok(()) => {
                let sources: Vec<String> = config.sources.iter().map(|source| format!("{} ({})", source.name, source.kind)).collect();
                let sources = if sources.is_empty() { "no sources yet".to_owned() } else { format!("sources: {}", sources.join(", ")) };
                Ok(writeln!(terminal.out, "{file} is fine: project {}, {sources}", config.project)?)
            }
        }
    }
}

//! `redrive schema`

use super::{Failure, Terminal};

/// Print the JSON Schema of the configuration file
///
/// Editors that support YAML schemas use it to complete and check the file.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Example:
  redrive schema > redrive.schema.json

and as the first line of redrive.yaml, for editors with the YAML language server:
  # yaml-language-server: $schema=redrive.schema.json")]
pub(super) struct Command {}

impl Command {
    pub(super) fn run(self, terminal: &mut Terminal<'_>) -> Result<(), Failure> {
        let Self {} = self;
        let schema = crate::config::schema::schema(terminal.registry);
        Ok(writeln!(terminal.out, "{schema:#}")?)
    }
}

//! `redrive migrate`

use super::{ConfigFile, Failure, Terminal};
use crate::config::{Config, Scope};
use crate::fault;
use crate::store::config::Migrate;
use crate::store::sql::{self, Unprinted};

/// Create or upgrade the tables of the resend log
///
/// `serve` does the same at start unless `store.migrate: verify` is set. It can be run again at any time.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:
  redrive migrate
  redrive migrate --print-sql > resend_log.sql     for those who may not run DDL themselves
  redrive migrate --print-sql --from 0002_sheets   the same for tables that an older build made")]
pub(super) struct Command {
    #[command(flatten)]
    file: ConfigFile,
    /// Print the statements instead of running them; connects to nothing
    #[arg(long)]
    print_sql: bool,
    /// Print only what comes after this migration, the last one that was applied
    #[arg(long, value_name = "VERSION", requires = "print_sql")]
    from: Option<String>,
}

impl Command {
    pub(super) async fn run(self, terminal: Terminal<'_>) -> Result<(), Failure> {
        if self.print_sql {
            let config = Config::load(&self.file.config, terminal.registry, Scope::Store)?;
            let from = self.from.as_deref();
            let sql = sql::print_sql(&config.store, &config.project, from).map_err(|unprinted| match unprinted {
                Unprinted::Faults(faults) => Failure::Config(fault::line_within("store", faults)),
                Unprinted::Unknown(versions) => Failure::Usage(format!(
                    "--from: there is no migration `{}`; the migrations are {}",
                    from.unwrap_or_default(),
                    versions.join(", ")
                )),
            })?;
            return Ok(write!(terminal.out, "{sql}")?);
        }
        let opened = self.file.open(terminal.registry, Migrate::Auto).await?;
        let server = &opened.prepared.server;
        match opened.prepared.applied.as_slice() {
            [] => writeln!(terminal.out, "{server}: the tables are up to date")?,
            applied => writeln!(terminal.out, "{server}: applied {}", applied.join(", "))?,
        }
        let project = opened.config.project.as_ref();
        if let Some(default) = opened.prepared.default_project.as_deref().filter(|default| *default != project) {
            writeln!(terminal.out, "rows inserted without a project belong to `{default}`, not to `{project}`: that is the column's default")?;
        }
        opened.store.close().await;
        Ok(())
    }
}

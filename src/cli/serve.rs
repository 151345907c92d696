//! `redrive serve`

use super::{ConfigFile, Failure, Terminal, files};
use crate::app::App;
use crate::shutdown;

/// Run the sidecar: accept messages, send what is due
///
/// It starts and accepts with any or all destinations down; with the store down it answers 503 and keeps trying. On SIGTERM or Ctrl-C it finishes or
/// hands back what is under way and stops; a second signal stops it at once.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:
  redrive serve
  redrive serve -c /etc/redrive/orders.yaml

A wrong configuration exits 64 with every fault on stderr, before any port is bound.")]
pub(super) struct Command {
    #[command(flatten)]
    file: ConfigFile,
}

impl Command {
    pub(super) async fn run(self, terminal: Terminal<'_>) -> Result<(), Failure> {
        let config = self.file.load(terminal.registry)?;
        files::raise(&config);
        let stop = shutdown::on_signal(terminal.hard)?;
        let app = App::build(config).await?;
        if let Some(address) = app.address() {
            tracing::info!(api.address = %address, "listening");
        }
        Ok(app.run(stop.cancelled_owned()).await?)
    }
}

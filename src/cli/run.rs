//! `redrive run`

use super::{ConfigFile, Failure, Terminal};
use crate::{app, shutdown};

/// Send what is due now, then exit: for cron
///
/// It claims and sends as `serve` does, opens no port, and exits when nothing is due any more. It can run beside running nodes.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:
  redrive run
  */5 * * * *  redrive run -c /etc/redrive/orders.yaml

Exits 69 if the store can't be reached, 1 if it is stopped (SIGTERM) before all that is due was sent. A destination that can't be reached is no failure: its messages stay for the next run.")]
pub(super) struct Command {
    #[command(flatten)]
    file: ConfigFile,
}

impl Command {
    pub(super) async fn run(self, terminal: Terminal<'_>) -> Result<(), Failure> {
        let config = self.file.load(terminal.registry)?;
        let ran = app::run_once(config, shutdown::on_signal(terminal.hard)?.cancelled_owned()).await?;
        if ran.cut_short {
            return Err(Failure::Failed("stopped before all that is due was sent; the rest stays for the next run".to_owned()));
        }
        if ran.waiting {
            tracing::warn!("messages are due but their destination can't be reached; they stay for the next run");
        }
        Ok(())
    }
}

//! `redrive health`

use std::path::PathBuf;

use super::{Failure, Terminal};
use crate::units::Span;

/// Ask a running node how it is: for a container's health check
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:
  redrive health
  redrive health --url http://127.0.0.1:8088/readyz
  redrive health --unix /run/redrive.sock
  HEALTHCHECK CMD [\"redrive\", \"health\"]

/healthz says that the process lives, /readyz that it can accept messages durably.
Exits 0 if the answer is 2xx, 1 if it is another or none comes.")]
pub(super) struct Command {
    /// What to ask
    #[arg(long, env = "REDRIVE_HEALTH_URL", default_value = "http://127.0.0.1:8087/healthz")]
    url: String,
    /// Ask through this Unix socket; of the URL only the path counts
    #[arg(long, value_name = "PATH")]
    unix: Option<PathBuf>,
    /// How long to wait for the answer
    #[arg(long, default_value = "3s", value_name = "TIME")]
    timeout: Span,
}

impl Command {
    pub(super) async fn run(self, terminal: Terminal<'_>) -> Result<(), Failure> {
        // A proxy is for the world; this is the process next door.
        let mut client = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).timeout(self.timeout.get());
        if let Some(path) = self.unix {
            client = client.unix_socket(path);
        }
        let url = url::Url::parse(&self.url).map_err(|error| Failure::Usage(format!("--url: {error}; write http://127.0.0.1:8087/healthz")))?;
        let client = client.build().map_err(|error| Failure::Failed(error.to_string()))?;
        let answer = client.get(url).send().await.map_err(|error| Failure::Failed(format!("no answer: {}", chain(&error.without_url()))))?;
        let status = answer.status();
        if !status.is_success() {
            return Err(Failure::Failed(format!("the answer is {status}")));
        }
        Ok(writeln!(terminal.out, "{status}")?)
    }
}

/// An error with its causes: the first alone says little.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

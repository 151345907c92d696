//! `redrive health`

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use super::{ConfigFile, Failure, Terminal};
use crate::config::{Config, Scope};
use crate::units::Span;

/// The URL for a Unix socket, of which only the path counts.
const THROUGH_A_SOCKET: &str = "http://localhost/healthz";

/// Ask a running node for its health: for a container's health check
///
/// It asks /healthz where the configuration has the node listen: at `health.listen`, else at `api.listen`, else through `api.unix`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:
  redrive health
  redrive health -c /etc/redrive/orders.yaml
  redrive health --url http://127.0.0.1:8088/readyz
  redrive health --unix /run/redrive.sock
  HEALTHCHECK CMD [\"redrive\", \"health\"]

/healthz says that the process lives, /readyz that it can accept messages durably.
Exits 0 if the answer is 2xx, 1 if it is another or none comes, 64 if the configuration that says where to ask is wrong.")]
pub(super) struct Command {
    #[command(flatten)]
    file: ConfigFile,
    /// The URL to ask; the configuration is then not read
    #[arg(long, env = "REDRIVE_HEALTH_URL")]
    url: Option<String>,
    /// Ask through this Unix socket; only the URL's path counts
    #[arg(long, value_name = "PATH")]
    unix: Option<PathBuf>,
    /// How long to wait for the answer
    #[arg(long, default_value = "3s", value_name = "TIME")]
    timeout: Span,
}

impl Command {
    pub(super) async fn run(self, terminal: Terminal<'_>) -> Result<(), Failure> {
        let (url, unix) = match (self.url, self.unix) {
            (None, None) => place(&Config::load(&self.file.config, terminal.registry, Scope::Store)?)?,
            (url, unix) => (url.unwrap_or_else(|| THROUGH_A_SOCKET.to_owned()), unix),
        };
        let url = url::Url::parse(&url).map_err(|error| Failure::Usage(format!("--url: {error}; write http://127.0.0.1:8087/healthz")))?;
        // Without the rest of the URL, which may contain a password.
        let asked = unix.as_ref().map_or_else(|| url.origin().ascii_serialization(), |path| path.display().to_string());
        // A proxy is for the outside world; this is a process on the same machine.
        let mut client = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).timeout(self.timeout.get());
        if let Some(path) = unix {
            client = client.unix_socket(path);
        }
        let client = client.build().map_err(|error| Failure::Failed(error.to_string()))?;
        let answer = client.get(url).send().await;
        let answer = answer.map_err(|error| Failure::Failed(format!("no answer from {asked}: {}", chain(&error.without_url()))))?;
        let status = answer.status();
        if !status.is_success() {
            return Err(Failure::Failed(format!("{asked} answered {status}")));
        }
        Ok(writeln!(terminal.out, "{status}")?)
    }
}

/// Where a node with this configuration can be asked: the URL, and the Unix socket if it has no port.
fn place(config: &Config) -> Result<(String, Option<PathBuf>), Failure> {
    // Only the node knows which port it got for port 0.
    let known = [config.health.listen, config.api.listen].into_iter().flatten().find(|address| address.port() != 0);
    match (known, &config.api.unix) {
        (Some(address), _) => Ok((format!("http://{}/healthz", next_door(address)), None)),
        (None, Some(path)) => Ok((THROUGH_A_SOCKET.to_owned(), Some(path.clone()))),
        (None, None) => Err(Failure::Usage("the configuration leaves the port to the system; give it with --url".to_owned())),
    }
}

/// An address as it is reached from this machine. A wildcard address (even `[::]`, where IPv6 may be off) includes IPv4's loopback.
fn next_door(address: SocketAddr) -> SocketAddr {
    if address.ip().to_canonical().is_unspecified() { (Ipv4Addr::LOCALHOST, address.port()).into() } else { address }
}

/// An error with its causes: the first one alone says little.
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

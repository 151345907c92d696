//! The sidecar under test, from outside: a child process, so that its resource usage can be measured separately.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde::Serialize;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::Instant;

use super::Error;
use super::http::Connection;
use super::node::{Overrides, Started};
use super::process;

/// How long a child may take to become ready.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// How long it may take to end.
const END_WITHIN: Duration = Duration::from_secs(10);

/// A child process that listens. It ends when this is dropped.
pub(super) struct Listener {
    pub(super) address: SocketAddr,
    pid: u32,
    child: Child,
    stdin: Option<ChildStdin>,
}

impl Listener {
    /// Starts this very program as `redrive bench <part>`, passes it `told` on stdin and reads where it listens.
    pub(super) async fn start(part: &str, file: &Path, told: &impl Serialize) -> Result<Self, Error> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["bench", part, "--config"])
            .arg(file)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // Ctrl-C is for the parent to handle.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let pid = child.id().unwrap_or_default();
        let (Some(mut stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(Error::Failed("the process under test has no stdin".to_owned()));
        };
        let mut line = serde_json::to_vec(told).map_err(|error| Error::Failed(error.to_string()))?;
        line.push(b'\n');
        stdin.write_all(&line).await?;
        let (mut answer, mut stdout) = (String::new(), BufReader::new(stdout));
        let read = tokio::time::timeout(READY_WITHIN, stdout.read_line(&mut answer)).await;
        let (Ok(Ok(_)), Ok(Started { address })) = (read, serde_json::from_str(&answer)) else {
            return Err(Error::Failed("the process under test did not start; its messages are above".to_owned()));
        };
        Ok(Self { address, pid, child, stdin: Some(stdin) })
    }

    /// Ends it in good order, or by force.
    pub(super) async fn stop(mut self) {
        drop(self.stdin.take());
        if tokio::time::timeout(END_WITHIN, self.child.wait()).await.is_err() {
            let _ = self.child.kill().await;
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // What is removed next must not be in use any more. A killed process is gone at once.
        if self.child.id().is_some() && self.child.start_kill().is_ok() {
            for _ in 0..100 {
                if !matches!(self.child.try_wait(), Ok(None)) {
                    break;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

/// A running sidecar.
pub(super) struct Sidecar {
    listener: Listener,
    /// The time from its start until it was ready.
    pub(super) ready_after: Duration,
    scrape: Connection,
}

impl Sidecar {
    /// Starts one and waits until it is ready.
    pub(super) async fn start(file: &Path, overrides: &Overrides) -> Result<Self, Error> {
        let begun = Instant::now();
        let listener = Listener::start("node", file, overrides).await?;
        let mut scrape = Connection::open(listener.address).await?;
        let mut pause = Duration::from_millis(2);
        while scrape.get("/readyz").await?.status != 200 {
            if begun.elapsed() > READY_WITHIN {
                return Err(Error::Unreachable(format!("the sidecar is not ready after {} s: is the store up?", READY_WITHIN.as_secs())));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(50));
        }
        Ok(Self { listener, ready_after: begun.elapsed(), scrape })
    }

    pub(super) const fn address(&self) -> SocketAddr {
        self.listener.address
    }

    pub(super) const fn pid(&self) -> u32 {
        self.listener.pid
    }

    /// The sum of a metric over all label sets that contain `label`.
    pub(super) async fn metric(&mut self, name: &str, label: &str) -> Result<u64, Error> {
        let answer = self.scrape.get("/metrics").await?;
        let text = String::from_utf8_lossy(answer.body);
        let samples = text.lines().filter_map(|line| line.strip_prefix(name)).filter(|rest| rest.starts_with('{') && rest.contains(label));
        let sum: f64 = samples.filter_map(|rest| rest.rsplit(' ').next()?.parse::<f64>().ok()).sum();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a counter; `as` saturates")]
        Ok(sum as u64)
    }

    /// How many units of work it has given the database since the process began.
    pub(super) async fn operations(&mut self) -> Result<u64, Error> {
        self.metric("redrive_store_seconds_count", "op=").await
    }

    /// How many messages were delivered, since the process began.
    pub(super) async fn delivered(&mut self) -> Result<u64, Error> {
        self.metric("redrive_finished_total", r#"state="succeeded""#).await
    }

    /// How many messages failed.
    pub(super) async fn failed(&mut self) -> Result<u64, Error> {
        self.metric("redrive_finished_total", r#"state="failed""#).await
    }

    pub(super) fn cpu(&self) -> Option<Duration> {
        process::cpu(self.pid())
    }

    pub(super) fn rss_peak(&self) -> Option<u64> {
        process::rss_peak(self.pid())
    }

    pub(super) async fn stop(self) {
        self.listener.stop().await;
    }
}

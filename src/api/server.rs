//! The server: binds first, so that a bad address fails at start, and serves once there is something to serve.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::config::{Config, Health};
use super::connection::{self, Patience};
use super::crowd::Crowd;
use super::gate::{Gate, Limits};
use super::listener::{Listener, Tcp, Unix};
use super::routes::Routes;
use super::{App, Metrics};
use crate::engine::Handle;

/// This many bodies of the maximum size, or smaller ones of the same total size, may be in memory at once.
const LARGEST_BODIES: usize = 4;
/// The number of connections that the health port serves at once.
const HEALTH_CONNECTIONS: usize = 64;
/// And its time limit, which is shorter.
const HEALTH_PATIENCE: Duration = Duration::from_secs(10);

/// Creates servers.
#[derive(Debug)]
pub struct Server;

impl Server {
    /// Binds the addresses in the configuration, and fails if one of them is not available. Connections wait until they are [served](Bound::serve).
    /// Must be called within a Tokio runtime.
    pub fn bind(config: &Config, health: &Health) -> io::Result<Bound> {
        let tcp = config.listen.map(Tcp::bind).transpose()?;
        let mode = config.unix_permissions().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "unix_mode is not octal"))?;
        let unix = config.unix.as_deref().map(|path| Unix::bind(path, mode)).transpose()?;
        let health = health.listen.map(Tcp::bind).transpose()?;
        Ok(Bound { tcp, unix, health, config: config.clone() })
    }
}

/// A server that has bound its addresses.
#[derive(Debug)]
pub struct Bound {
    tcp: Option<Tcp>,
    unix: Option<Unix>,
    health: Option<Tcp>,
    config: Config,
}

impl Bound {
    /// The address of the API, with the actual port if port 0 was configured.
    pub fn address(&self) -> Option<SocketAddr> {
        self.tcp.as_ref().map(|tcp| tcp.address)
    }

    /// The address that serves only health and metrics.
    pub fn health_address(&self) -> Option<SocketAddr> {
        self.health.as_ref().map(|tcp| tcp.address)
    }

    /// Splits off health and metrics, if they have an address of their own, so that they can be served for longer than the rest.
    #[must_use]
    pub fn split_health(&mut self) -> Self {
        Self { tcp: None, unix: None, health: self.health.take(), config: self.config.clone() }
    }

    /// Serves until `stop`; then accepts no more connections, gives requests under way `grace` to finish, and cuts what is left. Dropping the future
    /// cuts everything at once.
    ///
    /// # Errors
    /// Currently none: failures to accept are logged and retried.
    pub async fn serve(self, handle: Handle, metrics: Metrics, stop: CancellationToken, grace: Duration) -> io::Result<()> {
        let app = App::new(handle, metrics);
        let api = Gate::new(Routes::api(app.clone()), api_limits(&self.config));
        let health = Gate::new(Routes::health(app), HEALTH_LIMITS);
        self.run(api, health, stop, grace).await;
        Ok(())
    }

    async fn run(self, api: Gate, health: Gate, stop: CancellationToken, grace: Duration) {
        let cut = CancellationToken::new();
        let _cut_when_dropped = cut.clone().drop_guard();
        let tracker = TaskTracker::new();
        let places = usize::try_from(self.config.max_connections).unwrap_or(usize::MAX);
        let port = |gate, places, patience| {
            let (stop, cut, tracker) = (stop.clone(), cut.clone(), tracker.clone());
            Port { gate: Arc::new(gate), crowd: Crowd::new(places), patience, stop, cut, tracker }
        };
        let patience = Patience { head: self.config.header_timeout.get(), answer: self.config.body_timeout.get() };
        let api = port(api, places, patience);
        let patience = Patience { head: HEALTH_PATIENCE, answer: HEALTH_PATIENCE };
        let health = port(health, HEALTH_CONNECTIONS, patience);
        tokio::join!(api.accept(self.tcp), api.accept(self.unix), health.accept(self.health));
        tracker.close();
        if timeout(grace, tracker.wait()).await.is_err() {
            tracing::warn!(connections = tracker.len(), "connections were cut because their requests took longer than the shutdown allows");
            cut.cancel();
            tracker.wait().await;
        }
    }
}

fn api_limits(config: &Config) -> Limits {
    let max_body = config.max_body.bytes();
    Limits { token: config.token.clone(), max_body, max_bodies: max_body.saturating_mul(LARGEST_BODIES), body_timeout: config.body_timeout.get() }
}

/// The health port reads no bodies.
const HEALTH_LIMITS: Limits = Limits { token: None, max_body: 0, max_bodies: 0, body_timeout: HEALTH_PATIENCE };

/// What the connections of a listener share.
struct Port {
    gate: Arc<Gate>,
    crowd: Arc<Crowd>,
    patience: Patience,
    stop: CancellationToken,
    cut: CancellationToken,
    tracker: TaskTracker,
}

impl Port {
    /// Accepts until it is told to stop. While all places are taken by busy connections, further ones wait: all but one of them in the kernel.
    async fn accept<L: Listener>(&self, listener: Option<L>) {
        // Without any, a program that embeds redrive uses the handle alone, until it stops.
        let Some(listener) = listener else { return self.stop.cancelled().await };
        let mut pause = Pause::default();
        let accepting = async {
            loop {
                let stream = match listener.accept().await {
                    Ok(stream) => stream,
                    Err(error) => {
                        pause.after(&error).await;
                        continue;
                    }
                };
                pause = Pause::default();
                let Some(place) = self.crowd.enter().await else { return };
                let (gate, patience) = (Arc::clone(&self.gate), self.patience);
                let (stop, cut) = (self.stop.clone(), self.cut.clone());
                self.tracker.spawn(async move {
                    connection::serve(stream, L::DOOR, gate, patience, Arc::clone(&place.activity), stop, cut).await;
                    drop(place);
                });
            }
        };
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = accepting => {}
        }
    }
}

/// The pauses after failures to accept.
#[derive(Default)]
struct Pause {
    failures: u32,
}

impl Pause {
    /// A connection that was gone before it was accepted is nobody's fault. Anything else (no more file descriptors) takes time to improve, and
    /// retrying at once would only burn a core.
    async fn after(&mut self, error: &io::Error) {
        use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
        if matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted) {
            return;
        }
        // One line at the first failure, then one a minute.
        if self.failures.is_multiple_of(60) {
            tracing::error!(error.detail = error.to_string(), "connections can't be accepted; retrying");
        }
        self.failures = self.failures.saturating_add(1);
        sleep(Duration::from_secs(1).min(Duration::from_millis(50 << self.failures.min(5)))).await;
    }
}

#[cfg(test)]
mod tests;

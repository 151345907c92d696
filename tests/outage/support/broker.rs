//! Brokers, killed, paused and brought back through `scripts/services`.

use std::process::{Command, Stdio};
use std::time::Duration;

use super::service;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Broker {
    Kafka,
    Rabbitmq,
}

impl Broker {
    const fn name(self) -> &'static str {
        match self {
            Self::Kafka => "kafka",
            Self::Rabbitmq => "rabbitmq",
        }
    }

    /// SIGKILL. The broker comes back with [`Down::restart`], or when the returned value is dropped, so that a failed test leaves it running.
    pub(crate) async fn kill(self) -> Down {
        let killed = move || {
            if self == Self::Rabbitmq {
                // RabbitMQ 3 confirms a declaration up to two seconds before it is on disk: the queue of a test would be gone.
                services(&["ctl", self.name(), "eval", "mnesia:sync_log()."]);
            }
            services(&["kill", self.name()]);
        };
        tokio::task::spawn_blocking(killed).await.unwrap();
        Down { broker: Some(self) }
    }

    /// The broker hangs for this long with its connections open, and then continues.
    pub(crate) async fn stall(self, long: Duration) {
        let paused = Paused(self);
        tokio::task::spawn_blocking(move || services(&["pause", self.name()])).await.unwrap();
        tokio::time::sleep(long).await;
        tokio::task::spawn_blocking(move || drop(paused)).await.unwrap();
    }

    /// Waits until it answers, and starts it if an earlier test was ended while it was down.
    pub(crate) async fn up(self) {
        tokio::task::spawn_blocking(move || services(&["start", self.name()])).await.unwrap();
    }
}

/// A broker that is down.
#[derive(Debug)]
#[must_use]
pub(crate) struct Down {
    broker: Option<Broker>,
}

impl Down {
    pub(crate) async fn restart(mut self) {
        if let Some(broker) = self.broker {
            broker.up().await;
            self.broker = None;
        }
    }
}

impl Drop for Down {
    fn drop(&mut self) {
        if let Some(broker) = self.broker.take() {
            services(&["start", broker.name()]);
        }
    }
}

/// A broker that hangs until this is dropped.
struct Paused(Broker);

impl Drop for Paused {
    fn drop(&mut self) {
        services(&["resume", self.0.name()]);
    }
}

fn services(arguments: &[&str]) {
    let script = service("REDRIVE_SERVICES");
    // What it starts must not inherit a pipe whose end somebody waits for.
    let status = Command::new(&script).args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    let status = status.unwrap_or_else(|error| panic!("{script}: {error}"));
    assert!(status.success(), "{script} {}: {status}", arguments.join(" "));
}

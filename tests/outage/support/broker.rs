//! Brokers, killed and brought back through `scripts/services`.

use std::process::{Command, Stdio};

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

    /// SIGKILL. It comes back with [`Down::restart`], or when what is returned is dropped, so that a test that fails leaves no ruin.
    pub(crate) async fn kill(self) -> Down {
        tokio::task::spawn_blocking(move || services("kill", self)).await.unwrap();
        Down { broker: Some(self) }
    }

    /// Waits until it answers, and starts it where an earlier test was ended while it was down.
    pub(crate) async fn up(self) {
        tokio::task::spawn_blocking(move || services("start", self)).await.unwrap();
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
            services("start", broker);
        }
    }
}

fn services(command: &str, broker: Broker) {
    let script = service("REDRIVE_SERVICES");
    // What it starts must not inherit a pipe on which somebody waits for the end.
    let status = Command::new(&script).args([command, broker.name()]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    let status = status.unwrap_or_else(|error| panic!("{script}: {error}"));
    assert!(status.success(), "{script} {command} {}: {status}", broker.name());
}

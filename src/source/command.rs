//! `kind: command`: one process a message.
//!
//! The payload comes on standard input, the facts in the environment, the exit code decides. Each process leads a process group of its own; when
//! its time is up, nobody waits for it any longer, or redrive stops and can't, the whole group is ended: SIGTERM, and a second later SIGKILL for
//! what is left.

mod config;
mod environment;
mod output;
mod process;
mod table;

use std::time::Duration;

use async_trait::async_trait;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Source;
use crate::message::Message;
use crate::outcome::Outcome;
use process::Program;

pub use config::Config;

struct Command {
    program: std::sync::Arc<Program>,
    /// The processes under way, those that are being ended among them.
    tracker: TaskTracker,
    /// Cancelled when none can be waited for any longer.
    ending: CancellationToken,
}

#[async_trait]
impl Source for Command {
    async fn send(&self, message: &Message) -> Outcome {
        let environment = match environment::facts(message) {
            Ok(environment) => environment,
            Err(detail) => return Outcome::unsendable("command_environment", detail),
        };
        let program = self.program.clone();
        let payload = message.payload.clone().unwrap_or_default();
        // In a task of its own, so that a group is ended in full also when this future is dropped; the guard says that it was.
        let unwanted = self.ending.child_token();
        let _wanted = unwanted.clone().drop_guard();
        let task = self.tracker.spawn(async move { process::run(&program, environment, payload, unwanted).await });
        task.await.unwrap_or_else(|error| Outcome::unreachable("command_lost", format!("the task that ran the command was lost: {error}")))
    }

    async fn close(&self, within: Duration) {
        self.tracker.close();
        if timeout(within, self.tracker.wait()).await.is_err() {
            self.ending.cancel();
            // What is not over by then loses its group with the runtime.
            let _ = timeout(process::ENDS_WITHIN, self.tracker.wait()).await;
        }
    }
}

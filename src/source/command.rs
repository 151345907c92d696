//! `kind: command`: one process per message.
//!
//! The payload comes on standard input, the facts in the environment, and the exit code decides. Each process leads a process group of its own. When
//! its time is up, when nobody waits for it any longer, or when it is still running as redrive stops, the whole group is ended: SIGTERM, and a second
//! later SIGKILL for what is left.

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
    /// The processes under way, including those that are being ended.
    tracker: TaskTracker,
    /// Cancelled when none of them can be waited for any longer.
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
        // In a task of its own, so that the group is ended properly even if this future is dropped; the guard reports that it was.
        let unwanted = self.ending.child_token();
        let _wanted = unwanted.clone().drop_guard();
        let task = self.tracker.spawn(async move { process::run(&program, environment, payload, unwanted).await });
        task.await.unwrap_or_else(|error| Outcome::unreachable("command_lost", format!("the task that ran the command was lost: {error}")))
    }

    async fn close(&self, within: Duration) {
        self.tracker.close();
        if timeout(within, self.tracker.wait()).await.is_err() {
            self.ending.cancel();
            // Processes that are not done by then lose their group along with the runtime.
            let _ = timeout(process::ENDS_WITHIN, self.tracker.wait()).await;
        }
    }
}

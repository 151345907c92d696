//! Stopping: a first signal asks for it, a second one ends the process at once.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::source::command;

/// The exit code of a process that was stopped hard by a second signal: 128 + SIGTERM.
const STOPPED_HARD: i32 = 143;

/// A token that is cancelled by the first SIGTERM or SIGINT. The second one ends the process: what is under way is then found by
/// others when its lease runs out.
///
/// # Errors
/// If the signal handlers can't be installed.
pub fn on_signal() -> std::io::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let token = CancellationToken::new();
    let stop = token.clone();
    tokio::spawn(async move {
        let mut name = "";
        for round in 0..2 {
            tokio::select! {
                _ = terminate.recv() => name = "SIGTERM",
                _ = interrupt.recv() => name = "SIGINT",
            }
            if round == 0 {
                tracing::info!(signal = name, "stopping: nothing new is sent, what is under way is finished; a second signal stops at once");
                stop.cancel();
            }
        }
        tracing::warn!(signal = name, "stopped at once; what was under way is sent again when its lease has run out");
        // They lead groups of their own, so that no signal of ours reaches them.
        command::kill_all();
        std::process::exit(STOPPED_HARD);
    });
    Ok(token)
}

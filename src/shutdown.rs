//! Stopping: the first signal asks for it, the second one ends the process at once.

use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The exit code of a process that was stopped hard by a second signal: 128 + SIGTERM.
pub(crate) const STOPPED_HARD: u8 = 143;

/// How long the code that watches `hard` may take to end the process.
const HARD_WITHIN: Duration = Duration::from_secs(2);

/// A token that is cancelled by the first SIGTERM or SIGINT. The second one cancels `hard`, upon which the runtime is to be dropped, with everything
/// that runs in it and the processes it started: others find what was under way when its lease runs out. A thread that hangs does not hold this up.
///
/// # Errors
/// If the signal handlers can't be installed.
pub(crate) fn on_signal(hard: CancellationToken) -> std::io::Result<CancellationToken> {
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
                // First: a log that can't be written must not keep the process from stopping.
                stop.cancel();
                tracing::info!(signal = name, "stopping: nothing new is sent, what is under way is finished; a second signal stops at once");
            }
        }
        hard.cancel();
        tracing::warn!(signal = name, "stopped at once; what was under way is sent again when its lease has run out");
        tokio::time::sleep(HARD_WITHIN).await;
        std::process::exit(STOPPED_HARD.into());
    });
    Ok(token)
}

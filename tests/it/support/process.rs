//! Processes that a test did not start itself.

use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Pid, test_kill_process};

use super::endpoint::SOON;

/// Waits until a file contains a line, and reads it.
pub(crate) async fn line(file: &Path) -> String {
    let deadline = Instant::now() + SOON;
    loop {
        match std::fs::read_to_string(file) {
            Ok(text) if text.ends_with('\n') => return text.trim().to_owned(),
            _ => assert!(Instant::now() < deadline, "{} was not written", file.display()),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The process whose number a program wrote down.
pub(crate) fn pid(text: &str) -> Pid {
    Pid::from_raw(text.parse().unwrap()).unwrap()
}

/// Waits until a process is gone. A zombie whose new parent does not reap it counts as gone.
pub(crate) async fn gone(pid: Pid) {
    let deadline = Instant::now() + SOON;
    let zombie = || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
        stat.is_ok_and(|stat| stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z')))
    };
    while test_kill_process(pid).is_ok() && !zombie() {
        assert!(Instant::now() < deadline, "process {pid:?} is still there");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

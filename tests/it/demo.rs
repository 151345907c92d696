//! `redrive demo`, interrupted, and with a broker that is not there. A complete run would take too long.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The demo, with its temporary files in a folder.
pub(crate) fn demo(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_redrive"));
    command.arg("demo").env("TMPDIR", folder).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

fn is_empty(folder: &Path) -> bool {
    std::fs::read_dir(folder).unwrap().next().is_none()
}

/// Starts it, sends it a signal once `begun` holds, and waits for its end.
pub(crate) fn interrupted(mut command: Command, signal: &str, begun: impl Fn() -> bool) {
    let mut child = command.spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while !begun() {
        assert!(Instant::now() < deadline && child.try_wait().unwrap().is_none(), "it never began");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("interrupted"), "{stderr}");
}

#[test]
fn a_signal_ends_it_and_nothing_is_left() {
    for signal in ["-INT", "-TERM"] {
        let folder = tempfile::tempdir().unwrap();
        interrupted(demo(folder.path()), signal, || !is_empty(folder.path()));
        assert!(is_empty(folder.path()), "{signal}");
    }
}

#[test]
fn a_broker_that_is_away_is_told_from_a_failure() {
    let folder = tempfile::tempdir().unwrap();
    let output = demo(folder.path()).args(["--kafka", "127.0.0.1:1"]).output().unwrap();
    assert_eq!(output.status.code(), Some(69), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(is_empty(folder.path()));
}

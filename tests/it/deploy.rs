//! The files under `deploy/`.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

/// What the producer of the compose file says of its first order, when it is started at this time.
fn first_order(started: &str) -> String {
    let programs = tempfile::tempdir().unwrap();
    // All that it calls; it ends where it would wait for the next second.
    for (name, does) in [("curl", "exit 0"), ("hostname", "echo container"), ("date", "echo \"$NOW\""), ("sleep", "exit 1")] {
        let program = programs.path().join(name);
        std::fs::write(&program, format!("#!/bin/sh\n{does}\n")).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/compose/producer.sh");
    let path = format!("{}:{}", programs.path().display(), std::env::var("PATH").unwrap());
    let variables = [("PATH", path.as_str()), ("NOW", started), ("REDRIVE_URL", "http://redrive:8087"), ("REDRIVE_TOKEN", "t0ken")];
    let output = Command::new("sh").arg(script).envs(variables).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_producer_that_is_started_again_submits_other_orders() {
    let (first, second) = (first_order("1700000000"), first_order("1700000060"));
    assert!(first.starts_with("accepted: o-container-"), "{first}");
    assert_ne!(first, second, "both would have the same idempotency key");
}

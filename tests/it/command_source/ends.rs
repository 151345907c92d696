//! How a program ends, and that it does.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use redrive::outcome::{Class, MAX_RESULT, Outcome};
use rustix::process::test_kill_process;
use serde_json::{Value, json};

use super::shell;
use crate::support::endpoint::{SOON, build, message, said};
use crate::support::process::{gone, line, pid};

#[tokio::test]
async fn each_exit_code_is_what_the_table_says() {
    let table = [(65, Class::Permanent), (69, Class::Unreachable), (75, Class::Unreachable)];
    let refused = [1, 2, 64, 66, 67, 68, 70, 77, 78, 126, 127, 128, 255].map(|code| (code, Class::Refused));
    for (code, class) in table.into_iter().chain(refused) {
        let outcome = shell(&format!("echo because >&2; exit {code}"), json!({}), Path::new(".")).send(&message("")).await;
        assert_eq!(said(&outcome), (class, format!("exit_{code}").as_str()));
        assert_eq!(outcome.detail, format!("ended with exit code {code}: because"));
    }
    assert_eq!(shell("exit 0", json!({}), Path::new(".")).send(&message("")).await, Outcome::succeeded());
    for signal in [9, 15, 11] {
        let outcome = shell(&format!("kill -{signal} $$"), json!({}), Path::new(".")).send(&message("")).await;
        assert_eq!(said(&outcome), (Class::Refused, format!("signal_{signal}").as_str()));
    }
}

#[tokio::test]
async fn a_program_that_is_not_there_can_be_mended() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("plain"), "no program\n").unwrap();
    std::fs::write(folder.path().join("garbage"), [0; 64]).unwrap();
    std::fs::set_permissions(folder.path().join("garbage"), std::fs::Permissions::from_mode(0o755)).unwrap();
    for program in ["./absent", "./plain", "./garbage", "./plain/x", "./", "redrive-no-such-program"] {
        let outcome = build("command", json!({ "argv": [program] }), json!({}), folder.path()).unwrap().send(&message("")).await;
        assert_eq!(said(&outcome), (Class::Refused, "command_not_found"), "{program}: {}", outcome.detail);
    }
    let nowhere = json!({ "argv": ["true"], "directory": "absent" });
    let outcome = build("command", nowhere, json!({}), folder.path()).unwrap().send(&message("")).await;
    assert_eq!(said(&outcome), (Class::Refused, "command_not_found"));
    assert!(outcome.detail.contains("working directory"), "{}", outcome.detail);
}

#[tokio::test]
async fn what_it_says_is_kept_and_bounded() {
    let flood = "i=0; while [ $i -lt 20000 ]; do echo \"out $i\"; echo \"err $i\" >&2; i=$((i+1)); done; head -c 20000000 /dev/zero >&2; echo >&2; echo last words >&2; exit 1";
    let outcome = shell(flood, json!({ "keep_result": true }), Path::new(".")).send(&message("")).await;
    assert_eq!(said(&outcome), (Class::Refused, "exit_1"), "{}", outcome.detail);
    assert!(outcome.detail.ends_with("last words"), "{}", outcome.detail);
    let result = outcome.result.unwrap();
    assert!(result.len() <= MAX_RESULT);
    let result: Value = serde_json::from_str(&result).unwrap();
    assert_eq!(result["exit"], 1);
    assert!(result["output"].as_str().unwrap().starts_with("out 0\nout 1\n"));

    let kept = shell("cat; echo ' done'", json!({ "keep_result": true }), Path::new(".")).send(&message("it is")).await;
    assert_eq!(kept, Outcome::succeeded().with_result(r#"{"exit":0,"output":"it is done\n"}"#));
    assert_eq!(shell("echo x", json!({}), Path::new(".")).send(&message("")).await, Outcome::succeeded());
}

/// The leader waits for a grandchild that ignores SIGTERM; both write down their process ids.
const STUBBORN: &str = "sh -c 'trap \"\" TERM; echo $$ > grandchild; while :; do sleep 1; done' & echo $$ > leader; wait";

#[tokio::test]
async fn when_its_time_is_up_the_whole_group_is_ended() {
    let folder = tempfile::tempdir().unwrap();
    let source = shell(&format!("echo working >&2; {STUBBORN}"), json!({ "timeout": "3s" }), folder.path());
    let begun = Instant::now();
    let outcome = source.send(&message(vec![b'x'; 5 << 20])).await;
    assert_eq!(said(&outcome), (Class::Unreachable, "command_timeout"));
    assert!(outcome.detail.contains("3s") && outcome.detail.ends_with("working"), "{}", outcome.detail);
    assert!(begun.elapsed() < SOON);
    gone(pid(&line(&folder.path().join("leader")).await)).await;
    gone(pid(&line(&folder.path().join("grandchild")).await)).await;
}

#[tokio::test]
async fn a_leader_that_ignores_sigterm_is_killed_and_one_that_heeds_it_has_time_to_tidy_up() {
    let folder = tempfile::tempdir().unwrap();
    let stubborn = shell("trap '' TERM; echo $$ > leader; while :; do sleep 0.05; done", json!({ "timeout": "2s" }), folder.path());
    assert_eq!(said(&stubborn.send(&message("")).await), (Class::Unreachable, "command_timeout"));
    gone(pid(&line(&folder.path().join("leader")).await)).await;

    let tidy = shell("trap 'echo tidy > tidied; exit 0' TERM; while :; do sleep 0.05; done", json!({ "timeout": "2s" }), folder.path());
    let outcome = tidy.send(&message("")).await;
    assert_eq!(said(&outcome), (Class::Unreachable, "command_timeout"), "it was late, whatever its exit code");
    assert_eq!(std::fs::read_to_string(folder.path().join("tidied")).unwrap(), "tidy\n");
}

#[tokio::test]
async fn when_nobody_waits_any_longer_the_whole_group_is_ended() {
    let folder = tempfile::tempdir().unwrap();
    let source = shell(STUBBORN, json!({ "timeout": "10m" }), folder.path());
    let sending = tokio::spawn({
        let source = source.clone();
        async move { source.send(&message("")).await }
    });
    let leader = pid(&line(&folder.path().join("leader")).await);
    let grandchild = pid(&line(&folder.path().join("grandchild")).await);
    sending.abort();
    assert!(sending.await.unwrap_err().is_cancelled());
    // Closing waits for that.
    source.close(SOON).await;
    gone(leader).await;
    gone(grandchild).await;
}

#[tokio::test]
async fn what_is_not_over_at_the_close_is_told_to_end_and_has_time_to_tidy_up() {
    let folder = tempfile::tempdir().unwrap();
    let script = "trap 'echo tidy > tidied; exit 0' TERM; echo working >&2; echo $$ > leader; while :; do sleep 0.05; done";
    let source = shell(script, json!({ "timeout": "10m" }), folder.path());
    let sending = tokio::spawn({
        let source = source.clone();
        async move { source.send(&message("")).await }
    });
    let leader = pid(&line(&folder.path().join("leader")).await);
    source.close(Duration::from_millis(100)).await;
    assert_eq!(std::fs::read_to_string(folder.path().join("tidied")).unwrap_or_default(), "tidy\n");
    gone(leader).await;
    let outcome = tokio::time::timeout(SOON, sending).await.unwrap().unwrap();
    assert_eq!(said(&outcome), (Class::Unreachable, "command_stopped"));
    assert!(outcome.detail.contains("its process group was ended: working"), "{}", outcome.detail);
}

#[test]
fn a_runtime_that_stops_takes_the_group_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let source = shell(STUBBORN, json!({ "timeout": "10m" }), folder.path());
    let (leader, grandchild) = runtime.block_on(async {
        tokio::spawn(async move { source.send(&message("")).await });
        (pid(&line(&folder.path().join("leader")).await), pid(&line(&folder.path().join("grandchild")).await))
    });
    drop(runtime);
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        gone(leader).await;
        gone(grandchild).await;
    });
}

#[tokio::test]
async fn a_grandchild_that_holds_the_pipes_open_does_not_hold_us() {
    let folder = tempfile::tempdir().unwrap();
    let source = shell("sleep 600 & echo $! > daemon; echo started; exit 0", json!({ "keep_result": true }), folder.path());
    let begun = Instant::now();
    let outcome = source.send(&message("")).await;
    assert_eq!(outcome, Outcome::succeeded().with_result(r#"{"exit":0,"output":"started\n"}"#));
    assert!(begun.elapsed() < SOON);
    let daemon = pid(&line(&folder.path().join("daemon")).await);
    assert!(test_kill_process(daemon).is_ok(), "what a program leaves running is its own affair");
    rustix::process::kill_process(daemon, rustix::process::Signal::KILL).unwrap();
}

#[tokio::test]
async fn a_program_can_not_end_redrive_by_its_group() {
    let outcome = shell("kill -TERM 0; sleep 5", json!({}), Path::new(".")).send(&message("")).await;
    assert_eq!(said(&outcome), (Class::Refused, "signal_15"), "its group is its own");
}

#[tokio::test]
async fn many_run_at_once() {
    // Each waits until all have begun: if they ran one after another, the first would never end.
    let folder = tempfile::tempdir().unwrap();
    let source = shell("touch \"$REDRIVE_ID\"; while [ $(ls | wc -l) -lt 20 ]; do sleep 0.05; done", json!({}), folder.path());
    let sends = (0..20).map(|n| {
        let source = source.clone();
        tokio::spawn(async move { source.send(&message(n.to_string())).await })
    });
    for send in sends.collect::<Vec<_>>() {
        assert_eq!(send.await.unwrap(), Outcome::succeeded());
    }
}

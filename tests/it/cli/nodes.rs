//! The rows of `redrive_node` that commands write.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::{PLAIN, command, done, folder, raw};

/// A look into the database of a folder.
async fn looked_up(folder: &Path, sql: &str) -> i64 {
    raw(folder).await.number(sql).await
}

#[tokio::test]
async fn a_run_that_finds_nothing_due_says_what_it_knows() {
    let folder = folder(PLAIN);
    done(folder.path(), &["migrate"]);
    done(folder.path(), &["run"]);
    assert_eq!(looked_up(folder.path(), r#"SELECT count(*) FROM redrive_node WHERE sources = '["l"]'"#).await, 1);
}

#[tokio::test]
async fn a_run_signs_off_no_node_that_has_its_name() {
    const LIVE: &str = "SELECT count(*) FROM redrive_node WHERE expires_at > (julianday('now') - 2440587.5) * 86400000";
    let folder = folder(&format!("node: node-1\napi: {{ listen: '127.0.0.1:0' }}\n{PLAIN}"));
    let folder = folder.path();
    done(folder, &["migrate"]);
    let mut node = command(folder, &["serve"]).stderr(Stdio::null()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while looked_up(folder, LIVE).await == 0 {
        assert!(Instant::now() < deadline, "the node does not beat");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    done(folder, &["run"]);
    let live = looked_up(folder, LIVE).await;
    kill_process(Pid::from_child(&node), Signal::TERM).unwrap();
    node.wait().unwrap();
    assert_eq!(live, 1, "the node lives on, and the run does not");
}

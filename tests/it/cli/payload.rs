//! A failed message is given another payload.

use std::io::Write as _;
use std::process::Stdio;

use super::{PLAIN, code, command, done, err, folder, json, out, raw, run};

const ID: &str = "01890a5d-ac96-774b-bcce-b302099a8057";

#[tokio::test]
async fn a_failed_message_is_mended_by_commands_alone() {
    let folder = folder(PLAIN);
    let folder = folder.path();
    done(folder, &["migrate"]);
    let missing = run(folder, &["payload", ID]);
    assert!(code(&missing) == 1 && err(&missing).contains("there is no message"), "{missing:?}");
    raw(folder).await.run(&format!("INSERT INTO resend_log (id, source, payload, state, finished_at) VALUES ('{ID}', 'l', 'x', 'failed', 0)")).await;

    std::fs::write(folder.join("large"), "x".repeat(101)).unwrap();
    let large = run(folder, &["payload", ID, "--file", "large"]);
    assert!(code(&large) == 2 && err(&large).contains("max_payload: 100"), "{large:?}");
    let absent = run(folder, &["payload", ID, "--file", "absent"]);
    assert!(code(&absent) == 1 && err(&absent).contains("absent"), "{absent:?}");
    assert_eq!(done(folder, &["show", ID, "--payload"]), "x", "nothing was replaced");

    std::fs::write(folder.join("fixed"), "x".repeat(100)).unwrap();
    assert_eq!(json(folder, &["payload", ID, "--file", "fixed", "--json"]), serde_json::json!({"id": ID, "state": "failed"}));
    assert_eq!(done(folder, &["show", ID, "--payload"]), "x".repeat(100));
    let mut child = command(folder, &["payload", ID]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"\0fixed").unwrap();
    let said = out(&child.wait_with_output().unwrap());
    assert!(said.starts_with(ID) && said.contains("still failed"), "{said}");
    assert_eq!(done(folder, &["show", ID, "--payload"]), "\0fixed");

    done(folder, &["retry", ID]);
    let late = run(folder, &["payload", ID]);
    assert_eq!((code(&late), out(&late).as_str()), (1, ""));
    assert_eq!(err(&late), "redrive: only a failed message's payload can be replaced; this one is pending\n");
}

//! What a program is given: payload, environment, working directory.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use bytes::Bytes;
use redrive::message::{Headers, Key};
use redrive::outcome::{Class, Outcome};
use serde_json::json;

use super::shell;
use crate::support::changed;
use crate::support::endpoint::{build, faults, message, said};

#[tokio::test]
async fn a_payload_of_5_mib_arrives_byte_for_byte() {
    let folder = tempfile::tempdir().unwrap();
    let payload: Bytes = (0..5_usize << 20).map(|n| u8::try_from(n % 256).unwrap()).collect::<Vec<_>>().into();
    let outcome = shell("cat > got", json!({}), folder.path()).send(&message(payload.clone())).await;
    assert_eq!(outcome, Outcome::succeeded());
    assert!(std::fs::read(folder.path().join("got")).unwrap() == payload);
}

#[tokio::test]
async fn a_program_need_not_read_its_payload() {
    let large = message(vec![b'x'; 5 << 20]);
    for script in ["exit 0", "exec 0<&-; sleep 0.05; exit 0", "head -c 1 > /dev/null"] {
        assert_eq!(shell(script, json!({}), Path::new(".")).send(&large).await, Outcome::succeeded(), "{script}");
    }
}

/// The environment that a program sees, as it reports it.
fn environment(folder: &Path) -> BTreeMap<String, String> {
    let text = std::fs::read(folder.join("env")).unwrap();
    let pairs = text.split(|byte| *byte == 0).filter(|pair| !pair.is_empty());
    pairs.map(|pair| String::from_utf8_lossy(pair).split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned())).unwrap()).collect()
}

#[tokio::test]
async fn the_facts_stand_in_the_environment_and_little_else() {
    let folder = tempfile::tempdir().unwrap();
    let message = changed(message("x"), |message| {
        message.topic = Some("refunds\n'quoted' $HOME".into());
        message.key = Some(Key::Text("o-17".into()));
        message.headers = Headers::new(vec![("tenant".into(), "a \"b\"".into())]);
        message.attempt = 3;
    });
    let section = json!({ "argv": ["sh", "-c", "env -0 > env"], "env": { "MODE": "fast" }, "inherit_env": ["CARGO_PKG_NAME"] });
    let source = build("command", section, json!({}), folder.path()).unwrap();
    assert_eq!(source.send(&message).await, Outcome::succeeded());
    let seen = environment(folder.path());
    let facts = [
        ("REDRIVE_ID", message.id.to_string()),
        ("REDRIVE_PROJECT", "shop".into()),
        ("REDRIVE_SOURCE", "crm".into()),
        ("REDRIVE_TOPIC", "refunds\n'quoted' $HOME".into()),
        ("REDRIVE_KEY", "o-17".into()),
        ("REDRIVE_ATTEMPT", "3".into()),
        ("REDRIVE_HEADERS", r#"{"tenant":"a \"b\""}"#.into()),
        ("MODE", "fast".into()),
        ("CARGO_PKG_NAME", "redrive".into()),
        ("PATH", std::env::var("PATH").unwrap()),
    ];
    for (name, value) in facts {
        assert_eq!(seen.get(name), Some(&value), "{name}");
    }
    // Cargo sets this variable for the test itself: it stands for any secret in redrive's own environment.
    assert!(std::env::var("CARGO_MANIFEST_DIR").is_ok() && !seen.contains_key("CARGO_MANIFEST_DIR"));
}

#[tokio::test]
async fn a_binary_key_comes_in_base64() {
    let folder = tempfile::tempdir().unwrap();
    let source = shell("env -0 > env", json!({}), folder.path());
    let binary = changed(message(""), |message| message.key = Some(Key::Binary(Bytes::from_static(b"\xff\0"))));
    assert_eq!(source.send(&binary).await, Outcome::succeeded());
    let seen = environment(folder.path());
    assert_eq!(seen.get("REDRIVE_KEY_BASE64").map(String::as_str), Some("/wA="));
    assert!(!seen.contains_key("REDRIVE_KEY") && !seen.contains_key("REDRIVE_TOPIC"));
    assert_eq!(seen["REDRIVE_HEADERS"], "{}");
}

#[tokio::test]
async fn what_no_environment_can_hold_fails_the_message_for_good() {
    let source = shell("exit 0", json!({}), Path::new("."));
    let nul = changed(message(""), |message| message.topic = Some("a\0b".into()));
    let long = changed(message(""), |message| message.topic = Some("t".repeat(200_000)));
    let headers = changed(message(""), |message| message.headers = Headers::new(vec![("x".into(), "\0".into())]));
    assert_eq!(said(&source.send(&nul).await), (Class::Permanent, "command_environment"));
    assert_eq!(said(&source.send(&long).await), (Class::Permanent, "command_environment"));
    assert_eq!(source.send(&headers).await, Outcome::succeeded(), "JSON escapes a NUL");
}

#[tokio::test]
async fn paths_start_at_the_configurations_folder() {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("handler");
    std::fs::write(&script, "#!/bin/sh\npwd > \"$1\"\n").unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::create_dir(folder.path().join("work")).unwrap();
    let real = std::fs::canonicalize(folder.path()).unwrap();
    for (directory, expected) in [(None, real.clone()), (Some("work"), real.join("work"))] {
        let section = json!({ "argv": ["./handler", "where"], "directory": directory });
        let source = build("command", section, json!({}), folder.path()).unwrap();
        assert_eq!(source.send(&message("")).await, Outcome::succeeded());
        assert_eq!(std::fs::read_to_string(expected.join("where")).unwrap().trim(), expected.to_str().unwrap());
    }
}

#[test]
fn every_fault_is_named_by_its_key() {
    assert_eq!(faults("command", json!({}), json!({})), ["argv"]);
    assert_eq!(faults("command", json!({ "argv": [""] }), json!({})), ["argv"]);
    let section = json!({
        "argv": ["a", "b\0"],
        "env": { "A=B": "hunter2", "REDRIVE_ID": "x", "NUL": "hunter2\0" },
        "inherit_env": ["HOME", ""],
    });
    assert_eq!(faults("command", section, json!({})), ["argv.1", "env.A=B", "env.NUL", "env.REDRIVE_ID", "inherit_env.1"]);
    assert_eq!(faults("command", json!({ "argv": ["a"], "shell": true }), json!({})).len(), 1);
}

//! A program's environment: the facts of the message and little else.

use std::ffi::{OsStr, OsString};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::message::{Key, Message};

/// The variables of redrive's own that each program gets, besides those that begin with `LC_`.
const ALWAYS: [&str; 9] = ["PATH", "HOME", "USER", "LOGNAME", "SHELL", "TZ", "TMPDIR", "LANG", "LANGUAGE"];
/// The facts of a message.
const FACTS: [&str; 8] =
    ["REDRIVE_ID", "REDRIVE_PROJECT", "REDRIVE_SOURCE", "REDRIVE_TOPIC", "REDRIVE_KEY", "REDRIVE_KEY_BASE64", "REDRIVE_ATTEMPT", "REDRIVE_HEADERS"];
/// Linux accepts no variable of more than 128 KiB, including its name and the final NUL.
const MOST_BYTES: usize = (128 << 10) - 64;

/// Whether a configuration may set a variable of this name.
pub(super) fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty() || name.contains(['=', '\0']) {
        return Err(format!("`{}` is not a variable name", name.escape_debug()));
    }
    if FACTS.contains(&name) {
        return Err(format!("`{name}` is set by redrive for each message"));
    }
    Ok(())
}

fn check_value(name: &str, value: &str) -> Result<(), String> {
    if value.contains('\0') {
        return Err(format!("{name} would contain NUL, which an environment can't hold"));
    }
    if value.len() > MOST_BYTES {
        return Err(format!("{name} would exceed the 128 KiB that a variable may have"));
    }
    Ok(())
}

/// What a program inherits from redrive's own environment.
pub(super) fn inherited(names: &[String]) -> Vec<(OsString, OsString)> {
    std::env::vars_os().filter(|(name, _)| is_inherited(name, names)).collect()
}

fn is_inherited(name: &OsStr, names: &[String]) -> bool {
    name.to_str().is_some_and(|name| ALWAYS.contains(&name) || name.starts_with("LC_") || names.iter().any(|wanted| wanted == name))
}

/// The facts of a message, or why they can't be put into an environment.
pub(super) fn facts(message: &Message) -> Result<Vec<(&'static str, String)>, String> {
    let mut facts = vec![
        ("REDRIVE_ID", message.id.to_string()),
        ("REDRIVE_PROJECT", message.project.to_string()),
        ("REDRIVE_SOURCE", message.source.to_string()),
        ("REDRIVE_ATTEMPT", message.attempt.to_string()),
        ("REDRIVE_HEADERS", message.headers.to_json().unwrap_or_else(|| "{}".into())),
    ];
    if let Some(topic) = &message.topic {
        facts.push(("REDRIVE_TOPIC", topic.clone()));
    }
    match &message.key {
        None => {}
        Some(Key::Text(text)) => facts.push(("REDRIVE_KEY", text.clone())),
        Some(Key::Binary(bytes)) => {
            facts.push(("REDRIVE_KEY_BASE64", STANDARD.encode(bytes)));
            if let Some(text) = std::str::from_utf8(bytes).ok().filter(|text| !text.contains('\0')) {
                facts.push(("REDRIVE_KEY", text.to_owned()));
            }
        }
    }
    for (name, value) in &facts {
        check_value(name, value)?;
    }
    Ok(facts)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn message(payload: &str) -> Message {
        Message::new("log", payload.to_owned())
    }

    fn value(message: &Message, name: &str) -> Option<String> {
        facts(message).unwrap().into_iter().find(|(have, _)| *have == name).map(|(_, value)| value)
    }

    #[test]
    fn a_binary_key_comes_in_base64_and_as_text_where_it_is_text() {
        let with = |key: Key| Message { key: Some(key), ..message("") };
        let text = with(Key::Text("k".into()));
        assert_eq!((value(&text, "REDRIVE_KEY"), value(&text, "REDRIVE_KEY_BASE64")), (Some("k".into()), None));
        let plain = with(Key::Binary(Bytes::from_static(b"k")));
        assert_eq!((value(&plain, "REDRIVE_KEY"), value(&plain, "REDRIVE_KEY_BASE64")), (Some("k".into()), Some("aw==".into())));
        for binary in [&b"\xff"[..], b"a\0"] {
            let binary = with(Key::Binary(Bytes::from_static(binary)));
            assert_eq!(value(&binary, "REDRIVE_KEY"), None);
            assert!(value(&binary, "REDRIVE_KEY_BASE64").is_some());
        }
    }

    #[test]
    fn what_no_environment_can_hold_is_said() {
        assert!(facts(&Message { topic: Some("a\0b".into()), ..message("") }).unwrap_err().contains("REDRIVE_TOPIC"));
        assert!(facts(&Message { key: Some(Key::Text("\0".into())), ..message("") }).unwrap_err().contains("REDRIVE_KEY"));
        assert!(facts(&Message { topic: Some("t".repeat(MOST_BYTES + 1)), ..message("") }).is_err());
    }

    #[test]
    fn a_secret_is_not_inherited_unless_it_is_named() {
        let named = ["DATABASE_URL".to_owned()];
        let is = |name: &str, names: &[String]| is_inherited(OsStr::new(name), names);
        assert!(is("PATH", &[]) && is("LC_ALL", &[]) && is("DATABASE_URL", &named));
        assert!(!is("DATABASE_URL", &[]) && !is("REDRIVE_TOKEN", &named) && !is("AWS_SECRET_ACCESS_KEY", &[]));
    }

    #[test]
    fn what_is_always_inherited_is_that_of_the_docs() {
        for text in [include_str!("../../../docs/configuration.md"), include_str!("../../../docs/sources-endpoints.md")] {
            let row = text.lines().find(|line| line.starts_with("| `inherit_env` ")).unwrap();
            let missing: Vec<_> = ALWAYS.iter().filter(|name| !row.contains(&format!("`{name}`"))).collect();
            assert!(missing.is_empty(), "{missing:?} in {row}");
        }
    }

    #[test]
    fn no_configuration_sets_a_fact() {
        assert!(FACTS.iter().all(|name| check_name(name).is_err()));
        for name in ["", "A=B", "A\0"] {
            assert!(check_name(name).is_err());
        }
        assert!(check_name("REDRIVE_MINE").is_ok());
    }
}

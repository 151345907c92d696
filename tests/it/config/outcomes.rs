//! `outcomes:` accepts the error codes that a source may report, and rejects others as without effect.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use redrive::config::{Config, Faults, Scope};
use redrive::source::{Kind, Registry};
use serde_json::Value;

use super::{parse, places};

/// Reads a source's `outcomes:`, without building it.
fn read(kind: &str, outcomes: &str, registry: &Registry) -> Result<Config, Faults> {
    let text = format!("project: orders\nsources: {{ a: {{ kind: {kind}, outcomes: {{ {outcomes} }} }} }}\n");
    Config::parse(&text, Path::new("x.yaml"), &|_| None, registry, Scope::Store)
}

/// The literals in the code of a kind that look like its error codes.
fn written(kind: &str, prefixes: &[&str]) -> BTreeSet<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/source");
    let mut files: Vec<PathBuf> = fs::read_dir(root.join(kind)).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.push(root.join(format!("{kind}.rs")));
    let mut found = BTreeSet::new();
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let code = text.split("#[cfg(test)]\n").next().unwrap_or_default();
        let is_code = |word: &&str| {
            prefixes.iter().any(|prefix| word.len() > prefix.len() && word.starts_with(prefix))
                && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
        };
        found.extend(code.split('"').filter(is_code).map(str::to_owned));
    }
    found
}

#[test]
fn every_code_that_is_written_in_the_code_is_taken() {
    for (kind, prefixes, least) in [
        ("http", &["http_"][..], 9),
        ("command", &["exit_", "signal_", "command_"][..], 7),
        ("amqp", &["amqp_"][..], 20),
        ("kafka", &["kafka_"][..], 50),
    ] {
        let codes = written(kind, prefixes);
        assert!(codes.len() >= least, "{kind}: {codes:?}");
        let of_the_engine = ["dropped", "panic", "timeout"].map(str::to_owned);
        let outcomes: Vec<String> = codes.into_iter().chain(of_the_engine).map(|code| format!("{code}: refused")).collect();
        if let Err(faults) = read(kind, &outcomes.join(", "), &Registry::default()) {
            panic!("{faults}");
        }
    }
    // Those that are made from a number, or from the client's name for a code in no table.
    for (kind, code) in [
        ("http", "http_301"),
        ("http", "http_409"),
        ("http", "http_599"),
        ("command", "exit_1"),
        ("command", "exit_255"),
        ("command", "signal_9"),
        ("kafka", "kafka_invalid_required_acks"),
        ("log", "timeout"),
    ] {
        assert!(read(kind, &format!("{code}: permanent"), &Registry::default()).is_ok(), "{code}");
    }
}

#[test]
fn a_code_that_is_none_of_the_kind_is_a_fault_in_its_line() {
    let text = "\
project: orders
sources:
  a:
    kind: http
    url: http://localhost/
    outcomes:
      http_409: succeeded
      http_204: refused
      http_4o9: refused
      http.409: refused
      exit_75: unreachable
  b:
    kind: command
    argv: [x]
    outcomes: { exit_0: refused, exit_256: refused,
      lost: refused }
  c: { kind: log, outcomes: { log_full: refused } }
";
    let expected = [
        "8 sources.a.outcomes.http_204",
        "9 sources.a.outcomes.http_4o9",
        "10 sources.a.outcomes.http.409",
        "11 sources.a.outcomes.exit_75",
        "15 sources.b.outcomes.exit_0",
        "15 sources.b.outcomes.exit_256",
        "16 sources.b.outcomes.lost",
        "17 sources.c.outcomes.log_full",
    ];
    let mut found = places(text);
    found.sort();
    let mut expected = expected.map(str::to_owned).to_vec();
    expected.sort();
    assert_eq!(found, expected);
}

#[test]
fn it_says_what_there_is() {
    let says = |kind: &str, outcomes: &str, words: &str| {
        let faults = read(kind, outcomes, &Registry::default()).unwrap_err().to_string();
        assert!(faults.contains(words), "`{faults}` should say `{words}`");
    };
    says("http", "http_timout: refused", "unknown error code; did you mean `http_timeout`?");
    says("http", "conflict: succeeded", "write one of dropped, http_100 to http_199, http_300 to http_999, http_closed, ");
    says("command", "sysexits: permanent", "exit_1 to exit_255");
    says("kafka", "kafka_msg_timedout: refused", "did you mean `kafka_msg_timed_out`?");
    says("kafka", "nonsense: refused", " others");
    says("log", "'': refused", "a send that succeeds has no error code");
}

#[test]
fn a_kind_that_does_not_say_which_it_has_takes_any_but_none_at_all() {
    let mut registry = Registry::default();
    registry.register_kind("mine", Kind::new(|_: Value, _| Err(Vec::new())));
    assert!(read("mine", "whatever: succeeded", &registry).is_ok());
    assert!(read("mine", "'': refused", &registry).is_err());
    // The engine would mistake a success for what it names.
    assert!(parse("project: orders\nsources: { l: { kind: log, outcomes: { '': refused } } }\n").is_err());
}

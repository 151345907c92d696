//! Who may import whom (ARCHITECTURE.md): downward only, never sideways. Reads `src/` and fails on a forbidden import.

#![allow(clippy::unwrap_used, reason = "a file that can not be read fails the test, and says so")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// What a module must not know.
struct Rule {
    /// The module's path below `src/`.
    place: &'static str,
    /// What must not occur in it.
    forbidden: &'static [&'static str],
}

const RULES: &[Rule] = &[
    Rule {
        place: "message",
        forbidden: &["crate::store", "crate::source", "crate::engine", "crate::api", "crate::config", "sqlx", "tokio::fs", "tokio::net"],
    },
    Rule { place: "retry.rs", forbidden: &["crate::store", "crate::source", "crate::engine", "crate::api", "crate::config", "tokio"] },
    Rule { place: "outcome.rs", forbidden: &["crate::store", "crate::source", "crate::engine", "crate::api", "crate::config", "tokio"] },
    Rule { place: "clock.rs", forbidden: &["crate::store", "crate::source", "crate::engine", "crate::api", "crate::config", "sqlx"] },
    Rule { place: "units.rs", forbidden: &["crate::"] },
    Rule { place: "fault.rs", forbidden: &["crate::"] },
    Rule { place: "bounded.rs", forbidden: &["crate::"] },
    Rule { place: "tls.rs", forbidden: &["crate::store", "crate::source", "crate::engine", "crate::api", "crate::config"] },
    Rule { place: "secret.rs", forbidden: &["crate::store", "crate::source", "crate::engine", "crate::api", "crate::config"] },
    Rule { place: "source", forbidden: &["crate::store", "crate::engine", "crate::api", "crate::config", "crate::app", "crate::cli"] },
    Rule { place: "store", forbidden: &["crate::source", "crate::engine", "crate::api", "crate::config", "crate::app", "crate::cli"] },
    Rule { place: "engine", forbidden: &["crate::api", "crate::config", "crate::app", "crate::cli", "store::sql", "source::kafka", "source::amqp"] },
    Rule { place: "api", forbidden: &["crate::config", "crate::app", "crate::cli", "store::sql"] },
    Rule { place: "telemetry", forbidden: &["crate::store", "crate::source", "crate::engine", "crate::api", "crate::config", "crate::app"] },
    Rule { place: "config", forbidden: &["crate::app", "crate::cli"] },
];

/// Crates that only some modules may use. `demo` and `bench` play producer and consumer and may use all of them.
const CRATES: &[(&str, &[&str])] = &[("sqlx", &["store/sql"]), ("rdkafka", &["source/kafka"]), ("lapin", &["source/amqp"]), ("axum", &["api"])];

/// Sources know nothing of each other.
const SOURCES: &[&str] = &["kafka", "amqp", "http", "command", "log"];

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The path of each file below `src/` and its code, without comments and tests and with grouped imports spelt out.
fn sources() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    files(&root, &mut paths);
    assert!(paths.len() > 20, "the sources were not found");
    let code = |path: &PathBuf| {
        let text = fs::read_to_string(path).unwrap();
        let end = text.find("#[cfg(test)]\n").unwrap_or(text.len());
        spelt_out(&text[..end].lines().filter(|line| !line.trim_start().starts_with("//")).map(without_strings).collect::<Vec<_>>().join("\n"))
    };
    paths.iter().map(|path| (path.strip_prefix(&root).unwrap().to_string_lossy().into_owned(), code(path))).collect()
}

/// A line without its string literals: a name in a string, such as the target of a log line, is not an import.
fn without_strings(line: &str) -> String {
    line.replace("\\\"", "").split('"').step_by(2).collect()
}

/// Code with `crate::{one, two::three}` followed by `crate::one` and `crate::two::three`.
fn spelt_out(code: &str) -> String {
    let mut all = code.to_owned();
    for (start, group) in code.match_indices("crate::{") {
        let (mut depth, mut item) = (1, String::new());
        for letter in code[start + group.len()..].chars() {
            depth += match letter {
                '{' => 1,
                '}' => -1,
                _ => 0,
            };
            if depth == 0 || (depth == 1 && letter == ',') {
                all.extend(["\ncrate::", item.trim()]);
                item.clear();
            } else {
                item.push(letter);
            }
            if depth == 0 {
                break;
            }
        }
    }
    all
}

#[test]
fn a_group_of_imports_hides_nothing() {
    let spelt = spelt_out("use crate::{\n    clock, store::{self, Store},\n};\nuse crate::{engine};");
    let items: Vec<_> = spelt.lines().filter(|line| line.starts_with("crate::")).collect();
    assert_eq!(items, ["crate::clock", "crate::store::{self, Store}", "crate::", "crate::engine"]);
}

fn is_in(file: &str, place: &str) -> bool {
    file == place || file.strip_prefix(place).is_some_and(|rest| rest.starts_with('/') || rest == ".rs")
}

#[test]
fn modules_import_downward_only() {
    let mut broken = Vec::new();
    for (file, code) in sources() {
        for rule in RULES.iter().filter(|rule| is_in(&file, rule.place)) {
            broken.extend(rule.forbidden.iter().filter(|word| code.contains(**word)).map(|word| format!("src/{file} uses {word}")));
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn each_client_library_is_used_in_one_place() {
    let mut broken = Vec::new();
    for (file, code) in sources() {
        if is_in(&file, "demo") || is_in(&file, "bench") {
            continue;
        }
        for (name, places) in CRATES {
            let uses = code.contains(&format!("use {name}::")) || code.contains(&format!("{name}::")) && !code.contains(&format!("source::{name}::"));
            if uses && !places.iter().any(|place| is_in(&file, place)) {
                broken.push(format!("src/{file} uses {name}"));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn a_source_does_not_know_its_siblings() {
    let mut broken = Vec::new();
    for (file, code) in sources() {
        let Some(own) = SOURCES.iter().find(|name| is_in(&file, &format!("source/{name}"))) else { continue };
        for other in SOURCES.iter().filter(|name| *name != own) {
            if code.contains(&format!("source::{other}")) || code.contains(&format!("super::{other}::")) {
                broken.push(format!("src/{file} knows {other}"));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn the_chart_of_states_is_that_of_the_code() {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/state-machine.md")).unwrap();
    let (mut chart, mut table) = (Vec::new(), Vec::new());
    for line in text.lines() {
        if let Some((from, rest)) = line.trim().split_once(" --> ")
            && let Some((to, event)) = rest.split_once(" : ")
            && from != "[*]"
        {
            chart.push((from.to_owned(), event.to_owned(), to.to_owned()));
        }
        let cells: Vec<&str> = line.split('|').map(str::trim).filter(|cell| !cell.is_empty()).collect();
        if let [from, event, to] = cells[..]
            && from.parse::<redrive::message::State>().is_ok()
            && to.parse::<redrive::message::State>().is_ok()
        {
            table.push((from.to_owned(), event.to_owned(), to.to_owned()));
        }
    }
    let code: Vec<_> =
        redrive::message::TRANSITIONS.iter().map(|(from, event, to)| (from.to_string(), format!("{event:?}"), to.to_string())).collect();
    assert_eq!(table, code, "the table of docs/state-machine.md");
    assert_eq!(chart, code, "the chart of docs/state-machine.md");
}

/// A call that writes a log line.
struct LogCall {
    /// Its file's path below `src/`.
    file: String,
    level: String,
    /// Its arguments.
    given: String,
    /// The text of the line.
    message: String,
}

/// The calls that write log lines.
fn log_calls() -> Vec<LogCall> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    files(&root, &mut paths);
    let mut calls = Vec::new();
    for path in paths {
        let file = path.strip_prefix(&root).unwrap().to_string_lossy().into_owned();
        let text = fs::read_to_string(&path).unwrap();
        for call in text.split("tracing::").skip(1) {
            if let Some((level, rest)) = call.split_once("!(") {
                let (given, message) = arguments(rest);
                calls.push(LogCall { file: file.clone(), level: level.to_owned(), given: given.to_owned(), message: message.to_owned() });
            }
        }
    }
    calls
}

/// The arguments up to the parenthesis that ends the call, and the last string among them that is not in an inner call: the line's message.
fn arguments(rest: &str) -> (&str, &str) {
    let (mut depth, mut begin, mut is_escaped, mut message) = (0_usize, None::<usize>, false, "");
    for (at, sign) in rest.char_indices() {
        match (begin, sign) {
            _ if is_escaped => is_escaped = false,
            (Some(_), '\\') => is_escaped = true,
            (Some(from), '"') => {
                if depth == 0 {
                    message = &rest[from..at];
                }
                begin = None;
            }
            (None, '"') => begin = Some(at + 1),
            (None, '(') => depth += 1,
            (None, ')') if depth == 0 => return (&rest[..at], message),
            (None, ')') => depth -= 1,
            _ => {}
        }
    }
    (rest, message)
}

/// What may be written into a log line unquoted: ids, addresses, and names that were checked against the configuration. Anything else may come from
/// outside, and is recorded as text, which the text format quotes: otherwise a line end or a terminal sequence could forge a line of its own.
const UNQUOTED: &[&str] = &[
    "address",
    "completion.held.id",
    "first.id",
    "held.id",
    "lane.name()",
    "message.id",
    "message.source",
    "row.id",
    "row.message.id",
    "self.lane.name()",
    "self.node.project",
    "self.source",
    "self.target.source",
    "source",
    "sql",
    "version",
];

/// The values that a call writes unquoted: `name = %value`, or `%name` for short.
fn shown(call: &str) -> Vec<String> {
    let call = without_strings(call);
    let values = call.match_indices('%').filter(|(at, _)| {
        let before = call[..*at].trim_end();
        before.is_empty() || before.ends_with(['=', ',', '('])
    });
    values.map(|(at, _)| call[at + 1..].split(',').next().unwrap_or_default().trim().to_owned()).collect()
}

/// The names of the fields that a call writes. The count of lines that were left out is none of them: the docs explain it once for all lines.
fn fields(call: &str) -> BTreeSet<String> {
    let (mut depth, mut parts) = (0, vec![String::new()]);
    for sign in without_strings(call).chars() {
        depth += match sign {
            '(' | '[' | '{' => 1,
            ')' | ']' | '}' => -1,
            _ => 0,
        };
        match parts.last_mut() {
            Some(part) if depth > 0 || sign != ',' => part.push(sign),
            _ => parts.push(String::new()),
        }
    }
    let name = |part: &String| part.split('=').next().unwrap_or_default().trim().trim_start_matches(['%', '?']).to_owned();
    parts.iter().map(name).filter(|name| !name.is_empty() && name != "lines.held_back").collect()
}

#[test]
fn what_comes_from_outside_is_quoted_in_log_lines() {
    assert_eq!(shown("%a, b = %c.d(), e = 7 % f,\n    %g, \"h, %i\", j"), ["a", "c.d()", "g"]);
    let mut broken = Vec::new();
    for LogCall { given, .. } in log_calls() {
        let shown = shown(&given).into_iter().filter(|shown| !UNQUOTED.contains(&shown.as_str()));
        broken.extend(shown.map(|shown| format!("`%{shown}` in {given}")));
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn the_log_lines_of_the_docs_are_those_of_the_code() {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operations.md")).unwrap();
    let (_, table) = text.split_once("| message | level | fields |\n").unwrap();
    let calls = log_calls();
    assert_eq!(fields("%a, b.c = d(e, \"f, g\"),\n    h = &*i.j, lines.held_back = k, \"l, m\"").into_iter().collect::<Vec<_>>(), ["a", "b.c", "h"]);
    let mut listed = Vec::new();
    for row in table.lines().skip(1).take_while(|line| line.starts_with('|')) {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [messages, levels, columns] = cells[..] else { panic!("{row}") };
        for ((message, level), column) in messages.split(" / ").zip(levels.split(" / ")).zip(columns.split(" / ")) {
            // Anything after a semicolon, or before a colon, is a remark for people.
            let [level, column] = [level, column].map(|cell| cell.split(';').next().unwrap_or_default());
            let column = column.split_once(": ").map_or(column, |(_, rest)| rest);
            let is_this = |call: &&LogCall| call.level == level && call.message == message;
            assert!(calls.iter().any(|call| is_this(&call)), "nothing writes `{message}` as {level}");
            let written: BTreeSet<String> = calls.iter().filter(is_this).flat_map(|call| fields(&call.given)).collect();
            let named: BTreeSet<String> = column.split(", ").filter(|name| *name != "none").map(str::to_owned).collect();
            assert_eq!(named, written, "the fields of `{message}`");
            listed.push((message, level));
        }
    }
    // The other levels need nobody's attention; `demo` and `bench` have somebody who watches.
    let urgent =
        calls.iter().filter(|call| matches!(call.level.as_str(), "warn" | "error") && !is_in(&call.file, "demo") && !is_in(&call.file, "bench"));
    let missing: Vec<_> = urgent
        .filter(|call| !listed.contains(&(call.message.as_str(), call.level.as_str())))
        .map(|call| format!("src/{}: {}: {}", call.file, call.level, call.message))
        .collect();
    assert!(missing.is_empty(), "docs/operations.md has no row of\n{}", missing.join("\n"));
}

//! `config/redrive.yaml`, `config/quickstart.yaml` and `docs/configuration.md` agree with the code.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use redrive::config::schema::{resolve, schema};
use redrive::source::{Options, Registry};
use redrive::{api, engine, store, telemetry};
use serde_json::{Value, json};

use super::{parse_of, parse_with};
use crate::support::schema::faults;
use crate::support::yaml::documents;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(file: &str) -> String {
    std::fs::read_to_string(root().join(file)).unwrap()
}

fn shown() -> String {
    read("config/redrive.yaml")
}

/// `config/redrive.yaml` with the commented-out keys enabled: in `#key:` the key follows the sign directly or after two or more spaces; after a
/// single space there is prose.
pub(super) fn uncommented() -> String {
    let line = |line: &str| {
        let is_key = line.trim_start().strip_prefix('#').is_some_and(|rest| {
            let spaces = rest.len() - rest.trim_start().len();
            let name = rest.trim_start().split(':').next().unwrap_or_default();
            spaces != 1 && rest.contains(':') && !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'))
        });
        if is_key { line.replacen('#', "", 1) } else { line.to_owned() }
    };
    shown().lines().map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_file_of_all_keys_holds_the_defaults() {
    let config = parse_with(&shown(), Path::new("config/redrive.yaml"), &[]).unwrap();
    let same = |name: &str, have: Value, default: Value| assert_eq!(have, default, "{name}");
    let engine = engine::Config::default();
    same("store", json!(config.store), json!(store::Config::default()));
    assert_eq!(config.store.url.expose(), store::Config::default().url.expose());
    same("api", json!(config.api), json!(api::Config::default()));
    same("health", json!(config.health), json!(api::config::Health::default()));
    same("poller", json!(config.engine.poller), json!(engine.poller));
    same("history", json!(config.engine.history), json!(engine.history));
    same("idempotency", json!(config.engine.idempotency), json!(engine.idempotency));
    same("shutdown", json!(config.engine.shutdown), json!(engine.shutdown));
    same("limits", json!(config.engine.limits), json!(engine.limits));
    same("log", json!(config.log), json!(telemetry::Config::default()));

    let mut options = config.options["example"].clone();
    let policy = redrive::retry::Policy::of(&options.retry);
    assert_eq!(policy, redrive::retry::Policy::default());
    options.retry = redrive::retry::Config::default();
    same("options", json!(options), json!(Options::default()));
}

/// The properties of a schema, including nested ones, as dotted paths.
fn paths(schema: &Value, definitions: &Value, prefix: &str, into: &mut BTreeMap<String, Value>) {
    let object = flat(schema, definitions);
    for (name, property) in object["properties"].as_object().into_iter().flatten() {
        let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        paths(property, definitions, &path, into);
        into.insert(path, property.clone());
    }
}

/// The schema that a reference points to, without `null`.
fn flat<'a>(schema: &'a Value, definitions: &'a Value) -> &'a Value {
    let resolved = resolve(schema, definitions);
    let other = resolved["anyOf"].as_array().and_then(|any| any.iter().find(|schema| schema["type"] != "null"));
    match other {
        Some(other) if resolved["anyOf"].as_array().is_some_and(|any| any.iter().any(|schema| schema["type"] == "null")) => flat(other, definitions),
        _ => resolved,
    }
}

/// The kinds of sources and their schemas.
fn kinds(schema: &Value) -> Vec<(String, Value)> {
    let kinds = schema["properties"]["sources"]["additionalProperties"]["oneOf"].as_array().unwrap();
    kinds.iter().map(|kind| (kind["title"].as_str().unwrap().to_owned(), kind.clone())).collect()
}

#[test]
fn the_file_of_all_keys_shows_every_key_there_is() {
    let text = uncommented();
    let variables =
        [("REDRIVE_TOKEN", "t"), ("KAFKA_PASSWORD", "p"), ("CRM_TOKEN", "t"), ("CRM_PASSWORD", "p"), ("AMQP_PASSWORD", "p"), ("DB_PASSWORD", "p")];
    if let Err(faults) = parse_with(&text, Path::new("config/redrive.yaml"), &variables) {
        let faults = faults.to_string();
        assert!(!faults.contains("unknown") && !faults.contains("not YAML") && !faults.contains("is not set"), "{faults}");
    }
    let lines: Vec<&str> = text.lines().collect();
    let schema = schema(&Registry::default());
    let mut all = BTreeMap::new();
    paths(&schema, &schema["$defs"], "", &mut all);
    all.remove("sources");
    for path in all.keys() {
        assert!(occurs(&lines, &path.split('.').collect::<Vec<_>>()), "{path} is missing in config/redrive.yaml");
    }
    for (kind, schema_of_kind) in kinds(&schema) {
        let section = lines.iter().position(|line| line.trim() == format!("kind: {kind}"));
        let section = section.unwrap_or_else(|| panic!("config/redrive.yaml has no source of kind {kind}"));
        let mut own = BTreeMap::new();
        paths(&schema_of_kind, &schema["$defs"], "", &mut own);
        // The options of every source are shown once, with the first.
        let first_only = |path: &str| Options::KEYS.contains(&path.split('.').next().unwrap_or_default()) && kind != "log";
        for path in own.keys().filter(|path| !first_only(path) && *path != "kind") {
            let block: Vec<&str> = lines[section..]
                .iter()
                .take_while(|line| line.is_empty() || line.starts_with("    ") || line.trim_start().starts_with('#'))
                .copied()
                .collect();
            assert!(occurs(&block, &path.split('.').collect::<Vec<_>>()), "{path} of kind {kind} is missing in config/redrive.yaml");
        }
    }
}

/// Whether a key occurs under the keys above it, each on a line of its own or within braces.
fn occurs(lines: &[&str], path: &[&str]) -> bool {
    let Some((first, rest)) = path.split_first() else { return true };
    lines.iter().enumerate().any(|(index, line)| {
        let Some(after) = line.trim_start().strip_prefix(first).and_then(|rest| rest.strip_prefix(':')) else { return false };
        let indent = line.len() - line.trim_start().len();
        let below: Vec<&str> = lines[index + 1..]
            .iter()
            .take_while(|line| line.trim().is_empty() || line.len() - line.trim_start().len() > indent || line.trim_start().starts_with('#'))
            .copied()
            .collect();
        let inline: Vec<&str> = after.trim().trim_start_matches('{').trim_end_matches('}').split(", ").map(str::trim).collect();
        occurs(&below, rest) || (after.trim().starts_with('{') && occurs(&inline, rest))
    })
}

#[test]
fn the_quick_start_loads() {
    let config = parse_with(&read("config/quickstart.yaml"), Path::new("config/quickstart.yaml"), &[]).unwrap();
    assert_eq!(config.sources.len(), 1);
}

#[test]
fn the_schema_takes_what_is_shown_and_refuses_unknown_keys() {
    let schema = schema(&Registry::default());
    assert_eq!(schema["additionalProperties"], json!(false));
    assert_eq!(schema["required"], json!(["project"]));
    let text = schema.to_string();
    assert!(!text.contains("redacted"), "a secret's default shows");
    for (kind, schema) in kinds(&schema) {
        assert_eq!(schema["additionalProperties"], json!(false), "{kind}");
        assert_eq!(schema["properties"]["kind"]["const"], json!(kind));
        for key in Options::KEYS {
            assert!(!schema["properties"][key].is_null(), "{kind} lacks {key}");
        }
    }

    let says = |text: &str| documents(text).iter().flat_map(|file| faults(file, &schema, &schema)).collect::<Vec<_>>();
    let of_kubernetes = documents(&read("deploy/kubernetes/sidecar.yaml"))[0]["data"]["redrive.yaml"].as_str().unwrap().to_owned();
    let files = [
        "config/redrive.yaml",
        "config/quickstart.yaml",
        "deploy/compose/redrive.yaml",
        "examples/quickstart/redrive.yaml",
        "examples/outbox/redrive.yaml",
        "examples/handler.yaml",
    ];
    for text in files.map(read).into_iter().chain([uncommented(), of_kubernetes]) {
        assert_eq!(says(&text), Vec::<String>::new(), "{text}");
    }
}

/// An editor that knows the schema says what `redrive check` says.
pub(super) fn agree(registry: &Registry, schema: &Value, text: &str, variables: &[(&str, &str)], taken: bool) {
    let by_schema = faults(&documents(text)[0], schema, schema);
    assert_eq!(by_schema.is_empty(), taken, "{text}{by_schema:?}");
    let loaded = parse_of(registry, text, Path::new("x.yaml"), variables);
    assert_eq!(loaded.is_ok(), taken, "{text}{loaded:?}");
}

#[test]
fn the_schema_and_the_loader_take_the_same() {
    let registry = Registry::default();
    let schema = schema(&registry);
    let variables = [("POOL", "9"), ("ON", "true"), ("WAIT", "5s"), ("NAME", "orders"), ("SIZE", "1MiB"), ("MODE", "on_failure")];
    let http = |keys: &str| format!("sources: {{ h: {{ kind: http, url: 'http://localhost/', {keys} }} }}");
    let of_kind = |kind: &str, keys: &str| format!("sources: {{ x: {{ kind: {kind}, {keys} }} }}");
    for (keys, taken) in [
        ("health:\nstore:\napi: ~\nlog:\nlimits:\nsources:".to_owned(), true),
        ("history: { keep: }".to_owned(), true),
        ("store: { pool: \"8\" }".to_owned(), false),
        ("store: []".to_owned(), false),
        ("poller: [false]".to_owned(), false),
        ("poller: { lease: 1.5m, interval: 1s 500ms }".to_owned(), true),
        ("poller: { lease: 5M }".to_owned(), false),
        ("poller: { lease: 1 minute }".to_owned(), true),
        ("history: { keep: { failed: never, succeeded: 1.5d } }".to_owned(), true),
        ("limits: { intake: 4MB }".to_owned(), false),
        ("log: { format: ~ }".to_owned(), false),
        (http("retry:, breaker: ~, outcomes:, headers:, basic:"), true),
        (http("retry: [9]"), false),
        (http("basic: [u, p]"), false),
        (http("basic: { username: u }, mode: on_failure"), true),
        (http("mode: ~"), false),
        (http("method: ~"), false),
        (http("in_flight: '7'"), false),
        ("sources: { h: ~ }".to_owned(), false),
        // What is meant as text need not look like it.
        ("project: 17\nnode: 12\napi: { token: 123456, unix_mode: 0660 }".to_owned(), true),
        ("project: -1".to_owned(), false),
        ("history: { keep: { succeeded: 0, failed: never }, every: 5 }".to_owned(), false),
        ("history: { keep: { succeeded: 0, cancelled: 0.5 } }".to_owned(), false),
        ("history: { keep: { succeeded: 0 } }\nshutdown: { accept_for: 0 }".to_owned(), true),
        ("api: { listen: 8087 }".to_owned(), false),
        ("api: { listen: \"[::1]:0\" }\nhealth: { listen: '127.0.0.1:0' }".to_owned(), true),
        ("log: { format: 1 }".to_owned(), false),
        ("api: { token: [1] }".to_owned(), false),
        (http("headers: { A: 1, B: true }, bearer: 2"), true),
        (http("headers: { A: { B: 1 } }"), false),
        (of_kind("command", "argv: [sh, 1, 1.5, true], env: { A: 1, B: false }"), true),
        (of_kind("command", "argv: [[sh]]"), false),
        (of_kind("kafka", "brokers: ['localhost:1'], topic: 5, properties: { linger.ms: 1 }"), true),
        (of_kind("kafka", "brokers: ['localhost:1'], topic: [5]"), false),
    ] {
        let text = if keys.starts_with("project: ") { format!("{keys}\n") } else { format!("project: orders\n{keys}\n") };
        agree(&registry, &schema, &text, &variables, taken);
    }
    // What a variable holds only the loader knows; without quotes it has the type that is asked for.
    let text = "\
project: ${NAME}
store: { timeout: \"${WAIT}\", url: 'sqlite://${NAME}.db' }
poller:
  batch: ${POOL:-8}
  enabled: ${ON}
limits: { intake: \"${SIZE}\" }
sources:
  l:
    kind: log
    mode: ${MODE}
    retry: { expires_after: \"${WAIT}\" }
  h:
    kind: http
    url: http://localhost/
    in_flight: ${POOL}
";
    assert_eq!(faults(&documents(text)[0], &schema, &schema), Vec::<String>::new());
    parse_with(text, Path::new("x.yaml"), &variables).unwrap();
}

/// The reference is generated from the schema: `REDRIVE_WRITE_DOCS=1 cargo test --test it config::documents` rewrites it.
#[test]
fn the_reference_says_what_the_schema_says() {
    let file = root().join("docs/configuration.md");
    let have = std::fs::read_to_string(&file).unwrap();
    let (begin, end) = ("<!-- keys: written from the schema, see tests/it/config/documents.rs -->\n", "<!-- end of keys -->\n");
    let (before, rest) = have.split_once(begin).unwrap();
    let (_, after) = rest.split_once(end).unwrap();
    let want = format!("{before}{begin}{}{end}{after}", reference());
    if std::env::var_os("REDRIVE_WRITE_DOCS").is_some() {
        std::fs::write(&file, want).unwrap();
    } else {
        assert!(have == want, "docs/configuration.md is behind the code: run `REDRIVE_WRITE_DOCS=1 cargo test --test it config::documents`");
    }
}

fn reference() -> String {
    let schema = schema(&Registry::default());
    let definitions = &schema["$defs"];
    let mut text = String::new();
    let sections = schema["properties"].as_object().unwrap();
    text.push_str("\n### At the top\n\n");
    rows(&mut text, sections.iter().filter(|(_, section)| flat(section, definitions)["properties"].is_null()), definitions);
    for (name, section) in sections.iter().filter(|(_, section)| !flat(section, definitions)["properties"].is_null()) {
        writeln!(text, "\n### `{name}`\n\n{}\n", section["description"].as_str().unwrap_or_default()).unwrap();
        let mut all = BTreeMap::new();
        paths(section, definitions, "", &mut all);
        rows(&mut text, all.iter(), definitions);
    }
    text.push_str("\n### What every source takes\n\n");
    let kinds = kinds(&schema);
    let is_common = |path: &str| Options::KEYS.contains(&path.split('.').next().unwrap_or_default());
    if let Some((_, kind)) = kinds.first() {
        let mut all = BTreeMap::new();
        paths(kind, definitions, "", &mut all);
        rows(&mut text, all.iter().filter(|(path, _)| is_common(path)), definitions);
    }
    for (kind, schema) in &kinds {
        writeln!(text, "\n### `kind: {kind}`\n\n{}\n", schema["description"].as_str().unwrap_or_default().replace('\n', " ")).unwrap();
        let mut all = BTreeMap::new();
        paths(schema, definitions, "", &mut all);
        all.retain(|path, _| !is_common(path) && path != "kind");
        if !all.is_empty() {
            rows(&mut text, all.iter(), definitions);
        }
    }
    text
}

fn rows<'a>(text: &mut String, properties: impl Iterator<Item = (&'a String, &'a Value)>, definitions: &Value) {
    text.push_str("| key | takes | default | meaning |\n| --- | --- | --- | --- |\n");
    for (path, property) in properties {
        let takes = takes(property, definitions);
        let default = match &property["default"] {
            Value::String(word) if word.is_empty() => "`\"\"`".to_owned(),
            Value::String(word) => format!("`{word}`"),
            Value::Null | Value::Object(_) => String::new(),
            other => format!("`{other}`"),
        };
        let meaning = property["description"].as_str().unwrap_or_default().replace('\n', " ").replace('|', "\\|");
        writeln!(text, "| `{path}` | {takes} | {default} | {meaning} |").unwrap();
    }
}

fn takes(property: &Value, definitions: &Value) -> String {
    let reference = |schema: &Value| schema["$ref"].as_str().map(|reference| reference.trim_start_matches("#/$defs/").to_owned());
    let named = reference(property).or_else(|| property["anyOf"].as_array().and_then(|any| any.iter().find_map(reference)));
    match named.as_deref() {
        Some("Duration") => return "duration".to_owned(),
        Some("DurationOrNever") => return "duration, or `never`".to_owned(),
        Some("Size") => return "size".to_owned(),
        Some("Secret") => return "text, secret".to_owned(),
        _ => {}
    }
    let schema = flat(property, definitions);
    let words = |list: &Value| {
        list.as_array()
            .map(|list| list.iter().filter_map(|word| word["const"].as_str().or(word.as_str())).map(|word| format!("`{word}`")).collect::<Vec<_>>())
    };
    if let Some(words) = words(&schema["oneOf"]).or_else(|| words(&schema["enum"])).filter(|words| !words.is_empty()) {
        return words.join(", ");
    }
    let of = match &schema["type"] {
        Value::String(of) => of.clone(),
        Value::Array(list) => list.iter().filter_map(Value::as_str).find(|of| *of != "null").unwrap_or_default().to_owned(),
        _ => String::new(),
    };
    match of.as_str() {
        "string" => "text".to_owned(),
        "integer" => "whole number".to_owned(),
        "boolean" => "`true`, `false`".to_owned(),
        "array" => "list".to_owned(),
        "object" => "mapping".to_owned(),
        other => other.to_owned(),
    }
}

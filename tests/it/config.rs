//! The configuration: every fault at once, no secret shown, and the files of the repository checked against the code.

mod documents;
mod faults;
mod kinds;
mod outcomes;
mod secrets;

use std::path::Path;

use redrive::config::{Config, Faults, Scope};
use redrive::source::Registry;
use redrive::units::Secret;

/// Reads a text with these variables.
fn parse_with(text: &str, file: &Path, variables: &[(&str, &str)]) -> Result<Config, Faults> {
    parse_of(&Registry::default(), text, file, variables)
}

/// Reads a text with these kinds of sources. It has a runtime, because building a source may need one.
fn parse_of(registry: &Registry, text: &str, file: &Path, variables: &[(&str, &str)]) -> Result<Config, Faults> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _entered = runtime.enter();
    let environment = |name: &str| variables.iter().find(|(have, _)| *have == name).map(|(_, value)| (*value).to_owned());
    Config::parse(text, file, &environment, registry, Scope::Whole)
}

fn parse(text: &str) -> Result<Config, Faults> {
    parse_with(text, Path::new("redrive.yaml"), &[])
}

/// The faults of a text as `line path`.
fn places(text: &str) -> Vec<String> {
    let faults = parse(text).expect_err("there should be faults");
    faults.list().iter().map(|fault| format!("{} {}", fault.line.unwrap_or_default(), fault.path)).collect()
}

#[test]
fn a_name_is_all_that_a_file_needs() {
    let config = parse("project: orders").unwrap();
    assert_eq!(&*config.project, "orders");
    assert_eq!(config.store.url.expose(), "sqlite://redrive.db");
    assert_eq!(config.api.listen, Some("127.0.0.1:8087".parse().unwrap()));
    assert!(config.sources.is_empty() && config.health.listen.is_none());
}

#[test]
fn two_processes_on_one_host_are_two_nodes() {
    let node = || parse("project: orders").unwrap().node;
    assert_ne!(node(), node());
    assert_eq!(&*parse("project: orders\nnode: n-1").unwrap().node, "n-1");
}

#[test]
fn sources_are_built_with_their_options() {
    let config = parse("project: orders\nsources:\n  b: { kind: log, in_flight: 7, retry: { multiplier: 1 } }\n  a: { kind: log }\n").unwrap();
    let names: Vec<_> = config.sources.iter().map(|source| (&*source.name, source.kind.as_str(), source.options.in_flight)).collect();
    assert_eq!(names, [("b", "log", Some(7)), ("a", "log", None)]);
    assert_eq!(config.options["b"].retry.multiplier, Some(1.0));
}

#[test]
fn a_section_whose_keys_are_all_commented_out_is_its_default() {
    let config = parse("project: orders\nstore:\n  # url: x\napi:\nsources:\nlog: ~\n").unwrap();
    assert_eq!(config.api.max_connections, 1024);
}

#[test]
fn variables_are_typed_once_they_are_put_in() {
    let text = "project: orders\npoller: { batch: $${N} }\nstore: { pool: ${N}, url: \"sqlite://${DB:-x}.db\" }\n".replace("$$", "$");
    let config = parse_with(&text, Path::new("x.yaml"), &[("N", "12")]).unwrap();
    assert_eq!((config.engine.poller.batch, config.store.pool, config.store.url.expose()), (12, 12, "sqlite://x.db"));
}

#[test]
fn secrets_are_read_from_files_beside_the_configuration() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("url"), "sqlite://from-a-file.db\n").unwrap();
    std::fs::write(folder.path().join("token"), "t0ken\r\n").unwrap();
    let text = "project: orders\nstore: { url_file: url }\napi: { listen: 0.0.0.0:1, token_file: token }\n";
    let config = parse_with(text, &folder.path().join("redrive.yaml"), &[]).unwrap();
    assert_eq!(config.store.url.expose(), "sqlite://from-a-file.db");
    assert_eq!(config.api.token.unwrap().expose(), "t0ken");
    std::fs::write(folder.path().join("password"), "a/b?c#d@e%20\n").unwrap();
    let text = "project: orders\nstore: { url: 'postgres://redrive@db/orders', password_file: password }\n";
    let config = parse_with(text, &folder.path().join("redrive.yaml"), &[]).unwrap();
    assert_eq!(config.store.password.unwrap().expose(), "a/b?c#d@e%20");
}

#[test]
fn a_password_of_digits_is_text_wherever_it_stands() {
    let config = parse("project: 17\napi: { token: 123456 }\n").unwrap();
    assert_eq!(config.api.token.unwrap().expose(), "123456");
    let text = "project: orders\nsources: { crm: { kind: http, url: 'http://localhost/', bearer: 123456, basic: ~ } }\n";
    assert_eq!(parse(text).unwrap().sources.len(), 1);
}

#[test]
fn a_variable_that_holds_something_is_never_nothing() {
    let of = |text: &str, variables: &[(&str, &str)]| parse_with(text, Path::new("x.yaml"), variables).unwrap().api.token;
    for value in ["null", "~", "Null", "NULL"] {
        let token = of("project: orders\napi: { listen: '0.0.0.0:1', token: ${T} }\n", &[("T", value)]);
        assert_eq!(token.as_ref().map(Secret::expose), Some(value));
    }
    assert!(of("project: orders\napi: { token: ~ }\n", &[]).is_none());
    assert!(of("project: orders\napi: { token: ${T:-} }\n", &[]).is_none());
    // The kinds of sources read their keys in a different way.
    let text = "project: orders\nsources: { crm: { kind: http, url: ${U} } }\n";
    let faults = parse_with(text, Path::new("x.yaml"), &[("U", "~")]).unwrap_err().to_string();
    assert!(faults.contains("sources.crm.url") && !faults.contains("is missing"), "{faults}");
}

#[test]
fn a_property_of_kafka_is_the_text_that_is_written() {
    let read = |value: &str, variables: &[(&str, &str)]| {
        let properties = format!("socket.keepalive.enable: {value}, linger.ms: 7");
        let text = format!("project: orders\nsources: {{ k: {{ kind: kafka, brokers: ['localhost:1'], properties: {{ {properties} }} }} }}\n");
        parse_with(&text, Path::new("x.yaml"), variables)
    };
    for (value, taken) in [("true", true), ("1", true), ("'false'", true), ("01", false), ("1.0", false)] {
        // As a number, 01 would be 1, which would be accepted.
        assert_eq!(read(value, &[]).is_ok(), taken, "{value}");
        assert_eq!(read("${V}", &[("V", value.trim_matches('\''))]).is_ok(), taken, "{value} in a variable");
    }
}

#[test]
fn any_number_of_numbers_may_be_meant_as_text() {
    let numbers = |count: usize| vec!["7"; count].join(", ");
    let read = |count| parse(&format!("project: orders\nsources:\n  c: {{ kind: command, argv: [x, {}] }}\n", numbers(count)));
    assert_eq!(read(300).unwrap().sources.len(), 1);
    assert!(read(1500).unwrap_err().to_string().contains("redrive.yaml:3: sources.c: more than"));
}

#[test]
fn beyond_loopback_a_token_is_required() {
    assert_eq!(places("project: orders\napi:\n  listen: 0.0.0.0:8087\n"), ["3 api.listen"]);
    assert!(parse("project: orders\napi: { listen: '0.0.0.0:8087', token: s3cret }\nhealth: { listen: '0.0.0.0:8088' }\n").is_ok());
    assert!(parse("project: orders\napi: { listen: ~, unix: /tmp/redrive.sock }\n").is_ok());
}

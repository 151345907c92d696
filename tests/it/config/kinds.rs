//! Kinds of sources that a program registers, whatever the shape of their keys.

#![allow(dead_code, reason = "of most kinds only the keys matter")]

use std::collections::BTreeMap;
use std::path::Path;

use async_trait::async_trait;
use redrive::config::schema::schema;
use redrive::message::Message;
use redrive::outcome::Outcome;
use redrive::source::{Kind, Registry, Sender, Source};
use redrive::units::Span;
use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::documents::agree;
use super::parse_of;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Closed {
    address: String,
    wait: Option<Span>,
    inner: Option<Group>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Group {
    size: u8,
}

#[derive(Deserialize, JsonSchema)]
struct Open {
    address: String,
    level: Option<Level>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Level {
    Low,
    High,
}

#[derive(Deserialize, JsonSchema)]
#[serde(tag = "to", rename_all = "snake_case", deny_unknown_fields)]
enum Tagged {
    Person { name: String, wait: Option<Span> },
    Group(Group),
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum By {
    Mail(String),
    Page { number: u32 },
}

#[derive(Deserialize, JsonSchema)]
struct Flat {
    name: String,
    #[serde(flatten)]
    by: By,
}

#[derive(Deserialize, JsonSchema)]
struct Labels {
    url: String,
    #[serde(flatten)]
    counts: BTreeMap<String, u8>,
}

#[derive(Deserialize, JsonSchema)]
struct Both {
    #[serde(flatten)]
    by: By,
    #[serde(flatten)]
    counts: BTreeMap<String, u8>,
}

struct Nowhere;

#[async_trait]
impl Source for Nowhere {
    async fn send(&self, _: &Message) -> Outcome {
        Outcome::succeeded()
    }
}

fn kind<C: DeserializeOwned + JsonSchema + 'static>() -> Kind {
    Kind::new(|_: C, _| Ok(Sender::each(Nowhere)))
}

fn registry() -> Registry {
    let mut registry = Registry::default();
    registry
        .register_kind("closed", kind::<Closed>().with_codes(vec!["closed_full".into()]))
        .register_kind("open", kind::<Open>().with_tls())
        .register_kind("tagged", kind::<Tagged>())
        .register_kind("flat", kind::<Flat>())
        .register_kind("labels", kind::<Labels>())
        .register_kind("both", kind::<Both>())
        .register_kind("counts", kind::<BTreeMap<String, u8>>())
        .register_kind("anything", kind::<Value>());
    registry
}

/// A file with one source, whose kind and keys these are.
fn file(keys: &str) -> String {
    format!("project: orders\nsources:\n  x: {{ kind: {keys} }}\n")
}

/// What the file of a source has against it, as `line path: message`.
fn said(keys: &str) -> Vec<String> {
    let Err(faults) = parse_of(&registry(), &file(keys), Path::new("x.yaml"), &[]) else { return Vec::new() };
    faults.list().iter().map(|fault| format!("{} {}: {}", fault.line.unwrap_or_default(), fault.path, fault.message)).collect()
}

#[test]
fn the_schema_takes_what_the_loader_takes_whatever_the_shape() {
    let registry = registry();
    let schema = schema(&registry);
    for (keys, taken) in [
        ("closed, address: x, wait: 5s, inner: { size: 3 }, timeout: 5s, in_flight: 3", true),
        ("closed, address: x, more: 1", false),
        ("closed, address: x, inner: { size: 3, more: 1 }", false),
        ("closed, address: x, inner: { size: 3, timeout: 5s }", false),
        ("closed", false),
        ("open, address: x, more: [1], timeout: 5s", true),
        ("open, address: x, timeout: 5", false),
        ("open, more: 1", false),
        ("open, address: x, level: low", true),
        ("open, address: x, level: '${LEVEL}'", true),
        ("open, address: x, level: middle", false),
        ("tagged, to: person, name: x", true),
        ("tagged, to: person, name: x, wait: 5s, timeout: 5s, in_flight: 3", true),
        ("tagged, to: '${TO}', name: x", true),
        ("tagged, to: person, name: x, wait: 5", false),
        ("tagged, to: person, name: x, more: 1", false),
        ("tagged, to: person, name: x, timeout: 5", false),
        ("tagged, to: group, size: 3, timeout: 5s", true),
        ("tagged, to: group, size: 3, name: x", false),
        ("tagged, to: nobody, name: x", false),
        ("tagged, name: x", false),
        ("flat, name: x, mail: y", true),
        ("flat, name: x, page: { number: 5 }, timeout: 5s, more: 1", true),
        ("flat, name: x, page: { number: 5 }, mail: y", true),
        ("flat, name: x, page: { number: y }", false),
        ("flat, name: x", false),
        ("flat, mail: y", false),
        ("labels, url: x, a: 1, b: 2, timeout: 5s, retry: { max_retries: 3 }", true),
        ("labels, url: x, a: y", false),
        ("labels, a: 1", false),
        ("both, mail: x, a: 1, timeout: 5s", true),
        ("both, mail: x, a: y", false),
        ("both, a: 1", false),
        ("counts, a: 1, timeout: 5s", true),
        ("counts, a: x", false),
        ("anything, a: { b: [1] }, timeout: 5s", true),
        ("anything, timeout: 5", false),
        ("none, a: 1", false),
    ] {
        agree(&registry, &schema, &file(keys), &[("LEVEL", "low"), ("TO", "person")], taken);
    }
}

#[test]
fn a_fault_is_at_its_key_and_digits_may_be_text() {
    assert_eq!(said("closed, address: 123456"), Vec::<String>::new());
    assert_eq!(
        said("closed,\n    address: [1],\n    inner: { size: x }, \n    wait: 5"),
        [
            "4 sources.x.address: expected text, found a list",
            "5 sources.x.inner.size: expected a whole number from 0 to 255, found text; remove the quotes if there are any",
            "6 sources.x.wait: `5` is not a duration; write a number with its unit, ms, s, m, h, d or w, such as 500ms, 10m, 1.5h or 7d 12h",
        ]
    );
    assert_eq!(said("closed, adress: x"), ["3 sources.x.adress: unknown key; did you mean `address`?", "3 sources.x.address: is missing"]);
}

#[test]
fn a_kind_that_panics_is_a_fault_among_others() {
    let mut registry = registry();
    registry.register_kind("rude", Kind::new(|_: Value, _| panic!("on purpose")));
    let text = "project: orders\nsources:\n  a: { kind: rude }\n  b: { kind: rude, timeout: 5 }\n";
    let faults = parse_of(&registry, text, Path::new("x.yaml"), &[]).unwrap_err();
    let found: Vec<_> = faults.list().iter().map(|fault| (fault.line, fault.path.as_str())).collect();
    assert_eq!(found, [(Some(3), "sources.a"), (Some(4), "sources.b.timeout")], "{faults}");
}

#[test]
fn certificates_that_have_no_effect_are_a_fault() {
    assert_eq!(said("open, address: x, tls: { ca: ca.pem }"), Vec::<String>::new());
    assert_eq!(
        said("closed,\n    address: [1],\n    tls: { ca: ca.pem }"),
        ["4 sources.x.address: expected text, found a list", "5 sources.x.tls: has no effect: sources of kind `closed` use no certificates"]
    );
}

#[test]
fn codes_that_a_kind_lists_are_the_only_ones_besides_those_of_the_engine() {
    assert_eq!(said("closed, address: x, outcomes: { closed_full: permanent, timeout: refused }"), Vec::<String>::new());
    assert_eq!(said("closed, address: x, outcomes: { closed_ful: permanent }").len(), 1);
    assert_eq!(said("open, address: x, outcomes: { whatever: permanent }"), Vec::<String>::new());
}

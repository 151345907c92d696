//! What a value has against a JSON Schema; as much of that as ours use.

use std::collections::BTreeSet;
use std::iter::Peekable;
use std::str::Chars;

use serde_json::{Map, Value};

/// Everything that is wrong with a value, each with its path. References lead to `$defs` of `root`.
pub(crate) fn faults(value: &Value, schema: &Value, root: &Value) -> Vec<String> {
    let mut found = Vec::new();
    check(value, schema, root, "", &mut found);
    found
}

fn check(value: &Value, schema: &Value, root: &Value, path: &str, found: &mut Vec<String>) {
    if let Some(reference) = schema["$ref"].as_str() {
        let name = reference.strip_prefix("#/$defs/").unwrap();
        check(value, &root["$defs"][name], root, path, found);
    }
    let types: Vec<&str> = match &schema["type"] {
        Value::Array(types) => types.iter().filter_map(Value::as_str).collect(),
        one => one.as_str().into_iter().collect(),
    };
    if !types.is_empty() && !types.iter().any(|of| is(value, of)) {
        found.push(format!("{path}: {value} is none of {types:?}"));
    }
    if let (Some(text), Some(pattern)) = (value.as_str(), schema["pattern"].as_str())
        && !matches(pattern, text)
    {
        found.push(format!("{path}: {text:?} does not match {pattern}"));
    }
    if let (Some(number), Some(least)) = (value.as_f64(), schema["minimum"].as_f64())
        && number < least
    {
        found.push(format!("{path}: {number} is less than {least}"));
    }
    if schema.get("const").is_some_and(|only| only != value) {
        found.push(format!("{path}: {value} is not {}", schema["const"]));
    }
    if schema["enum"].as_array().is_some_and(|words| !words.contains(value)) {
        found.push(format!("{path}: {value} is none of {}", schema["enum"]));
    }
    for schema in schema["allOf"].as_array().into_iter().flatten() {
        check(value, schema, root, path, found);
    }
    for (keyword, most) in [("anyOf", usize::MAX), ("oneOf", 1)] {
        let Some(schemas) = schema[keyword].as_array() else { continue };
        let fit = schemas.iter().filter(|schema| faults(value, schema, root).is_empty()).count();
        if fit == 0 || fit > most {
            found.push(format!("{path}: {value} fits {fit} of {keyword}"));
        }
    }
    for (index, item) in value.as_array().into_iter().flatten().enumerate() {
        check(item, &schema["items"], root, &format!("{path}[{index}]"), found);
    }
    let Some(entries) = value.as_object() else { return };
    for (key, inner) in entries {
        let path = format!("{path}.{key}");
        match (&schema["properties"][key.as_str()], &schema["additionalProperties"]) {
            (Value::Null, Value::Bool(false)) => found.push(format!("{path}: unknown key")),
            (Value::Null, other) => check(inner, other, root, &path, found),
            (known, _) => check(inner, known, root, &path, found),
        }
        check(&Value::from(key.as_str()), &schema["propertyNames"], root, &path, found);
    }
    if let Some(other) = schema.get("unevaluatedProperties") {
        let spoken_of = spoken_of(entries, schema, root);
        for (key, inner) in entries.iter().filter(|(key, _)| !spoken_of.contains(key.as_str())) {
            let path = format!("{path}.{key}");
            if *other == Value::Bool(false) {
                found.push(format!("{path}: unknown key"));
            } else {
                check(inner, other, root, &path, found);
            }
        }
    }
    for key in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        if !entries.contains_key(key) {
            found.push(format!("{path}.{key}: is missing"));
        }
    }
}

/// The keys of a mapping that a schema says something of, itself or in what else it applies to the mapping.
fn spoken_of<'a>(entries: &'a Map<String, Value>, schema: &'a Value, root: &'a Value) -> BTreeSet<&'a str> {
    let keys = entries.keys().map(String::as_str);
    let mut found: BTreeSet<&str> =
        keys.filter(|key| schema.get("additionalProperties").is_some() || schema["properties"].get(key).is_some()).collect();
    if let Some(name) = schema["$ref"].as_str().and_then(|reference| reference.strip_prefix("#/$defs/")) {
        found.extend(spoken_of(entries, &root["$defs"][name], root));
    }
    for schema in ["allOf", "anyOf", "oneOf"].iter().filter_map(|keyword| schema[*keyword].as_array()).flatten() {
        if faults(&Value::Object(entries.clone()), schema, root).is_empty() {
            found.extend(spoken_of(entries, schema, root));
        }
    }
    found
}

fn is(value: &Value, of: &str) -> bool {
    match of {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("there is no type {other}"),
    }
}

/// A part of a regular expression, and how often it stands there.
struct Part {
    what: What,
    least: usize,
    most: usize,
}

enum What {
    Begin,
    End,
    /// A character of these ranges.
    Letter(Vec<(char, char)>),
    /// One of these.
    Either(Vec<Vec<Part>>),
}

/// Whether a regular expression is found in a text.
fn matches(pattern: &str, text: &str) -> bool {
    let mut rest = pattern.chars().peekable();
    let ways = parse(&mut rest);
    assert_eq!(rest.next(), None, "{pattern}");
    let text: Vec<char> = text.chars().collect();
    (0..=text.len()).any(|start| either(&ways, &text, start, &mut |_| true))
}

fn parse(rest: &mut Peekable<Chars<'_>>) -> Vec<Vec<Part>> {
    let mut ways = vec![Vec::new()];
    while let Some(letter) = rest.next_if(|letter| *letter != ')') {
        let what = match letter {
            '|' => {
                ways.push(Vec::new());
                continue;
            }
            '^' => What::Begin,
            '$' => What::End,
            '(' => {
                let inner = parse(rest);
                assert_eq!(rest.next(), Some(')'));
                What::Either(inner)
            }
            '[' => What::Letter(ranges(rest)),
            '\\' => What::Letter(match rest.next().unwrap() {
                's' => vec![(' ', ' '), ('\t', '\r')],
                escaped => vec![(escaped, escaped)],
            }),
            plain => What::Letter(vec![(plain, plain)]),
        };
        let (least, most) = times(rest);
        ways.last_mut().unwrap().push(Part { what, least, most });
    }
    ways
}

/// What stands behind `[`, up to its `]`.
fn ranges(rest: &mut Peekable<Chars<'_>>) -> Vec<(char, char)> {
    let mut found = Vec::new();
    while let Some(first) = rest.next_if(|letter| *letter != ']') {
        let mut ahead = rest.clone();
        match (ahead.next(), ahead.next()) {
            (Some('-'), Some(last)) if last != ']' => {
                found.push((first, last));
                *rest = ahead;
            }
            _ => found.push((first, first)),
        }
    }
    assert_eq!(rest.next(), Some(']'));
    found
}

fn times(rest: &mut Peekable<Chars<'_>>) -> (usize, usize) {
    match rest.next_if(|letter| matches!(letter, '?' | '*' | '+' | '{')) {
        None => (1, 1),
        Some('?') => (0, 1),
        Some('*') => (0, usize::MAX),
        Some('+') => (1, usize::MAX),
        Some(_) => {
            let bounds: String = rest.by_ref().take_while(|letter| *letter != '}').collect();
            let (least, most) = bounds.split_once(',').unwrap();
            (least.parse().unwrap(), most.parse().unwrap())
        }
    }
}

/// Whether one of several ways leads on from a place, and then to the end.
fn either(ways: &[Vec<Part>], text: &[char], at: usize, then: &mut dyn FnMut(usize) -> bool) -> bool {
    ways.iter().any(|parts| all(parts, text, at, &mut *then))
}

fn all(parts: &[Part], text: &[char], at: usize, then: &mut dyn FnMut(usize) -> bool) -> bool {
    match parts.split_first() {
        Some((first, rest)) => again(first, 0, text, at, &mut |to| all(rest, text, to, &mut *then)),
        None => then(at),
    }
}

/// A part once more, if it may stand there so often, and what follows it.
fn again(part: &Part, count: usize, text: &[char], at: usize, then: &mut dyn FnMut(usize) -> bool) -> bool {
    // A part that took nothing takes nothing the next time either.
    let more = count < part.most && once(part, text, at, &mut |to| (to > at || part.most == 1) && again(part, count + 1, text, to, &mut *then));
    more || (count >= part.least && then(at))
}

fn once(part: &Part, text: &[char], at: usize, then: &mut dyn FnMut(usize) -> bool) -> bool {
    match &part.what {
        What::Begin => at == 0 && then(at),
        What::End => at == text.len() && then(at),
        What::Letter(ranges) => {
            text.get(at).is_some_and(|letter| ranges.iter().any(|(first, last)| (first..=last).contains(&letter))) && then(at + 1)
        }
        What::Either(ways) => either(ways, text, at, then),
    }
}

#[test]
fn a_pattern_is_found_as_it_is_elsewhere() {
    for (pattern, text, found) in [
        ("b", "abc", true),
        ("^b", "abc", false),
        (r"^\s*(0|([0-9]+(\.[0-9]+)?\s*(ms|s|m)\s*)+)$", " 1.5s 20 ms", true),
        (r"^\s*(0|([0-9]+(\.[0-9]+)?\s*(ms|s|m)\s*)+)$", "1.s", false),
        (r"^[a-z0-9][a-z0-9_-]{0,3}$", "a-_9", true),
        (r"^[a-z0-9][a-z0-9_-]{0,3}$", "abcde", false),
        (r"^x$|\$\{", "a ${B}", true),
        (r"^x$|\$\{", "a $B", false),
    ] {
        assert_eq!(matches(pattern, text), found, "{pattern} {text}");
    }
}

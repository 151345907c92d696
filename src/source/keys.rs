//! The keys of a kind as its JSON Schema has them, whatever shape it is: a struct, a map, an enum, or one flattened into another.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

/// The keywords that apply other schemas to the same value.
const WAYS: [&str; 3] = ["allOf", "anyOf", "oneOf"];

/// The name and the schema that a reference leads to.
pub(crate) fn referenced<'a>(schema: &'a Value, definitions: &'a Value) -> Option<(&'a str, &'a Value)> {
    let name = schema.get("$ref").and_then(Value::as_str)?.strip_prefix("#/$defs/")?;
    Some((name, definitions.get(name)?))
}

/// The schema with room for other keys: wherever it says something of all the keys that it does not name, it also names `others` and takes anything
/// there. Nothing else changes, except that references to what describes the same value are replaced by it.
pub(crate) fn beside(schema: &Value, others: &[&str], definitions: &Value) -> Value {
    opened(schema, others, definitions, &mut Vec::new())
}

/// `within` are the references that have led here: one that leads back to itself stays as it is.
fn opened<'a>(schema: &'a Value, others: &[&str], definitions: &'a Value, within: &mut Vec<&'a str>) -> Value {
    let Value::Object(own) = schema else { return schema.clone() };
    let mut own = own.clone();
    for way in WAYS {
        if let Some(Value::Array(schemas)) = schema.get(way) {
            let schemas: Vec<Value> = schemas.iter().map(|schema| opened(schema, others, definitions, within)).collect();
            own.insert(way.to_owned(), Value::Array(schemas));
        }
    }
    if own.contains_key("additionalProperties") || own.contains_key("unevaluatedProperties") {
        let named = own.entry("properties").or_insert_with(|| json!({}));
        if let Value::Object(named) = named {
            for other in others {
                named.entry(*other).or_insert(Value::Bool(true));
            }
        }
    }
    let Some((name, target)) = referenced(schema, definitions).filter(|(name, _)| !within.contains(name)) else { return Value::Object(own) };
    own.remove("$ref");
    within.push(name);
    let target = opened(target, others, definitions, within);
    within.pop();
    Value::Object(both(own, target))
}

/// What stands beside a reference, and what that leads to.
fn both(mut own: Map<String, Value>, target: Value) -> Map<String, Value> {
    let says_nothing = own.keys().all(|key| matches!(key.as_str(), "title" | "description" | "default"));
    match target {
        Value::Object(mut target) if says_nothing => {
            target.extend(own);
            target
        }
        target => {
            if let Value::Array(all) = own.entry("allOf").or_insert_with(|| json!([])) {
                all.push(target);
            }
            own
        }
    }
}

/// Every key that has a name in the schema, whichever alternative it belongs to.
pub(super) fn named(schema: &Value, definitions: &Value) -> BTreeSet<String> {
    fn gather(schema: &Value, found: &mut BTreeSet<String>) {
        found.extend(schema["properties"].as_object().into_iter().flat_map(|properties| properties.keys().cloned()));
        for schema in WAYS.iter().filter_map(|way| schema[*way].as_array()).flatten() {
            gather(schema, found);
        }
    }
    let mut found = BTreeSet::new();
    gather(&beside(schema, &[], definitions), &mut found);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_said_of_all_keys_is_opened() {
        let definitions = json!({
            "Closed": { "properties": { "a": { "$ref": "#/$defs/Inner" } }, "additionalProperties": false },
            "Inner": { "properties": { "b": {} }, "additionalProperties": false },
        });
        let opened = |schema: Value| beside(&schema, &["timeout"], &definitions);
        let closed = json!({ "properties": { "a": { "$ref": "#/$defs/Inner" }, "timeout": true }, "additionalProperties": false });
        assert_eq!(opened(json!({ "$ref": "#/$defs/Closed" })), closed);
        let described = opened(json!({ "$ref": "#/$defs/Closed", "description": "x" }));
        assert_eq!((&described["description"], &described["properties"]), (&json!("x"), &closed["properties"]));
        let tagged = json!({ "oneOf": [{ "$ref": "#/$defs/Closed", "properties": { "to": {} } }, { "properties": { "c": {} } }] });
        assert_eq!(opened(tagged), json!({ "oneOf": [{ "allOf": [closed], "properties": { "to": {} } }, { "properties": { "c": {} } }] }));
        let map = json!({ "additionalProperties": { "type": "integer" } });
        assert_eq!(opened(map), json!({ "properties": { "timeout": true }, "additionalProperties": { "type": "integer" } }));
        assert_eq!(opened(json!(true)), json!(true));
    }

    #[test]
    fn keys_are_found_in_every_alternative_and_a_circle_ends() {
        let definitions = json!({
            "Either": { "anyOf": [{ "properties": { "b": {} } }, { "$ref": "#/$defs/Either" }, { "allOf": [{ "properties": { "c": {} } }] }] },
        });
        let schema = json!({ "properties": { "a": { "properties": { "d": {} } } }, "$ref": "#/$defs/Either" });
        assert_eq!(named(&schema, &definitions), BTreeSet::from(["a", "b", "c"].map(str::to_owned)));
    }
}

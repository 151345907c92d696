//! The JSON Schema of a configuration file, for editors and for the tests that compare the documentation with the code.

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::File;
use crate::source::keys::{beside, referenced};
use crate::source::options::RESERVED;
use crate::source::{Options, Registry};

/// The start of a variable, as a regular expression.
const VARIABLE: &str = r"\$\{";

/// The schema, including the kinds of sources in the registry.
///
/// ```
/// # use redrive::{config::schema::schema, source::Registry};
/// let schema = schema(&Registry::default());
/// assert_eq!(schema["required"][0], "project");
/// ```
#[must_use]
pub fn schema(registry: &Registry) -> Value {
    let mut generator = SchemaSettings::draft2020_12().into_generator();
    let kinds = registry.schemas(&mut generator);
    let options = generator.subschema_for::<Options>().to_value();
    let mut root = generator.into_root_schema_for::<File>().to_value();

    let definitions = root.get("$defs").cloned().unwrap_or_default();
    let options = properties(&options, &definitions);
    let mut kinds: Vec<Value> = kinds.iter().map(|(name, own)| kind(name, own.as_value(), &options, &definitions)).collect();
    if let Some(object) = root.as_object_mut() {
        object.insert("title".to_owned(), json!("redrive.yaml"));
        object.insert("description".to_owned(), json!("The configuration of redrive: one file per project."));
        object.insert("required".to_owned(), json!(["project"]));
    }
    if let Some(project) = root.pointer_mut("/properties/project").and_then(Value::as_object_mut) {
        // As a number it must fit the pattern too.
        project.insert("type".to_owned(), json!(["string", "integer"]));
        project.insert("minimum".to_owned(), json!(0));
        project.remove("default");
    }
    for part in std::iter::once(&mut root).chain(&mut kinds) {
        tidy(part);
        loosen(part);
    }
    if let Some(object) = root.get_mut("properties").and_then(Value::as_object_mut) {
        let sources = json!({
            "description": "The destinations of messages, by name. Each message names its source.",
            "type": ["object", "null"],
            "propertyNames": { "pattern": r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$" },
            "additionalProperties": { "oneOf": kinds },
        });
        object.insert("sources".to_owned(), sources);
    }
    prune(&mut root);
    root
}

/// The schema of a source of one kind: the options of every source beside all that its kind says of its own keys. Keys that neither of them names are
/// taken if the kind takes them.
fn kind(name: &str, own: &Value, options: &Map<String, Value>, definitions: &Value) -> Value {
    let mut schema = match beside(own, &RESERVED, definitions) {
        Value::Object(schema) => schema,
        _ => Map::new(),
    };
    let mut all = properties(own, definitions);
    all.extend(options.clone());
    all.insert("kind".to_owned(), json!({ "const": name }));
    let mut required = vec![json!("kind")];
    required.extend(schema.get("required").and_then(Value::as_array).into_iter().flatten().cloned());
    for (keyword, value) in [("title", json!(name)), ("type", json!("object")), ("properties", all.into()), ("required", required.into())] {
        schema.insert(keyword.to_owned(), value);
    }
    schema.into()
}

fn properties(schema: &Value, definitions: &Value) -> Map<String, Value> {
    beside(schema, &[], definitions).get("properties").and_then(Value::as_object).cloned().unwrap_or_default()
}

/// Follows a reference.
#[must_use]
pub fn resolve<'a>(schema: &'a Value, definitions: &'a Value) -> &'a Value {
    referenced(schema, definitions).map_or(schema, |(_, target)| target)
}

/// Removes defaults that carry no information: those of secrets, which are not shown, and those that are null.
fn tidy(schema: &mut Value) {
    match schema {
        Value::Object(object) => {
            if object.get("default").is_some_and(|default| *default == json!("[redacted]") || default.is_null()) {
                object.remove("default");
            }
            // The example that follows is for programmers.
            if let Some(Value::String(description)) = object.get_mut("description")
                && let Some(end) = description.find("\n\n```")
            {
                description.truncate(end);
            }
            // The default of a section repeats those of its keys, and may contain that of a secret.
            if object.get("default").is_some_and(Value::is_object) && object.contains_key("$ref") {
                object.remove("default");
            }
            object.values_mut().for_each(tidy);
        }
        Value::Array(items) => items.iter_mut().for_each(tidy),
        _ => {}
    }
}

/// Makes the schema accept values that still contain variables, numbers and booleans that are meant as text, and sections whose keys are all commented
/// out.
fn loosen(schema: &mut Value) {
    match schema {
        Value::Object(object) => {
            object.values_mut().for_each(loosen);
            let mut types: Vec<String> = match object.get("type") {
                Some(Value::Array(types)) => types.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
                Some(Value::String(one)) => vec![one.clone()],
                _ => Vec::new(),
            };
            let is = |name: &str| types.iter().any(|of| of == name);
            if is("string") {
                if let Some(Value::String(pattern)) = object.get_mut("pattern") {
                    pattern.push('|');
                    pattern.push_str(VARIABLE);
                } else if !object.contains_key("const") {
                    or_variable(object, "enum");
                    let more: Vec<String> = ["number", "boolean"].into_iter().filter(|name| !is(name)).map(str::to_owned).collect();
                    types.extend(more);
                    object.insert("type".to_owned(), json!(types));
                }
            } else if is("integer") || is("number") || is("boolean") {
                types.push("string".to_owned());
                object.insert("type".to_owned(), json!(types));
                object.insert("pattern".to_owned(), json!(VARIABLE));
            } else if is("object") && !is("null") && !object.contains_key("required") {
                types.push("null".to_owned());
                object.insert("type".to_owned(), json!(types));
            }
            if let Some(Value::Object(named)) = object.get_mut("properties") {
                let tags = named.values_mut().filter(|schema| schema["type"] == "string").filter_map(Value::as_object_mut);
                tags.for_each(|tag| or_variable(tag, "const"));
            }
            match object.get_mut("oneOf") {
                Some(Value::Array(words)) if words.iter().all(|word| word.get("const").is_some()) => words.push(variable()),
                Some(ways) => {
                    // A variable as the tag fits several; and of those that are told by a key serde takes the first, whatever else is there.
                    let ways = json!({ "anyOf": ways.take() });
                    object.remove("oneOf");
                    if let Value::Array(all) = object.entry("allOf").or_insert_with(|| json!([])) {
                        all.push(ways);
                    }
                }
                None => {}
            }
        }
        Value::Array(items) => items.iter_mut().for_each(loosen),
        _ => {}
    }
}

/// Makes a schema accept a variable instead of its words, which stand under this keyword.
fn or_variable(schema: &mut Map<String, Value>, keyword: &str) {
    if let Some(words) = schema.remove(keyword) {
        schema.insert("anyOf".to_owned(), json!([{ (keyword): words }, variable()]));
    }
}

fn variable() -> Value {
    json!({ "type": "string", "pattern": VARIABLE })
}

/// Removes definitions that nothing refers to any more.
fn prune(root: &mut Value) {
    loop {
        let text = root.to_string();
        let Some(definitions) = root.get_mut("$defs").and_then(Value::as_object_mut) else { return };
        let before = definitions.len();
        definitions.retain(|name, _| text.contains(&format!("\"#/$defs/{name}\"")));
        if definitions.len() == before {
            return;
        }
    }
}

//! The JSON Schema of a configuration file, for editors and for the tests that compare the documentation with the code.

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::File;
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
    let kinds: Vec<Value> =
        kinds.iter().map(|(name, schema)| kind(name, schema.as_ref().map(schemars::Schema::as_value), &options, &definitions)).collect();
    if let Some(object) = root.as_object_mut() {
        object.insert("title".to_owned(), json!("redrive.yaml"));
        object.insert("description".to_owned(), json!("The configuration of redrive: one file per project."));
        object.insert("required".to_owned(), json!(["project"]));
    }
    if let Some(object) = root.get_mut("properties").and_then(Value::as_object_mut) {
        let sources = json!({
            "description": "The destinations of messages, by name. Each message names its source.",
            "type": ["object", "null"],
            "propertyNames": { "pattern": r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$" },
            "additionalProperties": { "oneOf": kinds },
        });
        object.insert("sources".to_owned(), sources);
        if let Some(project) = object.get_mut("project").and_then(Value::as_object_mut) {
            // As a number it must fit the pattern too.
            project.insert("type".to_owned(), json!(["string", "integer"]));
            project.insert("minimum".to_owned(), json!(0));
            project.remove("default");
        }
    }
    tidy(&mut root);
    loosen(&mut root);
    prune(&mut root);
    root
}

/// The schema of a source of one kind: the options of every source and the keys of its kind, in one object.
fn kind(name: &str, own: Option<&Value>, options: &Map<String, Value>, definitions: &Value) -> Value {
    let mut all = Map::new();
    all.insert("kind".to_owned(), json!({ "const": name }));
    all.extend(options.clone());
    let resolved = own.map(|own| resolve(own, definitions));
    let mut required = vec![json!("kind")];
    if let Some(resolved) = resolved {
        all.extend(properties(resolved, definitions));
        required.extend(resolved.get("required").and_then(Value::as_array).into_iter().flatten().cloned());
    }
    // A kind that an embedding program registered without a schema may accept any key.
    let closed = resolved.is_some();
    let mut schema = json!({ "title": name, "type": "object", "properties": all, "required": required, "additionalProperties": !closed });
    if let (Some(description), Some(object)) = (resolved.and_then(|resolved| resolved.get("description")), schema.as_object_mut()) {
        object.insert("description".to_owned(), description.clone());
    }
    schema
}

fn properties(schema: &Value, definitions: &Value) -> Map<String, Value> {
    resolve(schema, definitions).get("properties").and_then(Value::as_object).cloned().unwrap_or_default()
}

/// Follows a reference.
#[must_use]
pub fn resolve<'a>(schema: &'a Value, definitions: &'a Value) -> &'a Value {
    let name = schema.get("$ref").and_then(Value::as_str).and_then(|reference| reference.strip_prefix("#/$defs/"));
    name.and_then(|name| definitions.get(name)).unwrap_or(schema)
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
            if let Some(Value::Array(words)) = object.get_mut("oneOf")
                && words.iter().all(|word| word.get("const").is_some())
            {
                words.push(json!({ "type": "string", "pattern": VARIABLE }));
            }
        }
        Value::Array(items) => items.iter_mut().for_each(loosen),
        _ => {}
    }
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

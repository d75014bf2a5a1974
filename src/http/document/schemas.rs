//! Schemas as generators of clients take them. They are derived from the types that are read and written; here they get
//! the one of several equal forms that is understood everywhere.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

const SCHEMAS: &str = "#/components/schemas/";

/// Puts all schemas of a document into that form, and drops those that nothing refers to.
pub(super) fn tidy(document: &mut Value) {
    if let Some(paths) = document.get_mut("paths") {
        within(paths);
    }
    let schemas = document.pointer_mut("/components/schemas").and_then(Value::as_object_mut);
    for schema in schemas.into_iter().flat_map(|schemas| schemas.values_mut()) {
        tidy_schema(schema);
    }
    prune(document);
}

/// Finds the schemas of parameters, bodies and headers.
fn within(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                if name == "schema" { tidy_schema(value) } else { within(value) }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(within),
        _ => {}
    }
}

fn tidy_schema(schema: &mut Value) {
    // `true` allows anything, as an empty schema does.
    if *schema == Value::Bool(true) {
        *schema = json!({});
    }
    let Some(fields) = schema.as_object_mut() else { return };
    for name in ["properties", "patternProperties", "$defs"] {
        fields.get_mut(name).and_then(Value::as_object_mut).into_iter().flat_map(Map::values_mut).for_each(tidy_schema);
    }
    for name in ["items", "not", "if", "then", "else"] {
        fields.get_mut(name).into_iter().for_each(tidy_schema);
    }
    for name in ["allOf", "anyOf", "oneOf", "prefixItems"] {
        fields.get_mut(name).and_then(Value::as_array_mut).into_iter().flatten().for_each(tidy_schema);
    }
    // Widths that only Rust knows; what is not negative has a minimum.
    if fields.get("format").and_then(Value::as_str).is_some_and(|format| format.starts_with("uint")) {
        fields.remove("format");
    }
    say_default(fields);
    join_words(fields);
}

/// A default in words: with the keyword, generators make a field that may be left out one that must be there.
fn say_default(fields: &mut Map<String, Value>) {
    let default = match fields.remove("default") {
        Some(default @ (Value::Bool(_) | Value::Number(_))) => default.to_string(),
        Some(Value::String(text)) if !text.is_empty() => text,
        _ => return,
    };
    let description = fields.get("description").and_then(Value::as_str).unwrap_or_default();
    let description = format!("{description} Default: `{default}`.").trim_start().to_owned();
    fields.insert("description".into(), description.into());
}

/// A choice of words that each have a description is an enumeration of words, with a list of descriptions.
fn join_words(fields: &mut Map<String, Value>) {
    let Some(choices) = fields.get("oneOf").and_then(Value::as_array) else { return };
    // Words without a description come together.
    let words = |choice: &Value| {
        let description = choice["description"].as_str().unwrap_or_default().to_owned();
        let words = choice["enum"].as_array().cloned().unwrap_or_else(|| vec![choice["const"].clone()]);
        let words = words.into_iter().map(|word| word.as_str().map(|word| (word.to_owned(), description.clone())));
        words.collect::<Option<Vec<_>>>()
    };
    let Some(words) = choices.iter().map(words).collect::<Option<Vec<_>>>() else { return };
    let words = words.concat();
    let described = words.iter().map(|(word, description)| match description.is_empty() {
        true => format!("\n- `{word}`"),
        false => format!("\n- `{word}`: {description}"),
    });
    let description = fields.get("description").and_then(Value::as_str).unwrap_or_default();
    let description = format!("{description}\n{}", described.collect::<String>());
    fields.remove("oneOf");
    fields.insert("description".into(), description.into());
    fields.insert("type".into(), "string".into());
    fields.insert("enum".into(), words.into_iter().map(|(word, _)| word).collect());
}

/// A parameter is there or not, never null.
pub(super) fn without_null(schema: &mut Value) {
    let types = schema.get("type").and_then(Value::as_array).cloned();
    let types: Vec<Value> = types.into_iter().flatten().filter(|kind| *kind != "null").collect();
    if let [kind] = types.as_slice() {
        schema["type"] = kind.clone();
    }
    let choices = schema.get("anyOf").and_then(Value::as_array).cloned().unwrap_or_default();
    let choices: Vec<Value> = choices.into_iter().filter(|choice| choice["type"] != "null").collect();
    if let ([Value::Object(only)], Some(fields)) = (choices.as_slice(), schema.as_object_mut()) {
        fields.remove("anyOf");
        fields.extend(only.clone());
    }
}

/// Drops schemas that nothing refers to: parameters are derived from types, too.
fn prune(document: &mut Value) {
    let mut used = BTreeSet::new();
    let mut found = BTreeSet::new();
    references(&document["paths"], &mut found);
    references(&document["components"]["responses"], &mut found);
    while let Some(name) = found.pop_first() {
        references(&document["components"]["schemas"][&name], &mut found);
        used.insert(name);
        found.retain(|name| !used.contains(name));
    }
    if let Some(schemas) = document.pointer_mut("/components/schemas").and_then(Value::as_object_mut) {
        schemas.retain(|name, _| used.contains(name));
    }
}

fn references(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            let name = fields.get("$ref").and_then(Value::as_str).and_then(|target| target.strip_prefix(SCHEMAS));
            found.extend(name.map(str::to_owned));
            fields.values().for_each(|value| references(value, found));
        }
        Value::Array(items) => items.iter().for_each(|value| references(value, found)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tidied(mut schema: Value) -> Value {
        tidy_schema(&mut schema);
        schema
    }

    #[test]
    fn schemas_get_the_form_that_generators_take() {
        let list = json!({ "type": "array", "items": true });
        assert_eq!(tidied(list), json!({ "type": "array", "items": {} }));
        let null = json!({ "properties": { "a": { "type": ["string", "null"], "default": null } } });
        assert_eq!(tidied(null), json!({ "properties": { "a": { "type": ["string", "null"] } } }));
        let flag = json!({ "type": "boolean", "description": "Whether.", "default": false });
        assert_eq!(tidied(flag), json!({ "type": "boolean", "description": "Whether. Default: `false`." }));
        let words = json!({ "description": "Which.", "oneOf": [
            { "type": "string", "const": "a", "description": "One." }, { "type": "string", "enum": ["b"] },
        ] });
        let joined = json!({ "description": "Which.\n\n- `a`: One.\n- `b`", "type": "string", "enum": ["a", "b"] });
        assert_eq!(tidied(words), joined);
    }

    #[test]
    fn a_parameter_is_never_null() {
        let mut choice = json!({ "anyOf": [{ "$ref": "#/components/schemas/Role" }, { "type": "null" }] });
        without_null(&mut choice);
        assert_eq!(choice, json!({ "$ref": "#/components/schemas/Role" }));
    }

    #[test]
    fn what_nothing_refers_to_is_dropped() {
        let refers = |name: &str| json!({ "$ref": format!("{SCHEMAS}{name}") });
        let mut document = json!({
            "paths": { "/a": refers("A") },
            "components": { "schemas": { "A": { "items": refers("B") }, "B": refers("A"), "C": refers("C") } },
        });
        tidy(&mut document);
        let names: Vec<_> = document["components"]["schemas"].as_object().unwrap().keys().collect();
        assert_eq!(names, ["A", "B"]);
    }
}

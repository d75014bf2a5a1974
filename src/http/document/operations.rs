//! Calls as the document shows them: their texts, their errors by status and code, the headers of their answers, and `HEAD`.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::LazyLock,
};

use aide::{openapi, transform::TransformOperation};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{
    codes::{self, Code},
    headers, schemas,
};

/// Where the codes are kept that a call's parameters and body can be refused for, until the document is finished.
const ERRORS: &str = "x-errors";
/// What any request can be answered.
const ALWAYS: &[&str] = &["forbidden", "internal", "storage_busy", "overloaded", "clock_out_of_range"];
/// Errors that most calls have, each under the name of its component.
const SHARED: &[(&str, &[&str])] = &[
    ("InvalidRequest", &["invalid_request"]),
    ("Unauthorized", &["unauthorized"]),
    ("Forbidden", &["forbidden"]),
    ("RequestTimeout", &["request_timeout"]),
    ("PayloadTooLarge", &["payload_too_large"]),
    ("UnsupportedMediaType", &["unsupported_media_type"]),
    ("Internal", &["internal"]),
    ("Unavailable", &["storage_busy", "overloaded", "clock_out_of_range"]),
    ("StorageFull", &["storage_full"]),
];

/// What `operations.toml` says of a call.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    tag: String,
    summary: String,
    description: String,
    #[serde(default)]
    errors: Vec<String>,
    #[serde(default)]
    headers: Vec<String>,
    /// Headers of the answers with one status.
    #[serde(default)]
    headers_of: BTreeMap<String, Vec<String>>,
    #[serde(default)]
    optional_body: bool,
}

static TEXTS: LazyLock<BTreeMap<String, Text>> =
    LazyLock::new(|| toml::from_str(include_str!("operations.toml")).unwrap_or_default());

/// A call, which `operations.toml` describes under this id.
pub(in crate::http) fn call(id: &'static str) -> impl FnOnce(TransformOperation<'_>) -> TransformOperation<'_> {
    move |operation| operation.id(id)
}

/// A call that asks for no token.
pub(in crate::http) fn open(id: &'static str) -> impl FnOnce(TransformOperation<'_>) -> TransformOperation<'_> {
    move |mut operation| {
        operation.inner_mut().security.push(Default::default());
        operation.id(id)
    }
}

/// Notes what a parameter or a body can be refused for.
pub(in crate::http) fn may_fail(operation: &mut openapi::Operation, codes: &[&str]) {
    let noted = operation.extensions.entry(ERRORS.to_owned()).or_insert_with(|| json!([]));
    if let Some(noted) = noted.as_array_mut() {
        noted.extend(codes.iter().map(|code| Value::from(*code)));
    }
}

/// Completes all calls.
pub(super) fn finish(document: &mut Value) {
    for item in document["paths"].as_object_mut().into_iter().flat_map(Map::values_mut) {
        let Some(item) = item.as_object_mut() else { continue };
        for (method, operation) in item.iter_mut() {
            finish_one(method, operation);
        }
        if let Some(head) = item.get("get").map(head_of) {
            item.insert("head".into(), head);
        }
    }
    document["components"]["headers"] = headers::components().into();
    document["components"]["responses"] =
        SHARED.iter().map(|(name, codes)| ((*name).to_owned(), error(&named(codes)))).collect::<Map<_, _>>().into();
}

fn named(names: &[&str]) -> Vec<&'static Code> {
    names.iter().filter_map(|name| codes::named(name)).collect()
}

fn finish_one(method: &str, operation: &mut Value) {
    let none = Text::default();
    let text = operation["operationId"].as_str().and_then(|id| TEXTS.get(id)).unwrap_or(&none);
    operation["tags"] = json!([text.tag]);
    operation["summary"] = text.summary.as_str().into();
    operation["description"] = text.description.trim().into();
    if text.optional_body {
        operation["requestBody"]["required"] = false.into();
    }
    let parameters = operation.get_mut("parameters").and_then(Value::as_array_mut);
    parameters.into_iter().flatten().for_each(finish_parameter);
    let mut known = operation["responses"].take();
    let mut responses = Map::new();
    for (status, response) in known.as_object_mut().into_iter().flatten().filter(|(status, _)| *status != "default") {
        response["headers"] = headers_of(text, status, operation).into();
        responses.insert(status.clone(), response.clone());
    }
    responses.extend(errors_of(method, text, operation));
    operation["responses"] = responses.into();
    if let Some(fields) = operation.as_object_mut() {
        fields.remove(ERRORS);
    }
}

/// A parameter's own description has all that its schema's has.
fn finish_parameter(parameter: &mut Value) {
    schemas::without_null(&mut parameter["schema"]);
    let Some(schema) = parameter["schema"].as_object_mut() else { return };
    schema.remove("description");
    let default = schema.remove("default").filter(|default| default.is_boolean() || default.is_number());
    if let (Some(default), Some(description)) = (default, parameter["description"].as_str()) {
        parameter["description"] = format!("{description} Default: `{default}`.").into();
    }
}

fn headers_of(text: &Text, status: &str, operation: &Value) -> Map<String, Value> {
    let parameters = operation["parameters"].as_array();
    let is_once = parameters.into_iter().flatten().any(|parameter| parameter["name"] == "Idempotency-Key");
    let replayed = ["Idempotency-Replayed"].into_iter().filter(|_| is_once);
    let own = text.headers.iter().chain(text.headers_of.get(status).into_iter().flatten());
    headers::of(["X-Request-Id"].into_iter().chain(own.map(String::as_str)).chain(replayed))
}

/// The errors of a call, by their statuses.
fn errors_of(method: &str, text: &Text, operation: &Value) -> Map<String, Value> {
    let is_open = operation["security"].is_array();
    let token = ["unauthorized"].into_iter().filter(|_| !is_open);
    let full = ["storage_full"].into_iter().filter(|_| method != "get");
    let noted = operation[ERRORS].as_array().into_iter().flatten().filter_map(Value::as_str);
    let names = ALWAYS.iter().copied().chain(token).chain(full).chain(noted);
    let names: BTreeSet<&str> = names.chain(text.errors.iter().map(String::as_str)).collect();
    let found: Vec<&Code> = names.into_iter().filter_map(codes::named).collect();
    let mut by_status: BTreeMap<u16, Vec<&Code>> = BTreeMap::new();
    // In the order of the table.
    for code in codes::CODES.iter().filter(|code| found.contains(code)) {
        by_status.entry(code.status).or_default().push(code);
    }
    let shown = |codes: &[&'static Code]| {
        let shared = SHARED.iter().find(|(_, shared)| codes.iter().map(|code| code.code).eq(shared.iter().copied()));
        match shared {
            Some((name, _)) => json!({ "$ref": format!("#/components/responses/{name}") }),
            None => error(codes),
        }
    };
    by_status.iter().map(|(status, codes)| (status.to_string(), shown(codes))).collect()
}

/// The answer with one of these codes, which have one status. Each code is an example.
fn error(codes: &[&Code]) -> Value {
    let status = codes.first().map_or(500, |code| code.status);
    let title = StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason()).unwrap_or("Error");
    let description = codes.iter().map(|code| format!("- `{}`: {}", code.code, code.meaning));
    let example = |code: &&Code| {
        let value = json!({
            "type": "about:blank", "title": title, "status": status, "code": code.code, "error": title,
            "detail": code.meaning, "request_id": "0198a5c27d107a639a2e0d7c0c5f6b12-17",
        });
        (code.code.to_owned(), json!({ "summary": code.meaning, "value": value }))
    };
    let examples: Map<String, Value> = codes.iter().map(example).collect();
    let own: &[&str] = match status {
        401 => &["WWW-Authenticate"],
        416 => &["Content-Range"],
        503 => &["Retry-After"],
        _ => &[],
    };
    json!({
        "description": description.collect::<Vec<_>>().join("\n"),
        "headers": headers::of(["X-Request-Id"].into_iter().chain(own.iter().copied())),
        "content": { "application/problem+json": {
            "schema": { "$ref": "#/components/schemas/Problem" }, "examples": examples,
        } },
    })
}

/// `HEAD` of what `GET` answers: the same without bodies. Documentation pages leave it out.
fn head_of(get: &Value) -> Value {
    let mut head = get.clone();
    let id = get["operationId"].as_str().unwrap_or_default();
    head["operationId"] = format!("head_{id}").into();
    head["summary"] = format!("{} (headers only)", get["summary"].as_str().unwrap_or_default()).into();
    head["description"] =
        format!("Answers as `{id}` does, with the same status and headers, and without a body.").into();
    head["x-scalar-ignore"] = true.into();
    for response in head["responses"].as_object_mut().into_iter().flat_map(Map::values_mut) {
        let name = response["$ref"].as_str().and_then(|target| target.rsplit('/').next());
        if let Some((_, codes)) = SHARED.iter().find(|(shared, _)| Some(*shared) == name) {
            *response = error(&named(codes));
        }
        if let Some(fields) = response.as_object_mut() {
            fields.remove("content");
        }
    }
    head
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_call_is_described_and_its_errors_are_in_the_table() {
        assert!(TEXTS.len() > 50);
        for (id, text) in TEXTS.iter() {
            assert!(![&text.tag, &text.summary, &text.description].iter().any(|text| text.is_empty()), "{id}");
            for name in &text.errors {
                assert!(codes::named(name).is_some(), "{id}: {name}");
            }
            let known = headers::components();
            for name in text.headers.iter().chain(text.headers_of.values().flatten()) {
                assert!(known.contains_key(name), "{id}: {name}");
            }
        }
        for (name, codes) in SHARED {
            assert_eq!(named(codes).len(), codes.len(), "{name}");
        }
    }
}

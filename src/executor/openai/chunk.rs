//! One JSON object of a reply, read with patience: vendors leave out, null, rename or move whatever they like. What is not
//! known here is kept, because some vendors want it back.

use serde_json::Value;

use super::usage;
use crate::{executor::surrogates, model::JsonObject};

/// Fields of a delta that are read, or that say nothing which a later request needs.
const READ: [&str; 19] = [
    "role",
    "content",
    "refusal",
    "reasoning_content",
    "reasoning",
    "reasoning_text",
    "thinking",
    "tool_calls",
    "function_call",
    "name",
    "tool_call_id",
    "index",
    "usage",
    "finish_reason",
    "error",
    "logprobs",
    "token_ids",
    "obfuscation",
    "padding",
];
/// Where the text of the reasoning is; some vendors send two of these, with the same in them.
const REASONING: [&str; 4] = ["reasoning_content", "reasoning", "reasoning_text", "thinking"];

/// What a chunk says.
#[derive(Debug, Default)]
pub(super) struct Chunk {
    pub(super) delta: Delta,
    /// The whole reply, from a server that was asked to stream and does not. Some send it after the fragments.
    pub(super) whole: Option<Delta>,
    pub(super) finish_reason: Option<String>,
    pub(super) usage: Option<JsonObject>,
    pub(super) error: Option<Value>,
    /// Whether it is a chunk of a reply at all.
    pub(super) is_reply: bool,
    /// Which of several replies it is of: a server may make more than the one that it was asked for.
    pub(super) choice: Option<i64>,
}

/// A fragment of a message.
#[derive(Debug, Default)]
pub(super) struct Delta {
    pub(super) text: String,
    pub(super) reasoning: String,
    pub(super) calls: Vec<CallDelta>,
    /// The vendor's own fields.
    pub(super) extra: JsonObject,
}

/// A fragment of a call.
#[derive(Debug, Default)]
pub(super) struct CallDelta {
    pub(super) index: Option<i64>,
    pub(super) id: String,
    pub(super) name: String,
    pub(super) arguments: String,
    pub(super) extra: JsonObject,
}

/// The JSON values in the data of an event: usually one. Lone halves of characters are read, too.
pub(super) fn values(data: &str) -> serde_json::Result<Vec<Value>> {
    let read = |text: &str| serde_json::Deserializer::from_str(text).into_iter().collect::<Result<Vec<Value>, _>>();
    let values = read(data).or_else(|_| read(&surrogates::readable(data)))?;
    Ok(values
        .into_iter()
        .flat_map(|value| if let Value::Array(values) = value { values } else { vec![value] })
        .collect())
}

impl Chunk {
    pub(super) fn read(mut value: Value) -> Self {
        let (error, usage) = (error(&value), usage::of_chunk(&value));
        let choices = value.get_mut("choices").and_then(Value::as_array_mut);
        let choice = choices.and_then(|choices| choices.iter_mut().min_by_key(|choice| choice["index"].as_i64()));
        let choice = choice.map(Value::take);
        let is_reply = value["choices"].is_array() || usage.is_some();
        let Some(mut choice) = choice else { return Self { error, usage, is_reply, ..Self::default() } };
        let number = choice["index"].as_i64();
        let reason = choice["finish_reason"].as_str().or(choice["delta"]["finish_reason"].as_str());
        let finish_reason = reason.filter(|reason| !matches!(*reason, "" | "null")).map(surrogates::whole);
        let in_choice = [&choice["error"], &choice["delta"]["error"], &choice["message"]["error"]];
        let error = error.or_else(|| in_choice.into_iter().find(|error| says(error)).cloned());
        let mut take = |name| choice.get_mut(name).map(Value::take).unwrap_or_default();
        let (delta, whole) = (take("delta"), take("message"));
        let mut delta = Delta::read(delta);
        if delta.text.is_empty() {
            delta.text = text(&choice["text"]);
        }
        let whole = Some(whole).filter(Value::is_object).map(Delta::read);
        Self { delta, whole, finish_reason, usage, error, is_reply, choice: number }
    }
}

/// The error that a chunk is, or has.
fn error(chunk: &Value) -> Option<Value> {
    if says(&chunk["error"]) {
        return Some(chunk["error"].clone());
    }
    let is_error = chunk["object"] == "error" || chunk["type"] == "error";
    let speaks = ["message", "msg", "detail", "errors"].iter().any(|key| says(&chunk[*key]));
    let is_reply = chunk["choices"].as_array().is_some_and(|choices| !choices.is_empty()) || says(&chunk["usage"]);
    let has_failed = chunk["base_resp"]["status_code"].as_i64().is_some_and(|code| code != 0);
    let fails = has_failed || (!is_reply && (is_error || speaks));
    fails.then(|| chunk.clone())
}

/// Whether a field holds anything.
fn says(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(values) => values.iter().any(says),
        Value::Object(fields) => fields.values().any(says),
        _ => true,
    }
}

impl Delta {
    fn read(delta: Value) -> Self {
        let Value::Object(mut fields) = delta else { return Self::default() };
        let content = fields.remove("content").unwrap_or_default();
        let refusal = fields.get("refusal").map(text).unwrap_or_default();
        let reasoning = REASONING.iter().filter_map(|name| fields.get(*name)).map(text);
        let reasoning = reasoning.into_iter().find(|reasoning| !reasoning.is_empty()).unwrap_or_default();
        let calls = match fields.remove("tool_calls") {
            Some(Value::Array(calls)) => calls,
            Some(call @ Value::Object(_)) => vec![call],
            _ => Vec::new(),
        };
        let legacy = fields.remove("function_call").filter(says).map(CallDelta::legacy);
        let calls = calls.into_iter().filter_map(CallDelta::read).chain(legacy).collect();
        fields.retain(|name, value| !READ.contains(&name.as_str()) && says(value));
        surrogates::clean(&mut fields);
        Self { text: text(&content) + &refusal, reasoning: thoughts(&content) + &reasoning, calls, extra: fields }
    }

    /// Whether it holds something that a reply consists of. Servers that only want to be heard send empty ones.
    pub(super) fn says(&self) -> bool {
        !(self.text.is_empty() && self.reasoning.is_empty() && self.calls.is_empty() && self.extra.is_empty())
    }
}

impl CallDelta {
    fn read(call: Value) -> Option<Self> {
        let Value::Object(mut fields) = call else { return None };
        let index = match fields.remove("index") {
            Some(Value::String(index)) => index.parse().ok(),
            Some(index) => index.as_i64(),
            None => None,
        };
        let id = match fields.remove("id") {
            Some(Value::String(id)) => id,
            Some(Value::Number(id)) => id.to_string(),
            _ => String::new(),
        };
        let function = fields.remove("function").unwrap_or_default();
        fields.retain(|name, value| name != "type" && says(value));
        surrogates::clean(&mut fields);
        Some(Self { index, id, extra: fields, ..Self::of_function(&function) })
    }

    /// What models called before there were tools: one function, without an id.
    fn legacy(function: Value) -> Self {
        Self { index: Some(0), ..Self::of_function(&function) }
    }

    fn of_function(function: &Value) -> Self {
        let arguments = match &function["arguments"] {
            Value::Null => String::new(),
            Value::String(text) => text.clone(),
            // An object that is whole.
            whole => whole.to_string(),
        };
        Self { name: function["name"].as_str().unwrap_or_default().into(), arguments, ..Self::default() }
    }
}

/// A string, or parts.
fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().map(|part| text(&part["text"])).collect(),
        Value::Object(part) => part.get("text").map(text).unwrap_or_default(),
        _ => String::new(),
    }
}

/// The parts of a content that are thoughts.
fn thoughts(content: &Value) -> String {
    let parts = content.as_array().into_iter().flatten();
    parts.filter(|part| part["type"] == "thinking").map(|part| text(&part["thinking"])).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_error_is_found_wherever_it_is() {
        for chunk in [
            json!({ "error": "words" }),
            json!({ "error": { "message": "words" }, "choices": [{ "delta": {}, "finish_reason": "error" }] }),
            json!({ "choices": [{ "delta": {}, "error": { "message": "words" } }] }),
            json!({ "object": "error", "message": "words", "code": 400 }),
            json!({ "type": "error", "error": { "type": "overloaded_error" } }),
            json!({ "detail": [{ "msg": "words" }] }),
            json!({ "base_resp": { "status_code": 1004, "status_msg": "words" }, "choices": null }),
        ] {
            assert!(Chunk::read(chunk.clone()).error.is_some(), "{chunk}");
        }
        for chunk in [
            json!({ "error": null, "choices": [] }),
            json!({ "error": {}, "choices": [{ "delta": {}, "error": null }] }),
            json!({ "base_resp": { "status_code": 0, "status_msg": "" }, "choices": [] }),
            json!({ "choices": [{ "message": { "content": "x" } }], "message": "words" }),
        ] {
            assert!(Chunk::read(chunk.clone()).error.is_none(), "{chunk}");
        }
    }

    #[test]
    fn fields_of_the_vendor_are_kept_and_empty_ones_are_not() {
        let delta = json!({
            "role": "assistant", "content": null, "audio": null, "annotations": [], "provider_specific_fields": { "a": null },
            "reasoning_details": [{ "type": "reasoning.encrypted", "data": "x" }],
            "tool_calls": [{ "index": "1", "id": 7, "type": "function", "function": { "name": "f" }, "sig": "s", "n": null }],
        });
        let delta = Chunk::read(json!({ "choices": [{ "delta": delta }] })).delta;
        assert_eq!(delta.extra.keys().collect::<Vec<_>>(), ["reasoning_details"]);
        let call = &delta.calls[0];
        assert_eq!((call.index, &*call.id, &*call.name), (Some(1), "7", "f"));
        assert_eq!(Value::from(call.extra.clone()), json!({ "sig": "s" }));
    }

    #[test]
    fn parts_that_are_thoughts_are_reasoning() {
        let content = json!([{ "type": "thinking", "thinking": [{ "type": "text", "text": "hm" }] }, { "type": "text", "text": "hi" }]);
        let delta = Chunk::read(json!({ "choices": [{ "delta": { "content": content } }] })).delta;
        assert_eq!((&*delta.reasoning, &*delta.text), ("hm", "hi"));
    }
}

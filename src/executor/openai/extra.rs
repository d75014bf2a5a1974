//! A vendor's own fields, put together from the fragments of a reply: kept as they were sent, because some vendors refuse
//! a history without them (Gemini its `thought_signature`, others their `reasoning_details`).

use serde_json::Value;

use crate::model::JsonObject;

/// Fields that come in pieces; others come whole.
const PIECES: [&str; 5] = ["text", "thinking", "summary", "data", "transcript"];

/// Adds the fields of a further fragment.
pub(super) fn merge(fields: &mut JsonObject, more: JsonObject) {
    for (name, more) in more {
        match (fields.get_mut(&name), more) {
            (Some(Value::Array(items)), Value::Array(more)) => more.into_iter().for_each(|item| add(items, item)),
            (Some(Value::Object(fields)), Value::Object(more)) => merge(fields, more),
            (Some(Value::String(text)), Value::String(more)) if PIECES.contains(&name.as_str()) => text.push_str(&more),
            (Some(_), more) if more.is_null() || more == "" => {}
            (_, Value::Array(items)) => {
                let mut joined = Vec::new();
                items.into_iter().for_each(|item| add(&mut joined, item));
                fields.insert(name, joined.into());
            }
            (_, more) => drop(fields.insert(name, more)),
        }
    }
}

/// Adds an item, or a piece of one that is there.
fn add(items: &mut Vec<Value>, item: Value) {
    let whole = match item.get("index").filter(|index| index.is_number()) {
        Some(_) => items.iter_mut().rev().find(|whole| is_one(whole, &item)),
        None => items.last_mut().filter(|last| is_one(last, &item) && goes_on(last)),
    };
    match (whole, item) {
        (Some(Value::Object(whole)), Value::Object(more)) => merge(whole, more),
        (_, item) => items.push(item),
    }
}

/// Whether both are pieces of one item.
fn is_one(whole: &Value, piece: &Value) -> bool {
    let same = |name: &str| whole.get(name) == piece.get(name);
    let same_id = piece["id"].is_null() || whole["id"].is_null() || same("id");
    same("index") && same("type") && same_id && whole.is_object()
}

/// Whether a thought without an index can have more pieces: its signature is its end.
fn goes_on(whole: &Value) -> bool {
    let is_text = ["thinking", "reasoning.text", "reasoning.summary"].iter().any(|kind| whole["type"] == *kind);
    is_text && whole["signature"].as_str().is_none_or(str::is_empty)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn merged(fragments: &[Value]) -> Value {
        let mut fields = JsonObject::new();
        for fragment in fragments {
            merge(&mut fields, fragment.as_object().unwrap().clone());
        }
        fields.into()
    }

    #[test]
    fn pieces_of_one_item_are_put_together_and_others_stay_apart() {
        let details = |items: Value| json!({ "reasoning_details": items });
        let text = |text: &str| json!({ "type": "reasoning.text", "text": text, "index": 0 });
        let signed = json!({ "type": "reasoning.text", "signature": "s", "index": 0 });
        let encrypted = |id: &str| json!({ "type": "reasoning.encrypted", "data": "x", "id": id, "index": 0 });
        let fragments = [
            details(json!([text("I ")])),
            details(json!([text("think")])),
            details(json!([signed, encrypted("a")])),
            details(json!([encrypted("b")])),
        ];
        let whole = json!({ "type": "reasoning.text", "text": "I think", "signature": "s", "index": 0 });
        assert_eq!(merged(&fragments), details(json!([whole, encrypted("a"), encrypted("b")])));
    }

    #[test]
    fn thoughts_without_an_index_end_with_their_signature() {
        let block = |text: &str, sign: Value| json!({ "blocks": [{ "type": "thinking", "thinking": text, "signature": sign }] });
        let found = merged(&[
            block("a", Value::Null),
            block("b", json!("")),
            block("", json!("s")),
            block("c", Value::Null),
            json!({ "whole": "x", "object": { "a": 1 } }),
            json!({ "whole": "y", "object": { "b": null } }),
        ]);
        let wanted = json!([
            { "type": "thinking", "thinking": "ab", "signature": "s" },
            { "type": "thinking", "thinking": "c", "signature": null },
        ]);
        assert_eq!((&found["blocks"], &found["whole"]), (&wanted, &json!("y")));
        assert_eq!(found["object"]["a"], 1);
    }
}

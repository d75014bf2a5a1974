//! What a request used: where vendors put the counts, and how those of several requests are added up.

use serde_json::{Number, Value, json};

use crate::model::JsonObject;

/// The names that some vendors use, and the usual ones.
const NAMES: [(&str, &str); 2] = [("input_tokens", "prompt_tokens"), ("output_tokens", "completion_tokens")];

/// The counts in a chunk, wherever they are.
pub(super) fn of_chunk(chunk: &Value) -> Option<JsonObject> {
    let choice = chunk["choices"].as_array().and_then(|choices| choices.first());
    let in_choice = choice.into_iter().flat_map(|choice| [&choice["usage"], &choice["delta"]["usage"]]);
    let places = [&chunk["usage"], &chunk["x_groq"]["usage"], &chunk["message"]["usage"], &chunk["response"]["usage"]];
    let mut counts = places.into_iter().chain(in_choice).filter_map(Value::as_object);
    counts.find(|counts| !counts.is_empty()).cloned()
}

/// Takes newer counts of the same request. Those of a vendor that counts with every fragment grow, and some send zeros
/// or null at the end.
pub(super) fn renew(counts: &mut JsonObject, newer: JsonObject) {
    for (key, newer) in newer {
        match (counts.get_mut(&key), newer) {
            (Some(Value::Object(counts)), Value::Object(newer)) => renew(counts, newer),
            (Some(old), newer) if !old.is_null() && (newer.is_null() || newer.as_f64() == Some(0.0)) => {}
            (_, newer) => drop(counts.insert(key, newer)),
        }
    }
}

/// The counts under the usual names, beside those that the vendor gave.
pub(super) fn complete(counts: &mut JsonObject) {
    for (given, usual) in NAMES {
        if let (Some(count), None) = (counts.get(given).cloned(), counts.get(usual).filter(|count| !count.is_null())) {
            counts.insert(usual.into(), count);
        }
    }
    counts.retain(|name, count| !(name.ends_with("tokens") || name == "cost") || tidy(count));
    let count = |name: &str| counts.get(name).and_then(Value::as_u64);
    if let (None, Some(prompt), Some(completion)) =
        (count("total_tokens"), count("prompt_tokens"), count("completion_tokens"))
    {
        counts.insert("total_tokens".into(), prompt.saturating_add(completion).into());
    }
}

/// Makes a number of a count, a whole one where it can be, also where it is written as a text or a fraction. False if it
/// is none: clients add these up.
fn tidy(count: &mut Value) -> bool {
    let number = match &*count {
        Value::Object(_) | Value::Array(_) => return true,
        Value::String(text) => text.trim().parse().ok(),
        other => other.as_f64(),
    };
    let Some(number) = number.filter(|number: &f64| number.is_finite() && *number >= 0.0) else { return false };
    if !count.is_u64() {
        let is_whole = number.fract() == 0.0 && number < 1e15;
        *count = if is_whole { json!(number as u64) } else { json!(number) };
    }
    true
}

/// Adds one request's counts to those before it, fractions too; what is no count is the last request's.
pub(super) fn add(used: &mut JsonObject, more: JsonObject) {
    for (key, more) in more {
        match (used.get_mut(&key), more) {
            (Some(Value::Object(used)), Value::Object(more)) => add(used, more),
            (Some(Value::Number(used)), Value::Number(more)) if !is_rate(&key) => *used = sum(used, &more),
            (Some(used), Value::Null) if !used.is_null() => {}
            (_, more) => drop(used.insert(key, more)),
        }
    }
}

fn is_rate(key: &str) -> bool {
    key.contains("per_") || key.ends_with("_rate")
}

fn sum(a: &Number, b: &Number) -> Number {
    match (a.as_u64(), b.as_u64()) {
        (Some(a), Some(b)) => a.saturating_add(b).into(),
        _ => {
            let sum = a.as_f64().zip(b.as_f64()).map(|(a, b)| a + b);
            sum.and_then(Number::from_f64).unwrap_or_else(|| b.clone())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_count_is_left_out() {
        let mut counts = object(json!({
            "prompt_tokens": -5, "completion_tokens": "12", "total_tokens": null, "cost": "0.01", "cached_tokens": 3.0,
            "prompt_tokens_details": { "audio_tokens": 1 }, "note": "x"
        }));
        complete(&mut counts);
        let tidied = json!({
            "completion_tokens": 12, "cost": 0.01, "cached_tokens": 3, "prompt_tokens_details": { "audio_tokens": 1 }, "note": "x"
        });
        assert_eq!(counts, object(tidied));
    }

    fn object(value: Value) -> JsonObject {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn counts_are_found_where_vendors_put_them() {
        let usage = json!({ "prompt_tokens": 3 });
        for chunk in [
            json!({ "usage": usage }),
            json!({ "usage": null, "choices": [{ "usage": usage }] }),
            json!({ "choices": [{ "delta": { "usage": usage } }] }),
            json!({ "usage": {}, "x_groq": { "usage": usage } }),
        ] {
            assert_eq!(of_chunk(&chunk), Some(object(usage.clone())), "{chunk}");
        }
        assert_eq!(of_chunk(&json!({ "choices": [], "usage": null })), None);
    }

    #[test]
    fn the_last_count_stands_but_for_an_empty_one() {
        let mut counts = object(json!({ "prompt_tokens": 7, "completion_tokens": 1, "details": { "cached": 2 } }));
        renew(&mut counts, object(json!({ "prompt_tokens": 0, "completion_tokens": 5, "details": null, "cost": 0.5 })));
        assert_eq!(
            Value::from(counts),
            json!({ "prompt_tokens": 7, "completion_tokens": 5, "details": { "cached": 2 }, "cost": 0.5 })
        );
    }

    #[test]
    fn counts_of_several_requests_are_added_up() {
        let mut used = JsonObject::new();
        for (cost, speed) in [(json!(0.01), 20), (json!(1), 30)] {
            let more =
                json!({ "total_tokens": 15, "cost": cost, "details": { "x": 0.25 }, "tokens_per_second": speed });
            add(&mut used, object(more));
        }
        let wanted = json!({ "total_tokens": 30, "cost": 1.01, "details": { "x": 0.5 }, "tokens_per_second": 30 });
        assert_eq!(Value::from(used), wanted);
        let mut counts = object(json!({ "input_tokens": 3.0, "output_tokens": 4 }));
        complete(&mut counts);
        assert_eq!((&counts["prompt_tokens"], &counts["total_tokens"]), (&json!(3), &json!(7)));
    }
}

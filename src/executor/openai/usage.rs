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
    // A count of tokens is a whole number, also where it is written as a fraction.
    for (_, count) in counts.iter_mut().filter(|(name, _)| name.ends_with("tokens")) {
        let whole =
            count.as_f64().filter(|number| count.is_f64() && number.fract() == 0.0 && (0.0..1e15).contains(number));
        if let Some(number) = whole {
            *count = json!(number as u64);
        }
    }
    let count = |name: &str| counts.get(name).and_then(Value::as_u64);
    if let (None, Some(prompt), Some(completion)) =
        (count("total_tokens"), count("prompt_tokens"), count("completion_tokens"))
    {
        counts.insert("total_tokens".into(), prompt.saturating_add(completion).into());
    }
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

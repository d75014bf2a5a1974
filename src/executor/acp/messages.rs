//! The messages in the lines that an agent writes, made ready for the protocol's crate.
//!
//! The crate reads a line as a tree of values. That rounds numbers, cannot hold half a character, and a line that is not
//! read is passed over in silence. So it is given lines in which
//! - the input and the output of a call are JSON strings that hold their own text (`text` reads them back),
//! - lone halves of characters are written as `surrogates` does,
//! - an error has a number and a reason,
//! - a message begins its line, whatever the agent printed before it.

use std::collections::BTreeMap;

use serde::{Deserialize, de::IgnoredAny};
use serde_json::{Deserializer, Result, Value, json, value::RawValue};

use crate::{executor::surrogates, model::RawJson};

/// Places of a line at which a message may begin that are tried at most.
const BEGINNINGS: usize = 32;
/// JSON-RPC's code for an error of the other side.
const INTERNAL_ERROR: i32 = -32603;

/// A line, taken apart.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line<'a> {
    /// The text before the messages; all of the line, if there are none.
    pub(super) noise: &'a str,
    pub(super) messages: Vec<String>,
    /// True if a message cannot be read.
    pub(super) lost: bool,
}

/// Takes a line apart.
pub(super) fn read(line: &str) -> Line<'_> {
    let line = line.trim_start_matches('\u{feff}').trim();
    let Some((noise, found)) = objects(line) else {
        return Line { noise: line, messages: Vec::new(), lost: line.starts_with('{') && line.contains("\"jsonrpc\"") };
    };
    let count = found.len();
    let messages: Vec<String> = found.into_iter().filter_map(ready).collect();
    Line { noise, lost: messages.len() < count, messages }
}

/// The objects that a line ends with, and what is before them. Behind something else only messages count.
fn objects(line: &str) -> Option<(&str, Vec<&str>)> {
    memchr::memchr_iter(b'{', line.as_bytes()).take(BEGINNINGS).find_map(|at| {
        let values = Deserializer::from_str(&line[at..]).into_iter::<&RawValue>();
        let values = values.map(|value| value.map(RawValue::get)).collect::<Result<Vec<_>>>().ok()?;
        let counts = (at == 0 && values.len() == 1) || values.iter().all(|value| is_message(value));
        counts.then(|| (line[..at].trim(), values))
    })
}

fn is_message(json: &str) -> bool {
    #[derive(Deserialize)]
    struct Message {
        #[serde(rename = "jsonrpc")]
        _version: IgnoredAny,
    }
    json.starts_with('{') && serde_json::from_str::<Message>(json).is_ok()
}

/// A message that the crate can read. None where it cannot be made one.
fn ready(message: &str) -> Option<String> {
    // A name may be written with escapes.
    let may_have = |name: &str| message.contains(name) || message.contains("\\u");
    let mut ready = message.to_owned();
    if may_have("\"rawInput\"") || may_have("\"rawOutput\"") {
        let call = |call: &mut String| {
            edit(call, "rawInput", as_text)?;
            edit(call, "rawOutput", as_text)
        };
        let params = |params: &mut String| {
            edit(params, "update", call)?;
            edit(params, "toolCall", call)
        };
        edit(&mut ready, "params", params).ok()?;
    }
    if may_have("\"error\"") {
        edit(&mut ready, "error", with_number).ok()?;
    }
    if ready.contains("\\u") {
        ready = surrogates::readable(&ready);
    }
    serde_json::from_str::<RawJson>(&ready).ok().map(|_| ready)
}

/// Changes a field of an object, where it is one and has it.
fn edit(object: &mut String, name: &str, change: impl FnOnce(&mut String) -> Result<()>) -> Result<()> {
    if !object.starts_with('{') {
        return Ok(());
    }
    let mut fields: BTreeMap<String, &RawValue> = serde_json::from_str(object)?;
    let Some(field) = fields.get_mut(name) else { return Ok(()) };
    let mut text = field.get().to_owned();
    change(&mut text)?;
    let changed = RawValue::from_string(text)?;
    *field = &changed;
    *object = serde_json::to_string(&fields)?;
    Ok(())
}

/// JSON as a string that holds its text. Null stays: it says that there is none.
fn as_text(json: &mut String) -> Result<()> {
    if *json != "null" {
        *json = serde_json::to_string(json)?;
    }
    Ok(())
}

/// The JSON whose text the crate was given. What no reader could read is told as the text that it is.
pub(super) fn text(given: &Value) -> RawJson {
    let Value::String(text) = given else { return RawJson::of(given) };
    serde_json::from_str(text).unwrap_or_else(|_| json!({ "unreadable": text }).into())
}

/// An error as JSON-RPC has it: some agents have words for its code, or no reason.
fn with_number(error: &mut String) -> Result<()> {
    let given: Value = serde_json::from_str(&surrogates::readable(error))?;
    let (code, message) = (&given["code"], &given["message"]);
    let number = code.as_i64().and_then(|code| i32::try_from(code).ok());
    if given.is_null() || (number.is_some() && message.is_string()) {
        return Ok(());
    }
    let whole = Some(&given).filter(|given| !given.is_object());
    let said = [Some(code).filter(|_| number.is_none()), Some(message), whole].into_iter().flatten();
    let words = |value: &Value| value.as_str().map_or_else(|| value.to_string(), String::from);
    let mut said = said.filter(|value| !value.is_null()).map(words).collect::<Vec<_>>().join(": ");
    if said.is_empty() {
        said.push_str("an error without a reason");
    }
    let mut numbered = json!({ "code": number.unwrap_or(INTERNAL_ERROR), "message": said });
    if let Some(data) = given.get("data") {
        numbered["data"] = data.clone();
    }
    *error = numbered.to_string();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(line: &str) -> (String, Vec<Value>, bool) {
        let Line { noise, messages, lost } = read(line);
        let messages = messages.iter().map(|message| serde_json::from_str(message).unwrap()).collect();
        (noise.into(), messages, lost)
    }

    #[test]
    fn a_message_is_read_whatever_was_printed_before_it() {
        let message = r#"{"id":1,"jsonrpc":"2.0","result":{"a":{}}}"#;
        let parsed: Value = serde_json::from_str(message).unwrap();
        for (before, noise) in [
            ("", ""),
            ("\u{feff}", ""),
            ("Loading... ", "Loading..."),
            ("10%\r20%\r", "10%\r20%"),
            ("{} {not: json} {\"a\":1} ", "{} {not: json} {\"a\":1}"),
        ] {
            assert_eq!(line(&format!("{before}{message}\r")), (noise.into(), vec![parsed.clone()], false), "{before}");
        }
        assert_eq!(line(&format!("x{message}{message}")), ("x".into(), vec![parsed.clone(), parsed.clone()], false));
        assert_eq!(line(r#"{"neither": 1}"#), (String::new(), vec![json!({ "neither": 1 })], false));
    }

    #[test]
    fn what_is_no_message_is_noise_and_a_broken_one_is_lost() {
        let message = r#"{"jsonrpc":"2.0","method":"x"}"#;
        let logged = format!("sent {message} to it");
        for noise in ["", "Loading...", "{{{", r#"x {"a":1}"#, logged.as_str()] {
            assert_eq!(line(noise), (noise.into(), vec![], false));
        }
        assert!(line(&message[..20]).2 && line(&format!("{message} x")).2);
        let deep = format!(r#"{{"jsonrpc":"2.0","a":{}{}}}"#, "[".repeat(200), "]".repeat(200));
        assert!(line(&deep).2 && line(&message.replace("\"x\"", "1e999")).2);
    }

    #[test]
    fn inputs_and_outputs_keep_their_text() {
        let input = r#"{"n": 123456789012345678901, "t":"\ud83d"}"#;
        for (of, name) in [("update", "rawInput"), ("toolCall", r"raw\u0049nput"), ("update", "rawOutput")] {
            let of_call = format!(r#"{{"jsonrpc":"2.0","params":{{"{of}":{{"{name}":{input},"title":"t"}}}}}}"#);
            let (_, messages, _) = line(&of_call);
            let call = &messages[0]["params"][of];
            let kept = call.get("rawInput").or(call.get("rawOutput")).unwrap();
            assert_eq!((kept, &call["title"]), (&json!(input), &json!("t")));
        }
        let none = r#"{"jsonrpc":"2.0","params":{"update":{"rawInput":null}}}"#;
        assert_eq!(line(none).1[0]["params"]["update"]["rawInput"], Value::Null);
        assert_eq!(text(&json!(r#"{"n":123456789012345678901}"#)).as_str(), r#"{"n":123456789012345678901}"#);
        assert_eq!(text(&json!(r#""\ud83d""#)), json!({ "unreadable": r#""\ud83d""# }));
    }

    #[test]
    fn an_error_has_a_number_and_a_reason() {
        for (given, wanted) in [
            (r#"{"code":-5,"message":"m","x":1}"#, json!({ "code": -5, "message": "m", "x": 1 })),
            (r#"{"code":"E1","message":null,"data":[1]}"#, json!({ "code": -32603, "message": "E1", "data": [1] })),
            (r#"{"code":7,"message":{"a":1}}"#, json!({ "code": 7, "message": "{\"a\":1}" })),
            (r#""no \ud83d""#, json!({ "code": -32603, "message": "no \0d83d" })),
            ("{}", json!({ "code": -32603, "message": "an error without a reason" })),
        ] {
            let (_, messages, _) = line(&format!(r#"{{"jsonrpc":"2.0","id":1,"error":{given}}}"#));
            assert_eq!(messages[0]["error"], wanted, "{given}");
        }
    }
}

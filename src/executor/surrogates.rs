//! Halves of characters. Some providers and agents cut text between the two UTF-16 halves of an emoji, and write each half
//! as an escape that no JSON reader takes. Here the escapes are made readable, and halves that follow one another are
//! joined.
//!
//! A half is written as NUL and its four hexadecimal digits: no text of a message holds a NUL.

use serde_json::Value;

use crate::model::JsonObject;

/// A NUL in JSON, as an escape.
const NUL: &str = "\\u0000";
const DIGITS: usize = 4;

/// A JSON text in which each lone half is written so that it can be read. Others stay as they are.
pub(super) fn readable(json: &str) -> String {
    let mut readable = String::with_capacity(json.len() + 16);
    let mut rest = json;
    while let Some(at) = memchr::memchr(b'\\', rest.as_bytes()) {
        readable.push_str(&rest[..at]);
        rest = &rest[at..];
        let length = match (escaped(rest), escaped(rest.get(6..).unwrap_or_default())) {
            (Some(0xd800..=0xdbff), Some(0xdc00..=0xdfff)) => 12,
            (Some(0xd800..=0xdfff), _) => {
                readable.push_str(NUL);
                readable.push_str(&rest[2..6]);
                rest = &rest[6..];
                continue;
            }
            (Some(_), _) => 6,
            // An escape of one character: a backslash after it begins another.
            (None, _) => 1 + rest[1..].chars().next().map_or(0, char::len_utf8),
        };
        readable.push_str(&rest[..length]);
        rest = &rest[length..];
    }
    readable + rest
}

/// The number in `\uXXXX`, which a text begins with.
fn escaped(text: &str) -> Option<u16> {
    let digits = text.strip_prefix("\\u")?.get(..DIGITS)?;
    u16::from_str_radix(digits, 16).ok()
}

/// Joins the pieces of one text.
#[derive(Debug, Default)]
pub(super) struct Joiner {
    /// A first half whose second may come.
    half: Option<u16>,
}

impl Joiner {
    /// A piece as it can be shown. A first half at its end waits for the next piece.
    pub(super) fn join(&mut self, piece: &str) -> String {
        if piece.is_empty() || (self.half.is_none() && !piece.contains('\0')) {
            return piece.into();
        }
        let mut units: Vec<u16> = self.half.take().into_iter().collect();
        let mut rest = piece;
        while let Some(at) = rest.find('\0') {
            units.extend(rest[..at].encode_utf16());
            rest = &rest[at + 1..];
            match rest.get(..DIGITS).and_then(|digits| u16::from_str_radix(digits, 16).ok()) {
                Some(half @ 0xd800..=0xdfff) => {
                    units.push(half);
                    rest = &rest[DIGITS..];
                }
                // A NUL that was sent: it is shown as what Unicode has for such cases.
                _ => units.push(0xfffd),
            }
        }
        units.extend(rest.encode_utf16());
        self.half = units.pop_if(|last| (0xd800..0xdc00).contains(last));
        String::from_utf16_lossy(&units)
    }

    /// What is left of a text that has ended.
    pub(super) fn end(&mut self) -> &'static str {
        if self.half.take().is_some() { "\u{fffd}" } else { "" }
    }
}

/// A whole text as it can be shown.
pub(super) fn whole(text: &str) -> String {
    let mut joiner = Joiner::default();
    joiner.join(text) + joiner.end()
}

/// Fields with whole texts in them.
pub(super) fn clean(fields: &mut JsonObject) {
    fields.retain(|name, _| !name.contains('\0'));
    fields.values_mut().for_each(clean_value);
}

fn clean_value(value: &mut Value) {
    match value {
        Value::String(text) if text.contains('\0') => *text = whole(text),
        Value::Array(values) => values.iter_mut().for_each(clean_value),
        Value::Object(fields) => clean(fields),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> String {
        serde_json::from_str(&readable(json)).unwrap()
    }

    #[test]
    fn only_lone_halves_are_rewritten() {
        for (json, wanted) in [
            (r#""a\ud83d\udd11b""#, "a\u{1f511}b"),
            (r#""a\ud83d b""#, "a\u{fffd} b"),
            (r#""\udd11\ud83d""#, "\u{fffd}\u{fffd}"),
            (r#""\\ud83d \" \n é\u00e9""#, "\\ud83d \" \n éé"),
            (r#""\ud83d\\udd11""#, "\u{fffd}\\udd11"),
        ] {
            assert_eq!(whole(&read(json)), wanted, "{json}");
        }
        assert_eq!(readable("\"\\"), "\"\\");
        assert_eq!(readable("\"\\ud8"), "\"\\ud8");
    }

    #[test]
    fn halves_in_two_pieces_are_one_character() {
        let mut joiner = Joiner::default();
        assert_eq!(joiner.join(&read(r#""key \ud83d""#)), "key ");
        assert_eq!(joiner.join(""), "");
        assert_eq!(joiner.join(&read(r#""\udd11 end""#)), "\u{1f511} end");
        assert_eq!((joiner.join(&read(r#""\ud83d""#)), joiner.join("x")), (String::new(), "\u{fffd}x".into()));
        let mut fields = serde_json::from_str(&readable(r#"{"a": ["\ud83d"], "b\u0000": 1}"#)).unwrap();
        clean(&mut fields);
        assert_eq!(Value::from(fields), serde_json::json!({ "a": ["\u{fffd}"] }));
        assert_eq!((joiner.end(), joiner.join("nul\0")), ("", "nul\u{fffd}".into()));
    }
}

//! Tool calls as people read them: their names and arguments, not the JSON around and within them.

use std::{borrow::Cow, fmt};

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

/// JSON within a text is read so deep.
const DEPTH: u32 = 4;

/// What tool calls say. What is no JSON is given as it is.
pub(super) fn spoken(calls: &str) -> String {
    let mut text = String::with_capacity(calls.len());
    match read(calls, Level::Calls, 0, &mut text) {
        true => text,
        false => calls.to_owned(),
    }
}

fn read(json: &str, level: Level, depth: u32, text: &mut String) -> bool {
    let mut deserializer = serde_json::Deserializer::from_str(json);
    let before = text.len();
    let read = Speaker { level, depth, text }.deserialize(&mut deserializer).and_then(|()| deserializer.end());
    if read.is_err() {
        text.truncate(before);
    }
    read.is_ok()
}

/// Where a value stands: what is around a call's name and arguments is not said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    Calls,
    Call,
    Function,
    Arguments,
}

/// Appends what a value says.
struct Speaker<'t> {
    level: Level,
    depth: u32,
    text: &'t mut String,
}

impl Speaker<'_> {
    fn say(self, word: &str) {
        if !self.text.is_empty() && !self.text.ends_with([' ', '\n']) {
            self.text.push(' ');
        }
        self.text.push_str(word);
    }
}

impl<'de> DeserializeSeed<'de> for Speaker<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Speaker<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
    fn visit_bool<E>(self, value: bool) -> Result<(), E> {
        self.say(if value { "true" } else { "false" });
        Ok(())
    }
    fn visit_i64<E>(self, value: i64) -> Result<(), E> {
        self.say(&value.to_string());
        Ok(())
    }
    fn visit_u64<E>(self, value: u64) -> Result<(), E> {
        self.say(&value.to_string());
        Ok(())
    }
    fn visit_f64<E>(self, value: f64) -> Result<(), E> {
        self.say(&value.to_string());
        Ok(())
    }

    fn visit_str<E>(self, value: &str) -> Result<(), E> {
        let is_json = self.depth < DEPTH && value.trim_start().starts_with(['{', '[']);
        if !(is_json && read(value, Level::Arguments, self.depth + 1, self.text)) {
            self.say(value);
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<(), A::Error> {
        let level = if self.level == Level::Calls { Level::Call } else { self.level };
        while values.next_element_seed(Speaker { level, depth: self.depth, text: &mut *self.text })?.is_some() {
            if level == Level::Call {
                self.text.push('\n');
            }
        }
        self.text.truncate(self.text.trim_end_matches('\n').len());
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        while let Some(key) = entries.next_key::<Cow<'de, str>>()? {
            let level = match (self.level, &*key) {
                (Level::Calls | Level::Call, "function") => Level::Function,
                (Level::Calls | Level::Call | Level::Function, "name" | "arguments" | "input") => Level::Arguments,
                (Level::Calls | Level::Call, "id" | "type" | "index") => {
                    entries.next_value::<serde::de::IgnoredAny>()?;
                    continue;
                }
                _ => {
                    Speaker { level: Level::Arguments, depth: self.depth, text: &mut *self.text }
                        .say(&format!("{key}:"));
                    Level::Arguments
                }
            };
            entries.next_value_seed(Speaker { level, depth: self.depth, text: &mut *self.text })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::spoken;

    #[test]
    fn calls_are_read_without_the_json_around_and_within_them() {
        let calls = r#"[{"id": "c1", "type": "function", "function": {"name": "Bash", "arguments": "{\"command\": \"grep -n \\\"caf\\u00e9\\\" a.rs\\nls\", \"n\": 3}"}},
            {"id": "c2", "function": {"name": "read", "arguments": "not json"}}]"#;
        assert_eq!(spoken(calls), "Bash command: grep -n \"café\" a.rs\nls n: 3\nread not json");
        assert_eq!(spoken("no json"), "no json");
        assert_eq!(
            spoken(r#"[{"name": "f", "input": {"type": "a", "list": [1, true, null]}}]"#),
            "f type: a list: 1 true"
        );
    }
}

//! Takes fields out of a foreign object one by one, and keeps what nobody took.
//!
//! **One rule for `extra`**: it holds, under its own name, every field of the source that has no column here, or whose
//! value no column can hold as it is.

use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::model::{JsonObject, Timestamp};

/// An object of the source, being taken apart.
#[derive(Default)]
pub(super) struct Fields {
    left: JsonObject,
    pub(super) extra: JsonObject,
    /// Keys of values that are not of the expected type.
    pub(super) unexpected: Vec<String>,
    /// Keys of texts with NUL characters.
    pub(super) with_nul: Vec<String>,
    /// Keys of times that cannot be read.
    pub(super) bad_times: Vec<String>,
}

impl Fields {
    pub(super) fn new(object: JsonObject) -> Self {
        Self { left: object, ..Self::default() }
    }

    /// The value, which nobody else will take. Null is as good as absent.
    pub(super) fn take(&mut self, key: &str) -> Option<Value> {
        self.left.remove(key).filter(|value| !value.is_null())
    }

    /// A value that stays where it is.
    pub(super) fn peek(&self, key: &str) -> Option<&Value> {
        self.left.get(key)
    }

    /// Keeps a value that is not of the expected type.
    pub(super) fn unexpected(&mut self, key: &str, value: Value) {
        self.unexpected.push(key.into());
        self.extra.insert(key.into(), value);
    }

    pub(super) fn text(&mut self, key: &str) -> Option<String> {
        match self.take(key)? {
            Value::String(text) => Some(self.without_nul(key, text)),
            other => {
                self.unexpected(key, other);
                None
            }
        }
    }

    /// SQLite ends a text at NUL: U+FFFD stands for it, and the text as it was is kept.
    pub(super) fn without_nul(&mut self, key: &str, text: String) -> String {
        match self.json_without_nul(key, Value::String(text)) {
            Value::String(text) => text,
            _ => String::new(),
        }
    }

    fn json_without_nul(&mut self, key: &str, value: Value) -> Value {
        if !has_nul(&value) {
            return value;
        }
        let clean = replaced(&value);
        self.with_nul.push(key.into());
        self.extra.insert(key.into(), value);
        clean
    }

    pub(super) fn flag(&mut self, key: &str) -> Option<bool> {
        match self.take(key)? {
            Value::Bool(flag) => Some(flag),
            other => {
                self.unexpected(key, other);
                None
            }
        }
    }

    pub(super) fn object(&mut self, key: &str) -> Option<Value> {
        match self.take(key)? {
            object @ Value::Object(_) => Some(self.json_without_nul(key, object)),
            other => {
                self.unexpected(key, other);
                None
            }
        }
    }

    pub(super) fn json(&mut self, key: &str) -> Option<Value> {
        let value = self.take(key)?;
        Some(self.json_without_nul(key, value))
    }

    /// A value that has a type here. It is kept as it was, too, when the type says less than it does.
    pub(super) fn typed<T: Serialize + DeserializeOwned>(&mut self, key: &str) -> Option<T> {
        let value = self.take(key)?;
        let Ok(typed) = serde_json::from_value::<T>(replaced(&value)) else {
            self.unexpected(key, value);
            return None;
        };
        if has_nul(&value) {
            self.with_nul.push(key.into());
        }
        if serde_json::to_value(&typed).ok().as_ref() != Some(&value) {
            self.extra.insert(key.into(), value);
        }
        Some(typed)
    }

    pub(super) fn time(&mut self, key: &str) -> Option<Timestamp> {
        let value = self.take(key)?;
        let time = value.as_str().and_then(|text| text.parse::<Timestamp>().ok()).filter(|time| time.0 > 0);
        if time.is_none() {
            self.bad_times.push(key.into());
            self.extra.insert(key.into(), value);
        }
        time
    }

    /// What is left goes to `extra`; gives the keys of it that are not among the known ones.
    pub(super) fn keep_rest(&mut self, known: &[&str]) -> Vec<String> {
        let left = std::mem::take(&mut self.left);
        let unknown = left.keys().filter(|key| !known.contains(&key.as_str())).cloned().collect();
        for (key, value) in left {
            self.extra.entry(key).or_insert(value);
        }
        unknown
    }
}

pub(super) fn has_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(items) => items.iter().any(has_nul),
        Value::Object(fields) => fields.iter().any(|(key, value)| key.contains('\0') || has_nul(value)),
        _ => false,
    }
}

fn replaced(value: &Value) -> Value {
    let text = |text: &str| text.replace('\0', "\u{fffd}");
    match value {
        Value::String(string) => Value::String(text(string)),
        Value::Array(items) => Value::Array(items.iter().map(replaced).collect()),
        Value::Object(fields) => Value::Object(fields.iter().map(|(key, v)| (text(key), replaced(v))).collect()),
        other => other.clone(),
    }
}

//! A hash of JSON that does not depend on how it is written: on the order of keys, white space, or escapes.

use std::collections::BTreeMap;

use serde_json::json;
use sha2::{Digest, Sha256};

/// The hash of a text that is JSON. Of equal keys the last counts.
pub(super) fn of(text: &str) -> [u8; 32] {
    Reader { text, place: 0 }.value()
}

/// Reads JSON that was checked, once from its beginning to its end: each value's hash is that of its parts' hashes.
struct Reader<'t> {
    text: &'t str,
    place: usize,
}

impl Reader<'_> {
    fn value(&mut self) -> [u8; 32] {
        let mut hash = Sha256::new();
        match self.next() {
            Some(b'{') => {
                let mut fields = BTreeMap::new();
                self.place += 1;
                while self.next().is_some_and(|byte| byte != b'}') {
                    let name = self.string();
                    self.skip(b':');
                    fields.insert(name, self.value());
                    self.skip(b',');
                }
                self.place += 1;
                hash.update("{");
                for (name, value) in fields {
                    hash.update(Sha256::digest(name));
                    hash.update(value);
                }
            }
            Some(b'[') => {
                self.place += 1;
                hash.update("[");
                while self.next().is_some_and(|byte| byte != b']') {
                    hash.update(self.value());
                    self.skip(b',');
                }
                self.place += 1;
            }
            Some(b'"') => {
                hash.update("\"");
                hash.update(self.string());
            }
            _ => hash.update(self.word()),
        }
        hash.finalize().into()
    }

    /// The next byte that is no white space.
    fn next(&mut self) -> Option<u8> {
        let rest = &self.text.as_bytes()[self.place..];
        let spaces = rest.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
        self.place += spaces;
        rest.get(spaces).copied()
    }

    fn skip(&mut self, byte: u8) {
        if self.next() == Some(byte) {
            self.place += 1;
        }
    }

    fn string(&mut self) -> String {
        self.next();
        let start = self.place;
        let mut escaped = true;
        for byte in self.text.as_bytes()[start..].iter().copied() {
            self.place += 1;
            match byte {
                b'"' if !escaped => break,
                // The first quote is no end of it.
                b'"' => escaped = false,
                _ => escaped = byte == b'\\' && !escaped,
            }
        }
        let text = &self.text[start..self.place];
        serde_json::from_str(text).unwrap_or_else(|_| text.to_owned())
    }

    /// A number or a name. An integer is its digits, however many; 1e2 is 100.0.
    fn word(&mut self) -> String {
        let rest = &self.text[self.place..];
        let length = rest.find([',', '}', ']', ' ', '\t', '\n', '\r']).unwrap_or(rest.len());
        self.place += length;
        let word = &rest[..length];
        let is_decimal = word.starts_with(|c: char| c == '-' || c.is_ascii_digit()) && word.contains(['.', 'e', 'E']);
        if is_decimal { decimal(word) } else { word.to_owned() }
    }
}

/// A number with a point or an exponent, the same however it is written. One that no float holds keeps all its digits.
fn decimal(word: &str) -> String {
    let float = serde_json::from_str::<f64>(word).map(|number| json!(number).to_string());
    match (float, exact(word)) {
        (Ok(float), Some(digits)) if exact(&float).is_none_or(|held| held == digits) => float,
        (_, Some((negative, digits, exponent))) => format!("{}{digits}e{exponent}", if negative { "-" } else { "" }),
        (_, None) => word.to_owned(),
    }
}

/// A number's sign, its digits without zeros around them, and the power of ten that they are multiplied with.
fn exact(word: &str) -> Option<(bool, String, i64)> {
    let (mantissa, exponent) = word.split_once(['e', 'E']).unwrap_or((word, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{}{fraction}", whole.trim_start_matches('-'));
    let significant = digits.trim_end_matches('0');
    let moved = i64::try_from(digits.len() - significant.len()).ok()? - i64::try_from(fraction.len()).ok()?;
    let significant = significant.trim_start_matches('0').to_owned();
    let exponent = if significant.is_empty() { 0 } else { exponent.parse::<i64>().ok()?.checked_add(moved)? };
    Some((word.starts_with('-'), significant, exponent))
}

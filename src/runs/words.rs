//! Words about a failure, for the log: without what people wrote, should a provider or an agent repeat it.

use std::collections::HashSet;

use serde_json::Value;

use crate::model::WholeSession;

/// Bytes that count as repeated when both have them in a row: more than most words, fewer than most sentences.
const ECHO: usize = 12;

/// The words with each stretch replaced that also stands in the session's texts. Without a session to compare with, all
/// of them. It looks at every byte of the history: for the blocking pool.
pub(super) fn without_echo(words: &str, session: Option<&WholeSession>) -> String {
    let Some(session) = session else { return "(the session is gone)".into() };
    let pieces: HashSet<&[u8]> = words.as_bytes().windows(ECHO).collect();
    let mut repeated: HashSet<&[u8]> = HashSet::new();
    let mut compare = |text: &str| {
        repeated.extend(text.as_bytes().windows(ECHO).filter_map(|piece| pieces.get(piece).copied()));
    };
    compare(&session.session.title);
    for message in &session.messages {
        compare(&message.content);
        message.reasoning.as_deref().into_iter().for_each(&mut compare);
        for json in message.tool_calls.iter().chain(&message.parts) {
            each_text(&json.parse().unwrap_or_default(), &mut compare);
        }
    }
    let mut hidden = vec![false; words.len()];
    for (at, piece) in words.as_bytes().windows(ECHO).enumerate() {
        if repeated.contains(piece) {
            hidden[at..at + ECHO].fill(true);
        }
    }
    let mut shown = String::with_capacity(words.len());
    for (at, character) in words.char_indices() {
        let is_hidden = (at..at + character.len_utf8()).any(|at| hidden[at]);
        match is_hidden {
            true if shown.ends_with('…') => {}
            true => shown.push('…'),
            false => shown.push(character),
        }
    }
    shown
}

fn each_text(json: &Value, hear: &mut impl FnMut(&str)) {
    match json {
        Value::String(text) => hear(text),
        Value::Array(values) => values.iter().for_each(|value| each_text(value, hear)),
        Value::Object(fields) => fields.values().for_each(|value| each_text(value, hear)),
        _ => {}
    }
}

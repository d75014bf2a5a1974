//! The frames of an answer: the protocol's events, and what no protocol has. It knows no directives.

use std::{iter, time::Duration};

use serde_json::{Value, json};

/// What is sent, after a wait.
pub(super) struct Frame {
    pub(super) after: Duration,
    pub(super) what: What,
}

pub(super) enum What {
    /// An event's data.
    Event(String),
    /// Bytes as they are.
    Raw(Vec<u8>),
    /// The end of the connection.
    Cut,
    /// Nothing more, for ever.
    Silence,
}

pub(super) type Frames = Box<dyn Iterator<Item = Frame> + Send>;

/// How often a heartbeat is sent.
const BEAT: Duration = Duration::from_millis(200);

/// A call to write: what is called, and how it is written down.
#[derive(Debug, Clone, Default)]
pub(super) struct Call {
    pub(super) number: usize,
    pub(super) name: String,
    pub(super) arguments: String,
    /// Another id for each fragment.
    pub(super) ids: bool,
    /// Index 0, whatever the number.
    pub(super) zero: bool,
    pub(super) signature: Option<String>,
}

impl Call {
    /// The call in fragments, as models write them: what is called, then the arguments in two halves.
    pub(super) fn frames(&self, delay: Duration) -> Frames {
        let half = self.arguments.floor_char_boundary(self.arguments.len() / 2);
        let index = if self.zero { 0 } else { self.number - 1 };
        let fragment = |call: Value| event(delay, delta(json!({ "tool_calls": [call] })));
        let more = |text: &str, part: &str| {
            let mut call = json!({ "index": index, "function": { "arguments": text } });
            if self.ids {
                call["id"] = json!(format!("call_{}_{part}", self.number));
            }
            fragment(call)
        };
        let function = json!({ "name": self.name, "arguments": "" });
        let id = format!("call_{}", self.number);
        let mut first = json!({ "index": index, "id": id, "type": "function", "function": function });
        if let Some(signature) = &self.signature {
            first["extra_content"] = json!({ "google": { "thought_signature": signature } });
        }
        let (head, rest) = self.arguments.split_at(half);
        chain(chain(fragment(first), more(head, "a")), more(rest, "b"))
    }
}

/// What models called before there were tools.
pub(super) fn function(name: &str, arguments: &str, delay: Duration) -> Frames {
    let half = arguments.floor_char_boundary(arguments.len() / 2);
    let fragment = |call: Value| event(delay, delta(json!({ "function_call": call })));
    let first = fragment(json!({ "name": name, "arguments": &arguments[..half] }));
    chain(first, fragment(json!({ "arguments": &arguments[half..] })))
}

pub(super) fn words(field: &'static str, text: String, delay: Duration) -> Frames {
    let words: Vec<String> = text.split_inclusive(char::is_whitespace).map(String::from).collect();
    Box::new(words.into_iter().flat_map(move |word| event(delay, delta(json!({ field: word })))))
}

/// The two halves of a character, each in a fragment of its own.
pub(super) fn halves(delay: Duration) -> Frames {
    let half = |escape: &str| {
        let data = format!("data: {{\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{escape}\"}}}}]}}\n\n");
        once(delay, What::Raw(data.into_bytes()))
    };
    chain(half("\\ud83d"), half("\\udd11"))
}

/// A character whose last bytes are missing.
pub(super) fn broken_byte(delay: Duration) -> Frames {
    let mut data = b"data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"".to_vec();
    data.extend(b"\xf0\x9f\"}}]}\n\n");
    once(delay, What::Raw(data))
}

/// Nothing but a sign of life, for ever.
pub(super) fn heartbeats() -> Frames {
    Box::new(iter::repeat_with(|| Frame { after: BEAT, what: What::Raw(b": ping\n\n".to_vec()) }))
}

pub(super) fn delta(delta: Value) -> String {
    chunk(json!([{ "index": 0, "delta": delta, "finish_reason": null }]), Value::Null)
}

pub(super) fn chunk(choices: Value, usage: Value) -> String {
    let object = "chat.completion.chunk";
    let chunk =
        json!({ "id": "demo", "object": object, "created": 0, "model": "demo", "choices": choices, "usage": usage });
    chunk.to_string()
}

pub(super) fn event(after: Duration, data: String) -> Frames {
    once(after, What::Event(data))
}

pub(super) fn once(after: Duration, what: What) -> Frames {
    Box::new(iter::once(Frame { after, what }))
}

pub(super) fn chain(first: Frames, then: Frames) -> Frames {
    Box::new(first.chain(then))
}

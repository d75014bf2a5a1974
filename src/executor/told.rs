//! What agents tell, as messages, whatever protocol they tell it in. Each keeps the limit of a message: agents send
//! whole files in one piece.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{
    Event,
    surrogates::{self, Joiner},
};
use crate::model::{JsonObject, Limits, NewMessage, RawJson, Role, ToolCall, hex};

/// Bytes of a call's id, of a tool's name and of a title that are kept.
const NAME: usize = 512;
/// Bytes of a list of tasks: it is a field of its session.
const TASKS: usize = 48 << 10;
/// Bytes of one task's description.
const TASK: usize = 4 << 10;

/// Words that are not a message yet.
pub(super) struct Words {
    text: String,
    reasoning: String,
    /// Halves of characters at their ends.
    halves: [Joiner; 2],
    /// Bytes of one message: longer words are several.
    most: usize,
}

impl Words {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            text: String::new(),
            reasoning: String::new(),
            halves: Default::default(),
            most: (limits.message / 2).max(4),
        }
    }

    /// More of the text.
    pub(super) fn text(&mut self, text: &str) -> Vec<Event> {
        let text = self.halves[0].join(text);
        self.grow(&text, |words, piece| {
            words.text.push_str(&piece);
            Event::TextDelta(piece)
        })
    }

    /// More of the reasoning.
    pub(super) fn reasoning(&mut self, text: &str) -> Vec<Event> {
        let text = self.halves[1].join(text);
        self.grow(&text, |words, piece| {
            words.reasoning.push_str(&piece);
            Event::ReasoningDelta(piece)
        })
    }

    fn grow(&mut self, text: &str, add: impl Fn(&mut Self, String) -> Event) -> Vec<Event> {
        let (mut left, mut events) = (text, Vec::new());
        while !left.is_empty() {
            let room = self.most.saturating_sub(self.text.len() + self.reasoning.len());
            let (piece, rest) = left.split_at(left.floor_char_boundary(room));
            if piece.is_empty() {
                events.extend(self.message("commentary"));
                continue;
            }
            events.push(add(self, piece.to_owned()));
            left = rest;
        }
        events
    }

    /// The words so far as a message, if there are any.
    pub(super) fn said(&mut self, phase: &str) -> Option<Event> {
        self.text.push_str(self.halves[0].end());
        self.reasoning.push_str(self.halves[1].end());
        self.message(phase)
    }

    fn message(&mut self, phase: &str) -> Option<Event> {
        let (text, reasoning) = (std::mem::take(&mut self.text), std::mem::take(&mut self.reasoning));
        if text.is_empty() && reasoning.is_empty() {
            return None;
        }
        Some(Event::Message(NewMessage {
            reasoning: Some(reasoning).filter(|reasoning| !reasoning.is_empty()),
            phase: Some(phase.into()),
            ..NewMessage::text(Role::Assistant, text)
        }))
    }
}

/// A call's id. One that is too long is shortened, the same each time.
pub(super) fn call_id(id: &str) -> String {
    match id.len() > NAME {
        true => format!("{}-{}", line(id, 64), hex(&Sha256::digest(id))),
        false => shown(id),
    }
}

/// The first bytes of a text, such as a title.
pub(super) fn name(text: &str) -> String {
    line(text, NAME)
}

fn line(text: &str, most: usize) -> String {
    shown(&text[..text.floor_char_boundary(most)])
}

/// JSON of a bounded length: what is longer is the beginning of its text, and says how long it is.
pub(super) fn bounded(json: &RawJson, limits: &Limits) -> RawJson {
    let (text, most) = (json.as_str(), limits.message / 8);
    match text.len() > most {
        true => json!({ "cut_off": text[..text.floor_char_boundary(most)], "bytes": text.len() }).into(),
        false => json.clone(),
    }
}

/// A call of a tool as a message.
pub(super) fn called(
    id: &str,
    tool: &str,
    arguments: Option<&RawJson>,
    metadata: &Value,
    limits: &Limits,
) -> NewMessage {
    let arguments = arguments.map_or_else(|| "{}".into(), |arguments| bounded(arguments, limits).as_str().to_owned());
    NewMessage {
        tool_calls: Some(vec![ToolCall::new(call_id(id), name(tool), arguments)]),
        phase: Some("commentary".into()),
        metadata: Some(bounded(&RawJson::of(metadata), limits)),
        ..NewMessage::text(Role::Assistant, String::new())
    }
}

/// What came of a call.
pub(super) fn result(id: &str, success: bool, text: &str, limits: &Limits) -> NewMessage {
    NewMessage {
        tool_call_id: Some(call_id(id)),
        tool_success: Some(success),
        ..NewMessage::text(Role::Tool, cut(shown(text), limits.message / 2))
    }
}

/// A plan as the session's list of tasks: what is to be done, where that stands and how urgent it is. One that is too
/// long ends with how many are left out.
pub(super) fn tasks(plan: impl Iterator<Item = (String, Value, Value)>) -> Event {
    let (mut items, mut bytes, mut left_out) = (Vec::new(), 0, 0);
    for (at, (description, status, priority)) in plan.enumerate() {
        let (id, description) = (format!("task_{}", at + 1), line(&description, TASK));
        let item = json!({ "id": id, "description": description, "status": status, "priority": priority });
        bytes += item.to_string().len();
        match bytes > TASKS {
            true => left_out += 1,
            false => items.push(item),
        }
    }
    let mut list = JsonObject::from_iter([("items".into(), items.into())]);
    if left_out > 0 {
        list.insert("left_out".into(), left_out.into());
    }
    Event::Tasks(list)
}

fn shown(text: &str) -> String {
    surrogates::whole(text)
}

/// A text of a bounded length, that says what is missing.
fn cut(mut text: String, most: usize) -> String {
    if text.len() > most {
        let whole = text.len();
        text.truncate(text.floor_char_boundary(most));
        text.push_str(&format!("\n\n[cut off: {} of {whole} bytes are shown]", text.len()));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_keeps_the_limit_of_a_message() {
        let limits = Limits { message: 4 << 10, ..Limits::default() };
        let long = "é".repeat(20 << 10);
        let mut words = Words::new(&limits);
        let mut events = words.text(&long);
        events.extend(words.said("final_answer"));
        let messages: Vec<&NewMessage> = events
            .iter()
            .filter_map(|event| if let Event::Message(message) = event { Some(message) } else { None })
            .collect();
        assert_eq!(messages.iter().map(|message| message.content.as_str()).collect::<String>(), long);
        let call = called(&long, &long, Some(&json!({ "text": long }).into()), &json!({ "title": long }), &limits);
        for message in messages.into_iter().chain([&call, &result(&long, true, &long, &limits)]) {
            message.check(&limits).unwrap();
        }
        assert_eq!(call.tool_calls.as_ref().unwrap()[0].id, result(&long, true, "", &limits).tool_call_id.unwrap());
        let plan = std::iter::repeat_with(|| (long.clone(), json!("pending"), json!("low"))).take(100);
        let Event::Tasks(list) = tasks(plan) else { panic!("no tasks") };
        assert!(Value::Object(list.clone()).to_string().len() < 64 << 10);
        assert_eq!(list["items"].as_array().unwrap().len() as u64 + list["left_out"].as_u64().unwrap(), 100);
    }
}

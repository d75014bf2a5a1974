//! What agents tell, as messages, whatever protocol they tell it in.

use serde_json::{Value, json};

use super::Event;
use crate::model::{JsonObject, Limits, NewMessage, Role, ToolCall};

/// Words that are not a message yet.
#[derive(Default)]
pub(super) struct Words {
    text: String,
    reasoning: String,
}

impl Words {
    /// More of the text.
    pub(super) fn text(&mut self, text: &str) -> Event {
        let text = shown(text);
        self.text.push_str(&text);
        Event::TextDelta(text)
    }

    /// More of the reasoning.
    pub(super) fn reasoning(&mut self, text: &str) -> Event {
        let text = shown(text);
        self.reasoning.push_str(&text);
        Event::ReasoningDelta(text)
    }

    /// The words so far as a message, if there are any.
    pub(super) fn said(&mut self, phase: &str) -> Option<Event> {
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

/// A call of a tool as a message.
pub(super) fn called(id: &str, name: String, arguments: Option<&Value>, metadata: Value) -> NewMessage {
    let arguments = arguments.map_or_else(|| "{}".into(), Value::to_string);
    NewMessage {
        tool_calls: Some(vec![ToolCall::new(id, name, arguments)]),
        phase: Some("commentary".into()),
        metadata: Some(metadata.into()),
        ..NewMessage::text(Role::Assistant, String::new())
    }
}

/// What came of a call.
pub(super) fn result(id: &str, success: bool, text: &str, limits: &Limits) -> NewMessage {
    NewMessage {
        tool_call_id: Some(id.into()),
        tool_success: Some(success),
        ..NewMessage::text(Role::Tool, cut(shown(text), limits.message / 2))
    }
}

/// A plan as the session's list of tasks: what is to be done, where that stands and how urgent it is.
pub(super) fn tasks(plan: impl Iterator<Item = (String, Value, Value)>) -> Event {
    let items = plan.enumerate().map(|(at, (description, status, priority))| {
        json!({ "id": format!("task_{}", at + 1), "description": description, "status": status, "priority": priority })
    });
    Event::Tasks(JsonObject::from_iter([("items".into(), items.collect())]))
}

fn shown(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
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

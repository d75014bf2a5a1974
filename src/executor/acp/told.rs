//! What an agent tells during a turn, as messages: its text, its thoughts, and its calls of tools with what came of them.

use std::collections::HashMap;

use agent_client_protocol::v1::schema::{
    ContentBlock, Plan, PlanEntry, SessionUpdate, ToolCall, ToolCallContent, ToolCallId, ToolCallStatus,
    ToolCallUpdate, UsageUpdate,
};
use serde_json::json;

use crate::{
    executor::{
        Event,
        told::{self, Words},
    },
    model::{JsonObject, Limits, NewMessage},
};

/// Calls of one turn that have not ended, at most; an agent that has more forgets its oldest.
const CALLS: usize = 256;

/// What was told so far, and is not yet a message.
pub(super) struct Told {
    words: Words,
    calls: HashMap<ToolCallId, Call>,
    usage: JsonObject,
    limits: Limits,
}

struct Call {
    call: ToolCall,
    /// Whether there is a message of it.
    stored: bool,
}

impl Told {
    pub(super) fn new(limits: Limits) -> Self {
        Self { words: Words::default(), calls: HashMap::new(), usage: JsonObject::new(), limits }
    }

    /// What an update says to whoever listens.
    pub(super) fn hear(&mut self, update: SessionUpdate) -> Vec<Event> {
        match update {
            SessionUpdate::AgentMessageChunk(chunk) => vec![self.words.text(&shown(&chunk.content))],
            SessionUpdate::AgentThoughtChunk(chunk) => vec![self.words.reasoning(&shown(&chunk.content))],
            SessionUpdate::ToolCall(call) => self.call(call),
            SessionUpdate::ToolCallUpdate(update) => self.update(update),
            SessionUpdate::Plan(plan) => vec![tasks(&plan)],
            SessionUpdate::UsageUpdate(usage) => vec![self.count(&usage)],
            _ => {
                tracing::trace!("an agent sends an update of a kind that is not kept");
                Vec::new()
            }
        }
    }

    fn call(&mut self, call: ToolCall) -> Vec<Event> {
        // What was said before it is a message of its own, because the call's comes when all is known of it.
        let mut events: Vec<Event> = self.said("commentary").into_iter().collect();
        if self.calls.len() >= CALLS {
            self.calls.clear();
        }
        let id = call.tool_call_id.clone();
        self.calls.insert(id.clone(), Call { call, stored: false });
        events.extend(self.progress(&id));
        events
    }

    pub(super) fn update(&mut self, update: ToolCallUpdate) -> Vec<Event> {
        let id = update.tool_call_id.clone();
        if !self.calls.contains_key(&id) {
            // An update of a call that was never told of tells of it.
            let title = update.fields.title.clone().unwrap_or_default();
            let mut events = self.call(ToolCall::new(id, title));
            events.extend(self.update(update));
            return events;
        }
        if let Some(call) = self.calls.get_mut(&id) {
            call.call.update(update.fields);
        }
        self.progress(&id)
    }

    /// What a call's state says: that it goes on, that it began, or what came of it.
    fn progress(&mut self, id: &ToolCallId) -> Vec<Event> {
        let limits = self.limits;
        let Some(Call { call, stored }) = self.calls.get_mut(id) else { return Vec::new() };
        let ended = matches!(call.status, ToolCallStatus::Completed | ToolCallStatus::Failed);
        let mut events = Vec::new();
        if (ended || call.status == ToolCallStatus::InProgress) && !*stored {
            *stored = true;
            events.push(Event::Message(called(call)));
        }
        if ended {
            events.push(Event::Message(result(call, &limits)));
            self.calls.remove(id);
        } else {
            events.push(Event::ToolProgress { tool_call_id: id.0.to_string(), text: call.title.clone() });
        }
        events
    }

    /// A call that waits for a permission has begun.
    pub(super) fn begin(&mut self, id: &ToolCallId) -> Option<Event> {
        let Call { call, stored } = self.calls.get_mut(id)?;
        (!std::mem::replace(stored, true)).then(|| Event::Message(called(call)))
    }

    fn count(&mut self, usage: &UsageUpdate) -> Event {
        self.usage.insert("context_tokens".into(), usage.used.into());
        self.usage.insert("context_size".into(), usage.size.into());
        if let Some(cost) = &usage.cost {
            self.usage.insert("cost".into(), json!(cost));
        }
        Event::Usage(self.usage.clone())
    }

    /// The counts of a turn that ended.
    pub(super) fn counted(&mut self, usage: &agent_client_protocol::v1::schema::Usage) -> Event {
        for (name, value) in [
            ("prompt_tokens", usage.input_tokens),
            ("completion_tokens", usage.output_tokens),
            ("total_tokens", usage.total_tokens),
        ] {
            self.usage.insert(name.into(), value.into());
        }
        Event::Usage(self.usage.clone())
    }

    /// The text so far as a message, if there is any.
    pub(super) fn said(&mut self, phase: &str) -> Option<Event> {
        self.words.said(phase)
    }
}

fn tasks(plan: &Plan) -> Event {
    let point = |entry: &PlanEntry| (entry.content.clone(), json!(entry.status), json!(entry.priority));
    told::tasks(plan.entries.iter().map(point))
}

/// Content in words.
fn shown(content: &ContentBlock) -> String {
    match content {
        ContentBlock::Text(text) => text.text.clone(),
        ContentBlock::ResourceLink(link) => format!("[{}]({})", link.name, link.uri),
        ContentBlock::Image(image) => format!("[an image, {}]", image.mime_type),
        ContentBlock::Audio(audio) => format!("[a sound, {}]", audio.mime_type),
        _ => "[what cannot be shown]".into(),
    }
}

/// The name of the tool, or its kind where it has none.
fn name(call: &ToolCall) -> String {
    let kind = || json!(call.kind).as_str().map(String::from);
    let name = call.name.clone().filter(|name| !name.is_empty());
    name.or_else(kind).unwrap_or_default()
}

/// A call as a message.
fn called(call: &ToolCall) -> NewMessage {
    let metadata = json!({ "title": call.title, "kind": call.kind, "locations": call.locations });
    told::called(&call.tool_call_id.0, name(call), call.raw_input.as_ref(), metadata)
}

/// What came of a call.
fn result(call: &ToolCall, limits: &Limits) -> NewMessage {
    let parts = call.content.iter().map(|content| match content {
        ToolCallContent::Content(content) => shown(&content.content),
        ToolCallContent::Diff(diff) => format!("{}\n{}", diff.path.display(), diff.new_text),
        ToolCallContent::Terminal(_) => String::new(),
        _ => "[what cannot be shown]".into(),
    });
    let mut text = parts.filter(|part| !part.is_empty()).collect::<Vec<_>>().join("\n");
    if text.is_empty() {
        text = call
            .raw_output
            .as_ref()
            .map(|output| output.as_str().map_or_else(|| output.to_string(), String::from))
            .unwrap_or_default();
    }
    told::result(&call.tool_call_id.0, call.status == ToolCallStatus::Completed, &text, limits)
}

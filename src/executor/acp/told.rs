//! What an agent tells during a turn, as messages: its text, its thoughts, and its calls of tools with what came of them.

use agent_client_protocol::v1::schema::{
    ContentBlock, Plan, PlanEntry, PromptResponse, SessionUpdate, ToolCall, ToolCallContent, ToolCallId,
    ToolCallStatus, ToolCallUpdate, UsageUpdate,
};
use serde_json::{Value, json};

use super::{calls::Calls, messages};
use crate::{
    executor::{
        Event,
        told::{self, Words},
    },
    model::{JsonObject, Limits, NewMessage},
};

/// Places in files that are kept of a call.
const LOCATIONS: usize = 100;

/// What was told so far, and is not yet a message.
pub(super) struct Told {
    words: Words,
    calls: Calls,
    usage: JsonObject,
    limits: Limits,
}

impl Told {
    pub(super) fn new(limits: Limits) -> Self {
        Self { words: Words::new(&limits), calls: Calls::default(), usage: JsonObject::new(), limits }
    }

    /// What an update says to whoever listens.
    pub(super) fn hear(&mut self, update: SessionUpdate) -> Vec<Event> {
        match update {
            SessionUpdate::AgentMessageChunk(chunk) => self.words.text(&shown(&chunk.content)),
            SessionUpdate::AgentThoughtChunk(chunk) => self.words.reasoning(&shown(&chunk.content)),
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
        let id = self.calls.announce(call);
        events.extend(self.progress(&id));
        events
    }

    fn update(&mut self, update: ToolCallUpdate) -> Vec<Event> {
        let id = update.tool_call_id.clone();
        // An update of a call that was never told of tells of it.
        let new = !self.calls.knows(&id);
        let mut events: Vec<Event> = new.then(|| self.said("commentary")).flatten().into_iter().collect();
        self.calls.update(update);
        events.extend(self.progress(&id));
        events
    }

    /// What a request for permission tells of its call.
    pub(super) fn asked(&mut self, call: ToolCallUpdate) -> Vec<Event> {
        self.calls.renew(&call.tool_call_id);
        self.update(call)
    }

    /// What a call's state says: that it goes on, that it began, or what came of it.
    fn progress(&mut self, id: &ToolCallId) -> Vec<Event> {
        let limits = self.limits;
        let Some(known) = self.calls.get(id).filter(|known| !known.ended) else { return Vec::new() };
        let ends = matches!(known.call.status, ToolCallStatus::Completed | ToolCallStatus::Failed);
        let mut events = Vec::new();
        if (ends || known.call.status == ToolCallStatus::InProgress) && !std::mem::replace(&mut known.stored, true) {
            events.push(Event::Message(called(&known.call, &limits)));
        }
        if ends {
            known.ended = true;
            events.push(Event::Message(result(&known.call, &limits)));
            // Only that it was told is of use from here on.
            (known.call.content, known.call.raw_input, known.call.raw_output) = (Vec::new(), None, None);
        } else {
            let (tool_call_id, text) = (told::call_id(&id.0), told::name(&known.call.title));
            events.push(Event::ToolProgress { tool_call_id, text });
        }
        events
    }

    /// A call that waits for a permission has begun.
    pub(super) fn begin(&mut self, id: &ToolCallId) -> Option<Event> {
        let limits = self.limits;
        let known = self.calls.get(id)?;
        (!std::mem::replace(&mut known.stored, true)).then(|| Event::Message(called(&known.call, &limits)))
    }

    /// A call that has not ended, as far as it was told of.
    pub(super) fn known(&mut self, id: &ToolCallId) -> Option<&ToolCall> {
        self.calls.get(id).filter(|known| !known.ended).map(|known| &known.call)
    }

    fn count(&mut self, usage: &UsageUpdate) -> Event {
        self.usage.insert("context_tokens".into(), usage.used.into());
        self.usage.insert("context_size".into(), usage.size.into());
        if let Some(cost) = &usage.cost {
            self.usage.insert("cost".into(), json!(cost));
        }
        Event::Usage(self.usage.clone())
    }

    /// The counts of a turn that ended. Gemini has them in a place of its own.
    pub(super) fn counted(&mut self, response: &PromptResponse) -> Option<Event> {
        let counts = match &response.usage {
            Some(usage) => [Some(usage.input_tokens), Some(usage.output_tokens), Some(usage.total_tokens)],
            None => quota(response.meta.as_ref()?.get("quota")?)?,
        };
        for (name, count) in ["prompt_tokens", "completion_tokens", "total_tokens"].into_iter().zip(counts) {
            if let Some(count) = count {
                self.usage.insert(name.into(), count.into());
            }
        }
        Some(Event::Usage(self.usage.clone()))
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

/// Tokens in, out and together, as Gemini counts them.
fn quota(quota: &Value) -> Option<[Option<u64>; 3]> {
    let counts = quota.get("token_count")?;
    let count = |name: &str| counts.get(name).and_then(|count| count.as_u64().or_else(|| Some(count.as_f64()? as u64)));
    let (read, written) = (count("input_tokens"), count("output_tokens"));
    let sum = || Some(read?.saturating_add(written?));
    Some([read, written, count("total_tokens").or_else(sum)])
}

/// The name of the tool, or its kind where it has none.
pub(super) fn name(call: &ToolCall) -> String {
    let kind = || json!(call.kind).as_str().map(String::from);
    let name = call.name.clone().filter(|name| !name.is_empty());
    name.or_else(kind).unwrap_or_default()
}

/// A call as a message.
fn called(call: &ToolCall, limits: &Limits) -> NewMessage {
    let locations = &call.locations[..call.locations.len().min(LOCATIONS)];
    let metadata = json!({ "title": told::name(&call.title), "kind": call.kind, "locations": locations });
    let input = call.raw_input.as_ref().map(messages::text);
    told::called(&call.tool_call_id.0, &name(call), input.as_ref(), &metadata, limits)
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
        let output = call.raw_output.as_ref().map(messages::text);
        text = output.map(|json| json.parse().unwrap_or_else(|| json.as_str().to_owned())).unwrap_or_default();
    }
    told::result(&call.tool_call_id.0, call.status == ToolCallStatus::Completed, &text, limits)
}

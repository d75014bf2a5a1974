//! The calls of tools of one turn, as far as an agent has told of them: it may tell in any order, and tell parts twice.

use std::collections::{HashMap, VecDeque};

use agent_client_protocol::v1::schema::{Meta, ToolCall, ToolCallId, ToolCallStatus, ToolCallUpdate, ToolKind};

/// Calls that are known at one time, at most. Of more, the oldest are forgotten: first those that have ended.
const CALLS: usize = 256;

/// The calls of a turn.
#[derive(Default)]
pub(super) struct Calls {
    known: HashMap<ToolCallId, Call>,
    /// Oldest first.
    order: VecDeque<ToolCallId>,
}

/// A call, with all that was told of it.
pub(super) struct Call {
    pub(super) call: ToolCall,
    /// Whether there is a message of it.
    pub(super) stored: bool,
    /// Whether there is a message of what came of it.
    pub(super) ended: bool,
}

impl Calls {
    /// Takes an announcement. A call whose permission was asked before it is announced stays the same call.
    pub(super) fn announce(&mut self, mut call: ToolCall) -> ToolCallId {
        let id = call.tool_call_id.clone();
        call.name = tool_name(call.name.take(), call.meta.as_ref());
        match self.known.get_mut(&id) {
            Some(known) if !known.ended => merge(&mut known.call, call),
            _ => self.insert(call),
        }
        id
    }

    /// Takes news of a call. One that was never announced begins with it.
    pub(super) fn update(&mut self, update: ToolCallUpdate) {
        let ToolCallUpdate { tool_call_id: id, mut fields, meta, .. } = update;
        fields.name = tool_name(fields.name.take(), meta.as_ref());
        // One that has ended and is worked on is another one, with the same id.
        let works = matches!(fields.status, Some(ToolCallStatus::Pending | ToolCallStatus::InProgress));
        if self.known.get(&id).is_none_or(|known| known.ended && works) {
            self.insert(ToolCall::new(id.clone(), fields.title.clone().unwrap_or_default()));
        }
        if let Some(known) = self.known.get_mut(&id).filter(|known| !known.ended) {
            known.call.update(fields);
        }
    }

    /// Forgets a call that has ended: one of the same id begins.
    pub(super) fn renew(&mut self, id: &ToolCallId) {
        if self.known.get(id).is_some_and(|known| known.ended) {
            self.known.remove(id);
            self.order.retain(|known| known != id);
        }
    }

    pub(super) fn knows(&self, id: &ToolCallId) -> bool {
        self.known.contains_key(id)
    }

    pub(super) fn get(&mut self, id: &ToolCallId) -> Option<&mut Call> {
        self.known.get_mut(id)
    }

    fn insert(&mut self, call: ToolCall) {
        let id = call.tool_call_id.clone();
        self.order.retain(|known| *known != id);
        if self.order.len() >= CALLS {
            let ended = |id: &ToolCallId| self.known.get(id).is_some_and(|call| call.ended);
            let oldest = self.order.iter().position(ended).unwrap_or(0);
            if let Some(forgotten) = self.order.remove(oldest) {
                self.known.remove(&forgotten);
            }
        }
        self.order.push_back(id.clone());
        self.known.insert(id, Call { call, stored: false, ended: false });
    }
}

/// The tool's name. Claude's agent has it in a place of its own.
fn tool_name(name: Option<String>, meta: Option<&Meta>) -> Option<String> {
    let own = || meta?.get("claudeCode")?.get("toolName")?.as_str().map(String::from);
    name.filter(|name| !name.is_empty()).or_else(own)
}

/// What an announcement says besides what is known.
fn merge(known: &mut ToolCall, announced: ToolCall) {
    if !announced.title.is_empty() {
        known.title = announced.title;
    }
    if announced.kind != ToolKind::default() {
        known.kind = announced.kind;
    }
    // What has begun does not wait any more.
    if announced.status != ToolCallStatus::Pending {
        known.status = announced.status;
    }
    if !announced.content.is_empty() {
        known.content = announced.content;
    }
    if !announced.locations.is_empty() {
        known.locations = announced.locations;
    }
    known.name = announced.name.or(known.name.take());
    known.raw_input = announced.raw_input.or(known.raw_input.take());
    known.raw_output = announced.raw_output.or(known.raw_output.take());
}

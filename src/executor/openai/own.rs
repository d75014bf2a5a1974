//! The vendor's own fields of a history: which of them go back, and to whom. A field that one vendor cannot do without is
//! one that another refuses, so what is known to be of another provider stays here.

use serde_json::Value;

use super::{calls::VENDOR_ID, reply::ORIGIN};
use crate::{
    executor::content,
    model::{JsonObject, Message, Role},
};

/// What goes back with a message that does not say which provider it is from, such as one that a client stored.
const KNOWN: [&str; 5] =
    ["reasoning_details", "thinking_blocks", "reasoning_opaque", "extra_content", "provider_specific_fields"];
/// What a reply has for its reader, and no provider needs back.
const FOR_READERS: [&str; 5] = ["annotations", "audio", "citations", "images", "created_at"];

/// The fields of a message and of its calls.
#[derive(Debug, Default)]
pub(super) struct Own {
    pub(super) message: JsonObject,
    /// In the order of the calls. Empty where none goes back.
    calls: Vec<JsonObject>,
}

impl Own {
    /// What goes back to the provider at this origin.
    pub(super) fn of(message: &Message, origin: &str) -> Self {
        let mut fields: JsonObject = serde_json::from_str(message.extra.as_str()).unwrap_or_default();
        let from = fields.remove(ORIGIN);
        match from.as_ref().and_then(Value::as_str) {
            Some(from) if from != origin => return Self::default(),
            Some(_) => fields.retain(|name, _| !FOR_READERS.contains(&name.as_str())),
            None => fields.retain(|name, _| KNOWN.contains(&name.as_str())),
        }
        for name in ["role", "content", "reasoning_content", "tool_calls"] {
            fields.remove(name);
        }
        Self { message: fields, calls: content::own_fields(message) }
    }

    /// The fields of the call at this place, and the id that the vendor knows it by, if not the stored one.
    pub(super) fn take_call(&mut self, place: usize) -> (JsonObject, Option<String>) {
        let mut fields = self.calls.get_mut(place).map(std::mem::take).unwrap_or_default();
        let id = fields.remove(VENDOR_ID);
        (fields, id.and_then(|id| if let Value::String(id) = id { Some(id) } else { None }))
    }
}

/// The names of all fields that go back.
pub(super) fn names(messages: &[Message], origin: &str) -> Vec<String> {
    let said = messages.iter().filter(|message| message.role == Role::Assistant && !message.compressed);
    let mut names: Vec<String> = said
        .map(|message| Own::of(message, origin))
        .flat_map(|own| {
            own.calls.into_iter().chain([own.message]).flat_map(|fields| fields.into_iter().map(|(name, _)| name))
        })
        .collect();
    names.sort();
    names.dedup();
    names
}

//! A session's messages: each with an id and a time, none twice.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
};

use serde_json::Value;

use super::{fields::Fields, session::tell, tree::derived};
use crate::{
    import::{FindingKind, Report},
    model::{JsonObject, Message, MessageId, MessagePart, RawJson, RawObject, Role, Session, Timestamp, ToolCall},
};

/// Known keys that have no field here.
const KEPT: [&str; 5] =
    ["image_ocr", "never_compress", "compression_level", "compressed_by_event_id", "reasoning_signature"];
/// The largest message, as JSON: twice escaped on its way, it must stay below SQLite's bound of a gigabyte.
const LARGEST: usize = 128 << 20;

/// What has no message here, apart from its count: it goes to the session's `extra`.
pub(super) struct Messages {
    pub(super) messages: Vec<Message>,
    pub(super) others: Vec<Value>,
    pub(super) skipped: u64,
}

/// The messages in their order. The session gives ids and times to those that have none.
pub(super) fn messages(source: Vec<Value>, session: &Session, path: &str, report: &mut Report) -> Messages {
    let mut known: HashMap<MessageId, u64> = HashMap::new();
    let mut out = Messages { messages: Vec::with_capacity(source.len()), others: Vec::new(), skipped: 0 };
    let mut last = session.created_at;
    let mut incomplete = 0;
    for (position, value) in source.into_iter().enumerate() {
        let Value::Object(object) = value else {
            report.add(
                FindingKind::UnexpectedValue,
                path,
                format!("message {position} is no object; it is kept in extra"),
            );
            out.others.push(value);
            out.skipped += 1;
            continue;
        };
        let (content, size) = fingerprint(&object);
        if size > LARGEST {
            report.add(
                FindingKind::TooLarge,
                path,
                format!("message {position} has {size} bytes; it was not imported"),
            );
            out.skipped += 1;
            continue;
        }
        incomplete += u64::from(!object.contains_key("id") || !object.contains_key("created_at"));
        let minted =
            MessageId::stored(derived(&["message", session.id.as_str(), &position.to_string(), &identity(&object)]));
        let mut message = message(object, &minted, last, position, path, report);
        match known.get(&message.id) {
            Some(before) if *before == content => {
                let text = format!("message {position} is the same as one before, '{}'; it was dropped", message.id);
                report.add(FindingKind::DuplicateMessage, path, text);
                out.skipped += 1;
                continue;
            }
            Some(_) => {
                let text =
                    format!("message {position} has the id of another one, '{}'; it becomes '{minted}'", message.id);
                report.add(FindingKind::DuplicateId, path, text);
                message.extra.insert("id", &message.id);
                message.id = minted;
            }
            None => {}
        }
        known.insert(message.id.clone(), content);
        last = message.created_at;
        out.messages.push(message);
    }
    if incomplete > 0 {
        let text = format!("{incomplete} messages had no id or no time; they were given one");
        report.add(FindingKind::IncompleteMessage, path, text);
    }
    out
}

/// Tells messages apart by all but their time; also the size as JSON.
fn fingerprint(object: &JsonObject) -> (u64, usize) {
    let mut hasher = DefaultHasher::new();
    let mut size = 0;
    for (key, value) in object.iter().filter(|(key, _)| *key != "created_at") {
        let value = value.to_string();
        size += key.len() + value.len();
        (key, value).hash(&mut hasher);
    }
    (hasher.finish(), size)
}

/// What stays the same of a message that is loaded and saved again.
fn identity(object: &JsonObject) -> String {
    let part = |key| object.get(key).map(Value::to_string).unwrap_or_default();
    format!("{}\0{}\0{}", part("role"), part("content"), part("tool_call_id"))
}

fn message(
    object: JsonObject,
    minted: &MessageId,
    before: Timestamp,
    position: usize,
    path: &str,
    report: &mut Report,
) -> Message {
    let mut fields = Fields::new(object);
    let id = id(&mut fields, minted, position, path, report);
    let role = fields.take("role").unwrap_or_default();
    let role = serde_json::from_value(role.clone()).unwrap_or_else(|_| {
        // Nobody's words get more authority than a user's.
        fields.unexpected("role", role);
        Role::User
    });
    let created_at = fields.time("created_at").unwrap_or(before);
    let mut message = Message {
        id,
        seq: 0,
        role,
        content: fields.text("content").unwrap_or_default(),
        reasoning: fields.text("reasoning"),
        parts: fields.typed::<Vec<MessagePart>>("content_parts").as_ref().map(RawJson::of),
        tool_calls: fields.typed::<Vec<ToolCall>>("tool_calls").as_ref().map(RawJson::of),
        tool_call_id: fields.text("tool_call_id"),
        tool_success: fields.flag("tool_success"),
        phase: fields.text("phase"),
        metadata: fields.json("metadata").map(RawJson::from),
        run_id: None,
        compressed: fields.flag("compressed").unwrap_or_default(),
        created_at,
        updated_at: created_at,
        extra: RawObject::default(),
    };
    let unknown = fields.keep_rest(&KEPT);
    tell(&fields, &unknown, &format!("message {position}: "), path, report);
    message.extra = fields.extra.into();
    message
}

fn id(fields: &mut Fields, minted: &MessageId, position: usize, path: &str, report: &mut Report) -> MessageId {
    match fields.take("id") {
        Some(Value::String(text)) if !text.is_empty() => text.parse().unwrap_or_else(|error| {
            let text_here = format!("message {position}: '{text}' is no id here ({error}); it becomes '{minted}'");
            report.add(FindingKind::InvalidId, path, text_here);
            fields.extra.insert("id".into(), text.into());
            minted.clone()
        }),
        None | Some(Value::String(_)) => minted.clone(),
        Some(other) => {
            fields.unexpected("id", other);
            minted.clone()
        }
    }
}

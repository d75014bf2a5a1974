//! Messages: the rows of a session's history, what appends them and what pages through them.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize, Serializer, ser::SerializeMap};

use super::{Invalid, Limits, MessageId, RawJson, RawObject, RunId, Timestamp, check_json, check_line, check_text};

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the words are the field's own")]
pub enum Role {
    System,
    /// Instructions, as newer APIs call them; providers are sent them as a system message.
    Developer,
    User,
    Assistant,
    Tool,
}

/// A piece of a message: a text, an image, or what other APIs have besides.
#[derive(Debug, Clone, PartialEq)]
pub enum MessagePart {
    /// Text.
    Text {
        /// The text.
        text: String,
    },
    /// An image.
    ImageUrl {
        /// Where it is.
        image_url: ImageUrl,
    },
    /// A part of another type, or with other fields, as it came. It has a `type`.
    Other(RawObject),
}

impl MessagePart {
    /// Its text, if it is one.
    pub fn text(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::Text { text } => Some(text.into()),
            Self::ImageUrl { .. } => None,
            Self::Other(part) => {
                let is_text = part.field::<String>("type").is_some_and(|kind| kind == "text");
                part.field::<String>("text").filter(|_| is_text).map(Cow::Owned)
            }
        }
    }
}

impl Serialize for MessagePart {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = match self {
            Self::Other(part) => return part.serialize(serializer),
            _ => serializer.serialize_map(Some(2))?,
        };
        match self {
            Self::Text { text } => {
                fields.serialize_entry("type", "text")?;
                fields.serialize_entry("text", text)?;
            }
            Self::ImageUrl { image_url } => {
                fields.serialize_entry("type", "image_url")?;
                fields.serialize_entry("image_url", image_url)?;
            }
            Self::Other(_) => {}
        }
        fields.end()
    }
}

impl JsonSchema for MessagePart {
    fn schema_name() -> Cow<'static, str> {
        "MessagePart".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let image_url = generator.subschema_for::<ImageUrl>();
        json_schema!({
            "type": "object",
            "description": "A piece of a message. `type` is `text`, `image_url`, or any other type that an API has, such as \
                `input_audio` or `file`; that and further fields are kept as they are.",
            "properties": {
                "type": { "type": "string", "description": "What it is." },
                "text": { "type": "string", "description": "The text, of `text`." },
                "image_url": image_url,
            },
            "required": ["type"],
        })
    }
}

/// Where an image is: `attachment://…`, `https://…` or `data:…`.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct ImageUrl {
    /// The address.
    pub url: String,
    /// How closely a model should look.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub detail: Option<String>,
}

/// A call of a tool, as chat-completion APIs write it.
#[derive(Debug, Clone, PartialEq, JsonSchema)]
pub struct ToolCall {
    /// What its result refers to.
    pub id: String,
    /// `function`, or `custom` for a tool that takes text.
    #[serde(rename = "type", default = "function")]
    pub kind: String,
    /// What is called.
    pub function: ToolFunction,
    /// Further fields, as they came; also `function` as it came, where that has further fields.
    #[schemars(skip)]
    pub extra: RawObject,
}

impl ToolCall {
    /// A call of a function.
    pub fn new(id: impl Into<String>, name: impl Into<String>, arguments: impl Into<String>) -> Self {
        let function = ToolFunction { name: name.into(), arguments: arguments.into() };
        Self { id: id.into(), kind: self::function(), function, extra: RawObject::default() }
    }
}

impl Serialize for ToolCall {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let extra = self.extra.entries();
        let mut fields = serializer.serialize_map(None)?;
        fields.serialize_entry("id", &self.id)?;
        fields.serialize_entry("type", &self.kind)?;
        if !extra.iter().any(|(name, _)| name == "function") {
            fields.serialize_entry("function", &self.function)?;
        }
        for (name, value) in &extra {
            fields.serialize_entry(name, value)?;
        }
        fields.end()
    }
}

fn function() -> String {
    "function".into()
}

/// A tool's name and its arguments.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct ToolFunction {
    /// The tool's name.
    pub name: String,
    /// Its arguments: JSON, as a string.
    pub arguments: String,
}

/// A message as it is read.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Message {
    /// The id, unique within the session.
    pub id: MessageId,
    /// The place in the session.
    pub seq: i64,
    /// Who speaks.
    pub role: Role,
    /// The text.
    pub content: String,
    /// What the model thought.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<String>,
    /// The message in pieces, where it is more than text.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Vec<MessagePart>>")]
    pub parts: Option<RawJson>,
    /// The tools that the model calls.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Vec<ToolCall>>")]
    pub tool_calls: Option<RawJson>,
    /// The call that this is the result of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
    /// Whether the tool did what it was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_success: Option<bool>,
    /// `commentary` or `final_answer`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    /// What clients keep with the message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata: Option<RawJson>,
    /// The run that wrote it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_id: Option<RunId>,
    /// Whether the summary stands for it.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub compressed: bool,
    /// When it was written.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// Fields that have no place of their own, such as `name`, `refusal`, `annotations` and `audio`.
    #[serde(skip_serializing_if = "RawObject::is_empty", default)]
    pub extra: RawObject,
}

/// A message to append, as chat-completion APIs and their SDKs write it. It holds something: a text, parts, calls, or a
/// field of another kind. Fields that are not listed here are kept in `extra`; those that are null are as absent.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct NewMessage {
    /// An id of the client's own; the server makes one otherwise.
    #[serde(default)]
    pub id: Option<MessageId>,
    /// Who speaks.
    pub role: Role,
    /// The text; or an array of parts, whose text it then is.
    #[serde(default)]
    #[schemars(with = "Option<Content>")]
    pub content: String,
    /// What the model thought.
    #[serde(default)]
    pub reasoning: Option<String>,
    /// The message in pieces, where it is more than text.
    #[serde(default)]
    pub parts: Option<Vec<MessagePart>>,
    /// The tools that the model calls.
    #[serde(default)]
    pub tool_calls: Option<Vec<ToolCall>>,
    /// The call that this is the result of.
    #[serde(default)]
    pub tool_call_id: Option<String>,
    /// Whether the tool did what it was asked.
    #[serde(default)]
    pub tool_success: Option<bool>,
    /// `commentary` or `final_answer`.
    #[serde(default)]
    pub phase: Option<String>,
    /// What the client keeps with the message.
    #[serde(default)]
    pub metadata: Option<RawJson>,
    /// When it was written: RFC 3339, or seconds since 1970. Now, if it is absent or later than now.
    #[serde(default)]
    pub created_at: Option<Timestamp>,
    /// Further fields.
    #[serde(default, skip_serializing_if = "RawObject::is_empty")]
    pub extra: RawObject,
}

/// A message's text as it may be written.
#[derive(JsonSchema)]
#[schemars(untagged, inline)]
#[expect(dead_code, reason = "described, and read by `message_json.rs`")]
enum Content {
    Text(String),
    Parts(Vec<MessagePart>),
}

impl NewMessage {
    /// About how many bytes its JSON has.
    pub fn bytes(&self) -> usize {
        let calls = self.tool_calls.iter().flatten();
        let calls = calls.map(|call| {
            let ToolFunction { name, arguments } = &call.function;
            call.id.len() + name.len() + arguments.len() + call.extra.as_str().len() + 64
        });
        let parts = self.parts.iter().flatten().map(|part| match part {
            MessagePart::Text { text } => text.len() + 32,
            MessagePart::ImageUrl { image_url } => image_url.url.len() + 64,
            MessagePart::Other(part) => part.as_str().len(),
        });
        let text = self.content.len() + self.reasoning.as_ref().map_or(0, String::len);
        let metadata = self.metadata.as_ref().map_or(0, |json| json.as_str().len());
        let json = metadata + self.extra.as_str().len();
        text + json + calls.sum::<usize>() + parts.sum::<usize>() + 128
    }

    /// A message of text alone.
    pub fn text(role: Role, content: impl Into<String>) -> Self {
        Self {
            id: None,
            role,
            content: content.into(),
            reasoning: None,
            parts: None,
            tool_calls: None,
            tool_call_id: None,
            tool_success: None,
            phase: None,
            metadata: None,
            created_at: None,
            extra: RawObject::default(),
        }
    }

    /// Refuses what says nothing: a name alone is nobody's words.
    pub fn check_says_something(&self) -> Result<(), Invalid> {
        let is_empty = |json: &RawJson| matches!(json.as_str(), "[]" | "{}" | "\"\"");
        let is_some = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
        let says = !self.content.is_empty()
            || is_some(&self.reasoning)
            || is_some(&self.tool_call_id)
            || self.parts.as_ref().is_some_and(|parts| !parts.is_empty())
            || self.tool_calls.as_ref().is_some_and(|calls| !calls.is_empty())
            || self.metadata.is_some()
            || self.extra.entries().iter().any(|(name, value)| name != "name" && !is_empty(value));
        match says {
            true => Ok(()),
            false => Err(Invalid::new("content", "the message holds nothing: no text, no parts, no tool_calls")),
        }
    }

    /// Refuses what cannot be stored.
    pub fn check(&self, limits: &Limits) -> Result<(), Invalid> {
        check_text("content", &self.content)?;
        check_text("reasoning", self.reasoning.as_deref().unwrap_or_default())?;
        check_line("tool_call_id", self.tool_call_id.as_deref().unwrap_or_default(), limits.title)?;
        check_line("phase", self.phase.as_deref().unwrap_or_default(), limits.title)?;
        let any = usize::MAX;
        let json = check_json("parts", &self.parts, any)?
            + check_json("tool_calls", &self.tool_calls, any)?
            + check_json("metadata", &self.metadata, any)?
            + check_json("extra", &Some(&self.extra).filter(|extra| !extra.is_empty()), any)?;
        // Of parts that came as the content, the text is there twice.
        let content = if self.parts.is_some() { 0 } else { self.content.len() };
        let text = content + self.reasoning.as_ref().map_or(0, String::len);
        match text + json > limits.message {
            true => Err(Invalid::too_large("content", limits.message)),
            false => Ok(()),
        }
    }

    /// The message that is stored, apart from its place.
    pub fn into_message(self, seq: i64, now: Timestamp) -> Message {
        Message {
            id: self.id.unwrap_or_else(MessageId::mint),
            seq,
            role: self.role,
            content: self.content,
            reasoning: self.reasoning,
            parts: self.parts.as_ref().map(RawJson::of),
            tool_calls: self.tool_calls.as_ref().map(RawJson::of),
            tool_call_id: self.tool_call_id,
            tool_success: self.tool_success,
            phase: self.phase,
            metadata: self.metadata,
            run_id: None,
            compressed: false,
            created_at: self.created_at.map_or(now, |at| at.min(now)),
            updated_at: now,
            extra: self.extra,
        }
    }
}

impl Message {
    /// About how many bytes its JSON has.
    pub fn bytes(&self) -> usize {
        let raw = |json: &Option<RawJson>| json.as_ref().map_or(0, |json| json.as_str().len());
        let text = self.content.len() + self.reasoning.as_ref().map_or(0, String::len);
        text + raw(&self.parts) + raw(&self.tool_calls) + raw(&self.metadata) + self.extra.as_str().len() + 320
    }

    /// Whether both say the same, whenever and wherever they were written.
    pub fn same_content(&self, other: &Self) -> bool {
        let theirs = Self {
            seq: self.seq,
            created_at: self.created_at,
            updated_at: self.updated_at,
            compressed: self.compressed,
            run_id: self.run_id.clone(),
            extra: self.extra.clone(),
            ..other.clone()
        };
        *self == theirs
    }
}

/// The part of a history to read. Places are `seq` numbers and need not exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Window {
    /// The first messages.
    First,
    /// The last messages.
    Last,
    /// The first messages after this place.
    After(i64),
    /// The last messages before this place.
    Before(i64),
    /// The messages on both sides of this place, and the one there.
    Around(i64),
}

/// Which messages to read.
#[derive(Debug, Clone, Copy)]
pub struct MessageFilter {
    /// Where to look.
    pub window: Window,
    /// How many at most.
    pub limit: i64,
    /// How many bytes at most, counting what each message holds; the nearest one is read whatever its size.
    /// [`PAGE_BYTES`] is the usual bound.
    pub bytes: i64,
    /// Only those of this role.
    pub role: Option<Role>,
}

/// Bytes of messages that a page holds at most: a thousand messages may have four GiB.
pub const PAGE_BYTES: i64 = 8 << 20;

/// Messages in `seq` order, and what lies beyond. There can be fewer than asked for and more beyond: a page ends where
/// its bytes are used up.
#[derive(Debug, Clone)]
pub struct MessagePage {
    /// The messages.
    pub messages: Vec<Message>,
    /// The highest `seq` ever given in the session.
    pub last_seq: i64,
    /// Whether there are some before the first of these.
    pub has_more_before: bool,
    /// Whether there are some after the last of these.
    pub has_more_after: bool,
}

/// What an append stored.
#[derive(Debug, Clone)]
pub struct Appended {
    /// The messages as stored, in the order given.
    pub messages: Vec<Message>,
    /// The highest `seq` now.
    pub last_seq: i64,
}

/// What to cut off a history.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(tag = "mode", rename_all = "snake_case", deny_unknown_fields)]
pub enum Truncate {
    /// Everything after the last user message.
    AfterLastUser {},
    /// Everything after this message.
    After {
        /// The last message that stays.
        message_id: MessageId,
    },
    /// Tool calls that were never answered and results that no call asked for: what a provider would refuse.
    ErrorRetry {},
}

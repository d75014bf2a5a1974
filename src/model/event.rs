//! Events: durable, numbered records of changes.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer, ser::SerializeMap};

use super::{Message, RawObject, SessionId, Timestamp};

/// What an event tells of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum EventKind {
    /// A session was created.
    #[serde(rename = "session.created")]
    SessionCreated,
    /// Fields of a session changed.
    #[serde(rename = "session.updated")]
    SessionUpdated,
    /// A session was cleared.
    #[serde(rename = "session.cleared")]
    SessionCleared,
    /// A session was closed, or opened again.
    #[serde(rename = "session.closed")]
    SessionClosed,
    /// A session was archived, or taken out of the archive.
    #[serde(rename = "session.archived")]
    SessionArchived,
    /// A session was deleted: this stands for all that was told of it.
    #[serde(rename = "session.deleted")]
    SessionDeleted,
    /// A message was added at the end.
    #[serde(rename = "message.appended")]
    MessageAppended,
    /// A message changed.
    #[serde(rename = "message.updated")]
    MessageUpdated,
    /// A message was deleted.
    #[serde(rename = "message.deleted")]
    MessageDeleted,
    /// The end of a history was cut off.
    #[serde(rename = "messages.truncated")]
    MessagesTruncated,
    /// An attachment was added.
    #[serde(rename = "attachment.added")]
    AttachmentAdded,
    /// An attachment was deleted.
    #[serde(rename = "attachment.deleted")]
    AttachmentDeleted,
    /// A run began.
    #[serde(rename = "run.started")]
    RunStarted,
    /// A run ended.
    #[serde(rename = "run.finished")]
    RunFinished,
    /// A run of a child began; told of the parent.
    #[serde(rename = "child.started")]
    ChildStarted,
    /// A run of a child ended; told of the parent.
    #[serde(rename = "child.finished")]
    ChildFinished,
    /// A run stopped to ask.
    #[serde(rename = "question.asked")]
    QuestionAsked,
    /// The question was answered, or withdrawn.
    #[serde(rename = "question.answered")]
    QuestionAnswered,
}

/// A durable, numbered record of a change, written in the transaction that made it.
#[derive(Debug, Clone, PartialEq, JsonSchema)]
pub struct Event {
    /// The number; higher ones were committed later.
    pub event_id: i64,
    /// What happened.
    pub event: EventKind,
    /// The session that it happened to.
    pub session_id: SessionId,
    /// The root of its tree.
    pub root_session_id: SessionId,
    /// When.
    pub at: Timestamp,
    /// What else there is to say: ids and statuses. Its fields are written beside the others.
    #[schemars(flatten)]
    pub data: RawObject,
    /// The message that it tells of, where that is short and still there.
    #[schemars(skip)]
    pub message: Option<Message>,
    /// The sessions above, nearest first.
    #[schemars(skip)]
    pub above: Vec<SessionId>,
}

impl Serialize for Event {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_map(None)?;
        fields.serialize_entry("event_id", &self.event_id)?;
        fields.serialize_entry("event", &self.event)?;
        fields.serialize_entry("session_id", &self.session_id)?;
        fields.serialize_entry("root_session_id", &self.root_session_id)?;
        fields.serialize_entry("at", &self.at)?;
        for (name, value) in self.data.fields() {
            fields.serialize_entry(&name, value)?;
        }
        if let Some(message) = &self.message {
            fields.serialize_entry("message", message)?;
        }
        fields.end()
    }
}

/// Whose events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventScope {
    /// Everybody's.
    All,
    /// One session's.
    Session(SessionId),
    /// A session's, and those of everything below it.
    Tree(SessionId),
}

impl EventScope {
    /// Whether an event of a session, below these others, is in it.
    pub fn holds(&self, session: &SessionId, above: &[SessionId]) -> bool {
        match self {
            Self::All => true,
            Self::Session(id) => session == id,
            Self::Tree(id) => session == id || above.contains(id),
        }
    }
}

/// A part of the log.
#[derive(Debug, Clone, PartialEq)]
pub struct EventPage {
    /// Events in order.
    pub events: Vec<Event>,
    /// Up to where the log was read: the next page goes on from there.
    pub through: i64,
    /// Whether the log no longer reaches back to where the page was to begin.
    pub gap: bool,
}

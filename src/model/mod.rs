//! The nouns: what a session, a message, a run's status, a filter and a receipt are.
//!
//! Nothing here knows a database or a wire. Types that clients send refuse unknown fields;
//! [`Limits`] says how large their parts may be.

/// Types that are written as objects only: what serde derives would take their fields in an array, too. They derive
/// with `#[serde(remote = "Self")]`, which makes functions of their own where it would implement the traits.
macro_rules! only_objects {
    ($($name:ident),*) => { $(
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Fields;
                impl<'de> serde::de::Visitor<'de> for Fields {
                    type Value = $name;
                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.write_str("an object")
                    }
                    fn visit_map<A: serde::de::MapAccess<'de>>(self, fields: A) -> Result<$name, A::Error> {
                        $name::deserialize(serde::de::value::MapAccessDeserializer::new(fields))
                    }
                }
                deserializer.deserialize_map(Fields)
            }
        }
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                $name::serialize(self, serializer)
            }
        }
    )* };
}

mod attachment;
mod backend;
mod child;
mod cleanup;
mod epoch;
mod event;
mod id;
mod json;
mod json_digest;
mod list;
mod message;
mod message_json;
mod receipt;
mod run;
mod search;
mod session;
mod teardown;
mod time;
mod whole;
mod worktree;

pub use attachment::{Attachment, AttachmentUrl, NewAttachment, detected_mime_type};
pub use backend::{AgentSession, BackendState, BackendStatus, Process};
pub use child::{
    CHILD_COMPRESSION, CHILD_SYSTEM_PROMPT, ChildStep, ChildUpdate, ContinuedChild, CreatedChild, NewChild,
    UpdatedChild, assignment,
};
pub use cleanup::{
    CLEANUP_IDS, Cleanup, CleanupMode, CleanupReceipt, CleanupStep, RECEIPT_IDS, Receipt, ReceiptStatus,
};
pub use epoch::InEpoch;
pub use event::{Event, EventKind, EventPage, EventScope};
pub use id::{AttachmentId, BackendId, InvalidId, MessageId, ReceiptId, RunId, SessionId};
pub use json::{RawJson, RawObject};
pub use list::{Archived, KindFilter, Order, Page, Position, SessionFilter, SessionTree};
pub use message::{
    Appended, ImageUrl, Message, MessageFilter, MessagePage, MessagePart, NewMessage, PAGE_BYTES, Role, ToolCall,
    ToolFunction, Truncate, Window,
};
pub use receipt::{
    ClearReceipt, DeleteCounts, DeleteOptions, DeleteReceipt, MessageReceipt, TruncateReceipt, UsageRecord,
};
pub use run::{Answered, NewRun, PendingQuestion, Reply, Run, RunEnd, RunFilter};
pub use search::{
    HitMessage, HitSession, HitType, MAX_TERMS, Partial, Rank, Ranked, SearchGroup, SearchHit, SearchIn, SearchOrder,
    SearchPage, SearchPosition, SearchQuery, Snippet, Term,
};
pub use session::{Kind, ModelRef, NewSession, ReasoningEffort, RunStatus, Session, SessionUpdate};
pub use teardown::{BackendFilter, Closing, Openness, Teardown, TeardownJob, Unfinished};
pub use time::{ClockOutOfRange, Timestamp};
pub use whole::{SessionSave, WholeSession};
pub use worktree::{
    AbsolutePath, AtRisk, AttachWorktree, Findings, NewWorktree, Removed, Worktree, WorktreeState, WorktreeStep,
};

/// A JSON object as a tree of values: for small ones that are looked into. What clients bring is a [`RawObject`].
pub type JsonObject = serde_json::Map<String, serde_json::Value>;

/// What is wrong with a value that a caller brought, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{param}: {reason}")]
pub struct Invalid {
    /// The field, as a path: `messages[3].content`.
    pub param: String,
    /// What would have been accepted.
    pub reason: String,
    /// Whether the value is well-formed and only its content cannot be kept.
    pub content: bool,
    /// The bytes that are taken at most, where the value has more.
    pub limit: Option<usize>,
}

impl Invalid {
    /// A field that is malformed.
    pub fn new(param: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { param: param.into(), reason: reason.into(), content: false, limit: None }
    }

    /// Content that is well-formed but cannot be kept.
    pub fn content(param: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { content: true, ..Self::new(param, reason) }
    }

    /// A message of too many bytes.
    pub fn too_large(param: impl Into<String>, limit: usize) -> Self {
        Self { limit: Some(limit), ..Self::new(param, format!("at most {limit} bytes, with all other fields")) }
    }

    /// The same, seen from the object that holds the field.
    pub fn within(mut self, outer: &str) -> Self {
        self.param = format!("{outer}.{}", self.param);
        self
    }
}

/// How large the parts of a session may be, in bytes.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// A title.
    pub title: usize,
    /// All of a session's metadata, as JSON; also any other single JSON field of a session.
    pub metadata: usize,
    /// One message, all its parts together.
    pub message: usize,
    /// The body of one request.
    pub body: usize,
    /// One attachment.
    pub attachment: usize,
    /// What requests and their answers hold together.
    pub in_flight: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            title: 1 << 10,
            metadata: 64 << 10,
            message: 4 << 20,
            body: 16 << 20,
            attachment: 100 << 20,
            in_flight: 256 << 20,
        }
    }
}

/// Bytes as hexadecimal digits, such as a hash is told in.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A short text of one line: no control characters, at most `limit` bytes.
fn check_line(param: &str, text: &str, limit: usize) -> Result<(), Invalid> {
    if text.len() > limit {
        return Err(Invalid::new(param, format!("at most {limit} bytes")));
    }
    if text.chars().any(char::is_control) {
        return Err(Invalid::new(param, "no control characters"));
    }
    Ok(())
}

/// A text of any length that may hold control characters, except NUL: SQLite ends a text there.
fn check_text(param: &str, text: &str) -> Result<(), Invalid> {
    match text.contains('\0') {
        true => Err(Invalid::content(param, "no NUL character")),
        false => Ok(()),
    }
}

/// A value of at most `limit` bytes as JSON, without NUL in its strings. Gives its bytes; 0 for none.
fn check_json<T: serde::Serialize>(param: &str, value: &Option<T>, limit: usize) -> Result<usize, Invalid> {
    let Some(value) = value else { return Ok(0) };
    let mut measured = Measured::default();
    serde_json::to_writer(&mut measured, value).map_err(|e| Invalid::new(param, e.to_string()))?;
    if measured.bytes > limit {
        return Err(Invalid::new(param, format!("at most {limit} bytes as JSON")));
    }
    match measured.nul {
        true => Err(Invalid::content(param, "no NUL character")),
        false => Ok(measured.bytes),
    }
}

/// JSON that is written nowhere.
#[derive(Default)]
struct Measured {
    bytes: usize,
    /// Whether it has the escape of NUL.
    nul: bool,
}

impl std::io::Write for Measured {
    fn write(&mut self, piece: &[u8]) -> std::io::Result<usize> {
        self.bytes += piece.len();
        // Raw JSON comes as one piece, an escape in a string as another: none is cut in two.
        self.nul |= escapes_nul(piece);
        Ok(piece.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Whether a JSON text has the escape of NUL: after an even number of backslashes, or it is a text about the escape.
fn escapes_nul(json: &[u8]) -> bool {
    const NUL: &[u8] = b"\\u0000";
    let backslashes = |end: usize| json[..end].iter().rev().take_while(|byte| **byte == b'\\').count();
    let mut escapes = memchr::memmem::find_iter(json, NUL);
    escapes.any(|at| backslashes(at) % 2 == 0)
}

/// A record of the token-usage log: as large as metadata may be.
pub fn check_record(record: &RawObject, limits: &Limits) -> Result<(), Invalid> {
    check_json("record", &Some(record), limits.metadata).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_about_nul_is_none() {
        let check = |text: &str| {
            let value = serde_json::json!({ "a": [text] });
            let (typed, raw) = (check_json("x", &Some(&value), 99), check_json("x", &Some(RawJson::of(&value)), 99));
            assert_eq!(typed, raw);
            typed.is_ok()
        };
        assert!(check("\\u0000") && check("\\\\u0000") && check("u0000"));
        assert!(!check("\0") && !check("\\\0") && !check("\\u0000\0"));
    }
}

//! Attachments: what is said of bytes that belong to a session.

use std::str::FromStr;

use schemars::JsonSchema;
use serde::Serialize;

use super::{AttachmentId, InvalidId, SessionId, Timestamp};

/// Bytes that belong to a session, without the bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Attachment {
    /// The id, unique within the session.
    pub id: AttachmentId,
    /// The session.
    pub session_id: SessionId,
    /// How messages name it: `attachment://{session_id}/{id}`.
    pub url: String,
    /// The type that was declared; where none was, the one that was detected, or `application/octet-stream`.
    pub mime_type: String,
    /// The type that the first bytes show, where they show one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detected_mime_type: Option<String>,
    /// The name that was declared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filename: Option<String>,
    /// Bytes.
    pub size: i64,
    /// SHA-256, in hex.
    pub sha256: String,
    /// When it was stored.
    pub created_at: Timestamp,
}

/// What is needed to store an attachment beside its bytes.
#[derive(Debug, Clone)]
pub struct NewAttachment {
    /// The id.
    pub id: AttachmentId,
    /// The type, where one was declared.
    pub mime_type: Option<String>,
    /// The name.
    pub filename: Option<String>,
    /// When it was made.
    pub created_at: Timestamp,
}

/// How a message names an attachment: `attachment://{session}/{id}`, or `bamboo-attachment://{session}/{id}` in
/// messages that were imported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachmentUrl {
    /// The session.
    pub session: SessionId,
    /// The attachment.
    pub id: AttachmentId,
}

impl std::fmt::Display for AttachmentUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "attachment://{}/{}", self.session, self.id)
    }
}

impl FromStr for AttachmentUrl {
    type Err = InvalidId;

    fn from_str(url: &str) -> Result<Self, InvalidId> {
        let path = ["attachment://", "bamboo-attachment://"].iter().find_map(|scheme| url.strip_prefix(scheme));
        let (session, id) = path.unwrap_or_default().split_once('/').unwrap_or_default();
        Ok(Self { session: session.parse()?, id: id.parse()? })
    }
}

/// The type that bytes begin like.
pub fn detected_mime_type(beginning: &[u8]) -> Option<&'static str> {
    infer::get(beginning).map(|kind| kind.mime_type())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_both_kinds_are_read() {
        for url in ["attachment://a b/c", "bamboo-attachment://a b/c"] {
            assert_eq!(url.parse::<AttachmentUrl>().unwrap().to_string(), "attachment://a b/c");
        }
        for url in ["https://a/b", "attachment://a", "attachment:///b", "attachment://a/", "attachment://a/../b"] {
            assert!(url.parse::<AttachmentUrl>().is_err(), "{url}");
        }
    }
}

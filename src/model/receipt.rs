//! Receipts: what a delete, a clear, a truncation or a cleanup really did; and the smaller nouns.

use schemars::JsonSchema;
use serde::Serialize;

use super::{MessageId, RawObject, RunId, SessionId, TeardownJob, Timestamp, Unfinished};

/// How to delete a session.
#[derive(Debug, Clone, Copy, Default)]
pub struct DeleteOptions {
    /// Refuse when the session, or one below it, is pinned.
    pub keep_pinned: bool,
    /// Refuse when the session's version is another one.
    pub if_match: Option<i64>,
    /// Also remove a worktree that holds work which would be lost.
    pub discard_worktree: bool,
}

/// Rows that a delete removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct DeleteCounts {
    /// Sessions.
    pub sessions: i64,
    /// Messages.
    pub messages: i64,
    /// Attachments.
    pub attachments: i64,
    /// Runs.
    pub runs: i64,
}

/// What a delete did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct DeleteReceipt {
    /// The session and everything that was below it, sorted.
    pub deleted_session_ids: Vec<SessionId>,
    /// Rows removed.
    pub deleted: DeleteCounts,
    /// Bytes of messages' text and of attachments that were removed.
    pub bytes: i64,
    /// Runs that were under way or queued.
    pub cancelled_run_ids: Vec<RunId>,
    /// Runs that had not stopped when the answer was given.
    pub still_stopping: Vec<RunId>,
    /// Worktrees that stay on disk.
    pub retained_worktrees: Vec<String>,
    /// What is outside of the database and could not be ended or removed yet; it is tried again.
    pub unfinished: Vec<Unfinished>,
    /// What was left to do outside of the database when the rows were gone.
    #[serde(skip)]
    pub teardowns: Vec<TeardownJob>,
}

/// What a clear did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClearReceipt {
    /// Messages removed.
    pub messages_removed: i64,
    /// Attachments removed.
    pub attachments_removed: i64,
    /// The session's version now.
    pub version: i64,
}

/// What an edit or a removal of one message did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MessageReceipt {
    /// Messages in the session now.
    pub message_count: i64,
    /// The session's version now.
    pub version: i64,
}

/// What a truncation did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TruncateReceipt {
    /// Messages removed.
    pub messages_removed: i64,
    /// Messages in the session now.
    pub message_count: i64,
    /// The session's version now.
    pub version: i64,
    /// The message that nothing is after any more, where the truncation names one.
    pub last_kept: Option<MessageId>,
}

/// One record of a session's token-usage log.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct UsageRecord {
    /// What the client gave.
    pub record: RawObject,
    /// When.
    pub created_at: Timestamp,
}

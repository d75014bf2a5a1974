//! Why a storage method fails.

use super::SourceError;
use crate::model::{AbsolutePath, AttachmentId, BackendId, ClockOutOfRange, MessageId, ReceiptId, RunId, SessionId};

/// What a storage method gives.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a storage method failed, sorted by what its caller can do. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No session has this id, or it was deleted and the call only reads.
    #[error("no session has the id '{0}'")]
    SessionNotFound(SessionId),
    /// The id was deleted; it is never usable again.
    #[error("the session '{0}' was deleted")]
    SessionDeleted(SessionId),
    /// The id is in use by another session.
    #[error("a session with the id '{0}' exists")]
    SessionExists(SessionId),
    /// A run is pending or under way.
    #[error("the session '{0}' has a run that is pending or running")]
    SessionBusy(SessionId),
    /// The session is as deep below its root as a session may be: it takes no children.
    #[error("the session '{0}' is as deep as a session may be: it takes no children")]
    NotRootSession(SessionId),
    /// The session is a root.
    #[error("the session '{0}' is no child session")]
    NotChildSession(SessionId),
    /// The session is the child of another one.
    #[error("the session '{child}' is no child of '{parent}'")]
    NotChildOfParent {
        /// The session.
        child: SessionId,
        /// The one that it is not directly below.
        parent: SessionId,
    },
    /// The child has no such text, nor was one given.
    #[error("the child has no {0} yet: one is needed")]
    ChildIncomplete(&'static str),
    /// The session, or one below it, is pinned.
    #[error("the session '{0}', or one below it, is pinned")]
    SessionPinned(SessionId),
    /// No message of the session has this id.
    #[error("no message of the session has the id '{0}'")]
    MessageNotFound(MessageId),
    /// The id is in use by another message of the session.
    #[error("a message with the id '{0}' and other content is in the session")]
    MessageExists(MessageId),
    /// Only an assistant's text without tool calls can be edited.
    #[error("only an assistant's text without tool calls can be edited")]
    NotEditable(MessageId),
    /// The history has no user message to go back to.
    #[error("the session has no user message")]
    NoUserMessage,
    /// No attachment of the session has this id.
    #[error("no attachment of the session has the id '{0}'")]
    AttachmentNotFound(AttachmentId),
    /// No receipt has this id, or it is older than receipts are kept.
    #[error("no receipt has the id '{0}'")]
    ReceiptNotFound(ReceiptId),
    /// The id is in use by another receipt.
    #[error("a receipt with the id '{0}' exists")]
    ReceiptExists(ReceiptId),
    /// No backend has this id: its session was deleted.
    #[error("no backend has the id '{0}'")]
    BackendNotFound(BackendId),
    /// No run has this id, or its session was deleted.
    #[error("no run has the id '{0}'")]
    RunNotFound(RunId),
    /// The id is in use by another run.
    #[error("a run with the id '{0}' exists")]
    RunExists(RunId),
    /// The run has ended, or never began: nothing more is taken from it.
    #[error("the run '{0}' is not running")]
    RunOver(RunId),
    /// The session has no question that waits for an answer, or not the one that is answered.
    #[error("the session '{0}' has no such pending question")]
    NoPendingQuestion(SessionId),
    /// The tree has a worktree already, or the worktree has a tree.
    #[error("the tree of '{root}' works in {path}")]
    WorktreeExists {
        /// The root of the tree that has it.
        root: SessionId,
        /// The worktree.
        path: AbsolutePath,
    },
    /// The tree of this session has no worktree, or none that this can be done with.
    #[error("the tree of '{0}' has no worktree")]
    WorktreeNotFound(SessionId),
    /// The answer is none of those that the question allows.
    #[error("the answer is one of: {}", .0.join(", "))]
    InvalidAnswer(Vec<String>),
    /// Bytes that were to be stored did not arrive; why is in it.
    #[error("the bytes did not arrive: {0}")]
    Source(SourceError),
    /// The metadata would have more bytes as JSON than the caller allows.
    #[error("all metadata together has at most {0} bytes as JSON")]
    MetadataTooLarge(usize),
    /// The version, or the last `seq`, that the caller named is not the current one.
    #[error("the current {what} is {current}")]
    VersionConflict {
        /// `version` or `last_seq`.
        what: &'static str,
        /// Its value now.
        current: i64,
    },
    /// The disk, or the quota, is full, or nearly: only what frees space or ends what runs is taken.
    #[error("the disk is full: deletes are taken, and more when there is room")]
    Full,
    /// Another process holds the database, or more is queued than is allowed to wait.
    #[error("the database is busy: {0}")]
    Busy(&'static str),
    /// The system clock shows a year that cannot be stored: nothing is written until it is set right.
    #[error(transparent)]
    ClockOutOfRange(#[from] ClockOutOfRange),
    /// The disk fails; it may pass.
    #[error("the disk cannot be written or read: {0}")]
    Unavailable(String),
    /// A page or a record of the database holds what it cannot hold.
    #[error("the database is damaged: {0}")]
    Damaged(String),
    /// Writing has stopped for good; a new start of the server may help, and reads go on.
    #[error("nothing is written until the server is started again: {0}")]
    Stopped(String),
    /// The database was closed, or its writer has ended: nothing is written by this server any more.
    #[error("{0}")]
    Closed(&'static str),
    /// The database cannot be read or written, or does not hold what it must.
    #[error("the storage failed: {0}")]
    Failed(String),
}

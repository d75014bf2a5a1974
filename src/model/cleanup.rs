//! Cleanups: which sessions one deletes, and the receipt that says how far it is and what it has deleted.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Invalid, ReceiptId, RunId, SessionFilter, SessionId, TeardownJob, Timestamp, Unfinished};

/// Ids that a cleanup names at most.
pub const CLEANUP_IDS: usize = 10_000;
/// Deleted ids that stand in a cleanup's own answer at most.
pub const RECEIPT_IDS: i64 = 1000;

/// Which sessions a cleanup removes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CleanupMode {
    /// All.
    All,
    /// Those that hold nothing, nor does anything below them: at most one system message, no attachment, no active run.
    Empty,
    /// All children.
    Children,
}

/// What to clean up: sessions that the mode, the filter and the ids name, with everything below them, but for what is
/// kept. Whatever is kept keeps everything above it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cleanup {
    /// Which sessions.
    pub mode: CleanupMode,
    /// Only these, where they are given. Ids that no session has are passed over.
    pub ids: Option<Vec<SessionId>>,
    /// Only sessions that meet this, as in a list; of every kind and archived or not where it does not say. Its order counts
    /// for nothing.
    pub filter: SessionFilter,
    /// Keep a pinned session, everything above it and the tree below it.
    pub keep_pinned: bool,
    /// Keep an archived session, everything above it and the tree below it.
    pub keep_archived: bool,
    /// Keep a session that was active at this time or later or has an active run (pending or running), and everything
    /// above it.
    pub inactive_before: Option<Timestamp>,
    /// Only say what would be removed.
    pub dry_run: bool,
    /// The id of its receipt; one is made where none is brought.
    #[serde(default)]
    pub receipt_id: Option<ReceiptId>,
}

impl Cleanup {
    /// All sessions of a mode, but archived ones.
    pub fn of(mode: CleanupMode) -> Self {
        Self {
            mode,
            ids: None,
            filter: SessionFilter::default(),
            keep_pinned: false,
            keep_archived: true,
            inactive_before: None,
            dry_run: false,
            receipt_id: None,
        }
    }

    /// Refuses what names more than a cleanup takes.
    pub fn check(&self) -> Result<(), Invalid> {
        match self.ids.as_ref().is_some_and(|ids| ids.len() > CLEANUP_IDS) {
            true => Err(Invalid::new("ids", format!("at most {CLEANUP_IDS} ids"))),
            false => Ok(()),
        }
    }
}

/// Where a cleanup stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ReceiptStatus {
    /// It deletes, or is resumed when the server starts again.
    Running,
    /// It has deleted all that it was to delete.
    Completed,
    /// It was cancelled; what it had deleted stays deleted.
    Stopped,
}

/// How far a cleanup is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Receipt {
    /// The receipt.
    #[serde(rename = "receipt_id")]
    pub id: ReceiptId,
    /// Whether it is under way.
    pub status: ReceiptStatus,
    /// Sessions deleted so far.
    pub deleted_count: i64,
    /// Bytes of messages' text and of attachments that went with them.
    pub bytes: i64,
    /// When it began.
    pub created_at: Timestamp,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
}

/// What one transaction of a cleanup did: whole trees, up to 500 sessions or one larger tree.
#[derive(Debug, Clone, Default)]
pub struct CleanupStep {
    /// Sessions deleted.
    pub deleted: i64,
    /// Runs that were under way or queued.
    pub cancelled_run_ids: Vec<RunId>,
    /// What is left to do outside of the database.
    pub teardowns: Vec<TeardownJob>,
}

/// What a cleanup did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct CleanupReceipt {
    /// Sessions removed.
    pub deleted_count: i64,
    /// Their ids, sorted. Of more than 1000, none: then `receipt_id` says where they are. (A dry run gives the first 1000.)
    pub deleted_session_ids: Vec<SessionId>,
    /// The receipt that pages the ids, where they are more than 1000: `GET /api/v1/receipts/{receipt_id}`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub receipt_id: Option<ReceiptId>,
    /// `completed`, or `stopped` when it was cancelled meanwhile; `running` when the server stops: it is resumed at the next
    /// start. Absent in a dry run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<ReceiptStatus>,
    /// Bytes of messages' text and of attachments that were removed.
    pub bytes: i64,
    /// Runs that were under way or queued, the first 1000.
    pub cancelled_run_ids: Vec<RunId>,
    /// Runs that had not stopped when the answer was given.
    pub still_stopping: Vec<RunId>,
    /// Worktrees that stay on disk.
    pub retained_worktrees: Vec<String>,
    /// What is outside of the database and could not be ended or removed yet; it is tried again.
    pub unfinished: Vec<Unfinished>,
    /// Whether nothing was removed because the client only asked.
    pub dry_run: bool,
    /// What was left to do outside of the database when the rows were gone.
    #[serde(skip)]
    pub teardowns: Vec<TeardownJob>,
}

impl CleanupReceipt {
    /// Notes runs that were ended, as far as they are shown.
    pub fn note_runs(&mut self, runs: Vec<RunId>) {
        let room = usize::try_from(RECEIPT_IDS).unwrap_or(usize::MAX).saturating_sub(self.cancelled_run_ids.len());
        self.cancelled_run_ids.extend(runs.into_iter().take(room));
    }

    /// The answer of a cleanup with this receipt, whose first ids these are.
    pub fn of(mut self, receipt: Receipt, ids: Vec<SessionId>) -> Self {
        self.cancelled_run_ids.sort_unstable();
        self.retained_worktrees.sort_unstable();
        (self.deleted_count, self.bytes, self.status) = (receipt.deleted_count, receipt.bytes, Some(receipt.status));
        match receipt.deleted_count > RECEIPT_IDS {
            true => self.receipt_id = Some(receipt.id),
            false => self.deleted_session_ids = ids,
        }
        self
    }
}

//! Cleanups over HTTP, and the receipts that say how far they are.

use axum::extract::State;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, de::IntoDeserializer};

use super::{
    App,
    error::Problem,
    extract::{Answer, Json, NoQuery, Path},
    listing::{Listing, NoFilter},
};
use crate::{
    lifecycle,
    model::{
        Archived, Cleanup, CleanupMode, CleanupReceipt, KindFilter, Receipt, ReceiptId, SessionFilter, SessionId,
        Timestamp,
    },
    storage::Storage,
};

/// What to clean up: the sessions that the mode, the ids and the filters name, each with everything below it, but for what
/// is kept. A session that is kept keeps everything above it. The filters are those of a list of sessions.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CleanupBody {
    /// Which sessions.
    #[schemars(with = "CleanupMode")]
    mode: String,
    /// Only these sessions, at most 10 000. Ids that no session has are ignored.
    #[serde(default)]
    ids: Option<Vec<SessionId>>,
    /// Only roots or only children; all by default.
    #[serde(default)]
    kind: Option<KindFilter>,
    /// Only sessions directly below this one.
    #[serde(default)]
    parent: Option<SessionId>,
    /// Only the tree of this root.
    #[serde(default)]
    root: Option<SessionId>,
    /// Only pinned ones, or only others.
    #[serde(default)]
    pinned: Option<bool>,
    /// Only archived ones, or only others; all by default. `true` and `all` set `keep_archived` to false where it is absent.
    #[serde(default)]
    archived: Option<Archived>,
    /// Only with a run under way, or only without.
    #[serde(default)]
    running: Option<bool>,
    /// Only with this model.
    #[serde(default)]
    model: Option<String>,
    /// Only with these words in the title; the last may be the beginning of one.
    #[serde(default)]
    q: Option<String>,
    /// Only created at this time or later.
    #[serde(default)]
    created_after: Option<Timestamp>,
    /// Only created before this time.
    #[serde(default)]
    created_before: Option<Timestamp>,
    /// Only last active at this time or later.
    #[serde(default)]
    active_after: Option<Timestamp>,
    /// Only last active before this time. (Says nothing about what is below them: `inactive_before` does.)
    #[serde(default)]
    active_before: Option<Timestamp>,
    /// Keep a pinned session, everything above it and the tree below it.
    #[serde(default)]
    keep_pinned: bool,
    /// Keep an archived session, everything above it and the tree below it. True by default.
    #[serde(default)]
    keep_archived: Option<bool>,
    /// Keep a session that was active at this time or later or has an active run, and everything above it. An active run
    /// is a pending or running one.
    #[serde(default)]
    inactive_before: Option<Timestamp>,
    /// Only say what would be removed.
    #[serde(default)]
    dry_run: bool,
    /// The id of its receipt, by which it can be looked at and cancelled while it goes on; one is made where none is brought.
    #[serde(default)]
    receipt_id: Option<ReceiptId>,
}

impl CleanupBody {
    fn checked(self) -> Result<Cleanup, Problem> {
        // Clients of the original may write it as they like.
        let word = self.mode.trim().to_ascii_lowercase();
        let mode = CleanupMode::deserialize(word.as_str().into_deserializer());
        let mode =
            mode.map_err(|error: serde::de::value::Error| Problem::invalid_mode(&self.mode, &error.to_string()))?;
        if self.q.as_ref().is_some_and(|q| q.trim().is_empty()) {
            return Err(Problem::invalid("q", "q holds at least one word"));
        }
        let names_archived = matches!(self.archived, Some(Archived::True | Archived::All));
        let filter = SessionFilter {
            kind: self.kind,
            parent: self.parent,
            root: self.root,
            pinned: self.pinned,
            archived: self.archived,
            running: self.running,
            model: self.model,
            q: self.q,
            created_after: self.created_after,
            created_before: self.created_before,
            active_after: self.active_after,
            active_before: self.active_before,
            order: None,
        };
        let cleanup = Cleanup {
            mode,
            ids: self.ids,
            filter,
            keep_pinned: self.keep_pinned,
            keep_archived: self.keep_archived.unwrap_or(!names_archived),
            inactive_before: self.inactive_before,
            dry_run: self.dry_run,
            receipt_id: self.receipt_id,
        };
        cleanup.check()?;
        Ok(cleanup)
    }
}

pub(super) fn of_body(body: serde_json::Value) -> Result<Cleanup, String> {
    let body: CleanupBody = serde_json::from_value(body).map_err(|error| error.to_string())?;
    body.checked().map_err(|problem| problem.to_string())
}

pub(super) async fn cleanup(
    State(app): State<App>,
    _: NoQuery,
    body: Json<CleanupBody>,
) -> Result<Answer<200, CleanupReceipt>, Problem> {
    let cleanup = body.value.checked()?;
    Ok(Answer::new(&lifecycle::cleanup(&app.runs, &app.worktrees, cleanup).await?))
}

/// A receipt in a path.
#[derive(Debug, Deserialize, JsonSchema)]
pub(super) struct AtReceipt {
    /// The receipt's id.
    receipt_id: ReceiptId,
}

/// The cleanups that are under way.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct ReceiptsBody {
    receipts: Vec<Receipt>,
}

pub(super) async fn running(State(app): State<App>, _: NoQuery) -> Result<Answer<200, ReceiptsBody>, Problem> {
    Ok(Answer::new(&ReceiptsBody { receipts: app.repository.running_cleanups().await? }))
}

/// A receipt, and a page of the ids of the sessions that were deleted.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct ReceiptBody {
    #[serde(flatten)]
    receipt: Receipt,
    /// In the order of ids.
    deleted_session_ids: Vec<SessionId>,
    next_cursor: Option<String>,
}

pub(super) async fn read(
    State(app): State<App>,
    Path(at): Path<AtReceipt>,
    list: Listing<NoFilter, SessionId>,
) -> Result<Answer<200, ReceiptBody>, Problem> {
    let receipt = app.repository.receipt(&at.receipt_id).await?;
    let (ids, more) = app.repository.receipt_sessions(&at.receipt_id, list.after.as_ref(), list.limit).await?;
    let next_cursor = list.cursor(ids.last().filter(|_| more).cloned());
    Ok(Answer::new(&ReceiptBody { receipt, deleted_session_ids: ids, next_cursor }))
}

/// A receipt.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct CancelledCleanupBody {
    receipt: Receipt,
}

pub(super) async fn cancel(
    State(app): State<App>,
    Path(at): Path<AtReceipt>,
    _: NoQuery,
) -> Result<Answer<200, CancelledCleanupBody>, Problem> {
    Ok(Answer::new(&CancelledCleanupBody { receipt: app.repository.stop_cleanup(&at.receipt_id).await? }))
}

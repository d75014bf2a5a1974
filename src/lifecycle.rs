//! What touches sessions, runs and worktrees at once: deleting and cleaning up; worktrees are in `worktree.rs`.
//!
//! The commit comes first: a delete that fails has changed and stopped nothing. Then what was running there is
//! stopped, within a bound; both in a task of their own, so that a client which leaves breaks nothing.

mod worktree;

pub use worktree::{WorktreeError, attach_worktree, detach_worktree, settle_worktrees};

use crate::{
    model::{Cleanup, CleanupReceipt, DeleteOptions, DeleteReceipt, SessionId},
    runs::Runs,
    storage::{Result, Storage},
};

/// Deletes a session and everything below it, and stops what ran there.
pub async fn delete(runs: &Runs, id: &SessionId, options: DeleteOptions) -> Result<DeleteReceipt> {
    let (runs, id) = (runs.clone(), id.clone());
    let tasks = runs.repository().tasks().clone();
    tasks
        .detached(async move {
            let mut receipt = runs.repository().delete_session(&id, options).await?;
            receipt.still_stopping = runs.stop_deleted(&receipt.cancelled_run_ids).await;
            Ok(receipt)
        })
        .await
}

/// Deletes what a cleanup names, and stops what ran there.
pub async fn cleanup(runs: &Runs, cleanup: Cleanup) -> Result<CleanupReceipt> {
    let runs = runs.clone();
    let tasks = runs.repository().tasks().clone();
    tasks
        .detached(async move {
            let receipt = runs.repository().cleanup_sessions(cleanup).await?;
            if !receipt.dry_run {
                runs.stop_deleted(&receipt.cancelled_run_ids).await;
            }
            Ok(receipt)
        })
        .await
}

//! Cleanups: each step marks whole trees in one transaction; what ran in them is stopped, and what was outside of the
//! database is torn down, before the next.

use std::time::Duration;

use super::teardown;
use crate::{
    model::{Cleanup, CleanupReceipt, RECEIPT_IDS, ReceiptId},
    runs::Runs,
    storage::{Error, Result, Storage},
    worktree::Worktrees,
};

/// After which time a step is tried again that found the database locked.
const RETRY: Duration = Duration::from_millis(500);

/// Deletes what a cleanup names, stops what ran there and tears down what was outside. Answers when all of it is done, the
/// cleanup was cancelled, or the server stops; a client that leaves stops nothing. One that fails is stopped: what it had
/// deleted stays deleted.
pub async fn cleanup(runs: &Runs, worktrees: &Worktrees, cleanup: Cleanup) -> Result<CleanupReceipt> {
    if cleanup.dry_run {
        return runs.repository().cleanup_sessions(cleanup).await;
    }
    let (runs, worktrees) = (runs.clone(), worktrees.clone());
    let tasks = runs.repository().tasks().clone();
    tasks
        .detached(async move {
            let id = runs.repository().begin_cleanup(cleanup).await?.id;
            carry_on(&runs, &worktrees, &id).await
        })
        .await
}

/// Carries on with what a server that is gone has begun.
pub(super) async fn resume(runs: &Runs, worktrees: &Worktrees) {
    let left = runs.repository().running_cleanups().await.unwrap_or_else(|error| {
        tracing::error!(%error, "cleanups that were cut off are not known");
        Vec::new()
    });
    for receipt in left {
        match carry_on(runs, worktrees, &receipt.id).await {
            Ok(done) => tracing::info!(receipt = %receipt.id, deleted = done.deleted_count, "a cleanup was resumed"),
            Err(error) => tracing::error!(%error, receipt = %receipt.id, "a cleanup that was cut off failed again"),
        }
    }
}

async fn carry_on(runs: &Runs, worktrees: &Worktrees, id: &ReceiptId) -> Result<CleanupReceipt> {
    let mut told = CleanupReceipt::default();
    while !runs.feed().stopping().is_cancelled() {
        let step = match runs.repository().continue_cleanup(id).await {
            Ok(Some(step)) => step,
            Ok(None) => break,
            // Another process has the lock.
            Err(Error::Busy(_)) => {
                tokio::time::sleep(RETRY).await;
                continue;
            }
            Err(error) => {
                if let Err(error) = runs.repository().stop_cleanup(id).await {
                    tracing::warn!(%error, receipt = %id, "a cleanup that failed is resumed at the next start");
                }
                return Err(error);
            }
        };
        told.still_stopping.extend(runs.stop_deleted(&step.cancelled_run_ids).await);
        let left = teardown::at_once(runs, worktrees, step.teardowns).await;
        told.note_runs(step.cancelled_run_ids);
        told.unfinished.extend(left.unfinished);
        told.retained_worktrees.extend(left.retained);
    }
    let receipt = runs.repository().receipt(id).await?;
    let (ids, _) = runs.repository().receipt_sessions(id, None, RECEIPT_IDS).await?;
    Ok(told.of(receipt, ids))
}

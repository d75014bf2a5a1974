//! What touches sessions, runs, backends and worktrees at once: closing, archiving, opening again, deleting, cleaning up.
//!
//! **Deleting commits first**: a delete that fails has changed and stopped nothing. Then what was running there is
//! stopped, and what is outside of the database is torn down. Closing ends things first, for it keeps them: its commit
//! says that they were ended. All of it is bounded, and in a task of its own, so that a client which leaves breaks
//! nothing; what could not be done in time is a job in the database, and tried again.

mod cleanup;
mod close;
mod teardown;
mod worktree;

pub use cleanup::cleanup;
pub use close::{Close, SessionResult, close, open, preview};
pub use worktree::{Attached, WorktreeError, attach_worktree, detach_worktree};

use crate::{
    model::{DeleteOptions, DeleteReceipt, SessionId},
    runs::Runs,
    storage::{Result, Storage},
    worktree::Worktrees,
};

/// Takes up what a server that is gone has left to do, and from then on what could not be done at once, until the server
/// stops: beside the serving, for it can take long.
pub fn start(runs: &Runs, worktrees: &Worktrees) {
    let (stop, tasks) = (runs.feed().stopping().clone(), runs.repository().tasks().clone());
    let (reaper, settler, until) = ((runs.clone(), worktrees.clone()), (runs.clone(), worktrees.clone()), stop.clone());
    let cleaner = reaper.clone();
    tasks.spawn(async move { until.run_until_cancelled(teardown::reap(&reaper.0, &reaper.1)).await });
    // Not cut off when the server stops: it ends behind a step.
    tasks.spawn(async move { cleanup::resume(&cleaner.0, &cleaner.1).await });
    tasks.spawn(async move { stop.run_until_cancelled(settle(&settler.0, &settler.1)).await });
}

async fn settle(runs: &Runs, worktrees: &Worktrees) {
    if let Err(error) = worktree::settle_worktrees(runs.repository(), worktrees).await {
        tracing::error!(%error, "what was left to do with worktrees is not known");
    }
    // Runs wait for worktrees that are being removed.
    runs.wake();
}

/// Deletes a session and everything below it, stops what ran there and tears down what was outside.
pub async fn delete(
    runs: &Runs,
    worktrees: &Worktrees,
    id: &SessionId,
    options: DeleteOptions,
) -> Result<DeleteReceipt> {
    let (runs, worktrees, id) = (runs.clone(), worktrees.clone(), id.clone());
    let tasks = runs.repository().tasks().clone();
    tasks
        .detached(async move {
            let mut receipt = runs.repository().delete_session(&id, options).await?;
            receipt.still_stopping = runs.stop_deleted(&receipt.cancelled_run_ids).await;
            let left = teardown::at_once(&runs, &worktrees, std::mem::take(&mut receipt.teardowns)).await;
            Ok(DeleteReceipt { unfinished: left.unfinished, retained_worktrees: left.retained, ..receipt })
        })
        .await
}

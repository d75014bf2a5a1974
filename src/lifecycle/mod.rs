//! What touches sessions, runs and backends at once: closing, archiving, opening again, deleting, cleaning up.
//!
//! **Deleting commits first**: a delete that fails has changed and stopped nothing. Then what was running there is
//! stopped, and what is outside of the database is torn down. Closing ends things first, for it keeps them: its commit
//! says that they were ended. All of it is bounded, and in a task of its own, so that a client which leaves breaks
//! nothing; what could not be done in time is a job in the database, and tried again.

mod close;
mod teardown;

pub use close::{SessionResult, close, open, preview};
pub use teardown::start;

use crate::{
    model::{Cleanup, CleanupReceipt, DeleteOptions, DeleteReceipt, SessionId},
    runs::Runs,
    storage::{Result, Storage},
};

/// Deletes a session and everything below it, stops what ran there and tears down what was outside.
pub async fn delete(runs: &Runs, id: &SessionId, options: DeleteOptions) -> Result<DeleteReceipt> {
    let (runs, id) = (runs.clone(), id.clone());
    let tasks = runs.repository().tasks().clone();
    tasks
        .detached(async move {
            let mut receipt = runs.repository().delete_session(&id, options).await?;
            receipt.still_stopping = runs.stop_deleted(&receipt.cancelled_run_ids).await;
            receipt.unfinished = teardown::at_once(&runs, std::mem::take(&mut receipt.teardowns)).await;
            Ok(receipt)
        })
        .await
}

/// Deletes what a cleanup names, stops what ran there and tears down what was outside.
pub async fn cleanup(runs: &Runs, cleanup: Cleanup) -> Result<CleanupReceipt> {
    let runs = runs.clone();
    let tasks = runs.repository().tasks().clone();
    tasks
        .detached(async move {
            let mut receipt = runs.repository().cleanup_sessions(cleanup).await?;
            if !receipt.dry_run {
                receipt.still_stopping = runs.stop_deleted(&receipt.cancelled_run_ids).await;
                receipt.unfinished = teardown::at_once(&runs, std::mem::take(&mut receipt.teardowns)).await;
            }
            Ok(receipt)
        })
        .await
}

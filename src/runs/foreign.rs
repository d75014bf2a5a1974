//! Runs that another process ended: a row deleted in a shell, alone or with its session, or set to a terminal status.
//!
//! **Whatever removes a row, its work stops.** The database says nothing when another process writes it, but the writer
//! notices within a second. Then each live run is looked up, and one that is not running any more is cancelled.

use super::{RETRY, Runs};
use crate::storage::Storage;

/// Cancels live runs whose rows another process deleted or ended, until the server stops.
pub(super) async fn follow(runs: &Runs) {
    let mut commits = runs.0.repository.foreign_commits();
    while commits.changed().await.is_ok() {
        if let Err(error) = cancel_ended(runs).await {
            tracing::warn!(%error, "live runs were not compared with the database; retrying");
            tokio::time::sleep(RETRY).await;
            commits.mark_changed();
        }
    }
}

async fn cancel_ended(runs: &Runs) -> crate::storage::Result<()> {
    let live = runs.registry().ids();
    for id in live {
        let run = runs.0.repository.run(&id).await?;
        if run.is_none_or(|run| run.status.is_terminal()) {
            // One that has just ended by itself is cancelled, too: nothing comes of it.
            runs.registry().cancel(&id, false);
        }
    }
    Ok(())
}

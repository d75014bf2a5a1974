//! The write-ahead log is copied into the database beside the writer, so that no write waits for it: it is all that
//! was written once more, and two waits for the disk.
//!
//! **The log is bounded.** It begins anew only when all of it was copied, which beside a writer that goes on may never
//! come to be. Beyond [`LONGEST`] pages the writer copies what is left itself, with its commit.

use std::time::Duration;

use sqlx::{ConnectOptions, Connection, SqliteConnection, sqlite::SqliteConnectOptions};
use tokio::{sync::Mutex, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::tasks;

/// After which pause the log is looked at again: in it the writer can copy, which two cannot do at one time.
const PAUSE: Duration = Duration::from_millis(250);
/// Pages from which on the log is copied: an append writes about twenty.
const WORTHWHILE: i64 = 1000;
/// Pages of 4 KiB: 64 MiB, which is what the log's file may keep (`journal_size_limit`).
pub(super) const LONGEST: &str = "16384";

/// The task that copies.
pub(super) struct Checkpoints {
    task: Mutex<Option<JoinHandle<()>>>,
    closing: CancellationToken,
}

impl Checkpoints {
    /// Starts to look after the log of the database that these options open.
    pub(super) fn start(options: SqliteConnectOptions) -> Self {
        let closing = CancellationToken::new();
        // It writes no row.
        let copying = Copying { options: options.pragma("query_only", "on"), conn: None };
        Self { task: Some(tasks::owned(copying.run(closing.clone()))).into(), closing }
    }

    /// Ends, after what is being copied.
    pub(super) async fn close(&self) {
        self.closing.cancel();
        if let Some(task) = self.task.lock().await.take()
            && let Err(error) = task.await
        {
            tracing::error!(%error, "the write-ahead log was looked after no more");
        }
    }
}

struct Copying {
    options: SqliteConnectOptions,
    conn: Option<SqliteConnection>,
}

impl Copying {
    async fn run(mut self, closing: CancellationToken) {
        while closing.run_until_cancelled(tokio::time::sleep(PAUSE)).await.is_some() {
            if let Err(error) = self.copy().await {
                tracing::debug!(%error, "the write-ahead log was not copied this time");
                self.conn = None;
            }
        }
        if let Some(conn) = self.conn
            && let Err(error) = conn.close().await
        {
            tracing::debug!(%error, "the connection that copies the log did not close");
        }
    }

    async fn copy(&mut self) -> sqlx::Result<()> {
        let conn = match self.conn {
            Some(ref mut conn) => conn,
            None => self.conn.insert(self.options.connect().await?),
        };
        let (_, pages, copied) = checkpoint(conn, "pragma wal_checkpoint(noop)").await?;
        if pages - copied >= WORTHWHILE {
            checkpoint(conn, "pragma wal_checkpoint(passive)").await?;
        }
        Ok(())
    }
}

/// Whether another is at it, the log's pages, and how many of them were copied.
async fn checkpoint(conn: &mut SqliteConnection, how: &'static str) -> sqlx::Result<(i64, i64, i64)> {
    sqlx::query_as(how).fetch_one(conn).await
}

//! After an unclean stop: the write-ahead log that was left is brought into the database before anything is served.
//!
//! The last server may have ended for a failed sync ([`super::halt`]). Parts of the log can then be in the system's memory
//! and not on the disk, and no sync will write them: their pages count as clean. So the log is first written again, as it
//! reads now, and synced; only then are its pages copied into the database, with a sync of their own. Power that fails in
//! the middle of it leaves a log that is whole up to the hole at least, and a database with nothing from behind it.
//! A copy into the database whose sync failed is done again: what a log has copied is remembered in memory alone.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::Path,
};

use sqlx::{Executor, SqliteConnection};

use super::{
    checkpoint,
    error::{self, primary_code},
    open::{OpenError, refusal},
};
use crate::tasks;

/// Bytes that are read and written again at once.
const PIECE: usize = 1 << 20;
/// SQLITE_FULL.
const FULL: i32 = 13;

/// Writes the log of this database to the disk again, and copies it into the database, as far as no other process reads
/// what is older. On a full disk the log stays as it is.
pub(super) async fn recover(path: &Path, conn: &mut SqliteConnection) -> Result<(), OpenError> {
    let refused = |error: sqlx::Error| refusal(path, &error);
    // With this lock nobody else writes to the log or begins it anew.
    conn.execute("begin immediate").await.map_err(refused)?;
    let wal = checkpoint::wal_path(path);
    let written = tasks::blocking(move || write_again(&wal)).await;
    conn.execute("rollback").await.map_err(refused)?;
    match written {
        Err(Rewrite::Sync(error)) => return Err(failed_sync(path, &error)),
        Err(Rewrite::Io(error)) => tracing::warn!(%error, "the write-ahead log could not be written again"),
        Ok(()) => {}
    }
    copy(path, conn).await.map(drop)
}

/// Copies the log into the database, with its sync. Whether all of it was copied.
pub(super) async fn copy(path: &Path, conn: &mut SqliteConnection) -> Result<bool, OpenError> {
    match checkpoint::checkpoint(conn, "pragma wal_checkpoint(full)").await {
        Ok((refused, pages, copied)) => Ok(refused == 0 && pages == copied),
        Err(error) if primary_code(&error) == Some(FULL) => {
            tracing::warn!(%error, "the write-ahead log was not copied into the database");
            Ok(false)
        }
        Err(error) => Err(refusal(path, &error)),
    }
}

fn failed_sync(path: &Path, error: &io::Error) -> OpenError {
    OpenError::FailedSync { path: path.into(), reason: error::failed_sync(error) }
}

enum Rewrite {
    Io(io::Error),
    Sync(io::Error),
}

/// Not the database itself: its locks would go with the file. The log has none.
fn write_again(wal: &Path) -> Result<(), Rewrite> {
    let file = OpenOptions::new().read(true).write(true).open(wal).map_err(Rewrite::Io)?;
    copy_onto_itself(&file).map_err(Rewrite::Io)?;
    file.sync_all().map_err(Rewrite::Sync)
}

fn copy_onto_itself(file: &File) -> io::Result<()> {
    let (mut piece, mut offset) = (vec![0; PIECE], 0);
    loop {
        match file.read_at(&mut piece, offset)? {
            0 => return Ok(()),
            read => {
                file.write_all_at(&piece[..read], offset)?;
                offset += read as u64;
            }
        }
    }
}

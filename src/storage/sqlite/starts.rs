//! Each start writes an id of its own into the database and into the lock file, so that the next one knows whether the
//! database is the one that was last served.
//!
//! **A database that went back in time has a new epoch.** A backup that was put back carries the id of an earlier start, or
//! fewer events than the lock file knows of. Numbers of events, versions and cursors that clients keep are of another
//! history then; the epoch tells them apart. A backup beside the log of a later start would be corrupted by it: the id is
//! read from the database's file alone, without its log, and such a pair is refused.
//!
//! The id is in the database's file, not only in its log, before anything is served; in between the lock file has both. A
//! database without a lock file may be a copy whose original went on: it gets a new epoch, too.
//!
//! What stays unseen: a copy that was taken during this start and put over the file in place, beside a log that began anew
//! after it was taken.

use std::path::Path;

use sqlx::{ConnectOptions, Connection, SqliteConnection, sqlite::SqliteConnectOptions};
use uuid::Uuid;

use super::{
    error, events,
    lock::{Lock, Memory},
    open::{OpenError, damaged, read_only, refusal, was_left_open},
    recovery,
};
use crate::storage;

/// What a database says of its last start.
#[derive(Debug)]
struct Store {
    start_id: Option<String>,
    epoch: i64,
}

/// What is known before the database is opened.
pub(super) struct Before {
    memory: Memory,
    /// Whether the file is not the one that was last served, as far as it can be read without its log.
    is_other: bool,
}

/// Compares the database's file with what the lock file remembers. Nothing of the database may be open in this process: the
/// file is read without a lock, and closing it would drop others.
pub(super) async fn compare(path: &Path, lock: &Lock, is_new: bool) -> Result<Before, OpenError> {
    let memory = lock.memory();
    let is_other = match is_new || memory.starts.is_empty() {
        true => false,
        // In the midst of a copy from the log it may be unreadable: its log has the rest.
        false => read_alone(path).await.is_ok_and(|store| !knows(&memory, store.as_ref())),
    };
    match is_other && was_left_open(path) {
        true => Err(OpenError::OtherLog(path.into())),
        false => Ok(Before { memory, is_other }),
    }
}

fn knows(memory: &Memory, store: Option<&Store>) -> bool {
    store.and_then(|store| store.start_id.as_ref()).is_some_and(|start| memory.starts.contains(start))
}

/// Begins a start: gives the database its id, and a new epoch if it is not the one that was last served. The epoch.
pub(super) async fn begin(
    path: &Path,
    conn: &mut SqliteConnection,
    lock: &Lock,
    before: Before,
) -> Result<i64, OpenError> {
    let unreadable = |error: storage::Error| damaged(path, &error);
    let (store, last) = (read(conn).await.map_err(unreadable)?, events::last(conn).await.map_err(unreadable)?);
    let Before { memory, is_other } = before;
    let is_known = if memory.starts.is_empty() { store.start_id.is_none() } else { knows(&memory, Some(&store)) };
    let went_back = is_other || !is_known || last < memory.last_event;
    let epoch = match went_back || (memory.made && memory.epoch > store.epoch) {
        true => store.epoch.max(memory.epoch) + 1,
        false => store.epoch,
    };
    let keep = |memory: Memory| lock.remember(&memory).map_err(|error| read_only(lock.path(), &error));
    let start = Uuid::now_v7().to_string();
    let starts: Vec<String> = store.start_id.into_iter().chain([start.clone()]).collect();
    keep(Memory { made: true, starts: starts.clone(), epoch: memory.epoch, last_event: memory.last_event })?;
    match write(conn, &start, epoch).await {
        Ok(()) => {}
        // A full disk: the id of the last start goes on standing for the database.
        Err(storage::Error::Full) if epoch == store.epoch => {}
        Err(storage::Error::Stopped(reason)) => return Err(OpenError::FailedSync { path: path.into(), reason }),
        Err(error) => return Err(read_only(path, &error)),
    }
    if went_back {
        tracing::warn!(
            epoch,
            "the database is not the one that was last served here, such as a backup: a new epoch begins"
        );
    }
    let is_copied = recovery::copy(path, conn).await?;
    let starts = if is_copied { vec![start] } else { starts };
    keep(Memory { made: true, starts, epoch, last_event: last })?;
    Ok(epoch)
}

async fn read_alone(path: &Path) -> Result<Option<Store>, OpenError> {
    let refused = |error: sqlx::Error| refusal(path, &error);
    let options = SqliteConnectOptions::new().filename(path).read_only(true).immutable(true);
    let mut conn = options.connect().await.map_err(refused)?;
    let there = "select count(*) from sqlite_schema where name = 'store'";
    let there: Result<i64, _> = sqlx::query_scalar(there).fetch_one(&mut conn).await;
    let store = match there {
        Ok(0) => Ok(None),
        Ok(_) => read(&mut conn).await.map(Some).map_err(|error| damaged(path, &error)),
        Err(error) => Err(refused(error)),
    };
    conn.close().await.map_err(refused)?;
    store
}

async fn read(conn: &mut SqliteConnection) -> storage::Result<Store> {
    let row = sqlx::query_as!(Store, "select start_id, epoch from store");
    row.fetch_one(conn).await.map_err(error::of)
}

async fn write(conn: &mut SqliteConnection, start: &str, epoch: i64) -> storage::Result<()> {
    let update = sqlx::query!("update store set start_id = ?1, epoch = ?2", start, epoch);
    update.execute(conn).await.map(drop).map_err(error::of)
}

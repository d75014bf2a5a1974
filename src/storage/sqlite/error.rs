//! What SQLite's and sqlx's errors mean to a caller of storage.

use crate::storage::Error;

/// A job's error is the engine's when no other job of the batch can be trusted after it.
pub(super) fn is_engine(error: &Error) -> bool {
    matches!(
        error,
        Error::Full
            | Error::Busy(_)
            | Error::Unavailable(_)
            | Error::Damaged(_)
            | Error::Stopped(_)
            | Error::Closed(_)
            | Error::Failed(_)
    )
}

/// SQLITE_IOERR_FSYNC and SQLITE_IOERR_DIR_FSYNC.
const FAILED_SYNC: [i32; 2] = [1034, 1290];

/// An extended result code of SQLite.
fn extended_code(error: &sqlx::Error) -> Option<i32> {
    error.as_database_error()?.code()?.parse().ok()
}

/// A primary result code of SQLite, from the extended one that sqlx gives.
pub(super) fn primary_code(error: &sqlx::Error) -> Option<i32> {
    Some(extended_code(error)? & 0xff)
}

/// Whether the disk did not confirm what was written.
pub(super) fn is_failed_sync(error: &sqlx::Error) -> bool {
    extended_code(error).is_some_and(|code| FAILED_SYNC.contains(&code))
}

/// What a failed sync is called.
pub(super) fn failed_sync(error: &impl std::fmt::Display) -> String {
    format!("the disk did not confirm a write: fsync failed ({error})")
}

/// Whether the database does not hold what a database must.
pub(super) fn is_damage(error: &sqlx::Error) -> bool {
    matches!(primary_code(error), Some(11 | 26))
}

/// Whether the disk, or a quota, had no room.
pub(super) fn is_full(error: &sqlx::Error) -> bool {
    primary_code(error) == Some(13)
}

/// Sorts an error by what can be done about it. (Rules that a statement can break are mapped where it is run.)
pub(super) fn of(error: sqlx::Error) -> Error {
    match primary_code(&error) {
        _ if is_failed_sync(&error) => Error::Stopped(failed_sync(&error)),
        Some(5 | 6) => Error::Busy("another process holds the database"),
        Some(13) => Error::Full,
        Some(10) => Error::Unavailable(error.to_string()),
        _ if is_damage(&error) => Error::Damaged(error.to_string()),
        _ if matches!(error, sqlx::Error::PoolTimedOut) => Error::Busy("all readers are in use"),
        _ => Error::Failed(error.to_string()),
    }
}

/// Whether a rule of the schema was broken, with the words of the rule.
pub(super) fn broken_rule(error: &sqlx::Error) -> Option<&str> {
    (primary_code(error) == Some(19)).then(|| error.as_database_error().map(|e| e.message()))?
}

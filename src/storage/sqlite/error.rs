//! What SQLite's and sqlx's errors mean to a caller of storage.

use crate::storage::Error;

/// A job's error is the engine's when no other job of the batch can be trusted after it.
pub(super) fn is_engine(error: &Error) -> bool {
    matches!(error, Error::Full | Error::Busy(_) | Error::Unavailable(_) | Error::Damaged(_) | Error::Failed(_))
}

/// A primary result code of SQLite, from the extended one that sqlx gives.
fn primary_code(error: &sqlx::Error) -> Option<i32> {
    let code = error.as_database_error()?.code()?.parse::<i32>().ok()?;
    Some(code & 0xff)
}

/// Whether the database does not hold what a database must.
pub(super) fn is_damage(error: &sqlx::Error) -> bool {
    matches!(primary_code(error), Some(11 | 26))
}

/// Sorts an error by what can be done about it. (Rules that a statement can break are mapped where it is run.)
pub(super) fn of(error: sqlx::Error) -> Error {
    match primary_code(&error) {
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

//! The search indexes as a whole: made anew by `culm reindex`, in one transaction, and merged after an import.
//!
//! FTS5's own command `rebuild` does the same in one statement that tells nothing until it has ended. Here the rows are
//! put in step by step, so that a terminal can show how far it is; whoever stops it finds the old index.

use std::path::Path;

use sqlx::{Connection, SqliteConnection};

use super::{
    checkpoint, error,
    open::{self, OpenError},
};
use crate::storage::Result;

/// Rows of a step.
const ROWS: i64 = 1000;

/// Makes the indexes of a database anew, and tells after each step how many of all rows are in. Takes the lock: a
/// running server refuses it. Needs free disk for a second index.
pub async fn reindex(path: &Path, progress: &mut (dyn FnMut(u64, u64) + Send)) -> std::result::Result<(), OpenError> {
    let (_lock, mut conn) = open::connect_existing(path).await?;
    let refused = |error: sqlx::Error| open::refusal(path, &error);
    match refill(&mut conn, progress).await {
        Ok(()) => conn.close().await.map_err(refused),
        Err(error) => Err(open::abandoned(conn, refused(error))),
    }
}

async fn refill(conn: &mut SqliteConnection, progress: &mut (dyn FnMut(u64, u64) + Send)) -> sqlx::Result<()> {
    let mut transaction = conn.begin_with("begin immediate").await?;
    fill(&mut transaction, progress).await?;
    transaction.commit().await?;
    // Closing would not tell of a sync that fails.
    checkpoint::checkpoint(conn, "pragma wal_checkpoint(truncate)").await.map(drop)
}

async fn fill(conn: &mut SqliteConnection, progress: &mut (dyn FnMut(u64, u64) + Send)) -> sqlx::Result<()> {
    sqlx::query!("insert into message_index (message_index) values ('delete-all')").execute(&mut *conn).await?;
    sqlx::query!("insert into session_index (session_index) values ('delete-all')").execute(&mut *conn).await?;
    sqlx::query!("insert into title_index (title_index) values ('delete-all')").execute(&mut *conn).await?;
    sqlx::query!("delete from message_hours").execute(&mut *conn).await?;
    let rows = sqlx::query_scalar!(
        r#"select (select count(*) from messages) + (select count(*) from sessions) as "rows!: u64""#
    );
    let rows = rows.fetch_one(&mut *conn).await?;
    let (mut done, mut last) = (0, 0);
    while let Some(next) = step_end(conn, last).await? {
        done += sqlx::query!(
            "insert into message_index (rowid, content, reasoning, tools, scope)
             select message_key, content, reasoning, tools, scope from message_terms
             where message_key > ?1 and message_key <= ?2 order by message_key",
            last,
            next
        )
        .execute(&mut *conn)
        .await?
        .rows_affected();
        last = next;
        progress(done, rows);
    }
    sqlx::query!(
        "insert into session_index (rowid, title, summary, scope)
         select session_key, title, summary, scope from session_terms order by session_key"
    )
    .execute(&mut *conn)
    .await?;
    sqlx::query!(
        "insert into title_index (rowid, title) select session_key, title from title_text order by session_key"
    )
    .execute(&mut *conn)
    .await?;
    sqlx::query!("insert or ignore into message_hours (hour, block) select created_at / 3600000000, message_key >> 12 from messages")
        .execute(&mut *conn)
        .await?;
    // What a shell wrote while no server ran.
    while super::search::settle(conn).await.map_err(|error| sqlx::Error::Protocol(error.to_string()))? {}
    progress(rows, rows);
    Ok(())
}

/// The last key of the step that begins after this one.
async fn step_end(conn: &mut SqliteConnection, last: i64) -> sqlx::Result<Option<i64>> {
    let end = sqlx::query_scalar!(
        r#"select max(k) as "end: i64" from
             (select message_key as k from messages where message_key > ?1 order by message_key limit ?2)"#,
        last,
        ROWS
    );
    end.fetch_one(conn).await
}

/// Has the index of messages gather the words of up to so many bytes, 16 MiB, before it writes a piece; 1 MiB as it is made.
/// A transaction that ends before is a piece, too: so only many messages at once are written in larger ones. To index
/// 200 000 messages of 170 words took 40 seconds of a processor in pieces of one session each, 26 in pieces of 1 MiB, and
/// 15 in pieces of 16 MiB.
pub(super) async fn gather(conn: &mut SqliteConnection) -> Result<()> {
    let gather = sqlx::query!("insert into message_index (message_index, rank) values ('hashsize', 16777216)");
    gather.execute(conn).await.map(drop).map_err(error::of)
}

/// Pages that one step of a merge writes: some ten milliseconds' work.
pub(super) const STEP_OF_MERGE: i64 = 256;
/// The same for the first step: FTS5 takes a negative number as the order to merge everything.
pub(super) const START_OF_MERGE: i64 = -STEP_OF_MERGE;

/// The same for a step that writes are not to wait for long.
pub(super) const SMALL_STEP_OF_MERGE: i64 = 64;

/// Messages in the index: the first number of a record that FTS5 keeps of it, in seven binary digits a byte.
pub(super) async fn indexed(conn: &mut SqliteConnection) -> Result<u64> {
    let averages = sqlx::query_scalar!(r#"select block as "block!: Vec<u8>" from message_index_data where id = 1"#);
    let averages = averages.fetch_optional(conn).await.map_err(error::of)?.unwrap_or_default();
    let mut rows = 0;
    for byte in averages.into_iter().take(8) {
        rows = rows << 7 | u64::from(byte & 0x7f);
        if byte < 0x80 {
            break;
        }
    }
    Ok(rows)
}

/// One step of merging the index of messages. False when nothing was left to merge: FTS5 then changes one row at most.
pub(super) async fn merge(conn: &mut SqliteConnection, pages: i64) -> Result<bool> {
    let before = changes(conn).await?;
    sqlx::query!("insert into message_index (message_index, rank) values ('merge', ?1)", pages)
        .execute(&mut *conn)
        .await
        .map_err(error::of)?;
    Ok(changes(conn).await? - before > 1)
}

async fn changes(conn: &mut SqliteConnection) -> Result<i64> {
    sqlx::query_scalar!(r#"select total_changes() as "changes!: i64""#).fetch_one(conn).await.map_err(error::of)
}

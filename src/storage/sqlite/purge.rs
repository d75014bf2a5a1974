//! Purging: removing what deleted sessions held, and then their rows, in small steps.
//!
//! **A delete stalls nobody.** What was marked is shown to nobody, so its rows can go at any time, in any number of
//! transactions. The table `purges` says what is left. A step runs short statements until its time is over; one that is
//! cut off, or lost, is simply done again.
//!
//! A message goes as a whole, with its entry in the search index: that takes about as long as its append did, however
//! many steps there are.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use sqlx::SqliteConnection;

use super::{attachments, deletion::Keys, error};
use crate::storage::Result;

/// How long the step in a delete's own transaction goes on to begin statements, and the rows that it removes however slow
/// the machine is: those of a small tree, which is gone at once.
const FIRST_STEP: Duration = Duration::from_millis(4);
const SMALL: u64 = 32;
/// Bytes of text that it removes at most: to take a word out of the search index takes as long as it took to put it there.
const SMALL_TEXT: i64 = 64 << 10;
/// Sessions that are purged together.
const SESSIONS: i64 = 128;
/// Rows, and bytes of text, that one statement removes.
const EVENTS: i64 = 250;
const MESSAGES: i64 = 32;
const TEXT: i64 = 32 << 10;
const ROWS: i64 = 64;
const RECORDS: i64 = 1 << 20;

/// How far a purge has come.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// Trees whose events are looked through: most of these may be those of sessions that stay.
    roots: String,
    /// The last event when that was begun, or one before it: what was marked later is looked for anew.
    through: i64,
    /// The last event that was looked at, with its root; none when there are no more.
    after: Option<(i64, i64)>,
    /// Sessions and messages that were removed.
    pub(super) sessions: u64,
    pub(super) messages: u64,
    /// Bytes of text of the sessions that were.
    pub(super) bytes: i64,
}

/// Sessions to purge: everything below each of them is among them, or gone.
struct Batch {
    keys: Keys,
    roots: String,
    /// Where they stand in the queue.
    places: String,
    /// The last event when the last of them was marked.
    last_event: i64,
}

/// Purges sessions, then attachments' bytes, until the time is over. Whether there may be more.
pub(super) async fn some(conn: &mut SqliteConnection, progress: &mut Progress, until: Instant) -> Result<bool> {
    if sessions(conn, None, &mut End { at: until, sure: 0 }, progress).await? {
        return Ok(true);
    }
    while attachments::purge(conn).await? {
        if Instant::now() >= until {
            return Ok(true);
        }
    }
    Ok(false)
}

/// When a step ends.
struct End {
    at: Instant,
    /// Rows that it removes before it looks at the time.
    sure: u64,
}

impl End {
    /// Whether the time is over, after so many rows more.
    fn is_here(&mut self, removed: u64) -> bool {
        self.sure = self.sure.saturating_sub(removed);
        self.sure == 0 && Instant::now() >= self.at
    }
}

/// The step of a delete's own transaction: a small tree is gone at once. On a full disk there is none, for what it writes
/// may find no room, and the mark does.
pub(super) async fn first_step(conn: &mut SqliteConnection, root: Option<i64>, full: &AtomicBool) -> Result<()> {
    if full.load(Ordering::Relaxed) {
        return Ok(());
    }
    let Some(batch) = next(conn, root).await? else { return Ok(()) };
    if text(conn, &batch.keys).await? > SMALL_TEXT {
        return Ok(());
    }
    let mut end = End { at: Instant::now() + FIRST_STEP, sure: SMALL };
    sessions(conn, root, &mut end, &mut Progress::default()).await.map(drop)
}

/// Bytes of text that these sessions had.
async fn text(conn: &mut SqliteConnection, keys: &Keys) -> Result<i64> {
    let text = sqlx::query_scalar!(
        r#"select coalesce(sum(content_bytes), 0) as "bytes!: i64" from sessions where session_key in (select value from json_each(?1))"#,
        keys
    );
    text.fetch_one(conn).await.map_err(error::of)
}

/// Purges until the time is over, of one tree if it is named. Whether there may be more.
async fn sessions(
    conn: &mut SqliteConnection,
    root: Option<i64>,
    end: &mut End,
    progress: &mut Progress,
) -> Result<bool> {
    while let Some(batch) = next(conn, root).await? {
        if content(conn, &batch, end, progress).await? {
            return Ok(true);
        }
        progress.bytes += text(conn, &batch.keys).await?;
        let removed = rows(conn, &batch).await?;
        progress.sessions += removed;
        if end.is_here(removed) {
            return Ok(true);
        }
    }
    Ok(false)
}

async fn next(conn: &mut SqliteConnection, root: Option<i64>) -> Result<Option<Batch>> {
    let next = match root {
        Some(root) => {
            sqlx::query_as!(
                Batch,
                r#"select json_group_array(session_key) as "keys!: Keys", json_group_array(distinct root_key) as "roots!: String",
                     json_group_array(json_array(root_key, spawn_depth, session_key)) as "places!: String",
                     coalesce(max(last_event), 0) as "last_event!: i64"
                   from (select root_key, spawn_depth, session_key, last_event from purges where root_key = ?1 order by spawn_depth desc, session_key limit ?2)"#,
                root,
                SESSIONS
            )
            .fetch_one(conn)
            .await
        }
        None => {
            sqlx::query_as!(
                Batch,
                r#"select json_group_array(session_key) as "keys!: Keys", json_group_array(distinct root_key) as "roots!: String",
                     json_group_array(json_array(root_key, spawn_depth, session_key)) as "places!: String",
                     coalesce(max(last_event), 0) as "last_event!: i64"
                   from (select root_key, spawn_depth, session_key, last_event from purges order by root_key, spawn_depth desc, session_key limit ?1)"#,
                SESSIONS
            )
            .fetch_one(conn)
            .await
        }
    };
    next.map(|batch| Some(batch).filter(|batch| batch.keys != "[]")).map_err(error::of)
}

/// Removes what the sessions hold. Whether there may be more: the time is over.
async fn content(conn: &mut SqliteConnection, batch: &Batch, end: &mut End, progress: &mut Progress) -> Result<bool> {
    if progress.roots != batch.roots || progress.through < batch.last_event {
        let (roots, through) = (batch.roots.clone(), batch.last_event);
        *progress = Progress { roots, through, after: Some((0, 0)), ..*progress };
    }
    while let Some(after) = progress.after {
        progress.after = events(conn, &batch.roots, after).await?;
        // To look through events costs something, too.
        if end.is_here(8) {
            return Ok(true);
        }
    }
    for of in [Content::Messages, Content::Attachments, Content::Runs, Content::Usage] {
        loop {
            let removed = remove(conn, of, &batch.keys).await?;
            if of == Content::Messages {
                progress.messages += removed;
            }
            if removed == 0 {
                break;
            }
            if end.is_here(removed) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// Removes the events of deleted sessions from the next few of these trees, but for the word of their deletion. Where
/// it ended, unless that was the end.
async fn events(conn: &mut SqliteConnection, roots: &str, after: (i64, i64)) -> Result<Option<(i64, i64)>> {
    let end = sqlx::query!(
        r#"select n as "count!: i64", root_key as "root!: i64", event_id as "event!: i64" from (
             select row_number() over () as n, e.root_key, e.event_id
             from json_each(?1) r cross join events e on e.root_key = r.value and e.event_id > iif(r.value = ?2, ?3, 0)
             where r.value >= ?2 limit ?4)
           order by n desc limit 1"#,
        roots,
        after.0,
        after.1,
        EVENTS
    );
    let Some(end) = end.fetch_optional(&mut *conn).await.map_err(error::of)? else { return Ok(None) };
    let remove = sqlx::query!(
        "delete from events where event_id in (
           select event_id from (
             select e.event_id, e.session_key, e.kind
             from json_each(?1) r cross join events e on e.root_key = r.value and e.event_id > iif(r.value = ?2, ?3, 0)
             where r.value >= ?2 limit ?4) some
           where kind <> 'session.deleted'
             and exists (select 1 from sessions s where s.session_key = some.session_key and s.deleted_at is not null))",
        roots,
        after.0,
        after.1,
        EVENTS
    );
    remove.execute(conn).await.map_err(error::of)?;
    Ok(Some((end.root, end.event)).filter(|_| end.count >= EVENTS))
}

/// What belongs to a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Content {
    Messages,
    Attachments,
    Runs,
    Usage,
}

/// Removes some of what these sessions have of one kind. How many rows that were.
async fn remove(conn: &mut SqliteConnection, of: Content, keys: &Keys) -> Result<u64> {
    let removed = match of {
        // What messages show of attachments goes with them.
        Content::Messages => {
            sqlx::query!(
                "delete from messages where message_key in (
                   select message_key from (
                     select message_key, row_number() over (rows unbounded preceding) as n,
                       sum(bytes) over (rows unbounded preceding) as through
                     from (select m.message_key, m.bytes from json_each(?1) j cross join messages m on m.session_key = j.value limit ?2))
                   where n = 1 or through <= ?3)",
                keys,
                MESSAGES,
                TEXT
            )
            .execute(conn)
            .await
        }
        // Their bytes are loose then.
        Content::Attachments => {
            sqlx::query!(
                "delete from attachments where attachment_key in (
                   select a.attachment_key from json_each(?1) j cross join attachments a on a.session_key = j.value limit ?2)",
                keys,
                ROWS
            )
            .execute(conn)
            .await
        }
        Content::Runs => {
            sqlx::query!(
                "delete from runs where run_key in (
                   select r.run_key from json_each(?1) j cross join runs r on r.session_key = j.value limit ?2)",
                keys,
                ROWS
            )
            .execute(conn)
            .await
        }
        Content::Usage => {
            sqlx::query!(
                "delete from usage_records where usage_key in (
                   select usage_key from (
                     select usage_key, row_number() over (rows unbounded preceding) as n,
                       sum(bytes) over (rows unbounded preceding) as through
                     from (
                       select u.usage_key, length(u.record) as bytes
                       from json_each(?1) j cross join usage_records u on u.session_key = j.value limit ?2))
                   where n = 1 or through <= ?3)",
                keys,
                ROWS,
                RECORDS
            )
            .execute(conn)
            .await
        }
    };
    removed.map(|done| done.rows_affected()).map_err(error::of)
}

/// Removes the sessions, which hold nothing any more. How many these were.
async fn rows(conn: &mut SqliteConnection, batch: &Batch) -> Result<u64> {
    let unqueue = sqlx::query!(
        "delete from purges where (root_key, spawn_depth, session_key) in (
           select value ->> 0, value ->> 1, value ->> 2 from json_each(?1))",
        batch.places
    );
    unqueue.execute(&mut *conn).await.map_err(error::of)?;
    let remove = sqlx::query!(
        "delete from sessions where session_key in (select value from json_each(?1)) and deleted_at is not null",
        batch.keys
    );
    remove.execute(conn).await.map(|done| done.rows_affected()).map_err(error::of)
}

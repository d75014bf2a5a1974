//! Which rows filters leave, found before the search: a few sessions, or the hours in which messages were written.

use sqlx::SqliteConnection;

use crate::{
    model::{Archived, KindFilter, SearchQuery, SessionId},
    storage::{Result, sqlite::error},
};

/// Sessions that a search is driven by at most; among more it is driven by the words.
const SESSIONS: i64 = 100;
/// Microseconds of an hour, as the table `message_hours` has it.
const HOUR: i64 = 3_600_000_000;
/// Binary digits of the keys in a block, as `message_hours` and the word `xblock` of a scope have it.
pub(super) const BLOCK: u32 = 12;

/// Whether sessions must be archived; none when it does not matter.
pub(super) fn archived(query: &SearchQuery) -> Option<bool> {
    match query.archived {
        None | Some(Archived::All) => None,
        Some(archived) => Some(archived == Archived::True),
    }
}

/// The kind that sessions must be of.
pub(super) fn kind(query: &SearchQuery) -> Option<&'static str> {
    match query.kind {
        None | Some(KindFilter::All) => None,
        Some(KindFilter::Root) => Some("root"),
        Some(KindFilter::Child) => Some("child"),
    }
}

/// The sessions of the narrowest filter, if they are few; `Some(None)` if they are not. None if there are none at all.
pub(super) async fn few_sessions(conn: &mut SqliteConnection, query: &SearchQuery) -> Result<Option<Option<Vec<i64>>>> {
    let mut sets = Vec::new();
    if let Some(id) = query.session.as_ref().map(SessionId::as_str) {
        let key = sqlx::query_scalar!(r#"select session_key as "key!: i64" from live_sessions where id = ?1"#, id);
        sets.push(key.fetch_all(&mut *conn).await.map_err(error::of)?);
    }
    if let Some(root) = query.root.as_ref().map(SessionId::as_str) {
        let keys = sqlx::query_scalar!(
            r#"select s.session_key as "key!: i64" from live_sessions s
               where s.root_key = (select r.session_key from live_sessions r where r.id = ?1) limit ?2"#,
            root,
            SESSIONS
        );
        sets.push(keys.fetch_all(&mut *conn).await.map_err(error::of)?);
    }
    if let Some(kind) = kind(query) {
        let keys = sqlx::query_scalar!(
            r#"select session_key as "key!: i64" from live_sessions where kind = ?1 order by created_at desc limit ?2"#,
            kind,
            SESSIONS
        );
        sets.push(keys.fetch_all(&mut *conn).await.map_err(error::of)?);
    }
    if let Some(model) = &query.model {
        let keys = sqlx::query_scalar!(
            r#"select session_key as "key!: i64" from live_sessions where model = ?1 limit ?2"#,
            model,
            SESSIONS
        );
        sets.push(keys.fetch_all(&mut *conn).await.map_err(error::of)?);
    }
    if let Some(workspace) = &query.workspace {
        let keys = sqlx::query_scalar!(
            r#"select session_key as "key!: i64" from live_sessions where workspace = ?1 limit ?2"#,
            workspace,
            SESSIONS
        );
        sets.push(keys.fetch_all(&mut *conn).await.map_err(error::of)?);
    }
    if query.pinned == Some(true) {
        let keys = sqlx::query_scalar!(
            r#"select session_key as "key!: i64" from live_sessions where pinned = 1 limit ?1"#,
            SESSIONS
        );
        sets.push(keys.fetch_all(&mut *conn).await.map_err(error::of)?);
    }
    if archived(query) == Some(true) {
        let keys = sqlx::query_scalar!(
            // In the order of its index, which the planner would pass over.
            r#"select session_key as "key!: i64" from (
                 select session_key from live_sessions where kind = 'root' and archived_at is not null
                 order by last_activity_at desc, session_key desc limit ?1)
               union all
               select session_key from (
                 select session_key from live_sessions where kind = 'child' and archived_at is not null
                 order by last_activity_at desc, session_key desc limit ?1)"#,
            SESSIONS
        );
        sets.push(keys.fetch_all(conn).await.map_err(error::of)?);
    }
    if sets.iter().any(Vec::is_empty) {
        return Ok(None);
    }
    let many = usize::try_from(SESSIONS).unwrap_or(usize::MAX);
    Ok(Some(sets.into_iter().filter(|keys| keys.len() < many).min_by_key(Vec::len)))
}

/// Where the messages of the wanted hours are, however the order of their times differs from that of their keys.
pub(super) async fn stretches(conn: &mut SqliteConnection, query: &SearchQuery) -> Result<Option<Vec<(i64, i64)>>> {
    if query.after.is_none() && query.before.is_none() {
        return Ok(None);
    }
    let first = query.after.map_or(i64::MIN, |time| time.0.div_euclid(HOUR));
    let last = query.before.map_or(i64::MAX, |time| time.0.div_euclid(HOUR));
    let blocks = sqlx::query_scalar!(
        r#"select distinct block as "block!: i64" from message_hours where hour between ?1 and ?2 order by 1 desc"#,
        first,
        last
    );
    let mut stretches: Vec<(i64, i64)> = Vec::new();
    for block in blocks.fetch_all(conn).await.map_err(error::of)? {
        let (from, to) = (block << BLOCK, (block + 1) << BLOCK);
        match stretches.last_mut().filter(|(lowest, _)| *lowest == to) {
            Some(stretch) => stretch.0 = from,
            None => stretches.push((from, to)),
        }
    }
    Ok(Some(stretches))
}

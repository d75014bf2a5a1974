//! Pages of a history: as many messages as the limit and their bytes allow, from one place on.

use sqlx::{SqliteConnection, SqlitePool};

use super::{error, messages::between, types};
use crate::{
    model::{Message, MessageFilter, MessagePage, SessionId, Window},
    storage::{Error, Result},
};

pub(super) async fn page(pool: &SqlitePool, id: &SessionId, filter: MessageFilter) -> Result<MessagePage> {
    // One snapshot for the page and what lies beyond it.
    let mut snapshot = pool.begin().await.map_err(error::of)?;
    let conn = &mut *snapshot;
    let text = id.as_str();
    let session = sqlx::query!(r#"select session_key as "key!: i64", last_seq from sessions where id = ?1"#, text);
    let session = session.fetch_optional(&mut *conn).await.map_err(error::of)?;
    let session = session.ok_or_else(|| Error::SessionNotFound(id.clone()))?;
    let key = session.key;
    let messages = match filter.window {
        Window::First => after(conn, key, 0, &filter).await?,
        Window::After(seq) => after(conn, key, seq, &filter).await?,
        Window::Last => before(conn, key, i64::MAX, &filter).await?,
        Window::Before(seq) => before(conn, key, seq, &filter).await?,
        Window::Around(seq) => {
            let half = MessageFilter { limit: filter.limit / 2, bytes: filter.bytes / 2, ..filter };
            let mut both = before(conn, key, seq, &half).await?;
            let rest = filter.limit - i64::try_from(both.len()).unwrap_or(filter.limit);
            both.extend(after(conn, key, seq.saturating_sub(1), &MessageFilter { limit: rest, ..half }).await?);
            both
        }
    };
    let role = filter.role.as_ref().map(types::word);
    let edges = match (messages.first(), messages.last()) {
        (Some(first), Some(last)) => (first.seq, last.seq),
        // An empty page still lies somewhere.
        _ => match filter.window {
            Window::After(seq) => (seq.saturating_add(1), seq),
            Window::Before(seq) | Window::Around(seq) => (seq, seq.saturating_sub(1)),
            _ => (0, i64::MAX),
        },
    };
    let beyond = sqlx::query!(
        r#"select exists (select 1 from messages where session_key = ?1 and seq < ?2 and (?4 is null or role = ?4)) as "before!: bool",
             exists (select 1 from messages where session_key = ?1 and seq > ?3 and (?4 is null or role = ?4)) as "after!: bool""#,
        key,
        edges.0,
        edges.1,
        role
    );
    let beyond = beyond.fetch_one(conn).await.map_err(error::of)?;
    Ok(MessagePage {
        messages,
        last_seq: session.last_seq,
        has_more_before: beyond.before,
        has_more_after: beyond.after,
    })
}

/// What a query says of the places of a session's messages on one side of a place, nearest first, as many as the limit
/// allows: of each its `seq`, and the `bytes` that it has, from the lengths that a row's head holds.
macro_rules! of_places_beyond {
    ($what:literal, $beyond:literal, $order:literal, [$($rest:tt)+], $key:expr, $seq:expr, $role:expr, $filter:expr) => {
        sqlx::query!(
            $what
                + " from (
                 select seq, octet_length(content) + coalesce(octet_length(reasoning), 0)
                     + coalesce(octet_length(parts), 0) + coalesce(octet_length(tool_calls), 0)
                     + coalesce(octet_length(metadata), 0) + octet_length(extra) as bytes
                 from messages
                 where session_key = ?1 and seq "
                + $beyond
                + " ?2 and (?3 is null or role = ?3)
                 order by seq "
                + $order
                + " limit ?4
               ) "
                + $($rest)+,
            $key,
            $seq,
            $role,
            $filter.limit,
            $filter.bytes
        )
    };
}

/// The first and the last place of the messages on one side of a place: of as many as the limit and the bytes allow. What
/// they have is summed up before they are read; one by one only where all together have too much, which is rare.
macro_rules! edges_beyond {
    ($conn:expr, $beyond:literal, $order:literal, $key:expr, $seq:expr, $role:expr, $filter:expr) => {{
        let all = of_places_beyond!(
            r#"select min(seq) as "first: i64", max(seq) as "last: i64", coalesce(sum(bytes) <= ?5, 1) as "fit!: bool""#,
            $beyond,
            $order,
            [""],
            $key,
            $seq,
            $role,
            $filter
        );
        let all = all.fetch_one(&mut *$conn).await.map_err(error::of)?;
        if all.fit {
            all.first.zip(all.last)
        } else {
            let some = of_places_beyond!(
                r#"select min(seq) as "first: i64", max(seq) as "last: i64" from (
                     select seq, row_number() over nearest as place, sum(bytes) over nearest as through"#,
                $beyond,
                $order,
                ["window nearest as (order by seq " + $order + " rows unbounded preceding)) where place = 1 or through <= ?5"],
                $key,
                $seq,
                $role,
                $filter
            );
            let some = some.fetch_one(&mut *$conn).await.map_err(error::of)?;
            some.first.zip(some.last)
        }
    }};
}

async fn after(conn: &mut SqliteConnection, key: i64, seq: i64, filter: &MessageFilter) -> Result<Vec<Message>> {
    let role = filter.role.as_ref().map(types::word);
    let edges = edges_beyond!(conn, ">", "asc", key, seq, role, filter);
    page_between(conn, key, edges, role.as_deref()).await
}

async fn before(conn: &mut SqliteConnection, key: i64, seq: i64, filter: &MessageFilter) -> Result<Vec<Message>> {
    let role = filter.role.as_ref().map(types::word);
    let edges = edges_beyond!(conn, "<", "desc", key, seq, role, filter);
    page_between(conn, key, edges, role.as_deref()).await
}

async fn page_between(
    conn: &mut SqliteConnection,
    key: i64,
    edges: Option<(i64, i64)>,
    role: Option<&str>,
) -> Result<Vec<Message>> {
    match edges {
        Some(edges) => between(conn, key, edges, role).await,
        None => Ok(Vec::new()),
    }
}

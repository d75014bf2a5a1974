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
    let session = sqlx::query!(r#"select session_key as "key!: i64", last_seq from live_sessions where id = ?1"#, text);
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

/// The messages on one side of a place: as many as the limit and the bytes allow. They are read as if none had more than
/// its share of the bytes, which is nearly always so; only where one has, what each has is summed up first.
macro_rules! messages_beyond {
    ($beyond:literal, $order:literal, $conn:expr, $key:expr, $seq:expr, $filter:expr) => {{
        let role = $filter.role.as_ref().map(types::word);
        let all = sqlx::query!(
            r#"select min(seq) as "first: i64", max(seq) as "last: i64", count(*) as count from (
                 select seq from messages where session_key = ?1 and seq "#
                + $beyond
                + " ?2 and (?3 is null or role = ?3) order by seq "
                + $order
                + " limit ?4)",
            $key,
            $seq,
            role,
            $filter.limit
        );
        let all = all.fetch_one(&mut *$conn).await.map_err(error::of)?;
        let share = $filter.bytes / $filter.limit.max(1);
        let messages = between($conn, $key, all.first.zip(all.last), role.as_deref(), Some(share)).await?;
        if i64::try_from(messages.len()) == Ok(all.count) {
            return Ok(messages);
        }
        let fitting = sqlx::query!(
            r#"select min(seq) as "first: i64", max(seq) as "last: i64" from (
                 select seq, row_number() over nearest as place, sum(bytes) over nearest as through from (
                   select seq, octet_length(content) + coalesce(octet_length(reasoning), 0)
                       + coalesce(octet_length(parts), 0) + coalesce(octet_length(tool_calls), 0)
                       + coalesce(octet_length(metadata), 0) + octet_length(extra) as bytes
                   from messages where session_key = ?1 and seq "#
                + $beyond
                + " ?2 and (?3 is null or role = ?3) order by seq "
                + $order
                + " limit ?4) window nearest as (order by seq "
                + $order
                + " rows unbounded preceding)) where place = 1 or through <= ?5",
            $key,
            $seq,
            role,
            $filter.limit,
            $filter.bytes
        );
        let fitting = fitting.fetch_one(&mut *$conn).await.map_err(error::of)?;
        between($conn, $key, fitting.first.zip(fitting.last), role.as_deref(), None).await
    }};
}

async fn after(conn: &mut SqliteConnection, key: i64, seq: i64, filter: &MessageFilter) -> Result<Vec<Message>> {
    messages_beyond!(">", "asc", conn, key, seq, filter)
}

async fn before(conn: &mut SqliteConnection, key: i64, seq: i64, filter: &MessageFilter) -> Result<Vec<Message>> {
    messages_beyond!("<", "desc", conn, key, seq, filter)
}

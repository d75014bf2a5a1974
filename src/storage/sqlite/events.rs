//! The log of events: written with the change that they tell of, read from any number on, cut off at its old end.

use std::time::Duration;

use serde_json::{Value, json};
use sqlx::{SqliteConnection, SqlitePool};

use super::{
    error, messages,
    types::{self, Json, Raw, Word},
};
use crate::{
    model::{Event, EventKind, EventPage, EventScope, SessionId, Timestamp},
    storage::{Error, Result},
};

/// How much of the log is kept.
#[derive(Debug, Clone, Copy)]
pub struct LogBounds {
    /// Events at most.
    pub events: i64,
    /// Events of one tree at most.
    pub events_of_tree: i64,
    /// How long one is kept.
    pub age: Duration,
    /// How often the log is looked at though little was added.
    pub every: Duration,
}

impl Default for LogBounds {
    fn default() -> Self {
        let (age, every) = (Duration::from_secs(7 * 24 * 3600), Duration::from_secs(600));
        Self { events: 200_000, events_of_tree: 20_000, age, every }
    }
}

/// Events after which the log is looked at again.
pub(super) const STEP: i64 = 2_000;
/// Events that one statement cuts off.
const CUT: i64 = 500;

/// An event to write.
pub(super) struct NewEvent {
    session: i64,
    kind: EventKind,
    message: Option<i64>,
    data: Value,
}

impl NewEvent {
    /// Of the session with this key.
    pub(super) fn new(session: i64, kind: EventKind, data: Value) -> Self {
        Self { session, kind, message: None, data }
    }
}

/// Writes events, in this order.
pub(super) async fn record(conn: &mut SqliteConnection, events: &[NewEvent]) -> Result<()> {
    if events.is_empty() {
        return Ok(());
    }
    let rows: Vec<_> =
        events.iter().map(|e| json!([e.session, types::word(&e.kind), e.message, e.data.to_string()])).collect();
    let (rows, now) = (types::object(&rows), Timestamp::now().0);
    sqlx::query!(
        "insert into events (session_key, root_key, kind, message_key, data, created_at)
         select s.session_key, s.root_key, j.value ->> 1, j.value ->> 2, j.value ->> 3, ?2
         from json_each(?1) j cross join sessions s on s.session_key = j.value ->> 0",
        rows,
        now
    )
    .execute(conn)
    .await
    .map(drop)
    .map_err(error::of)
}

/// One event of a session.
pub(super) async fn tell(conn: &mut SqliteConnection, session: i64, kind: EventKind, data: Value) -> Result<()> {
    record(conn, &[NewEvent::new(session, kind, data)]).await
}

/// Tells that a message changed.
pub(super) async fn tell_updated(conn: &mut SqliteConnection, session: i64, message: &str) -> Result<()> {
    let now = Timestamp::now().0;
    sqlx::query!(
        "insert into events (session_key, root_key, kind, message_key, data, created_at)
         select m.session_key, s.root_key, 'message.updated', m.message_key,
           json_object('message_id', m.id, 'seq', m.seq, 'role', m.role), ?3
         from messages m join sessions s using (session_key) where m.session_key = ?1 and m.id = ?2",
        session,
        message,
        now
    )
    .execute(conn)
    .await
    .map(drop)
    .map_err(error::of)
}

/// The number of the last event that was written.
pub(super) async fn last(conn: &mut SqliteConnection) -> Result<i64> {
    let last = sqlx::query_scalar!(
        r#"select coalesce((select seq from sqlite_sequence where name = 'events'), 0) as "seq!: i64""#
    );
    last.fetch_one(conn).await.map_err(error::of)
}

/// Commits. The number of the last event.
pub(super) async fn commit(conn: &mut SqliteConnection) -> Result<i64> {
    let commit = sqlx::query_scalar!(
        r#"select coalesce((select seq from sqlite_sequence where name = 'events'), 0) as "seq!: i64"; commit"#
    );
    // All rows, that is to say, to the end of the last statement.
    let last = commit.fetch_all(conn).await.map_err(error::of)?;
    Ok(last.into_iter().next().unwrap_or_default())
}

/// A row of the log.
struct Row {
    event_id: i64,
    kind: Word<EventKind>,
    message_key: Option<i64>,
    data: Raw,
    at: Timestamp,
    session_id: SessionId,
    root_session_id: SessionId,
    above: Json<Vec<SessionId>>,
}

/// The one list of columns. A deleted session's event knows its own ids; the others look theirs up.
macro_rules! select_events {
    ($rest:literal, $($value:expr),*) => {
        sqlx::query_as!(
            Row,
            r#"select e.event_id as "event_id!: i64", e.kind as "kind!: Word<EventKind>", e.message_key,
                 e.data as "data!: Raw", e.created_at as "at!: Timestamp",
                 coalesce(e.session_id, s.id) as "session_id!: SessionId", coalesce(e.root_session_id, r.id) as "root_session_id!: SessionId",
                 coalesce(e.above, (
                   with recursive above (k, depth) as (
                     select s.parent_key, 1 where s.parent_key is not null
                     union all
                     select a.parent_key, above.depth + 1 from sessions a join above on a.session_key = above.k
                     where a.parent_key is not null and above.depth < 100
                   )
                   select json_group_array(id) from (select a.id from above join sessions a on a.session_key = above.k order by above.depth)
                 )) as "above!: Json<Vec<SessionId>>"
               from events e left join live_sessions s on s.session_key = e.session_key
                 left join sessions r on r.session_key = e.root_key
               -- Of a session that was deleted there is that event alone; its others are purged.
               where (e.session_id is not null or s.session_key is not null) and "#
                + $rest,
            $($value),*
        )
    };
}

pub(super) async fn page(pool: &SqlitePool, scope: &EventScope, after: i64, limit: i64) -> Result<EventPage> {
    let mut snapshot = pool.begin().await.map_err(error::of)?;
    let last = last(&mut snapshot).await?;
    let place = match scope {
        EventScope::All => None,
        EventScope::Session(id) | EventScope::Tree(id) => match place(&mut snapshot, id).await? {
            Some(place) => Some(place),
            None => return deletion(&mut snapshot, id, after, last).await,
        },
    };
    let root = place.map(|(_, root)| root);
    let cut = sqlx::query_scalar!(
        r#"select coalesce(max(through), 0) as "through!: i64" from event_gaps where ?1 is null or root_key in (0, ?1)"#,
        root
    );
    let cut = cut.fetch_one(&mut *snapshot).await.map_err(error::of)?;
    let gap = after < cut || after > last;
    let rows = match (scope, place) {
        (EventScope::Session(_), Some((key, root))) => {
            select_events!(
                "e.root_key = ?1 and e.event_id > ?2 and e.session_key = ?3 order by e.event_id limit ?4",
                root,
                after,
                key,
                limit
            )
            .fetch_all(&mut *snapshot)
            .await
        }
        (_, Some((_, root))) => {
            select_events!("e.root_key = ?1 and e.event_id > ?2 order by e.event_id limit ?3", root, after, limit)
                .fetch_all(&mut *snapshot)
                .await
        }
        _ => {
            select_events!("e.event_id > ?1 order by e.event_id limit ?2", after, limit).fetch_all(&mut *snapshot).await
        }
    };
    let rows = rows.map_err(error::of)?;
    let full = i64::try_from(rows.len()).is_ok_and(|rows| rows >= limit);
    let through = rows.last().map(|row| row.event_id).filter(|_| full).unwrap_or(last.max(after));
    let mut events = events(&mut snapshot, rows).await?;
    events.retain(|event| scope.holds(&event.session_id, &event.above));
    Ok(EventPage { events, through, gap })
}

/// A session's key and its root's.
async fn place(conn: &mut SqliteConnection, id: &SessionId) -> Result<Option<(i64, i64)>> {
    let id = id.as_str();
    let row = sqlx::query!(
        r#"select session_key as "key!: i64", root_key as "root!: i64" from live_sessions where id = ?1"#,
        id
    );
    Ok(row.fetch_optional(conn).await.map_err(error::of)?.map(|row| (row.key, row.root)))
}

/// All that there is of a session which was deleted: the word of it, for who has not heard it.
async fn deletion(conn: &mut SqliteConnection, id: &SessionId, after: i64, last: i64) -> Result<EventPage> {
    let text = id.as_str();
    let rows = select_events!("e.session_id = ?1 and e.event_id > ?2", text, after);
    let rows = rows.fetch_all(&mut *conn).await.map_err(error::of)?;
    match rows.is_empty() {
        true => Err(Error::SessionNotFound(id.clone())),
        false => Ok(EventPage { events: events(conn, rows).await?, through: last, gap: false }),
    }
}

/// The events, with the messages that they tell of.
async fn events(conn: &mut SqliteConnection, rows: Vec<Row>) -> Result<Vec<Event>> {
    let keys: Vec<i64> = rows.iter().filter_map(|row| row.message_key).collect();
    // Those that are short; one that was deleted since is told of by a later event.
    let messages = messages::short_by_key(conn, &keys).await?;
    let event = |row: Row| Event {
        event_id: row.event_id,
        event: row.kind.0,
        session_id: row.session_id,
        root_session_id: row.root_session_id,
        at: row.at,
        data: row.data.object(),
        message: row.message_key.and_then(|key| messages.get(&key)).cloned(),
        above: row.above.0,
    };
    Ok(rows.into_iter().map(event).collect())
}

/// Cuts off some of what is too old or too much, and notes up to where. Trees are looked at from this root on. Whether
/// there may be more.
pub(super) async fn cut(conn: &mut SqliteConnection, bounds: &LogBounds, from: &mut i64) -> Result<bool> {
    let age = i64::try_from(bounds.age.as_micros()).unwrap_or(i64::MAX);
    let (oldest, last) = (Timestamp::now().0.saturating_sub(age), last(conn).await?);
    // Numbers and times grow together: the first row speaks for the rest.
    let first = sqlx::query!("select event_id, created_at from events order by event_id limit 1");
    let first = first.fetch_optional(&mut *conn).await.map_err(error::of)?;
    match first.filter(|first| first.event_id <= last - bounds.events || first.created_at < oldest) {
        Some(first) => {
            cut_all(conn, (first.event_id + CUT).min(last), oldest, last - bounds.events).await.map(|()| true)
        }
        None => cut_a_tree(conn, bounds.events_of_tree, from).await,
    }
}

async fn cut_all(conn: &mut SqliteConnection, through: i64, oldest: i64, first_kept: i64) -> Result<()> {
    let cut = sqlx::query_scalar!(
        r#"select coalesce(max(event_id), 0) as "through!: i64" from events where event_id <= ?1 and (created_at < ?2 or event_id <= ?3)"#,
        through,
        oldest,
        first_kept
    );
    let through = cut.fetch_one(&mut *conn).await.map_err(error::of)?;
    sqlx::query!("delete from events where event_id <= ?1", through).execute(&mut *conn).await.map_err(error::of)?;
    note_gap(conn, 0, through).await
}

/// Looks at some of the trees from this root on, and cuts off what the first of them has too many of.
async fn cut_a_tree(conn: &mut SqliteConnection, kept: i64, from: &mut i64) -> Result<bool> {
    let (first, most) = (*from, kept + CUT);
    let trees = sqlx::query!(
        r#"select root_key as "root!: i64", count(*) as "events!: i64"
           from (select root_key from events where root_key >= ?1 order by root_key, event_id limit ?2) group by root_key order by root_key"#,
        first,
        most
    );
    let trees = trees.fetch_all(&mut *conn).await.map_err(error::of)?;
    let Some(tree) = trees.iter().find(|tree| tree.events > kept) else {
        let seen: i64 = trees.iter().map(|tree| tree.events).sum();
        // The last of them may have more.
        *from = trees.last().filter(|_| seen >= most).map_or(0, |tree| tree.root);
        return Ok(*from > 0);
    };
    let many = tree.events - kept;
    let through = sqlx::query_scalar!(
        r#"select max(event_id) as "through!: i64" from (select event_id from events where root_key = ?1 order by event_id limit ?2)"#,
        tree.root,
        many
    );
    let through = through.fetch_one(&mut *conn).await.map_err(error::of)?;
    let cut = sqlx::query!("delete from events where root_key = ?1 and event_id <= ?2", tree.root, through);
    cut.execute(&mut *conn).await.map_err(error::of)?;
    note_gap(conn, tree.root, through).await?;
    *from = tree.root;
    Ok(true)
}

async fn note_gap(conn: &mut SqliteConnection, root: i64, through: i64) -> Result<()> {
    let note = sqlx::query!(
        "insert into event_gaps (root_key, through) values (?1, ?2) on conflict (root_key) do update set through = ?2",
        root,
        through
    );
    note.execute(conn).await.map(drop).map_err(error::of)
}

//! Backends: the rows of what executors keep warm. What becomes of one that is deleted is in `teardown.rs`.

use sqlx::{SqliteConnection, SqlitePool};

use super::{error, sessions, types::Word};
use crate::{
    model::{
        AgentSession, BackendFilter, BackendId, BackendState, BackendStatus, Page, Position, Process, SessionId,
        Timestamp,
    },
    storage::{Error, Result},
};

/// A backend's row, with its place in a list.
struct Row {
    key: i64,
    id: BackendId,
    session_id: SessionId,
    executor: String,
    backend: String,
    agent_session_id: Option<String>,
    pid: Option<i64>,
    pid_started: Option<i64>,
    status: Word<BackendStatus>,
    seen_seq: i64,
    used_at: Timestamp,
}

impl Row {
    fn into_backend(self) -> AgentSession {
        AgentSession {
            id: self.id,
            session_id: self.session_id,
            executor: self.executor,
            backend: self.backend,
            agent_session_id: self.agent_session_id,
            process: process(self.pid, self.pid_started),
            status: self.status.0,
            seen_seq: self.seen_seq,
            used_at: self.used_at,
        }
    }
}

/// A process by its columns. A number that is none, written in a shell, is nobody's.
pub(super) fn process(pid: Option<i64>, started: Option<i64>) -> Option<Process> {
    Some(Process { pid: i32::try_from(pid?).ok()?, started: started? })
}

/// The one list of columns.
macro_rules! select_backends {
    ($rest:literal $(, $value:expr)*) => {
        sqlx::query_as!(
            Row,
            r#"select a.agent_session_key as "key!: i64", a.id as "id: BackendId", s.id as "session_id: SessionId", a.executor, a.backend,
                 a.agent_session_id, a.pid, a.pid_started, a.status as "status: Word<BackendStatus>", a.seen_seq,
                 a.used_at as "used_at: Timestamp"
               from agent_sessions a join live_sessions s using (session_key) "# + $rest
            $(, $value)*
        )
    };
}

/// A backend to work with.
pub(super) struct Open {
    pub(super) session: SessionId,
    pub(super) executor: String,
    pub(super) backend: String,
    /// The id that it gets when there is none.
    pub(super) id: BackendId,
}

pub(super) async fn open(conn: &mut SqliteConnection, input: &Open) -> Result<AgentSession> {
    let key = sessions::row_to_write(conn, &input.session).await?.session_key;
    let (id, now) = (input.id.as_str(), Timestamp::now().0);
    let make = sqlx::query!(
        "insert or ignore into agent_sessions (id, session_key, executor, backend, status, created_at, used_at)
         values (?1, ?2, ?3, ?4, 'dormant', ?5, ?5)",
        id,
        key,
        input.executor,
        input.backend,
        now
    );
    make.execute(&mut *conn).await.map_err(error::of)?;
    let open = sqlx::query!(
        "update agent_sessions set status = 'dormant', closed_at = null
         where session_key = ?1 and executor = ?2 and status = 'closed'",
        key,
        input.executor
    );
    open.execute(&mut *conn).await.map_err(error::of)?;
    // Under the same name another kind of agent is configured now: it knows nothing of the first one's sessions.
    let change = sqlx::query!(
        "update agent_sessions set backend = ?3, agent_session_id = null, seen_seq = 0
         where session_key = ?1 and executor = ?2 and backend <> ?3",
        key,
        input.executor,
        input.backend
    );
    change.execute(&mut *conn).await.map_err(error::of)?;
    let row = select_backends!("where a.session_key = ?1 and a.executor = ?2", key, input.executor);
    row.fetch_one(conn).await.map(Row::into_backend).map_err(error::of)
}

pub(super) async fn update(conn: &mut SqliteConnection, id: &BackendId, state: &BackendState) -> Result<()> {
    let (text, now) = (id.as_str(), Timestamp::now().0);
    let updated = match state {
        BackendState::Warm { process, agent_session_id } => {
            let (pid, started) = (process.map(|process| process.pid), process.map(|process| process.started));
            sqlx::query!(
                "update agent_sessions set status = 'warm', closed_at = null, pid = ?2, pid_started = ?3,
                   agent_session_id = ?4, seen_seq = iif(?4 is null, 0, seen_seq), used_at = max(?5, used_at + 1)
                 where id = ?1",
                text,
                pid,
                started,
                agent_session_id,
                now
            )
            .execute(conn)
            .await
        }
        BackendState::Asked { agent_session_id } => {
            sqlx::query!(
                "update agent_sessions set agent_session_id = ?2, seen_seq = 0, used_at = max(?3, used_at + 1) where id = ?1",
                text,
                agent_session_id,
                now
            )
            .execute(conn)
            .await
        }
        // One that was closed has been ended already.
        BackendState::Dormant | BackendState::Lost => {
            let lost = *state == BackendState::Lost;
            sqlx::query!(
                "update agent_sessions set status = iif(status = 'closed', status, 'dormant'), pid = null, pid_started = null,
                   agent_session_id = iif(?2, null, agent_session_id), seen_seq = iif(?2, 0, seen_seq)
                 where id = ?1",
                text,
                lost
            )
            .execute(conn)
            .await
        }
    };
    match updated.map_err(error::of)?.rows_affected() {
        0 => Err(Error::BackendNotFound(id.clone())),
        _ => Ok(()),
    }
}

/// The agent of an executor knows the history up to here, if it was asked something since then: a run that was
/// cancelled before has told it nothing.
pub(super) async fn note_seen(
    conn: &mut SqliteConnection,
    session: i64,
    executor: &str,
    since: Option<Timestamp>,
) -> Result<()> {
    let since = since.map(|since| since.0);
    let note = sqlx::query!(
        "update agent_sessions set seen_seq = (select last_seq from sessions where session_key = ?1)
         where session_key = ?1 and executor = ?2 and seen_seq = 0 and agent_session_id is not null and used_at >= ?3",
        session,
        executor,
        since
    );
    note.execute(conn).await.map(drop).map_err(error::of)
}

pub(super) async fn page(
    pool: &SqlitePool,
    filter: &BackendFilter,
    after: Option<Position>,
    limit: i64,
) -> Result<Page<AgentSession>> {
    let (after, more) = (after.map_or(0, |place| place.key), limit + 1);
    let rows = match (&filter.below, filter.status) {
        (Some(id), status) => {
            let (key, status) = (sessions::key_to_read(pool, id).await?, status.as_ref().map(super::types::word));
            select_backends!(
                "where a.agent_session_key > ?1 and a.session_key in (
                   with recursive tree (k) as (
                     select ?3
                     union all
                     select c.session_key from live_sessions c join tree on c.parent_key = tree.k
                   )
                   select k from tree
                 ) and (?4 is null or a.status = ?4) order by a.agent_session_key limit ?2",
                after,
                more,
                key,
                status
            )
            .fetch_all(pool)
            .await
        }
        (None, Some(BackendStatus::Warm)) => {
            let rows = select_backends!(
                "where a.agent_session_key > ?1 and a.status = 'warm' order by a.agent_session_key limit ?2",
                after,
                more
            );
            rows.fetch_all(pool).await
        }
        (None, status) => {
            let status = status.as_ref().map(super::types::word);
            let rows = select_backends!(
                "where a.agent_session_key > ?1 and (?3 is null or a.status = ?3) order by a.agent_session_key limit ?2",
                after,
                more,
                status
            );
            rows.fetch_all(pool).await
        }
    };
    let rows = rows.map_err(error::of)?.into_iter();
    let rows = rows.map(|row| (Position { at: row.used_at.0, key: row.key }, row.into_backend()));
    Ok(Page::cut(rows.collect(), limit))
}

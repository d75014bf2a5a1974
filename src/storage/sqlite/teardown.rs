//! Teardown jobs: taken, done, kept for another time. The schema makes them where a row is deleted, in the same
//! transaction; `closing.rs` makes those of backends that could not be ended.

use serde::{Deserialize, Serialize};
use sqlx::{SqliteConnection, SqlitePool};

use super::{
    backends, error,
    types::{self, Json},
};
use crate::{
    model::{AgentSession, BackendId, BackendStatus, SessionId, Teardown, TeardownJob, Timestamp},
    storage::Result,
};

/// Microseconds for which a job belongs to who took it: longer than anybody works on one.
const TAKEN: i64 = 5 * 60 * 1_000_000;
/// Microseconds after which a job that failed is tried again: doubled each time, up to ten minutes.
const AGAIN: i64 = 1_000_000;
const DOUBLED: i64 = 9;

/// What is to be known of a backend whose row is gone: the names are those that the schema's trigger writes.
#[derive(Debug, Serialize, Deserialize)]
struct BackendPayload {
    id: BackendId,
    session_id: SessionId,
    executor: String,
    backend: String,
    agent_session_id: Option<String>,
    pid: Option<i64>,
    pid_started: Option<i64>,
    status: BackendStatus,
    seen_seq: i64,
    used_at: i64,
    purge: bool,
}

impl BackendPayload {
    fn of(backend: &AgentSession) -> Self {
        Self {
            id: backend.id.clone(),
            session_id: backend.session_id.clone(),
            executor: backend.executor.clone(),
            backend: backend.backend.clone(),
            agent_session_id: backend.agent_session_id.clone(),
            pid: backend.process.map(|process| process.pid.into()),
            pid_started: backend.process.map(|process| process.started),
            status: backend.status,
            seen_seq: backend.seen_seq,
            used_at: backend.used_at.0,
            purge: false,
        }
    }

    fn into_teardown(self) -> Teardown {
        let backend = AgentSession {
            id: self.id,
            session_id: self.session_id,
            executor: self.executor,
            backend: self.backend,
            agent_session_id: self.agent_session_id,
            process: backends::process(self.pid, self.pid_started),
            status: self.status,
            seen_seq: self.seen_seq,
            used_at: Timestamp(self.used_at),
        };
        Teardown::Backend { backend, purge: self.purge }
    }
}

/// A job's row.
struct Row {
    key: i64,
    payload: Json<serde_json::Value>,
}

/// A job that a shell made and that says nothing of use is nobody's: it stays for people to see.
fn job(row: Row) -> Option<TeardownJob> {
    match serde_json::from_value::<BackendPayload>(row.payload.0) {
        Ok(payload) => Some(TeardownJob { key: row.key, work: payload.into_teardown() }),
        Err(error) => {
            tracing::error!(job = row.key, %error, "a teardown job is not understood");
            None
        }
    }
}

/// The number of the job that was made last.
pub(super) async fn last(conn: &mut SqliteConnection) -> Result<i64> {
    let last = sqlx::query_scalar!(r#"select coalesce(max(job_key), 0) as "key!: i64" from teardown_jobs"#);
    last.fetch_one(conn).await.map_err(error::of)
}

/// Takes what was made after this job, in the transaction that made it.
pub(super) async fn take_after(conn: &mut SqliteConnection, last: i64) -> Result<Vec<TeardownJob>> {
    let now = Timestamp::now().0;
    let rows = sqlx::query_as!(
        Row,
        r#"update teardown_jobs set next_at = ?2, attempts = attempts + 1 where job_key > ?1
           returning job_key as "key!: i64", payload as "payload!: Json<serde_json::Value>""#,
        last,
        now + TAKEN
    );
    let rows = rows.fetch_all(conn).await.map_err(error::of)?;
    Ok(rows.into_iter().filter_map(job).collect())
}

/// Whether a job is due.
pub(super) async fn any_due(pool: &SqlitePool) -> Result<bool> {
    let now = Timestamp::now().0;
    let due = sqlx::query_scalar!("select job_key from teardown_jobs where next_at <= ?1 limit 1", now);
    due.fetch_optional(pool).await.map(|due| due.is_some()).map_err(error::of)
}

pub(super) async fn claim(conn: &mut SqliteConnection, limit: i64) -> Result<Vec<TeardownJob>> {
    let now = Timestamp::now().0;
    // A backend that is in use again, or was since, or was closed by another call, is not to be ended any more.
    let outdated = sqlx::query!(
        "delete from teardown_jobs
         where next_at <= ?1 and kind = 'backend' and payload ->> 'purge' = 0 and not exists (
           select 1 from agent_sessions a join sessions s using (session_key)
           where a.id = payload ->> 'id' and a.status = 'warm' and a.used_at = payload ->> 'used_at' and s.closed_at is not null
         )",
        now
    );
    outdated.execute(&mut *conn).await.map_err(error::of)?;
    let rows = sqlx::query_as!(
        Row,
        r#"update teardown_jobs set next_at = ?3, attempts = attempts + 1
           where job_key in (select job_key from teardown_jobs where next_at <= ?1 order by next_at, job_key limit ?2)
           returning job_key as "key!: i64", payload as "payload!: Json<serde_json::Value>""#,
        now,
        limit,
        now + TAKEN
    );
    let rows = rows.fetch_all(conn).await.map_err(error::of)?;
    Ok(rows.into_iter().filter_map(job).collect())
}

/// A job that was begun, and why it failed, if it did.
pub(super) struct Finish {
    pub(super) job: TeardownJob,
    pub(super) error: Option<String>,
}

pub(super) async fn finish(conn: &mut SqliteConnection, input: &Finish) -> Result<()> {
    let (key, now) = (input.job.key, Timestamp::now().0);
    if let Some(error) = &input.error {
        let keep = sqlx::query!(
            "update teardown_jobs set last_error = ?2, next_at = ?3 + ?4 * (1 << min(attempts, ?5)) where job_key = ?1",
            key,
            error,
            now,
            AGAIN,
            DOUBLED
        );
        return keep.execute(conn).await.map(drop).map_err(error::of);
    }
    let done = sqlx::query!("delete from teardown_jobs where job_key = ?1", key);
    done.execute(&mut *conn).await.map_err(error::of)?;
    let Teardown::Backend { backend, purge: false } = &input.job.work else { return Ok(()) };
    let (id, used_at) = (backend.id.as_str(), backend.used_at.0);
    let close = sqlx::query!(
        "update agent_sessions set status = 'closed', closed_at = ?3, pid = null, pid_started = null
         where id = ?1 and used_at = ?2 and status <> 'closed'
           and session_key in (select session_key from sessions where closed_at is not null)",
        id,
        used_at,
        now
    );
    close.execute(conn).await.map(drop).map_err(error::of)
}

/// Leaves a job for a backend that could not be ended, unless there is one.
pub(super) async fn leave(conn: &mut SqliteConnection, backend: &AgentSession, error: &str) -> Result<()> {
    let (payload, now) = (types::object(&BackendPayload::of(backend)), Timestamp::now().0);
    let leave = sqlx::query!(
        "insert into teardown_jobs (kind, payload, attempts, last_error, next_at, created_at)
         select 'backend', ?1, 1, ?2, ?3 + ?4, ?3
         where not exists (
           select 1 from teardown_jobs
           where kind = 'backend' and payload ->> 'id' = ?1 ->> 'id' and payload ->> 'used_at' = ?1 ->> 'used_at'
         )",
        payload,
        error,
        now,
        AGAIN
    );
    leave.execute(conn).await.map(drop).map_err(error::of)
}

/// At start nobody works on any: all are due.
pub(super) async fn release(conn: &mut SqliteConnection) -> sqlx::Result<()> {
    let now = Timestamp::now().0;
    sqlx::query!("update teardown_jobs set next_at = ?1 where next_at > ?1", now).execute(conn).await.map(drop)
}

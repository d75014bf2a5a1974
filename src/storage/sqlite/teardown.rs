//! Teardown jobs: taken, done, kept for another time. The schema makes them where a row is deleted, in the same
//! transaction; a close leaves those of what it could not do.

use serde_json::Value;
use sqlx::{SqliteConnection, SqlitePool};

use super::{
    error,
    payload::{payload, work},
    types::Json,
};
use crate::{
    model::{Teardown, TeardownJob, Timestamp},
    storage::Result,
};

/// Microseconds for which a job belongs to who took it: longer than anybody works on one.
const TAKEN: i64 = 5 * 60 * 1_000_000;
/// Microseconds after which a job that failed is tried again: doubled each time, up to ten minutes.
const AGAIN: i64 = 1_000_000;
const DOUBLED: i64 = 9;
/// No job is put off for longer.
pub(super) const LONGEST_DELAY: i64 = AGAIN << DOUBLED;

/// A job's row.
struct Row {
    key: i64,
    kind: String,
    payload: Json<Value>,
}

/// A job that a shell made and that says nothing of use is nobody's: it stays for people to see.
fn job(row: Row) -> Option<TeardownJob> {
    match work(&row.kind, row.payload.0) {
        Ok(work) => Some(TeardownJob { key: row.key, work }),
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

/// Takes what was made after this job, in the transaction that made it. Worktrees are to go whatever is in them where
/// the caller says so.
pub(super) async fn take_after(conn: &mut SqliteConnection, last: i64, discard: bool) -> Result<Vec<TeardownJob>> {
    if discard {
        let note = sqlx::query!(
            "update teardown_jobs set payload = json_set(payload, '$.discard', json('true'))
             where job_key > ?1 and kind = 'worktree'",
            last
        );
        note.execute(&mut *conn).await.map_err(error::of)?;
    }
    let now = Timestamp::now().0;
    let rows = sqlx::query_as!(
        Row,
        r#"update teardown_jobs set next_at = ?2, attempts = attempts + 1 where job_key > ?1
           returning job_key as "key!: i64", kind as "kind!: String", payload as "payload!: Json<Value>""#,
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
           select 1 from agent_sessions a join live_sessions s using (session_key)
           where a.id = payload ->> 'id' and a.status = 'warm' and a.used_at = payload ->> 'used_at'
             and (s.closed_at is not null or payload ->> 'left')
         )",
        now
    );
    outdated.execute(&mut *conn).await.map_err(error::of)?;
    let rows = sqlx::query_as!(
        Row,
        r#"update teardown_jobs set next_at = ?3, attempts = attempts + 1
           where job_key in (
             select job_key from teardown_jobs j where next_at <= ?1
               -- What works in a worktree ends before it.
               and (kind <> 'worktree' or not exists (
                 select 1 from teardown_jobs b
                 where b.kind = 'backend' and b.payload ->> 'root_session_id' = j.payload ->> 'session_id'))
             order by next_at, job_key limit ?2)
           returning job_key as "key!: i64", kind as "kind!: String", payload as "payload!: Json<Value>""#,
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
    let Teardown::Backend { backend, purge: false, left, .. } = &input.job.work else { return Ok(()) };
    let (id, used_at, left) = (backend.id.as_str(), backend.used_at.0, *left);
    let close = sqlx::query!(
        "update agent_sessions set pid = null, pid_started = null,
           status = iif(s.closed_at is null, 'dormant', 'closed'), closed_at = iif(s.closed_at is null, null, ?3)
         from sessions s
         where agent_sessions.id = ?1 and used_at = ?2 and status <> 'closed' and s.session_key = agent_sessions.session_key
           and (s.closed_at is not null or ?4)",
        id,
        used_at,
        now,
        left
    );
    close.execute(conn).await.map(drop).map_err(error::of)
}

/// Something that could not be torn down, and why.
pub(super) struct Leave {
    pub(super) work: Teardown,
    pub(super) error: String,
}

/// Leaves a job, unless there is the same one.
pub(super) async fn leave(conn: &mut SqliteConnection, input: &Leave) -> Result<()> {
    let (kind, payload) = payload(&input.work);
    let now = Timestamp::now().0;
    let leave = sqlx::query!(
        "insert into teardown_jobs (kind, payload, attempts, last_error, next_at, created_at)
         select ?1, ?2, 1, ?3, ?4 + ?5, ?4
         where not exists (
           select 1 from teardown_jobs
           where kind = ?1 and payload ->> 'session_id' = ?2 ->> 'session_id'
             and payload ->> 'id' is (?2 ->> 'id') and payload ->> 'used_at' is (?2 ->> 'used_at')
             and payload ->> 'path' is (?2 ->> 'path')
         )",
        kind,
        payload,
        input.error,
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

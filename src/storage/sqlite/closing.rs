//! Closing and archiving, opening again: a session and everything below it, in one transaction. The schema's triggers
//! tell of it.

use sqlx::{SqliteConnection, SqlitePool};

use super::{error, sessions, teardown, types};
use crate::{
    model::{Closing, Openness, SessionId, Teardown, Timestamp},
    storage::{Error, Result},
};

/// A session to close, with everything below it.
pub(super) struct Close {
    pub(super) id: SessionId,
    pub(super) closing: Closing,
}

pub(super) async fn close(conn: &mut SqliteConnection, input: &Close) -> Result<Vec<Openness>> {
    let Closing { archive, ended, failed, leave_busy } = &input.closing;
    let session = sessions::row_to_write(conn, &input.id).await?;
    let (key, root) = (session.session_key, session.root_session_id);
    let met = ended.iter().chain(failed.iter().map(|(backend, _)| backend));
    let met = types::object(&met.map(|backend| (&backend.id, backend.used_at.0)).collect::<Vec<_>>());
    let mut sessions = below(conn, key, &met).await?;
    if let Some(busy) = sessions.iter().find(|session| session.openness.busy).filter(|_| !leave_busy) {
        return Err(Error::SessionBusy(busy.openness.session_id.clone()));
    }
    let keys: Vec<i64> = sessions.iter().filter(|session| !session.openness.busy).map(|session| session.key).collect();
    let keys = types::object(&keys);
    let left = types::object(&failed.iter().map(|(backend, _)| &backend.id).collect::<Vec<_>>());
    close_backends(conn, &keys, &left).await?;
    for (backend, error) in failed {
        let work = Teardown::Backend { backend: backend.clone(), root: root.clone(), purge: false, left: false };
        teardown::leave(conn, &teardown::Leave { work, error: error.clone() }).await?;
    }
    let now = Timestamp::now().0;
    let close = sqlx::query!(
        "update sessions set closed_at = coalesce(closed_at, ?3), archived_at = iif(?2, coalesce(archived_at, ?3), archived_at),
           version = version + 1, updated_at = max(updated_at, ?3)
         where session_key in (select value from json_each(?1)) and (closed_at is null or (?2 and archived_at is null))",
        keys,
        archive,
        now
    );
    close.execute(&mut *conn).await.map_err(error::of)?;
    let after = below(conn, key, &met).await?;
    for (session, after) in sessions.iter_mut().zip(after) {
        let closed = session.openness.backends - after.openness.backends;
        session.openness = Openness { backends: closed, busy: session.openness.busy, ..after.openness };
    }
    Ok(sessions.into_iter().map(|session| session.openness).collect())
}

/// Closes the backends of these sessions, but those that could not be ended: they are what their rows say.
async fn close_backends(conn: &mut SqliteConnection, keys: &str, left: &str) -> Result<()> {
    let now = Timestamp::now().0;
    let close = sqlx::query!(
        "update agent_sessions set status = 'closed', closed_at = ?3, pid = null, pid_started = null
         where session_key in (select value from json_each(?1)) and status <> 'closed'
           and not (status = 'warm' and id in (select value from json_each(?2)))",
        keys,
        left,
        now
    );
    close.execute(conn).await.map(drop).map_err(error::of)
}

/// A session to open again, with everything below it.
pub(super) struct Open {
    pub(super) id: SessionId,
    /// Whether they are taken out of the archive, and stay closed.
    pub(super) unarchive: bool,
}

pub(super) async fn open(conn: &mut SqliteConnection, input: &Open) -> Result<Vec<Openness>> {
    let (key, now) = (sessions::row_to_write(conn, &input.id).await?.session_key, Timestamp::now().0);
    let open = sqlx::query!(
        "update sessions set closed_at = iif(?2, closed_at, null), archived_at = iif(?2, null, archived_at),
           version = version + 1, updated_at = max(updated_at, ?3)
         where iif(?2, archived_at, closed_at) is not null and session_key in (
           with recursive tree (k) as (
             select ?1
             union all
             select c.session_key from live_sessions c join tree on c.parent_key = tree.k
           )
           select k from tree
         )",
        key,
        input.unarchive,
        now
    );
    open.execute(&mut *conn).await.map_err(error::of)?;
    let sessions = below(conn, key, "[]").await?.into_iter();
    Ok(sessions.map(|session| Openness { backends: 0, ..session.openness }).collect())
}

pub(super) async fn openness(pool: &SqlitePool, id: &SessionId) -> Result<Vec<Openness>> {
    let key = sessions::key_to_read(pool, id).await?;
    let mut conn = pool.acquire().await.map_err(error::of)?;
    Ok(below(&mut conn, key, "[]").await?.into_iter().map(|session| session.openness).collect())
}

/// A session, with its key.
struct Row {
    key: i64,
    openness: Openness,
}

/// A session and everything below it. Warm backends that were met as they are now make nobody busy.
async fn below(conn: &mut SqliteConnection, key: i64, met: &str) -> Result<Vec<Row>> {
    let rows = sqlx::query!(
        r#"with recursive tree (k) as (
             select ?1
             union all
             select c.session_key from live_sessions c join tree on c.parent_key = tree.k
           )
           select s.session_key as "key!: i64", s.id as "id: SessionId", s.closed_at as "closed_at: Timestamp",
             s.archived_at as "archived_at: Timestamp",
             (select count(*) from agent_sessions a where a.session_key = s.session_key and a.status <> 'closed') as "backends!: i64",
             exists (select 1 from runs r where r.session_key = s.session_key and r.status in ('pending', 'running'))
               or exists (
                 select 1 from agent_sessions a
                 where a.session_key = s.session_key and a.status = 'warm'
                   and (a.id, a.used_at) not in (select value ->> 0, value ->> 1 from json_each(?2))
               ) as "busy!: bool"
           from tree join live_sessions s on s.session_key = tree.k order by s.session_key"#,
        key,
        met
    );
    let rows = rows.fetch_all(conn).await.map_err(error::of)?;
    Ok(rows
        .into_iter()
        .map(|row| Row {
            key: row.key,
            openness: Openness {
                session_id: row.id,
                closed_at: row.closed_at,
                archived_at: row.archived_at,
                backends: row.backends,
                busy: row.busy,
            },
        })
        .collect())
}

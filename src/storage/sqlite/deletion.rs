//! Deleting trees: one session's, or those of a step of a cleanup (`cleanup.rs`). The commit is the single critical point.
//!
//! **Deleted stays deleted.** A delete marks its sessions and leaves a tombstone for each. Every query reads
//! `live_sessions`, which leaves marked ones out; the rows go later, in steps (`purge.rs`).

use std::sync::{Arc, atomic::AtomicBool};

use serde_json::json;
use sqlx::SqliteConnection;

use super::{
    error,
    events::{self, NewEvent},
    purge, sessions, teardown,
    types::Json,
};
use crate::{
    model::{
        DeleteCounts, DeleteOptions, DeleteReceipt, EventKind, RunId, RunStatus, SessionId, TeardownJob, Timestamp,
    },
    storage::{Error, Result},
};

/// A session to delete.
pub(super) struct Delete {
    pub(super) id: SessionId,
    pub(super) options: DeleteOptions,
    /// Whether the disk is full: then the session is marked, and all of the rest is for the purge.
    pub(super) full: Arc<AtomicBool>,
}

pub(super) async fn delete(conn: &mut SqliteConnection, input: &Delete) -> Result<DeleteReceipt> {
    let row = sessions::row(conn, &input.id).await?.ok_or_else(|| Error::SessionNotFound(input.id.clone()))?;
    sessions::check_version(&row, input.options.if_match)?;
    let key = row.session_key;
    let tree = sqlx::query!(
        r#"with recursive tree (session_key) as (
             select ?1
             union all
             select c.session_key from live_sessions c join tree on c.parent_key = tree.session_key
           )
           select json_group_array(s.session_key) as "keys!: Keys", coalesce(max(s.pinned), 0) as "pinned!: bool",
             coalesce(max(s.root_key), 0) as "root!: i64"
           from tree join live_sessions s using (session_key)"#,
        key
    );
    let tree = tree.fetch_one(&mut *conn).await.map_err(error::of)?;
    if input.options.keep_pinned && tree.pinned {
        return Err(Error::SessionPinned(input.id.clone()));
    }
    let receipt = receipt(conn, &tree.keys).await?;
    let teardowns = mark(conn, &tree.keys, input.options.discard_worktree).await?;
    purge::first_step(conn, Some(tree.root), &input.full).await?;
    Ok(DeleteReceipt { teardowns, ..receipt })
}

/// Keys of sessions as a JSON array: thousands pass between the statements as one value, which is handed over at once.
pub(super) type Keys = String;

/// What deleting these sessions removes, from their rows alone.
pub(super) async fn receipt(conn: &mut SqliteConnection, keys: &Keys) -> Result<DeleteReceipt> {
    let counts = sqlx::query!(
        r#"select json_group_array(s.id) as "ids!: Json<Vec<String>>", coalesce(sum(s.message_count), 0) as "messages!: i64",
             coalesce(sum(s.attachment_count), 0) as "attachments!: i64", coalesce(sum(s.run_count), 0) as "runs!: i64",
             coalesce(sum(s.content_bytes + s.attachment_bytes), 0) as "bytes!: i64"
           from live_sessions s where s.session_key in (select value from json_each(?1))"#,
        keys
    );
    let counts = counts.fetch_one(&mut *conn).await.map_err(error::of)?;
    let Json(mut ids) = counts.ids;
    ids.sort_unstable();
    // By the few runs that are active, not by the many keys (that is what a `+` is for).
    let active = sqlx::query_scalar!(
        r#"select id as "id: RunId" from runs
           where status in ('pending', 'running') and +session_key in (select value from json_each(?1)) order by id"#,
        keys
    );
    Ok(DeleteReceipt {
        deleted: DeleteCounts {
            sessions: i64::try_from(ids.len()).unwrap_or(i64::MAX),
            messages: counts.messages,
            attachments: counts.attachments,
            runs: counts.runs,
        },
        deleted_session_ids: ids.into_iter().map(SessionId::stored).collect(),
        bytes: counts.bytes,
        cancelled_run_ids: active.fetch_all(conn).await.map_err(error::of)?,
        ..DeleteReceipt::default()
    })
}

/// Marks sessions as deleted, in the transaction of the caller: from its commit nothing shows them. The set holds
/// everything below each of its members, and all of them are live. The cost is that of their rows, whatever they hold;
/// the content is for `purge`. Gives the teardown jobs that this leaves, for the caller to carry out.
pub(super) async fn mark(conn: &mut SqliteConnection, keys: &Keys, discard_worktree: bool) -> Result<Vec<TeardownJob>> {
    let (last, now) = (teardown::last(conn).await?, Timestamp::now().0);
    tell_parents(conn, keys).await?;
    let end_runs = sqlx::query!(
        "update runs set status = 'cancelled', finished_at = ?2
         where status in ('pending', 'running') and +session_key in (select value from json_each(?1))",
        keys,
        now
    );
    end_runs.execute(&mut *conn).await.map_err(error::of)?;
    let tell = sqlx::query!(
        "insert into events (session_key, root_key, kind, created_at, session_id, root_session_id, above)
         select s.session_key, s.root_key, 'session.deleted', ?2, s.id,
           iif(s.parent_key is null, s.id, (select r.id from sessions r where r.session_key = s.root_key)),
           iif(s.parent_key is null, '[]', (
             with recursive above (k, depth) as (
               select s.parent_key, 1
               union all
               select a.parent_key, above.depth + 1 from sessions a join above on a.session_key = above.k
               where a.parent_key is not null and above.depth < 100
             )
             select json_group_array(id) from (select a.id from above join sessions a on a.session_key = above.k order by above.depth)))
         from json_each(?1) j cross join live_sessions s on s.session_key = j.value order by s.session_key",
        keys,
        now
    );
    tell.execute(&mut *conn).await.map_err(error::of)?;
    // Triggers take backends and worktrees with it.
    let bury = sqlx::query!(
        "insert into tombstones (id, deleted_at)
         select s.id, ?2 from json_each(?1) j cross join live_sessions s on s.session_key = j.value",
        keys,
        now
    );
    bury.execute(&mut *conn).await.map_err(error::of)?;
    let queue = sqlx::query!(
        "insert into purges (root_key, spawn_depth, session_key, last_event)
         select s.root_key, s.spawn_depth, s.session_key, (select max(event_id) from events)
         from json_each(?1) j cross join live_sessions s on s.session_key = j.value",
        keys
    );
    queue.execute(&mut *conn).await.map_err(error::of)?;
    let mark = sqlx::query!(
        "update sessions set deleted_at = ?2, version = version + 1
         where session_key in (select value from json_each(?1)) and deleted_at is null",
        keys,
        now
    );
    mark.execute(&mut *conn).await.map_err(error::of)?;
    count_children(conn, keys).await?;
    teardown::take_after(conn, last, discard_worktree).await
}

/// The parents that stay have fewer children.
async fn count_children(conn: &mut SqliteConnection, keys: &Keys) -> Result<()> {
    let count = sqlx::query!(
        "update sessions set children_count = children_count - gone.children, version = version + 1
         from (
           select c.parent_key, count(*) as children from json_each(?1) j cross join sessions c on c.session_key = j.value
           where c.parent_key is not null group by c.parent_key
         ) gone
         where sessions.session_key = gone.parent_key and sessions.deleted_at is null",
        keys
    );
    count.execute(conn).await.map(drop).map_err(error::of)
}

/// Tells the parents that stay that what their children were doing has ended: the runs go with the sessions, and will say
/// nothing more.
async fn tell_parents(conn: &mut SqliteConnection, keys: &Keys) -> Result<()> {
    let ending = sqlx::query!(
        r#"select s.parent_key as "parent!: i64", s.id as "child: SessionId", r.id as "run: RunId"
           from runs r cross join live_sessions s using (session_key)
           where r.status in ('pending', 'running') and +r.session_key in (select value from json_each(?1))
             and s.parent_key not in (select value from json_each(?1)) order by +r.run_key"#,
        keys
    );
    let ending = ending.fetch_all(&mut *conn).await.map_err(error::of)?;
    let told = ending.into_iter().map(|row| {
        let data = json!({ "run_id": row.run, "status": RunStatus::Cancelled, "child_session_id": row.child });
        NewEvent::new(row.parent, EventKind::ChildFinished, data)
    });
    events::record(conn, &told.collect::<Vec<_>>()).await
}

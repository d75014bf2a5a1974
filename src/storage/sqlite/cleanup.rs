//! Cleanups: whole trees, each judged and marked in one transaction, up to [`SESSIONS`] sessions in one. The receipt's row
//! says how far it is, so that one which a crash cut off is resumed.
//!
//! **A cleanup holds up nobody.** Trees are judged by a reader first; the writer judges again only those that have something
//! to delete, and nothing comes between that and their marks.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::AtomicBool},
};

use sqlx::{SqliteConnection, SqlitePool};

use super::{
    deletion, error, purge,
    queue::Writer,
    search::Titles,
    types::{self, Json, Word},
};
use crate::{
    model::{
        Archived, Cleanup, CleanupMode, CleanupReceipt, CleanupStep, KindFilter, RECEIPT_IDS, Receipt, ReceiptId,
        ReceiptStatus, SessionId, Timestamp,
    },
    storage::{Error, Result},
};

/// Sessions that are marked in one transaction at most, unless one tree has more.
const SESSIONS: usize = 500;
/// Trees that are judged at once.
const TREES: i64 = 500;
/// Microseconds for which a finished receipt is kept.
const KEPT: i64 = 7 * 24 * 3600 * 1_000_000;
/// Rows of old receipts that are removed at once.
const FORGOTTEN: i64 = 500;

/// A receipt's row.
struct Row {
    key: i64,
    id: ReceiptId,
    status: Word<ReceiptStatus>,
    request: Json<Cleanup>,
    done_through: i64,
    last_root: i64,
    sessions: i64,
    bytes: i64,
    created_at: Timestamp,
    finished_at: Option<Timestamp>,
}

impl Row {
    fn into_receipt(self) -> Receipt {
        Receipt {
            id: self.id,
            status: self.status.0,
            deleted_count: self.sessions,
            bytes: self.bytes,
            created_at: self.created_at,
            finished_at: self.finished_at,
        }
    }
}

/// The one list of columns.
macro_rules! select_receipts {
    ($rest:literal $(, $value:expr)*) => {
        sqlx::query_as!(
            Row,
            r#"select receipt_key as "key!: i64", id as "id!: ReceiptId", status as "status!: Word<ReceiptStatus>",
                 request as "request!: Json<Cleanup>", done_through as "done_through!: i64", last_root as "last_root!: i64",
                 sessions as "sessions!: i64", bytes as "bytes!: i64", created_at as "created_at!: Timestamp",
                 finished_at as "finished_at: Timestamp"
               from receipts "# + $rest
            $(, $value)*
        )
    };
}

/// A cleanup to begin, with the id of its receipt.
pub(super) struct Begin {
    pub(super) id: ReceiptId,
    pub(super) cleanup: Cleanup,
}

pub(super) async fn begin(conn: &mut SqliteConnection, input: &Begin) -> Result<Receipt> {
    match row_of(conn, &input.id).await {
        Err(Error::ReceiptNotFound(_)) => {}
        found => return found.and(Err(Error::ReceiptExists(input.id.clone()))),
    }
    let (id, request, now) = (input.id.as_str(), types::object(&input.cleanup), Timestamp::now().0);
    let begin = sqlx::query!(
        "insert into receipts (id, status, request, last_root, created_at)
         values (?1, 'running', ?2, (select coalesce(max(session_key), 0) from live_sessions), ?3)",
        id,
        request,
        now
    );
    begin.execute(&mut *conn).await.map_err(error::of)?;
    Ok(row_of(conn, &input.id).await?.into_receipt())
}

/// Removes some of what the oldest receipt holds that is kept no longer; then the receipt. Whether there may be more.
pub(super) async fn forget_old(conn: &mut SqliteConnection) -> Result<bool> {
    let before = Timestamp::now().0 - KEPT;
    let old = sqlx::query_scalar!(
        r#"select receipt_key as "key!: i64" from receipts where finished_at < ?1 order by finished_at limit 1"#,
        before
    );
    let Some(key) = old.fetch_optional(&mut *conn).await.map_err(error::of)? else { return Ok(false) };
    let rows = sqlx::query!(
        "delete from receipt_sessions where receipt_key = ?1 and session_id in (
           select session_id from receipt_sessions where receipt_key = ?1 limit ?2)",
        key,
        FORGOTTEN
    );
    if rows.execute(&mut *conn).await.map_err(error::of)?.rows_affected() == 0 {
        let forget = sqlx::query!("delete from receipts where receipt_key = ?1", key);
        forget.execute(conn).await.map_err(error::of)?;
    }
    Ok(true)
}

async fn row_of(conn: &mut SqliteConnection, id: &ReceiptId) -> Result<Row> {
    let text = id.as_str();
    let row = select_receipts!("where id = ?1", text).fetch_optional(conn).await.map_err(error::of)?;
    row.ok_or_else(|| Error::ReceiptNotFound(id.clone()))
}

pub(super) async fn find(pool: &SqlitePool, id: &ReceiptId) -> Result<Receipt> {
    let mut conn = pool.acquire().await.map_err(error::of)?;
    Ok(row_of(&mut conn, id).await?.into_receipt())
}

pub(super) async fn running(pool: &SqlitePool) -> Result<Vec<Receipt>> {
    let rows = select_receipts!("where status = 'running' order by receipt_key").fetch_all(pool).await;
    Ok(rows.map_err(error::of)?.into_iter().map(Row::into_receipt).collect())
}

pub(super) async fn stop(conn: &mut SqliteConnection, id: &ReceiptId) -> Result<Receipt> {
    let row = row_of(conn, id).await?;
    if row.status.0 == ReceiptStatus::Running {
        finish(conn, row.key, ReceiptStatus::Stopped).await?;
    }
    Ok(row_of(conn, id).await?.into_receipt())
}

async fn finish(conn: &mut SqliteConnection, key: i64, status: ReceiptStatus) -> Result<()> {
    let (status, now) = (types::word(&status), Timestamp::now().0);
    let finish =
        sqlx::query!("update receipts set status = ?2, finished_at = ?3 where receipt_key = ?1", key, status, now);
    finish.execute(conn).await.map(drop).map_err(error::of)
}

/// The ids that a receipt has after this one, in their order, and whether there are more.
pub(super) async fn ids(
    pool: &SqlitePool,
    id: &ReceiptId,
    after: Option<&SessionId>,
    limit: i64,
) -> Result<(Vec<SessionId>, bool)> {
    let (id, after, more) = (id.as_str(), after.map_or("", SessionId::as_str), limit + 1);
    let ids = sqlx::query_scalar!(
        r#"select session_id as "id!: SessionId" from receipt_sessions
           where receipt_key = (select receipt_key from receipts where id = ?1) and session_id > ?2
           order by session_id limit ?3"#,
        id,
        after,
        more
    );
    let mut ids = ids.fetch_all(pool).await.map_err(error::of)?;
    let more = i64::try_from(ids.len()).is_ok_and(|found| found > limit);
    ids.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    Ok((ids, more))
}

/// Deletes the next trees. None when the cleanup has ended.
pub(super) async fn proceed(pool: &SqlitePool, writer: &Writer, id: &ReceiptId) -> Result<Option<CleanupStep>> {
    let mut snapshot = pool.begin().await.map_err(error::of)?;
    let row = row_of(&mut snapshot, id).await?;
    if row.status.0 != ReceiptStatus::Running {
        return Ok(None);
    }
    let roots = roots(&mut snapshot, &row.request.0, row.done_through, row.last_root).await?;
    // Few trees at first and then twice as many, until there is enough for a step: large ones are not judged in vain.
    let (mut judged, mut looked, mut next) = (Vec::new(), 0, 1);
    while looked < roots.len() && judged.len() < SESSIONS {
        let end = (looked + next).min(roots.len());
        judged.extend(doomed(&mut snapshot, &row.request.0, &roots[looked..end]).await?);
        (looked, next) = (end, next * 2);
    }
    drop(snapshot);
    let (roots, through) = first_trees(&roots[..looked], &judged);
    let input = Step { id: id.clone(), roots, through, full: writer.full.clone() };
    writer.call_when_full(input, |conn, input| Box::pin(step(conn, input))).await
}

/// The first trees that together have no more sessions to delete than one transaction takes, and up to which root nothing
/// is left then. All of them where nothing is to be deleted.
fn first_trees(roots: &[i64], judged: &[Doomed]) -> (Vec<i64>, Option<i64>) {
    let mut of_root: HashMap<i64, usize> = HashMap::new();
    for doomed in judged {
        *of_root.entry(doomed.root).or_default() += 1;
    }
    let (mut taken, mut sessions, mut through) = (Vec::new(), 0, None);
    for root in roots {
        if let Some(&found) = of_root.get(root) {
            if sessions > 0 && sessions + found > SESSIONS {
                return (taken, through);
            }
            sessions += found;
            taken.push(*root);
        }
        through = Some(*root);
    }
    (taken, through)
}

struct Step {
    id: ReceiptId,
    roots: Vec<i64>,
    through: Option<i64>,
    /// Whether the disk is full.
    full: Arc<AtomicBool>,
}

/// One transaction: these trees are judged again, marked, and written down.
async fn step(conn: &mut SqliteConnection, input: &Step) -> Result<Option<CleanupStep>> {
    let row = row_of(conn, &input.id).await?;
    if row.status.0 != ReceiptStatus::Running {
        return Ok(None);
    }
    let Some(through) = input.through else {
        finish(conn, row.key, ReceiptStatus::Completed).await?;
        return Ok(None);
    };
    let doomed = doomed(conn, &row.request.0, &input.roots).await?;
    let keys = types::object(&doomed.iter().map(|doomed| doomed.key).collect::<Vec<_>>());
    let receipt = deletion::receipt(conn, &keys).await?;
    let teardowns = deletion::mark(conn, &keys, false).await?;
    purge::first_step(conn, None, &input.full).await?;
    let ids = types::object(&receipt.deleted_session_ids);
    let note = sqlx::query!(
        "insert or ignore into receipt_sessions (receipt_key, session_id) select ?1, value from json_each(?2)",
        row.key,
        ids
    );
    note.execute(&mut *conn).await.map_err(error::of)?;
    let advance = sqlx::query!(
        "update receipts set done_through = ?2, sessions = sessions + ?3, bytes = bytes + ?4 where receipt_key = ?1",
        row.key,
        through,
        receipt.deleted.sessions,
        receipt.bytes
    );
    advance.execute(conn).await.map_err(error::of)?;
    let (deleted, cancelled_run_ids) = (receipt.deleted.sessions, receipt.cancelled_run_ids);
    Ok(Some(CleanupStep { deleted, cancelled_run_ids, teardowns }))
}

/// A dry run: what a cleanup would delete at this instant. It only reads, and no write waits for it.
pub(super) async fn dry_run(pool: &SqlitePool, cleanup: &Cleanup) -> Result<CleanupReceipt> {
    let mut snapshot = pool.begin().await.map_err(error::of)?;
    let mut told = CleanupReceipt { dry_run: true, ..CleanupReceipt::default() };
    let most = usize::try_from(RECEIPT_IDS).unwrap_or(usize::MAX);
    let mut through = 0;
    loop {
        let roots = roots(&mut snapshot, cleanup, through, i64::MAX).await?;
        let Some(last) = roots.last() else { break };
        through = *last;
        let doomed = doomed(&mut snapshot, cleanup, &roots).await?;
        let keys = types::object(&doomed.iter().map(|doomed| doomed.key).collect::<Vec<_>>());
        let receipt = deletion::receipt(&mut snapshot, &keys).await?;
        told.deleted_count += receipt.deleted.sessions;
        told.bytes += receipt.bytes;
        told.deleted_session_ids.extend(receipt.deleted_session_ids);
        told.note_runs(receipt.cancelled_run_ids);
        // The first ones in the order of ids are shown: no more than these are held.
        told.deleted_session_ids.sort_unstable();
        told.deleted_session_ids.truncate(most);
    }
    told.cancelled_run_ids.sort_unstable();
    Ok(told)
}

/// The next roots after this key and up to the other one, whose trees may have something to delete.
async fn roots(conn: &mut SqliteConnection, cleanup: &Cleanup, after: i64, last: i64) -> Result<Vec<i64>> {
    let ids = cleanup.ids.as_ref().map(types::object);
    let parent = cleanup.filter.parent.as_ref().map(SessionId::as_str);
    let root = cleanup.filter.root.as_ref().map(SessionId::as_str);
    if let Some(ids) = ids {
        let roots = sqlx::query_scalar!(
            r#"select distinct root_key as "root!: i64" from json_each(?1) j cross join live_sessions s on s.id = j.value
               where root_key > ?2 and root_key <= ?3 order by root_key limit ?4"#,
            ids,
            after,
            last,
            TREES
        );
        return roots.fetch_all(conn).await.map_err(error::of);
    }
    if let Some(within) = parent.or(root) {
        let roots = sqlx::query_scalar!(
            r#"select root_key as "root!: i64" from live_sessions where id = ?1 and root_key > ?2 and root_key <= ?3"#,
            within,
            after,
            last
        );
        return roots.fetch_all(conn).await.map_err(error::of);
    }
    let roots = sqlx::query_scalar!(
        r#"select session_key as "root!: i64" from live_sessions
           where session_key > ?1 and session_key <= ?2 and parent_key is null order by session_key limit ?3"#,
        after,
        last,
        TREES
    );
    roots.fetch_all(conn).await.map_err(error::of)
}

/// A session to delete, and the root of its tree.
struct Doomed {
    key: i64,
    root: i64,
}

/// The sessions of these trees that a cleanup deletes, decided in one query. Whatever is kept keeps everything above it, so
/// the set holds everything below each of its members.
async fn doomed(conn: &mut SqliteConnection, cleanup: &Cleanup, roots: &[i64]) -> Result<Vec<Doomed>> {
    let (roots, filter) = (types::object(&roots), &cleanup.filter);
    let (empty, children) = (cleanup.mode == CleanupMode::Empty, cleanup.mode == CleanupMode::Children);
    let inactive_before = cleanup.inactive_before.map(|time| time.0);
    let ids = cleanup.ids.as_ref().map(types::object);
    let title = filter.q.as_deref().map(Titles::of);
    let (words, parts, short) = Titles::parameters(title.as_ref());
    let kind = match filter.kind.unwrap_or(KindFilter::All) {
        KindFilter::Root => Some("root"),
        KindFilter::Child => Some("child"),
        KindFilter::All => None,
    };
    let archived = match filter.archived.unwrap_or(Archived::All) {
        Archived::False => Some(false),
        Archived::True => Some(true),
        Archived::All => None,
    };
    let parent = filter.parent.as_ref().map(SessionId::as_str);
    let root = filter.root.as_ref().map(SessionId::as_str);
    let time = |time: Option<Timestamp>, none| time.map_or(none, |time: Timestamp| time.0);
    let (created_from, created_to) = (time(filter.created_after, i64::MIN), time(filter.created_before, i64::MAX));
    let (active_from, active_to) = (time(filter.active_after, i64::MIN), time(filter.active_before, i64::MAX));
    let found = sqlx::query_as!(
        Doomed,
        r#"with recursive
           -- What is named goes with everything below it,
           named (session_key) as (
             select s.session_key from json_each(?1) j cross join live_sessions s on s.root_key = j.value
             where (not ?2 or s.parent_key is not null)
               and (?3 is null or s.id in (select value from json_each(?3)))
               and (?4 is null or s.kind = ?4)
               and (?5 is null or (s.archived_at is not null) = ?5)
               and (?6 is null or s.pinned = ?6)
               and (?7 is null or s.model = ?7)
               and (?8 is null or instr(lower(s.title), ?10) > 0 or s.session_key in (
                      select rowid from session_index where session_index match ?8
                      union all select rowid from title_index where title_index match ?9))
               and (?11 is null or ?11 = exists (select 1 from runs x where x.session_key = s.session_key
                      and x.status in ('pending', 'running') and x.status = 'running'))
               and (?12 is null or s.parent_key = (select p.session_key from live_sessions p where p.id = ?12))
               and (?13 is null or s.root_key = (select r.session_key from live_sessions r where r.id = ?13))
               and s.created_at >= ?14 and s.created_at < ?15 and s.last_activity_at >= ?16 and s.last_activity_at < ?17
             union
             select c.session_key from named cross join live_sessions c on c.parent_key = named.session_key
           ),
           -- but a pinned or archived session keeps the tree below it,
           protected (session_key) as (
             select s.session_key from json_each(?1) j cross join live_sessions s on s.root_key = j.value
             where (s.pinned = 1 and ?18) or (s.archived_at is not null and ?19)
             union
             select c.session_key from protected cross join live_sessions c on c.parent_key = protected.session_key
           ),
           judged (session_key, parent_key, root_key, kept) as materialized (
             select s.session_key, s.parent_key, s.root_key,
               s.session_key not in (select session_key from named)
               or s.session_key in (select session_key from protected)
               or coalesce(s.last_activity_at >= ?20, 0)
               -- Neither inactive nor empty while a run is active.
               or ((?21 or ?20 is not null) and exists (select 1 from runs r where r.session_key = s.session_key
                     and r.status in ('pending', 'running')))
               or (?21 and (s.attachment_count > 0 or s.message_count > 1
                 or exists (select 1 from messages m where m.session_key = s.session_key and m.role not in ('system', 'developer'))))
             from json_each(?1) j cross join live_sessions s on s.root_key = j.value
           ),
           -- and whatever is kept keeps everything above it.
           above (session_key) as (
             select parent_key from judged where parent_key is not null and kept
             union
             select s.parent_key from above cross join live_sessions s using (session_key) where +s.parent_key is not null
           )
           select session_key as "key!: i64", root_key as "root!: i64" from judged
           where not kept and session_key not in (select session_key from above)"#,
        roots,
        children,
        ids,
        kind,
        archived,
        filter.pinned,
        filter.model,
        words,
        parts,
        short,
        filter.running,
        parent,
        root,
        created_from,
        created_to,
        active_from,
        active_to,
        cleanup.keep_pinned,
        cleanup.keep_archived,
        inactive_before,
        empty
    );
    found.fetch_all(conn).await.map_err(error::of)
}

/// The whole of a cleanup, for who has nothing to do between its steps.
pub(super) async fn to_its_end(pool: &SqlitePool, writer: &Writer, cleanup: Cleanup) -> Result<CleanupReceipt> {
    let begin_input = Begin { id: ReceiptId::mint(), cleanup };
    let id = writer.call_when_full(begin_input, |conn, input| Box::pin(begin(conn, input))).await?.id;
    let mut told = CleanupReceipt::default();
    while let Some(step) = proceed(pool, writer, &id).await? {
        told.note_runs(step.cancelled_run_ids);
        told.teardowns.extend(step.teardowns);
    }
    let (receipt, (ids, _)) = (find(pool, &id).await?, ids(pool, &id, None, RECEIPT_IDS).await?);
    Ok(told.of(receipt, ids))
}

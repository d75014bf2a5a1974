//! `culm check`: proves what the schema cannot, also beside a running server.
//!
//! The database is only read, one question at a time: each is one read transaction, so that a check of hours keeps the
//! write-ahead log from being cut for no longer than its longest question takes.

use std::path::Path;

use futures_util::TryStreamExt;
use sha2::{Digest, Sha256};
use sqlx::{
    AssertSqlSafe, ConnectOptions, Connection, Row, SqliteConnection,
    sqlite::{SqliteConnectOptions, SqlitePoolOptions},
};
use tokio_util::sync::CancellationToken;

use super::{
    error,
    index_check::{self, Unchecked},
    open::{self, OpenError},
};
use crate::model::hex;

/// Rows that are read at once where all rows are read.
const ROWS: i64 = 500;
/// Findings of one kind that are told at most.
const MANY: i64 = 100;

/// What must select nothing, and what it means if it does.
const RULES: [(&str, &str); 18] = [
    ("a row refers to one that is not there", "select \"table\" || ' ' || coalesce(rowid, '') from pragma_foreign_key_check"),
    ("the cached message count is wrong",
     "select id from live_sessions s where message_count <> (select count(*) from messages m where m.session_key = s.session_key)"),
    ("the last seq is lower than a message's",
     "select id from live_sessions s where last_seq < (select coalesce(max(seq), 0) from messages m where m.session_key = s.session_key)"),
    ("the cached number of attachments is wrong",
     "select id from live_sessions s where attachment_count <> (select count(*) from attachments a where a.session_key = s.session_key)"),
    ("the cached size of attachments is wrong",
     "select id from live_sessions s where attachment_bytes <> (select coalesce(sum(size), 0) from attachments a where a.session_key = s.session_key)"),
    ("the cached size of messages is wrong",
     "select id from live_sessions s where content_bytes <> (select coalesce(sum(bytes), 0) from messages m where m.session_key = s.session_key)"),
    ("the cached number of runs is wrong",
     "select id from live_sessions s where run_count <> (select count(*) from runs r where r.session_key = s.session_key)"),
    ("the cached number of children is wrong",
     "select id from live_sessions s where children_count <> (select count(*) from live_sessions c where c.parent_key = s.session_key)"),
    ("the place in the tree disagrees with the parent's",
     "select c.id from sessions c join sessions p on p.session_key = c.parent_key where c.root_key <> p.root_key or c.spawn_depth <> p.spawn_depth + 1"),
    ("a deleted session is there", "select id from live_sessions where id in (select id from tombstones)"),
    ("a deleted session is not deleted whole",
     "select s.id from sessions s where s.deleted_at is not null and (s.id not in (select id from tombstones)
        or exists (select 1 from live_sessions c where s.session_key in (c.parent_key, c.root_key))
        or exists (select 1 from runs r where r.session_key = s.session_key and r.status in ('pending', 'running'))
        or exists (select 1 from agent_sessions a where a.session_key = s.session_key)
        or exists (select 1 from worktrees w where w.root_key = s.session_key))"),
    ("a deleted session is not to be purged, or one that is there is",
     "select session_key from (
        select session_key, root_key, spawn_depth from sessions where deleted_at is not null
        except select session_key, root_key, spawn_depth from purges)
      union select session_key from (
        select session_key, root_key, spawn_depth from purges
        except select session_key, root_key, spawn_depth from sessions where deleted_at is not null)"),
    ("a sequence is behind its table",
     "select t.name from (select 'sessions' as name, max(session_key) as last from sessions
        union all select 'messages', max(message_key) from messages union all select 'attachments', max(attachment_key) from attachments
        union all select 'runs', max(run_key) from runs union all select 'usage_records', max(usage_key) from usage_records
        union all select 'agent_sessions', max(agent_session_key) from agent_sessions
        union all select 'teardown_jobs', max(job_key) from teardown_jobs
        union all select 'worktrees', max(worktree_key) from worktrees) t
      left join sqlite_sequence q on q.name = t.name where t.last > coalesce(q.seq, 0)"),
    ("an attachment's size is not that of its bytes",
     "select id from attachments a where size <> (select coalesce(sum(length(bytes)), 0) from attachment_chunks c where c.attachment_key = a.attachment_key)"),
    ("bytes belong to no attachment",
     "select distinct attachment_key from attachment_chunks
      where attachment_key not in (select attachment_key from attachments union all select attachment_key from loose_chunks)"),
    ("what messages show of attachments is recorded wrongly",
     "select message_key from (select message_key, attachment_id from attachment_links except select message_key, attachment_id from attachment_uses)
      union select message_key from (select message_key, attachment_id from attachment_uses except select message_key, attachment_id from attachment_links)"),
    ("a session's text holds NUL", "select id from sessions where instr(title, char(0)) > 0 or instr(coalesce(workspace, ''), char(0)) > 0"),
    ("a message's text holds NUL",
     "select s.id || ' ' || m.seq from messages m join sessions s using (session_key)
      where instr(m.content, char(0)) > 0 or instr(coalesce(m.reasoning, ''), char(0)) > 0"),
];

/// Instructions of SQLite between two looks whether to stop.
const INSTRUCTIONS: i32 = 1000;

/// Texts that are read whole, a page of rows at a time: key, name of the row, text.
const TEXTS: [(&str, &str); 3] = [
    ("a session's text is not UTF-8",
     "select session_key, cast(id as blob), cast(title || coalesce(workspace, '') || coalesce(prompt, '') || metadata as blob)
      from sessions where session_key > ?1 order by session_key limit ?2"),
    ("a message's text is not UTF-8",
     "select message_key, cast(session_key || ' ' || seq as blob), cast(content || coalesce(reasoning, '') || coalesce(parts, '') || coalesce(tool_calls, '') as blob)
      from messages where message_key > ?1 order by message_key limit ?2"),
    ("a usage record is not UTF-8",
     "select usage_key, cast(usage_key as blob), cast(record as blob) from usage_records where usage_key > ?1 order by usage_key limit ?2"),
];

/// Checks a database, and tells after each step how many of all steps were taken. Each finding is one line; none means
/// that it is sound.
///
/// Once it is told to stop, it fails: what SQLite does is interrupted, so that nothing of it holds the database any more.
pub async fn check(
    path: &Path,
    stop: CancellationToken,
    progress: &mut (dyn FnMut(u64, u64) + Send),
) -> Result<Vec<String>, OpenError> {
    if !path.try_exists().unwrap_or(true) {
        return Err(OpenError::Missing(path.into()));
    }
    open::probe(path).await?;
    let refused = |error: sqlx::Error| open::refusal(path, &error);
    let reading = SqliteConnectOptions::new().filename(path).read_only(true).foreign_keys(false);
    let reading = reading.pragma("temp_store", "file").pragma("trusted_schema", "off").disable_statement_logging();
    let mut conn = reading.connect().await.map_err(refused)?;
    conn.lock_handle().await.map_err(refused)?.set_progress_handler(INSTRUCTIONS, move || !stop.is_cancelled());
    let (all, mut done) = (u64::try_from(3 + RULES.len() + TEXTS.len() + index_check::COUNT).unwrap_or(u64::MAX), 0);
    let mut step = || {
        done += 1;
        progress(done, all);
    };
    let mut findings = pages(&mut conn).await.map_err(refused)?;
    step();
    let rest = contents(&mut conn, &mut findings, &mut step).await;
    let closed = conn.close().await.map_err(refused);
    match rest {
        Ok(()) => closed.map(|()| findings),
        Err(Unchecked::Failed(error)) if error::is_damage(&error) => {
            findings.push(format!("the check cannot go on: {error}"));
            Ok(findings)
        }
        Err(Unchecked::Failed(error)) => Err(refused(error)),
        Err(Unchecked::NoRoom { needs, has, folder }) => Err(OpenError::NoRoom { needs, has, folder }),
    }
}

async fn pages(conn: &mut SqliteConnection) -> sqlx::Result<Vec<String>> {
    let mut rows = sqlx::query_scalar::<_, String>("pragma integrity_check(100)").fetch(conn);
    let mut findings = Vec::new();
    loop {
        match rows.try_next().await {
            // A row is a line, or several below a title.
            Ok(Some(row)) => {
                findings.extend(row.lines().filter(|line| *line != "ok" && !line.starts_with("***")).map(page))
            }
            Ok(None) => return Ok(findings),
            // It ends so where it has met damage, after it said which.
            Err(error) if error::is_damage(&error) && !findings.is_empty() => return Ok(findings),
            Err(error) if error::is_damage(&error) => return Ok(vec![page(&error.to_string())]),
            Err(error) => return Err(error),
        }
    }
}

fn page(line: &str) -> String {
    format!("pages: {line}")
}

async fn contents(
    conn: &mut SqliteConnection,
    findings: &mut Vec<String>,
    step: &mut (dyn FnMut() + Send),
) -> Result<(), Unchecked> {
    findings.extend(schema(conn).await?);
    step();
    for (meaning, sql) in RULES {
        let sql =
            format!("select cast(f.\"1\" as text) from (select null as \"1\" where 0 union all {sql}) f limit {MANY}");
        let rows: Vec<Option<String>> = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(&mut *conn).await?;
        findings.extend(rows.into_iter().map(|row| format!("{meaning}: {}", row.unwrap_or_default())));
        step();
    }
    for (meaning, sql) in TEXTS {
        findings.extend(texts(conn, meaning, sql).await?);
        step();
    }
    findings.extend(attachments(conn).await?);
    step();
    for which in 0..index_check::COUNT {
        findings.extend(index_check::check(conn, which).await?);
        step();
    }
    Ok(())
}

/// Compares the schema with the one that the migrations make.
async fn schema(conn: &mut SqliteConnection) -> sqlx::Result<Vec<String>> {
    let sql = "select type || ' ' || name || ': ' || coalesce(sql, '') from sqlite_schema where name not like '\\_sqlx%' escape '\\' and name not like 'sqlite\\_%' escape '\\'";
    let fresh =
        SqlitePoolOptions::new().max_connections(1).connect_with(SqliteConnectOptions::new().in_memory(true)).await?;
    open::MIGRATIONS.run(&fresh).await.map_err(|error| sqlx::Error::Protocol(error.to_string()))?;
    let expected: Vec<String> = sqlx::query_scalar(sql).fetch_all(&fresh).await?;
    fresh.close().await;
    let found: Vec<String> = sqlx::query_scalar(sql).fetch_all(conn).await?;
    let name = |line: &str| line.split(':').next().unwrap_or_default().to_owned();
    let missing = expected
        .iter()
        .filter(|line| !found.contains(line))
        .map(|line| format!("schema: {} is missing or another", name(line)));
    let foreign = found
        .iter()
        .filter(|line| !expected.iter().any(|other| name(other) == name(line)))
        .map(|line| format!("schema: {} is not Culm's", name(line)));
    Ok(missing.chain(foreign).collect())
}

async fn texts(conn: &mut SqliteConnection, meaning: &str, sql: &'static str) -> sqlx::Result<Vec<String>> {
    let (mut findings, mut last) = (Vec::new(), 0i64);
    loop {
        let rows = sqlx::query(sql).bind(last).bind(ROWS).fetch_all(&mut *conn).await?;
        for row in &rows {
            last = row.try_get(0)?;
            let (name, text): (Vec<u8>, Vec<u8>) = (row.try_get(1)?, row.try_get(2)?);
            if std::str::from_utf8(&text).is_err() || std::str::from_utf8(&name).is_err() {
                findings.push(format!("{meaning}: {}", String::from_utf8_lossy(&name)));
            }
        }
        if rows.is_empty() {
            return Ok(findings);
        }
    }
}

/// Reads every attachment's bytes, a chunk at a time, and compares their hash. Each in a transaction of its own: it may be
/// deleted meanwhile.
async fn attachments(conn: &mut SqliteConnection) -> sqlx::Result<Vec<String>> {
    let (mut findings, mut last) = (Vec::new(), 0i64);
    let next =
        "select attachment_key, id, sha256 from attachments where attachment_key > ?1 order by attachment_key limit 1";
    loop {
        let mut conn = conn.begin().await?;
        let Some(row) = sqlx::query(next).bind(last).fetch_optional(&mut *conn).await? else { return Ok(findings) };
        last = row.try_get(0)?;
        let (id, expected): (String, String) = (row.try_get(1)?, row.try_get(2)?);
        let mut hasher = Sha256::new();
        let chunk = "select bytes from attachment_chunks where attachment_key = ?1 and place = ?2";
        for place in 0i64.. {
            let bytes: Option<Vec<u8>> =
                sqlx::query_scalar(chunk).bind(last).bind(place).fetch_optional(&mut *conn).await?;
            let Some(bytes) = bytes else { break };
            hasher.update(bytes);
        }
        let found = hex(&hasher.finalize());
        if found != expected {
            findings.push(format!("an attachment's bytes are not those that were stored: {id}"));
        }
        conn.rollback().await?;
    }
}

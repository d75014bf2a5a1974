//! The schema: what it looks like, how its hot queries are answered, what it refuses, and what holds after a shell's
//! edits, where foreign keys are off.

use culm::model::{CleanupMode, DeleteOptions, NewSession, Role, Truncate};
use sqlx::{AssertSqlSafe, Row, SqliteConnection};

use crate::support::*;

async fn rows(shell: &mut SqliteConnection, sql: String, column: usize) -> Vec<String> {
    let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(shell).await.unwrap();
    rows.iter().map(|row| row.get(column)).collect()
}

#[tokio::test]
async fn the_schema_is_as_reviewed() {
    let database = sqlite().await;
    let sql = "select sql from sqlite_schema where sql is not null order by type, name".to_owned();
    insta::assert_snapshot!(rows(&mut database.shell().await, sql, 0).await.join("\n\n"));
}

/// The texts of the compile-time checked queries.
pub(crate) fn queries() -> Vec<String> {
    let folder = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.sqlx")).unwrap();
    let mut queries: Vec<String> = folder
        .map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap())
        .map(|text| serde_json::from_str::<serde_json::Value>(&text).unwrap()["query"].as_str().unwrap().to_owned())
        .collect();
    queries.sort();
    queries
}

#[tokio::test]
async fn the_hot_queries_are_answered_from_an_index() {
    let database = sqlite().await;
    let mut shell = database.shell().await;
    let mut plans = Vec::new();
    for query in queries() {
        let list = query.starts_with("select s.session_key") || query.contains("json_group_array(session_key)");
        let history = query.contains("messages") && (query.contains("seq") || query.contains("compressed = 0"));
        let search = query.contains("_index i ") || query.contains("from message_hours");
        let append = query.contains("appends");
        let cleanup = query.contains("judged");
        let runs = query.contains("from runs r ");
        if !(list || history || search || append || cleanup || runs) {
            continue;
        }
        let mut plan = Vec::new();
        for statement in
            query.split(';').map(str::trim).filter(|part| !["", "begin immediate", "commit"].contains(part))
        {
            plan.extend(rows(&mut shell, format!("explain query plan {statement}"), 3).await);
        }
        for line in &plan {
            let scans = ["s", "m", "x", "p", "r", "sessions", "messages", "runs"].map(|table| format!("SCAN {table}"));
            // A cleanup looks at each session once.
            assert!(!scans.contains(line) || cleanup, "{line} in {query}");
        }
        // The column list says nothing about the plan.
        let end = query.find("from live_sessions s ").or(query.find("from messages m ")).unwrap_or(0);
        let words: Vec<&str> = query[end..].split_whitespace().collect();
        plans.push(format!("{}\n    {}", words.join(" "), plan.join("\n    ")));
    }
    insta::assert_snapshot!(plans.join("\n\n"));
}

/// A root `r` over `a` over `a1`, and `b` beside `a`; each with messages, an attachment, a run and a usage record.
pub(crate) async fn small_tree(database: &Database) {
    let storage = database.storage();
    create(storage, "r").await;
    for (parent, name) in [("r", "a"), ("a", "a1"), ("r", "b")] {
        child(storage, parent, name).await;
    }
    for name in ["r", "a", "a1", "b"] {
        append(storage, name, vec![said(Role::User, "one"), said(Role::Assistant, "two 数据")]).await;
        attach(storage, name, "f", vec![1, 2]).await;
        storage.append_usage(&id(name), Default::default()).await.unwrap();
    }
    let runs = "insert into runs (id, session_key, executor, status, created_at)
                select 'run-' || id, session_key, 'fake', 'completed', 1 from sessions;
                insert into agent_sessions (id, session_key, executor, backend, agent_session_id, pid, pid_started, status, seen_seq,
                  created_at, used_at)
                select 'of-' || id, session_key, 'fake', 'acp', 'its-' || id, 4711, 17, 'warm', 2, 1, 1 from sessions;
                insert into worktrees (root_key, state, path, repository, git_dir, asked_for, created_at, updated_at)
                values (1, 'attached', '/w', '/repo', '/g', '', 1, 1)";
    run(&mut database.shell().await, runs).await;
}

#[tokio::test]
async fn deleting_in_a_shell_leaves_no_orphan_a_tombstone_and_a_raised_version() {
    for (deleted, wanted, tombstones) in [("r", &[][..], 4), ("a", &["b", "r"], 2), ("a1", &["a", "b", "r"], 1)] {
        let database = sqlite().await;
        small_tree(&database).await;
        let before = read(database.storage(), "r").await;
        let mut shell = database.shell().await;
        run(&mut shell, &format!("delete from sessions where id = '{deleted}'")).await;
        assert_eq!(all_ids(database.storage()).await, wanted);
        assert_eq!(number(&mut shell, "select count(*) from tombstones").await, tombstones);
        assert_sound(&mut shell).await;
        // Of what was warm there is a job, which knows all that there is to know.
        let jobs = "select count(*) from teardown_jobs where kind = 'backend' and payload ->> 'purge'
                      and payload ->> 'id' = 'of-' || (payload ->> 'session_id') and payload ->> 'pid' = 4711
                      and payload ->> 'agent_session_id' = 'its-' || (payload ->> 'session_id')
                      and payload ->> 'session_id' in (select id from tombstones)";
        assert_eq!(number(&mut shell, jobs).await, tombstones);
        assert_eq!(number(&mut shell, "select count(*) from teardown_jobs where kind = 'backend'").await, tombstones);
        let worktrees = "select count(*) from teardown_jobs where kind = 'worktree' and payload ->> 'path' = '/w'";
        assert_eq!(number(&mut shell, worktrees).await, i64::from(deleted == "r"));
        if deleted == "a" {
            assert!(read(database.storage(), "r").await.version > before.version);
        }
        until(&mut shell, "select count(*) from attachment_chunks", 4 - tombstones).await;
    }
}

#[tokio::test]
async fn editing_in_a_shell_raises_the_version_and_keeps_the_index() {
    let database = sqlite().await;
    small_tree(&database).await;
    let storage = database.storage();
    let mut shell = database.shell().await;
    for edit in [
        "update sessions set title = 'new' where id = 'a'",
        "update sessions set pinned = 1 where id = 'a'",
        "update sessions set conversation_summary = '{\"content\": \"short\"}' where id = 'a'",
        "update messages set content = 'edited', content_terms = null where id = 'one' and session_key = 2",
        "update messages set role = 'tool' where id = 'one' and session_key = 2",
        "delete from messages where id = 'one' and session_key = 2",
        "insert into messages (session_key, seq, id, role, content, created_at, updated_at)
         values (2, 9, 'nine', 'user', 'hello', 1, 1)",
        "delete from attachments where session_key = 2",
    ] {
        let before = read(storage, "a").await.version;
        run(&mut shell, edit).await;
        assert!(read(storage, "a").await.version > before, "{edit}");
        assert_sound(&mut shell).await;
    }
    let session = read(storage, "a").await;
    assert_eq!((session.title.as_str(), session.message_count, session.last_seq), ("new", 2, 9));
}

/// A chain of parents, deeper than a cascade along it could go.
async fn chain(database: &Database, depth: i64) {
    let mut shell = database.shell().await;
    let fill = format!(
        "begin immediate;
         insert into sessions (session_key, id, kind, parent_key, root_key, spawn_depth, created_at, updated_at, last_activity_at)
         with recursive c (n) as (select 1 union all select n + 1 from c where n < {depth})
         select n, 's' || n, iif(n = 1, 'root', 'child'), nullif(n - 1, 0), 1, n - 1, 1, 1, 1 from c;
         insert into messages (session_key, seq, id, role, content, created_at, updated_at)
         select session_key, 1, 'm', 'user', 'hello', 1, 1 from sessions;
         insert into agent_sessions (id, session_key, executor, backend, status, created_at, used_at)
         select id, session_key, 'e', 'acp', 'dormant', 1, 1 from sessions;
         commit"
    );
    run(&mut shell, &fill).await;
}

#[tokio::test]
async fn a_chain_1500_deep_is_deleted_whole_from_any_place() {
    for (place, left) in [("s1", 0), ("s2", 1)] {
        let database = sqlite().await;
        chain(&database, 1500).await;
        let receipt = database.storage().delete_session(&id(place), DeleteOptions::default()).await.unwrap();
        let mut shell = database.shell().await;
        assert_eq!(receipt.deleted.sessions, 1500 - left);
        assert_eq!(i64::try_from(receipt.teardowns.len()).unwrap(), 1500 - left);
        assert_eq!(number(&mut shell, "select count(*) from live_sessions").await, left);
        until(&mut shell, "select count(*) from sessions", left).await;
        assert_eq!(number(&mut shell, "select count(*) from tombstones").await, 1500 - left);
        assert_sound(&mut shell).await;
    }
}

#[tokio::test]
async fn a_chain_1500_deep_is_deleted_whole_in_a_shell() {
    for (place, left) in [("s1", 0), ("s2", 1)] {
        let database = sqlite().await;
        chain(&database, 1500).await;
        let mut shell = database.shell().await;
        run(&mut shell, &format!("delete from sessions where id = '{place}'")).await;
        assert_eq!(number(&mut shell, "select count(*) from sessions").await, left);
        assert_eq!(number(&mut shell, "select count(*) from teardown_jobs").await, 1500 - left);
        assert_eq!(number(&mut shell, "select count(*) from tombstones").await, 1500 - left);
        assert_sound(&mut shell).await;
    }
}

/// Each rule of the schema, by a statement that breaks it and no other.
#[tokio::test]
#[expect(clippy::too_many_lines, reason = "a table: one line a rule")]
async fn each_rule_of_the_schema_refuses_what_breaks_it() {
    let database = sqlite().await;
    small_tree(&database).await;
    create(database.storage(), "root of 5").await;
    database.storage().create_session(new("gone"), None).await.unwrap();
    database.storage().delete_session(&id("gone"), DeleteOptions::default()).await.unwrap();
    let mut shell = database.shell().await;
    let session = |id: &str, kind: &str, parent: &str, root: &str, depth: &str| {
        format!(
            "insert into sessions (session_key, id, kind, parent_key, root_key, spawn_depth, created_at, updated_at, last_activity_at)
             values (99, {id}, '{kind}', {parent}, {root}, {depth}, 1, 1, 1)"
        )
    };
    let message = |session: &str, seq: &str, id: &str, role: &str| {
        format!(
            "insert into messages (session_key, seq, id, role, created_at, updated_at)
             values ({session}, {seq}, '{id}', '{role}', 1, 1)"
        )
    };
    let started = |id: &str, status: &str, attempt: &str| {
        format!(
            "insert into runs (id, session_key, executor, status, attempt, created_at)
             values ('{id}', 2, 'fake', '{status}', {attempt}, 1)"
        )
    };
    let attachment = |session: &str, id: &str, size: &str, sha: &str| {
        format!(
            "insert into attachments (session_key, id, mime_type, size, sha256, created_at)
             values ({session}, '{id}', 'x', {size}, {sha}, 1)"
        )
    };
    let backend = |session: &str, id: &str, pid: &str, started: &str, status: &str, seen: &str, closed: &str| {
        format!(
            "insert into agent_sessions (id, session_key, executor, backend, pid, pid_started, status, seen_seq, created_at, used_at, closed_at)
             values ('{id}', {session}, 'other', 'acp', {pid}, {started}, '{status}', {seen}, 1, 1, {closed})"
        )
    };
    let job = |kind: &str, payload: &str, attempts: &str| {
        format!(
            "insert into teardown_jobs (kind, payload, attempts, next_at, created_at) values ('{kind}', '{payload}', {attempts}, 1, 1)"
        )
    };
    let worktree = |root: &str, state: &str, path: &str, git_dir: &str, rescue: &str| {
        format!(
            "insert into worktrees (root_key, state, path, repository, git_dir, rescue_ref, asked_for, created_at, updated_at)
             values ({root}, '{state}', '{path}', '/repo', {git_dir}, {rescue}, '', 1, 1)"
        )
    };
    let sha = "hex(zeroblob(32))";
    let set = |column: &str, value: &str| format!("update sessions set {column} = {value} where session_key = 2");
    let write =
        |column: &str, value: &str| format!("update messages set {column} = {value} where session_key = 2 and seq = 1");
    // What is right is taken: the rules refuse the one thing that each case below changes.
    for right in [
        session("'ok'", "root", "null", "99", "0"),
        message("2", "50", "ok", "user"),
        started("ok", "pending", "1"),
        attachment("2", "ok", "1", sha),
        backend("2", "ok", "4711", "17", "warm", "0", "null"),
        backend("2", "ok", "null", "null", "closed", "3", "1"),
        job("backend", "{}", "0"),
        worktree("5", "creating", "/ok", "null", "null"),
        worktree("5", "removing", "file:///%FF", "'/ok'", "'refs/rescue/ok'"),
        worktree("1", "removed", "/w", "'/g'", "null"),
    ] {
        run(&mut shell, &format!("begin; {right}; rollback")).await;
    }
    run(&mut shell, &started("active", "running", "1")).await;
    let mut wrong = vec![
        session("''", "root", "null", "99", "0"),
        session("hex(zeroblob(65))", "root", "null", "99", "0"),
        session("'r'", "root", "null", "99", "0"),
        session("'gone'", "root", "null", "99", "0"),
        session("'x'", "other", "1", "1", "1"),
        session("'x'", "root", "1", "99", "0"),
        session("'x'", "root", "null", "1", "0"),
        session("'x'", "root", "null", "99", "1"),
        session("'x'", "child", "null", "1", "1"),
        session("'x'", "child", "1", "99", "1"),
        session("'x'", "child", "1", "1", "0"),
        session("'x'", "child", "1", "1", "100001"),
        message("2", "1", "x", "user"),
        message("2", "0", "x", "user"),
        message("2", "50", "one", "user"),
        message("2", "50", "", "user"),
        message("2", "50", "x", "other"),
        message("77", "50", "x", "user"),
        started("run-a", "completed", "1"),
        started("", "completed", "1"),
        started("x", "other", "1"),
        started("x", "completed", "0"),
        started("x", "pending", "1"),
        attachment("2", "f", "1", sha),
        attachment("2", "", "1", sha),
        attachment("2", "x", "-1", sha),
        attachment("2", "x", "1", "'short'"),
        attachment("77", "x", "1", sha),
        backend("2", "", "4711", "17", "warm", "0", "null"),
        backend("2", "of-r", "4711", "17", "warm", "0", "null"),
        backend("77", "x", "4711", "17", "warm", "0", "null"),
        backend("2", "x", "1", "17", "warm", "0", "null"),
        backend("2", "x", "-4711", "17", "warm", "0", "null"),
        backend("2", "x", "4711", "null", "warm", "0", "null"),
        backend("2", "x", "4711", "17", "dormant", "0", "null"),
        backend("2", "x", "null", "null", "other", "0", "null"),
        backend("2", "x", "null", "null", "closed", "0", "null"),
        backend("2", "x", "null", "null", "warm", "0", "1"),
        backend("2", "x", "null", "null", "warm", "-1", "null"),
        "insert into agent_sessions (id, session_key, executor, backend, status, created_at, used_at) values ('x', 2, 'fake', 'acp', 'warm', 1, 1)".into(),
        "insert into agent_sessions (id, session_key, executor, backend, status, created_at, used_at) values ('x', 2, 'x', 'acp', 'warm', 0, 1)".into(),
        "insert into agent_sessions (id, session_key, executor, backend, status, created_at, used_at) values ('x', 2, 'x', 'acp', 'warm', 1, 0)".into(),
        "update agent_sessions set session_key = 3 where session_key = 2".into(),
        "update agent_sessions set executor = 'renamed' where session_key = 2".into(),
        "update agent_sessions set id = 'renamed' where session_key = 2".into(),
        job("other", "{}", "0"),
        job("backend", "[]", "0"),
        job("backend", "{", "0"),
        job("backend", "{}", "-1"),
        worktree("77", "creating", "/x", "null", "null"),
        worktree("2", "creating", "/x", "null", "null"),
        worktree("1", "creating", "/x", "null", "null"),
        worktree("5", "creating", "/w", "null", "null"),
        worktree("5", "attached", "/x", "'/g'", "null"),
        worktree("5", "attached", "/x", "null", "null"),
        worktree("5", "retained", "/x", "null", "null"),
        worktree("5", "removing", "/x", "'/x'", "null"),
        worktree("5", "removing", "/x", "'/x'", "'refs/heads/main'"),
        worktree("5", "creating", "x", "null", "null"),
        worktree("5", "creating", "file://x", "null", "null"),
        worktree("5", "creating", "/x", "'x'", "null"),
        worktree("5", "other", "/x", "'/x'", "null"),
        "update worktrees set repository = 'x'".into(),
        "update worktrees set branch_created = 2".into(),
        "update worktrees set adopted = 2".into(),
        "update worktrees set main = 2".into(),
        "update worktrees set discard = 2".into(),
        "update worktrees set created_at = 0".into(),
        "update worktrees set updated_at = 0".into(),
        "insert into attachment_chunks (attachment_key, place, bytes) values (1, -1, x'00')".into(),
        "insert into usage_records (session_key, record, created_at) values (2, '[]', 1)".into(),
        "insert into usage_records (session_key, record, created_at) values (2, '{', 1)".into(),
        "insert into idempotency_keys (scope, key, body_hash, status, answer, created_at) values ('s', 'k', 'h', 500, '1', 1)".into(),
        "insert into idempotency_keys (scope, key, body_hash, status, answer, created_at) values ('s', 'k', 'h', 200, '{', 1)".into(),
    ];
    for id in ["'.'", "'a..b'", "'a/b'", "'a\\b'", "'cleanup'", "'truncate'", "'count'", "'search'"] {
        wrong.push(session(id, "root", "null", "99", "0"));
    }
    for (column, value) in [
        ("session_key", "98"),
        ("id", "'renamed'"),
        ("kind", "'root'"),
        ("parent_key", "4"),
        ("root_key", "2"),
        ("spawn_depth", "0"),
        ("pinned", "2"),
        ("pinned", "'yes'"),
        ("title", "null"),
        ("reasoning_effort", "'most'"),
        ("metadata", "'[]'"),
        ("metadata", "'{'"),
        ("extra", "'[]'"),
        ("extra", "'{'"),
        ("model_ref", "'{'"),
        ("last_run_status", "'other'"),
        ("pending_question", "'{'"),
        ("token_usage", "'{'"),
        ("token_budget", "'{'"),
        ("task_list", "'{'"),
        ("conversation_summary", "'{'"),
        ("message_count", "-1"),
        ("last_seq", "-1"),
        ("attachment_count", "-1"),
        ("attachment_bytes", "-1"),
        ("children_count", "-1"),
        ("version", "-1"),
        ("created_at", "0"),
        ("updated_at", "0"),
        ("last_activity_at", "0"),
    ] {
        wrong.push(set(column, value));
    }
    for (column, value) in [
        ("message_key", "98"),
        ("session_key", "1"),
        ("seq", "60"),
        ("id", "'renamed'"),
        ("role", "'other'"),
        ("content", "null"),
        ("parts", "'{'"),
        ("tool_calls", "'{'"),
        ("metadata", "'{'"),
        ("extra", "'[]'"),
        ("tool_success", "2"),
        ("compressed", "2"),
        ("created_at", "0"),
        ("updated_at", "0"),
    ] {
        wrong.push(write(column, value));
    }
    for statement in wrong {
        assert!(try_run(&mut shell, &statement).await.is_err(), "the schema takes {statement}");
    }
    assert_sound(&mut shell).await;
}

/// Defect 10 is gone: the index is the messages after every kind of write.
#[tokio::test]
async fn the_index_and_the_counters_are_true_after_every_kind_of_write() {
    let database = sqlite().await;
    small_tree(&database).await;
    let storage = database.storage();
    let mut shell = database.shell().await;
    assert_sound(&mut shell).await;
    storage.edit_message(&id("a"), &mid("two 数据"), "changed 数据".into(), None).await.unwrap();
    assert_sound(&mut shell).await;
    storage.delete_message(&id("a"), &mid("one"), None).await.unwrap();
    assert_sound(&mut shell).await;
    append(storage, "a", vec![said(Role::User, "three"), calls("four", &["c"]), said(Role::Assistant, "five")]).await;
    storage.truncate_messages(&id("a"), Truncate::ErrorRetry {}, None).await.unwrap();
    assert_sound(&mut shell).await;
    storage.truncate_messages(&id("a"), Truncate::After { message_id: mid("three") }, None).await.unwrap();
    assert_sound(&mut shell).await;
    storage.update_session(&id("a"), title("renamed"), None).await.unwrap();
    assert_sound(&mut shell).await;
    let mut whole = storage.load_session(&id("b")).await.unwrap().unwrap();
    whole.session.conversation_summary = Some(serde_json::json!({ "content": "short" }).into());
    whole.messages[0].content = "saved 数据".into();
    whole.messages.remove(1);
    storage.save_session(whole.changes()).await.unwrap();
    assert_sound(&mut shell).await;
    storage.clear_session(&id("b"), None).await.unwrap();
    assert_sound(&mut shell).await;
    storage.delete_session(&id("a"), DeleteOptions::default()).await.unwrap();
    assert_sound(&mut shell).await;
    storage.create_session(NewSession { system_prompt: Some("brief".into()), ..new("x") }, None).await.unwrap();
    storage.cleanup_sessions(cleanup(CleanupMode::Empty)).await.unwrap();
    assert_sound(&mut shell).await;
    storage.cleanup_sessions(cleanup(CleanupMode::All)).await.unwrap();
    assert_sound(&mut shell).await;
    run(&mut shell, "create virtual table temp.words using fts5vocab (main, message_index, row)").await;
    assert_eq!(number(&mut shell, "select count(*) from temp.words").await, 0);
}

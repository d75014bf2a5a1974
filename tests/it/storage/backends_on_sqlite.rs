//! What only SQLite has of backends and of closing: a shell that edits, and a database from before them.

use culm::{
    model::{BackendState, DeleteOptions, Process, Role, Teardown},
    storage::{
        Storage,
        sqlite::{Options, SqliteStorage, check},
    },
};

use tokio_util::sync::CancellationToken;

use super::{
    agent_sessions::backend,
    jobs::{attached, tree},
};
use crate::support::*;

/// What an agent remembers is derived from the history, whoever changes that.
#[tokio::test]
async fn a_history_that_is_edited_in_a_shell_is_forgotten_by_the_agents() {
    let database = sqlite().await;
    for session in ["r", "a"] {
        create(database.storage(), session).await;
        append(database.storage(), session, vec![said(Role::User, "one"), said(Role::Assistant, "two")]).await;
        backend(database.storage(), session).await;
    }
    let mut shell = database.shell().await;
    let known = "select count(*) from agent_sessions where agent_session_id is not null and seen_seq > 0";
    for edit in [
        "update messages set content = 'edited', content_terms = null where id = 'one' and session_key = 2",
        "update messages set role = 'tool' where id = 'one' and session_key = 2",
        "update messages set reasoning = 'why' where id = 'one' and session_key = 2",
        "update messages set parts = '[]' where id = 'one' and session_key = 2",
        "update messages set tool_calls = '[]' where id = 'one' and session_key = 2",
        "update messages set tool_call_id = 'c' where id = 'one' and session_key = 2",
        "update messages set tool_success = 1 where id = 'one' and session_key = 2",
        "delete from messages where id = 'one' and session_key = 2",
    ] {
        run(&mut shell, "update agent_sessions set agent_session_id = 'known', seen_seq = 2").await;
        run(&mut shell, edit).await;
        assert_eq!(number(&mut shell, known).await, 1, "{edit}");
        assert_eq!(number(&mut shell, "select seen_seq from agent_sessions where session_key = 2").await, 0);
    }
    run(&mut shell, "update agent_sessions set agent_session_id = 'known', seen_seq = 2").await;
    for no_edit in [
        "update messages set compressed = 1, metadata = '{}', updated_at = 2 where session_key = 2",
        "update messages set content = content, role = role where session_key = 2",
        "insert into messages (session_key, seq, id, role, content, created_at, updated_at)
         values (2, 9, 'nine', 'user', 'hello', 1, 1)",
        "update sessions set title = 'new' where session_key = 2",
    ] {
        run(&mut shell, no_edit).await;
        assert_eq!(number(&mut shell, known).await, 2, "{no_edit}");
    }
    assert_sound(&mut shell).await;
}

/// Who closes a session in a shell, or opens it again, is heard of.
#[tokio::test]
async fn closing_and_archiving_in_a_shell_raise_the_version_and_are_told() {
    let database = sqlite().await;
    create(database.storage(), "a").await;
    let mut shell = database.shell().await;
    for (edit, kind, is) in [
        ("closed_at = 5", "session.closed", 1),
        ("archived_at = 5", "session.archived", 1),
        ("archived_at = null", "session.archived", 0),
        ("closed_at = null", "session.closed", 0),
    ] {
        let version = read(database.storage(), "a").await.version;
        run(&mut shell, &format!("update sessions set {edit}")).await;
        assert_eq!(read(database.storage(), "a").await.version, version + 1);
        let told = format!(
            "select count(*) from (select kind, data from events order by event_id desc limit 1)
             where kind = '{kind}' and (select value from json_each(data)) = {is}"
        );
        assert_eq!(number(&mut shell, &told).await, 1, "{edit}");
    }
    // An append opens whatever the clocks say.
    run(&mut shell, "update sessions set closed_at = 9000000000000000").await;
    say(database.storage(), "a", &["hi"]).await;
    assert!(read(database.storage(), "a").await.closed_at.is_none());
    let events = number(&mut shell, "select count(*) from events").await;
    run(&mut shell, "update sessions set closed_at = null, archived_at = null").await;
    assert_eq!(number(&mut shell, "select count(*) from events").await, events, "nothing changed");
}

/// What an older Culm has written is read by this one: a database as the first migrations made it, with a tree in it.
#[tokio::test]
async fn a_database_from_before_backends_is_migrated_and_used() {
    let (folder, before) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/migrations/sqlite")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if name.as_str() <= "0010_events.sql" {
            std::fs::copy(&path, before.path().join(name)).unwrap();
        }
    }
    let path = folder.path().join("culm.db");
    std::fs::write(&path, "").unwrap();
    let mut old = shell(&path).await;
    sqlx::migrate::Migrator::new(before.path()).await.unwrap().run(&mut old).await.unwrap();
    assert_eq!(number(&mut old, "pragma user_version").await, 10);
    run(
        &mut old,
        "insert into sessions (session_key, id, kind, parent_key, root_key, spawn_depth, closed_at, created_at, updated_at, last_activity_at)
         values (1, 'r', 'root', null, 1, 0, null, 1, 1, 1), (2, 'a', 'child', 1, 1, 1, 5, 1, 1, 1);
         insert into messages (session_key, seq, id, role, content, created_at, updated_at) values (1, 1, 'm', 'user', 'hello', 1, 1)",
    )
    .await;
    sqlx::Connection::close(old).await.unwrap();
    let storage = SqliteStorage::open(&Options::new(&path)).await.unwrap();
    assert_eq!(texts(&storage, "r").await, ["hello"]);
    assert!(read(&storage, "a").await.closed_at.is_some());
    let backend = backend(&storage, "r").await;
    let process = Some(Process { pid: 4711, started: 17 });
    storage.update_agent_session(&backend.id, BackendState::Warm { process, agent_session_id: None }).await.unwrap();
    let receipt = storage.delete_session(&id("r"), DeleteOptions::default()).await.unwrap();
    assert_eq!((receipt.deleted.sessions, receipt.teardowns.len()), (2, 1));
    let mut shell = shell(&path).await;
    assert_sound(&mut shell).await;
    storage.close().await;
    assert_eq!(check(&path, CancellationToken::new(), &mut |_, _| ()).await.unwrap(), Vec::<String>::new());
}

/// What works in a worktree is ended before it is removed; and a job that failed is due later each time.
#[tokio::test]
async fn a_worktrees_job_waits_for_what_works_in_it() {
    let database = sqlite().await;
    let storage = database.storage();
    tree(storage).await;
    attached(storage, "closed").await;
    let receipt = storage.delete_session(&id("r"), DeleteOptions::default()).await.unwrap();
    assert_eq!(receipt.teardowns.len(), 4);
    let mut shell = database.shell().await;
    let due = "update teardown_jobs set next_at = 1";
    run(&mut shell, due).await;
    let taken = storage.claim_teardowns(2).await.unwrap();
    assert_eq!(taken.len(), 2);
    let rest = storage.claim_teardowns(10).await.unwrap();
    assert_eq!(rest.len(), 1);
    for job in taken.iter().chain(&rest) {
        assert!(matches!(job.work, Teardown::Backend { .. }), "{job:?}");
    }
    storage.finish_teardown(&rest[0], Some("it hangs".into())).await.unwrap();
    for job in &taken {
        storage.finish_teardown(job, None).await.unwrap();
    }
    let mut before = 0;
    for _ in 0..15 {
        run(&mut shell, due).await;
        let again = storage.claim_teardowns(10).await.unwrap();
        assert_eq!(again, rest);
        storage.finish_teardown(&again[0], Some("it hangs".into())).await.unwrap();
        let wait = "select next_at - cast((julianday('now') - 2440587.5) * 86400000000 as integer) from teardown_jobs where kind = 'backend'";
        let wait = number(&mut shell, wait).await;
        assert!(wait > before * 3 / 2 || wait > 500_000_000, "{before} us, then {wait}");
        assert!(wait < 600_000_000);
        before = wait;
    }
    storage.finish_teardown(&rest[0], None).await.unwrap();
    run(&mut shell, due).await;
    let last = storage.claim_teardowns(10).await.unwrap();
    assert!(matches!(last.as_slice(), [job] if matches!(job.work, Teardown::Worktree { .. })), "{last:?}");
}

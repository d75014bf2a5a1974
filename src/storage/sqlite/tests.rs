//! **Cost follows the change, not the history.** What each call of storage makes SQLite do is counted, in steps of its
//! virtual machine, among a small history and among one of ten times the size: of everything, there is ten times as much.
//!
//! A plan does not say this: `SEARCH` may walk all that ever was. What is exempt is named, with the reason.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
};

use futures_util::stream;
use sqlx::{AssertSqlSafe, Connection, SqliteConnection};

use super::{Options, SqliteStorage};
use crate::{
    model::*,
    storage::{AppendOptions, Storage},
};

static STEPS: AtomicU64 = AtomicU64::new(0);

/// Has a connection count its steps.
async fn count(conn: &mut SqliteConnection) {
    let mut handle = conn.lock_handle().await.unwrap();
    handle.set_progress_handler(1, || {
        STEPS.fetch_add(1, Ordering::Relaxed);
        true
    });
}

fn id(text: &str) -> SessionId {
    text.parse().unwrap()
}

/// Sessions that are like all others: what few are is few in both histories. `n` of everything else, elsewhere and in
/// the session `target`, whose tree has `n` children.
fn fill(n: u64) -> String {
    format!(
        "begin immediate;
         create temp table numbers (n integer primary key);
         insert into numbers with recursive c (n) as (select 1 union all select n + 1 from c where n < {n}) select n from c;
         insert into sessions (session_key, id, kind, root_key, title, model, created_at, updated_at, last_activity_at)
         values (1, 'target', 'root', 1, 'Target', 'usual', 1, 1, 1);
         insert into sessions (session_key, id, kind, root_key, title, model, created_at, updated_at, last_activity_at)
         select n + 1, 's' || n, 'root', n + 1, 'Title ' || n, 'usual', n, n, n from numbers;
         insert into sessions (session_key, id, kind, root_key, title, created_at, updated_at, last_activity_at, archived_at, closed_at)
         select n + {n} + 1, 'a' || n, 'root', n + {n} + 1, 'Title ' || n, n, n, n, n, n from numbers;
         insert into sessions (session_key, id, kind, parent_key, root_key, spawn_depth, title, created_at, updated_at, last_activity_at)
         select n + 2 * {n} + 1, 'c' || n, 'child', 1, 1, 1, 'Child ' || n, n, n, n from numbers;
         update sessions set pinned = 1, model = 'rare', title = 'Rarely' where id in ('s7', 's8', 's9');
         insert into messages (session_key, seq, id, role, content, created_at, updated_at)
         select 1, n, 'm' || n, iif(n % 2, 'user', 'assistant'), 'said ' || n, n, n from numbers;
         insert into messages (session_key, seq, id, role, content, created_at, updated_at)
         select n + 1, 1, 'only', 'user', iif(n = 7, 'needle', 'hay ' || n), n, n from numbers;
         insert into runs (id, session_key, executor, status, created_at, started_at, finished_at)
         select 't' || n, 1, 'usual', iif(n = 5, 'error', 'completed'), n, n, n from numbers;
         insert into runs (id, session_key, executor, status, created_at, started_at, finished_at)
         select 'r' || n, n + 1, iif(n = 5, 'rare', 'usual'), iif(n = 6, 'error', 'completed'), n, n, n from numbers;
         insert into runs (id, session_key, executor, status, created_at) values ('pending', 3, 'usual', 'pending', 1);
         insert into runs (id, session_key, executor, status, created_at, started_at)
         values ('running', 4, 'usual', 'running', 1, 1), ('below', 2 * {n} + 3, 'usual', 'running', 1, 1);
         insert into usage_records (session_key, record, created_at) select 1, '{{}}', n from numbers;
         insert into attachments (session_key, id, mime_type, size, sha256, created_at)
         select 1, 'f' || n, 'text/plain', 0, printf('%064d', n), n from numbers;
         -- Keys of attachments are given out by this table.
         insert into loose_chunks (attachment_key) values ({n});
         delete from loose_chunks;
         insert into agent_sessions (id, session_key, executor, backend, status, created_at, used_at, closed_at)
         select 'b' || n, n + 1, 'usual', 'acp', iif(n = 9, 'warm', 'closed'), n, n, iif(n = 9, null, n) from numbers;
         insert into worktrees (root_key, state, path, repository, asked_for, created_at, updated_at)
         select n + 1, 'removed', '/w' || n, '/r', '', n, n from numbers;
         insert into idempotency_keys (scope, key, body_hash, status, answer, created_at)
         select 'scope', 'k' || n, '', 201, '{{}}', unixepoch() * 1000000 from numbers;
         insert into tombstones (id, deleted_at) select 'gone' || n, n from numbers;
         insert into teardown_jobs (kind, payload, next_at, created_at) select 'backend', '{{}}', unixepoch() * 1000000 + 100000000, n from numbers;
         insert into events (session_key, root_key, kind, created_at)
         select n + 1, n + 1, 'session.updated', unixepoch() * 1000000 from numbers;
         insert into events (session_key, root_key, kind, created_at)
         select n + 2 * {n} + 1, 1, 'session.updated', unixepoch() * 1000000 from numbers;
         insert into events (session_key, root_key, kind, created_at)
         values (1, 1, 'session.updated', unixepoch() * 1000000);
         drop table numbers;
         commit"
    )
}

/// A history that counts what is done with it.
async fn history(n: u64) -> (tempfile::TempDir, SqliteStorage) {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { readers: 1, ..Options::new(dir.path().join("culm.db")) };
    let storage = SqliteStorage::open(&options).await.unwrap();
    let address = format!("sqlite://{}", options.path.display());
    let mut shell = SqliteConnection::connect(&address).await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(fill(n))).execute(&mut shell).await.unwrap();
    shell.close().await.unwrap();
    storage.merge_index().await.unwrap();
    // Housekeeping that the filling has left is done, and none begins while calls are counted.
    for _ in 0..3 {
        storage.check_writable().await.unwrap();
    }
    count(&mut storage.readers.acquire().await.unwrap()).await;
    storage
        .writer
        .call((), |conn, ()| {
            Box::pin(async {
                count(conn).await;
                Ok(())
            })
        })
        .await
        .unwrap();
    (dir, storage)
}

/// What each call did, by its name.
#[derive(Default)]
struct Costs(BTreeMap<String, u64>);

impl Costs {
    async fn of<T>(&mut self, name: &str, call: impl Future<Output = T>) -> T {
        let before = STEPS.load(Ordering::Relaxed);
        let output = call.await;
        self.0.insert(name.to_owned(), STEPS.load(Ordering::Relaxed) - before);
        output
    }
}

fn message(text: &str) -> NewMessage {
    NewMessage::text(Role::User, text)
}

fn new_run(name: &str) -> NewRun {
    NewRun { id: Some(name.parse().unwrap()), executor: "usual".into(), model: None, message: None }
}

async fn lists(storage: &SqliteStorage, costs: &mut Costs) {
    let all = SessionFilter::default();
    let at = |micros: i64| Some(Timestamp(micros));
    let filters = [
        ("roots", all.clone()),
        ("archived", SessionFilter { archived: Some(Archived::True), ..all.clone() }),
        (
            "all kinds, archived too",
            SessionFilter { kind: Some(KindFilter::All), archived: Some(Archived::All), ..all.clone() },
        ),
        ("by creation", SessionFilter { order: Some(Order::Created), ..all.clone() }),
        ("pinned", SessionFilter { pinned: Some(true), ..all.clone() }),
        ("model", SessionFilter { model: Some("rare".into()), ..all.clone() }),
        ("title", SessionFilter { q: Some("rarely".into()), ..all.clone() }),
        ("running", SessionFilter { running: Some(true), ..all.clone() }),
        ("created lately", SessionFilter { created_after: at(1), created_before: at(20), ..all.clone() }),
        (
            "active lately",
            SessionFilter { active_after: at(1), active_before: at(20), order: Some(Order::Created), ..all.clone() },
        ),
        (
            "children by creation",
            SessionFilter { parent: Some(id("target")), order: Some(Order::Created), ..all.clone() },
        ),
        ("tree by creation", SessionFilter { root: Some(id("target")), order: Some(Order::Created), ..all.clone() }),
        ("children by activity", SessionFilter { parent: Some(id("target")), ..all.clone() }),
        ("tree by activity", SessionFilter { root: Some(id("target")), ..all.clone() }),
    ];
    for (name, filter) in filters {
        let page = costs.of(&format!("sessions: {name}"), storage.sessions(&filter, None, 10)).await.unwrap();
        assert!(!page.items.is_empty(), "{name}");
    }
    let run = RunFilter::default();
    let of_target = RunFilter { session: Some(id("target")), ..run.clone() };
    let status = |status, filter: &RunFilter| RunFilter { status: Some(status), ..filter.clone() };
    let filters = [
        ("all", run.clone()),
        ("running", status(RunStatus::Running, &run)),
        ("pending", status(RunStatus::Pending, &run)),
        ("error", status(RunStatus::Error, &run)),
        ("completed", status(RunStatus::Completed, &run)),
        ("none skipped", status(RunStatus::Skipped, &run)),
        ("executor", RunFilter { executor: Some("rare".into()), ..run.clone() }),
        ("no such executor", RunFilter { executor: Some("none".into()), ..run.clone() }),
        ("executor and running", RunFilter { executor: Some("usual".into()), ..status(RunStatus::Running, &run) }),
        ("executor and error", RunFilter { executor: Some("usual".into()), ..status(RunStatus::Error, &run) }),
        ("rare executor, completed", RunFilter { executor: Some("rare".into()), ..status(RunStatus::Completed, &run) }),
        ("session", of_target.clone()),
        ("session, running", status(RunStatus::Running, &of_target)),
        ("session, error", status(RunStatus::Error, &of_target)),
        ("session, rare executor", RunFilter { executor: Some("rare".into()), ..of_target.clone() }),
    ];
    for (name, filter) in filters {
        costs.of(&format!("runs: {name}"), storage.runs(&filter, None, 10)).await.unwrap();
    }
    for (name, status) in [("warm", Some(BackendStatus::Warm)), ("all", None)] {
        let filter = BackendFilter { status, ..BackendFilter::default() };
        costs.of(&format!("agent_sessions: {name}"), storage.agent_sessions(&filter, None, 10)).await.unwrap();
    }
    costs.of("usage", storage.usage(&id("target"), None, 10)).await.unwrap();
    costs.of("attachments", storage.attachments(&id("target"), None, 10)).await.unwrap();
}

async fn reads(storage: &SqliteStorage, costs: &mut Costs) {
    costs.of("session", storage.session(&id("target"))).await.unwrap().unwrap();
    costs.of("session_tree", storage.session_tree(&id("target"), 10)).await.unwrap();
    costs.of("sessions_above", storage.sessions_above(&id("c1"))).await.unwrap();
    for (name, window) in [
        ("first", Window::First),
        ("last", Window::Last),
        ("after", Window::After(50)),
        ("before", Window::Before(50)),
        ("around", Window::Around(50)),
    ] {
        let filter = MessageFilter { window, limit: 10, bytes: PAGE_BYTES, role: None };
        costs.of(&format!("messages: {name}"), storage.messages(&id("target"), filter)).await.unwrap();
    }
    costs.of("message", storage.message(&id("target"), &"m5".parse().unwrap())).await.unwrap().unwrap();
    costs.of("attachment", storage.attachment(&id("target"), &"f5".parse().unwrap())).await.unwrap().unwrap();
    costs.of("run", storage.run(&"t5".parse().unwrap())).await.unwrap().unwrap();
    assert_eq!(costs.of("active_runs: session", storage.active_runs(&id("s3"), false)).await.unwrap().len(), 1);
    assert_eq!(costs.of("active_runs: tree", storage.active_runs(&id("target"), true)).await.unwrap().len(), 1);
    costs.of("worktree_of", storage.worktree_of(&id("s5"))).await.unwrap();
    costs.of("unfinished_worktrees", storage.unfinished_worktrees()).await.unwrap();
    costs.of("answer", storage.answer("scope", "k5")).await.unwrap().unwrap();
    let last = *storage.last_event().borrow();
    for (name, scope) in [
        ("all", EventScope::All),
        ("tree", EventScope::Tree(id("target"))),
        ("session", EventScope::Session(id("target"))),
        ("session without news", EventScope::Session(id("c3"))),
    ] {
        let page = costs.of(&format!("events: {name}"), storage.events(&scope, 0, 10)).await.unwrap();
        assert!(!page.events.is_empty(), "{name}");
        costs.of(&format!("events: {name}, lately"), storage.events(&scope, last - 10, 10)).await.unwrap();
    }
    let query = |q: &str| SearchQuery { q: q.into(), ..SearchQuery::default() };
    costs.of("search", storage.search(&query("needle"), None, 10)).await.unwrap();
    costs.of("claim_teardowns: none due", storage.claim_teardowns(10)).await.unwrap();
}

async fn writes(storage: &SqliteStorage, costs: &mut Costs) {
    let target = id("target");
    costs.of("check_writable", storage.check_writable()).await.unwrap();
    let new = NewSession { id: Some(id("new")), ..NewSession::default() };
    costs.of("create_session", storage.create_session(new, None)).await.unwrap();
    let child = NewSession { id: Some(id("newchild")), parent: Some(target.clone()), ..NewSession::default() };
    costs.of("create_session: child", storage.create_session(child, None)).await.unwrap();
    let update = SessionUpdate { title: Some("changed".into()), ..SessionUpdate::default() };
    costs.of("update_session", storage.update_session(&target, update, None)).await.unwrap();
    let append = storage.append_messages(&target, vec![message("more")], AppendOptions::default());
    costs.of("append_messages", append).await.unwrap();
    let brought = NewMessage { id: Some("brought".parse().unwrap()), ..message("again") };
    for name in ["append_messages: brought", "append_messages: there"] {
        let append = storage.append_messages(&target, vec![brought.clone()], AppendOptions::default());
        costs.of(name, append).await.unwrap();
    }
    costs.of("append_usage", storage.append_usage(&target, JsonObject::new().into())).await.unwrap();
    let run = costs.of("create_run", storage.create_run(&target, new_run("mine"), None)).await.unwrap();
    costs.of("claim_runs", storage.claim_runs(10)).await.unwrap();
    costs.of("append_run_messages", storage.append_run_messages(&run, vec![message("of it")])).await.unwrap();
    costs.of("finish_run", storage.finish_run(&run, RunEnd::with(RunStatus::Completed))).await.unwrap();
    let run = storage.create_run(&target, new_run("other"), None).await.unwrap();
    costs.of("cancel_pending_run", storage.cancel_pending_run(&run)).await.unwrap();
    costs.of("settle_runs", storage.settle_runs()).await.unwrap();
    costs.of("agent_session", storage.agent_session(&target, "usual", "acp")).await.unwrap();
    costs.of("truncate_messages", storage.truncate_messages(&target, Truncate::AfterLastUser {}, None)).await.unwrap();
    let edited = NewMessage { id: Some("edited".parse().unwrap()), ..NewMessage::text(Role::Assistant, "x") };
    storage.append_messages(&target, vec![edited], AppendOptions::default()).await.unwrap();
    let edited = "edited".parse().unwrap();
    costs.of("edit_message", storage.edit_message(&target, &edited, "y".into(), None)).await.unwrap();
    costs.of("delete_message", storage.delete_message(&target, &edited, None)).await.unwrap();
    let attachment = NewAttachment {
        id: "new".parse().unwrap(),
        mime_type: Some("text/plain".into()),
        filename: None,
        created_at: Timestamp::now(),
    };
    let bytes = Box::pin(stream::iter([Ok(bytes::Bytes::from_static(b"bytes"))]));
    costs.of("add_attachment", storage.add_attachment(&target, attachment, bytes)).await.unwrap();
    costs.of("delete_attachment", storage.delete_attachment(&target, &"new".parse().unwrap())).await.unwrap();
    costs.of("delete_session", storage.delete_session(&id("s20"), DeleteOptions::default())).await.unwrap();
    costs.of("delete_session: child", storage.delete_session(&id("c20"), DeleteOptions::default())).await.unwrap();
}

async fn costs(n: u64) -> BTreeMap<String, u64> {
    let (_dir, storage) = history(n).await;
    let mut costs = Costs::default();
    lists(&storage, &mut costs).await;
    reads(&storage, &mut costs).await;
    writes(&storage, &mut costs).await;
    storage.close().await;
    costs.0
}

/// What may cost more in a larger history, and why.
const GROWS: [(&str, &str); 6] = [
    ("sessions: children by activity", "sorted: each append would write an index of this order"),
    ("sessions: tree by activity", "sorted: each append would write an index of this order"),
    ("session_tree", "all children of a session that is shown are looked at before the tree is cut off"),
    ("events: session without news", "found among its tree's events, of which at most 20 000 are kept"),
    ("delete_session: child", "its events are found among its tree's, of which at most 20 000 are kept"),
    ("runs: session, rare executor", "walks the runs of one session: few use several executors"),
];

#[tokio::test]
async fn no_call_costs_more_among_ten_times_the_history() {
    let (small, large) = (costs(200).await, costs(2000).await);
    let grown: Vec<String> = small
        .iter()
        .filter(|(name, small)| large[*name] > *small * 3 / 2 + 500)
        .filter(|(name, _)| !GROWS.iter().any(|(exempt, _)| exempt == name))
        .map(|(name, small)| format!("{name}: {small} steps among 200, {} among 2000", large[name]))
        .collect();
    assert!(grown.is_empty(), "these grow with the history:\n{}", grown.join("\n"));
    let unknown: Vec<_> = GROWS.iter().filter(|(name, _)| !small.contains_key(*name)).collect();
    assert!(unknown.is_empty(), "exempt, but not counted: {unknown:?}");
}

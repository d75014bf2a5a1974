//! Deleted sessions whose rows are still there: no query shows them, nothing is written to them, and their rows go.

use culm::{
    model::{
        BackendFilter, Closing, DeleteOptions, EventScope, NewRun, NewSession, Role, RunFilter, SearchOrder,
        SearchQuery, SessionFilter, Truncate, Window,
    },
    storage::{AppendOptions, Error},
};

use crate::support::*;

/// Tables whose rows may be those of a deleted session. (Backends and worktrees go when it is marked.)
const TABLES: [&str; 10] = [
    "sessions",
    "messages",
    "runs",
    "attachments",
    "attachment_uses",
    "usage_records",
    "events",
    "message_index",
    "session_index",
    "title_index",
];

/// What makes a query show nothing of a deleted session, though it does not read `live_sessions`.
const REASONS: [(&str, &str); 19] = [
    ("session_key = ?1", "the key is that of a live session, found in the same transaction"),
    ("_key = ?1", "the key is that of a live session's row, found in the same transaction"),
    ("_key in (select value from json_each(?1))", "the keys are those of live rows, found in the same transaction"),
    ("json_each(?1) j where session_key = j.value", "the same"),
    ("cross join sessions s on s.session_key = j.value ->> 0", "events are recorded under keys of live sessions"),
    ("status in ('pending', 'running')", "a deleted session has no active run"),
    ("where agent_sessions.id = ?1", "a deleted session has no backend"),
    ("last_seq from sessions where id = appends.session_id", "it was appended to just now"),
    ("purge", "what is purged is what was deleted"),
    ("json_each(?1) j cross join attachments a on a.session_key = j.value limit", "a purge"),
    ("json_each(?1) j cross join runs r on r.session_key = j.value limit", "a purge"),
    ("json_each(?1) j cross join messages m on m.session_key = j.value limit", "a purge"),
    ("json_each(?1) j cross join usage_records u on u.session_key = j.value limit", "a purge"),
    ("json_each(?1) r cross join events e on e.root_key = r.value", "a purge"),
    ("event_id <= ?", "the log is cut whatever the events tell of"),
    ("from events where root_key >= ?1 order by root_key", "the same"),
    ("from events order by event_id limit", "the same"),
    ("coalesce(max(message_key), 0) + 1", "only the highest keys"),
    ("session_index match ?2 limit", "keys that a list of live sessions is then limited to"),
];

/// Maintenance of the search index is about all rows.
const MAINTENANCE: [&str; 11] = [
    "(message_index, rank)",
    "(message_index) values ('delete-all')",
    "(session_index) values ('delete-all')",
    "select max(k) as",
    "select (select count(*) from messages) + (select count(*) from sessions)",
    "into message_hours",
    "stale_message_terms",
    "stale_session_terms",
    "set content_terms = j.value",
    "from session_index where session_index match ?1 limit ?2",
    "from message_index where message_index match ?1 order by rowid desc limit",
];

fn reads_a_table(query: &str) -> bool {
    let words: Vec<&str> = query.split(|c: char| c.is_whitespace() || "(),;".contains(c)).collect();
    words.windows(2).any(|pair| ["from", "join", "update"].contains(&pair[0]) && TABLES.contains(&pair[1]))
}

#[test]
fn every_query_leaves_out_what_was_deleted_or_is_here_with_a_reason() {
    let queries = crate::schema::queries();
    let told =
        |query: &String| REASONS.iter().map(|(part, _)| part).chain(&MAINTENANCE).any(|part| query.contains(part));
    let words = |query: String| query.split_whitespace().collect::<Vec<_>>().join(" ");
    let careless: Vec<String> = queries
        .into_iter()
        .map(words)
        .filter(|query| reads_a_table(query) && !query.contains("live_sessions") && !query.contains("deleted_at"))
        .filter(|query| !told(query))
        .collect();
    assert!(careless.is_empty(), "these read what may be deleted; read live_sessions: {careless:#?}");
}

/// A root `r` over `a` over `a1`, each with all that a session can have; `a` and what is below it were deleted, and
/// nobody purges them.
async fn marked() -> Database {
    let database = sqlite().await;
    let storage = database.storage();
    create(storage, "r").await;
    for (parent, name) in [("r", "a"), ("a", "a1")] {
        child(storage, parent, name).await;
    }
    for name in ["r", "a", "a1"] {
        append(storage, name, vec![said(Role::User, "needle"), said(Role::Assistant, "two 数据")]).await;
        attach(storage, name, "f", vec![1, 2]).await;
        storage.append_usage(&id(name), Default::default()).await.unwrap();
    }
    let mark = "insert into runs (id, session_key, executor, status, created_at)
         select 'run-' || id, session_key, 'fake', 'completed', 1 from sessions;
         insert into tombstones (id, deleted_at) values ('a', 1), ('a1', 1);
         update sessions set deleted_at = 1, version = version + 1 where id in ('a', 'a1');
         update sessions set children_count = 0 where id = 'r'";
    run(&mut database.shell().await, mark).await;
    database
}

#[tokio::test]
async fn no_read_shows_a_deleted_session_whose_rows_are_there() {
    let database = marked().await;
    let storage = database.storage();
    for gone in ["a", "a1"] {
        let key = id(gone);
        assert!(storage.session(&key).await.unwrap().is_none());
        assert!(storage.load_session(&key).await.unwrap().is_none());
        assert!(storage.message(&key, &mid("needle")).await.unwrap().is_none());
        assert!(storage.attachment(&key, &"f".parse().unwrap()).await.unwrap().is_none());
        assert!(storage.attachment_bytes(&key, &"f".parse().unwrap(), 0).await.unwrap().is_empty());
        assert!(storage.run(&format!("run-{gone}").parse().unwrap()).await.unwrap().is_none());
        assert!(storage.sessions_above(&key).await.unwrap().is_empty());
        assert_fails!(storage.session_tree(&key, 10).await, Error::SessionNotFound(_));
        assert_fails!(storage.messages(&key, window(Window::First, 10)).await, Error::SessionNotFound(_));
        assert_fails!(storage.usage(&key, None, 10).await, Error::SessionNotFound(_));
        assert_fails!(storage.attachments(&key, None, 10).await, Error::SessionNotFound(_));
        assert_fails!(storage.active_runs(&key, true).await, Error::SessionNotFound(_));
        assert_fails!(storage.openness(&key).await, Error::SessionNotFound(_));
        assert_fails!(storage.worktree_of(&key).await, Error::SessionNotFound(_));
        assert_fails!(storage.events(&EventScope::Session(key.clone()), 0, 10).await, Error::SessionNotFound(_));
        let runs = RunFilter { session: Some(key.clone()), ..RunFilter::default() };
        assert_fails!(storage.runs(&runs, None, 10).await, Error::SessionNotFound(_));
        let below = BackendFilter { below: Some(key.clone()), ..BackendFilter::default() };
        assert_fails!(storage.agent_sessions(&below, None, 10).await, Error::SessionNotFound(_));
        for filter in [
            SessionFilter { root: Some(key.clone()), ..everything() },
            SessionFilter { parent: Some(key.clone()), ..everything() },
        ] {
            assert!(listed(storage, &filter).await.is_empty());
        }
    }
    let (tree, cut) = storage.session_tree(&id("r"), 10).await.unwrap();
    assert!(tree.children.is_empty() && !cut);
    assert_eq!(storage.openness(&id("r")).await.unwrap().len(), 1);
    let runs = storage.runs(&RunFilter::default(), None, 10).await.unwrap().items;
    assert_eq!(runs.iter().map(|run| run.session_id.as_str()).collect::<Vec<_>>(), ["r"]);
    let events = storage.events(&EventScope::All, 0, 1000).await.unwrap().events;
    assert!(events.iter().all(|event| event.session_id == id("r")), "{events:?}");
    for order in [SearchOrder::Newest, SearchOrder::Relevance] {
        for q in ["needle", "据", "a", "a1"] {
            for scope in [None, Some(id("r"))] {
                let query = SearchQuery { q: q.into(), root: scope, order: Some(order), ..SearchQuery::default() };
                let hits = storage.search(&query, None, 10).await.unwrap().hits;
                assert!(hits.iter().all(|hit| hit.session.id == id("r")), "{q}: {hits:?}");
            }
        }
    }
    let mut shell = database.shell().await;
    for view in ["v_sessions", "v_tree"] {
        assert_eq!(number(&mut shell, &format!("select count(*) from {view}")).await, 1, "{view}");
    }
    assert_eq!(number(&mut shell, "select count(*) from v_transcript").await, 2);
    assert_eq!(number(&mut shell, "select sessions + messages from v_storage").await, 3);
}

#[tokio::test]
async fn every_list_leaves_out_deleted_sessions_whose_rows_are_there() {
    use culm::model::{Archived, Order};
    let database = marked().await;
    let storage = database.storage();
    pin(storage, "r").await;
    run(&mut database.shell().await, "update sessions set pinned = 1, model = 'm', version = version + 1").await;
    let yes = Some(true);
    for filter in [
        everything(),
        SessionFilter { pinned: yes, ..everything() },
        SessionFilter { model: Some("m".into()), ..everything() },
        SessionFilter { q: Some("a".into()), ..everything() },
        SessionFilter { q: Some("r".into()), ..everything() },
        SessionFilter { parent: Some(id("r")), ..everything() },
        SessionFilter { root: Some(id("r")), ..everything() },
        SessionFilter { created_after: Some(culm::model::Timestamp(1)), ..everything() },
        SessionFilter { active_after: Some(culm::model::Timestamp(1)), ..everything() },
    ] {
        for order in [Order::Activity, Order::Created] {
            let filter = SessionFilter { order: Some(order), archived: Some(Archived::All), ..filter.clone() };
            let ids = listed(storage, &filter).await;
            assert!(ids.iter().all(|id| id == "r"), "{filter:?}: {ids:?}");
        }
    }
}

#[tokio::test]
async fn no_write_reaches_a_deleted_session_whose_rows_are_there() {
    let database = marked().await;
    let storage = database.storage();
    for gone in ["a", "a1"] {
        let key = id(gone);
        let told = |name: &str| NewRun { id: name.parse().ok(), executor: "fake".into(), model: None, message: None };
        assert_fails!(storage.create_session(new(gone), None).await, Error::SessionDeleted(_));
        let below = NewSession { parent: Some(key.clone()), ..new("late") };
        assert_fails!(storage.create_session(below, None).await, Error::SessionDeleted(_));
        let append = storage.append_messages(&key, vec![said(Role::User, "x")], AppendOptions::default()).await;
        assert_fails!(append, Error::SessionDeleted(_));
        let again = storage.append_messages(&key, vec![said(Role::User, "needle")], AppendOptions::default()).await;
        assert_fails!(again, Error::SessionDeleted(_));
        assert_fails!(storage.update_session(&key, title("x"), None).await, Error::SessionDeleted(_));
        assert_fails!(storage.clear_session(&key, None).await, Error::SessionDeleted(_));
        let cut = storage.truncate_messages(&key, Truncate::AfterLastUser {}, None).await;
        assert_fails!(cut, Error::SessionDeleted(_));
        let edit = storage.edit_message(&key, &mid("two 数据"), "x".into(), None).await;
        assert_fails!(edit, Error::SessionDeleted(_));
        assert_fails!(storage.delete_message(&key, &mid("needle"), None).await, Error::SessionDeleted(_));
        assert_fails!(storage.append_usage(&key, Default::default()).await, Error::SessionDeleted(_));
        let upload = storage.add_attachment(&key, new_attachment("g"), source(&[1])).await;
        assert_fails!(upload, Error::SessionDeleted(_));
        assert_fails!(storage.delete_attachment(&key, &"f".parse().unwrap()).await, Error::SessionDeleted(_));
        assert_fails!(storage.create_run(&key, told("late"), None).await, Error::SessionDeleted(_));
        assert_fails!(storage.agent_session(&key, "fake", "acp").await, Error::SessionDeleted(_));
        assert_fails!(storage.close_sessions(&key, Closing::default()).await, Error::SessionDeleted(_));
        assert_fails!(storage.open_sessions(&key, true).await, Error::SessionDeleted(_));
        assert_fails!(storage.delete_session(&key, DeleteOptions::default()).await, Error::SessionNotFound(_));
    }
    // A close of what stays does not touch them, and the id of their runs is free.
    storage.close_sessions(&id("r"), Closing::default()).await.unwrap();
    let free = NewRun { id: "run-a".parse().ok(), executor: "fake".into(), model: None, message: None };
    storage.create_run(&id("r"), free, None).await.unwrap();
    let mut shell = database.shell().await;
    assert_eq!(
        number(&mut shell, "select count(*) from sessions where deleted_at is not null and closed_at is not null")
            .await,
        0
    );
    for late in [
        "insert into messages (session_key, seq, id, role, created_at, updated_at) values (2, 9, 'x', 'user', 1, 1)",
        "insert into runs (id, session_key, executor, status, created_at) values ('x', 2, 'fake', 'pending', 1)",
        "insert into attachments (session_key, id, mime_type, size, sha256, created_at) values (2, 'x', 'x', 0, hex(zeroblob(32)), 1)",
        "insert into usage_records (session_key, record, created_at) values (2, '{}', 1)",
        "insert into agent_sessions (id, session_key, executor, backend, status, created_at, used_at)
         values ('x', 2, 'fake', 'acp', 'warm', 1, 1)",
        "insert into sessions (session_key, id, kind, parent_key, root_key, spawn_depth, created_at, updated_at, last_activity_at)
         values (99, 'x', 'child', 2, 1, 2, 1, 1, 1)",
        "update sessions set deleted_at = null where id = 'a'",
        "update sessions set deleted_at = 1 where id = 'r'",
    ] {
        assert!(try_run(&mut shell, late).await.is_err(), "{late}");
    }
}

/// Sessions, each with two messages, a run and a usage record, below `r`; those of `kept` are below another root.
async fn filled(database: &Database, sessions: i64) {
    create(database.storage(), "kept").await;
    create(database.storage(), "r").await;
    say(database.storage(), "kept", &["stays"]).await;
    let fill = format!(
        "begin immediate;
         insert into sessions (id, kind, parent_key, root_key, spawn_depth, title, created_at, updated_at, last_activity_at)
         with recursive c (n) as (select 1 union all select n + 1 from c where n < {sessions})
         select 's' || n, 'child', 2, 2, 1, 'title', 1, 1, 1 from c;
         insert into messages (session_key, seq, id, role, content, created_at, updated_at)
         select session_key, 1, 'm', 'user', 'needle of ' || id, 1, 1 from sessions where session_key > 1;
         insert into messages (session_key, seq, id, role, content, created_at, updated_at)
         select session_key, 2, 'n', 'user', 'more of ' || id, 1, 1 from sessions where session_key > 1;
         insert into runs (id, session_key, executor, status, created_at)
         select 'run-' || id, session_key, 'fake', iif(session_key % 2, 'completed', 'pending'), 1 from sessions where session_key > 1;
         insert into usage_records (session_key, record, created_at) select session_key, '{{}}', 1 from sessions where session_key > 1;
         insert into events (session_key, root_key, kind, created_at)
         select session_key, root_key, 'session.updated', 1 from sessions where session_key > 1;
         commit"
    );
    run(&mut database.shell().await, &fill).await;
}

/// What is left of the tables' rows, but of the session that stays.
const LEFT: &str =
    "select (select count(*) from sessions where id <> 'kept') + (select count(*) from messages where session_key > 1)
    + (select count(*) from runs) + (select count(*) from usage_records) + (select count(*) from purges)
    + (select count(*) from events where session_key > 1 and kind <> 'session.deleted')";

#[tokio::test]
async fn a_large_tree_is_gone_at_once_and_its_rows_later() {
    let database = sqlite().await;
    filled(&database, 1000).await;
    let storage = database.storage();
    let mut shell = database.shell().await;
    let bytes = number(&mut shell, "select sum(length(content)) from messages where session_key > 1").await;
    let receipt = storage.delete_session(&id("r"), DeleteOptions::default()).await.unwrap();
    assert!(number(&mut shell, "select count(*) from sessions").await > 1, "all of it was removed in one transaction");
    assert_eq!(all_ids(storage).await, ["kept"]);
    assert_eq!((receipt.deleted.sessions, receipt.deleted.messages, receipt.deleted.runs), (1001, 2002, 1001));
    assert_eq!((receipt.bytes, receipt.cancelled_run_ids.len()), (bytes, 501));
    assert!(storage.claim_runs(10).await.unwrap().is_empty());
    let query = SearchQuery { q: "needle".into(), ..SearchQuery::default() };
    assert!(storage.search(&query, None, 10).await.unwrap().hits.is_empty());
    let events = storage.events(&EventScope::All, 0, 10_000).await.unwrap().events;
    let told = |kind| events.iter().filter(|event| event.event == kind && event.session_id != id("kept")).count();
    assert_eq!(told(culm::model::EventKind::SessionDeleted), 1001);
    assert_eq!(told(culm::model::EventKind::SessionUpdated), 0);
    until(&mut shell, LEFT, 0).await;
    assert_sound(&mut shell).await;
    assert_eq!(texts(storage, "kept").await, ["stays"]);
    assert_eq!(number(&mut shell, "select count(*) from tombstones").await, 1001);
}

#[tokio::test]
async fn a_purge_of_sessions_goes_on_after_a_restart() {
    let database = sqlite().await;
    filled(&database, 1000).await;
    database.storage().delete_session(&id("r"), DeleteOptions::default()).await.unwrap();
    let database = database.reopen().await;
    assert_eq!(all_ids(database.storage()).await, ["kept"]);
    let mut shell = database.shell().await;
    until(&mut shell, LEFT, 0).await;
    assert_sound(&mut shell).await;
}

/// In a shell a delete is all of it in one transaction, whatever was marked before.
#[tokio::test]
async fn deleting_in_a_shell_removes_also_what_was_marked() {
    for deleted in ["r", "a", "a1"] {
        let database = marked().await;
        let mut shell = database.shell().await;
        let parts = r#"[{"type":"image_url","image_url":{"url":"attachment://a1/f"}}]"#;
        // Queued, and kept from being purged by the lock that the shell holds meanwhile.
        let delete = format!(
            "begin immediate; update messages set parts = '{parts}' where session_key = 3;
             insert into purges (root_key, spawn_depth, session_key, last_event)
             select root_key, spawn_depth, session_key, 0 from sessions where deleted_at is not null;
             delete from sessions where id = '{deleted}'"
        );
        run(&mut shell, &delete).await;
        let left = match deleted {
            "r" => "false",
            "a" => "session_key in (1)",
            _ => "session_key in (1, 2)",
        };
        for table in ["sessions", "messages", "attachments", "attachment_uses", "runs", "usage_records"] {
            let sql = format!("select count(*) from {table} where not ({left})");
            assert_eq!(number(&mut shell, &sql).await, 0, "{table} after {deleted}");
        }
        let events = format!("select count(*) from events where kind <> 'session.deleted' and not ({left})");
        assert_eq!(number(&mut shell, &events).await, 0, "events after {deleted}");
        assert_eq!(
            number(&mut shell, "select count(*) from events where kind = 'session.deleted'").await,
            i64::from(deleted == "r")
        );
        let queued = format!("select count(*) from purges where not ({left})");
        assert_eq!(number(&mut shell, &queued).await, 0);
        run(&mut shell, "commit").await;
        until(&mut shell, "select count(*) from purges", 0).await;
        assert_sound(&mut shell).await;
    }
}

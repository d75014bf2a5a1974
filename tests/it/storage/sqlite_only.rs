//! What only a database in one SQLite file has: runs put there by hand, a shell beside the server, opening and refusing.

use std::time::Duration;

use bytes::Bytes;
use culm::{
    model::{Archived, Cleanup, CleanupMode, DeleteOptions, Order, Role, SessionFilter, Timestamp, Truncate},
    storage::{
        AppendOptions, Claim, Error,
        sqlite::{OpenError, Options, SqliteStorage},
    },
};

use futures_util::{StreamExt, stream};
use sqlx::AssertSqlSafe;

use crate::support::*;

async fn start_run(database: &Database, session: &str, status: &str) {
    let mut shell = database.shell().await;
    let insert = format!(
        "insert into runs (id, session_key, executor, status, created_at)
         select 'run-' || id, session_key, 'fake', '{status}', 1 from sessions where id = '{session}'"
    );
    run(&mut shell, &insert).await;
}

#[tokio::test]
async fn messages_do_not_change_while_a_run_is_active_and_settings_do() {
    let database = sqlite().await;
    let storage = database.storage();
    for status in ["pending", "running"] {
        let session = create(storage, status).await.id;
        append(storage, status, vec![said(Role::User, "hi"), said(Role::Assistant, "there")]).await;
        start_run(&database, status, status).await;
        let more = storage.append_messages(&session, vec![said(Role::User, "x")], AppendOptions::default()).await;
        assert_fails!(more, Error::SessionBusy(_));
        assert_fails!(storage.edit_message(&session, &mid("there"), "x".into(), None).await, Error::SessionBusy(_));
        assert_fails!(storage.delete_message(&session, &mid("hi"), None).await, Error::SessionBusy(_));
        let cut = storage.truncate_messages(&session, Truncate::AfterLastUser {}, None).await;
        assert_fails!(cut, Error::SessionBusy(_));
        assert_fails!(storage.clear_session(&session, None).await, Error::SessionBusy(_));
        // What is there already is answered all the same.
        say(storage, status, &["hi"]).await;
        storage.update_session(&session, title("new"), None).await.unwrap();
        let after = read(storage, status).await;
        assert_eq!((after.message_count, after.is_running), (2, status == "running"));
    }
    let running = SessionFilter { running: Some(true), ..SessionFilter::default() };
    assert_eq!(listed(storage, &running).await, ["running"]);
}

#[tokio::test]
async fn an_active_run_is_no_emptiness_and_a_delete_names_it() {
    let database = sqlite().await;
    let storage = database.storage();
    create(storage, "a").await;
    create(storage, "b").await;
    start_run(&database, "a", "pending").await;
    start_run(&database, "b", "completed").await;
    let receipt = storage.cleanup_sessions(cleanup(CleanupMode::Empty)).await.unwrap();
    assert_eq!(receipt.deleted_session_ids, [id("b")]);
    let told = storage.cleanup_sessions(Cleanup { dry_run: true, ..cleanup(CleanupMode::All) }).await.unwrap();
    assert_eq!(told.cancelled_run_ids, ["run-a".parse().unwrap()]);
    let receipt = storage.delete_session(&id("a"), DeleteOptions::default()).await.unwrap();
    assert_eq!((receipt.deleted.runs, receipt.cancelled_run_ids), (1, vec!["run-a".parse().unwrap()]));
    assert_sound(&mut database.shell().await).await;
}

#[tokio::test]
async fn archived_sessions_are_listed_only_when_asked_for() {
    let database = sqlite().await;
    let storage = database.storage();
    create(storage, "a").await;
    create(storage, "b").await;
    child(storage, "b", "c").await;
    run(&mut database.shell().await, "update sessions set archived_at = 1 where id in ('a', 'c')").await;
    let list = async |archived, filter: SessionFilter| {
        listed(storage, &SessionFilter { archived: Some(archived), ..filter }).await
    };
    assert_eq!(list(Archived::False, everything()).await, ["b"]);
    assert_eq!(list(Archived::True, everything()).await, ["c", "a"]);
    assert_eq!(list(Archived::All, everything()).await, ["c", "b", "a"]);
    let below = SessionFilter { parent: Some(id("b")), ..SessionFilter::default() };
    assert!(list(Archived::False, below.clone()).await.is_empty());
    assert_eq!(list(Archived::True, below).await, ["c"]);
}

/// Defects 4 and 16 are gone: what a delete or a clear unlinks is out of reach at once, and purged soon.
#[tokio::test]
async fn the_bytes_of_deleted_attachments_are_purged() {
    let database = sqlite().await;
    let storage = database.storage();
    for session in ["a", "b"] {
        create(storage, session).await;
        attach(storage, session, "f", vec![7; 5 << 20]).await;
    }
    storage.clear_session(&id("a"), None).await.unwrap();
    storage.delete_session(&id("b"), DeleteOptions::default()).await.unwrap();
    let mut shell = database.shell().await;
    until(&mut shell, "select count(*) from loose_chunks", 0).await;
    assert_eq!(number(&mut shell, "select count(*) from attachment_chunks").await, 0);
}

#[tokio::test]
async fn a_purge_goes_on_after_a_restart() {
    let database = sqlite().await;
    create(database.storage(), "a").await;
    attach(database.storage(), "a", "f", vec![7; 5 << 20]).await;
    database.storage().delete_session(&id("a"), DeleteOptions::default()).await.unwrap();
    let database = database.reopen().await;
    let mut shell = database.shell().await;
    until(&mut shell, "select count(*) from loose_chunks", 0).await;
    assert_eq!(number(&mut shell, "select count(*) from attachment_chunks").await, 0);
}

/// What an upload wrote before the server was killed, or its future dropped, is gone after the next start.
#[tokio::test]
async fn what_is_left_of_an_upload_is_purged_at_the_next_start() {
    let database = sqlite().await;
    create(database.storage(), "a").await;
    // More than is written at once: eight chunks of 256 KiB.
    let first = stream::iter([Ok(Bytes::from(vec![7; 3 << 20]))]);
    let (target, mut shell) = (id("a"), database.shell().await);
    let endless = Box::pin(first.chain(stream::pending()));
    let upload = database.storage().add_attachment(&target, new_attachment("f"), endless);
    tokio::select! {
        _ = upload => panic!("the upload has no end"),
        () = until(&mut shell, "select count(*) from attachment_chunks", 8) => {}
    }
    let database = database.reopen().await;
    until(&mut shell, "select count(*) from loose_chunks", 0).await;
    assert_eq!(number(&mut shell, "select count(*) from attachment_chunks").await, 0);
    assert!(database.storage().attachments(&id("a"), None, 10).await.unwrap().items.is_empty());
}

/// No write does it: of this many bytes, so few frames are left only if somebody else copies them.
#[tokio::test]
async fn the_log_is_copied_beside_the_writer() {
    let database = sqlite().await;
    create(database.storage(), "a").await;
    attach(database.storage(), "a", "f", vec![7; 8 << 20]).await;
    let mut shell = database.shell().await;
    log_copied(&mut shell, 1000).await;
}

#[tokio::test]
async fn an_upload_that_broke_off_is_purged() {
    let database = sqlite().await;
    create(database.storage(), "a").await;
    let broken = stream::iter([Ok(Bytes::from(vec![7; 3 << 20])), Err("gone".into())]);
    let upload = database.storage().add_attachment(&id("a"), new_attachment("f"), Box::pin(broken)).await;
    assert!(matches!(upload, Err(Error::Source(_))));
    let mut shell = database.shell().await;
    until(&mut shell, "select count(*) from loose_chunks", 0).await;
    assert_eq!(number(&mut shell, "select count(*) from attachment_chunks").await, 0);
}

#[tokio::test]
async fn an_edit_of_parts_in_a_shell_is_followed() {
    let database = sqlite().await;
    let storage = database.storage();
    create(storage, "a").await;
    attach(storage, "a", "f", vec![1]).await;
    say(storage, "a", &["one"]).await;
    let mut shell = database.shell().await;
    let parts = r#"[{"type":"image_url","image_url":{"url":"attachment://a/f"}}]"#;
    run(&mut shell, &format!("update messages set parts = '{parts}'")).await;
    assert_sound(&mut shell).await;
    run(&mut shell, "delete from messages").await;
    assert_eq!(number(&mut shell, "select count(*) from attachments").await, 0);
    assert_sound(&mut shell).await;
}

#[tokio::test]
async fn a_commit_of_a_shell_is_noticed_within_a_second_and_an_own_one_is_none() {
    let database = sqlite().await;
    let storage = database.storage();
    let before = create(storage, "a").await;
    let mut commits = storage.foreign_commits();
    let own = *commits.borrow_and_update();
    say(storage, "a", &["one"]).await;
    storage.check_writable().await.unwrap();
    assert_eq!(*commits.borrow_and_update(), own);
    run(&mut database.shell().await, "update sessions set title = 'theirs' where id = 'a'").await;
    tokio::time::timeout(Duration::from_secs(1), commits.changed()).await.expect("within a second").unwrap();
    let after = read(storage, "a").await;
    assert_eq!(after.title, "theirs");
    assert!(after.version > before.version + 1);
}

#[tokio::test]
async fn a_shell_that_holds_the_lock_costs_waiting_and_no_write() {
    let database = sqlite().await;
    let storage = database.storage();
    create(storage, "a").await;
    let mut shell = database.shell().await;
    run(&mut shell, "begin immediate").await;
    let (_, appended) = futures_util::future::join(
        async {
            assert_eq!(read(storage, "a").await.message_count, 0, "readers do not wait");
            run(&mut shell, "commit").await;
        },
        say(storage, "a", &["one"]),
    )
    .await;
    assert_eq!(appended.last_seq, 1);
}

#[tokio::test]
async fn an_idempotency_key_is_forgotten_after_24_hours() {
    let database = sqlite().await;
    let storage = database.storage();
    create(storage, "a").await;
    let keyed = async |key: &str, text: &str| {
        let claim = Some(Claim { scope: "s".into(), key: key.into(), body_hash: text.into() });
        let options = AppendOptions { claim, ..AppendOptions::default() };
        storage.append_messages(&id("a"), vec![said(Role::User, text)], options).await.unwrap();
    };
    let answered = async |key: &str| storage.answer("s", key).await.unwrap().map(|answer| answer.body_hash);
    let mut shell = database.shell().await;
    let age = |seconds: i64| format!("update idempotency_keys set created_at = created_at - {seconds} * 1000000");
    keyed("k", "one").await;
    keyed("other", "two").await;
    run(&mut shell, &age(24 * 3600 - 60)).await;
    assert_eq!(answered("k").await.as_deref(), Some("one"));
    run(&mut shell, &age(60)).await;
    assert_eq!((answered("k").await, answered("other").await), (None, None));
    // It is a new key then, and what is too old goes.
    keyed("k", "three").await;
    assert_eq!(answered("k").await.as_deref(), Some("three"));
    assert_eq!(number(&mut shell, "select count(*) from idempotency_keys").await, 1);
}

#[tokio::test]
async fn a_dry_run_of_a_cleanup_neither_waits_for_writes_nor_holds_them_up() {
    let database = sqlite().await;
    create(database.storage(), "a").await;
    let mut shell = database.shell().await;
    run(&mut shell, "begin immediate; update sessions set title = 'not yet'").await;
    let told =
        database.storage().cleanup_sessions(Cleanup { dry_run: true, ..cleanup(CleanupMode::All) }).await.unwrap();
    assert_eq!((told.deleted_session_ids, told.dry_run), (vec![id("a")], true));
    run(&mut shell, "commit").await;
}

/// Whether a filter drives a list or is a condition on it depends on how many sessions meet it, and shows nowhere.
#[tokio::test]
async fn a_list_is_the_same_whether_few_or_many_meet_its_filter() {
    let database = sqlite().await;
    let mut shell = database.shell().await;
    let fill = "begin immediate;
        insert into sessions (session_key, id, kind, root_key, title, model, pinned, created_at, updated_at, last_activity_at, archived_at)
        with recursive c (n) as (select 1 union all select n + 1 from c where n < 7000)
        select n, 's' || n, 'root', n, iif(n % 1000 = 7, 'rare', 'common'), iif(n % 1000 = 7, 'rare', 'common'), n % 1000 <> 7,
          n, n, 7001 - n / 10 * 10, iif(n % 50 = 7, 1, null) from c;
        insert into runs (id, session_key, executor, status, created_at)
        select 'run' || session_key, session_key, 'fake', iif(session_key % 2, 'running', 'pending'), 1 from sessions where session_key % 99 = 0;
        commit";
    run(&mut shell, fill).await;
    let at = |n| Some(Timestamp(n));
    let filter = SessionFilter::default;
    let cases = [
        (filter(), "true"),
        (SessionFilter { model: Some("rare".into()), ..filter() }, "model = 'rare'"),
        (SessionFilter { model: Some("common".into()), ..filter() }, "model = 'common'"),
        (SessionFilter { model: Some("none".into()), ..filter() }, "false"),
        (SessionFilter { q: Some("rare".into()), ..filter() }, "title = 'rare'"),
        (SessionFilter { q: Some("common".into()), ..filter() }, "title = 'common'"),
        (SessionFilter { q: Some("are".into()), ..filter() }, "title = 'rare'"),
        (SessionFilter { q: Some("ommo".into()), ..filter() }, "title = 'common'"),
        (SessionFilter { q: Some("AR".into()), ..filter() }, "title = 'rare'"),
        (SessionFilter { q: Some("n".into()), ..filter() }, "title = 'common'"),
        (SessionFilter { pinned: Some(true), ..filter() }, "pinned"),
        (SessionFilter { pinned: Some(false), ..filter() }, "not pinned"),
        (SessionFilter { running: Some(true), ..filter() }, "session_key % 198 = 99"),
        (SessionFilter { running: Some(false), ..filter() }, "session_key % 198 <> 99"),
        (SessionFilter { running: Some(true), pinned: Some(false), ..filter() }, "false"),
        (SessionFilter { running: Some(true), root: Some(id("s99")), ..filter() }, "session_key = 99"),
        (SessionFilter { created_before: at(300), ..filter() }, "created_at < 300"),
        (SessionFilter { created_before: at(6000), ..filter() }, "created_at < 6000"),
        (SessionFilter { created_after: at(6900), ..filter() }, "created_at >= 6900"),
        (SessionFilter { active_before: at(301), ..filter() }, "last_activity_at < 301"),
        (SessionFilter { active_before: at(6001), ..filter() }, "last_activity_at < 6001"),
        (
            SessionFilter { active_after: at(6001), active_before: at(6101), ..filter() },
            "last_activity_at between 6001 and 6100",
        ),
    ];
    for (filter, condition) in cases {
        for (order, column) in [(Order::Activity, "last_activity_at"), (Order::Created, "created_at")] {
            for (archived, kept) in [
                (Archived::False, "archived_at is null"),
                (Archived::True, "archived_at is not null"),
                (Archived::All, "true"),
            ] {
                let filter = SessionFilter { order: Some(order), archived: Some(archived), ..filter.clone() };
                let (mut found, mut after) = (Vec::new(), None);
                for _ in 0..3 {
                    let page = database.storage().sessions(&filter, after, 25).await.unwrap();
                    found.extend(page.items.into_iter().map(|session| session.id.to_string()));
                    after = page.next;
                    if after.is_none() {
                        break;
                    }
                }
                let wanted = format!(
                    "select id from sessions where {condition} and {kept} order by {column} desc, session_key desc limit 75"
                );
                let wanted: Vec<String> =
                    sqlx::query_scalar(AssertSqlSafe(wanted)).fetch_all(&mut shell).await.unwrap();
                assert_eq!(found, wanted, "{filter:?}");
            }
        }
    }
}

/// Defect 15 is gone: what was acknowledged is in one file, and nothing lies beside it after a close.
#[tokio::test]
async fn reopening_keeps_everything() {
    let database = sqlite().await;
    create(database.storage(), "a").await;
    say(database.storage(), "a", &["one", "two"]).await;
    attach(database.storage(), "a", "f", vec![1, 2]).await;
    create(database.storage(), "gone").await;
    database.storage().delete_session(&id("gone"), DeleteOptions::default()).await.unwrap();
    let before = database.storage().load_session(&id("a")).await.unwrap().unwrap();
    let database = database.reopen().await;
    let after = database.storage().load_session(&id("a")).await.unwrap().unwrap();
    assert_eq!((after.session, after.messages), (before.session, before.messages));
    assert!(database.storage().attachment(&id("a"), &"f".parse().unwrap()).await.unwrap().is_some());
    assert_fails!(database.storage().create_session(new("gone"), None).await, Error::SessionDeleted(_));
    assert_sound(&mut database.shell().await).await;
}

/// Defect 15 is gone: a database that is copied without a close holds every acknowledged write.
#[tokio::test]
async fn an_acknowledged_write_survives_the_process() {
    let database = sqlite().await;
    create(database.storage(), "a").await;
    say(database.storage(), "a", &["one"]).await;
    let copy = tempfile::tempdir().unwrap();
    for ending in ["", "-wal"] {
        let name = format!("culm.db{ending}");
        std::fs::copy(database.path().with_file_name(&name), copy.path().join(&name)).unwrap();
    }
    let after = SqliteStorage::open(&Options::new(copy.path().join("culm.db"))).await.unwrap();
    assert_eq!(texts(&after, "a").await, ["one"]);
}

#[tokio::test]
async fn a_closed_database_takes_no_more_calls() {
    let database = sqlite().await;
    create(database.storage(), "a").await;
    database.storage().close().await;
    assert_fails!(database.storage().create_session(new("b"), None).await, Error::Closed(_));
    assert_fails!(database.storage().session(&id("a")).await, Error::Failed(_));
}

#[tokio::test]
async fn a_second_server_is_refused() {
    let database = sqlite().await;
    let second = SqliteStorage::open(&Options::new(database.path())).await;
    assert!(matches!(second, Err(OpenError::Locked(_))));
    create(database.storage(), "a").await;
}

/// Opens a closed database after a change to its file, and asserts that the file was left as it is.
async fn refused_after(change: impl AsyncFnOnce(&Database)) -> OpenError {
    let database = sqlite().await;
    create(database.storage(), "a").await;
    database.storage().close().await;
    change(&database).await;
    let (_dir, path) = database.into_closed();
    let path = &path;
    let before = std::fs::read(path).unwrap();
    let refused = SqliteStorage::open(&Options::new(path)).await.err().expect("a refusal");
    assert!(std::fs::read(path).unwrap() == before, "the file was changed");
    assert!(refused.to_string().contains(path.to_str().unwrap()));
    refused
}

#[tokio::test]
async fn a_newer_schema_is_refused() {
    let refused = refused_after(async |db| db.run_and_leave("pragma user_version = 4711").await).await;
    assert!(matches!(refused, OpenError::Newer { found: 4711, .. }), "{refused:?}");
}

#[tokio::test]
async fn a_database_of_another_application_is_refused() {
    let refused = refused_after(async |db| db.run_and_leave("pragma application_id = 1").await).await;
    assert!(matches!(refused, OpenError::OtherApplication(_)), "{refused:?}");
}

/// Defect 5 is gone: what cannot be read is never replaced by something new.
#[tokio::test]
async fn garbage_is_refused() {
    let refused = refused_after(async |db| std::fs::write(db.path(), "garbage ".repeat(1000)).unwrap()).await;
    assert!(matches!(refused, OpenError::Damaged { .. }), "{refused:?}");
}

#[tokio::test]
async fn a_file_that_lost_its_content_is_refused() {
    let refused = refused_after(async |db| std::fs::write(db.path(), "").unwrap()).await;
    assert!(matches!(refused, OpenError::Damaged { .. }), "{refused:?}");
}

#[tokio::test]
async fn a_damaged_schema_is_refused() {
    let refused = refused_after(async |db| {
        let mut bytes = std::fs::read(db.path()).unwrap();
        bytes[100..4096].fill(0xff);
        std::fs::write(db.path(), bytes).unwrap();
    })
    .await;
    assert!(matches!(refused, OpenError::Damaged { .. }), "{refused:?}");
}

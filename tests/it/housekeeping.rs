//! What the storage does beside the writes: it purges, cuts the log and gives space back, without starving and without
//! anybody waiting for it.

use std::{sync::Arc, time::Duration};

use culm::{
    model::{CleanupMode, DeleteOptions, NewMessage, Role},
    storage::{
        Storage,
        sqlite::{LogBounds, Options, SqliteStorage},
    },
};
use futures_util::future::join_all;

use crate::support::*;

/// Whether not more than one page in a hundred is free.
const COMPACT: &str = "select f.freelist_count * 100 <= p.page_count from pragma_freelist_count f, pragma_page_count p";

/// Waits until the database's file is at most this long.
async fn shrunk(database: &Database, bytes: u64) {
    let mut shell = database.shell().await;
    let shrinking = async {
        while std::fs::metadata(database.path()).unwrap().len() > bytes {
            number(&mut shell, "select count(*) from sessions").await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), shrinking).await.expect("the file never shrinks");
}

#[tokio::test]
async fn space_comes_back_after_a_delete() {
    let database = sqlite().await;
    let storage = database.storage();
    for name in ["kept", "gone"] {
        create(storage, name).await;
        attach(storage, name, "f", vec![7; 3 << 20]).await;
        attach(storage, name, "g", vec![8; 3 << 20]).await;
    }
    // All of it is in the database's file.
    empty_log(&mut database.shell().await).await;
    assert!(std::fs::metadata(database.path()).unwrap().len() > 12 << 20);
    storage.delete_session(&id("gone"), DeleteOptions::default()).await.unwrap();
    let mut shell = database.shell().await;
    until(&mut shell, "select count(*) from loose_chunks", 0).await;
    until(&mut shell, COMPACT, 1).await;
    shrunk(&database, 7 << 20).await;
    assert_eq!(download(storage, "kept", "f", 0).await.unwrap().1.len(), 3 << 20);
    assert_eq!(download(storage, "kept", "g", 0).await.unwrap().1, vec![8; 3 << 20]);
    assert_sound(&mut shell).await;
    assert_eq!(
        number(&mut shell, "select count(*) from pragma_integrity_check where integrity_check <> 'ok'").await,
        0
    );
}

/// A search index keeps what was deleted until it is merged. Few large messages are worth a merge beside many small ones,
/// also when they were deleted bit by bit.
#[tokio::test]
async fn the_index_of_a_few_large_messages_goes_beside_many_small_ones() {
    let database = sqlite().await;
    let storage = database.storage();
    create(storage, "kept").await;
    for _ in 0..4 {
        append(storage, "kept", vec![NewMessage::text(Role::User, "small"); 500]).await;
    }
    let mut shell = database.shell().await;
    // Hardly a word is there twice.
    let words =
        |part: usize| (0..40_000).map(|n| format!("{:x} ", (part * 40_000 + n) * 0x9e37_79b1)).collect::<String>();
    for part in 0..8 {
        create(storage, &format!("gone-{part}")).await;
        append(storage, &format!("gone-{part}"), vec![NewMessage::text(Role::User, words(part))]).await;
    }
    let before = number(&mut shell, "select sum(length(block)) from message_index_data").await;
    for part in 0..8 {
        storage.delete_session(&id(&format!("gone-{part}")), DeleteOptions::default()).await.unwrap();
        until(&mut shell, "select count(*) from purges", 0).await;
    }
    // What is too little to be worth a merge stays.
    until(&mut shell, &format!("select sum(length(block)) < {before} / 2 from message_index_data"), 1).await;
    assert_sound(&mut shell).await;
}

/// The log holds all that a large purge wrote. It is cut then, also where hardly a page of the file is free.
#[tokio::test]
async fn the_log_is_cut_after_a_large_purge() {
    let database = sqlite().await;
    let storage = database.storage();
    create(storage, "kept").await;
    attach(storage, "kept", "f", vec![7; 32 << 20]).await;
    let mut shell = database.shell().await;
    let many = "insert into sessions (id, kind, root_key, title, created_at, updated_at, last_activity_at)
        with recursive c (n) as (select 1 union all select n + 1 from c where n < 1000)
        select 's' || n, 'root', n + 1, 'x', 1, 1, 1 from c";
    run(&mut shell, many).await;
    storage.cleanup_sessions(cleanup(CleanupMode::Empty)).await.unwrap();
    until(&mut shell, "select count(*) from purges", 0).await;
    let mut log = database.path().as_os_str().to_owned();
    log.push("-wal");
    let cut = async {
        while std::fs::metadata(&log).unwrap().len() > 0 {
            number(&mut shell, "select 1").await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), cut).await.expect("the log is never cut");
}

/// Writers that leave the queue never empty. What is deleted meanwhile is purged, and the log is cut.
#[tokio::test(flavor = "multi_thread")]
async fn housekeeping_does_not_starve_beside_writers() {
    const WRITERS: usize = 32;
    const KEPT: i64 = 500;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("culm.db");
    let log = LogBounds { events: KEPT, ..LogBounds::default() };
    let storage = Arc::new(SqliteStorage::open(&Options { log, ..Options::new(&path) }).await.unwrap());
    for n in 0..WRITERS {
        create(&*storage, &format!("w{n}")).await;
    }
    create(&*storage, "gone").await;
    for name in ["f", "g", "h"] {
        attach(&*storage, "gone", name, vec![7; 2 << 20]).await;
    }
    storage.delete_session(&id("gone"), DeleteOptions::default()).await.unwrap();
    let mut shell = crate::support::shell(&path).await;
    let writes = join_all((0..WRITERS).map(|n| {
        let storage = storage.clone();
        async move {
            for m in 0.. {
                say(&*storage, &format!("w{n}"), &[&m.to_string()]).await;
            }
        }
    }));
    let kept = async {
        until(&mut shell, "select count(*) from attachment_chunks", 0).await;
        let events = number(&mut shell, "select max(event_id) from events").await;
        until(&mut shell, &format!("select max(event_id) > {events} + 3000 from events"), 1).await;
        until(&mut shell, &format!("select count(*) <= {KEPT} + 2500 from events"), 1).await;
    };
    tokio::select! {
        _ = writes => panic!("the writers go on for ever"),
        () = kept => {}
    }
    storage.close().await;
}

#[tokio::test]
async fn a_step_that_fails_gives_up_its_connection_and_is_tried_again() {
    let database = sqlite().await;
    let storage = database.storage();
    for name in ["kept", "gone"] {
        create(storage, name).await;
        append(storage, name, vec![said(Role::User, "one")]).await;
    }
    let mut shell = database.shell().await;
    run(
        &mut shell,
        "create trigger fails before delete on messages when old.session_key = 2 begin select raise(abort, 'not now'); end",
    )
    .await;
    // Not in the delete's own transaction: that one fails as a whole, and has deleted nothing.
    assert!(storage.delete_session(&id("gone"), DeleteOptions::default()).await.is_err());
    assert_eq!(all_ids(storage).await, ["gone", "kept"]);
    let mark = "begin; insert into tombstones (id, deleted_at) values ('gone', 1);
        update sessions set deleted_at = 1, version = version + 1 where id = 'gone';
        insert into purges (root_key, spawn_depth, session_key, last_event) values (2, 0, 2, 0); commit";
    run(&mut shell, mark).await;
    for n in 0..20 {
        say(storage, "kept", &[&format!("beside {n}")]).await;
    }
    assert_eq!(number(&mut shell, "select count(*) from messages where session_key = 2").await, 1);
    run(&mut shell, "drop trigger fails").await;
    until(&mut shell, "select count(*) from purges", 0).await;
    assert_eq!(number(&mut shell, "select count(*) from sessions").await, 1);
    assert_eq!(history(storage, "kept").await.len(), 21);
    assert_sound(&mut shell).await;
}

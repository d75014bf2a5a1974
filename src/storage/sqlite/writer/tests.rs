//! The writer with jobs that panic, end it, or need not wait for the disk.

use super::{super::transaction::Work, *};
use crate::{
    model::NewSession,
    storage::{
        Storage,
        sqlite::{Options, SqliteStorage},
    },
};

async fn storage() -> (tempfile::TempDir, SqliteStorage) {
    let dir = tempfile::tempdir().unwrap();
    let storage = SqliteStorage::open(&Options::new(dir.path().join("culm.db"))).await.unwrap();
    (dir, storage)
}

/// Leaves a tombstone, and panics for one name after that.
async fn bury(storage: &SqliteStorage, name: &'static str) -> Result<()> {
    let work: Work<&'static str, ()> = |conn, name| {
        Box::pin(async move {
            let insert = sqlx::query("insert into tombstones (id, deleted_at) values (?1, 1)").bind(*name);
            insert.execute(conn).await.map_err(error::of)?;
            assert_ne!(*name, "panics");
            Ok(())
        })
    };
    storage.writer.call(name, work).await
}

#[tokio::test]
async fn a_write_that_panics_fails_alone() {
    let (_dir, storage) = storage().await;
    let outcomes = futures_util::future::join_all(["a", "panics", "b"].map(|name| bury(&storage, name))).await;
    assert!(outcomes[0].is_ok() && outcomes[2].is_ok(), "{outcomes:?}");
    assert!(outcomes[1].as_ref().is_err_and(|error| error.to_string().contains("panicked")), "{outcomes:?}");
    let buried: Vec<String> =
        sqlx::query_scalar("select id from tombstones order by id").fetch_all(&storage.readers).await.unwrap();
    assert_eq!(buried, ["a", "b"]);
    storage.check_writable().await.unwrap();
}

#[tokio::test]
async fn what_counts_waits_for_the_disk_also_after_what_does_not() {
    let (_dir, storage) = storage().await;
    let synchronous: Work<(), i64> = |conn, ()| {
        Box::pin(async { sqlx::query_scalar("pragma synchronous").fetch_one(conn).await.map_err(error::of) })
    };
    let (normal, full) = (1, 2);
    assert_eq!(storage.writer.call((), synchronous).await.unwrap(), full);
    assert_eq!(storage.writer.prepare((), synchronous).await.unwrap(), normal);
    assert_eq!(storage.writer.call((), synchronous).await.unwrap(), full);
    let together = tokio::join!(storage.writer.prepare((), synchronous), storage.writer.call((), synchronous));
    assert_eq!((together.0.unwrap(), together.1.unwrap()), (full, full));
}

#[tokio::test]
async fn a_database_that_was_small_is_not_read_to_its_end_when_it_is_large() {
    let (dir, storage) = storage().await;
    storage.create_session(NewSession::default(), None).await.unwrap();
    storage.writer.call((), |conn, ()| Box::pin(run(conn, "analyze"))).await.unwrap();
    storage.close().await;
    let storage = SqliteStorage::open(&Options::new(dir.path().join("culm.db"))).await.unwrap();
    let plan = "explain query plan select title from sessions where session_key in (select value from json_each('[]'))";
    let steps: Vec<(i64, i64, i64, String)> = sqlx::query_as(plan).fetch_all(&storage.readers).await.unwrap();
    assert!(steps.iter().any(|(.., step)| step.starts_with("SEARCH sessions")), "{steps:?}");
}

#[tokio::test]
async fn a_writer_that_has_ended_says_so_and_is_heard_of() {
    let (_dir, storage) = storage().await;
    bury(&storage, "a").await.unwrap();
    let mut commits = storage.foreign_commits();
    storage.writer.worker.abort().await;
    while commits.changed().await.is_ok() {}
    let refused = storage.check_writable().await;
    assert!(refused.as_ref().is_err_and(|error| error.to_string().contains("the writer has ended")), "{refused:?}");
}

#[tokio::test]
async fn however_many_ask_whether_writes_are_taken_the_disk_is_written_to_once() {
    let (_dir, storage) = storage().await;
    let frames = async || {
        let log = "pragma wal_checkpoint(noop)";
        let row: (i64, i64, i64) = sqlx::query_as(log).fetch_one(&storage.readers).await.unwrap();
        row.1
    };
    let asked = futures_util::future::join_all((0..100).map(|_| storage.check_writable())).await;
    assert!(asked.iter().all(Result::is_ok), "{asked:?}");
    // The log was copied as the database was opened, and so begins anew: the header's page, and nothing else.
    assert_eq!(frames().await, 1);
}

#[tokio::test]
async fn a_transaction_that_takes_long_is_committed_before_the_next_job() {
    let (_dir, storage) = storage().await;
    // Many milliseconds, on any machine.
    let long: Work<(), i64> = |conn, ()| {
        Box::pin(async move {
            let bury = "insert into tombstones (id, deleted_at)
                        with recursive n (c) as (select 1 union all select c + 1 from n where c < 1000000)
                        select 'long', max(c) from n";
            sqlx::query(bury).execute(conn).await.map_err(error::of)?;
            Ok(0)
        })
    };
    let looks: Work<sqlx::SqlitePool, i64> = |_, readers| {
        Box::pin(async move {
            sqlx::query_scalar("select count(*) from tombstones").fetch_one(readers).await.map_err(error::of)
        })
    };
    let (done, seen) = tokio::join!(storage.writer.call((), long), storage.writer.call(storage.readers.clone(), looks));
    assert_eq!((done.unwrap(), seen.unwrap()), (0, 1));
}

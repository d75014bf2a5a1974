//! Activity that lies in the future: one write under a wrong clock must not lead lists for years.

use culm::{model::SessionFilter, storage::Storage};

use crate::support::*;

const YEAR: i64 = 365 * 24 * 3600 * 1_000_000;

/// Moves the activity of sessions by a year, as a clock that was ahead would have.
async fn move_on(database: &Database, sessions: &str) {
    let moved = format!("update sessions set last_activity_at = last_activity_at + {YEAR} where id in ({sessions})");
    database.run_and_leave(&moved).await;
}

async fn order(storage: &dyn Storage) -> Vec<String> {
    listed(storage, &SessionFilter::default()).await
}

const AHEAD: &str = "select count(*) from sessions where last_activity_at > unixepoch() * 1000000 + 60000000";

#[tokio::test]
async fn what_lies_in_the_future_is_brought_back_in_its_order() {
    let database = sqlite().await;
    let storage = database.storage();
    for session in ["a", "b", "c", "d", "e"] {
        create(storage, session).await;
    }
    let version = read(storage, "a").await.version;
    move_on(&database, "'a', 'b'").await;
    until(&mut database.shell().await, AHEAD, 0).await;
    say(storage, "d", &["used now"]).await;
    assert_eq!(order(storage).await, ["d", "b", "a", "e", "c"]);
    assert!(read(storage, "a").await.version > version, "what its summary shows has changed");
    say(storage, "a", &["used again"]).await;
    assert_eq!(order(storage).await[0], "a");
}

#[tokio::test]
async fn few_that_lie_in_the_future_at_start_are_wrong() {
    let database = sqlite().await;
    for session in ["a", "b", "c"] {
        create(database.storage(), session).await;
    }
    move_on(&database, "'a'").await;
    let database = database.reopen().await;
    say(database.storage(), "b", &["used now"]).await;
    assert_eq!(order(database.storage()).await, ["b", "a", "c"]);
}

/// A clock that starts behind its data must not make all of it look old: a sweep would take it.
#[tokio::test]
async fn when_most_lie_in_the_future_at_start_the_clock_is_wrong_and_nothing_is_moved() {
    let database = sqlite().await;
    for session in ["a", "b", "c"] {
        create(database.storage(), session).await;
    }
    database.storage().close().await;
    let (dir, path) = database.into_closed();
    let mut behind = shell(&path).await;
    run(&mut behind, &format!("update sessions set last_activity_at = last_activity_at + {YEAR} where id <> 'c'"))
        .await;
    drop(behind);
    let database = Database::open_in(dir).await;
    say(database.storage(), "b", &["used now"]).await;
    assert_eq!(number(&mut database.shell().await, AHEAD).await, 2);
    assert_eq!(order(database.storage()).await, ["b", "a", "c"]);
}

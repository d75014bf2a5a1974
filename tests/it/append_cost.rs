//! Cost follows the change, not the history: what an append writes is counted in frames of the write-ahead log.

use crate::support::*;

const APPENDS: usize = 64;
/// In each window the log is emptied first; a window stays below the thousand frames that would start a checkpoint.
const WINDOW: usize = 8;

/// Sessions with one message each, and one, `big`, with this many.
async fn filled(sessions: i64, messages: i64) -> Database {
    let database = sqlite().await;
    create(database.storage(), "big").await;
    let mut shell = database.shell().await;
    let text = "'word' || (n % 997) || ' and word' || (n % 89) || ' of ' || n";
    let fill = format!(
        "begin immediate;
         insert into sessions (session_key, id, kind, root_key, title, created_at, updated_at, last_activity_at)
         with recursive c (n) as (select 2 union all select n + 1 from c where n < {sessions})
         select n, 's' || n, 'root', n, 'Title ' || n, n, n, n from c;
         insert into messages (session_key, seq, id, role, content, created_at, updated_at)
         with recursive c (n) as (select 2 union all select n + 1 from c where n < {sessions})
         select n, 1, 'm' || n, 'user', {text}, n, n from c;
         insert into messages (session_key, seq, id, role, content, created_at, updated_at)
         with recursive c (n) as (select 1 union all select n + 1 from c where n < {messages})
         select 1, n, 'm' || n, 'user', {text}, n, n from c;
         -- One transaction of this size leaves one segment where small ones are merged: here it is put where years
         -- of small ones would have put it.
         insert into message_index (message_index) values ('optimize');
         commit"
    );
    run(&mut shell, &fill).await;
    database
}

/// Frames that the appends wrote, each a page of the database.
async fn frames(database: &Database) -> i64 {
    let mut shell = database.shell().await;
    let mut frames = 0;
    for window in 0..APPENDS / WINDOW {
        run(&mut shell, "pragma wal_checkpoint(truncate)").await;
        for n in 0..WINDOW {
            let text = format!("word{n} in the answer {} of many words", window * WINDOW + n);
            append(database.storage(), "big", vec![culm::model::NewMessage::text(culm::model::Role::User, text)]).await;
        }
        frames += log_frames(&mut shell).await;
    }
    frames
}

/// A database of ten messages is one page a table, so that the search index's structure and its newest segment share
/// theirs; from the first few hundred on they lie apart, one page more an append, and it stays at that.
#[tokio::test]
async fn an_append_writes_the_same_whatever_the_history() {
    let small = frames(&filled(10, 10).await).await;
    let medium = frames(&filled(1_000, 1_000).await).await;
    let large = frames(&filled(10_000, 10_000).await).await;
    let told = format!("{APPENDS} appends write {small}, {medium} and {large} pages among 10, 1 000 and 10 000");
    println!("{told}");
    assert!(large * 10 <= medium * 12, "{told}");
    assert!(large * 10 <= small * 14, "{told}");
}

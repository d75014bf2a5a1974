//! What it costs to index a message: into an index as Culm's, and into the cheapest that FTS5 has; ten a transaction, in
//! a database of its own.

use bench_protocol::{Layout, Texts, Took};
use rusqlite::{Connection, params};

use crate::{Outcome, timed, to_write};

/// Words of a message.
const WORDS: usize = 60;
const TOGETHER: usize = 10;
const SCHEMA: [&str; 3] = [
    include_str!("../../../../migrations/sqlite/0001_sessions.sql"),
    include_str!("../../../../migrations/sqlite/0002_messages.sql"),
    include_str!("../../../../migrations/sqlite/0007_search.sql"),
];

pub(crate) fn index(path: &str, layout: Layout, count: usize, texts: &Texts) -> Outcome<Took> {
    let mut conn = to_write(path)?;
    let put = match layout {
        Layout::Culm => {
            SCHEMA.iter().try_for_each(|sql| conn.execute_batch(sql))?;
            conn.execute_batch("drop trigger messages_index_insert; drop trigger messages_refuse_orphan")?;
            "insert into message_index (rowid, content, reasoning, tools, scope)
             select message_key, content, reasoning, tools, scope from message_terms where message_key = ?1"
        }
        Layout::Cheapest => {
            conn.execute_batch(
                "create table messages (message_key integer primary key, session_key, seq, id, role, content, created_at, updated_at);
                 create virtual table message_index using fts5 (content, content = 'messages', content_rowid = 'message_key',
                   tokenize = 'unicode61 remove_diacritics 2', detail = none);",
            )?;
            "insert into message_index (rowid, content) select message_key, content from messages where message_key = ?1"
        }
    };
    fill(&mut conn, count, texts)?;
    let keys: Vec<i64> = (1..=count as i64).collect();
    timed(keys.chunks(TOGETHER), |keys| {
        let transaction = conn.transaction()?;
        let mut put = transaction.prepare_cached(put)?;
        keys.iter().try_for_each(|key| put.execute([key]).map(drop))?;
        drop(put);
        Ok(transaction.commit()?)
    })
}

/// The messages, without their index.
fn fill(conn: &mut Connection, count: usize, texts: &Texts) -> Outcome<()> {
    conn.execute_batch("pragma foreign_keys = off")?;
    let transaction = conn.transaction()?;
    let mut insert = transaction.prepare(
        "insert into messages (message_key, session_key, seq, id, role, content, created_at, updated_at)
         values (?1, 1, ?1, ?1, 'user', ?2, 1, 1)",
    )?;
    for key in 1..=count as i64 {
        insert.execute(params![key, texts.of_words(key as u64, WORDS)])?;
    }
    drop(insert);
    Ok(transaction.commit()?)
}

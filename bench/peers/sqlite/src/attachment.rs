//! An attachment as Culm stores it: a key, rows of 256 KiB that are committed by eights, and its own row. They are
//! written twice, to the log and, within the commits, to the database.

use rusqlite::{Connection, TransactionBehavior, params};

use crate::{Outcome, now};

const CHUNK: usize = 256 << 10;
const ROUND: usize = 8;

pub(crate) fn store(conn: &mut Connection, session: &str, bytes: &[u8]) -> Outcome<()> {
    let key = "insert into loose_chunks (uploading) values (1) returning attachment_key";
    let key: i64 = conn.prepare_cached(key)?.query_row([], |row| row.get(0))?;
    let chunks: Vec<(usize, &[u8])> = bytes.chunks(CHUNK).enumerate().collect();
    for round in chunks.chunks(ROUND) {
        let transaction = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for (place, chunk) in round {
            transaction
                .prepare_cached("insert into attachment_chunks (attachment_key, place, bytes) values (?1, ?2, ?3)")?
                .execute(params![key, *place as i64, chunk])?;
        }
        transaction.commit()?;
    }
    let transaction = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    transaction
        .prepare_cached(
            "insert into attachments (attachment_key, session_key, id, mime_type, size, sha256, created_at)
             select ?1, session_key, 'attachment-' || ?1, 'application/octet-stream', ?3, printf('%064x', ?1), ?4
             from sessions where id = ?2",
        )?
        .execute(params![key, session, bytes.len() as i64, now()])?;
    transaction.prepare_cached("delete from loose_chunks where attachment_key = ?1")?.execute([key])?;
    Ok(transaction.commit()?)
}

/// All bytes of the last one, chunk by chunk.
pub(crate) fn read(conn: &Connection) -> Outcome<usize> {
    let last = "select attachment_key, size from attachments order by attachment_key desc limit 1";
    let (key, size): (i64, i64) = conn.prepare_cached(last)?.query_row([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let mut chunk =
        conn.prepare_cached("select bytes from attachment_chunks where attachment_key = ?1 and place = ?2")?;
    let places = usize::try_from(size)?.div_ceil(CHUNK) as i64;
    (0..places).map(|place| Ok(chunk.query_row([key, place], |row| row.get::<_, Vec<u8>>(0))?.len())).sum()
}

//! One append, committed by itself: the session is looked at, its counters and the message are written, the triggers
//! maintain the index, and an event tells of it.

use rusqlite::{Connection, TransactionBehavior, params};
use uuid::Uuid;

use crate::{Outcome, now};

pub(crate) fn append(conn: &mut Connection, session: &str, text: &str) -> Outcome<i64> {
    let transaction = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let (key, root, last_seq, busy): (i64, i64, i64, bool) = transaction
        .prepare_cached(
            "select session_key, root_key, last_seq,
               exists (select 1 from runs r where r.session_key = s.session_key and r.status in ('pending', 'running'))
             from sessions s where id = ?1",
        )?
        .query_row([session], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?;
    if busy {
        return Err("the session has a run".into());
    }
    let now = now();
    transaction
        .prepare_cached(
            "update sessions set message_count = message_count + 1, last_seq = last_seq + 1, version = version + 1,
               updated_at = max(updated_at, ?2), last_activity_at = max(last_activity_at, ?2), closed_at = null
             where session_key = ?1",
        )?
        .execute(params![key, now])?;
    let (seq, id) = (last_seq + 1, Uuid::now_v7().to_string());
    let message = transaction
        .prepare_cached(
            "insert into messages (session_key, seq, id, role, content, created_at, updated_at)
             values (?1, ?2, ?3, 'user', ?4, ?5, ?5)",
        )?
        .insert(params![key, seq, id, text, now])?;
    transaction
        .prepare_cached(
            "insert into events (session_key, root_key, kind, message_key, data, created_at)
             values (?1, ?2, 'message.appended', ?3, json_object('message_id', ?4, 'seq', ?5, 'role', 'user'), ?6)",
        )?
        .execute(params![key, root, message, id, seq, now])?;
    transaction.commit()?;
    Ok(seq)
}

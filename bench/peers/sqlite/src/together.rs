//! Many clients at once, in the best shape that was found: one writer takes all that is queued and commits it together,
//! with one query that looks at the sessions, one statement that writes their counters, one for the messages, one for
//! their index and one for the events, whatever their number.

use std::{fmt::Write, sync::Arc, time::Instant};

use bench_protocol::Took;
use rusqlite::{Connection, Transaction, TransactionBehavior, params, params_from_iter, types::Value};
use serde_json::json;
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use crate::{Outcome, now};

/// Appends that are committed together at most.
const BATCH: usize = 256;

struct Append {
    session: Arc<str>,
    text: String,
    reply: oneshot::Sender<i64>,
}

pub(crate) fn append(conn: Connection, prefix: &str, clients: usize, texts: Vec<String>) -> Outcome<Took> {
    let runtime = tokio::runtime::Builder::new_multi_thread().build()?;
    let (queue, queued) = mpsc::channel(1024);
    let writer = std::thread::spawn(move || write(conn, queued));
    let each = texts.len() / clients;
    let mut texts = texts.into_iter();
    let begun = Instant::now();
    let clients: Vec<_> = (0..clients)
        .map(|client| {
            let (session, texts) = (format!("{prefix}{client}").into(), texts.by_ref().take(each).collect());
            runtime.spawn(one_by_one(queue.clone(), session, texts))
        })
        .collect();
    drop(queue);
    let samples = runtime.block_on(async {
        let mut samples = Vec::new();
        for client in clients {
            samples.extend(client.await??);
        }
        Outcome::Ok(samples)
    });
    let seconds = begun.elapsed().as_secs_f64();
    writer.join().map_err(|_| "the writer panicked")??;
    Ok(Took { micros: samples?, seconds })
}

async fn one_by_one(queue: mpsc::Sender<Append>, session: Arc<str>, texts: Vec<String>) -> Outcome<Vec<f64>> {
    let mut samples = Vec::with_capacity(texts.len());
    for text in texts {
        let begun = Instant::now();
        let (reply, answer) = oneshot::channel();
        queue.send(Append { session: session.clone(), text, reply }).await.map_err(|_| "the writer has ended")?;
        answer.await?;
        samples.push(begun.elapsed().as_secs_f64() * 1e6);
    }
    Ok(samples)
}

fn write(mut conn: Connection, mut queued: mpsc::Receiver<Append>) -> Outcome<()> {
    let mut batch = Vec::with_capacity(BATCH);
    while queued.blocking_recv_many(&mut batch, BATCH) > 0 {
        let transaction = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let seqs = write_together(&transaction, &batch)?;
        transaction.commit()?;
        for (append, seq) in batch.drain(..).zip(seqs) {
            let _ = append.reply.send(seq);
        }
    }
    Ok(())
}

fn write_together(conn: &Transaction, batch: &[Append]) -> Outcome<Vec<i64>> {
    let now = now();
    let places = places(conn, batch)?;
    let counters: Vec<_> = places.iter().map(|(key, _, seq)| json!([key, seq])).collect();
    conn.prepare_cached(
        "update sessions set message_count = message_count + 1, last_seq = json_extract(j.value, '$[1]'), version = version + 1,
           updated_at = max(updated_at, ?2), last_activity_at = max(last_activity_at, ?2), closed_at = null
         from json_each(?1) j where session_key = json_extract(j.value, '$[0]')",
    )?
    .execute(params![serde_json::to_string(&counters)?, now])?;
    let last: i64 =
        conn.prepare_cached("select coalesce(max(message_key), 0) from messages")?.query_row([], |row| row.get(0))?;
    let rows = batch.iter().zip(&places).flat_map(|(append, (key, _, seq))| {
        let id = Uuid::now_v7().to_string();
        [Value::from(*key), (*seq).into(), id.into(), append.text.clone().into(), now.into()]
    });
    conn.prepare_cached(&insert_rows(batch.len()))?.execute(params_from_iter(rows))?;
    conn.prepare_cached(
        "insert into message_index (rowid, content, reasoning, tools, scope)
         select message_key, content, reasoning, tools, scope from message_terms where message_key > ?1",
    )?
    .execute([last])?;
    conn.prepare_cached(
        "insert into events (session_key, root_key, kind, message_key, data, created_at)
         select m.session_key, s.root_key, 'message.appended', m.message_key,
           json_object('message_id', m.id, 'seq', m.seq, 'role', m.role), ?2
         from messages m join sessions s using (session_key) where m.message_key > ?1 order by m.message_key",
    )?
    .execute([last, now])?;
    Ok(places.into_iter().map(|(_, _, seq)| seq).collect())
}

/// For each append the session's key, its root's and the message's place. Each client waits for its answer, so no
/// session is in a batch twice.
fn places(conn: &Connection, batch: &[Append]) -> Outcome<Vec<(i64, i64, i64)>> {
    let ids: Vec<&str> = batch.iter().map(|append| &*append.session).collect();
    let mut places = conn.prepare_cached(
        "select s.session_key, s.root_key, s.last_seq + 1 from json_each(?1) j join sessions s on s.id = j.value
         where not exists (select 1 from runs r where r.session_key = s.session_key and r.status in ('pending', 'running'))
         order by j.key",
    )?;
    let places = places.query_map([serde_json::to_string(&ids)?], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    let places: Vec<_> = places.collect::<rusqlite::Result<_>>()?;
    if places.len() != batch.len() {
        return Err("a session is not there, or has a run".into());
    }
    Ok(places)
}

fn insert_rows(rows: usize) -> String {
    let mut sql =
        String::from("insert into messages (session_key, seq, id, role, content, created_at, updated_at) values ");
    for row in 0..rows {
        let comma = if row == 0 { "" } else { "," };
        let [key, seq, id, text, now] = [1, 2, 3, 4, 5].map(|column| row * 5 + column);
        let _ = write!(sql, "{comma}(?{key},?{seq},?{id},'user',?{text},?{now},?{now})");
    }
    sql
}

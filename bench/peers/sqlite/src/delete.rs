//! Deleting, with a tombstone and an event for each session: in the schema's shape, whose triggers do it row by row, and
//! by sets once the triggers are gone ([`crate::Open::unhook`]).

use rusqlite::{Connection, TransactionBehavior, params};

use crate::{Open, Outcome, now};

/// What is below a root, and itself.
const TREE: &str = "select session_key from sessions where root_key = (select session_key from sessions where id = ?1)";
/// Roots that hold nothing.
const EMPTY: &str =
    "select session_key from sessions s where kind = 'root' and message_count = 0 and attachment_count = 0
    and children_count = 0 and not pinned and ?1 = ''
    and not exists (select 1 from runs r where r.session_key = s.session_key and r.status in ('pending', 'running'))";

pub(crate) fn delete(open: &mut Open, session: &str) -> Outcome<()> {
    remove(open, TREE, session)
}

pub(crate) fn clean_up(open: &mut Open) -> Outcome<()> {
    remove(open, EMPTY, "")
}

fn remove(open: &mut Open, which: &str, parameter: &str) -> Outcome<()> {
    let transaction = open.writer.transaction_with_behavior(TransactionBehavior::Immediate)?;
    transaction.execute_batch("create temp table doomed (session_key integer primary key)")?;
    if transaction.execute(&format!("insert into doomed {which}"), [parameter])? == 0 {
        return Err("there is nothing to delete".into());
    }
    if open.unhooked {
        by_sets(&transaction)?;
    }
    transaction.execute("delete from sessions where session_key in (select session_key from doomed)", [])?;
    transaction.execute_batch("drop table doomed")?;
    Ok(transaction.commit()?)
}

/// What the triggers would do: indexes, messages, events, tombstones.
fn by_sets(conn: &Connection) -> Outcome<()> {
    conn.execute_batch(
        "insert into message_index (message_index, rowid, content, reasoning, tools, scope)
         select 'delete', t.message_key, t.content, t.reasoning, t.tools, t.scope
         from doomed join messages m using (session_key) join message_terms t on t.message_key = m.message_key;
         insert into session_index (session_index, rowid, title, summary, scope)
         select 'delete', t.session_key, t.title, t.summary, t.scope from doomed join session_terms t using (session_key);
         insert into title_index (title_index, rowid, title)
         select 'delete', t.session_key, t.title from doomed join title_text t using (session_key);
         delete from messages where session_key in (select session_key from doomed);
         delete from events where root_key in (select session_key from doomed);",
    )?;
    let now = now();
    conn.execute(
        "insert into events (session_key, root_key, kind, created_at, session_id, root_session_id, above)
         select s.session_key, s.root_key, 'session.deleted', ?1, s.id, r.id,
           iif(s.session_key = s.root_key, '[]', json_array(r.id))
         from doomed join sessions s using (session_key) join sessions r on r.session_key = s.root_key
         order by s.session_key",
        params![now],
    )?;
    let bury = "insert into tombstones (id, deleted_at) select id, ?1 from doomed join sessions using (session_key)";
    conn.execute(bury, params![now])?;
    Ok(())
}

//! Fills a database that Culm made: rows with their counters, without triggers, then the index in one go, then the
//! triggers as they were. `culm check` finds nothing in it.

use bench_protocol::{Plan, Texts};
use rusqlite::{Connection, params};

use crate::Outcome;

/// The first session's time, and what each is later than the one before: a second.
const EPOCH: i64 = 1_760_000_000_000_000;
const STEP: i64 = 1_000_000;

pub(crate) fn fill(path: &str, plan: &Plan, texts: &Texts) -> Outcome<()> {
    let conn = Connection::open(path)?;
    conn.execute_batch(
        "pragma synchronous = off; pragma cache_size = -400000; pragma temp_store = memory; begin immediate",
    )?;
    let triggers = take_triggers(&conn)?;
    let mut filling = Filling { conn: &conn, texts, words: plan.words, session: 0, message: 0 };
    // The histories first: lists and their pages are of the roots after them.
    plan.histories.iter().try_for_each(|(id, messages)| filling.root(id, *messages, 0).map(drop))?;
    for (id, children, messages) in &plan.trees {
        let root = filling.root(id, 0, *children)?;
        (0..*children).try_for_each(|n| filling.child(&format!("{id}-{n}"), root, *messages))?;
    }
    (0..plan.empty).try_for_each(|n| filling.root(&format!("empty-{n}"), 0, 0).map(drop))?;
    (0..plan.roots).try_for_each(|n| filling.root(&format!("root-{n}"), 1, 0).map(drop))?;
    conn.execute_batch(
        "insert or ignore into message_hours (hour, block) select created_at / 3600000000, message_key >> 12 from messages;
         insert into message_index (message_index) values ('rebuild');
         insert into session_index (session_index) values ('rebuild');
         insert into title_index (title_index) values ('rebuild');",
    )?;
    triggers.iter().try_for_each(|sql| conn.execute_batch(sql))?;
    conn.execute_batch("commit; analyze; pragma wal_checkpoint(truncate)")?;
    conn.close().map_err(|(_, error)| error.into())
}

/// Drops all triggers, and gives what makes them.
pub(crate) fn take_triggers(conn: &Connection) -> Outcome<Vec<String>> {
    let mut triggers = conn.prepare("select name, sql from sqlite_schema where type = 'trigger'")?;
    let triggers = triggers.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let triggers: Vec<(String, String)> = triggers.collect::<rusqlite::Result<_>>()?;
    triggers.iter().try_for_each(|(name, _)| conn.execute_batch(&format!("drop trigger {name}")))?;
    Ok(triggers.into_iter().map(|(_, sql)| sql).collect())
}

struct Filling<'a> {
    conn: &'a Connection,
    texts: &'a Texts,
    words: Option<usize>,
    /// The last keys that were given.
    session: i64,
    message: i64,
}

impl Filling<'_> {
    fn root(&mut self, id: &str, messages: usize, children: usize) -> Outcome<i64> {
        self.session(id, None, messages, children)
    }

    fn child(&mut self, id: &str, root: i64, messages: usize) -> Outcome<()> {
        self.session(id, Some(root), messages, 0).map(drop)
    }

    fn session(&mut self, id: &str, parent: Option<i64>, messages: usize, children: usize) -> Outcome<i64> {
        self.session += 1;
        let (key, at) = (self.session, EPOCH + self.session * STEP);
        let title = self.texts.of_words(key as u64 ^ (1 << 40), 4);
        self.conn
            .prepare_cached(
                "insert into sessions (session_key, id, kind, parent_key, root_key, spawn_depth, title, model, message_count,
                   last_seq, children_count, created_at, updated_at, last_activity_at)
                 values (?1, ?2, iif(?3 is null, 'root', 'child'), ?3, coalesce(?3, ?1), ?3 is not null, ?4, 'some-model', ?5,
                   ?5, ?6, ?7, ?7, ?7)",
            )?
            .execute(params![key, id, parent, title, messages as i64, children as i64, at])?;
        (1..=messages as i64).try_for_each(|seq| self.message(key, seq, at))?;
        Ok(key)
    }

    fn message(&mut self, session: i64, seq: i64, at: i64) -> Outcome<()> {
        self.message += 1;
        let number = self.message as u64;
        let text = self.words.map_or_else(|| self.texts.of_a_kib(number), |words| self.texts.of_words(number, words));
        let role = if seq % 2 == 1 { "user" } else { "assistant" };
        // Ids as they are made: 36 characters, and the later ones sort behind.
        let id = format!("01900000-0000-7000-8000-{:012x}", self.message);
        self.conn
            .prepare_cached(
                "insert into messages (message_key, session_key, seq, id, role, content, created_at, updated_at)
                 values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?7)",
            )?
            .execute(params![self.message, session, seq, id, role, text, at])?;
        Ok(())
    }
}

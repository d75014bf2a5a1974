//! Partial matches: what is found where nothing has all that was asked for.
//!
//! The rarest terms count: of a question, those that say what it is about. First it is looked for what has all of them
//! but one, then but two, and so on to two of them, so that the best is found however old it is. What has one less than the
//! best is good, too.

use std::cmp::Reverse;

use sqlx::SqliteConnection;

use super::{expression::Phrase, limits::Phrases};
use crate::storage::{Result, sqlite::error};

/// Terms that count, and terms of which it is asked how rare they are.
const RAREST: usize = 8;
const ASKED: usize = 16;
/// Rows that a word is looked for in, to tell how rare it is.
const SAMPLE: i64 = 1000;
/// Letters of a short word.
const SHORT: usize = 3;
/// The fewest terms that a match has.
pub(super) const LEAST: usize = 2;

/// The terms that count.
pub(super) struct Terms {
    /// Their places among the phrases, the rarest first.
    pub(super) places: Vec<usize>,
    /// Whether few rows have any of them.
    pub(super) are_rare: bool,
}

/// The rarest terms of a query that are anywhere at all; none if matches of fewer than all cannot have two.
pub(super) async fn terms(conn: &mut SqliteConnection, phrases: &Phrases) -> Result<Option<Terms>> {
    let asked: Vec<usize> =
        (0..phrases.of_messages.len()).filter(|place| !phrases.of_messages[*place].excluded).collect();
    if asked.len() <= LEAST {
        return Ok(None);
    }
    let mut known = Vec::new();
    for place in asked.into_iter().take(ASKED) {
        let rows = rows_with(conn, &phrases.of_messages[place]).await?;
        if rows > 0 {
            known.push((rows, place));
        }
    }
    known.sort_by_key(|(rows, place)| {
        let words = &phrases.of_messages[*place].words;
        let length: usize = words.iter().map(String::len).sum();
        // Short words say little, however few texts there are.
        let is_short = length <= SHORT && words.iter().all(|word| word.bytes().all(|byte| byte.is_ascii_lowercase()));
        (is_short && !words.is_empty(), *rows, Reverse(length))
    });
    known.truncate(RAREST);
    let are_rare = known.iter().all(|(rows, _)| *rows < SAMPLE);
    let places: Vec<usize> = known.into_iter().map(|(_, place)| place).collect();
    Ok((places.len() >= LEAST).then_some(Terms { places, are_rare }))
}

/// About how many messages, and sessions, have its rarest word. Where many do, it says how many there would be if they
/// were everywhere as close together as the newest are.
async fn rows_with(conn: &mut SqliteConnection, phrase: &Phrase) -> Result<i64> {
    let mut least = i64::MAX;
    for word in phrase.certain().take(4) {
        let word = format!("\"{word}\"");
        let messages = sqlx::query!(
            r#"select count(*) as "rows!: i64", coalesce(min(key), 0) as "lowest!: i64", coalesce(max(key), 0) as "highest!: i64" from (
                 select rowid as key from message_index where message_index match ?1 order by rowid desc limit ?2)"#,
            word,
            SAMPLE
        );
        let messages = messages.fetch_one(&mut *conn).await.map_err(error::of)?;
        let sessions = sqlx::query_scalar!(
            r#"select count(*) as "rows!: i64" from (
                 select rowid from session_index where session_index match ?1 limit ?2)"#,
            word,
            SAMPLE
        );
        let sessions = sessions.fetch_one(&mut *conn).await.map_err(error::of)?;
        let everywhere = match messages.rows < SAMPLE {
            true => messages.rows,
            false => SAMPLE.saturating_mul(messages.highest) / (messages.highest - messages.lowest).max(1),
        };
        least = least.min(everywhere.saturating_add(sessions));
    }
    Ok(least)
}

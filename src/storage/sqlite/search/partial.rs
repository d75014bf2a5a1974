//! Partial matches: what is found where nothing has all that was asked for.
//!
//! The rarest terms count: of a question, those that say what it is about. First it is looked for what has all of them
//! but one, then but two, and so on, so that the best is found however old it is. What has one less than the best is good,
//! too, if that is two or more; a single one is enough only where nothing has two, and only one that says something.

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
/// The fewest terms of a good match.
pub(super) const GOOD: usize = 2;

/// The terms that count.
pub(super) struct Terms {
    /// Their places among the phrases, the rarest first.
    pub(super) places: Vec<usize>,
    /// Whether few rows have any of them.
    pub(super) are_rare: bool,
    /// How many of them, the first ones, say something by themselves: one at least.
    pub(super) telling: usize,
}

/// The rarest terms of a query that are anywhere at all, if there is one and not all of the query.
pub(super) async fn terms(conn: &mut SqliteConnection, phrases: &Phrases) -> Result<Option<Terms>> {
    let asked: Vec<usize> =
        (0..phrases.of_messages.len()).filter(|place| !phrases.of_messages[*place].excluded).collect();
    if asked.len() < 2 {
        return Ok(None);
    }
    let mut known = Vec::new();
    for place in asked.into_iter().take(ASKED) {
        let rows = rows_with(conn, &phrases.of_messages[place]).await?;
        if rows > 0 {
            known.push((rows, place));
        }
    }
    let weight = |place: usize| {
        let words = &phrases.of_messages[place].words;
        let length: usize = words.iter().map(String::len).sum();
        // Short words say little, however few texts there are.
        let is_short = length <= SHORT && words.iter().all(|word| word.bytes().all(|byte| byte.is_ascii_lowercase()));
        (is_short && !words.is_empty(), Reverse(length))
    };
    known.sort_by_key(|(rows, place)| {
        let (is_short, length) = weight(*place);
        (is_short, *rows, length)
    });
    known.truncate(RAREST);
    let are_rare = known.iter().all(|(rows, _)| *rows < SAMPLE);
    let telling = known.iter().filter(|(_, place)| !weight(*place).0).count().max(1);
    let places: Vec<usize> = known.into_iter().map(|(_, place)| place).collect();
    Ok((!places.is_empty()).then_some(Terms { places, are_rare, telling }))
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

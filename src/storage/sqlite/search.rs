//! From what people type to FTS5: a user's words are never its syntax.

use sqlx::SqliteConnection;

use super::error;
use crate::storage::Result;

/// Words that are quoted, so that none is an operator; the last may be the beginning of one. None without a word.
pub(super) fn title_query(words: &str) -> Option<String> {
    let quoted: Vec<String> = words
        .split_whitespace()
        .filter(|word| word.contains(char::is_alphanumeric))
        .map(|word| format!("\"{}\"", word.replace('"', "\"\"")))
        .collect();
    match quoted.is_empty() {
        true => None,
        false => Some(format!("{{title}} : ({} *)", quoted.join(" AND "))),
    }
}

/// Pages that one step of a merge writes: some ten milliseconds' work.
pub(super) const STEP_OF_MERGE: i64 = 256;
/// The same for the first step: FTS5 takes a negative number as the order to merge everything.
pub(super) const START_OF_MERGE: i64 = -STEP_OF_MERGE;

/// One step of merging the index. False when nothing was left to merge: FTS5 then changes one row at most.
pub(super) async fn merge(conn: &mut SqliteConnection, pages: i64) -> Result<bool> {
    let before = changes(conn).await?;
    sqlx::query!("insert into message_index (message_index, rank) values ('merge', ?1)", pages)
        .execute(&mut *conn)
        .await
        .map_err(error::of)?;
    Ok(changes(conn).await? - before > 1)
}

async fn changes(conn: &mut SqliteConnection) -> Result<i64> {
    sqlx::query_scalar!(r#"select total_changes() as "changes!: i64""#).fetch_one(conn).await.map_err(error::of)
}

/// Whether a character is written without spaces between words: Chinese, Japanese, Korean.
fn is_set_apart(c: char) -> bool {
    matches!(u32::from(c),
        0x1100..=0x11ff | 0x2e80..=0x2fdf | 0x3005..=0x3007 | 0x3040..=0x30ff | 0x3100..=0x318f | 0x31a0..=0x31ff
        | 0x3400..=0x4dbf | 0x4e00..=0x9fff | 0xa960..=0xa97f | 0xac00..=0xd7ff | 0xf900..=0xfaff | 0xff66..=0xffdc
        | 0x1b000..=0x1b16f | 0x20000..=0x3fffd)
}

/// The indexed form of a text, where it differs from the text: a zero-width space, which the tokenizer takes as the
/// end of a word, around each character that stands for itself.
pub(super) fn terms(text: &str) -> Option<String> {
    if text.is_ascii() || !text.contains(is_set_apart) {
        return None;
    }
    let mut terms = String::with_capacity(text.len() * 2);
    for c in text.chars() {
        match is_set_apart(c) {
            true => terms.extend(['\u{200b}', c, '\u{200b}']),
            false => terms.push(c),
        }
    }
    Some(terms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_and_a_text_without_one_is_no_query() {
        assert_eq!(
            title_query("foo-bar \"x OR").as_deref(),
            Some("{title} : (\"foo-bar\" AND \"\"\"x\" AND \"OR\" *)")
        );
        assert_eq!(title_query(" * -- "), None);
    }

    #[test]
    fn only_texts_with_characters_that_stand_for_themselves_have_another_form() {
        assert_eq!(terms("naïve café"), None);
        assert_eq!(terms("a数b").as_deref(), Some("a\u{200b}数\u{200b}b"));
    }
}

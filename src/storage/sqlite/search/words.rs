//! What is asked of the index before a search: which words begin so, and how common words are.

use sqlx::SqliteConnection;

use super::expression::{ENDINGS, Phrase};
use crate::storage::{Result, sqlite::error};

/// Messages that a word is in when it is common: so many are looked at in a millisecond or two.
const COMMON: i64 = 10_000;
/// Words that are asked for, the longest first: they are seldom the common ones.
const ASKED: usize = 4;

/// The phrases, with the words that beginnings stand for.
pub(super) async fn expanded(conn: &mut SqliteConnection, phrases: &[Phrase]) -> Result<Vec<Phrase>> {
    let mut expanded = Vec::with_capacity(phrases.len());
    for phrase in phrases {
        expanded.push(match phrase.beginning() {
            Some(beginning) => phrase.ending_with(&beginning_with(conn, beginning).await?),
            None => phrase.clone(),
        });
    }
    Ok(expanded)
}

/// Words of the index that begin so; one more than are wanted tells that there are too many. It goes from word to
/// word: a scan would read every place of each.
async fn beginning_with(conn: &mut SqliteConnection, beginning: &str) -> Result<Vec<String>> {
    let (mut words, mut from) = (Vec::new(), beginning.to_owned());
    // One letter begins too many in any text.
    if beginning.len() == 1 {
        words.resize(ENDINGS + 1, String::new());
    }
    while words.len() <= ENDINGS {
        // Not checked at compile time: the table is the connection's own.
        let next = sqlx::query_scalar::<_, String>("select term from temp.message_words where term >= ?1 limit 1");
        match next.bind(&from).fetch_optional(&mut *conn).await.map_err(error::of)? {
            Some(word) if word.starts_with(beginning) => {
                // No word goes on with a space, and all that goes on is after it.
                from = format!("{word} ");
                words.push(word);
            }
            _ => break,
        }
    }
    Ok(words)
}

/// Whether something that must be there is in few messages: then the search looks at those few, whatever else it asks.
/// `scope` is a word of the scope that must be there, too.
pub(super) async fn is_narrow(conn: &mut SqliteConnection, phrases: &[Phrase], scope: Option<&str>) -> Result<bool> {
    let mut words: Vec<&str> = phrases.iter().filter(|phrase| !phrase.excluded).flat_map(Phrase::certain).collect();
    words.sort_unstable_by_key(|word| (std::cmp::Reverse(word.len()), *word));
    words.dedup();
    for word in scope.into_iter().chain(words.into_iter().take(ASKED)) {
        let word = format!("\"{word}\"");
        let common = sqlx::query_scalar!(
            r#"select 1 as "is_common: i64" from message_index where message_index match ?1 order by rowid desc limit 1 offset ?2"#,
            word,
            COMMON
        );
        if common.fetch_optional(&mut *conn).await.map_err(error::of)?.is_none() {
            return Ok(true);
        }
    }
    Ok(false)
}

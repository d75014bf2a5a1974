//! Words as the index has them: what FTS5's tokenizer `unicode61 remove_diacritics 2` takes for a word, and how it
//! folds case and accents. A test compares the two; where they disagree, a hit is shown without its place.

use unicode_normalization::{UnicodeNormalization, char::is_combining_mark};

/// Whether a character is written without spaces between words: Chinese, Japanese, Korean. The view `set_apart` of the
/// schema has the same ranges.
pub(super) fn is_set_apart(c: char) -> bool {
    matches!(u32::from(c),
        0x1100..=0x11ff | 0x2e80..=0x2fdf | 0x3005..=0x3007 | 0x3040..=0x30ff | 0x3100..=0x318f | 0x31a0..=0x31ff
        | 0x3400..=0x4dbf | 0x4e00..=0x9fff | 0xa960..=0xa97f | 0xac00..=0xd7ff | 0xf900..=0xfaff | 0xff66..=0xffdc
        | 0x1b000..=0x1b16f | 0x20000..=0x3fffd)
}

/// The indexed form of a text, where it differs from the text: a zero-width space, which the tokenizer takes as the
/// end of a word, around each character that stands for itself.
pub(in crate::storage::sqlite) fn terms(text: &str) -> Option<String> {
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

/// Whether words are made of it: letters, digits, and characters of private use.
pub(super) fn is_word(c: char) -> bool {
    if c.is_ascii() {
        return c.is_ascii_alphanumeric();
    }
    match u32::from(c) {
        // Letters in circles are signs; beyond the last private plane but one, the tokenizer knows nothing.
        0x24b6..=0x24e9 | 0x1f130..=0x1f189 | 0x10_0000.. => false,
        0xe000..=0xf8ff | 0xf_0000..=0xf_fffd => true,
        _ => c.is_alphanumeric() && !is_combining_mark(c),
    }
}

/// An accent that is a character of its own: in a word, and no part of it.
fn is_accent(c: char) -> bool {
    let place = u32::from(c).wrapping_sub(0x300);
    place < 50 && 0x0003_61f8_0802_9fdf_u64 >> place & 1 == 1
}

fn fold(c: char) -> char {
    if c.is_ascii() {
        return c.to_ascii_lowercase();
    }
    if is_set_apart(c) || c == 'ı' {
        return c;
    }
    let one = |mut chars: std::vec::IntoIter<char>| (chars.len() == 1).then(|| chars.next()).flatten();
    // By way of the capital, so that both small sigmas are one.
    let capital = one(c.to_uppercase().collect::<Vec<_>>().into_iter()).unwrap_or(c);
    let small = one(capital.to_lowercase().collect::<Vec<_>>().into_iter()).unwrap_or(c);
    // The tokenizer knows the accents of Latin letters alone, and of U+01E1 not even them.
    match small.nfd().next() {
        Some(base) if base.is_ascii() && small != '\u{1e1}' => base.to_ascii_lowercase(),
        _ => small,
    }
}

/// The first word at or after a place: from, to (not included), in bytes. Its folded form is left in `folded`.
pub(super) fn next_word(text: &str, place: usize, folded: &mut String) -> Option<(usize, usize)> {
    folded.clear();
    let (start, first) = next_start(text, place)?;
    folded.push(fold(first));
    if is_set_apart(first) {
        return Some((start, start + first.len_utf8()));
    }
    let mut end = start + first.len_utf8();
    while let Some(byte) = text.as_bytes().get(end) {
        // Most are ASCII: their bytes are read as they are.
        if byte.is_ascii() {
            if !byte.is_ascii_alphanumeric() {
                break;
            }
            folded.push(char::from(byte.to_ascii_lowercase()));
            end += 1;
            continue;
        }
        match text[end..].chars().next() {
            Some(c) if is_word(c) && !is_set_apart(c) => folded.push(fold(c)),
            Some(c) if is_accent(c) => {}
            _ => break,
        }
        end += text[end..].chars().next().map_or(1, char::len_utf8);
    }
    Some((start, end))
}

fn next_start(text: &str, mut place: usize) -> Option<(usize, char)> {
    while let Some(byte) = text.as_bytes().get(place) {
        if byte.is_ascii() {
            if byte.is_ascii_alphanumeric() {
                return Some((place, char::from(*byte)));
            }
            place += 1;
            continue;
        }
        let c = text[place..].chars().next()?;
        if is_word(c) {
            return Some((place, c));
        }
        place += c.len_utf8();
    }
    None
}

#[cfg(test)]
mod tests {
    use sqlx::{Connection, SqliteConnection};

    use super::*;

    #[test]
    fn only_texts_with_characters_that_stand_for_themselves_have_another_form() {
        assert_eq!(terms("naïve café"), None);
        assert_eq!(terms("a数b").as_deref(), Some("a\u{200b}数\u{200b}b"));
    }

    #[test]
    fn words_are_folded_and_found_where_they_are() {
        let (text, mut folded, mut place, mut found) = ("Don't: CAFÉ 数据x", String::new(), 0, Vec::new());
        while let Some((from, to)) = next_word(text, place, &mut folded) {
            found.push((folded.clone(), &text[from..to]));
            place = to;
        }
        let found: Vec<_> = found.iter().map(|(folded, word)| (folded.as_str(), *word)).collect();
        let wanted = [("don", "Don"), ("t", "t"), ("cafe", "CAFÉ"), ("数", "数"), ("据", "据"), ("x", "x")];
        assert_eq!(found, wanted);
    }

    /// The letters of Europe, each between two others, as the tokenizer takes them and as this file does.
    #[tokio::test]
    async fn words_are_those_of_the_tokenizer() {
        let mut conn = SqliteConnection::connect("sqlite::memory:").await.unwrap();
        let setup = "create virtual table t using fts5 (c, tokenize = 'unicode61 remove_diacritics 2');
                     create virtual table v using fts5vocab (t, instance)";
        sqlx::raw_sql(setup).execute(&mut conn).await.unwrap();
        let fill = "insert into t (rowid, c)
                    with recursive n (c) as (select 128 union all select c + 1 from n where c < 8300)
                    select c, 'x' || char(c) || 'x' from n where c < 1312 or c > 7680";
        sqlx::raw_sql(fill).execute(&mut conn).await.unwrap();
        let rows: Vec<(i64, String)> = sqlx::query_as(
            "select doc, group_concat(term, ' ') from (select doc, term from v order by doc, offset) group by doc",
        )
        .fetch_all(&mut conn)
        .await
        .unwrap();
        let differs = |(code, theirs): &(i64, String)| {
            let c = char::from_u32(u32::try_from(*code).unwrap()).unwrap();
            let (text, mut folded, mut place, mut ours) = (format!("x{c}x"), String::new(), 0, Vec::new());
            while let Some((_, to)) = next_word(&text, place, &mut folded) {
                ours.push(folded.clone());
                place = to;
            }
            // What was no letter in Unicode 6, which the tokenizer has, may be any.
            (c.is_alphanumeric() || is_combining_mark(c)) && ours.join(" ") != *theirs
        };
        let different: Vec<String> =
            rows.iter().filter(|row| differs(row)).map(|(code, theirs)| format!("{code:x} {theirs}")).collect();
        assert_eq!(different, ["37f x\u{37f}x"]);
    }

    #[tokio::test]
    async fn the_schema_sets_the_same_characters_apart() {
        let mut conn = SqliteConnection::connect("sqlite::memory:").await.unwrap();
        crate::storage::sqlite::open::MIGRATIONS.run(&mut conn).await.unwrap();
        let codes: Vec<u32> = sqlx::query_scalar(
            "with recursive n (c) as (select 1 union all select c + 1 from n where c < 270000)
             select c from n where c not between 55296 and 57343 and char(c) glob (select class from set_apart)",
        )
        .fetch_all(&mut conn)
        .await
        .unwrap();
        let ours: Vec<u32> = ('\u{1}'..='\u{41eaf}').filter(|c| is_set_apart(*c)).map(u32::from).collect();
        assert!(codes == ours, "{} and {}", codes.len(), ours.len());
    }
}

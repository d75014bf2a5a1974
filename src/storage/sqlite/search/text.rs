//! Words as the index has them: what FTS5's tokenizer (`unicode61`, with marks as letters) takes for a word in the
//! indexed form of a text, and how it folds case and accents. A test compares the two; where they disagree, a hit is
//! shown without its place.
//!
//! A character and the marks on it are looked at together, in normal form C: composed and decomposed texts are one.
//! Marks that only say how a word is read (accents, Arabic and Hebrew vowels) are left out. Marks of other scripts are
//! letters. What the tokenizer cannot do for itself is done in the indexed form (`forms.rs`), by [`letters`].

use unicode_normalization::{UnicodeNormalization, char::is_combining_mark};

/// Whether a character is written without spaces between words: Chinese, Japanese, Korean, Thai, Lao, Khmer, Burmese and
/// their neighbours. The view `set_apart` of the schema has the same ranges.
pub(super) fn is_set_apart(c: char) -> bool {
    matches!(u32::from(c),
        0x0e00..=0x0eff | 0x1000..=0x109f | 0x1100..=0x11ff | 0x1780..=0x17ff | 0x1950..=0x19ff | 0x1a20..=0x1aaf
        | 0x2e80..=0x2fdf | 0x3005..=0x3007 | 0x3040..=0x30ff | 0x3100..=0x318f | 0x31a0..=0x31ff
        | 0x3400..=0x4dbf | 0x4e00..=0x9fff | 0xa960..=0xa97f | 0xa9e0..=0xa9ff | 0xaa60..=0xaadf | 0xac00..=0xd7ff
        | 0xf900..=0xfaff | 0xff66..=0xffdc | 0x1b000..=0x1b16f | 0x20000..=0x3fffd)
}

/// Whether words are made of it: letters, digits, marks, and characters of private use.
pub(super) fn is_word(c: char) -> bool {
    if c.is_ascii() {
        return c.is_ascii_alphanumeric();
    }
    match u32::from(c) {
        // Beyond the last private plane but one, the tokenizer knows nothing.
        0x10_0000.. => false,
        0xe000..=0xf8ff | 0xf_0000..=0xf_fffd => true,
        _ if is_dropped(c) || is_sign(c) => false,
        _ => c.is_alphanumeric() || is_combining_mark(c),
    }
}

/// Whether it is a sign that is searched for by itself, such as an emoji, an arrow or a number in a circle. (Of ASCII's
/// signs, see `forms.rs`.)
pub(super) fn is_sign(c: char) -> bool {
    match u32::from(c) {
        0xa2..=0xa9 | 0xac | 0xae..=0xb1 | 0xb4 | 0xb6 | 0xb8 | 0xd7 | 0xf7 | 0x2030..=0x2031 | 0x203b | 0x2044 => true,
        0x20a0..=0x20cf | 0x2190..=0x2bff | 0x3200..=0x33ff | 0x4dc0..=0x4dff | 0xfb29 => true,
        0x1f130..=0x1f189 => true,
        0x2100..=0x214f | 0x1d100..=0x1d35f | 0x1f000..=0x1faff => !c.is_alphanumeric() && !is_combining_mark(c),
        _ => false,
    }
}

/// Whether it is in a word without being a part of it: an accent that was not composed, a vowel of Arabic or Hebrew, a
/// joiner, a soft hyphen.
pub(super) fn is_dropped(c: char) -> bool {
    matches!(u32::from(c),
        0xad | 0x300..=0x36f | 0x483..=0x489 | 0x591..=0x5bd | 0x5bf | 0x5c1..=0x5c2 | 0x5c4..=0x5c5 | 0x5c7
        | 0x610..=0x61a | 0x640 | 0x64b..=0x65f | 0x670 | 0x6d6..=0x6dc | 0x6df..=0x6e4 | 0x6e7..=0x6e8 | 0x6ea..=0x6ed
        | 0x711 | 0x730..=0x74a | 0x8ca..=0x8ff | 0x1ab0..=0x1aff | 0x1dc0..=0x1dff | 0x200c..=0x200d | 0x2060
        | 0x20d0..=0x20ff | 0xfe00..=0xfe0f | 0xfe20..=0xfe2f | 0xfeff | 0xe0100..=0xe01ef)
}

/// Whether it is a letter in another shape: of full or half width, in a ligature, of a formula, an Arabic letter as it is
/// printed.
fn is_shape(c: char) -> bool {
    matches!(u32::from(c),
        0xfb00..=0xfb06 | 0xfb50..=0xfbb1 | 0xfbd3..=0xfd3d | 0xfd50..=0xfdf9 | 0xfe70..=0xfefc | 0xff10..=0xff19
        | 0xff21..=0xff3a | 0xff41..=0xff5a | 0xff66..=0xffdc | 0x1d400..=0x1d7ff)
}

/// Whether a character alone is in normal form C, and no accented letter that the tokenizer cannot fold.
pub(super) fn is_plain(c: char) -> bool {
    matches!(u32::from(c), 0..=0x33f | 0x391..=0x3a9 | 0x3b1..=0x3c9 | 0x400..=0x482 | 0x48a..=0x590 | 0x5d0..=0x5ea
        | 0x620..=0x63f | 0x641..=0x64a | 0x660..=0x66f | 0x671..=0x6d3 | 0x10a0..=0x10ff | 0x1200..=0x139f
        | 0x1e00..=0x1eff | 0x2010..=0x203a | 0x3040..=0x3098 | 0x30a0..=0x30ff | 0x4e00..=0x9fff | 0xac00..=0xd7a3)
        && c != '\u{ad}'
}

/// Whether a character belongs to one before it.
fn is_on_it(first: char, c: char) -> bool {
    match u32::from(c) {
        // The vowels and ends of Korean syllables.
        0x1160..=0x11ff | 0xd7b0..=0xd7ff => {
            matches!(u32::from(first), 0x1100..=0x115f | 0xa960..=0xa97f | 0xac00..=0xd7a3)
        }
        // Voice marks of Japanese.
        0x3099..=0x309a | 0xff9e..=0xff9f => matches!(u32::from(first), 0x3040..=0x30ff | 0xff66..=0xff9d),
        0..=0x2ff => false,
        _ => is_combining_mark(c) && !is_set_apart(c),
    }
}

/// The character at a place and the marks on it, as they are indexed but for case: left in `letters`, none where nothing
/// of it is. Where they end.
pub(super) fn letters(text: &str, place: usize, letters: &mut Vec<char>) -> usize {
    letters.clear();
    let mut chars = text[place..].char_indices();
    let Some((_, first)) = chars.next() else { return place };
    let end = chars.find(|(_, c)| !is_on_it(first, *c)).map_or(text.len(), |(at, _)| place + at);
    if end == place + first.len_utf8() && is_plain(first) {
        letters.push(first);
        return end;
    }
    let shaped = text[place..end].chars().flat_map(|c| {
        let shape = is_shape(c);
        c.nfkd().filter(move |_| shape).chain(std::iter::once(c).filter(move |_| !shape))
    });
    letters.extend(shaped.nfc().filter(|c| !is_dropped(*c)).map(bare));
    end
}

/// A Greek letter without its accents: the tokenizer leaves those on.
fn bare(c: char) -> char {
    match u32::from(c) {
        0x386..=0x3ce | 0x1f00..=0x1fff => c.nfd().next().unwrap_or(c),
        _ => c,
    }
}

fn fold(c: char) -> char {
    if c.is_ascii() {
        return c.to_ascii_lowercase();
    }
    // What the tokenizer does not fold: it knows Unicode 6.
    if is_set_apart(c) || matches!(u32::from(c), 0x131 | 0x37f | 0x528..=0x52f | 0x13a0..=0x13fd) {
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

/// The words of a text, one after the other.
pub(super) struct Words<'t> {
    text: &'t str,
    place: usize,
    letters: Vec<char>,
    /// What is left of a character that is several words, the last first, and where it stands.
    left: Vec<char>,
    at: (usize, usize),
}

impl<'t> Words<'t> {
    pub(super) fn of(text: &'t str) -> Self {
        Self { text, place: 0, letters: Vec::new(), left: Vec::new(), at: (0, 0) }
    }

    /// The next word: from, to (not included), in bytes. Its folded form is left in `folded`.
    pub(super) fn next(&mut self, folded: &mut String) -> Option<(usize, usize)> {
        folded.clear();
        if let Some(c) = self.left.pop() {
            folded.push(c);
            return Some(self.at);
        }
        let (start, mut end) = self.start()?;
        if self.letters.first().copied().is_some_and(is_set_apart) {
            self.place = end;
            self.at = (start, end);
            let mut words = self.letters.iter().copied().filter(|c| is_word(*c));
            folded.extend(words.next().map(fold));
            self.left.extend(words.map(fold));
            self.left.reverse();
            return Some(self.at);
        }
        folded.extend(self.letters.iter().copied().filter(|c| is_word(*c)).map(fold));
        while let Some(byte) = self.text.as_bytes().get(end) {
            // Most are ASCII: their bytes are read as they are.
            if byte.is_ascii() && self.text.as_bytes().get(end + 1).is_none_or(u8::is_ascii) {
                if !byte.is_ascii_alphanumeric() {
                    break;
                }
                folded.push(char::from(byte.to_ascii_lowercase()));
                end += 1;
                continue;
            }
            let after = letters(self.text, end, &mut self.letters);
            match self.letters.first() {
                Some(c) if !is_word(*c) || is_set_apart(*c) => break,
                _ => folded.extend(self.letters.iter().copied().filter(|c| is_word(*c)).map(fold)),
            }
            end = after;
        }
        self.place = end;
        Some((start, end))
    }

    /// Where the next word begins, and its first letter ends, which is left in `letters`.
    fn start(&mut self) -> Option<(usize, usize)> {
        while let Some(byte) = self.text.as_bytes().get(self.place) {
            if byte.is_ascii() && !byte.is_ascii_alphanumeric() {
                self.place += 1;
                continue;
            }
            if byte.is_ascii() && self.text.as_bytes().get(self.place + 1).is_none_or(u8::is_ascii) {
                self.letters.clear();
                self.letters.push(char::from(*byte));
                return Some((self.place, self.place + 1));
            }
            let (start, end) = (self.place, letters(self.text, self.place, &mut self.letters));
            if self.letters.first().copied().is_some_and(is_word) {
                return Some((start, end));
            }
            self.place = end;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use sqlx::{Connection, SqliteConnection};

    use super::*;
    use crate::storage::sqlite::search::forms::form;

    fn words(text: &str) -> Vec<(String, &str)> {
        let (mut words, mut folded, mut found) = (Words::of(text), String::new(), Vec::new());
        while let Some((from, to)) = words.next(&mut folded) {
            found.push((folded.clone(), &text[from..to]));
        }
        found
    }

    #[test]
    fn words_are_folded_and_found_where_they_are() {
        let found = words("Don't: CAFÉ 数据x");
        let found: Vec<_> = found.iter().map(|(folded, word)| (folded.as_str(), *word)).collect();
        let wanted = [("don", "Don"), ("t", "t"), ("cafe", "CAFÉ"), ("数", "数"), ("据", "据"), ("x", "x")];
        assert_eq!(found, wanted);
    }

    #[test]
    fn composed_and_decomposed_words_are_one_and_marks_do_not_split_words() {
        let one = |text: &str| words(text).into_iter().map(|(folded, _)| folded).collect::<Vec<_>>();
        for text in ["테스트", "ガギ", "café", "Ångström", "Việt", "йога", "ποίηση", "ᄒᆞᆫ"] {
            let decomposed: String = text.nfd().collect();
            assert_eq!(one(text), one(&decomposed), "{text}");
        }
        for (text, wanted) in [
            ("مُحَمَّد", "محمد"),
            ("שָׁלוֹם", "שלום"),
            ("हिन्दी", "हिन्दी"),
            ("ＡＰＩ", "api"),
            ("ﬁle", "file"),
            ("re\u{ad}port", "report"),
            ("می\u{200c}خواهم", "میخواهم"),
            ("ΠΟΊΗΣΗ", "ποιηση"),
        ] {
            assert_eq!(one(text), [wanted], "{text}");
        }
    }

    /// The letters of many scripts, each between two others, as the tokenizer takes their indexed form and as this file
    /// does.
    #[tokio::test]
    async fn words_are_those_of_the_tokenizer() {
        let mut conn = SqliteConnection::connect("sqlite::memory:").await.unwrap();
        let setup = "create virtual table t using fts5 (c, tokenize = \"unicode61 remove_diacritics 2 categories 'L* N* Co Mn Mc'\");
                     create virtual table v using fts5vocab (t, instance)";
        sqlx::raw_sql(setup).execute(&mut conn).await.unwrap();
        let codes: Vec<u32> =
            (128..4700).chain(5000..5100).chain(6000..6400).chain(7424..8300).chain(64256..65500).collect();
        for code in &codes {
            let Some(c) = char::from_u32(*code) else { continue };
            let text = format!("x{c}x");
            let form = Some(form(&text)).filter(|form| !form.is_empty()).unwrap_or(text);
            let insert = sqlx::query("insert into t (rowid, c) values (?1, ?2)").bind(*code).bind(form);
            insert.execute(&mut conn).await.unwrap();
        }
        let rows: Vec<(i64, String)> = sqlx::query_as(
            "select doc, group_concat(term, ' ') from (select doc, term from v order by doc, offset) group by doc",
        )
        .fetch_all(&mut conn)
        .await
        .unwrap();
        let differs = |(code, theirs): &(i64, String)| {
            let c = char::from_u32(u32::try_from(*code).unwrap()).unwrap();
            let ours: Vec<String> = words(&format!("x{c}x")).into_iter().map(|(folded, _)| folded).collect();
            // What was no letter in Unicode 6, which the tokenizer has, may be any.
            (c.is_alphanumeric() || is_combining_mark(c)) && !is_sign(c) && ours.join(" ") != *theirs
        };
        let different: Vec<String> =
            rows.iter().filter(|row| differs(row)).map(|(code, theirs)| format!("{code:x} {theirs}")).collect();
        assert_eq!(different, [""; 0]);
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

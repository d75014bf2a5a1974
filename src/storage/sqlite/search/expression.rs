//! From what people type to FTS5's query language. Every word is quoted: a user's words are never its syntax.

use super::text::{is_set_apart, is_word, next_word, terms};
use crate::model::Term;

/// Words of one phrase, and of a whole query, that are looked up at most; what comes after them is passed over. (A
/// query has 32 terms at most, but a term can be a path, or a sentence in Chinese, of any length.)
pub(super) const PHRASE: usize = 64;
const QUERY: usize = 128;
/// Words of a phrase that are looked up together; the texts say whether more of them follow. (FTS5 looks for the first
/// row that has all words of a phrase, wherever it is.)
const TOGETHER: usize = 8;
/// Letters of the beginnings that the index of messages has: `prefix` in the schema.
const PREFIX: usize = 4;
/// Words that another beginning is looked up as, at most.
pub(super) const ENDINGS: usize = 64;

/// A term, with its words as the index has them.
#[derive(Debug, Clone)]
pub(super) struct Phrase {
    /// Folded; at least one.
    pub(super) words: Vec<String>,
    pub(super) excluded: bool,
    pub(super) prefix: bool,
    /// Whether the index says the last word on it, or the text must be looked at.
    pub(super) is_indexed: bool,
    /// What is looked up in the index: none when it is a beginning that the index has not.
    quoted: Option<String>,
}

impl Phrase {
    fn new(term: &Term, most: usize) -> Option<Self> {
        let (mut words, mut ends, mut folded, mut place) = (Vec::new(), Vec::new(), String::new(), 0);
        while let Some((_, to)) = next_word(&term.text, place, &mut folded) {
            if words.len() == most {
                break;
            }
            words.push(std::mem::take(&mut folded));
            ends.push(to);
            place = to;
        }
        // A character that stands for itself is a whole word, and what was cut off has no last word.
        let is_whole = !term.text[place..].contains(is_word);
        let prefix = term.prefix && is_whole && !words.last()?.contains(is_set_apart);
        let is_indexed = words.len() <= TOGETHER;
        let text = term.text[..*ends.get(TOGETHER - 1).or(ends.last())?].replace(['"', '\0'], " ");
        let quoted = format!("\"{}\"{}", terms(&text).unwrap_or(text), if prefix && is_indexed { " *" } else { "" });
        Some(Self { words, excluded: term.excluded, prefix, is_indexed, quoted: Some(quoted) })
    }

    /// Whether the index is asked for any part of it.
    pub(super) fn is_looked_up(&self) -> bool {
        self.quoted.is_some()
    }

    /// The beginning that it ends with, unless the index of messages has it: FTS5 would merge all rows of all words
    /// that begin so before it gives the first.
    pub(super) fn beginning(&self) -> Option<&str> {
        let last = self.words.last().filter(|_| self.prefix && self.is_indexed)?;
        (last.chars().count() != PREFIX).then_some(last)
    }

    /// The same with one of these words at its end. If they are too many: with a beginning that the index has, or
    /// without the end, and a look at the texts.
    pub(super) fn ending_with(&self, endings: &[String]) -> Self {
        let (last, before) = self.words.split_last().map_or(("", &[][..]), |(last, before)| (last.as_str(), before));
        let quoted = |words: &[String]| format!("\"{}\"", words.join(" "));
        let with = |ending: &str| quoted(&[before, &[ending.to_owned()]].concat());
        let is_indexed = endings.len() <= ENDINGS;
        let asked = match endings {
            [] => Some(with(last)),
            endings if is_indexed => Some(endings.iter().map(|word| with(word)).collect::<Vec<_>>().join(" OR ")),
            _ => match last.char_indices().nth(PREFIX) {
                Some((end, _)) => Some(with(&last[..end]) + " *"),
                None => (!before.is_empty()).then(|| quoted(before)),
            },
        };
        Self { words: self.words.clone(), quoted: asked, is_indexed, ..*self }
    }
}

/// The words of all terms. A term of which nothing is a word to the index is passed over.
pub(super) fn phrases(query: &[Term]) -> Vec<Phrase> {
    let mut left = QUERY;
    let phrases = query.iter().map(|term| {
        let phrase = Phrase::new(term, left.min(PHRASE));
        left -= phrase.as_ref().map_or(0, |phrase| phrase.words.len());
        phrase
    });
    phrases.flatten().collect()
}

/// A query in FTS5's language: what must be there, and what must not.
#[derive(Debug, Default)]
pub(super) struct Expression {
    asked: Vec<String>,
    excluded: String,
}

impl Expression {
    /// A query in some columns, limited to rows whose scope has one word of each list. None if nothing is asked for.
    pub(super) fn new(phrases: &[Phrase], columns: &str, limits: &[Vec<String>]) -> Option<Self> {
        if phrases.iter().all(|phrase| phrase.excluded) {
            return None;
        }
        let of = |excluded: bool| -> Vec<&str> {
            let some = phrases.iter().filter(|phrase| phrase.excluded == excluded);
            some.filter(|phrase| !excluded || phrase.is_indexed).filter_map(|phrase| phrase.quoted.as_deref()).collect()
        };
        let mut asked: Vec<String> = limits.iter().map(|words| scope(words)).collect();
        let phrases = of(false).into_iter().map(|phrase| format!("{{{columns}}} : ({phrase})"));
        asked.extend(phrases);
        let excluded = of(true).join(" OR ");
        let excluded = if excluded.is_empty() { excluded } else { format!("{{{columns}}} : ({excluded})") };
        Some(Self { asked, excluded })
    }

    /// The query, among rows whose scope has one of these words; everywhere if there are none.
    pub(super) fn among(&self, words: &[String]) -> String {
        let among = Some(words).filter(|words| !words.is_empty()).map(scope);
        // What excludes is outermost: it is asked only of rows that have the rest.
        let asked = among.iter().chain(&self.asked).map(String::as_str).collect::<Vec<_>>().join(" AND ");
        match self.excluded.as_str() {
            "" => asked,
            excluded => format!("({asked}) NOT ({excluded})"),
        }
    }
}

fn scope(words: &[String]) -> String {
    format!("(scope : ({}))", words.join(" OR "))
}

/// A query for titles that have all these words; the last may be the beginning of one. None without a word.
pub(in crate::storage::sqlite) fn title_query(words: &str) -> Option<String> {
    let words = words.split_whitespace().filter(|word| word.contains(char::is_alphanumeric));
    let mut terms: Vec<Term> = words.map(|word| Term { text: word.into(), excluded: false, prefix: false }).collect();
    terms.last_mut()?.prefix = true;
    Some(Expression::new(&phrases(&terms), "title", &[])?.among(&[]))
}

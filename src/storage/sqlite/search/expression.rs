//! From what people type to FTS5's query language. Every word is quoted: a user's words are never its syntax.

use super::text::{is_set_apart, next_word, terms};
use crate::model::Term;

/// Words of one phrase, and of a whole query, that are looked up at most; what comes after them is passed over. (A
/// query has 32 terms at most, but a term can be a path, or a sentence in Chinese, of any length.)
pub(super) const PHRASE: usize = 64;
const QUERY: usize = 256;
/// The shortest beginning of a word that the index has: `prefix` in the schema. Shorter ones would be merged from
/// thousands of words, a second's work; they are looked for in the texts of what else matches.
pub(super) const SHORTEST_PREFIX: usize = 3;

/// A term, with its words as the index has them.
#[derive(Debug)]
pub(super) struct Phrase {
    /// Folded; at least one.
    pub(super) words: Vec<String>,
    pub(super) excluded: bool,
    pub(super) prefix: bool,
    /// Whether the index says the last word on it, or the text must be looked at.
    pub(super) is_indexed: bool,
    /// What is looked up in the index: none when all of it is too short a beginning.
    quoted: Option<String>,
}

impl Phrase {
    /// Whether the index is asked for any part of it.
    pub(super) fn is_looked_up(&self) -> bool {
        self.quoted.is_some()
    }
}

/// The words of all terms. A term of which nothing is a word to the index is passed over.
pub(super) fn phrases(query: &[Term], shortest_prefix: usize) -> Vec<Phrase> {
    let mut left = QUERY;
    let phrases = query.iter().map(|term| {
        let phrase = phrase(term, left.min(PHRASE), shortest_prefix);
        left -= phrase.as_ref().map_or(0, |phrase| phrase.words.len());
        phrase
    });
    phrases.flatten().collect()
}

fn phrase(term: &Term, most: usize, shortest_prefix: usize) -> Option<Phrase> {
    let (mut words, mut ends, mut folded, mut place) = (Vec::new(), Vec::new(), String::new(), 0);
    while let Some((_, to)) = next_word(&term.text, place, &mut folded) {
        if words.len() == most {
            break;
        }
        words.push(std::mem::take(&mut folded));
        ends.push(to);
        place = to;
    }
    if words.is_empty() {
        return None;
    }
    // A character that stands for itself is a whole word, and what was cut off has no last word.
    let whole = place == term.text.trim_end_matches(|c| !super::text::is_word(c)).len();
    let prefix = term.prefix && whole && !words.last()?.contains(is_set_apart);
    let is_indexed = !prefix || words.last()?.chars().count() >= shortest_prefix;
    let mut phrase = Phrase { words, excluded: term.excluded, prefix, is_indexed, quoted: None };
    let looked_up = match (phrase.is_indexed, ends.len()) {
        (true, _) => ends.last(),
        (false, words) => words.checked_sub(2).and_then(|before| ends.get(before)),
    };
    phrase.quoted = looked_up.map(|end| {
        let text = &term.text[..*end];
        let text = terms(text).unwrap_or_else(|| text.to_owned()).replace(['"', '\0'], " ");
        let star = if phrase.prefix && phrase.is_indexed { " *" } else { "" };
        format!("\"{text}\"{star}")
    });
    Some(phrase)
}

/// A query in some columns, limited to rows whose scope has one word of each list. None if nothing is asked for.
pub(super) fn expression(phrases: &[Phrase], columns: &str, limits: &[Vec<String>]) -> Option<String> {
    if phrases.iter().all(|phrase| phrase.excluded) {
        return None;
    }
    let of = |excluded: bool| -> Vec<&str> {
        let phrases = phrases.iter().filter(|phrase| phrase.excluded == excluded && (!excluded || phrase.is_indexed));
        phrases.filter_map(|phrase| phrase.quoted.as_deref()).collect()
    };
    let mut all: Vec<String> = limits.iter().map(|words| format!("(scope : ({}))", words.join(" OR "))).collect();
    // Side by side is "and", in which FTS5 passes over what is no word to it.
    all.extend(
        Some(of(false))
            .filter(|asked| !asked.is_empty())
            .map(|asked| format!("({{{columns}}} : ({}))", asked.join(" "))),
    );
    let all = all.join(" AND ");
    Some(match of(true).join(" OR ") {
        excluded if excluded.is_empty() => all,
        excluded => format!("({all}) NOT ({{{columns}}} : ({excluded}))"),
    })
}

/// A query for titles that have all these words; the last may be the beginning of one. None without a word.
pub(in crate::storage::sqlite) fn title_query(words: &str) -> Option<String> {
    let words = words.split_whitespace().filter(|word| word.contains(char::is_alphanumeric));
    let mut terms: Vec<Term> = words.map(|word| Term { text: word.into(), excluded: false, prefix: false }).collect();
    terms.last_mut()?.prefix = true;
    // Titles have an index of the shortest beginnings, too.
    expression(&phrases(&terms, 1), "title", &[])
}

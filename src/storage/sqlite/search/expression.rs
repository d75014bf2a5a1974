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
#[derive(Debug, Clone)]
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

/// Letters of the longest beginning that the index of messages has, and words that a longer one may stand for.
const LONGEST_PREFIX: usize = 4;
pub(super) const ALTERNATIVES: usize = 64;

impl Phrase {
    /// The beginning that it ends with, if it is longer than those that the index of messages has.
    pub(super) fn long_beginning(&self) -> Option<&str> {
        let last = self.words.last().filter(|_| self.prefix)?;
        (last.chars().count() > LONGEST_PREFIX).then_some(last)
    }

    /// The same with one of these words at its end; a shorter beginning, and a look at the texts, if they are too many.
    pub(super) fn ending_with(&self, endings: &[String]) -> Self {
        let (last, before) = self.words.split_last().map_or(("", &[][..]), |(last, before)| (last.as_str(), before));
        let quoted = |ending: &str| format!("\"{}\"", [before, &[ending.to_owned()]].concat().join(" "));
        let is_indexed = endings.len() <= ALTERNATIVES;
        let phrase = match endings {
            [] => quoted(last),
            endings if is_indexed => endings.iter().map(|ending| quoted(ending)).collect::<Vec<_>>().join(" OR "),
            _ => quoted(&last.chars().take(LONGEST_PREFIX).collect::<String>()) + " *",
        };
        Self { words: self.words.clone(), quoted: Some(phrase), is_indexed, ..*self }
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
    // Titles have an index of the shortest beginnings, too.
    Some(Expression::new(&phrases(&terms, 1), "title", &[])?.among(&[]))
}

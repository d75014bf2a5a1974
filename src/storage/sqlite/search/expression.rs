//! From what people type to FTS5's query language. Every word is quoted: a user's words are never its syntax.

use super::{
    forms::{phrase_of_name, phrase_of_run, runs},
    text::{Words, is_set_apart},
};
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
    /// Folded; none if it is signs alone.
    pub(super) words: Vec<String>,
    pub(super) excluded: bool,
    pub(super) prefix: bool,
    /// Whether the index says the last word on its words, or the text must be looked at.
    pub(super) is_indexed: bool,
    /// Signs that must stand before its words, between them and after them, or `None` where any may. Empty if none must.
    pub(super) around: Vec<Option<String>>,
    /// What was typed, if it is signs alone.
    pub(super) signs: Option<String>,
    /// The pieces of a name, which can be a part of a longer one: a phrase of the index.
    pub(super) pieces: Option<String>,
    /// Runs of signs in it, each a phrase of the index.
    runs: Vec<String>,
    /// What is looked up in the index for its words: none when it is a beginning that the index has not.
    quoted: Option<String>,
}

impl Phrase {
    fn new(term: &Term, most: usize) -> Option<Self> {
        let (mut words, mut spans, mut folded) = (Vec::new(), Vec::new(), String::new());
        let mut all = Words::of(&term.text);
        let mut is_whole = true;
        while let Some(span) = all.next(&mut folded) {
            if words.len() == most {
                is_whole = false;
                break;
            }
            words.push(std::mem::take(&mut folded));
            spans.push(span);
        }
        let runs = signs_to_look_up(&term.text, words.is_empty());
        if words.is_empty() && runs.is_empty() {
            return None;
        }
        // A character that stands for itself is a whole word, and what was cut off has no last word.
        let prefix = term.prefix && is_whole && words.last().is_some_and(|last| !last.contains(is_set_apart));
        let is_indexed = words.len() <= TOGETHER;
        let looked_up = words[..words.len().min(TOGETHER)].join(" ");
        let quoted = format!("\"{looked_up}\"{}", if prefix && is_indexed { " *" } else { "" });
        Some(Self {
            excluded: term.excluded,
            prefix,
            is_indexed,
            around: around(&term.text, &spans, is_whole),
            signs: words.is_empty().then(|| term.text.clone()),
            pieces: (words.len() == 1 && !prefix && !term.excluded)
                .then(|| phrase_of_name(name(&term.text, &spans)))
                .flatten(),
            runs,
            quoted: (!words.is_empty()).then_some(quoted),
            words,
        })
    }

    /// A query as it was typed, of which a word with a dash before it may be a part: `tar -xvf`.
    fn verbatim(text: &str) -> Option<Self> {
        let term = Term { text: text.into(), excluded: false, prefix: false };
        let phrase = Self::new(&term, PHRASE)?;
        let mut spans = Vec::new();
        let (mut words, mut folded) = (Words::of(text), String::new());
        while let Some(span) = words.next(&mut folded) {
            spans.push(span);
        }
        if spans.len() != phrase.words.len() || !phrase.is_indexed {
            return None;
        }
        Some(Self {
            around: gaps(text, &spans).into_iter().map(|gap| Some(gap.to_owned())).collect(),
            pieces: None,
            ..phrase
        })
    }

    /// Whether the index is asked for any part of it.
    pub(super) fn is_looked_up(&self) -> bool {
        self.quoted.is_some() || !self.runs.is_empty()
    }

    /// Whether the texts must be looked at to tell whether it is there.
    pub(super) fn is_checked(&self) -> bool {
        !self.is_indexed || !self.around.is_empty()
    }

    /// Whether it is one word, of which every row of the index matches.
    pub(super) fn is_plain(&self) -> bool {
        self.words.len() == 1 && self.pieces.is_none() && self.runs.is_empty() && !self.is_checked()
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
        Self { quoted: asked, is_indexed, ..self.clone() }
    }

    /// The words, and phrases of signs, that are there in each row that matches.
    pub(super) fn certain(&self) -> impl Iterator<Item = &str> {
        let whole = match self.pieces {
            Some(_) => 0,
            None => self.words.len() - usize::from(self.prefix),
        };
        self.words[..whole].iter().chain(&self.runs).map(String::as_str)
    }

    /// What it is in FTS5's language.
    fn expression(&self) -> Option<String> {
        let words = match (&self.quoted, &self.pieces) {
            (Some(quoted), Some(pieces)) => Some(format!("({quoted} OR \"{pieces}\")")),
            (Some(quoted), None) => Some(format!("({quoted})")),
            (None, _) => None,
        };
        let all: Vec<String> = words.into_iter().chain(self.runs.iter().map(|run| format!("\"{run}\""))).collect();
        (!all.is_empty()).then(|| all.join(" AND "))
    }
}

/// Signs that say which word is meant: `C++`, `#12`, `$HOME`, `a@b`. Others around a word are punctuation.
fn is_attached(c: char) -> bool {
    matches!(c, '+' | '#' | '$' | '%' | '&' | '@' | '<' | '=' | '>' | '|' | '~')
}

/// The runs of signs that a term is looked up by.
fn signs_to_look_up(text: &str, is_alone: bool) -> Vec<String> {
    let says = |run: &String| is_alone || run.contains(|c: char| is_attached(c) || !c.is_ascii());
    runs(text).iter().filter(|run| says(run)).map(|run| phrase_of_run(run)).collect()
}

/// What stands before the words of a text, between them, and after them.
fn gaps<'t>(text: &'t str, spans: &[(usize, usize)]) -> Vec<&'t str> {
    let mut end = 0;
    let mut gaps: Vec<&str> = Vec::with_capacity(spans.len() + 1);
    for (from, to) in spans {
        gaps.push(text.get(end..*from).unwrap_or_default());
        end = *to;
    }
    gaps.push(&text[end..]);
    gaps
}

fn around(text: &str, spans: &[(usize, usize)], is_whole: bool) -> Vec<Option<String>> {
    let mut gaps = gaps(text, spans);
    if spans.is_empty() {
        return Vec::new();
    }
    let is_punctuation = |c: char| !is_attached(c);
    if let Some(first) = gaps.first_mut() {
        *first = first.trim_start_matches(is_punctuation);
    }
    if let Some(last) = gaps.last_mut() {
        *last = if is_whole { last.trim_end_matches(is_punctuation) } else { "" };
    }
    let around: Vec<Option<String>> =
        gaps.into_iter().map(|gap| gap.contains(is_attached).then(|| gap.to_owned())).collect();
    if around.iter().all(Option::is_none) { Vec::new() } else { around }
}

fn name<'t>(text: &'t str, spans: &[(usize, usize)]) -> &'t str {
    spans.first().and_then(|(from, to)| text.get(*from..*to)).filter(|name| name.is_ascii()).unwrap_or_default()
}

/// The words of all terms. A term of which nothing is a word or a sign to the index is passed over.
pub(super) fn phrases(query: &[Term]) -> Vec<Phrase> {
    let mut left = QUERY;
    let phrases = query.iter().map(|term| {
        let phrase = Phrase::new(term, left.min(PHRASE));
        left -= phrase.as_ref().map_or(0, |phrase| phrase.words.len());
        phrase
    });
    phrases.flatten().collect()
}

/// The query itself as a phrase, if it is words of which the first is asked for and another has a dash before it: what
/// says just that is not left out.
pub(super) fn as_typed(q: &str, phrases: &[Phrase]) -> Option<Phrase> {
    let is_words = !q.contains(['"', '*', '\u{201c}', '\u{201d}', '\u{201e}']);
    let is_meant =
        is_words && phrases.first().is_some_and(|first| !first.excluded) && phrases.iter().any(|p| p.excluded);
    is_meant.then(|| Phrase::verbatim(q.trim())).flatten()
}

/// How many of the phrases that are asked for must be there.
#[derive(Debug, Clone, Copy)]
pub(super) enum Wanted<'a> {
    /// All, or the query as it was typed.
    All(Option<&'a Phrase>),
    /// So many of these, by their places among all phrases.
    Some(usize, &'a [usize]),
}

/// A query in FTS5's language: what must be there, and what must not.
#[derive(Debug, Default)]
pub(super) struct Expression {
    scopes: Vec<String>,
    asked: Vec<String>,
    excluded: String,
    /// What is enough by itself.
    verbatim: Option<String>,
}

impl Expression {
    /// A query in some columns, limited to rows whose scope has one word of each list. None if nothing is asked for.
    pub(super) fn new(phrases: &[Phrase], wanted: Wanted<'_>, columns: &str, limits: &[Vec<String>]) -> Option<Self> {
        if phrases.iter().all(|phrase| phrase.excluded) {
            return None;
        }
        let within = |expression: String| format!("{{{columns}}} : ({expression})");
        let (asked, verbatim) = match wanted {
            Wanted::All(verbatim) => {
                let asked = phrases.iter().filter(|phrase| !phrase.excluded);
                (asked.filter_map(Phrase::expression).map(within).collect(), verbatim.and_then(Phrase::expression))
            }
            Wanted::Some(least, which) => {
                let some = which.iter().filter_map(|place| phrases.get(*place)?.expression());
                let some: Vec<String> = some.map(|expression| format!("({expression})")).collect();
                (vec![within(at_least(least, &some)?)], None)
            }
        };
        let excluded = phrases.iter().filter(|phrase| phrase.excluded && !phrase.is_checked());
        let excluded =
            excluded.filter_map(Phrase::expression).map(|e| format!("({e})")).collect::<Vec<_>>().join(" OR ");
        let excluded = if excluded.is_empty() { excluded } else { within(excluded) };
        let scopes = limits.iter().map(|words| scope(words)).collect();
        Some(Self { scopes, asked, excluded, verbatim: verbatim.map(within) })
    }

    /// The query, among rows whose scope has one of these words; everywhere if there are none.
    pub(super) fn among(&self, words: &[String]) -> String {
        let among = Some(words).filter(|words| !words.is_empty()).map(scope);
        let with = |rest: &[String]| {
            let all = among.iter().chain(&self.scopes).chain(rest);
            all.map(String::as_str).collect::<Vec<_>>().join(" AND ")
        };
        // What excludes is outermost: it is asked only of rows that have the rest.
        let asked = match self.excluded.as_str() {
            "" => with(&self.asked),
            excluded => format!("({}) NOT ({excluded})", with(&self.asked)),
        };
        match &self.verbatim {
            Some(verbatim) => format!("({asked}) OR ({})", with(std::slice::from_ref(verbatim))),
            None => asked,
        }
    }
}

/// So many of these at least, if there are so many.
fn at_least(least: usize, some: &[String]) -> Option<String> {
    let (first, rest) = some.split_first()?;
    match least {
        least if least > some.len() => None,
        least if least == some.len() => Some(some.join(" AND ")),
        1 => Some(some.join(" OR ")),
        least => {
            let with = at_least(least - 1, rest).map(|rest| format!("({first} AND ({rest}))"));
            let without = at_least(least, rest).map(|rest| format!("({rest})"));
            Some(with.into_iter().chain(without).collect::<Vec<_>>().join(" OR "))
        }
    }
}

fn scope(words: &[String]) -> String {
    format!("(scope : ({}))", words.join(" OR "))
}

/// Matches nothing.
const NOTHING: &str = "\"\"";
/// Pieces of a title's filter that are looked for, and bytes of each; what comes after them is passed over.
const PIECES: usize = 32;
const PIECE: usize = 1 << 10;
/// Characters of the parts that titles are indexed by.
const PART: usize = 3;

/// What a list's filter asks of titles: all its words, or all that was typed as parts of words. One is enough.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::storage::sqlite) struct Titles {
    /// For the index of sessions: all words, of which the last may be the beginning of one.
    pub(in crate::storage::sqlite) words: String,
    /// For the index of parts: each piece between spaces, or the whole where one of them is too short.
    pub(in crate::storage::sqlite) parts: String,
    /// The whole, in small letters, where it has fewer characters than such a part.
    pub(in crate::storage::sqlite) short: Option<String>,
}

impl Titles {
    pub(in crate::storage::sqlite) fn of(q: &str) -> Self {
        let whole = q.split(|c: char| c.is_whitespace() || c.is_control()).filter(|piece| !piece.is_empty());
        let pieces: Vec<&str> = whole.take(PIECES).map(|piece| &piece[..piece.floor_char_boundary(PIECE)]).collect();
        let whole = pieces.join(" ");
        let is_short = |text: &&str| text.chars().count() < PART;
        let quoted = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
        let parts = match () {
            () if is_short(&whole.as_str()) => NOTHING.into(),
            () if pieces.iter().any(is_short) => quoted(&whole),
            () => pieces.iter().map(|piece| quoted(piece)).collect::<Vec<_>>().join(" AND "),
        };
        let short = Some(whole.to_lowercase()).filter(|whole| !whole.is_empty() && is_short(&whole.as_str()));
        Self { words: words_of_title(&pieces).unwrap_or_else(|| NOTHING.into()), parts, short }
    }

    /// The parameters of a query, null without a filter: words, parts, and what is short.
    pub(in crate::storage::sqlite) fn parameters(titles: Option<&Self>) -> (Option<&str>, Option<&str>, Option<&str>) {
        let (words, parts) = titles.map(|titles| (titles.words.as_str(), titles.parts.as_str())).unzip();
        (words, parts, titles.and_then(|titles| titles.short.as_deref()))
    }
}

/// A query for titles that have all these words; the last may be the beginning of one. None without a word.
fn words_of_title(words: &[&str]) -> Option<String> {
    let terms: Vec<Term> =
        words.iter().map(|word| Term { text: (*word).into(), excluded: false, prefix: false }).collect();
    let mut phrases = phrases(&terms);
    if let (Some(last), Some(phrase)) = (terms.last(), phrases.last_mut()) {
        let prefixed = Phrase::new(&Term { prefix: last.text.contains(char::is_alphanumeric), ..last.clone() }, PHRASE);
        *phrase = prefixed.unwrap_or_else(|| phrase.clone());
    }
    Some(Expression::new(&phrases, Wanted::All(None), "title", &[])?.among(&[]))
}

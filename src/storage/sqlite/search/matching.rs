//! How good a text is for a query, and what of it to show. FTS5's own rank counts all matches of each word first,
//! however many there are; this looks at the texts in question alone.

use std::collections::HashMap;

use super::{
    expression::{PHRASE, Phrase},
    forms::phrase_of_name,
    text::{Words, is_set_apart, is_word},
};
use crate::model::Snippet;

/// Bytes of a text that are looked at after everything was found once.
const ENOUGH: usize = 64 << 10;
/// Places of a text that are kept to be shown.
const PLACES: usize = 256;
/// BM25's own constants, and the length of a middling message in words.
const SATURATION: f64 = 1.2;
const LENGTH_WEIGHT: f64 = 0.75;
const MIDDLING: f64 = 60.0;
/// Characters of a snippet, and how many of them stand before what was found.
const WIDTH: usize = 240;
const BEFORE: usize = 60;

/// A phrase to look for: a text's words are compared with all its places at once, a bit each.
struct Pattern {
    last: u64,
    length: usize,
    shown: bool,
    /// The index has not said whether it is there: whether it must be, or must not.
    checked: Option<bool>,
    /// Signs that must stand around its words.
    around: Vec<Option<String>>,
    /// What it counts for in a score.
    weight: f64,
}

/// What of a query a text must have, where the index does not say it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Checks<'q> {
    /// All that is asked for, or the query as it was typed.
    All(Option<&'q Phrase>),
    /// What is left out must not be there. These are counted in a score, the first one the most.
    Partial(&'q [usize]),
}

impl Pattern {
    fn of(words: &[String], shown: bool, checked: Option<bool>, weight: f64) -> Self {
        let last = words.len().checked_sub(1).map_or(0, |last| 1 << last);
        Self { last, length: words.len(), shown, checked, around: Vec::new(), weight }
    }

    /// Whether the signs stand around its words that must. `span` says where each of them is.
    fn stands(&self, text: &str, span: impl Fn(usize) -> (usize, usize)) -> bool {
        let stands = |(gap, signs): (usize, &Option<String>)| {
            let Some(signs) = signs else { return true };
            match gap {
                0 => text[..span(0).0].ends_with(signs.as_str()),
                gap if gap == self.length => text[span(gap - 1).1..].starts_with(signs.as_str()),
                gap => text.get(span(gap - 1).1..span(gap).0) == Some(signs.as_str()),
            }
        };
        self.around.iter().enumerate().all(stands)
    }
}

/// What a term of a partial match counts for: the first is the rarest.
fn weight(rank: usize) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a few terms")]
    let rank = rank as f64;
    1.0 / (1.0 + rank / 4.0)
}

/// A query, ready to read texts.
pub(super) struct Matcher {
    patterns: Vec<Pattern>,
    /// The places where a word stands: pattern and bits.
    words: HashMap<String, Vec<(usize, u64)>>,
    /// The same of words that may go on.
    beginnings: Vec<(String, usize, u64)>,
    /// The bytes that any of them begin with: most words of a text are none of them.
    firsts: [bool; 256],
    /// Signs that stand for themselves, with their patterns.
    signs: Vec<(String, usize)>,
    /// Pieces of names, with their patterns.
    pieces: Vec<(String, usize)>,
    /// The pattern of the query as it was typed: a text that says just that has all it must.
    verbatim: Option<usize>,
}

/// What was found in the parts of a text.
pub(super) struct Found {
    counts: Vec<u32>,
    words: u32,
    /// For each part, what to show: from, to (not included), in bytes.
    pub(super) places: Vec<Vec<(usize, usize)>>,
}

impl Matcher {
    pub(super) fn new(phrases: &[Phrase], checks: Checks<'_>) -> Self {
        let mut matcher = Self {
            patterns: Vec::new(),
            words: HashMap::new(),
            beginnings: Vec::new(),
            firsts: [false; 256],
            signs: Vec::new(),
            pieces: Vec::new(),
            verbatim: None,
        };
        let (verbatim, partial) = match checks {
            Checks::All(verbatim) => (verbatim, None),
            Checks::Partial(some) => (None, Some(some)),
        };
        for (place, phrase) in phrases.iter().enumerate() {
            let checked = (phrase.is_checked() || (phrase.excluded && verbatim.is_some())).then_some(!phrase.excluded);
            match partial {
                Some(some) if !phrase.excluded => {
                    if let Some(rank) = some.iter().position(|one| *one == place) {
                        matcher.add(phrase, true, None, weight(rank));
                    }
                }
                _ if !phrase.excluded || checked.is_some() => matcher.add(phrase, !phrase.excluded, checked, 1.0),
                _ => {}
            }
        }
        if let Some(verbatim) = verbatim {
            matcher.verbatim = Some(matcher.patterns.len());
            matcher.add(verbatim, true, None, 1.0);
        }
        // All words side by side, as they were typed, are better than the same words apart.
        let asked: Vec<_> = phrases.iter().filter(|phrase| !phrase.excluded).collect();
        let words: Vec<String> = asked.iter().flat_map(|phrase| phrase.words.iter().cloned()).take(PHRASE).collect();
        if asked.len() > 1 && !words.is_empty() {
            matcher.add_words(&words, asked.last().is_some_and(|phrase| phrase.prefix));
            matcher.patterns.push(Pattern::of(&words, false, None, 1.0));
        }
        matcher
    }

    fn add(&mut self, phrase: &Phrase, shown: bool, checked: Option<bool>, weight: f64) {
        let pattern = self.patterns.len();
        self.signs.extend(phrase.signs.iter().map(|signs| (signs.clone(), pattern)));
        self.pieces.extend(phrase.pieces.iter().map(|pieces| (format!("{pieces} "), pattern)));
        self.add_words(&phrase.words, phrase.prefix);
        let around = phrase.around.clone();
        self.patterns.push(Pattern { around, ..Pattern::of(&phrase.words, shown, checked, weight) });
    }

    /// The words of the pattern that is added next.
    fn add_words(&mut self, words: &[String], prefix: bool) {
        let pattern = self.patterns.len();
        for (place, word) in words.iter().enumerate() {
            self.firsts[usize::from(word.as_bytes()[0])] = true;
            if prefix && place + 1 == words.len() {
                self.beginnings.push((word.clone(), pattern, 1 << place));
                continue;
            }
            let places = self.words.entry(word.clone()).or_default();
            match places.iter_mut().find(|(of, _)| *of == pattern) {
                Some((_, bits)) => *bits |= 1 << place,
                None => places.push((pattern, 1 << place)),
            }
        }
    }

    /// Whether the index alone does not say what matches.
    pub(super) fn is_needed(&self) -> bool {
        self.verbatim.is_some() || self.patterns.iter().any(|pattern| pattern.checked.is_some())
    }

    /// Whether what the index could not say holds, too.
    pub(super) fn admits(&self, found: &Found) -> bool {
        if self.verbatim.is_some_and(|pattern| found.counts[pattern] > 0) {
            return true;
        }
        let mut counted = self.patterns.iter().zip(&found.counts);
        counted.all(|(pattern, count)| pattern.checked.is_none_or(|wanted| wanted == (*count > 0)))
    }

    pub(super) fn read<'t>(&self, parts: impl IntoIterator<Item = &'t str>) -> Found {
        let mut found = Found { counts: vec![0; self.patterns.len()], words: 0, places: Vec::new() };
        for part in parts {
            let places = self.read_part(part, &mut found);
            found.places.push(places);
        }
        found
    }

    fn read_part(&self, text: &str, found: &mut Found) -> Vec<(usize, usize)> {
        let (mut state, mut spans) = (vec![0u64; self.patterns.len()], [(0, 0); PHRASE]);
        let (mut folded, mut words, mut bits) = (String::new(), Words::of(text), vec![0u64; state.len()]);
        let mut places = self.read_signs(text, found);
        while let Some((from, to)) = words.next(&mut folded) {
            let at = found.words as usize;
            spans[at % PHRASE] = (from, to);
            found.words = found.words.saturating_add(1);
            let first = folded.as_bytes().first().copied().unwrap_or_default();
            let known = self.firsts[usize::from(first)] && self.places_of(&folded, &mut bits);
            for (pieces, pattern) in &self.pieces {
                if phrase_of_name(&text[from..to]).is_some_and(|name| (name + " ").contains(pieces.as_str())) {
                    found.counts[*pattern] += 1;
                    places.push((from, to));
                }
            }
            if !known {
                state.fill(0);
                if to > ENOUGH && self.is_enough(found) {
                    break;
                }
                continue;
            }
            for (number, pattern) in self.patterns.iter().enumerate() {
                state[number] = (state[number] << 1 | 1) & bits[number];
                let span = |word: usize| spans[(at + PHRASE + 1 + word - pattern.length) % PHRASE];
                if state[number] & pattern.last == 0 || !pattern.stands(text, span) {
                    continue;
                }
                found.counts[number] += 1;
                if pattern.shown && places.len() < PLACES {
                    places.push((span(0).0, to));
                }
            }
        }
        places
    }

    /// The places of signs that stand for themselves.
    fn read_signs(&self, text: &str, found: &mut Found) -> Vec<(usize, usize)> {
        let mut places = Vec::new();
        for (signs, pattern) in &self.signs {
            for (place, _) in text.match_indices(signs.as_str()).take(PLACES) {
                found.counts[*pattern] += 1;
                places.push((place, place + signs.len()));
            }
        }
        places.truncate(PLACES);
        places
    }

    /// Leaves in `bits` where a word stands in each pattern, and says whether it stands anywhere.
    fn places_of(&self, word: &str, bits: &mut [u64]) -> bool {
        bits.fill(0);
        let whole = self.words.get(word).into_iter().flatten();
        let begun = self.beginnings.iter().filter(|(beginning, ..)| word.starts_with(beginning.as_str()));
        let mut any = false;
        for (pattern, places) in whole.copied().chain(begun.map(|(_, pattern, places)| (*pattern, *places))) {
            bits[pattern] |= places;
            any = true;
        }
        any
    }

    fn is_enough(&self, found: &Found) -> bool {
        let mut counted = self.patterns.iter().zip(&found.counts);
        counted.all(|(pattern, count)| match pattern.checked {
            Some(false) => false,
            _ => !pattern.shown || *count > 0,
        })
    }

    /// How good a text is, in thousandths: BM25 without the rarity of words, which is the same for all that match.
    pub(super) fn score(&self, found: &Found) -> i64 {
        let length = 1.0 - LENGTH_WEIGHT + LENGTH_WEIGHT * f64::from(found.words) / MIDDLING;
        let one = |count: &u32| {
            let count = f64::from(*count);
            count * (SATURATION + 1.0) / (count + SATURATION * length)
        };
        let scores = self.patterns.iter().zip(&found.counts).map(|(pattern, count)| pattern.weight * one(count));
        // Rounded, so that of texts which are about as good the newer one is first.
        #[expect(clippy::cast_possible_truncation, reason = "a score is below 100")]
        let score = (scores.sum::<f64>() * 100.0).round() as i64 * 10;
        score
    }
}

/// The part of a text to show, and what was found in it.
pub(super) fn snippet(text: &str, places: &[(usize, usize)]) -> Snippet {
    let from = start(text, densest(places));
    let to = end(text, from);
    let mut shown = String::from(if from > 0 { "…" } else { "" });
    let mut ranges: Vec<(usize, usize)> = Vec::new();
    let (mut chars, mut counted) = (shown.chars().count(), from);
    let mut point = |place: usize| {
        chars += text[counted..place.max(counted)].chars().count();
        counted = place.max(counted);
        chars
    };
    for (begin, stop) in merged(places) {
        if begin >= from && begin < to {
            ranges.push((point(begin), point(stop.min(to))));
        }
    }
    shown.push_str(&text[from..to]);
    if to < text.len() {
        shown.push('…');
    }
    Snippet { text: shown, ranges }
}

/// Places in order, those that overlap as one.
fn merged(places: &[(usize, usize)]) -> Vec<(usize, usize)> {
    let mut sorted = places.to_vec();
    sorted.sort_unstable();
    let mut merged: Vec<(usize, usize)> = Vec::with_capacity(sorted.len());
    for (from, to) in sorted {
        match merged.last_mut().filter(|last| from < last.1) {
            Some(last) => last.1 = last.1.max(to),
            None => merged.push((from, to)),
        }
    }
    merged
}

/// Where most was found close together.
fn densest(places: &[(usize, usize)]) -> usize {
    let close = |from: usize| places.iter().filter(|place| (from..from + WIDTH - BEFORE).contains(&place.0)).count();
    let best = places.iter().map(|place| (close(place.0), std::cmp::Reverse(place.0))).max();
    best.map_or(0, |(_, place)| place.0)
}

fn is_between_words(text: &str, place: usize) -> bool {
    let (before, after) = (text[..place].chars().next_back(), text[place..].chars().next());
    let inside = |c: Option<char>| c.is_some_and(|c| is_word(c) && !is_set_apart(c));
    !(inside(before) && inside(after))
}

/// Where to begin, so that what was found at this place comes soon.
fn start(text: &str, place: usize) -> usize {
    let back = text[..place].char_indices().rev().take(BEFORE).last().map_or(place, |(at, _)| at);
    if back == 0 {
        return 0;
    }
    let (mut begin, blank) = (back, |at: usize| text[at..].starts_with(char::is_whitespace));
    while begin < place && (!is_between_words(text, begin) || blank(begin)) {
        begin += text[begin..].chars().next().map_or(1, char::len_utf8);
    }
    begin
}

/// Where to end; in a word only if it is longer than all that is shown.
fn end(text: &str, from: usize) -> usize {
    let Some((most, _)) = text[from..].char_indices().nth(WIDTH) else { return text.len() };
    let most = from + most;
    let ends = text[from..most].char_indices().rev().map(|(at, _)| from + at);
    let whole = std::iter::once(most).chain(ends).find(|end| *end > from && is_between_words(text, *end));
    let end = whole.unwrap_or(most);
    from + text[from..end].trim_end().len()
}

//! The indexed form of a text, where it is not the text itself: what the tokenizer is given, so that people find what
//! they type.
//!
//! **A whole form** stands for the text where the tokenizer would cut or fold it wrongly: decomposed characters, marks,
//! and scripts without spaces, of which each character is set apart by zero-width spaces.
//!
//! **More terms** follow the text, or its whole form, for what is no word: each run of signs (`->`, `++`, an emoji), once,
//! a sign a term; and the pieces of each name like `getUserName`, once. They are written in characters of private use, so
//! that no word that people type is one of them.

use std::collections::HashSet;

use super::{
    spoken::spoken,
    text::{is_dropped, is_plain, is_set_apart, is_sign, is_word, letters},
};

/// What a form begins with that is only more terms. The views of the schema know it.
const MORE: char = '\u{f8fd}';
/// A term between two runs or names: no phrase goes over it.
const BREAK: char = '\u{f8fe}';
/// What a piece of a name begins with.
const PIECE: char = '\u{f8ff}';
/// Runs and names of a text that have terms at most.
const MOST: usize = 4096;
/// Equal signs in a row that are told apart from more of them.
const REPEATED: usize = 3;
/// Signs of a run that have terms at most.
const RUN: usize = 64;

/// A text's indexed form; empty if it is the text itself.
pub(in crate::storage::sqlite) fn form(text: &str) -> String {
    joined(whole(text), more(text))
}

fn joined(whole: Option<String>, more: String) -> String {
    match whole {
        Some(whole) if more.is_empty() => whole,
        Some(whole) => format!("{whole} {more}"),
        None if more.is_empty() => more,
        None => format!("{MORE}{more}"),
    }
}

/// The indexed form of tool calls. Their JSON is indexed as it is where it says what they say; where the tokenizer would
/// not see that, what they say is.
pub(in crate::storage::sqlite) fn form_of_calls(calls: &str) -> String {
    let spoken = spoken(calls);
    let more = more(&spoken);
    let whole = whole(&spoken).or_else(|| calls.contains("\\u").then_some(spoken));
    joined(whole, more)
}

/// The text as the tokenizer should see it, unless that is the text.
pub(super) fn whole(text: &str) -> Option<String> {
    if text.is_ascii() || !needs_whole(text) {
        return None;
    }
    let (mut whole, mut place, mut some) = (String::with_capacity(text.len() * 2), 0, Vec::new());
    if text.starts_with(MORE) {
        whole.push(' ');
    }
    while place < text.len() {
        place = letters(text, place, &mut some);
        for c in &some {
            match is_set_apart(*c) {
                true => whole.extend(['\u{200b}', *c, '\u{200b}']),
                false => whole.push(*c),
            }
        }
    }
    Some(whole)
}

fn needs_whole(text: &str) -> bool {
    let mut before = ' ';
    text.chars().any(|c| {
        // Marks and joiners beside a sign or a space are in no word.
        let is_on_word = is_word(before) || is_dropped(before);
        let needs = !c.is_ascii()
            && match () {
                () if is_sign(c) => false,
                () if is_dropped(c) => is_on_word,
                () => is_set_apart(c) || !is_plain(c) && (is_word(c) || u32::from(c) >= 0xfb00),
            };
        before = if is_dropped(c) && !is_on_word { ' ' } else { c };
        needs
    })
}

/// Signs that say something wherever they stand.
fn is_hard(c: char) -> bool {
    matches!(c, '+' | '#' | '$' | '%' | '&' | '*' | '@' | '<' | '=' | '>' | '|' | '~' | '^' | '`') || is_sign(c)
}

/// Signs that say something beside others.
fn is_soft(c: char) -> bool {
    matches!(c, ':' | '/' | '-' | '.' | '!' | '?' | '\\')
}

/// The runs of signs in a text that can be searched for, each with the equal ones in a row cut short.
pub(super) fn runs(text: &str) -> Vec<String> {
    let mut runs = Vec::new();
    each_run(text, |run| {
        runs.push(run.to_owned());
        true
    });
    runs
}

/// Gives each run of signs, until one is refused.
fn each_run(text: &str, mut take: impl FnMut(&str) -> bool) {
    let (mut run, mut last, mut repeated, mut signs, mut says) = (String::new(), ' ', 0, 0, false);
    for c in text.chars().chain(std::iter::once(' ')) {
        let is_hard = is_hard(c);
        if is_hard || is_soft(c) {
            repeated = if signs > 0 && c == last { repeated + 1 } else { 1 };
            if repeated <= REPEATED && signs < RUN {
                run.push(c);
                signs += 1;
            }
            // Dots alone are punctuation.
            says |= is_hard || (signs > 1 && (c != '.' || last != '.'));
            last = c;
        } else if signs > 0 && !is_dropped(c) {
            if says && !take(&run) {
                return;
            }
            run.clear();
            (signs, says) = (0, false);
        }
    }
}

/// A run of signs as a phrase of the index.
pub(super) fn phrase_of_run(run: &str) -> String {
    run.chars().map(term_of_sign).map(String::from).collect::<Vec<_>>().join(" ")
}

fn term_of_sign(c: char) -> char {
    let code = match u32::from(c) {
        code @ 0x1_0000.. => 0xf_b000 + (code & 0xfff),
        code => 0xf_0000 + code,
    };
    char::from_u32(code).unwrap_or(c)
}

/// The pieces of a name as a phrase of the index; none if it is in one piece.
pub(super) fn phrase_of_name(name: &str) -> Option<String> {
    let (bytes, mut phrase, mut is_cut) = (name.as_bytes(), String::from(PIECE), false);
    for (at, byte) in bytes.iter().enumerate() {
        if at > 0 && is_seam(bytes, at) {
            is_cut = true;
            phrase.extend([' ', PIECE]);
        }
        phrase.push(char::from(byte.to_ascii_lowercase()));
    }
    is_cut.then_some(phrase)
}

/// Whether a piece of a name begins here: at `U` in `getUser`, and at `S` in `HTTPServer`.
fn is_seam(name: &[u8], at: usize) -> bool {
    let (before, after) = (name[at - 1], name.get(at + 1));
    name[at].is_ascii_uppercase() && (!before.is_ascii_uppercase() || after.is_some_and(u8::is_ascii_lowercase))
}

fn names(text: &str) -> impl Iterator<Item = &str> {
    let is_seamed = |name: &&str| (1..name.len()).any(|at| is_seam(name.as_bytes(), at));
    text.split(|c: char| !c.is_ascii_alphanumeric()).filter(is_seamed)
}

fn more(text: &str) -> String {
    let (mut seen, mut more) = (HashSet::new(), String::new());
    let mut add = |one: &str, phrase: &dyn Fn() -> Option<String>| {
        if seen.len() < MOST
            && !seen.contains(one)
            && let Some(phrase) = phrase()
        {
            if !more.is_empty() {
                more.extend([' ', BREAK, ' ']);
            }
            more.push_str(&phrase);
            seen.insert(one.to_owned());
        }
        seen.len() < MOST
    };
    each_run(text, |run| add(run, &|| Some(phrase_of_run(run))));
    names(text).all(|name| add(name, &|| phrase_of_name(name)));
    more
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_texts_that_are_no_plain_words_have_another_form() {
        for text in
            ["plain words, twice.", "naïve café — “so” it goes…", "Привет, мир", "src/main.rs:12", "it is - well"]
        {
            assert_eq!(form(text), "", "{text}");
        }
        assert_eq!(form("a数b"), "a\u{200b}数\u{200b}b");
        assert_eq!(form("e\u{301}"), "é");
    }

    #[test]
    fn signs_and_pieces_of_names_are_more_terms_each_once() {
        assert_eq!(runs("C++ -> x -> “y” ===== 1. e.g. a::b 🎉\u{fe0f}🎉"), ["++", "->", "->", "===", "::", "🎉🎉"]);
        assert_eq!(form("a -> b -> c"), format!("{MORE}\u{f002d} \u{f003e}"));
        assert_eq!(form("getUserName HTTPServer").matches(PIECE).count(), 5);
        assert_eq!(phrase_of_name("username"), None);
    }
}

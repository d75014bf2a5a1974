//! Search: what people type, which messages and sessions it is looked for in, and what is found.
//!
//! What a word is, and how it is found, is the storage's to know; this only takes a query apart.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Archived, Invalid, Kind, KindFilter, MessageId, Role, SessionId, Timestamp};

/// Terms that a query may have.
pub const MAX_TERMS: usize = 32;

/// The order of what is found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SearchOrder {
    /// Best first; the newer of two that are equally good.
    #[default]
    Relevance,
    /// What was stored last first.
    Newest,
}

/// What of a message is searched besides its text: `reasoning`, `tools`, or both, with a comma between them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SearchIn {
    /// What the model thought.
    pub reasoning: bool,
    /// The names and arguments of the tools that are called.
    pub tools: bool,
}

impl Serialize for SearchIn {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let words = [(self.reasoning, "reasoning"), (self.tools, "tools")];
        let words: Vec<&str> = words.into_iter().filter(|(is_in, _)| *is_in).map(|(_, word)| word).collect();
        serializer.serialize_str(&words.join(","))
    }
}

impl<'de> Deserialize<'de> for SearchIn {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut found = Self::default();
        for word in String::deserialize(deserializer)?.split(',') {
            match word.trim() {
                "reasoning" => found.reasoning = true,
                "tools" => found.tools = true,
                _ => return Err(serde::de::Error::custom("in is reasoning, tools, or reasoning,tools")),
            }
        }
        Ok(found)
    }
}

impl JsonSchema for SearchIn {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "SearchIn".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^ *(reasoning|tools) *(, *(reasoning|tools) *)*$" })
    }
}

/// What the hits of a search are put together by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SearchGroup {
    /// Each session once, as its best hit, with the next best ones in `more`.
    Session,
}

/// What to search for, and where. All conditions hold together.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SearchQuery {
    /// Words, all of which must be there in any order; `"a phrase"`, `-without`, `begin*`. At most 32 of them. Case
    /// and accents do not matter, nor whether characters are composed. Languages without spaces between words (Chinese,
    /// Japanese, Korean, Thai, Lao, Khmer, Burmese) are found by any part, and a name like `getUserName` by several of its
    /// pieces, written as they are in it (`UserName`). Emoji and signs are found as they are: `->`, `C++`, `#12`. Nothing
    /// else is syntax. If nothing has all the words, the best partial matches follow (`relaxed` in the answer).
    #[schemars(extend("example" = "\"connection refused\" src/main.rs -test"))]
    pub q: String,
    /// In this session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionId>,
    /// In the tree of this root, itself included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub root: Option<SessionId>,
    /// Messages of this role; no sessions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// In sessions of this kind; in all by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<KindFilter>,
    /// In sessions that are pinned, or that are not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pinned: Option<bool>,
    /// In sessions that are archived, or that are not; in all by default: a search sees the whole history.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub archived: Option<Archived>,
    /// In sessions whose model is this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// In sessions whose workspace is this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workspace: Option<String>,
    /// Messages written, and sessions created, at this time or later.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<Timestamp>,
    /// Messages written, and sessions created, before this time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<Timestamp>,
    /// Messages are searched in their text; this adds other parts of them.
    #[serde(rename = "in", skip_serializing_if = "Option::is_none")]
    pub within: Option<SearchIn>,
    /// Best first by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order: Option<SearchOrder>,
    /// `session` lists each session once, with its best hits. Not grouped by default. A session can come again on a later
    /// page after a page that is `bounded`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<SearchGroup>,
}

/// One of the things that a query asks for: a word or a phrase.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Term {
    /// What was typed, without quotes, `-` and `*`.
    pub text: String,
    /// It must not be there.
    pub excluded: bool,
    /// Its last word may go on.
    pub prefix: bool,
}

impl SearchQuery {
    /// Refuses a blank query, and one of more than [`MAX_TERMS`] terms.
    pub fn check(&self) -> Result<(), Invalid> {
        if self.q.trim().is_empty() {
            return Err(Invalid::new("q", "at least one word"));
        }
        match self.terms().len() > MAX_TERMS {
            true => Err(Invalid::new("q", format!("at most {MAX_TERMS} words and phrases"))),
            false => Ok(()),
        }
    }

    /// Takes the query apart. Punctuation alone is passed over, and signs of ASCII are beside words.
    pub fn terms(&self) -> Vec<Term> {
        let (mut terms, mut signs, mut rest) = (Vec::new(), Vec::new(), self.q.trim_start());
        while !rest.is_empty() {
            let (term, after) = first_term(rest);
            match term.text.contains(|c: char| c.is_alphanumeric() || !(c.is_ascii() || c.is_whitespace())) {
                true => terms.push(term),
                false => signs.extend(Some(term).filter(|term| is_signs(&term.text))),
            }
            rest = after.trim_start();
        }
        if terms.is_empty() { signs } else { terms }
    }
}

/// Whether signs of ASCII are more than a mark of punctuation.
fn is_signs(text: &str) -> bool {
    text.len() > 1 || text.starts_with(|c| "+#$%&*@<=>|~^`".contains(c))
}

fn is_quote(c: char) -> bool {
    matches!(c, '"' | '\u{201c}' | '\u{201d}' | '\u{201e}')
}

/// The term that a text begins with, and what comes after it.
fn first_term(text: &str) -> (Term, &str) {
    // Two dashes are those of a command's flag, one before a space is punctuation, and one in an arrow is a part of it.
    let is_left_out = |rest: &&str| {
        let word = &rest[..rest.find(char::is_whitespace).unwrap_or(rest.len())];
        !rest.starts_with('-') && word.contains(|c: char| c.is_alphanumeric() || is_quote(c) || !c.is_ascii())
    };
    let bare = text.strip_prefix('-').filter(is_left_out);
    let (text, excluded) = (bare.unwrap_or(text), bare.is_some());
    let Some(quoted) = text.strip_prefix(is_quote) else {
        let (word, rest) = text.split_at(text.find(char::is_whitespace).unwrap_or(text.len()));
        let stem = word.trim_end_matches('*');
        let prefix = stem.len() < word.len() && stem.ends_with(char::is_alphanumeric);
        return (Term { text: stem.into(), excluded, prefix }, rest);
    };
    // A phrase that is not closed yet goes to the end.
    let (phrase, rest) = quoted.split_once(is_quote).unwrap_or((quoted, ""));
    let starred = rest.strip_prefix('*');
    (Term { text: phrase.into(), excluded, prefix: starred.is_some() }, starred.unwrap_or(rest))
}

/// Where a page of a search ended. What was stored since the first page is not on later ones.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SearchPosition {
    /// Messages with a lower internal key are looked at.
    pub messages: i64,
    /// Sessions with a lower internal key are looked at.
    pub sessions: i64,
    /// In the order of relevance: the last hit, and what was ranked.
    pub last: Option<Ranked>,
    /// Where nothing has all that was asked for: what is looked for instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partial: Option<Partial>,
}

/// What partial matches have. Later pages look for what the first one did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partial {
    /// The terms that count, by their places in the query, the rarest first.
    pub terms: Vec<usize>,
    /// Whether few rows had any of them.
    pub are_rare: bool,
    /// How many of them a match has at least.
    pub least: usize,
}

/// Where a page in the order of relevance ended. Later pages rank what the first one did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ranked {
    /// The last hit's place.
    pub rank: Rank,
    /// The lowest internal keys of messages and of sessions that were looked at.
    pub floors: (i64, i64),
}

/// A hit's place in the order of relevance; higher is better. No two hits have the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Rank {
    /// Thousandths of the score.
    pub score: i64,
    /// The hit's time, in microseconds.
    pub at: i64,
    /// Whether it is a session.
    pub is_session: bool,
    /// Its internal key.
    pub key: i64,
}

/// What a hit is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum HitType {
    /// A session, by its title or its summary.
    Session,
    /// A message.
    Message,
}

/// The session that a hit is, or that its message is of.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[expect(missing_docs, reason = "the fields are those of a session")]
pub struct HitSession {
    pub id: SessionId,
    pub title: String,
    pub kind: Kind,
    pub root_session_id: SessionId,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent_session_id: Option<SessionId>,
    pub pinned: bool,
    pub updated_at: Timestamp,
}

/// The message that a hit is. `GET /sessions/{id}/messages?around=SEQ` shows what is around it.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[expect(missing_docs, reason = "the fields are those of a message")]
pub struct HitMessage {
    pub id: MessageId,
    pub seq: i64,
    pub role: Role,
    pub created_at: Timestamp,
}

/// A piece of the text around what was found, cut between words; `…` stands where it was cut.
#[derive(Debug, Clone, Default, PartialEq, Serialize, JsonSchema)]
pub struct Snippet {
    /// At most 320 characters.
    pub text: String,
    /// What was found in `text`: from, to (not included), counted in Unicode code points.
    pub ranges: Vec<(usize, usize)>,
}

/// A message, or a session, that was found.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct SearchHit {
    /// What it is.
    #[serde(rename = "type")]
    pub kind: HitType,
    /// The session.
    pub session: HitSession,
    /// The message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<HitMessage>,
    /// Where it was found.
    pub snippet: Snippet,
    /// How good it is; comparable within one search.
    pub score: f64,
    /// With `group=session`: the next best hits of the session, at most two.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub more: Vec<SearchHit>,
}

/// A page of what was found.
#[derive(Debug, Clone, Default)]
pub struct SearchPage {
    /// The hits, best or newest first.
    pub hits: Vec<SearchHit>,
    /// Whether only the newest of all that matches was looked at.
    pub bounded: bool,
    /// Whether nothing has all that was asked for, and these are the best partial matches.
    pub relaxed: bool,
    /// Where the next page goes on; none at the end.
    pub next: Option<SearchPosition>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken_apart(q: &str) -> Vec<String> {
        let query = SearchQuery { q: q.into(), ..SearchQuery::default() };
        let sign = |yes: bool, sign: &str| if yes { sign.to_owned() } else { String::new() };
        query.terms().iter().map(|t| sign(t.excluded, "-") + &t.text + &sign(t.prefix, "*")).collect()
    }

    #[test]
    fn a_query_is_taken_apart_as_a_person_means_it() {
        for (q, wanted) in [
            ("two words", &["two", "words"][..]),
            ("\"a phrase\" word", &["a phrase", "word"]),
            ("“a phrase”", &["a phrase"]),
            ("\"not closed", &["not closed"]),
            ("-without -\"a phrase\"", &["-without", "-a phrase"]),
            ("beg* begin** \"a phra\"*", &["beg*", "begin*", "a phra*"]),
            ("foo-bar src/main.rs don't a::b C++ #123", &["foo-bar", "src/main.rs", "don't", "a::b", "C++", "#123"]),
            ("--flag - x", &["--flag", "x"]),
            ("*** \"\" -\"+ word", &["-+ word"]),
            ("* - \"!\" ?", &[]),
            ("a AND NOT b", &["a", "AND", "NOT", "b"]),
            ("5\" disk", &["5\"", "disk"]),
            ("C++*", &["C++"]),
        ] {
            assert_eq!(taken_apart(q), wanted, "{q}");
        }
    }
}

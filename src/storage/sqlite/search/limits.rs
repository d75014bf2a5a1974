//! Where a search looks: its filters, as words of the index's column `scope` where they leave few rows, and as
//! conditions on what matches.

use std::cmp::Reverse;

use sqlx::SqliteConnection;

use super::{
    Kind, Match,
    expression::{Expression, Phrase, Wanted},
    scope::{BLOCK, archived, few_sessions, kind, stretches},
    words,
};
use crate::{
    model::{SearchIn, SearchQuery},
    storage::{
        Result,
        sqlite::{
            error,
            types::{self, Json},
        },
    },
};

/// Binary digits of the keys in a span; the words `xblock` and `xspan` of a scope number blocks and spans.
const SPAN: u32 = 16;
/// Keys of a window that is made of blocks at most.
const WIDEST_OF_BLOCKS: i64 = 16 << BLOCK;

/// Words of a query that is read in smaller windows if it has more.
const MANY: usize = 8;

/// A query's filters.
pub(super) struct Limits {
    /// What is looked up in the indexes of messages and of sessions; none where nothing can match.
    messages: Option<Expression>,
    sessions: Option<Expression>,
    /// Few rows are looked at, whatever the words: those of a few sessions, or of a word that few have.
    narrow: bool,
    /// Each row that is looked at matches, so that a range of keys is window enough.
    plain: bool,
    /// Words that are looked up.
    words: usize,
    /// Keys among which messages of the wanted hours are, from, to (not included), the highest first; none: all keys.
    stretches: Option<Vec<(i64, i64)>>,
    /// From, inclusive, to, exclusive.
    at: (i64, i64),
    pinned: Option<bool>,
    archived: Option<bool>,
    kind: Option<String>,
    root: Option<String>,
    model: Option<String>,
    workspace: Option<String>,
    pub(super) within: SearchIn,
    /// A word of the scope for the role that messages must be of.
    role: Option<String>,
    /// Words of the scope for the sessions that are driven by, if these are few.
    few: Vec<Vec<String>>,
}

/// A query's phrases, as each index is asked for them.
pub(super) struct Phrases {
    /// With the words that beginnings stand for.
    pub(super) of_messages: Vec<Phrase>,
    /// The index of sessions has all beginnings.
    pub(super) of_sessions: Vec<Phrase>,
}

/// None when nothing can match.
pub(super) async fn of(
    conn: &mut SqliteConnection,
    query: &SearchQuery,
    phrases: Vec<Phrase>,
) -> Result<Option<(Limits, Phrases)>> {
    let Some(few) = few_sessions(conn, query).await? else { return Ok(None) };
    let expanded = words::expanded(conn, &phrases).await?;
    let role = query.role.as_ref().map(|role| format!("xrole{}", types::word(role)));
    let plain = matches!(&expanded[..], [only] if only.is_plain()) && role.is_none() && !is_purging(conn).await?;
    let narrow = few.is_some() || !plain && words::is_narrow(conn, &expanded, role.as_deref()).await?;
    let few: Vec<_> = few.into_iter().map(|keys| keys.iter().map(|key| format!("xsession{key}")).collect()).collect();
    let limits = Limits {
        messages: None,
        sessions: None,
        narrow,
        plain,
        words: expanded.iter().map(|phrase| phrase.words.len()).sum(),
        stretches: stretches(conn, query).await?,
        at: (query.after.map_or(i64::MIN, |time| time.0), query.before.map_or(i64::MAX, |time| time.0)),
        pinned: query.pinned,
        archived: archived(query),
        kind: kind(query).map(str::to_owned),
        root: query.root.as_ref().map(|root| root.as_str().to_owned()),
        model: query.model.clone(),
        workspace: query.workspace.clone(),
        within: query.within.unwrap_or_default(),
        role,
        few,
    };
    Ok(Some((limits, Phrases { of_messages: expanded, of_sessions: phrases })))
}

/// Whether there may be rows of deleted sessions, which match and are not shown.
async fn is_purging(conn: &mut SqliteConnection) -> Result<bool> {
    let some = sqlx::query_scalar!(r#"select exists (select 1 from purges) as "some!: bool""#);
    some.fetch_one(conn).await.map_err(error::of)
}

/// Whether the index is asked for any word at all.
fn has_words(phrases: &[Phrase]) -> bool {
    phrases.iter().any(|phrase| !phrase.excluded && phrase.is_looked_up())
}

impl Limits {
    /// What the indexes are asked for from now on.
    pub(super) fn ask(&mut self, phrases: &Phrases, wanted: Wanted<'_>) {
        self.messages = self.of_messages(&phrases.of_messages, wanted);
        self.sessions = self.role.is_none().then(|| self.of_sessions(&phrases.of_sessions, wanted)).flatten();
    }

    /// What partial matches are looked for in: each index is read whole if few rows have any of their terms.
    pub(super) fn ask_partially(&mut self, phrases: &Phrases, wanted: Wanted<'_>, are_rare: bool) {
        self.plain = false;
        self.narrow = are_rare || !self.few.is_empty();
        self.ask(phrases, wanted);
    }

    fn of_messages(&self, phrases: &[Phrase], wanted: Wanted<'_>) -> Option<Expression> {
        let mut scope = self.few.clone();
        match &self.role {
            Some(role) => scope.push(vec![role.clone()]),
            // Something must be looked up; each message has one of these.
            None if !has_words(phrases) => {
                scope.push(
                    ["system", "developer", "user", "assistant", "tool"].map(|role| format!("xrole{role}")).into(),
                );
            }
            None => {}
        }
        let columns = match (self.within.reasoning, self.within.tools) {
            (false, false) => "content",
            (true, false) => "content reasoning",
            (false, true) => "content tools",
            (true, true) => "content reasoning tools",
        };
        Expression::new(phrases, wanted, columns, &scope)
    }

    fn of_sessions(&self, phrases: &[Phrase], wanted: Wanted<'_>) -> Option<Expression> {
        let mut scope = self.few.clone();
        match &self.kind {
            Some(kind) => scope.push(vec![format!("xkind{kind}")]),
            None if !has_words(phrases) => scope.push(vec!["xkindroot".into(), "xkindchild".into()]),
            None => {}
        }
        Expression::new(phrases, wanted, "title summary", &scope)
    }

    /// The keys of the first window, and of the largest.
    pub(super) fn windows(&self) -> (i64, i64) {
        // Rows that do not meet the filters cost more than those that do not match.
        let texts = [&self.kind, &self.root, &self.model, &self.workspace];
        let is_filtered =
            self.pinned.is_some() || self.archived.is_some() || texts.iter().any(|filter| filter.is_some());
        match self.narrow || (self.plain && !is_filtered && self.stretches.is_none()) {
            true => (i64::MAX, i64::MAX),
            // A phrase of many common words costs some microseconds a row.
            false if self.words > MANY => (1 << BLOCK, 1 << SPAN),
            false => (4 << BLOCK, 8 << SPAN),
        }
    }

    /// Where a window of about this many keys begins.
    pub(super) fn window_start(&self, below: i64, keys: i64) -> i64 {
        let from = below.saturating_sub(keys).max(0);
        let digits = if keys > WIDEST_OF_BLOCKS { SPAN } else { BLOCK };
        // A window is read whole where it is a term, so its keys are all wanted.
        if self.narrow || self.plain { from } else { from >> digits << digits }
    }

    fn expression(&self, kind: Kind) -> Option<&Expression> {
        match kind {
            Kind::Message => self.messages.as_ref(),
            Kind::Session => self.sessions.as_ref(),
        }
    }

    /// The highest keys below this one, without a gap, among which something can match.
    pub(super) fn stretch(&self, kind: Kind, below: i64) -> Option<(i64, i64)> {
        self.expression(kind)?;
        match &self.stretches {
            Some(stretches) if kind == Kind::Message => {
                let next = stretches.iter().find(|(from, _)| *from < below);
                next.map(|(from, to)| (*from, below.min(*to)))
            }
            _ => (below > 1).then_some((1, below)),
        }
    }

    /// What matches among some keys, the newest first, and meets the filters.
    pub(super) async fn window(
        &self,
        conn: &mut SqliteConnection,
        kind: Kind,
        from: i64,
        below: i64,
        most: usize,
    ) -> Result<Vec<Match>> {
        let Some(expression) = self.expression(kind) else { return Ok(Vec::new()) };
        let words = expression.among(&if self.narrow || self.plain { Vec::new() } else { window_words(from, below) });
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        match kind {
            Kind::Message => self.messages(conn, &words, from, below, most).await,
            Kind::Session => self.sessions(conn, &words, from, below, most).await,
        }
    }

    async fn messages(
        &self,
        conn: &mut SqliteConnection,
        words: &str,
        from: i64,
        below: i64,
        most: i64,
    ) -> Result<Vec<Match>> {
        let (reasoning, tools) = (self.within.reasoning, self.within.tools);
        let rows = sqlx::query_scalar!(
            // The index drives, whatever the planner thinks: it gives rows in order, and ends at the limit.
            r#"select json_group_array(json_array(key, at, bytes, session_key)) as "rows!: Json<Vec<Seen>>" from (
                 select i.rowid as key, m.created_at as at, m.session_key,
                   octet_length(m.content) + iif(?10, coalesce(octet_length(m.reasoning), 0), 0)
                     + iif(?11, coalesce(octet_length(m.tool_calls), 0), 0) as bytes
                 from message_index i cross join messages m on m.message_key = i.rowid
                   cross join live_sessions s on s.session_key = m.session_key
                 where i.message_index match ?1 and i.rowid >= ?2 and i.rowid < ?3
                   and m.created_at >= ?4 and m.created_at < ?5
                   and (?6 is null or s.pinned = ?6) and (?7 is null or (s.archived_at is not null) = ?7)
                   and (?8 is null or s.kind = ?8)
                   and (?9 is null or s.root_key = (select r.session_key from live_sessions r where r.id = ?9))
                   and (?12 is null or s.model = ?12) and (?13 is null or s.workspace = ?13)
                 order by i.rowid desc limit ?14
               )"#,
            words,
            from,
            below,
            self.at.0,
            self.at.1,
            self.pinned,
            self.archived,
            self.kind,
            self.root,
            reasoning,
            tools,
            self.model,
            self.workspace,
            most
        );
        rows.fetch_one(conn).await.map(|Json(rows)| newest_first(Kind::Message, rows)).map_err(error::of)
    }

    async fn sessions(
        &self,
        conn: &mut SqliteConnection,
        words: &str,
        from: i64,
        below: i64,
        most: i64,
    ) -> Result<Vec<Match>> {
        let rows = sqlx::query_scalar!(
            r#"select json_group_array(json_array(key, at, bytes, session_key)) as "rows!: Json<Vec<Seen>>" from (
                 select i.rowid as key, s.created_at as at, s.session_key,
                   octet_length(s.title) + coalesce(octet_length(s.conversation_summary), 0) as bytes
                 from session_index i cross join live_sessions s on s.session_key = i.rowid
                 where i.session_index match ?1 and i.rowid >= ?2 and i.rowid < ?3
                   and s.created_at >= ?4 and s.created_at < ?5
                   and (?6 is null or s.pinned = ?6) and (?7 is null or (s.archived_at is not null) = ?7)
                   and (?8 is null or s.kind = ?8)
                   and (?9 is null or s.root_key = (select r.session_key from live_sessions r where r.id = ?9))
                   and (?10 is null or s.model = ?10) and (?11 is null or s.workspace = ?11)
                 order by i.rowid desc limit ?12
               )"#,
            words,
            from,
            below,
            self.at.0,
            self.at.1,
            self.pinned,
            self.archived,
            self.kind,
            self.root,
            self.model,
            self.workspace,
            most
        );
        rows.fetch_one(conn).await.map(|Json(rows)| newest_first(Kind::Session, rows)).map_err(error::of)
    }
}

/// A row that matches, as it comes: its key, when it was written, its bytes, its session's key.
type Seen = (i64, i64, i64, i64);

fn newest_first(kind: Kind, rows: Vec<Seen>) -> Vec<Match> {
    let mut matches: Vec<Match> =
        rows.into_iter().map(|(key, at, bytes, session)| Match { kind, key, at, bytes, session }).collect();
    matches.sort_unstable_by_key(|found| Reverse(found.key));
    matches
}

/// The words of the scope that rows with these keys have.
fn window_words(from: i64, below: i64) -> Vec<String> {
    let numbers = |digits: u32| (from >> digits)..=((below - 1) >> digits);
    match below - from {
        ..=WIDEST_OF_BLOCKS => numbers(BLOCK).map(|number| format!("xblock{number}")).collect(),
        _ => numbers(SPAN).map(|number| format!("xspan{number}")).collect(),
    }
}

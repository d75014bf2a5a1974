//! Search: which rows match, from the newest back, and the order of their pages.
//!
//! **Bounded.** A word can be in every message, and a phrase of common words in none: FTS5 would look at all of them
//! before it says so. The index is therefore read in windows of keys, newest first, until there is enough or
//! [`PATIENCE`] is over; what was not looked at is said (`bounded`), and the next page goes on there or, in the order
//! of relevance, ranks the newest matches alone. A search that is limited to few sessions is driven by their terms in
//! the column `scope`, whatever the words.

mod expression;
mod hits;
mod limits;
mod matching;
mod scope;
mod text;
mod words;

use std::{
    cmp::Reverse,
    time::{Duration, Instant},
};

use sqlx::{SqliteConnection, SqlitePool};

use super::error;
use crate::{
    model::{Rank, Ranked, SearchOrder, SearchPage, SearchPosition, SearchQuery},
    storage::Result,
};
pub(super) use expression::title_query;
use limits::Limits;
use matching::{Found, Matcher};
pub(super) use text::terms;

/// Messages, and sessions, that are ranked at most.
const RANKED: usize = 500;
const RANKED_SESSIONS: usize = 100;
/// Bytes of text that are read at once, and that are ranked at most.
const TEXT: i64 = 4 << 20;
/// How long the index is read, in windows: until there is a page, and for more to rank.
const PATIENCE: Duration = Duration::from_millis(40);
const PATIENCE_FOR_MORE: Duration = Duration::from_millis(8);
/// A window that took this long is not followed by a larger one.
const LONG: Duration = Duration::from_millis(8);
/// Rows whose texts are looked at together, where the index alone does not say what matches.
const CHECKED: usize = 250;

/// What is searched: each has an index, keys and texts of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Message,
    Session,
}

/// A row that matches.
#[derive(Debug, Clone, Copy)]
struct Match {
    kind: Kind,
    key: i64,
    /// When it was written, in microseconds.
    at: i64,
    /// Of the texts that are searched.
    bytes: i64,
}

/// Matches from the newest back.
struct Newest {
    matches: Vec<Match>,
    /// Every key from here on was looked at.
    reached: i64,
}

impl Newest {
    /// Whether there may be more.
    fn is_cut(&self) -> bool {
        self.reached > 1
    }
}

/// One search on one snapshot.
struct Search<'c> {
    conn: &'c mut SqliteConnection,
    limits: Limits,
    matcher: Matcher,
    began: Instant,
    /// Hits that a page has at most.
    page: usize,
}

pub(super) async fn search(
    pool: &SqlitePool,
    query: &SearchQuery,
    after: Option<SearchPosition>,
    limit: i64,
) -> Result<SearchPage> {
    let phrases = expression::phrases(&query.terms());
    let mut snapshot = pool.begin().await.map_err(error::of)?;
    let Some((limits, phrases)) = limits::of(&mut snapshot, query, &phrases).await? else {
        return Ok(SearchPage::default());
    };
    let below = match after {
        Some(position) => position,
        None => top(&mut snapshot).await?,
    };
    let matcher = Matcher::new(&phrases);
    let limit = usize::try_from(limit).unwrap_or(0);
    let mut search = Search { conn: &mut snapshot, limits, matcher, began: Instant::now(), page: limit };
    match query.order.unwrap_or_default() {
        SearchOrder::Newest => search.newest_first(below, limit).await,
        SearchOrder::Relevance => search.best_first(below, limit).await,
    }
}

/// Above everything that is there.
async fn top(conn: &mut SqliteConnection) -> Result<SearchPosition> {
    let row = sqlx::query!(
        r#"select (select coalesce(max(message_key), 0) + 1 from messages) as "messages!: i64",
             (select coalesce(max(session_key), 0) + 1 from sessions) as "sessions!: i64""#
    );
    let row = row.fetch_one(conn).await.map_err(error::of)?;
    Ok(SearchPosition { messages: row.messages, sessions: row.sessions, last: None })
}

impl Search<'_> {
    /// Both kinds by their keys, merged by their times: each goes on below its last key.
    async fn newest_first(&mut self, mut below: SearchPosition, limit: usize) -> Result<SearchPage> {
        let messages = self.newest(Kind::Message, below.messages, None, limit + 1).await?;
        let sessions = self.newest(Kind::Session, below.sessions, None, limit + 1).await?;
        let bounded = [&messages, &sessions].iter().any(|found| found.is_cut() && found.matches.len() <= limit);
        let (mut m, mut s) = (messages.matches.iter().peekable(), sessions.matches.iter().peekable());
        let mut page = Vec::with_capacity(limit);
        while page.len() < limit {
            let message_is_next = match (m.peek(), s.peek()) {
                (Some(message), Some(session)) => message.at >= session.at,
                (message, _) => message.is_some(),
            };
            let Some(next) = (if message_is_next { m.next() } else { s.next() }) else { break };
            page.push(*next);
        }
        let (more_messages, more_sessions) = (m.peek().is_some(), s.peek().is_some());
        let last = |kind| page.iter().rev().find(|found| found.kind == kind).map(|found| found.key);
        below.messages = if more_messages { last(Kind::Message).unwrap_or(below.messages) } else { messages.reached };
        below.sessions = if more_sessions { last(Kind::Session).unwrap_or(below.sessions) } else { sessions.reached };
        let next = (more_messages || more_sessions || messages.is_cut() || sessions.is_cut()).then_some(below);
        let hits = self.hits(&page).await?;
        Ok(SearchPage { hits, bounded, next })
    }

    /// The newest matches of both kinds, ranked: each page ranks the same ones again.
    async fn best_first(&mut self, below: SearchPosition, limit: usize) -> Result<SearchPage> {
        let floors = below.last.map(|last| last.floors).unzip();
        let mut messages = self.newest(Kind::Message, below.messages, floors.0, RANKED + 1).await?;
        let mut sessions = self.newest(Kind::Session, below.sessions, floors.1, RANKED_SESSIONS + 1).await?;
        let mut ranked = self.rank(&mut messages, RANKED).await?;
        ranked.extend(self.rank(&mut sessions, RANKED_SESSIONS).await?);
        ranked.retain(|(rank, _)| below.last.is_none_or(|last| *rank < last.rank));
        ranked.sort_unstable_by_key(|(rank, _)| Reverse(*rank));
        let more = ranked.len() > limit;
        ranked.truncate(limit);
        let floors = (messages.reached, sessions.reached);
        let bounded = messages.is_cut() || sessions.is_cut();
        let next = match ranked.last().filter(|_| more) {
            Some((rank, _)) => Some(SearchPosition { last: Some(Ranked { rank: *rank, floors }), ..below }),
            // What is older is ranked by itself.
            None => bounded.then_some(SearchPosition { messages: floors.0, sessions: floors.1, last: None }),
        };
        let page: Vec<Match> = ranked.into_iter().map(|(_, found)| found).collect();
        Ok(SearchPage { hits: self.hits(&page).await?, bounded, next })
    }

    /// Matches below a key, the newest first: as many as are wanted; fewer at the end, or when patience is over.
    /// Where another page has looked before, its floor is the end, however long it takes.
    async fn newest(&mut self, kind: Kind, below: i64, floor: Option<i64>, wanted: usize) -> Result<Newest> {
        let mut found = Newest { matches: Vec::new(), reached: below };
        let (mut window, widest) = self.limits.windows();
        let end = floor.unwrap_or(1);
        while let Some((lowest, below)) = self.limits.stretch(kind, found.reached).filter(|(_, below)| *below > end) {
            let (from, began) = (lowest.max(end).max(self.limits.window_start(below, window)), Instant::now());
            let mut asked = wanted - found.matches.len();
            if self.matcher.is_needed() {
                asked = asked.min(CHECKED);
            }
            let rows = self.limits.window(self.conn, kind, from, below, asked).await?;
            found.reached = rows.get(asked - 1).map_or(from, |last| last.key);
            if rows.len() < asked && began.elapsed() < LONG {
                window = window.saturating_mul(2).min(widest);
            }
            found.matches.extend(self.admitted(rows).await?);
            let patience = if found.matches.len() > self.page { PATIENCE_FOR_MORE } else { PATIENCE };
            // Another one as long as this must end in time.
            let is_over = self.began.elapsed() + began.elapsed() > patience;
            if found.matches.len() == wanted || (floor.is_none() && is_over) {
                return Ok(found);
            }
        }
        found.reached = end;
        Ok(found)
    }

    /// Leaves out what the index could not: beginnings of words that are too short for it.
    async fn admitted(&mut self, matches: Vec<Match>) -> Result<Vec<Match>> {
        if !self.matcher.is_needed() {
            return Ok(matches);
        }
        let mut admitted = Vec::with_capacity(matches.len());
        for some in at_once(&matches) {
            let texts = self.texts(some).await?;
            let admits = |found: &&Match| {
                texts
                    .get(&found.key)
                    .is_some_and(|parts| self.matcher.admits(&self.matcher.read(parts.iter().map(String::as_str))))
            };
            admitted.extend(some.iter().filter(admits));
        }
        Ok(admitted)
    }

    /// Ranks the newest of these, so many, of so much text, and leaves the others.
    async fn rank(&mut self, found: &mut Newest, most: usize) -> Result<Vec<(Rank, Match)>> {
        let mut bytes = 0;
        let within = |found: &&Match| {
            bytes += found.bytes;
            bytes <= TEXT
        };
        // The newest is ranked however long it is.
        let some = found.matches.iter().skip(1).take(most - 1).take_while(within).count() + 1;
        if some < found.matches.len() {
            found.matches.truncate(some);
            found.reached = found.matches[some - 1].key;
        }
        let texts = self.texts(&found.matches).await?;
        let parts = |found: &Match| texts.get(&found.key).map_or(&[][..], Vec::as_slice);
        Ok(found.matches.iter().map(|found| (self.rank_of(found, parts(found)), *found)).collect())
    }

    fn rank_of(&self, found: &Match, parts: &[String]) -> Rank {
        let is_session = found.kind == Kind::Session;
        let score = self.score(is_session, &self.matcher.read(parts.iter().map(String::as_str)));
        Rank { score, at: found.at, is_session, key: found.key }
    }

    /// In thousandths. A title says what a session is about: it weighs more.
    fn score(&self, is_session: bool, found: &Found) -> i64 {
        let score = self.matcher.score(found);
        if is_session { score * 3 / 2 } else { score }
    }
}

/// Pieces whose texts are held in memory together.
fn at_once(matches: &[Match]) -> impl Iterator<Item = &[Match]> {
    let mut bytes = 0;
    matches.chunk_by(move |before, _| {
        bytes += before.bytes;
        let fits = bytes <= TEXT;
        if !fits {
            bytes = 0;
        }
        fits
    })
}

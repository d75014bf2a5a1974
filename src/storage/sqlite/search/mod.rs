//! Search: which rows match, from the newest back, and the order of their pages.
//!
//! **Bounded.** A word can be in every message, and a phrase of common words in none: FTS5 would look at all of them
//! before it says so. The index is therefore read in windows of keys, newest first, until there is enough or
//! [`PATIENCE`] is over; what was not looked at is said (`bounded`), and the next page goes on there or, in the order
//! of relevance, ranks the newest matches alone. A search that is limited to few sessions is driven by their terms in
//! the column `scope`, whatever the words.

mod expression;
mod forms;
mod hits;
mod limits;
mod matching;
mod partial;
mod scope;
mod settle;
mod spoken;
mod text;
mod words;

use std::{
    cmp::Reverse,
    collections::HashMap,
    time::{Duration, Instant},
};

use sqlx::{SqliteConnection, SqlitePool};

use super::error;
use crate::{
    model::{Partial, Rank, Ranked, SearchHit, SearchOrder, SearchPage, SearchPosition, SearchQuery},
    storage::Result,
};
pub(super) use expression::Titles;
use expression::Wanted;
pub(super) use forms::{form, form_of_calls};
use limits::{Limits, Phrases};
use matching::{Checks, Found, Matcher};
use partial::Terms;
pub(super) use settle::settle;

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
/// Matches of a session that are given with it.
const OF_SESSION: usize = 3;
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
    /// The key of its session.
    session: i64,
}

/// What a page gives as one: a match, or the best ones of a session.
struct Group {
    /// Of the first.
    rank: Rank,
    matches: Vec<Match>,
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
    order: SearchOrder,
    /// Whether each session is given once.
    is_grouped: bool,
}

pub(super) async fn search(
    pool: &SqlitePool,
    query: &SearchQuery,
    after: Option<SearchPosition>,
    limit: i64,
) -> Result<SearchPage> {
    let phrases = expression::phrases(&query.terms());
    let verbatim = expression::as_typed(&query.q, &phrases);
    let mut snapshot = pool.begin().await.map_err(error::of)?;
    let Some((limits, phrases)) = limits::of(&mut snapshot, query, phrases).await? else {
        return Ok(SearchPage::default());
    };
    let (is_first, below) = match after {
        Some(position) => (false, position),
        None => (true, top(&mut snapshot).await?),
    };
    let mut search = Search {
        conn: &mut snapshot,
        limits,
        matcher: Matcher::new(&phrases.of_messages, Checks::All(verbatim.as_ref())),
        began: Instant::now(),
        page: usize::try_from(limit).unwrap_or(0),
        order: query.order.unwrap_or_default(),
        is_grouped: query.group.is_some(),
    };
    if let Some(partial) = below.partial.clone() {
        let telling = partial.terms.len();
        let terms = Terms { places: partial.terms, are_rare: partial.are_rare, telling };
        return search.partly(&phrases, &terms, partial.least, below).await;
    }
    search.limits.ask(&phrases, Wanted::All(verbatim.as_ref()));
    let page = search.page(below.clone()).await?;
    // Where not all was looked at, the next page goes on with that.
    if !is_first || !page.hits.is_empty() || page.next.is_some() {
        return Ok(page);
    }
    search.best_partly(&phrases, below).await
}

/// Above everything that is there.
async fn top(conn: &mut SqliteConnection) -> Result<SearchPosition> {
    let row = sqlx::query!(
        r#"select (select coalesce(max(message_key), 0) + 1 from messages) as "messages!: i64",
             (select coalesce(max(session_key), 0) + 1 from sessions) as "sessions!: i64""#
    );
    let row = row.fetch_one(conn).await.map_err(error::of)?;
    Ok(SearchPosition { messages: row.messages, sessions: row.sessions, last: None, partial: None })
}

impl Search<'_> {
    async fn page(&mut self, below: SearchPosition) -> Result<SearchPage> {
        match self.order {
            SearchOrder::Newest if !self.is_grouped => self.newest_first(below, self.page).await,
            _ => self.best_first(below, self.page).await,
        }
    }

    /// What has most of the terms that count.
    async fn best_partly(&mut self, phrases: &Phrases, below: SearchPosition) -> Result<SearchPage> {
        let Some(mut terms) = partial::terms(self.conn, phrases).await? else { return Ok(SearchPage::default()) };
        let asked = phrases.of_messages.iter().filter(|phrase| !phrase.excluded).count();
        let most = terms.places.len().min(asked - 1);
        self.began = Instant::now();
        for least in (1..=most).rev() {
            if least < partial::GOOD {
                terms.places.truncate(terms.telling);
            }
            let page = self.partly(phrases, &terms, least, below.clone()).await?;
            if !page.hits.is_empty() && least > partial::GOOD {
                return self.partly(phrases, &terms, least - 1, below).await;
            }
            if !page.hits.is_empty() || page.next.is_some() {
                return Ok(page);
            }
        }
        Ok(SearchPage::default())
    }

    /// What has so many of some terms.
    async fn partly(
        &mut self,
        phrases: &Phrases,
        terms: &Terms,
        least: usize,
        below: SearchPosition,
    ) -> Result<SearchPage> {
        self.matcher = Matcher::new(&phrases.of_messages, Checks::Partial(&terms.places));
        self.limits.ask_partially(phrases, Wanted::Some(least, &terms.places), terms.are_rare);
        let partial = Partial { terms: terms.places.clone(), are_rare: terms.are_rare, least };
        let mut page = self.page(SearchPosition { partial: Some(partial), ..below }).await?;
        page.relaxed = true;
        Ok(page)
    }

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
        let mut hits = self.hits(&page).await?;
        let hits = page.iter().filter_map(|found| hits.remove(&(found.kind, found.key))).collect();
        Ok(SearchPage { hits, bounded, relaxed: false, next })
    }

    /// The newest matches of both kinds, ranked: each page ranks the same ones again.
    async fn best_first(&mut self, below: SearchPosition, limit: usize) -> Result<SearchPage> {
        let floors = below.last.map(|last| last.floors).unzip();
        let mut messages = self.newest(Kind::Message, below.messages, floors.0, RANKED + 1).await?;
        let mut sessions = self.newest(Kind::Session, below.sessions, floors.1, RANKED_SESSIONS + 1).await?;
        let mut ranked = self.rank(&mut messages, RANKED).await?;
        ranked.extend(self.rank(&mut sessions, RANKED_SESSIONS).await?);
        ranked.sort_unstable_by_key(|(rank, _)| Reverse(*rank));
        let mut groups = self.grouped(ranked);
        groups.retain(|group| below.last.is_none_or(|last| group.rank < last.rank));
        let more = groups.len() > limit;
        groups.truncate(limit);
        let floors = (messages.reached, sessions.reached);
        let bounded = messages.is_cut() || sessions.is_cut();
        let next = match groups.last().filter(|_| more) {
            Some(last) => Some(SearchPosition { last: Some(Ranked { rank: last.rank, floors }), ..below }),
            // What is older is ranked by itself.
            None => bounded.then_some(SearchPosition {
                messages: floors.0,
                sessions: floors.1,
                last: None,
                partial: below.partial,
            }),
        };
        let page: Vec<Match> = groups.iter().flat_map(|group| group.matches.iter().copied()).collect();
        let mut hits = self.hits(&page).await?;
        let hits = groups.iter().filter_map(|group| {
            let mut of_group = group.matches.iter().filter_map(|found| hits.remove(&(found.kind, found.key)));
            let best = of_group.next()?;
            Some(SearchHit { more: of_group.collect(), ..best })
        });
        Ok(SearchPage { hits: hits.collect(), bounded, relaxed: false, next })
    }

    /// Matches, the best first, each alone, or with the next best ones of its session.
    fn grouped(&self, ranked: Vec<(Rank, Match)>) -> Vec<Group> {
        let mut groups: Vec<Group> = Vec::new();
        let mut of_session: HashMap<i64, usize> = HashMap::new();
        for (rank, found) in ranked {
            match of_session.get(&found.session).filter(|_| self.is_grouped) {
                Some(group) if groups[*group].matches.len() < OF_SESSION => groups[*group].matches.push(found),
                Some(_) => {}
                None => {
                    of_session.insert(found.session, groups.len());
                    groups.push(Group { rank, matches: vec![found] });
                }
            }
        }
        groups
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
        let score = match self.order {
            SearchOrder::Newest => 0,
            SearchOrder::Relevance => self.score(is_session, &self.matcher.read(parts.iter().map(String::as_str))),
        };
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

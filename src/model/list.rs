//! Lists of sessions: what they show, in which order, page by page; and trees.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Session, SessionId, Timestamp};

/// Which kinds a list shows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the words say it")]
pub enum KindFilter {
    #[default]
    Root,
    Child,
    All,
}

/// Whether a list shows archived sessions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the words say it")]
pub enum Archived {
    #[default]
    False,
    True,
    All,
}

/// The order of a list; newest first in both.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the words say it")]
pub enum Order {
    #[default]
    Activity,
    Created,
}

/// Which sessions to list. All conditions hold together.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SessionFilter {
    /// Roots by default; all when `parent` or `root` is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<KindFilter>,
    /// Directly below this session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<SessionId>,
    /// In the tree of this root, itself included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub root: Option<SessionId>,
    /// Pinned, or not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pinned: Option<bool>,
    /// Archived sessions are left out by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub archived: Option<Archived>,
    /// With a run under way, or without.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub running: Option<bool>,
    /// With this model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// What stands in the title: words in any order, or parts of words as they are typed. Case does not matter; accents do
    /// not where whole words are meant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub q: Option<String>,
    /// Created at this time or later.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_after: Option<Timestamp>,
    /// Created before this time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_before: Option<Timestamp>,
    /// Last active at this time or later.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub active_after: Option<Timestamp>,
    /// Last active before this time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub active_before: Option<Timestamp>,
    /// Newest activity first by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order: Option<Order>,
}

/// Where a page ended: the last row's place in the list's order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// The row's time, in microseconds.
    pub at: i64,
    /// The row's internal key, for rows of one time.
    pub key: i64,
}

/// A page of a list.
#[derive(Debug, Clone)]
pub struct Page<T> {
    /// The page's rows.
    pub items: Vec<T>,
    /// Where the next page goes on; none at the end.
    pub next: Option<Position>,
}

impl<T> Page<T> {
    /// A page of at most `limit` rows, from rows of which one more was asked for: it shows whether there is a next page.
    pub fn cut(rows: Vec<(Position, T)>, limit: i64) -> Self {
        Self::cut_where(rows, limit, false)
    }

    /// The same of rows of which not all were read that were asked for, if so.
    pub fn cut_where(mut rows: Vec<(Position, T)>, limit: i64, unread: bool) -> Self {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let more = rows.len() > limit || unread;
        rows.truncate(limit);
        let next = rows.last().map(|(place, _)| *place).filter(|_| more);
        Self { items: rows.into_iter().map(|(_, item)| item).collect(), next }
    }
}

/// A session with all below it.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct SessionTree {
    /// The session.
    #[serde(flatten)]
    pub session: Session,
    /// What is below it, oldest first.
    pub children: Vec<SessionTree>,
}

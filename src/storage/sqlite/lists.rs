//! Lists of sessions: one static query for each index that can drive it, the weaker filters on top.
//!
//! **A filter that few sessions meet drives.** Walked in its order, a list would pass over all that the filter leaves
//! out. So the sessions that a filter meets are looked up first, as keys from the filter's own index; when these are few,
//! they are the list's driver, and are sorted. When they are many, a walk in the list's order soon has a page of them.
//!
//! A list over several kinds, or over archived sessions too, is merged from those that an index gives in order. All that
//! a list reads is of one snapshot.

use std::collections::BTreeMap;

use sqlx::{SqliteConnection, SqlitePool};

use super::{
    bounded::{self, Read},
    error,
    search::Titles,
    sessions::{SessionRow, select_sessions},
    types::{self, Json, Raw, Text, Word},
};
use crate::{
    model::{
        Archived, Kind, KindFilter, ModelRef, Order, PAGE_BYTES, Page, Position, ReasoningEffort, RunStatus, Session,
        SessionFilter, SessionId, Timestamp,
    },
    storage::Result,
};

/// The bounds of a range that has none.
const EVER: (i64, i64) = (i64::MIN, i64::MAX);

/// A filter's weaker conditions, as parameters: null where there is none.
struct Weak {
    /// Bounds of creation and activity: from, inclusive, to, exclusive.
    created: (i64, i64),
    active: (i64, i64),
    pinned: Option<bool>,
    running: Option<bool>,
    model: Option<String>,
    title: Option<Titles>,
}

/// The place to go on from, and how many rows to read.
struct Cut {
    at: i64,
    key: i64,
    rows: i64,
}

/// Sessions that are few: to look these up and sort them costs no more than to walk past as many as a million others
/// on the way to a page.
const FEW: i64 = 5_000;
/// No more are counted.
const MANY: i64 = FEW + 1;

pub(super) async fn list(
    pool: &SqlitePool,
    filter: &SessionFilter,
    after: Option<Position>,
    limit: i64,
) -> Result<Page<Session>> {
    let weak = Weak::of(filter);
    let mut snapshot = pool.begin().await.map_err(error::of)?;
    let conn = &mut *snapshot;
    let order = filter.order.unwrap_or_default();
    let cut = Cut::new(order, &weak, after, limit);
    let in_tree = filter.parent.is_some() || filter.root.is_some();
    let default_kind = if in_tree { KindFilter::All } else { KindFilter::Root };
    let kinds: &[Kind] = match filter.kind.unwrap_or(default_kind) {
        KindFilter::Root => &[Kind::Root],
        KindFilter::Child => &[Kind::Child],
        KindFilter::All => &[Kind::Root, Kind::Child],
    };
    let archived: &[bool] = match filter.archived.unwrap_or_default() {
        Archived::False => &[false],
        Archived::True => &[true],
        Archived::All => &[false, true],
    };
    let few = few(conn, &weak, kinds, order).await?;
    let mut reads = Vec::new();
    for kind in kinds {
        // The one root of a tree is looked up, not looked for among all of the tree; below a session there is none.
        let root = match (kind, &filter.root) {
            (Kind::Root, _) if filter.parent.is_some() => continue,
            (Kind::Root, Some(root)) => Some(key_as_json(conn, root).await?),
            _ => None,
        };
        let few = few.as_ref().or(root.as_ref());
        for archived in archived {
            let kind = types::word(kind);
            reads.push(match (few, in_tree, order, archived) {
                (Some(keys), ..) => of_few(conn, filter, order, &kind, *archived, keys, &weak, &cut).await?,
                (None, true, ..) => in_one_tree(conn, filter, order, &kind, *archived, &weak, &cut).await?,
                (None, false, Order::Created, _) if weak.active.1 < EVER.1 => {
                    by_creation_of_idle(conn, &kind, *archived, &weak, &cut).await?
                }
                (None, false, Order::Created, _) => by_creation(conn, &kind, *archived, &weak, &cut).await?,
                (None, false, Order::Activity, false) => by_activity(conn, &kind, &weak, &cut).await?,
                (None, false, Order::Activity, true) => archived_by_activity(conn, &kind, &weak, &cut).await?,
            });
        }
    }
    Ok(page(reads, order, limit))
}

impl Cut {
    /// Begins where the list's own range does: the index is entered there, and not walked down to it.
    fn new(order: Order, weak: &Weak, after: Option<Position>, limit: i64) -> Self {
        let end = match order {
            Order::Activity => weak.active.1,
            Order::Created => weak.created.1,
        };
        let after = after.unwrap_or(Position { at: i64::MAX, key: i64::MAX });
        match end <= after.at {
            true => Self { at: end, key: 0, rows: limit + 1 },
            false => Self { at: after.at, key: after.key, rows: limit + 1 },
        }
    }
}

/// The keys of the sessions that a filter meets, when it meets few: as a JSON array.
macro_rules! keys_if_few {
    ($conn:expr, $query:literal $(, $argument:expr)*) => {{
        let found = sqlx::query!(
            r#"select count(*) as "count!: i64", json_group_array(session_key) as "keys!: String" from ("# + $query + " limit ?1)",
            MANY $(, $argument)*
        );
        let found = found.fetch_one(&mut *$conn).await.map_err(error::of)?;
        if found.count <= FEW {
            return Ok(Some(found.keys));
        }
    }};
}

/// The sessions that may be in the list, when one of its filters leaves few. A range in the list's own order drives
/// already.
async fn few(conn: &mut SqliteConnection, weak: &Weak, kinds: &[Kind], order: Order) -> Result<Option<String>> {
    let kinds = types::object(&kinds);
    if weak.running == Some(true) {
        keys_if_few!(
            conn,
            "select x.session_key from runs x where x.status in ('pending', 'running') and x.status = 'running'"
        );
    }
    if weak.pinned == Some(true) {
        keys_if_few!(conn, "select session_key from live_sessions where pinned = 1");
    }
    if let Some(model) = &weak.model {
        keys_if_few!(conn, "select session_key from live_sessions where model = ?2", model);
    }
    if let Some(title) = &weak.title {
        match &title.short {
            Some(short) => {
                let found = titles_with_short(conn, title, short).await?;
                if found.is_some() {
                    return Ok(found);
                }
            }
            None => keys_if_few!(
                conn,
                "select session_key from (select rowid as session_key from session_index where session_index match ?2 limit ?1)
                 union
                 select session_key from (select rowid as session_key from title_index where title_index match ?3 limit ?1)",
                title.words,
                title.parts
            ),
        }
    }
    if order == Order::Activity && weak.created != EVER {
        keys_if_few!(
            conn,
            "select session_key from live_sessions
             where kind in (select value from json_each(?2)) and created_at >= ?3 and created_at < ?4",
            kinds,
            weak.created.0,
            weak.created.1
        );
    }
    if order == Order::Created && weak.active != EVER {
        keys_if_few!(
            conn,
            "select session_key from live_sessions
             where kind in (select value from json_each(?2)) and archived_at is null
               and last_activity_at >= ?3 and last_activity_at < ?4
             union all
             select session_key from live_sessions
             where kind in (select value from json_each(?2)) and archived_at is not null
               and last_activity_at >= ?3 and last_activity_at < ?4",
            kinds,
            weak.active.0,
            weak.active.1
        );
    }
    Ok(None)
}

/// Sessions with one or two characters anywhere in the title: those with a part that begins so.
async fn titles_with_short(conn: &mut SqliteConnection, title: &Titles, short: &str) -> Result<Option<String>> {
    // Not checked at compile time: the table of parts is the connection's own.
    let found = sqlx::query_as::<_, (i64, String)>(
        "select count(*), json_group_array(session_key) from (
           select session_key from (select rowid as session_key from session_index where session_index match ?2 limit ?1)
           union
           select session_key from (select distinct doc as session_key from temp.title_pieces
                                    where term >= ?3 and term < ?3 || char(1114111) limit ?1)
           limit ?1)",
    );
    let (count, keys) = found.bind(MANY).bind(&title.words).bind(short).fetch_one(conn).await.map_err(error::of)?;
    Ok((count <= FEW).then_some(keys))
}

/// The key of one session, as that of few.
async fn key_as_json(conn: &mut SqliteConnection, id: &SessionId) -> Result<String> {
    let id = id.as_str();
    let key = sqlx::query_scalar!(
        r#"select json_group_array(session_key) as "keys!: String" from live_sessions where id = ?1"#,
        id
    );
    key.fetch_one(conn).await.map_err(error::of)
}

/// The first rows of all, in the list's order, as many as a page may have bytes. Where not all of a kind were read, none is
/// shown that comes after those of it that were.
fn page(reads: Vec<Read<SessionRow>>, order: Order, limit: i64) -> Page<Session> {
    let place = |row: &SessionRow| match order {
        Order::Activity => (row.last_activity_at.0, row.session_key),
        Order::Created => (row.created_at.0, row.session_key),
    };
    let ends = reads.iter().filter(|read| read.unread).filter_map(|read| read.rows.iter().map(place).min());
    let end = ends.max();
    let mut rows: Vec<SessionRow> = reads.into_iter().flat_map(|read| read.rows).collect();
    rows.retain(|row| end.is_none_or(|end| place(row) >= end));
    rows.sort_by_key(|row| std::cmp::Reverse(place(row)));
    let mut bytes = 0;
    let mut fits = |row: &SessionRow| {
        bytes += row.bytes();
        bytes <= usize::try_from(PAGE_BYTES).unwrap_or(usize::MAX)
    };
    let fitting = rows.iter().map_while(|row| fits(row).then_some(())).count().max(1);
    let unread = end.is_some() || fitting < rows.len();
    rows.truncate(fitting);
    let placed = |row: SessionRow| {
        let (at, key) = place(&row);
        (Position { at, key }, row.into_session())
    };
    Page::cut_where(rows.into_iter().map(placed).collect(), limit, unread)
}

impl Weak {
    fn of(filter: &SessionFilter) -> Self {
        let bounds =
            |from: Option<Timestamp>, to: Option<Timestamp>| (from.map_or(EVER.0, |t| t.0), to.map_or(EVER.1, |t| t.0));
        Self {
            created: bounds(filter.created_after, filter.created_before),
            active: bounds(filter.active_after, filter.active_before),
            pinned: filter.pinned,
            running: filter.running,
            model: filter.model.clone(),
            title: filter.q.as_deref().map(Titles::of),
        }
    }
}

/// A list's query: what drives it, the weaker filters, its order. ?1 to ?3 are the place to go on from and the number
/// of rows, ?4 to ?13 the weaker filters, the driver's own come after.
macro_rules! list_sessions {
    ($driver:literal, $order:literal, $conn:expr, $weak:expr, $cut:expr $(, $argument:expr)*) => {{
        let (weak, cut): (&Weak, &Cut) = ($weak, $cut);
        let (words, parts, short) = Titles::parameters(weak.title.as_ref());
        let ((created_from, created_to), (active_from, active_to)) = (weak.created, weak.active);
        let rows = select_sessions!(
            $driver
            " and s.created_at >= ?4 and s.created_at < ?5 and s.last_activity_at >= ?6 and s.last_activity_at < ?7
              and (?8 is null or s.pinned = ?8)
              and (?9 is null or ?9 = exists (select 1 from runs x where x.session_key = s.session_key
                     and x.status in ('pending', 'running') and x.status = 'running'))
              and (?10 is null or s.model = ?10)
              and (?11 is null or instr(lower(s.title), ?13) > 0 or s.session_key in (
                     select rowid from session_index where session_index match ?11
                     union all select rowid from title_index where title_index match ?12)) "
            $order,
            cut.at, cut.key, cut.rows, created_from, created_to, active_from, active_to, weak.pinned, weak.running,
            weak.model, words, parts, short $(, $argument)*
        )
        .fetch($conn);
        bounded::read(rows, SessionRow::bytes).await
    }};
}

async fn by_activity(conn: &mut SqliteConnection, kind: &str, weak: &Weak, cut: &Cut) -> Result<Read<SessionRow>> {
    list_sessions!(
        "where s.kind = ?14 and s.archived_at is null and (s.last_activity_at, s.session_key) < (?1, ?2)",
        "order by s.last_activity_at desc, s.session_key desc limit ?3",
        conn,
        weak,
        cut,
        kind
    )
}

async fn archived_by_activity(
    conn: &mut SqliteConnection,
    kind: &str,
    weak: &Weak,
    cut: &Cut,
) -> Result<Read<SessionRow>> {
    list_sessions!(
        "where s.kind = ?14 and s.archived_at is not null and (s.last_activity_at, s.session_key) < (?1, ?2)",
        "order by s.last_activity_at desc, s.session_key desc limit ?3",
        conn,
        weak,
        cut,
        kind
    )
}

async fn by_creation(
    conn: &mut SqliteConnection,
    kind: &str,
    archived: bool,
    weak: &Weak,
    cut: &Cut,
) -> Result<Read<SessionRow>> {
    list_sessions!(
        "where s.kind = ?14 and (s.archived_at is not null) = ?15 and (s.created_at, s.session_key) < (?1, ?2)",
        "order by s.created_at desc, s.session_key desc limit ?3",
        conn,
        weak,
        cut,
        kind,
        archived
    )
}

/// Sessions that were not active lately, in the order of creation: those created last were, and a walk would pass over all
/// of these. Sorted from the order of activity, whose index knows the time of creation.
async fn by_creation_of_idle(
    conn: &mut SqliteConnection,
    kind: &str,
    archived: bool,
    weak: &Weak,
    cut: &Cut,
) -> Result<Read<SessionRow>> {
    match archived {
        false => list_sessions!(
            "where s.kind = ?14 and s.archived_at is null and (+s.created_at, +s.session_key) < (?1, ?2)",
            "order by +s.created_at desc, +s.session_key desc limit ?3",
            conn,
            weak,
            cut,
            kind
        ),
        true => list_sessions!(
            "where s.kind = ?14 and s.archived_at is not null and (+s.created_at, +s.session_key) < (?1, ?2)",
            "order by +s.created_at desc, +s.session_key desc limit ?3",
            conn,
            weak,
            cut,
            kind
        ),
    }
}

/// Of sessions that are few, looked up one by one.
#[expect(clippy::too_many_arguments, reason = "as those of a list")]
async fn of_few(
    conn: &mut SqliteConnection,
    filter: &SessionFilter,
    order: Order,
    kind: &str,
    archived: bool,
    keys: &str,
    weak: &Weak,
    cut: &Cut,
) -> Result<Read<SessionRow>> {
    let parent = filter.parent.as_ref().map(SessionId::as_str);
    let root = filter.root.as_ref().map(SessionId::as_str);
    // The plus keeps the indexes of the order out.
    match order {
        Order::Activity => list_sessions!(
            "where s.session_key in (select value from json_each(?14)) and +s.kind = ?15
               and (s.archived_at is not null) = ?16 and (+s.last_activity_at, s.session_key) < (?1, ?2)
               and (?17 is null or s.parent_key = (select p.session_key from live_sessions p where p.id = ?17))
               and (?18 is null or s.root_key = (select r.session_key from live_sessions r where r.id = ?18))",
            "order by +s.last_activity_at desc, s.session_key desc limit ?3",
            conn,
            weak,
            cut,
            keys,
            kind,
            archived,
            parent,
            root
        ),
        Order::Created => list_sessions!(
            "where s.session_key in (select value from json_each(?14)) and +s.kind = ?15
               and (s.archived_at is not null) = ?16 and (+s.created_at, s.session_key) < (?1, ?2)
               and (?17 is null or s.parent_key = (select p.session_key from live_sessions p where p.id = ?17))
               and (?18 is null or s.root_key = (select r.session_key from live_sessions r where r.id = ?18))",
            "order by +s.created_at desc, s.session_key desc limit ?3",
            conn,
            weak,
            cut,
            keys,
            kind,
            archived,
            parent,
            root
        ),
    }
}

/// Within a tree the order of activity is sorted, not read from an index: that index would be written by every append. (The
/// plus keeps the indexes of a kind out.)
async fn in_one_tree(
    conn: &mut SqliteConnection,
    filter: &SessionFilter,
    order: Order,
    kind: &str,
    archived: bool,
    weak: &Weak,
    cut: &Cut,
) -> Result<Read<SessionRow>> {
    let parent = filter.parent.as_ref().map(SessionId::as_str);
    let root = filter.root.as_ref().map(SessionId::as_str);
    match (parent, order) {
        (Some(parent), Order::Created) => list_sessions!(
            "where s.parent_key = (select p.session_key from live_sessions p where p.id = ?16) and +s.kind = ?14
               and (s.archived_at is not null) = ?15 and (s.created_at, s.session_key) < (?1, ?2)
               and (?17 is null or s.root_key = (select r.session_key from live_sessions r where r.id = ?17))",
            "order by s.created_at desc, s.session_key desc limit ?3",
            conn,
            weak,
            cut,
            kind,
            archived,
            parent,
            root
        ),
        (Some(parent), Order::Activity) => list_sessions!(
            "where s.parent_key = (select p.session_key from live_sessions p where p.id = ?16) and +s.kind = ?14
               and (s.archived_at is not null) = ?15 and (s.last_activity_at, s.session_key) < (?1, ?2)
               and (?17 is null or s.root_key = (select r.session_key from live_sessions r where r.id = ?17))",
            "order by s.last_activity_at desc, s.session_key desc limit ?3",
            conn,
            weak,
            cut,
            kind,
            archived,
            parent,
            root
        ),
        (None, Order::Created) => list_sessions!(
            "where s.root_key = (select r.session_key from live_sessions r where r.id = ?16) and +s.kind = ?14
               and (s.archived_at is not null) = ?15 and (s.created_at, s.session_key) < (?1, ?2)",
            "order by s.created_at desc, s.session_key desc limit ?3",
            conn,
            weak,
            cut,
            kind,
            archived,
            root
        ),
        (None, Order::Activity) => list_sessions!(
            "where s.root_key = (select r.session_key from live_sessions r where r.id = ?16) and +s.kind = ?14
               and (s.archived_at is not null) = ?15 and (s.last_activity_at, s.session_key) < (?1, ?2)",
            "order by s.last_activity_at desc, s.session_key desc limit ?3",
            conn,
            weak,
            cut,
            kind,
            archived,
            root
        ),
    }
}

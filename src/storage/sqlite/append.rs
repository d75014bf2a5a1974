//! Appending: all appends that are committed together are written by one statement, whatever their number.
//!
//! Each statement is a hand-over to the connection's thread and back, as dear as a small statement itself. So a transaction
//! that only appends is one insert into the view `appends`, and the schema checks it: a session that is not there, or has
//! a run, an id in use, another end of the history than the client expects. What is refused as a whole is looked at one
//! by one then. With one writer nothing changes between that look and its write.

use std::{
    borrow::Borrow,
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use serde::{Serialize, Serializer, ser::SerializeSeq};
use serde_json::json;
use sqlx::SqliteConnection;

use super::{
    error, idempotency, messages,
    search::{form, form_of_calls},
    types,
};
use crate::{
    model::{Appended, Message, MessageId, NewMessage, RawJson, SessionId, Timestamp},
    storage::{AppendOptions, Error, Result},
    tasks,
};

/// One append: a session and its new messages. It can be tried again.
pub(super) struct Append {
    pub(super) session: SessionId,
    messages: Vec<New>,
    pub(super) options: AppendOptions,
    /// About how many its messages have.
    pub(super) bytes: usize,
}

/// A message that has no place and no time yet.
struct New {
    message: Message,
    /// Whether the client brought its id.
    is_named: bool,
    created_at: Option<Timestamp>,
}

impl New {
    fn of(new: NewMessage) -> Self {
        let (is_named, created_at) = (new.id.is_some(), new.created_at);
        Self { message: new.into_message(0, Timestamp(0)), is_named, created_at }
    }

    fn placed(&self, seq: i64, now: Timestamp) -> Message {
        let created_at = self.created_at.map_or(now, |at| at.min(now));
        Message { seq, created_at, updated_at: now, ..self.message.clone() }
    }
}

/// Bytes of rows that one statement takes as JSON. A message of more goes alone, and not as JSON, which would be built,
/// taken apart and copied at each step.
const SLICE: usize = 256 << 10;
/// Bytes of appends that are one statement at most.
const MANY: usize = 4 * SLICE;

impl Append {
    pub(super) async fn new(session: SessionId, messages: Vec<NewMessage>, options: AppendOptions) -> Self {
        let bytes = messages.iter().map(NewMessage::bytes).sum();
        let made = tasks::on_bytes(bytes, move || messages.into_iter().map(New::of).collect());
        Self { session, messages: made.await, options, bytes }
    }

    /// Whether the statement that writes it can tell whether it may be written.
    fn is_plain(&self) -> bool {
        let Self { messages, options, .. } = self;
        self.bytes <= SLICE
            && options.claim.is_none()
            && !messages.is_empty()
            && options.expected_last_seq.is_none_or(|last| last >= 0)
    }

    /// Its messages, each in the place that the client expects for it, or in none yet.
    fn placed(&self, now: Timestamp) -> Vec<Message> {
        let expected = self.options.expected_last_seq;
        let place = |n: i64| expected.map_or(0, |last| last.saturating_add(n));
        self.messages.iter().zip(1..).map(|(new, n)| new.placed(place(n), now)).collect()
    }
}

/// A session as the batch sees it.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) last_seq: i64,
    pub(super) busy: bool,
}

/// The sessions that are written to; one that is not there stands as whether it was deleted.
pub(super) type Places = HashMap<SessionId, std::result::Result<Place, bool>>;

/// What a transaction sees as it begins.
pub(super) struct Begun {
    pub(super) data_version: i64,
    pub(super) places: Places,
}

/// What appends come to: an outcome for each, and the rows to write. A message is in memory once, wherever it stands.
pub(super) struct Batch {
    outcomes: Vec<Result<Accepted>>,
    rows: Vec<(SessionId, Arc<Message>)>,
    now: Timestamp,
}

/// What an append comes to: its messages, and the end of the history then.
struct Accepted {
    messages: Vec<Arc<Message>>,
    last_seq: i64,
}

impl Batch {
    /// The outcomes, once the rows are written.
    pub(super) fn outcomes(self) -> Vec<Result<Appended>> {
        let Self { outcomes, rows, .. } = self;
        drop(rows);
        let own = |Accepted { messages, last_seq }| Appended {
            messages: messages.into_iter().map(Arc::unwrap_or_clone).collect(),
            last_seq,
        };
        outcomes.into_iter().map(|outcome| outcome.map(own)).collect()
    }
}

/// Begins a transaction, and looks at the sessions that are appended to: a row for each, and one with the version of the
/// database in any case.
pub(super) async fn begin(conn: &mut SqliteConnection, appends: &[&Append]) -> Result<Begun> {
    let ids = types::object(&appends.iter().map(|append| &append.session).collect::<BTreeSet<_>>());
    let rows = sqlx::query!(
        r#"begin immediate; select cast(v.data_version as integer) as "data_version!: i64", cast(j.value as text) as "id?: SessionId",
                 s.last_seq as "last_seq?: i64", t.id is not null as "deleted!: bool",
                 exists (select 1 from runs r where r.session_key = s.session_key and r.status in ('pending', 'running')) as "busy!: bool"
               from pragma_data_version v left join json_each(?1) j left join live_sessions s on s.id = j.value
                 left join tombstones t on t.id = j.value"#,
        ids
    )
    .map(|row| {
        let place = row.last_seq.map(|last_seq| Place { last_seq, busy: row.busy }).ok_or(row.deleted);
        (row.data_version, row.id.map(|id| (id, place)))
    });
    let rows = rows.fetch_all(conn).await.map_err(error::of)?;
    let data_version = rows.first().map(|(version, _)| *version).unwrap_or_default();
    Ok(Begun { data_version, places: rows.into_iter().filter_map(|(_, place)| place).collect() })
}

/// Decides on each append: all or none of its messages. An error of the whole is the engine's; a refused append fails
/// alone.
pub(super) async fn decide(conn: &mut SqliteConnection, appends: &[&Append], mut places: Places) -> Result<Batch> {
    let now = Timestamp::now();
    let mut known = brought_before(conn, appends).await?;
    let (mut rows, mut outcomes) = (Vec::new(), Vec::with_capacity(appends.len()));
    for append in appends {
        let place = places.get_mut(&append.session);
        let outcome = take_in(append, place, &mut known, &mut rows, now);
        outcomes.push(outcome);
    }
    Ok(Batch { outcomes, rows, now })
}

/// Writes what was decided, in a transaction that goes on.
pub(super) async fn write(conn: &mut SqliteConnection, appends: &[&Append], batch: &Batch) -> Result<()> {
    insert(conn, &batch.rows, Opens::At(batch.now), Tells::Yes).await?;
    for (append, outcome) in appends.iter().zip(&batch.outcomes) {
        if let (Some(claim), Ok(accepted)) = (&append.options.claim, outcome) {
            let ids: Vec<_> = accepted.messages.iter().map(|m| &m.id).collect();
            idempotency::keep(conn, claim, 201, &json!({ "session": append.session, "messages": ids })).await?;
        }
    }
    Ok(())
}

/// The error of a session that is not there.
pub(super) fn gone(id: &SessionId, deleted: bool) -> Error {
    match deleted {
        true => Error::SessionDeleted(id.clone()),
        false => Error::SessionNotFound(id.clone()),
    }
}

type Known = HashMap<(SessionId, MessageId), Arc<Message>>;

/// Messages that are stored under ids which clients bring.
async fn brought_before(conn: &mut SqliteConnection, appends: &[&Append]) -> Result<Known> {
    let brought: Vec<_> = appends
        .iter()
        .flat_map(|append| append.messages.iter().map(move |new| (&append.session, new)))
        .filter(|(_, new)| new.is_named)
        .map(|(session, new)| (session, &new.message.id))
        .collect();
    if brought.is_empty() {
        return Ok(Known::new());
    }
    let brought = types::object(&brought);
    let keys: Vec<i64> = sqlx::query_scalar!(
        r#"select m.message_key as "key!: i64" from json_each(?1) j
           cross join live_sessions s on s.id = json_extract(j.value, '$[0]')
           cross join messages m on m.session_key = s.session_key and m.id = json_extract(j.value, '$[1]')"#,
        brought
    )
    .fetch_all(&mut *conn)
    .await
    .map_err(error::of)?;
    let rows = messages::rows_by_key(conn, &keys).await?;
    Ok(rows.into_iter().map(|row| (row.ids(), Arc::new(row.into_message()))).collect())
}

/// Decides on one append, and adds its rows to those of the batch.
fn take_in(
    append: &Append,
    place: Option<&mut std::result::Result<Place, bool>>,
    known: &mut Known,
    rows: &mut Vec<(SessionId, Arc<Message>)>,
    now: Timestamp,
) -> Result<Accepted> {
    let place = match place {
        Some(Ok(place)) => place,
        Some(Err(deleted)) => return Err(gone(&append.session, *deleted)),
        None => return Err(gone(&append.session, false)),
    };
    let mut seq = place.last_seq;
    let (mut answer, mut new) = (Vec::new(), Vec::new());
    for message in &append.messages {
        let message = Arc::new(message.placed(seq + 1, now));
        let key = (append.session.clone(), message.id.clone());
        let before = known.get(&key).or_else(|| new.iter().find(|m: &&Arc<Message>| m.id == message.id));
        match before {
            Some(before)
                if before.same_content(&message) && (message.extra.is_empty() || message.extra == before.extra) =>
            {
                answer.push(before.clone());
            }
            Some(_) => return Err(Error::MessageExists(message.id.clone())),
            None => {
                seq += 1;
                answer.push(message.clone());
                new.push(message);
            }
        }
    }
    if !new.is_empty() && place.busy {
        return Err(Error::SessionBusy(append.session.clone()));
    }
    if let Some(expected) = append.options.expected_last_seq
        && !new.is_empty()
        && expected != place.last_seq
    {
        return Err(Error::VersionConflict { what: "last_seq", current: place.last_seq });
    }
    place.last_seq = seq;
    for message in new {
        known.insert((append.session.clone(), message.id.clone()), message.clone());
        rows.push((append.session.clone(), message));
    }
    Ok(Accepted { messages: answer, last_seq: seq })
}

/// Whether messages open the session again that they are added to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Opens {
    /// Always: they come now.
    At(Timestamp),
    /// When they are of a later time than its closing: a whole session that comes closed stays closed.
    IfLater,
}

/// Whether events tell of messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tells {
    Yes,
    /// Of a session that is new with them there is nobody who could have missed them.
    No,
}

/// Rows to be appended, as the statement takes them.
struct Rows {
    /// JSON: an array for each, in the order of the statement's columns.
    rows: String,
    /// When they come; none for each its own time, but none that is yet to come.
    at: Option<i64>,
    now: i64,
    told_at: Option<i64>,
}

impl Rows {
    /// Rows in the order of their places.
    fn of<'a>(rows: impl Iterator<Item = (&'a SessionId, &'a Message)>, opens: Opens, tells: Tells) -> Self {
        let rows: Vec<_> = rows.map(|(session, message)| Row(session, message)).collect();
        let at = match opens {
            Opens::At(now) => Some(now.0),
            Opens::IfLater => None,
        };
        let now = Timestamp::now().0;
        Self { rows: types::object(&rows), at, now, told_at: (tells == Tells::Yes).then_some(now) }
    }
}

macro_rules! append_rows {
    ($rows:expr, $rest:literal) => {{
        let rows: &Rows = $rows;
        sqlx::query!(
            r#"insert into appends (session_id, seq, id, role, content, content_terms, reasoning, reasoning_terms, tools_terms, parts, tool_calls,
                 tool_call_id, tool_success, phase, metadata, run_id, compressed, extra, created_at, updated_at, at, opens,
                 told_at, beside_run)
               select value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6, value ->> 7,
                 value ->> 8, value ->> 9, value ->> 10, value ->> 11, value ->> 12, value ->> 13, value ->> 14, value ->> 15,
                 value ->> 16, value ->> 17, value ->> 18, value ->> 19, coalesce(?2, min(value ->> 18, ?4)), ?2 is not null, ?3, "#
                + $rest,
            rows.rows,
            rows.at,
            rows.told_at,
            rows.now
        )
    }};
}

/// What was written and committed.
pub(super) struct Written {
    pub(super) appends: Vec<Appended>,
    pub(super) data_version: i64,
    /// The number of the last event.
    pub(super) last_event: i64,
}

/// Writes appends and commits, in one statement. None when one of them must be looked at: then nothing was written.
pub(super) async fn at_once(conn: &mut SqliteConnection, appends: &[&Append]) -> Result<Option<Written>> {
    if !appends.iter().all(|append| append.is_plain())
        || appends.iter().map(|append| append.bytes).sum::<usize>() > MANY
    {
        return Ok(None);
    }
    let now = Timestamp::now();
    let mut new: Vec<Vec<Message>> = appends.iter().map(|append| append.placed(now)).collect();
    let rows = appends.iter().zip(&new).flat_map(|(append, new)| new.iter().map(|m| (&append.session, m)));
    let rows = Rows::of(rows, Opens::At(now), Tells::Yes);
    // Only what speaks of the row is looked up anew for each: so the last event does.
    let write = append_rows!(
        &rows,
        r#"false from jsonb_each(?1)
           returning cast(session_id as text) as "id!: SessionId",
             (select last_seq from sessions where id = appends.session_id) as "seq!: i64",
             (select max(event_id) from events where appends.id is not null) as "event!: i64",
             (select cast(data_version as integer) from pragma_data_version) as "data_version!: i64""#
    );
    // All rows, that is to say, to the end of the statement: it commits there.
    let seen = match write.fetch_all(conn).await {
        Ok(seen) => seen,
        Err(error) if error::broken_rule(&error).is_some() => return Ok(None),
        Err(error) => match error::of(error) {
            // Not even begun.
            Error::Busy(_) => return Ok(None),
            error => return Err(error),
        },
    };
    let last_event = seen.iter().map(|row| row.event).max().unwrap_or_default();
    let data_version = seen.first().map(|row| row.data_version).unwrap_or_default();
    let mut last: HashMap<SessionId, i64> = HashMap::new();
    for row in seen {
        let last = last.entry(row.id).or_default();
        *last = row.seq.max(*last);
    }
    // From the last one back, as they were placed.
    let mut done = Vec::with_capacity(appends.len());
    for (append, messages) in appends.iter().zip(&mut new).rev() {
        let last = last.entry(append.session.clone()).or_default();
        let last_seq = *last;
        for message in messages.iter_mut().rev() {
            message.seq = *last;
            *last -= 1;
        }
        done.push(Appended { messages: std::mem::take(messages), last_seq });
    }
    done.reverse();
    Ok(Some(Written { appends: done, data_version, last_event }))
}

/// Writes rows in a transaction that goes on.
pub(super) async fn insert<M: Borrow<Message>>(
    conn: &mut SqliteConnection,
    rows: &[(SessionId, M)],
    opens: Opens,
    tells: Tells,
) -> Result<()> {
    let mut rest = rows;
    while let Some((session, first)) = rest.first() {
        let mut bytes = 0;
        let fits = rest.iter().take_while(|(_, message)| {
            bytes += message.borrow().bytes();
            bytes <= SLICE
        });
        let slice = match fits.count() {
            0 => {
                insert_alone(conn, session, first.borrow(), opens, tells).await?;
                1
            }
            several => {
                let rows = rest[..several].iter().map(|(session, message)| (session, message.borrow()));
                let rows = Rows::of(rows, opens, tells);
                append_rows!(&rows, "true from jsonb_each(?1)").execute(&mut *conn).await.map_err(error::of)?;
                several
            }
        };
        rest = &rest[slice..];
    }
    Ok(())
}

/// Writes one row, by its values.
async fn insert_alone(
    conn: &mut SqliteConnection,
    session: &SessionId,
    m: &Message,
    opens: Opens,
    tells: Tells,
) -> Result<()> {
    let Rows { at, now, told_at, .. } = Rows::of(std::iter::empty(), opens, tells);
    let (session, seq, id, role) =
        (session.as_str(), (m.seq > 0).then_some(m.seq), m.id.as_str(), types::word(&m.role));
    let texts = (m.content.clone(), m.reasoning.clone(), m.tool_calls.clone());
    let made = move || {
        (form(&texts.0), texts.1.as_deref().map(form), texts.2.as_ref().map(|calls| form_of_calls(calls.as_str())))
    };
    let (terms, thoughts, called) = tasks::on_bytes(m.bytes(), made).await;
    let [parts, calls, metadata] =
        [&m.parts, &m.tool_calls, &m.metadata].map(|json| json.as_ref().map(RawJson::as_str));
    let (run, extra) = (m.run_id.as_ref().map(|run| run.as_str()), m.extra.as_str());
    let (created_at, updated_at, opens) = (m.created_at.0, m.updated_at.0, at.is_some());
    let at = at.unwrap_or(created_at.min(now));
    sqlx::query!(
        "insert into appends (session_id, seq, id, role, content, content_terms, reasoning, reasoning_terms, tools_terms, parts, tool_calls,
           tool_call_id, tool_success, phase, metadata, run_id, compressed, extra, created_at, updated_at, at, opens, told_at,
           beside_run)
         values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22, ?23, true)",
        session, seq, id, role, m.content, terms, m.reasoning, thoughts, called, parts, calls, m.tool_call_id, m.tool_success, m.phase,
        metadata, run, m.compressed, extra, created_at, updated_at, at, opens, told_at
    )
    .execute(conn)
    .await
    .map(drop)
    .map_err(error::of)
}

/// A message to append, in its session.
struct Row<'a>(&'a SessionId, &'a Message);

/// An array of columns, in the order of the statement. JSON columns are texts within the JSON, so that they are kept as
/// they are.
impl Serialize for Row<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let Self(session, m) = *self;
        let mut columns = serializer.serialize_seq(Some(20))?;
        columns.serialize_element(session)?;
        columns.serialize_element(&(m.seq > 0).then_some(m.seq))?;
        columns.serialize_element(&m.id)?;
        columns.serialize_element(&m.role)?;
        columns.serialize_element(&m.content)?;
        columns.serialize_element(&form(&m.content))?;
        columns.serialize_element(&m.reasoning)?;
        columns.serialize_element(&m.reasoning.as_deref().map(form))?;
        columns.serialize_element(&m.tool_calls.as_ref().map(|calls| form_of_calls(calls.as_str())))?;
        columns.serialize_element(&m.parts.as_ref().map(RawJson::as_str))?;
        columns.serialize_element(&m.tool_calls.as_ref().map(RawJson::as_str))?;
        columns.serialize_element(&m.tool_call_id)?;
        columns.serialize_element(&m.tool_success.map(i64::from))?;
        columns.serialize_element(&m.phase)?;
        columns.serialize_element(&m.metadata.as_ref().map(RawJson::as_str))?;
        columns.serialize_element(&m.run_id)?;
        columns.serialize_element(&i64::from(m.compressed))?;
        columns.serialize_element(m.extra.as_str())?;
        columns.serialize_element(&m.created_at.0)?;
        columns.serialize_element(&m.updated_at.0)?;
        columns.end()
    }
}

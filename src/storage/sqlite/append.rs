//! Appending: all appends that are committed together are checked by one query and written by one statement a table,
//! whatever their number. With one writer nothing changes between the check and the write.

use std::collections::HashMap;

use serde_json::json;
use sqlx::SqliteConnection;

use super::{
    error, events, idempotency,
    messages::{self, MessageRow},
    types,
};
use crate::{
    model::{Appended, Message, MessageId, NewMessage, SessionId, Timestamp},
    storage::{AppendOptions, Error, Result},
};

/// One append: a session and its new messages, whose ids are fixed, so that it can be tried again.
pub(super) struct Append {
    pub(super) session: SessionId,
    pub(super) messages: Vec<NewMessage>,
    pub(super) options: AppendOptions,
}

/// A session as the batch sees it.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) key: i64,
    pub(super) last_seq: i64,
    pub(super) busy: bool,
}

/// Appends each, all or none of its messages. An error of the whole is the engine's; a refused append fails alone.
pub(super) async fn append_all(conn: &mut SqliteConnection, appends: &[&Append]) -> Result<Vec<Result<Appended>>> {
    if appends.is_empty() {
        return Ok(Vec::new());
    }
    let now = Timestamp::now();
    let mut places = places(conn, appends.iter().map(|append| &append.session)).await?;
    let mut known = brought_before(conn, appends).await?;
    let (mut rows, mut outcomes) = (Vec::new(), Vec::with_capacity(appends.len()));
    for append in appends {
        let place = places.get_mut(&append.session);
        let outcome = take_in(append, place, &mut known, &mut rows, now);
        outcomes.push(outcome);
    }
    insert(conn, &rows, now, Opens::Always).await?;
    events::tell_appended(conn, &rows, now).await?;
    for (append, outcome) in appends.iter().zip(&outcomes) {
        if let (Some(claim), Ok(appended)) = (&append.options.claim, outcome) {
            let ids: Vec<_> = appended.messages.iter().map(|m| &m.id).collect();
            idempotency::keep(conn, claim, 201, &json!({ "session": append.session, "messages": ids })).await?;
        }
    }
    Ok(outcomes)
}

/// The sessions that are written to; one that is not there stands as the error to give.
pub(super) async fn places(
    conn: &mut SqliteConnection,
    ids: impl Iterator<Item = &SessionId>,
) -> Result<HashMap<SessionId, std::result::Result<Place, bool>>> {
    let ids = types::object(&ids.collect::<std::collections::BTreeSet<_>>());
    let rows = sqlx::query!(
        r#"select cast(j.value as text) as "id!: SessionId", s.session_key as "key?: i64", s.last_seq as "last_seq?: i64",
             t.id is not null as "deleted!: bool",
             exists (select 1 from runs r where r.session_key = s.session_key and r.status in ('pending', 'running')) as "busy!: bool"
           from json_each(?1) j left join sessions s on s.id = j.value left join tombstones t on t.id = j.value"#,
        ids
    )
    .fetch_all(conn)
    .await
    .map_err(error::of)?;
    let place = |key: Option<i64>, last_seq: Option<i64>, busy, deleted| match (key, last_seq) {
        (Some(key), Some(last_seq)) => Ok(Place { key, last_seq, busy }),
        _ => Err(deleted),
    };
    Ok(rows.into_iter().map(|row| (row.id, place(row.key, row.last_seq, row.busy, row.deleted))).collect())
}

/// The error of a session that is not there.
pub(super) fn gone(id: &SessionId, deleted: bool) -> Error {
    match deleted {
        true => Error::SessionDeleted(id.clone()),
        false => Error::SessionNotFound(id.clone()),
    }
}

type Known = HashMap<(SessionId, MessageId), Message>;

/// Messages that are stored under ids which clients bring.
async fn brought_before(conn: &mut SqliteConnection, appends: &[&Append]) -> Result<Known> {
    let brought: Vec<_> = appends
        .iter()
        .flat_map(|append| append.messages.iter().filter_map(move |m| Some((&append.session, m.id.as_ref()?))))
        .collect();
    if brought.is_empty() {
        return Ok(Known::new());
    }
    let brought = types::object(&brought);
    let keys: Vec<i64> = sqlx::query_scalar!(
        r#"select m.message_key as "key!: i64" from json_each(?1) j
           join sessions s on s.id = json_extract(j.value, '$[0]')
           join messages m on m.session_key = s.session_key and m.id = json_extract(j.value, '$[1]')"#,
        brought
    )
    .fetch_all(&mut *conn)
    .await
    .map_err(error::of)?;
    let rows = messages::rows_by_key(conn, &keys).await?;
    Ok(rows.into_iter().map(|row| ((row.session_id.clone(), row.id.clone()), MessageRow::into_message(row))).collect())
}

/// Decides on one append, and adds its rows to those of the batch.
fn take_in(
    append: &Append,
    place: Option<&mut std::result::Result<Place, bool>>,
    known: &mut Known,
    rows: &mut Vec<(i64, Message)>,
    now: Timestamp,
) -> Result<Appended> {
    let place = match place {
        Some(Ok(place)) => place,
        Some(Err(deleted)) => return Err(gone(&append.session, *deleted)),
        None => return Err(gone(&append.session, false)),
    };
    let mut seq = place.last_seq;
    let (mut answer, mut new) = (Vec::new(), Vec::new());
    for message in &append.messages {
        let message = message.clone().into_message(seq + 1, now);
        let key = (append.session.clone(), message.id.clone());
        let before = known.get(&key).or_else(|| new.iter().find(|m: &&Message| m.id == message.id));
        match before {
            Some(before) if before.same_content(&message) => answer.push(before.clone()),
            Some(_) => return Err(Error::MessageExists(message.id)),
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
        rows.push((place.key, message));
    }
    Ok(Appended { messages: answer, last_seq: seq })
}

/// Whether messages open the session again that they are added to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Opens {
    Always,
    /// When they are of a later time than its closing: a whole session that comes closed stays closed.
    IfLater,
}

/// Writes the rows, and the counters of their sessions first: the trigger on messages counts only what these do not.
pub(super) async fn insert(
    conn: &mut SqliteConnection,
    rows: &[(i64, Message)],
    now: Timestamp,
    opens: Opens,
) -> Result<()> {
    if rows.is_empty() {
        return Ok(());
    }
    let mut counters: HashMap<i64, (i64, i64)> = HashMap::new();
    for (key, message) in rows {
        let (count, last) = counters.entry(*key).or_default();
        *count += 1;
        *last = (*last).max(message.seq);
    }
    let counters: Vec<_> = counters.into_iter().map(|(key, (count, last))| json!([key, count, last])).collect();
    let (counters, always) = (types::object(&counters), opens == Opens::Always);
    sqlx::query!(
        r#"update sessions set message_count = message_count + json_extract(j.value, '$[1]'),
             last_seq = json_extract(j.value, '$[2]'), version = version + 1,
             updated_at = max(updated_at, ?2), last_activity_at = max(last_activity_at, ?2),
             closed_at = iif(not ?3 and closed_at >= ?2, closed_at, null)
           from json_each(?1) j where session_key = json_extract(j.value, '$[0]')"#,
        counters,
        now.0,
        always
    )
    .execute(&mut *conn)
    .await
    .map_err(error::of)?;
    let batch: Vec<_> = rows.iter().map(|(key, message)| row_as_json(*key, message)).collect();
    let batch = types::object(&batch);
    sqlx::query!(
        r#"insert into messages (session_key, seq, id, role, content, content_terms, reasoning, reasoning_terms, parts, tool_calls,
             tool_call_id, tool_success, phase, metadata, run_id, compressed, extra, created_at, updated_at)
           select value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6, value ->> 7,
             value ->> 8, value ->> 9, value ->> 10, value ->> 11, value ->> 12, value ->> 13, value ->> 14, value ->> 15,
             value ->> 16, value ->> 17, value ->> 18
           from json_each(?1)"#,
        batch
    )
    .execute(conn)
    .await
    .map(drop)
    .map_err(error::of)
}

/// Columns in the order of the statement. JSON columns are texts within the JSON, so that they are kept as they are.
fn row_as_json(key: i64, m: &Message) -> serde_json::Value {
    json!([
        key,
        m.seq,
        m.id,
        m.role,
        m.content,
        messages::terms(&m.content),
        m.reasoning,
        m.reasoning.as_deref().and_then(messages::terms),
        types::json(&m.parts),
        types::json(&m.tool_calls),
        m.tool_call_id,
        m.tool_success.map(i64::from),
        m.phase,
        types::json(&m.metadata),
        m.run_id,
        i64::from(m.compressed),
        types::object(&m.extra),
        m.created_at.0,
        m.updated_at.0
    ])
}

//! A whole session: read from one snapshot, written as the difference to what was read.

use std::collections::HashMap;

use sqlx::{SqliteConnection, SqlitePool};

use super::{
    append::{self, Opens, Tells},
    error, events, messages,
    sessions::{self, SessionRow, select_sessions},
    types::{self, Json, Text, Word},
};
use crate::{
    model::{
        EventKind, JsonObject, Kind, Message, MessageId, ModelRef, ReasoningEffort, RunStatus, Session, SessionId,
        SessionSave, Timestamp, WholeSession,
    },
    storage::{Error, Result},
};
use serde_json::{Value, json};
use std::collections::BTreeMap;

pub(super) async fn load(pool: &SqlitePool, id: &SessionId) -> Result<Option<WholeSession>> {
    let mut snapshot = pool.begin().await.map_err(error::of)?;
    let text = id.as_str();
    let row = select_sessions!("where s.id = ?1", text).fetch_optional(&mut *snapshot).await.map_err(error::of)?;
    let Some(row) = row else { return Ok(None) };
    let messages = messages::all(&mut snapshot, id).await?;
    Ok(Some(WholeSession::loaded(row.into_session(), messages)))
}

pub(super) async fn save(conn: &mut SqliteConnection, save: &SessionSave) -> Result<(Session, Vec<(MessageId, i64)>)> {
    let id = &save.session.id;
    let key = match &save.base {
        None => {
            let key = create(conn, &save.session).await?;
            let told = json!({ "kind": save.session.kind, "title": save.session.title });
            events::tell(conn, key, EventKind::SessionCreated, told).await?;
            key
        }
        Some(_) => {
            let row = sessions::row_to_write(conn, id).await?;
            write_fields(conn, row, save).await?
        }
    };
    remove(conn, key, &save.removed).await?;
    change(conn, key, &save.changed).await?;
    let places = add(conn, id, key, save).await?;
    Ok((sessions::row_to_write(conn, id).await?.into_session(), places))
}

async fn create(conn: &mut SqliteConnection, session: &Session) -> Result<i64> {
    if sessions::row(conn, &session.id).await?.is_some() {
        return Err(Error::SessionExists(session.id.clone()));
    }
    // The tree says where a session is, not its holder.
    let parent = match &session.parent_session_id {
        Some(parent) => Some(sessions::row_to_write(conn, parent).await?),
        None => None,
    };
    let mut placed = session.clone();
    sessions::place(&mut placed, parent.as_ref());
    sessions::insert(conn, &placed, None).await
}

async fn write_fields(conn: &mut SqliteConnection, row: SessionRow, save: &SessionSave) -> Result<i64> {
    let key = row.session_key;
    let stored = row.into_session();
    let mut merged = save.merged(&stored);
    if merged != stored {
        merged.version += 1;
        merged.updated_at = merged.updated_at.max(Timestamp::now());
        sessions::write(conn, key, &merged).await?;
        let told = json!({ "title": merged.title, "pinned": merged.pinned, "version": merged.version });
        events::tell(conn, key, EventKind::SessionUpdated, told).await?;
    }
    Ok(key)
}

async fn remove(conn: &mut SqliteConnection, key: i64, removed: &[MessageId]) -> Result<()> {
    if removed.is_empty() {
        return Ok(());
    }
    let ids = types::object(&removed);
    let remove = sqlx::query!(
        "delete from messages where session_key = ?1 and id in (select value from json_each(?2))",
        key,
        ids
    );
    remove.execute(&mut *conn).await.map_err(error::of)?;
    let told = |id| events::NewEvent::new(key, EventKind::MessageDeleted, json!({ "message_id": id }));
    events::record(conn, &removed.iter().map(told).collect::<Vec<_>>()).await
}

/// Writes loaded messages that were changed. One that was deleted in between stays deleted.
async fn change(conn: &mut SqliteConnection, key: i64, changed: &[Message]) -> Result<()> {
    for m in changed {
        let (id, role, terms, run) =
            (m.id.as_str(), types::word(&m.role), messages::terms(&m.content), m.run_id.as_ref().map(|id| id.as_str()));
        let (parts, calls, metadata, extra) =
            (types::json(&m.parts), types::json(&m.tool_calls), types::json(&m.metadata), types::object(&m.extra));
        let (now, thoughts) = (Timestamp::now().0, m.reasoning.as_deref().and_then(messages::terms));
        let write = sqlx::query!(
            "update messages set role = ?3, content = ?4, content_terms = ?5, reasoning = ?6, parts = ?7, tool_calls = ?8,
               tool_call_id = ?9, tool_success = ?10, phase = ?11, metadata = ?12, run_id = ?13, compressed = ?14,
               extra = ?15, updated_at = ?16, reasoning_terms = ?17
             where session_key = ?1 and id = ?2",
            key, id, role, m.content, terms, m.reasoning, parts, calls, m.tool_call_id, m.tool_success, m.phase, metadata,
            run, m.compressed, extra, now, thoughts
        );
        write.execute(&mut *conn).await.map_err(error::of)?;
        events::tell_updated(conn, key, id).await?;
    }
    Ok(())
}

/// Adds messages at the end. One that is there already with the same content keeps its place.
async fn add(
    conn: &mut SqliteConnection,
    id: &SessionId,
    key: i64,
    save: &SessionSave,
) -> Result<Vec<(MessageId, i64)>> {
    let added = &save.added;
    if added.is_empty() {
        return Ok(Vec::new());
    }
    // One that comes twice in the save is met as one that is stored.
    let mut there = stored(conn, key, added).await?;
    let mut seq = append::place(conn, id).await?.last_seq;
    let (mut rows, mut given) = (Vec::new(), Vec::new());
    for message in added {
        match there.get(&message.id) {
            Some(stored) if stored.same_content(message) => given.push((message.id.clone(), stored.seq)),
            Some(_) => return Err(Error::MessageExists(message.id.clone())),
            None => {
                seq += 1;
                given.push((message.id.clone(), seq));
                let message = Message { seq, ..message.clone() };
                there.insert(message.id.clone(), message.clone());
                rows.push((key, message));
            }
        }
    }
    let last = rows.iter().map(|(_, m)| m.created_at).max().unwrap_or(Timestamp(1));
    let tells = if save.base.is_some() { Tells::Yes } else { Tells::No };
    append::insert(conn, &rows, last, Opens::IfLater, tells).await?;
    Ok(given)
}

async fn stored(conn: &mut SqliteConnection, key: i64, added: &[Message]) -> Result<HashMap<MessageId, Message>> {
    let ids = types::object(&added.iter().map(|m| &m.id).collect::<Vec<_>>());
    let keys = sqlx::query_scalar!(
        r#"select message_key as "key!: i64" from messages where session_key = ?1 and id in (select value from json_each(?2))"#,
        key,
        ids
    );
    let keys = keys.fetch_all(&mut *conn).await.map_err(error::of)?;
    let rows = messages::rows_by_key(conn, &keys).await?;
    Ok(rows.into_iter().map(|row| (row.ids().1, row.into_message())).collect())
}

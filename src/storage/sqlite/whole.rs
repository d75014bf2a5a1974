//! Whole sessions: one is read from one snapshot, any number are written together, as the difference to what was read.

use std::collections::HashMap;

use sqlx::{SqliteConnection, SqlitePool};

use super::{
    append::{self, Opens, Tells},
    error,
    events::{self, NewEvent},
    messages,
    sessions::{self, SessionRow, select_sessions},
    types::{self, Json, Raw, Text, Word},
};
use crate::{
    model::{
        EventKind, Kind, Message, MessageId, ModelRef, ReasoningEffort, RunStatus, Session, SessionId, SessionSave,
        Timestamp, WholeSession,
    },
    storage::{Error, Result, Saved},
};
use serde_json::json;
use std::collections::BTreeMap;

pub(super) async fn load(pool: &SqlitePool, id: &SessionId) -> Result<Option<WholeSession>> {
    let mut snapshot = pool.begin().await.map_err(error::of)?;
    let text = id.as_str();
    let row = select_sessions!("where s.id = ?1", text).fetch_optional(&mut *snapshot).await.map_err(error::of)?;
    let Some(row) = row else { return Ok(None) };
    let messages = messages::all(&mut snapshot, row.session_key, row.last_seq).await?;
    Ok(Some(WholeSession::loaded(row.into_session(), messages)))
}

/// Writes all that is not refused. A save is refused before anything of it is written, so that it needs no savepoint:
/// at each of those the search index would write a piece of its own.
pub(super) async fn save(conn: &mut SqliteConnection, saves: &[SessionSave]) -> Result<Vec<Result<Saved>>> {
    let (mut rows, mut outcomes) = (Rows::default(), Vec::with_capacity(saves.len()));
    for save in saves {
        let places = match save.base {
            None => create(conn, save, &mut rows).await,
            Some(_) => change(conn, save, &mut rows).await,
        };
        match places {
            Err(error) if error::is_engine(&error) => return Err(error),
            places => outcomes.push(places),
        }
    }
    rows.write(conn).await?;
    let stored = stored_sessions(conn, saves).await?;
    let saved = |(save, places): (&SessionSave, Result<Places>)| {
        let row = stored.get(&save.session.id).cloned();
        places.and_then(|places| Ok((row.ok_or_else(|| append::gone(&save.session.id, false))?, places)))
    };
    Ok(saves.iter().zip(outcomes).map(saved).collect())
}

/// Where messages are that were saved.
type Places = Vec<(MessageId, i64)>;

/// Rows of messages that are written together, and the events of what they belong to.
#[derive(Default)]
struct Rows {
    created: Vec<NewEvent>,
    of_new: Vec<(SessionId, Message)>,
    of_known: Vec<(SessionId, Message)>,
}

impl Rows {
    async fn write(&mut self, conn: &mut SqliteConnection) -> Result<()> {
        let Self { created, of_new, of_known } = std::mem::take(self);
        events::record(conn, &created).await?;
        append::insert(conn, &of_new, Opens::IfLater, Tells::No).await?;
        append::insert(conn, &of_known, Opens::IfLater, Tells::Yes).await
    }

    fn hold_any_of(&self, session: &SessionId) -> bool {
        self.of_new.iter().chain(&self.of_known).any(|(of, _)| of == session)
    }
}

async fn create(conn: &mut SqliteConnection, save: &SessionSave, rows: &mut Rows) -> Result<Places> {
    let (new, places) = new_messages(&save.added, &HashMap::new(), 0)?;
    // The tree says where a session is, not its holder.
    let parent = match &save.session.parent_session_id {
        Some(parent) => Some(sessions::row_to_write(conn, parent).await?),
        None => None,
    };
    let mut placed = save.session.clone();
    sessions::place(&mut placed, parent.as_ref());
    let key = sessions::insert(conn, &placed, None).await?;
    let told = json!({ "kind": save.session.kind, "title": save.session.title });
    rows.created.push(NewEvent::new(key, EventKind::SessionCreated, told));
    rows.of_new.extend(new.into_iter().map(|message| (save.session.id.clone(), message)));
    Ok(places)
}

async fn change(conn: &mut SqliteConnection, save: &SessionSave, rows: &mut Rows) -> Result<Places> {
    let mut row = sessions::row_to_write(conn, &save.session.id).await?;
    if rows.hold_any_of(&row.id) {
        rows.write(conn).await?;
        row = sessions::row_to_write(conn, &save.session.id).await?;
    }
    let key = row.session_key;
    let there = stored(conn, key, &save.added).await?;
    let (new, places) = new_messages(&save.added, &there, row.last_seq)?;
    write_fields(conn, row, save).await?;
    remove(conn, key, &save.removed).await?;
    rewrite(conn, key, &save.changed).await?;
    rows.of_known.extend(new.into_iter().map(|message| (save.session.id.clone(), message)));
    Ok(places)
}

async fn write_fields(conn: &mut SqliteConnection, row: SessionRow, save: &SessionSave) -> Result<()> {
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
    Ok(())
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
    let told = |id| NewEvent::new(key, EventKind::MessageDeleted, json!({ "message_id": id }));
    events::record(conn, &removed.iter().map(told).collect::<Vec<_>>()).await
}

/// Writes loaded messages that were changed. One that was deleted in between stays deleted.
async fn rewrite(conn: &mut SqliteConnection, key: i64, changed: &[Message]) -> Result<()> {
    for m in changed {
        let (id, role, run) = (m.id.as_str(), types::word(&m.role), m.run_id.as_ref().map(|id| id.as_str()));
        let (parts, calls, metadata, extra) =
            (types::json(&m.parts), types::json(&m.tool_calls), types::json(&m.metadata), types::object(&m.extra));
        let now = Timestamp::now().0;
        let write = sqlx::query!(
            "update messages set role = ?3, content = ?4, reasoning = ?5, parts = ?6, tool_calls = ?7, tool_call_id = ?8,
               tool_success = ?9, phase = ?10, metadata = ?11, run_id = ?12, compressed = ?13, extra = ?14, updated_at = ?15
             where session_key = ?1 and id = ?2",
            key, id, role, m.content, m.reasoning, parts, calls, m.tool_call_id, m.tool_success, m.phase, metadata, run,
            m.compressed, extra, now
        );
        write.execute(&mut *conn).await.map_err(error::of)?;
        events::tell_updated(conn, key, id).await?;
    }
    Ok(())
}

/// Messages to add at the end, and the places of all. One that is there already with the same content keeps its own.
fn new_messages(
    added: &[Message],
    there: &HashMap<MessageId, Message>,
    mut seq: i64,
) -> Result<(Vec<Message>, Places)> {
    let (mut new, mut places) = (Vec::<Message>::new(), Vec::with_capacity(added.len()));
    let mut place_of_new: HashMap<&MessageId, usize> = HashMap::new();
    for message in added {
        // One that comes twice in the save is met as one that is stored.
        let before = there.get(&message.id).or_else(|| place_of_new.get(&message.id).and_then(|place| new.get(*place)));
        match before {
            Some(stored) if stored.same_content(message) => places.push((message.id.clone(), stored.seq)),
            Some(_) => return Err(Error::MessageExists(message.id.clone())),
            None => {
                seq += 1;
                places.push((message.id.clone(), seq));
                place_of_new.insert(&message.id, new.len());
                new.push(Message { seq, ..message.clone() });
            }
        }
    }
    Ok((new, places))
}

/// The rows as they are now.
async fn stored_sessions(conn: &mut SqliteConnection, saves: &[SessionSave]) -> Result<HashMap<SessionId, Session>> {
    let ids = types::object(&saves.iter().map(|save| &save.session.id).collect::<Vec<_>>());
    let rows = select_sessions!("where s.id in (select value from json_each(?1))", ids);
    let rows = rows.fetch_all(conn).await.map_err(error::of)?;
    Ok(rows.into_iter().map(|row| (row.id.clone(), row.into_session())).collect())
}

/// Those of the messages whose ids are stored already.
async fn stored(conn: &mut SqliteConnection, key: i64, added: &[Message]) -> Result<HashMap<MessageId, Message>> {
    if added.is_empty() {
        return Ok(HashMap::new());
    }
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

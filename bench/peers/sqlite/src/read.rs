//! Reads, into structs as Culm's.

use rusqlite::{Connection, Row, types::Value as Column};
use serde_json::{Map, Value};

use crate::Outcome;

/// A message, as `culm::model::Message`: built to be as much work, and looked at by nobody.
#[expect(dead_code, reason = "what is loaded is not looked at")]
pub(crate) struct Message {
    id: String,
    seq: i64,
    role: Role,
    content: String,
    reasoning: Option<String>,
    parts: Option<Value>,
    tool_calls: Option<Value>,
    tool_call_id: Option<String>,
    tool_success: Option<bool>,
    phase: Option<String>,
    metadata: Option<Value>,
    run_id: Option<String>,
    compressed: bool,
    extra: Map<String, Value>,
    created_at: i64,
    updated_at: i64,
}

pub(crate) enum Role {
    System,
    User,
    Assistant,
    Tool,
}

const SESSION: &str = "select s.session_key, s.id, s.kind, s.title, s.pinned,
    (select p.id from sessions p where p.session_key = s.parent_key), (select r.id from sessions r where r.session_key = s.root_key),
    s.spawn_depth, s.model, s.model_ref, s.provider, s.reasoning_effort, s.workspace, s.metadata, s.created_at, s.updated_at,
    s.last_activity_at, s.archived_at, s.closed_at, s.message_count, s.last_seq, s.attachment_count, s.attachment_bytes,
    exists (select 1 from runs x where x.session_key = s.session_key and x.status in ('pending', 'running') and x.status = 'running'),
    s.last_run_status, s.last_run_error, s.token_usage, s.token_budget, s.task_list, s.conversation_summary,
    s.created_by_schedule_id, s.schedule_run_id, s.subagent_type, s.children_count, s.version, s.responsibility, s.prompt,
    s.pending_question, s.extra from sessions s";

/// The newest roots.
pub(crate) fn list(conn: &Connection, limit: i64) -> Outcome<Vec<Vec<Column>>> {
    let sql = format!(
        "{SESSION} where s.kind = 'root' and s.archived_at is null
         order by s.last_activity_at desc, s.session_key desc limit ?1"
    );
    let mut list = conn.prepare_cached(&sql)?;
    let columns = list.column_count();
    let sessions = list.query_map([limit], |row| (0..columns).map(|column| row.get(column)).collect())?;
    Ok(sessions.collect::<rusqlite::Result<_>>()?)
}

/// A session's row and all its messages.
pub(crate) fn load(conn: &Connection, session: &str) -> Outcome<Vec<Message>> {
    let mut row = conn.prepare_cached(&format!("{SESSION} where s.id = ?1"))?;
    let key: i64 = row.query_row([session], |row| row.get(0))?;
    let mut messages = conn.prepare_cached(
        "select id, seq, role, content, reasoning, parts, tool_calls, tool_call_id, tool_success, phase, metadata, run_id,
           compressed, extra, created_at, updated_at
         from messages where session_key = ?1 order by seq",
    )?;
    let messages = messages.query_map([key], message)?;
    Ok(messages.collect::<rusqlite::Result<_>>()?)
}

fn message(row: &Row) -> rusqlite::Result<Message> {
    let json = |column| -> rusqlite::Result<Option<Value>> {
        Ok(row.get_ref(column)?.as_str_or_null()?.and_then(|text| serde_json::from_str(text).ok()))
    };
    Ok(Message {
        id: row.get(0)?,
        seq: row.get(1)?,
        role: match row.get_ref(2)?.as_str()? {
            "system" => Role::System,
            "assistant" => Role::Assistant,
            "tool" => Role::Tool,
            _ => Role::User,
        },
        content: row.get(3)?,
        reasoning: row.get(4)?,
        parts: json(5)?,
        tool_calls: json(6)?,
        tool_call_id: row.get(7)?,
        tool_success: row.get(8)?,
        phase: row.get(9)?,
        metadata: json(10)?,
        run_id: row.get(11)?,
        compressed: row.get(12)?,
        extra: serde_json::from_str(row.get_ref(13)?.as_str()?).unwrap_or_default(),
        created_at: row.get(14)?,
        updated_at: row.get(15)?,
    })
}

//! Messages: pages, one, edit, delete, truncate, clear.

use std::collections::HashMap;

use futures_util::TryStreamExt;
use serde::Deserialize;
use serde_json::json;
use sqlx::{SqliteConnection, SqlitePool};

use super::{
    error, events, runs,
    sessions::{self, SessionRow},
    types::{self, Raw, Rows},
};
use crate::{
    model::{
        ClearReceipt, EventKind, Message, MessageId, MessageReceipt, Role, RunId, SessionId, Timestamp, Truncate,
        TruncateReceipt,
    },
    storage::{Error, Result},
};

/// A message's row, with the session that it is of: the values of [`select_messages`], in their order.
#[derive(Deserialize)]
pub(super) struct MessageRow {
    pub(super) key: i64,
    session_id: String,
    id: String,
    seq: i64,
    role: Role,
    content: String,
    reasoning: Option<String>,
    parts: Option<Raw>,
    tool_calls: Option<Raw>,
    tool_call_id: Option<String>,
    tool_success: Option<i64>,
    phase: Option<String>,
    metadata: Option<Raw>,
    run_id: Option<String>,
    compressed: i64,
    extra: Raw,
    created_at: i64,
    updated_at: i64,
}

/// The column list of a message, once. The rows come as one JSON array: what sqlx hands over from a connection's thread
/// has its price by the value, and a row has many. Their order is not said; they are put in order when they are here.
macro_rules! select_messages {
    ($begin:literal; $($end:literal)+ $(, $argument:expr)* $(,)?) => {
        sqlx::query_scalar!(
            $begin + "(select json_group_array(json_array(m.message_key, s.id, m.id, m.seq, m.role, m.content, m.reasoning, m.parts,
                 m.tool_calls, m.tool_call_id, m.tool_success, m.phase, m.metadata, m.run_id, m.compressed, m.extra,
                 m.created_at, m.updated_at)) " $(+ $end)+
            $(, $argument)*
        )
    };
    ($($end:literal)+ $(, $argument:expr)* $(,)?) => {
        select_messages!(
            "select "; "from messages m join live_sessions s on s.session_key = m.session_key " $($end)+ r#") as "rows!: Rows<MessageRow>""#
            $(, $argument)*
        )
    };
}

impl MessageRow {
    /// The ids of its session and of itself.
    pub(super) fn ids(&self) -> (SessionId, MessageId) {
        (SessionId::stored(self.session_id.clone()), MessageId::stored(self.id.clone()))
    }

    pub(super) fn into_message(self) -> Message {
        Message {
            id: MessageId::stored(self.id),
            seq: self.seq,
            role: self.role,
            content: self.content,
            reasoning: self.reasoning,
            parts: self.parts.map(|json| json.0),
            tool_calls: self.tool_calls.map(|json| json.0),
            tool_call_id: self.tool_call_id,
            tool_success: self.tool_success.map(|success| success != 0),
            phase: self.phase,
            metadata: self.metadata.map(|json| json.0),
            run_id: self.run_id.map(RunId::stored),
            compressed: self.compressed != 0,
            extra: self.extra.object(),
            created_at: Timestamp(self.created_at),
            updated_at: Timestamp(self.updated_at),
        }
    }
}

pub(super) async fn rows_by_key(conn: &mut SqliteConnection, keys: &[i64]) -> Result<Vec<MessageRow>> {
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let keys = types::object(&keys);
    let rows = select_messages!("where m.message_key in (select value from json_each(?1))", keys);
    rows.fetch_one(conn).await.map_err(error::of)?.read().await
}

/// Messages of at most 64 KiB, under their keys: what many readers are sent at once.
pub(super) async fn short_by_key(conn: &mut SqliteConnection, keys: &[i64]) -> Result<HashMap<i64, Message>> {
    if keys.is_empty() {
        return Ok(HashMap::new());
    }
    let keys = types::object(&keys);
    let rows = select_messages!(
        "where m.message_key in (select value from json_each(?1))
           and octet_length(m.content) + coalesce(octet_length(m.reasoning), 0) + coalesce(octet_length(m.parts), 0)
             + coalesce(octet_length(m.tool_calls), 0) + coalesce(octet_length(m.metadata), 0) <= 65536",
        keys
    );
    let rows = rows.fetch_one(conn).await.map_err(error::of)?.read().await?;
    Ok(rows.into_iter().map(|row| (row.key, row.into_message())).collect())
}

pub(super) async fn find(pool: &SqlitePool, id: &SessionId, message: &MessageId) -> Result<Option<Message>> {
    let (id, message) = (id.as_str(), message.as_str());
    let rows =
        select_messages!("where s.id = ?1 and m.id = ?2", id, message).fetch_one(pool).await.map_err(error::of)?;
    Ok(rows.read().await?.pop().map(MessageRow::into_message))
}

/// Every message of a session, on a connection that holds a snapshot.
pub(super) async fn all(conn: &mut SqliteConnection, key: i64, last_seq: i64) -> Result<Vec<Message>> {
    between(conn, key, Some((1, last_seq)), None, None).await
}

/// The messages of a session from one place to another, in order, but for those that have more than `most` bytes. They
/// come in pieces: one is made while the last is taken apart.
pub(super) async fn between(
    conn: &mut SqliteConnection,
    key: i64,
    edges: Option<(i64, i64)>,
    role: Option<&str>,
    most: Option<i64>,
) -> Result<Vec<Message>> {
    let Some((first, last)) = edges else { return Ok(Vec::new()) };
    let pieces = select_messages!(
        "with recursive piece (first) as (select ?2 union all select first + 64 from piece where first + 64 <= ?3)
         select ";
        r#"from messages m where m.session_key = ?1 and m.seq >= first and m.seq < first + 64 and m.seq <= ?3
             and (?4 is null or m.role = ?4)
             and (?5 is null
               or octet_length(m.content) + coalesce(octet_length(m.reasoning), 0) + coalesce(octet_length(m.parts), 0)
                 + coalesce(octet_length(m.tool_calls), 0) + coalesce(octet_length(m.metadata), 0) + octet_length(m.extra) <= ?5)
           ) as "rows!: Rows<MessageRow>"
           from piece join live_sessions s on s.session_key = ?1"#,
        key,
        first,
        last,
        role,
        most
    );
    let (mut messages, mut pieces) = (Vec::new(), pieces.fetch(conn));
    while let Some(rows) = pieces.try_next().await.map_err(error::of)? {
        messages.extend(rows.read().await?.into_iter().map(MessageRow::into_message));
    }
    messages.sort_by_key(|message| message.seq);
    Ok(messages)
}

/// A message to change.
pub(super) struct Target {
    pub(super) session: SessionId,
    pub(super) message: MessageId,
    /// The new text; none to remove the message.
    pub(super) content: Option<String>,
    pub(super) if_match: Option<i64>,
}

pub(super) async fn edit(conn: &mut SqliteConnection, target: &Target) -> Result<MessageReceipt> {
    let row = open_to_change(conn, &target.session, target.if_match).await?;
    let (key, id, now) = (row.session_key, target.message.as_str(), Timestamp::now().0);
    let content = target.content.as_deref().unwrap_or_default();
    let found = sqlx::query!(
        r#"select role = 'assistant' and (tool_calls is null or tool_calls = '[]') as "editable!: bool" from messages
           where session_key = ?1 and id = ?2"#,
        key,
        id
    );
    match found.fetch_optional(&mut *conn).await.map_err(error::of)? {
        None => return Err(Error::MessageNotFound(target.message.clone())),
        Some(found) if !found.editable => return Err(Error::NotEditable(target.message.clone())),
        Some(_) => {}
    }
    let edit = sqlx::query!(
        "update messages set content = ?3, updated_at = ?4 where session_key = ?1 and id = ?2",
        key,
        id,
        content,
        now
    );
    edit.execute(&mut *conn).await.map_err(error::of)?;
    events::tell_updated(conn, key, id).await?;
    forget_derived(conn, key).await
}

pub(super) async fn delete(conn: &mut SqliteConnection, target: &Target) -> Result<MessageReceipt> {
    let row = open_to_change(conn, &target.session, target.if_match).await?;
    let (key, id) = (row.session_key, target.message.as_str());
    let delete = sqlx::query!("delete from messages where session_key = ?1 and id = ?2", key, id);
    match delete.execute(&mut *conn).await.map_err(error::of)?.rows_affected() {
        0 => Err(Error::MessageNotFound(target.message.clone())),
        _ => {
            events::tell(conn, key, EventKind::MessageDeleted, json!({ "message_id": target.message })).await?;
            forget_derived(conn, key).await
        }
    }
}

async fn open_to_change(conn: &mut SqliteConnection, id: &SessionId, if_match: Option<i64>) -> Result<SessionRow> {
    let row = sessions::row_to_write(conn, id).await?;
    sessions::check_version(&row, if_match)?;
    sessions::check_idle(conn, &row).await?;
    Ok(row)
}

/// What was derived from a history that is another one now: token usage, summary, compression marks.
pub(super) async fn forget_derived(conn: &mut SqliteConnection, key: i64) -> Result<MessageReceipt> {
    let now = Timestamp::now().0;
    let unmark = sqlx::query!("update messages set compressed = 0 where session_key = ?1 and compressed = 1", key);
    unmark.execute(&mut *conn).await.map_err(error::of)?;
    let row = sqlx::query!(
        r#"update sessions set token_usage = null, conversation_summary = null, version = version + 1,
             extra = json_remove(extra, '$.compression_events'),
             updated_at = max(updated_at, ?2), last_activity_at = max(last_activity_at, ?2)
           where session_key = ?1 returning message_count as "message_count!: i64", version as "version!: i64""#,
        key,
        now
    );
    let row = row.fetch_one(conn).await.map_err(error::of)?;
    Ok(MessageReceipt { message_count: row.message_count, version: row.version })
}

/// A truncation of a session.
pub(super) struct Cut {
    pub(super) session: SessionId,
    pub(super) cut: Truncate,
    pub(super) if_match: Option<i64>,
}

pub(super) async fn truncate(conn: &mut SqliteConnection, input: &Cut) -> Result<TruncateReceipt> {
    let row = open_to_change(conn, &input.session, input.if_match).await?;
    let key = row.session_key;
    let (messages_removed, changed) = match &input.cut {
        Truncate::AfterLastUser {} => {
            let last = last_of_user(conn, key).await?.ok_or(Error::NoUserMessage)?;
            cut_after(conn, key, last).await?
        }
        Truncate::After { message_id } => {
            let id = message_id.as_str();
            let last = sqlx::query_scalar!("select seq from messages where session_key = ?1 and id = ?2", key, id);
            let last = last.fetch_optional(&mut *conn).await.map_err(error::of)?;
            cut_after(conn, key, last.ok_or_else(|| Error::MessageNotFound(message_id.clone()))?).await?
        }
        Truncate::ErrorRetry {} => drop_unanswered(conn, key).await?,
    };
    let session = row.into_session();
    let receipt = match changed {
        true => {
            let told = json!({ "messages_removed": messages_removed });
            events::tell(conn, key, EventKind::MessagesTruncated, told).await?;
            // What asked it is what was cut off.
            runs::withdraw_question(conn, key).await?;
            forget_derived(conn, key).await?
        }
        false => MessageReceipt { message_count: session.message_count, version: session.version },
    };
    Ok(TruncateReceipt {
        messages_removed,
        message_count: receipt.message_count,
        version: receipt.version,
        last_kept: match &input.cut {
            Truncate::After { message_id } => Some(message_id.clone()),
            _ => None,
        },
    })
}

/// The place of the last user message.
pub(super) async fn last_of_user(conn: &mut SqliteConnection, key: i64) -> Result<Option<i64>> {
    let last = sqlx::query_scalar!(
        "select seq from messages where session_key = ?1 and role = 'user' order by seq desc limit 1",
        key
    );
    last.fetch_optional(conn).await.map_err(error::of)
}

/// Removes what is after a place: how many, and whether that is any.
pub(super) async fn cut_after(conn: &mut SqliteConnection, key: i64, seq: i64) -> Result<(i64, bool)> {
    let cut = sqlx::query!("delete from messages where session_key = ?1 and seq > ?2", key, seq);
    let removed = removed(cut.execute(conn).await.map_err(error::of)?);
    Ok((removed, removed > 0))
}

fn removed(done: sqlx::sqlite::SqliteQueryResult) -> i64 {
    i64::try_from(done.rows_affected()).unwrap_or(i64::MAX)
}

/// Takes out calls without a result, messages that were nothing but such calls, and results without a call.
async fn drop_unanswered(conn: &mut SqliteConnection, key: i64) -> Result<(i64, bool)> {
    let now = Timestamp::now().0;
    // An import keeps calls as they were: one may have no id, or be no object. It is read by its path, since a value that
    // is a text alone is no JSON.
    let calls = sqlx::query!(
        "update messages set updated_at = ?2, tool_calls = (
             select iif(count(*) = 0, null, json_group_array(json(c.value))) from json_each(messages.tool_calls) c
             where json_extract(messages.tool_calls, c.fullkey || '.id') in
               (select tool_call_id from messages where session_key = ?1 and role = 'tool' and tool_call_id is not null))
         where session_key = ?1 and role = 'assistant' and exists (
             select 1 from json_each(messages.tool_calls) c
             where (json_extract(messages.tool_calls, c.fullkey || '.id') in
               (select tool_call_id from messages where session_key = ?1 and role = 'tool' and tool_call_id is not null)) is not true)",
        key, now
    );
    let changed = removed(calls.execute(&mut *conn).await.map_err(error::of)?);
    let empty = sqlx::query!(
        "delete from messages where session_key = ?1 and updated_at = ?2 and role = 'assistant'
           and tool_calls is null and content = '' and parts is null",
        key,
        now
    );
    let mut gone = removed(empty.execute(&mut *conn).await.map_err(error::of)?);
    let orphans = sqlx::query!(
        "delete from messages where session_key = ?1 and role = 'tool' and (tool_call_id in (
             select json_extract(a.tool_calls, c.fullkey || '.id') from messages a, json_each(a.tool_calls) c
             where a.session_key = ?1 and a.tool_calls is not null)) is not true",
        key
    );
    gone += removed(orphans.execute(conn).await.map_err(error::of)?);
    Ok((gone, gone + changed > 0))
}

/// A session to clear.
pub(super) struct Clear {
    pub(super) session: SessionId,
    pub(super) if_match: Option<i64>,
}

pub(super) async fn clear(conn: &mut SqliteConnection, input: &Clear) -> Result<ClearReceipt> {
    let row = open_to_change(conn, &input.session, input.if_match).await?;
    let (key, now) = (row.session_key, Timestamp::now().0);
    // Before the messages: those that they show would go with them uncounted.
    let attachments = sqlx::query!("delete from attachments where session_key = ?1", key);
    let attachments_removed = removed(attachments.execute(&mut *conn).await.map_err(error::of)?);
    let messages = sqlx::query!(
        "delete from messages where session_key = ?1 and seq is not
           (select seq from messages where session_key = ?1 and role in ('system', 'developer') order by seq limit 1)",
        key
    );
    let messages_removed = removed(messages.execute(&mut *conn).await.map_err(error::of)?);
    let reset = sqlx::query_scalar!(
        r#"update sessions set pending_question = null, task_list = null, token_usage = null, conversation_summary = null,
             last_run_status = null, last_run_error = null, version = version + 1, updated_at = max(updated_at, ?2),
             last_activity_at = max(last_activity_at, ?2),
             extra = json_remove(extra, '$.compression_events', '$.agent_runtime_state', '$.prompt_snapshot'),
             metadata = json_remove(metadata, '$."responses.previous_response_id"', '$.retry_resume_pending',
               '$.retry_resume_reason', '$.conclusion_with_options_resume_pending')
           where session_key = ?1 returning version as "version!: i64""#,
        key,
        now
    );
    let version = reset.fetch_one(&mut *conn).await.map_err(error::of)?;
    let told = json!({ "messages_removed": messages_removed, "attachments_removed": attachments_removed });
    events::tell(conn, key, EventKind::SessionCleared, told).await?;
    Ok(ClearReceipt { messages_removed, attachments_removed, version })
}

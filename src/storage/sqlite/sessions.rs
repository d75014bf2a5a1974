//! Sessions: create, read, update, tree. Lists are in `lists.rs`, deletes in `deletion.rs`.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;
use serde_json::json;
use sqlx::{SqliteConnection, SqlitePool};

use super::{
    append::{self, Opens, Tells},
    bounded::{self, Read},
    error, events, idempotency,
    types::{self, Json, Raw, Text, Word},
};
use crate::{
    model::{
        EventKind, Kind, ModelRef, NewMessage, NewSession, RawJson, ReasoningEffort, Role, RunStatus, Session,
        SessionId, SessionTree, SessionUpdate, Timestamp, hex,
    },
    storage::{Claim, Error, Result},
};

/// A session's row, with the internal key that lists go on from.
pub(super) struct SessionRow {
    pub(super) session_key: i64,
    pub(super) id: SessionId,
    pub(super) kind: Word<Kind>,
    pub(super) title: Text,
    pub(super) pinned: bool,
    pub(super) parent_session_id: Option<SessionId>,
    pub(super) root_session_id: SessionId,
    pub(super) spawn_depth: i64,
    pub(super) model: Option<Text>,
    pub(super) model_ref: Option<Json<ModelRef>>,
    pub(super) provider: Option<Text>,
    pub(super) reasoning_effort: Option<Word<ReasoningEffort>>,
    pub(super) workspace: Option<Text>,
    pub(super) metadata: Json<BTreeMap<String, String>>,
    pub(super) created_at: Timestamp,
    pub(super) updated_at: Timestamp,
    pub(super) last_activity_at: Timestamp,
    pub(super) archived_at: Option<Timestamp>,
    pub(super) closed_at: Option<Timestamp>,
    pub(super) message_count: i64,
    pub(super) last_seq: i64,
    pub(super) attachment_count: i64,
    pub(super) attachment_bytes: i64,
    pub(super) is_running: bool,
    pub(super) last_run_status: Option<Word<RunStatus>>,
    pub(super) last_run_error: Option<Text>,
    pub(super) token_usage: Option<Raw>,
    pub(super) token_budget: Option<Raw>,
    pub(super) task_list: Option<Raw>,
    pub(super) conversation_summary: Option<Raw>,
    pub(super) created_by_schedule_id: Option<Text>,
    pub(super) schedule_run_id: Option<Text>,
    pub(super) subagent_type: Option<Text>,
    pub(super) children_count: i64,
    pub(super) version: i64,
    pub(super) responsibility: Option<Text>,
    pub(super) prompt: Option<Text>,
    pub(super) pending_question: Option<Raw>,
    pub(super) extra: Raw,
}

/// The column list of a session, once: every read of one is this with another end.
macro_rules! select_sessions {
    ($($end:literal)+ $(, $argument:expr)* $(,)?) => {
        sqlx::query_as!(
            $crate::storage::sqlite::sessions::SessionRow,
            r#"select s.session_key, s.id as "id: SessionId", s.kind as "kind: Word<Kind>", s.title as "title: Text",
                 s.pinned as "pinned: bool",
                 (select p.id from sessions p where p.session_key = s.parent_key) as "parent_session_id: SessionId",
                 (select r.id from sessions r where r.session_key = s.root_key) as "root_session_id!: SessionId",
                 s.spawn_depth, s.model as "model: Text", s.model_ref as "model_ref: Json<ModelRef>",
                 s.provider as "provider: Text", s.reasoning_effort as "reasoning_effort: Word<ReasoningEffort>",
                 s.workspace as "workspace: Text", s.metadata as "metadata: Json<BTreeMap<String, String>>",
                 s.created_at as "created_at: Timestamp", s.updated_at as "updated_at: Timestamp",
                 s.last_activity_at as "last_activity_at: Timestamp", s.archived_at as "archived_at: Timestamp",
                 s.closed_at as "closed_at: Timestamp", s.message_count, s.last_seq, s.attachment_count, s.attachment_bytes,
                 -- Both conditions: the first is the index's, of active runs alone.
                 exists (select 1 from runs x where x.session_key = s.session_key
                   and x.status in ('pending', 'running') and x.status = 'running') as "is_running!: bool",
                 s.last_run_status as "last_run_status: Word<RunStatus>", s.last_run_error as "last_run_error: Text",
                 s.token_usage as "token_usage: Raw", s.token_budget as "token_budget: Raw",
                 s.task_list as "task_list: Raw", s.conversation_summary as "conversation_summary: Raw",
                 s.created_by_schedule_id as "created_by_schedule_id: Text", s.schedule_run_id as "schedule_run_id: Text",
                 s.subagent_type as "subagent_type: Text", s.children_count, s.version,
                 s.responsibility as "responsibility: Text", s.prompt as "prompt: Text",
                 s.pending_question as "pending_question: Raw", s.extra as "extra: Raw"
               from live_sessions s "# $(+ $end)+
            $(, $argument)*
        )
    };
}
pub(super) use select_sessions;

fn text(text: Option<Text>) -> Option<String> {
    text.map(|Text(text)| text)
}

fn raw(json: Option<Raw>) -> Option<RawJson> {
    json.map(|Raw(json)| json)
}

impl SessionRow {
    /// About how many bytes its JSON has.
    pub(super) fn bytes(&self) -> usize {
        let raw = [&self.token_usage, &self.token_budget, &self.task_list, &self.conversation_summary];
        let raw = raw.into_iter().flatten().map(|Raw(json)| json.as_str().len()).sum::<usize>();
        let metadata = self.metadata.0.iter().map(|(key, value)| key.len() + value.len() + 6).sum::<usize>();
        raw + metadata + self.title.0.len() + self.extra.0.as_str().len() + 1024
    }

    pub(super) fn into_session(self) -> Session {
        Session {
            id: self.id,
            kind: self.kind.0,
            title: self.title.0,
            pinned: self.pinned,
            parent_session_id: self.parent_session_id,
            root_session_id: self.root_session_id,
            spawn_depth: self.spawn_depth,
            model: text(self.model),
            model_ref: self.model_ref.map(|Json(model_ref)| model_ref),
            provider: text(self.provider),
            reasoning_effort: self.reasoning_effort.map(|word| word.0),
            workspace: text(self.workspace),
            metadata: self.metadata.0,
            created_at: self.created_at,
            updated_at: self.updated_at,
            last_activity_at: self.last_activity_at,
            archived_at: self.archived_at,
            closed_at: self.closed_at,
            message_count: self.message_count,
            last_seq: self.last_seq,
            has_attachments: self.attachment_count > 0,
            attachment_bytes: self.attachment_bytes,
            is_running: self.is_running,
            has_pending_question: self.pending_question.is_some(),
            last_run_status: self.last_run_status.map(|word| word.0),
            last_run_error: text(self.last_run_error),
            token_usage: raw(self.token_usage),
            token_budget: raw(self.token_budget),
            task_list: raw(self.task_list),
            conversation_summary: raw(self.conversation_summary),
            created_by_schedule_id: text(self.created_by_schedule_id),
            schedule_run_id: text(self.schedule_run_id),
            subagent_type: text(self.subagent_type),
            children_count: self.children_count,
            version: self.version,
            responsibility: text(self.responsibility),
            prompt: text(self.prompt),
            pending_question: raw(self.pending_question),
            extra: self.extra.object(),
        }
    }
}

/// The row of a session that is there, seen by the writer.
pub(super) async fn row(conn: &mut SqliteConnection, id: &SessionId) -> Result<Option<SessionRow>> {
    let id = id.as_str();
    select_sessions!("where s.id = ?1", id).fetch_optional(conn).await.map_err(error::of)
}

/// The row of a session that a write is for.
pub(super) async fn row_to_write(conn: &mut SqliteConnection, id: &SessionId) -> Result<SessionRow> {
    match row(conn, id).await? {
        Some(row) => Ok(row),
        None => Err(append::gone(id, is_deleted(conn, id).await?)),
    }
}

async fn is_deleted(conn: &mut SqliteConnection, id: &SessionId) -> Result<bool> {
    let id = id.as_str();
    let found = sqlx::query_scalar!("select 1 from tombstones where id = ?1", id).fetch_optional(conn).await;
    found.map(|row| row.is_some()).map_err(error::of)
}

/// Refuses a write that was based on another version.
pub(super) fn check_version(row: &SessionRow, if_match: Option<i64>) -> Result<()> {
    match if_match.filter(|version| *version != row.version) {
        Some(_) => Err(Error::VersionConflict { what: "version", current: row.version }),
        None => Ok(()),
    }
}

/// Refuses to change the messages of a session with a run that is pending or running.
pub(super) async fn check_idle(conn: &mut SqliteConnection, row: &SessionRow) -> Result<()> {
    let active = sqlx::query_scalar!(
        "select 1 from runs where session_key = ?1 and status in ('pending', 'running')",
        row.session_key
    );
    match active.fetch_optional(conn).await.map_err(error::of)? {
        Some(_) => Err(Error::SessionBusy(row.id.clone())),
        None => Ok(()),
    }
}

/// The key of a session to read something of.
pub(super) async fn key_to_read(pool: &SqlitePool, id: &SessionId) -> Result<i64> {
    let text = id.as_str();
    let key = sqlx::query_scalar!(r#"select session_key as "key!: i64" from live_sessions where id = ?1"#, text);
    key.fetch_optional(pool).await.map_err(error::of)?.ok_or_else(|| Error::SessionNotFound(id.clone()))
}

pub(super) async fn find(pool: &SqlitePool, id: &SessionId) -> Result<Option<Session>> {
    let id = id.as_str();
    let row = select_sessions!("where s.id = ?1", id).fetch_optional(pool).await.map_err(error::of)?;
    Ok(row.map(SessionRow::into_session))
}

/// A session to create, with the id it will have.
pub(super) struct Create {
    pub(super) id: SessionId,
    pub(super) new: NewSession,
    pub(super) claim: Option<Claim>,
    pub(super) prompt: Option<NewMessage>,
}

impl Create {
    pub(super) fn new(mut new: NewSession, claim: Option<Claim>) -> Self {
        let id = new.id.get_or_insert_with(SessionId::mint).clone();
        let prompt = new.system_prompt.as_ref().filter(|prompt| !prompt.is_empty());
        let prompt = prompt.map(|prompt| NewMessage {
            id: Some(crate::model::MessageId::mint()),
            ..NewMessage::text(Role::System, prompt)
        });
        Self { id, new, claim, prompt }
    }

    /// Tells the same creation sent twice from an id in use.
    fn hash(&self) -> String {
        hash(&(&self.new, &self.new.parent, &self.new.subagent_type))
    }

    fn session(&self, parent: Option<&SessionRow>) -> Session {
        let new = &self.new;
        let title = new.title.as_deref().map(str::trim).filter(|title| !title.is_empty());
        let mut session = Session::new(self.id.clone());
        session.title = title.unwrap_or(&session.title).to_owned();
        session.pinned = new.pinned;
        session.workspace.clone_from(&new.workspace);
        session.reasoning_effort = new.reasoning_effort;
        session.token_budget = new.token_budget.clone().map(RawJson::from);
        session.task_list = new.task_list.clone().map(RawJson::from);
        session.metadata.clone_from(&new.metadata);
        session.subagent_type.clone_from(&new.subagent_type);
        let given = |text: &Option<String>| text.clone().map(Some);
        let models = SessionUpdate {
            model: given(&new.model),
            provider: given(&new.provider),
            model_ref: new.model_ref.clone().map(Some),
            ..SessionUpdate::default()
        };
        models.apply(&mut session);
        place(&mut session, parent);
        session
    }
}

/// What a session was created from, in short. The order of an object's keys says nothing.
pub(super) fn hash(content: &impl Serialize) -> String {
    hex(&RawJson::of(content).digest())
}

/// Puts a session below its parent, or at the root of its own tree.
pub(super) fn place(session: &mut Session, parent: Option<&SessionRow>) {
    session.kind = if parent.is_some() { Kind::Child } else { Kind::Root };
    session.parent_session_id = parent.map(|parent| parent.id.clone());
    session.root_session_id = parent.map_or_else(|| session.id.clone(), |parent| parent.root_session_id.clone());
    session.spawn_depth = parent.map_or(0, |parent| parent.spawn_depth + 1);
}

pub(super) async fn create(conn: &mut SqliteConnection, input: &Create) -> Result<Session> {
    let hash = input.hash();
    if let Some(there) = created_from(conn, &input.id, &hash).await? {
        keep_claim(conn, input).await?;
        return Ok(there.into_session());
    }
    let parent = match &input.new.parent {
        Some(parent) => Some(row_to_write(conn, parent).await?),
        None => None,
    };
    let session = input.session(parent.as_ref());
    add(conn, &session, &hash).await?;
    if let Some(prompt) = &input.prompt {
        let message = prompt.clone().into_message(1, session.created_at);
        let rows = [(session.id.clone(), message)];
        append::insert(conn, &rows, Opens::At(session.created_at), Tells::Yes).await?;
    }
    keep_claim(conn, input).await?;
    Ok(row_to_write(conn, &input.id).await?.into_session())
}

/// The session that an earlier creation from the same content made; an id in use by another one is refused.
pub(super) async fn created_from(
    conn: &mut SqliteConnection,
    id: &SessionId,
    hash: &str,
) -> Result<Option<SessionRow>> {
    let Some(there) = row(conn, id).await? else { return Ok(None) };
    let from = sqlx::query_scalar!("select created_from from sessions where session_key = ?1", there.session_key);
    match from.fetch_one(conn).await.map_err(error::of)? {
        Some(from) if from == hash => Ok(Some(there)),
        _ => Err(Error::SessionExists(id.clone())),
    }
}

/// Adds a row, and tells of it. Its key.
pub(super) async fn add(conn: &mut SqliteConnection, session: &Session, hash: &str) -> Result<i64> {
    let key = insert(conn, session, Some(hash)).await?;
    let told = json!({ "kind": session.kind, "title": session.title });
    events::tell(conn, key, EventKind::SessionCreated, told).await?;
    Ok(key)
}

async fn keep_claim(conn: &mut SqliteConnection, input: &Create) -> Result<()> {
    match &input.claim {
        Some(claim) => idempotency::keep(conn, claim, 201, &json!({ "session": input.id })).await,
        None => Ok(()),
    }
}

/// Inserts a row with its parent's key and its root's: its own, for a root.
pub(super) async fn insert(conn: &mut SqliteConnection, s: &Session, created_from: Option<&str>) -> Result<i64> {
    let parent = s.parent_session_id.as_ref().map(SessionId::as_str);
    let (id, root, kind) = (s.id.as_str(), s.root_session_id.as_str(), types::word(&s.kind));
    let (created_at, updated_at) = (s.created_at.0, s.updated_at.0);
    // What comes from elsewhere may say that it was active in the future: lists are not led by it.
    let last_activity_at = s.last_activity_at.min(Timestamp::now()).0;
    let metadata = types::object(&s.metadata);
    let inserted = sqlx::query_scalar!(
        r#"insert into sessions (session_key, id, kind, parent_key, root_key, spawn_depth, title, metadata, created_from,
             created_at, updated_at, last_activity_at, version)
           select next.key, ?1, ?2, (select p.session_key from live_sessions p where p.id = ?3),
             iif(?3 is null, next.key, (select r.session_key from live_sessions r where r.id = ?4)), ?5, ?6, ?7, ?8, ?9, ?10, ?11, 0
           -- The key that autoincrement will give: a root's own row names it.
           from (select coalesce((select seq from sqlite_sequence where name = 'sessions'), 0) + 1 as key) next
           returning session_key as "session_key!: i64""#,
        id,
        kind,
        parent,
        root,
        s.spawn_depth,
        s.title,
        metadata,
        created_from,
        created_at,
        updated_at,
        last_activity_at
    )
    .fetch_one(&mut *conn)
    .await;
    let key = inserted.map_err(|error| match error::broken_rule(&error) {
        Some("session_deleted") => Error::SessionDeleted(s.id.clone()),
        Some(rule) if rule.contains("sessions.id") => Error::SessionExists(s.id.clone()),
        _ => error::of(error),
    })?;
    write(conn, key, s).await?;
    Ok(key)
}

/// Writes every field that a holder of a session can change. The version is the caller's to raise, in `s`.
pub(super) async fn write(conn: &mut SqliteConnection, key: i64, s: &Session) -> Result<()> {
    let (model_ref, effort) = (types::json(&s.model_ref), s.reasoning_effort.as_ref().map(types::word));
    let (metadata, status) = (types::object(&s.metadata), s.last_run_status.as_ref().map(types::word));
    let (question, usage, budget) =
        (types::json(&s.pending_question), types::json(&s.token_usage), types::json(&s.token_budget));
    let (tasks, summary, extra) =
        (types::json(&s.task_list), types::json(&s.conversation_summary), types::object(&s.extra));
    let (updated_at, archived_at, closed_at) = (s.updated_at.0, s.archived_at.map(|t| t.0), s.closed_at.map(|t| t.0));
    let version = s.version.max(1);
    sqlx::query!(
        "update sessions set title = ?2, pinned = ?3, model = ?4, provider = ?5, model_ref = ?6, reasoning_effort = ?7,
           workspace = ?8, metadata = ?9, subagent_type = ?10, responsibility = ?11, prompt = ?12,
           created_by_schedule_id = ?13, schedule_run_id = ?14, last_run_status = ?15, last_run_error = ?16,
           pending_question = ?17, token_usage = ?18, token_budget = ?19, task_list = ?20, conversation_summary = ?21,
           extra = ?22, updated_at = ?23, archived_at = ?24, closed_at = ?25, version = ?26
         where session_key = ?1",
        key,
        s.title,
        s.pinned,
        s.model,
        s.provider,
        model_ref,
        effort,
        s.workspace,
        metadata,
        s.subagent_type,
        s.responsibility,
        s.prompt,
        s.created_by_schedule_id,
        s.schedule_run_id,
        status,
        s.last_run_error,
        question,
        usage,
        budget,
        tasks,
        summary,
        extra,
        updated_at,
        archived_at,
        closed_at,
        version
    )
    .execute(conn)
    .await
    .map(drop)
    .map_err(error::of)
}

/// A session's changes.
pub(super) struct Update {
    pub(super) id: SessionId,
    pub(super) update: SessionUpdate,
    pub(super) if_match: Option<i64>,
}

pub(super) async fn update(conn: &mut SqliteConnection, input: &Update) -> Result<Session> {
    let row = row_to_write(conn, &input.id).await?;
    check_version(&row, input.if_match)?;
    let key = row.session_key;
    let before = row.into_session();
    let mut after = before.clone();
    input.update.apply(&mut after);
    let limit = input.update.metadata_limit.unwrap_or(usize::MAX);
    if after.metadata != before.metadata && types::object(&after.metadata).len() > limit {
        return Err(Error::MetadataTooLarge(limit));
    }
    if after != before {
        after.version += 1;
        after.updated_at = after.updated_at.max(Timestamp::now());
        write(conn, key, &after).await?;
        let told = json!({ "title": after.title, "pinned": after.pinned, "version": after.version });
        events::tell(conn, key, EventKind::SessionUpdated, told).await?;
    }
    Ok(after)
}

pub(super) async fn above(pool: &SqlitePool, id: &SessionId) -> Result<Vec<SessionId>> {
    let id = id.as_str();
    let above = sqlx::query_scalar!(
        r#"with recursive above (k, depth) as (
             select parent_key, 1 from live_sessions where id = ?1 and parent_key is not null
             union all
             select a.parent_key, above.depth + 1 from sessions a join above on a.session_key = above.k
             where a.parent_key is not null and above.depth < 100
           )
           select s.id as "id: SessionId" from above join sessions s on s.session_key = above.k order by above.depth"#,
        id
    );
    above.fetch_all(pool).await.map_err(error::of)
}

pub(super) async fn tree(pool: &SqlitePool, id: &SessionId, limit: i64) -> Result<(SessionTree, bool)> {
    let (text, more) = (id.as_str(), limit + 1);
    // Breadth first, so that what is cut off is what lies deepest.
    let rows = select_sessions!(
        "join (with recursive below (session_key, depth) as (
                 select session_key, 0 from live_sessions where id = ?1
                 union all
                 select c.session_key, below.depth + 1 from live_sessions c join below on c.parent_key = below.session_key
                 order by 2 limit ?2
               ) select session_key, depth from below) b on b.session_key = s.session_key
         order by b.depth, s.session_key",
        text,
        more
    );
    let Read { rows, unread } = bounded::read(rows.fetch(pool), SessionRow::bytes).await?;
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let truncated = unread || rows.len() > limit;
    let mut children: HashMap<SessionId, Vec<SessionTree>> = HashMap::new();
    // From the deepest up, each finds its children complete.
    for session in rows.into_iter().take(limit).map(SessionRow::into_session).rev() {
        let mut below = children.remove(&session.id).unwrap_or_default();
        below.reverse();
        let above = session.parent_session_id.clone().filter(|_| session.id != *id);
        let tree = SessionTree { session, children: below };
        match above {
            Some(parent) => children.entry(parent).or_default().push(tree),
            None => return Ok((tree, truncated)),
        }
    }
    Err(Error::SessionNotFound(id.clone()))
}

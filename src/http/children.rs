//! Child sessions over HTTP.

use axum::{extract::State, http::StatusCode};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    App,
    error::Problem,
    extract::{Answer, Json, NoQuery, Path},
    idempotency::{Key, once},
    listing::{Listing, NoFilter},
    runs::{CancelBody, CancelledBody},
    sessions::InSession,
};
use crate::{
    children::{self, Send},
    model::{ChildUpdate, MessageId, NewChild, NewMessage, Role, RunId, RunStatus, Session, SessionId, Timestamp},
    runs, storage,
    storage::Storage,
};

/// A child in a path.
#[derive(Debug, Deserialize, JsonSchema)]
pub(super) struct AtChild {
    /// The parent's id.
    id: SessionId,
    /// The child's id.
    child: SessionId,
}

/// Whether a child was given a run, or left for later.
#[derive(Debug, Clone, Copy, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum ChildStatus {
    /// A run was asked for.
    Queued,
    /// It waits until it is told to run.
    Pending,
    /// A run was pending or under way already.
    AlreadyRunning,
}

impl ChildStatus {
    fn of<T>(run: Option<&T>) -> Self {
        if run.is_some() { Self::Queued } else { Self::Pending }
    }
}

/// A child that was created.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct CreatedChildBody {
    child_session_id: SessionId,
    model: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    run_id: Option<RunId>,
    status: ChildStatus,
}

impl CreatedChildBody {
    fn new(child: Session, run_id: Option<RunId>) -> Self {
        let status = ChildStatus::of(run_id.as_ref());
        Self { child_session_id: child.id, model: child.model, run_id, status }
    }
}

pub(super) async fn create(
    State(app): State<App>,
    Path(at): Path<InSession>,
    _: NoQuery,
    key: Key,
    body: Json<NewChild>,
) -> Result<Answer<201, CreatedChildBody>, Problem> {
    let (first, again, new) = (app.clone(), app.clone(), body.value);
    let work = move |claim| async move {
        let new = new.checked(&first.limits)?;
        let created = children::create(&first.runs, &at.id, new, claim).await?;
        Ok(Answer::new(&CreatedChildBody::new(created.child, created.run.map(|run| run.id))))
    };
    let again = move |kept: Value| async move {
        let id: Option<SessionId> = serde_json::from_value(kept["session"].clone()).ok();
        let id = id.ok_or_else(|| Problem::of_status(StatusCode::INTERNAL_SERVER_ERROR))?;
        let child = again.repository.session(&id).await?.ok_or(storage::Error::SessionDeleted(id))?;
        let run = serde_json::from_value(kept["run"].clone()).unwrap_or_default();
        Ok(Answer::new(&CreatedChildBody::new(child, run)))
    };
    once(app, key, body.bytes, work, again).await
}

/// One child of a list.
#[derive(Debug, Serialize, JsonSchema)]
struct ChildEntry {
    child_session_id: SessionId,
    title: String,
    pinned: bool,
    message_count: i64,
    updated_at: Timestamp,
    last_run_status: Option<RunStatus>,
    last_run_error: Option<String>,
    is_running: bool,
    subagent_type: Option<String>,
}

impl From<Session> for ChildEntry {
    fn from(child: Session) -> Self {
        Self {
            child_session_id: child.id,
            title: child.title,
            pinned: child.pinned,
            message_count: child.message_count,
            updated_at: child.updated_at,
            last_run_status: child.last_run_status,
            last_run_error: child.last_run_error,
            is_running: child.is_running,
            subagent_type: child.subagent_type,
        }
    }
}

/// A page of a session's children, newest first.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct ChildrenBody {
    parent_session_id: SessionId,
    next_cursor: Option<String>,
    children: Vec<ChildEntry>,
    /// Children on this page.
    count: usize,
}

pub(super) async fn list(
    State(app): State<App>,
    Path(at): Path<InSession>,
    list: Listing<NoFilter>,
) -> Result<Answer<200, ChildrenBody>, Problem> {
    let page = children::list(&app.runs, &at.id, list.after, list.limit).await?;
    let children: Vec<ChildEntry> = page.items.into_iter().map(ChildEntry::from).collect();
    let (next_cursor, count) = (list.cursor(page.next), children.len());
    Ok(Answer::new(&ChildrenBody { parent_session_id: at.id, next_cursor, children, count }))
}

/// One child, with what it is assigned.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct ChildBody {
    child_session_id: SessionId,
    title: String,
    model: Option<String>,
    pinned: bool,
    message_count: i64,
    is_running: bool,
    last_run_status: Option<RunStatus>,
    last_run_error: Option<String>,
    responsibility: Option<String>,
    subagent_type: Option<String>,
    prompt: Option<String>,
    latest_user_message: Option<String>,
}

pub(super) async fn read(
    State(app): State<App>,
    Path(at): Path<AtChild>,
    _: NoQuery,
) -> Result<Answer<200, ChildBody>, Problem> {
    let child = children::child(&app.runs, &at.id, &at.child).await?;
    let latest = children::latest_user_message(&app.runs, &at.child).await?;
    Ok(Answer::new(&ChildBody {
        child_session_id: child.id,
        title: child.title,
        model: child.model,
        pinned: child.pinned,
        message_count: child.message_count,
        is_running: child.is_running,
        last_run_status: child.last_run_status,
        last_run_error: child.last_run_error,
        responsibility: child.responsibility,
        subagent_type: child.subagent_type,
        prompt: child.prompt,
        latest_user_message: latest.map(|message| message.content),
    }))
}

/// A child that was changed.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct UpdatedChildBody {
    child_session_id: SessionId,
    title: String,
    messages_removed: i64,
    last_run_status: Option<RunStatus>,
    note: String,
}

pub(super) async fn update(
    State(app): State<App>,
    Path(at): Path<AtChild>,
    _: NoQuery,
    body: Json<ChildUpdate>,
) -> Result<Answer<200, UpdatedChildBody>, Problem> {
    let update = body.value.checked(&app.limits)?;
    let updated = children::update(&app.runs, &at.id, &at.child, update).await?;
    Ok(Answer::new(&UpdatedChildBody {
        child_session_id: updated.child.id,
        title: updated.child.title,
        messages_removed: updated.messages_removed,
        last_run_status: updated.child.last_run_status,
        note: "The child was changed in place. Run it to carry out what it is assigned.".into(),
    }))
}

/// How to run a child again.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RunChildBody {
    /// Whether what came after the last user message is cut off first.
    #[serde(default = "yes")]
    reset_to_last_user: bool,
}

fn yes() -> bool {
    true
}

/// A child that runs again.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct ChildRunBody {
    child_session_id: SessionId,
    status: ChildStatus,
    messages_removed: i64,
    run_id: Option<RunId>,
    note: String,
}

pub(super) async fn run(
    State(app): State<App>,
    Path(at): Path<AtChild>,
    _: NoQuery,
    body: Option<Json<RunChildBody>>,
) -> Result<Answer<202, ChildRunBody>, Problem> {
    let reset = body.is_none_or(|body| body.value.reset_to_last_user);
    let continued = children::run(&app.runs, &at.id, &at.child, reset).await.map_err(|error| match error {
        runs::Error::Storage(error @ storage::Error::NoUserMessage) => {
            Problem::invalid("reset_to_last_user", error.to_string())
        }
        error => error.into(),
    })?;
    let (status, note) = match continued.was_active {
        true => (ChildStatus::AlreadyRunning, "A run of the child is pending or under way already."),
        false => (ChildStatus::Queued, "A run of the child was asked for."),
    };
    Ok(Answer::new(&ChildRunBody {
        child_session_id: at.child,
        status,
        messages_removed: continued.messages_removed,
        run_id: continued.run.map(|run| run.id),
        note: note.into(),
    }))
}

/// A message to a child.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct MessageToChild {
    /// The text; not blank.
    message: String,
    /// Whether the child runs with it at once.
    #[serde(default = "yes")]
    auto_run: bool,
    /// Whether what runs in the child is cancelled first; without it, a child that runs takes no message.
    #[serde(default)]
    interrupt_running: bool,
}

/// A child that took a message.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct SentBody {
    child_session_id: SessionId,
    status: ChildStatus,
    auto_run: bool,
    message: String,
    message_count: i64,
    note: String,
}

impl SentBody {
    fn new(child: Session, message: String, auto_run: bool) -> Self {
        let (status, note) = match auto_run {
            true => (ChildStatus::Queued, "The message was stored, and a run of the child was asked for."),
            false => (ChildStatus::Pending, "The message was stored. Run the child to have it answered."),
        };
        let (child_session_id, message_count) = (child.id, child.message_count);
        Self { child_session_id, status, auto_run, message, message_count, note: note.into() }
    }
}

pub(super) async fn send(
    State(app): State<App>,
    Path(at): Path<AtChild>,
    _: NoQuery,
    key: Key,
    body: Json<MessageToChild>,
) -> Result<Answer<202, SentBody>, Problem> {
    let (first, second) = (app.clone(), app.clone());
    let (child, MessageToChild { message, auto_run, interrupt_running }) = (at.child.clone(), body.value);
    let work = move |claim| async move {
        let message = NewMessage::text(Role::User, message.trim());
        if message.content.is_empty() {
            return Err(Problem::invalid("message", "not blank"));
        }
        message.check(&first.limits).map_err(|invalid| Problem::of_text("message", &invalid))?;
        let text = message.content.clone();
        let send = Send { message, auto_run, interrupt: interrupt_running };
        let sent = children::send(&first.runs, &at.id, &at.child, send, claim).await?;
        Ok(Answer::new(&SentBody::new(sent.child, text, auto_run)))
    };
    let again = move |kept: Value| async move { sent_again(&second, child, &kept).await };
    once(app, key, body.bytes, work, again).await
}

/// A message that was sent before, as it is now.
async fn sent_again(app: &App, child: SessionId, kept: &Value) -> Result<Answer<202, SentBody>, Problem> {
    let id: Option<MessageId> = serde_json::from_value(kept["message"].clone()).ok();
    let session = app.repository.session(&child).await?.ok_or_else(|| storage::Error::SessionDeleted(child.clone()))?;
    let message = match &id {
        Some(id) => app.repository.message(&child, id).await?,
        None => None,
    };
    let gone = || Problem::new(StatusCode::GONE, "message_deleted", "Message deleted", "the message was deleted since");
    let message = message.ok_or_else(gone)?;
    Ok(Answer::new(&SentBody::new(session, message.content, !kept["run"].is_null())))
}

pub(super) async fn cancel(
    State(app): State<App>,
    Path(at): Path<AtChild>,
    _: NoQuery,
    body: Option<Json<CancelBody>>,
) -> Result<Answer<200, CancelledBody>, Problem> {
    let recursive = body.is_none_or(|body| body.value.recursive);
    let cancelled_run_ids = children::cancel(&app.runs, &at.id, &at.child, recursive).await?;
    Ok(Answer::new(&CancelledBody { cancelled_run_ids }))
}

/// A child that was deleted.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct DeletedChildBody {
    child_session_id: SessionId,
    deleted: bool,
    /// Whether a run of it, or below it, was pending or under way.
    cancelled_running_child: bool,
}

pub(super) async fn delete(
    State(app): State<App>,
    Path(at): Path<AtChild>,
    _: NoQuery,
) -> Result<Answer<200, DeletedChildBody>, Problem> {
    let receipt = children::delete(&app.runs, &app.worktrees, &at.id, &at.child).await?;
    let cancelled_running_child = !receipt.cancelled_run_ids.is_empty();
    Ok(Answer::new(&DeletedChildBody { child_session_id: at.child, deleted: true, cancelled_running_child }))
}

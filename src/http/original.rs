//! Calls of the API that Culm's own took the place of, for clients that still speak it: its statuses, its bodies, its
//! events. They are mapped onto what the other files do, and know no rule of their own but these shapes. Fields that
//! they do not know are passed over, as they were there.

pub(super) mod chat;
pub(super) mod events;
pub(super) mod execute;

use std::collections::BTreeMap;

use axum::{extract::State, http::StatusCode};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    App,
    error::Problem,
    extract::{Answer, Json, Path},
    sessions::InSession,
};
use crate::{
    lifecycle,
    model::{
        Cleanup, CleanupMode, Message, MessageFilter, ModelRef, NewMessage, PAGE_BYTES, RawJson, RawObject,
        ReasoningEffort, Reply, Role, Session, SessionId, SessionUpdate, Window,
    },
    runs,
    storage::{Error, Storage},
    tasks,
};

/// Messages of a history that are shown at most: the newest.
const HISTORY: i64 = 2000;
/// What became of the wish that a session runs.
const STARTED: &str = "started";
const ALREADY_RUNNING: &str = "already_running";

/// There, an id that was deleted was one that had never been.
fn not_found(error: Error) -> Problem {
    match error {
        Error::SessionDeleted(id) => Error::SessionNotFound(id).into(),
        error => error.into(),
    }
}

async fn found(app: &App, id: &SessionId) -> Result<Session, Problem> {
    Ok(app.repository.session(id).await?.ok_or_else(|| Error::SessionNotFound(id.clone()))?)
}

fn last(role: Option<Role>) -> MessageFilter {
    MessageFilter { window: Window::Last, limit: 1, bytes: PAGE_BYTES, role }
}

fn events_url(id: &SessionId) -> String {
    let id: String = form_urlencoded::byte_serialize(id.as_str().as_bytes()).collect();
    format!("/api/v1/events/{}", id.replace('+', "%20"))
}

/// What was stopped.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct StoppedBody {
    success: bool,
    message: String,
}

pub(super) async fn stop(
    State(app): State<App>,
    Path(at): Path<InSession>,
) -> Result<Answer<200, StoppedBody>, Problem> {
    let runs = app.runs.clone();
    let cancelled = app.repository.tasks().detached(async move { runs.cancel_session(&at.id, true).await }).await;
    match cancelled {
        Ok(cancelled) if !cancelled.is_empty() => {
            Ok(Answer::new(&StoppedBody { success: true, message: "Agent execution stopped".into() }))
        }
        Ok(_) | Err(Error::SessionNotFound(_)) => {
            let (status, words) = (StatusCode::NOT_FOUND, "No active agent execution found");
            Err(Problem::new(status, "run_not_found", words, words).with("success", false).with("message", words))
        }
        Err(error) => Err(error.into()),
    }
}

/// A history: all of it, or its newest part.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct HistoryBody {
    session_id: SessionId,
    messages: Vec<RawObject>,
    #[schemars(with = "Vec<RawJson>")]
    compression_events: RawJson,
    /// Whether there are messages before these.
    truncated: bool,
    total_message_count: i64,
}

pub(super) async fn history(
    State(app): State<App>,
    Path(at): Path<InSession>,
) -> Result<Answer<200, HistoryBody>, Problem> {
    let session = found(&app, &at.id).await?;
    let page = app.repository.messages(&at.id, MessageFilter { limit: HISTORY, ..last(None) }).await?;
    let bytes: usize = page.messages.iter().map(Message::bytes).sum();
    let compressions: Option<RawJson> = session.extra.field("compression_events");
    let compression_events = compressions.filter(RawJson::is_array).unwrap_or_else(|| RawJson::of::<[(); 0]>(&[]));
    let (truncated, total_message_count) = (page.has_more_before, session.message_count);
    let of_page = page.messages;
    let messages = tasks::on_bytes(bytes, move || of_page.iter().map(as_it_was).collect()).await;
    let body = HistoryBody { session_id: at.id, messages, compression_events, truncated, total_message_count };
    Ok(Answer::of(bytes, body).await)
}

/// A message with the names that its fields had, and with what an import met beside them.
fn as_it_was(message: &Message) -> RawObject {
    let Ok(written) = serde_json::value::to_raw_value(message) else { return RawObject::default() };
    let mut fields: BTreeMap<String, &RawValue> = serde_json::from_str(written.get()).unwrap_or_default();
    if let Some(parts) = fields.remove("parts") {
        fields.insert("content_parts".into(), parts);
    }
    fields.remove("extra");
    fields.extend(message.extra.fields());
    RawObject::try_from(RawJson::of(&fields)).unwrap_or_default()
}

async fn set_effort(app: &App, id: &SessionId, reasoning_effort: Option<ReasoningEffort>) -> Result<(), Problem> {
    if reasoning_effort.is_some() {
        let update = SessionUpdate { reasoning_effort, ..SessionUpdate::default() };
        app.repository.update_session(id, update, None).await.map_err(not_found)?;
    }
    Ok(())
}

/// An answer to the session's question.
#[derive(Debug, Deserialize, JsonSchema)]
pub(super) struct RespondBody {
    response: String,
    /// The model that goes on with it, where that is another run.
    #[serde(default)]
    model: Option<String>,
    #[serde(default)]
    model_ref: Option<ModelRef>,
    #[serde(default)]
    reasoning_effort: Option<ReasoningEffort>,
}

/// An answer that was stored.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct RespondedBody {
    success: bool,
    message: String,
    response: String,
    /// `already_running` where the run that asked goes on, `started` where another one does.
    auto_resume_status: String,
}

pub(super) async fn respond(
    State(app): State<App>,
    Path(at): Path<InSession>,
    body: Json<RespondBody>,
) -> Result<Answer<200, RespondedBody>, Problem> {
    let RespondBody { response, model, model_ref, reasoning_effort } = body.value;
    let checked = NewMessage::text(Role::Tool, &response).check(&app.limits);
    checked.map_err(|invalid| Problem::of_text("response", &invalid))?;
    found(&app, &at.id).await?;
    set_effort(&app, &at.id, reasoning_effort).await?;
    let model = model_ref.map(|named| named.model).or(model);
    let (runs, answer) = (app.runs.clone(), Reply { response: response.clone(), tool_call_id: None });
    let answered = app.repository.tasks().detached(async move { runs.answer(&at.id, answer, model).await }).await;
    let answered = answered.map_err(not_answered)?;
    let auto_resume_status = if answered.asked { ALREADY_RUNNING } else { STARTED }.into();
    let message = "Response recorded. Agent loop will continue.".into();
    Ok(Answer::new(&RespondedBody { success: true, message, response, auto_resume_status }))
}

fn not_answered(error: runs::Error) -> Problem {
    let refused = |code, words, detail: String| Problem::new(StatusCode::BAD_REQUEST, code, words, detail);
    match error {
        runs::Error::Storage(error @ Error::NoPendingQuestion(_)) => {
            refused("no_pending_question", "No pending question waiting for response", error.to_string())
        }
        runs::Error::Storage(Error::InvalidAnswer(options)) => {
            let message = format!("Response must be one of: {}", options.join(", "));
            refused("invalid_request", "Invalid response", message.clone()).about("response").with("message", message)
        }
        runs::Error::Storage(error) => not_found(error),
        error => error.into(),
    }
}

/// It was done.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct DoneBody {
    success: bool,
}

/// Deletes everything, as a cleanup does.
pub(super) async fn reset(State(app): State<App>) -> Result<Answer<200, DoneBody>, Problem> {
    let all = Cleanup { keep_archived: false, ..Cleanup::of(CleanupMode::All) };
    lifecycle::cleanup(&app.runs, &app.worktrees, all).await?;
    Ok(Answer::new(&DoneBody { success: true }))
}

pub(super) async fn health() -> &'static str {
    "OK"
}

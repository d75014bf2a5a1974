//! Runs and questions over HTTP.

use std::time::Duration;

use axum::extract::State;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    App,
    error::Problem,
    extract::{Answer, Json, NoQuery, Path, Query},
    idempotency::{Key, once},
    listing::{Listing, NoFilter},
    sessions::InSession,
};
use crate::{
    model::{NewMessage, PendingQuestion, Reply, Role, Run, RunFilter, RunId, SessionId},
    runs::Start,
    storage::{Error, Storage},
};

/// How long a call waits for the end of a run at most, in seconds.
const WAIT: u64 = 60;

/// A run in a path.
#[derive(Debug, Deserialize, JsonSchema)]
pub(super) struct AtRun {
    /// The run's id.
    run_id: RunId,
}

/// What to do about a run that is there already.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum OnBusy {
    /// Refuse with 409.
    #[default]
    Reject,
    /// Cancel it first.
    Interrupt,
}

/// A run to start.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewRunBody {
    /// The run's id, if the client brings one.
    #[serde(default)]
    id: Option<RunId>,
    /// The executor, if not the default one.
    #[serde(default)]
    executor: Option<String>,
    /// The model, if not the session's.
    #[serde(default)]
    model: Option<String>,
    /// A user's message to append first.
    #[serde(default)]
    message: Option<String>,
    /// What to do while another run of the session is pending or running.
    #[serde(default)]
    on_busy: OnBusy,
}

/// One run.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct RunBody {
    run: Run,
}

pub(super) async fn create(
    State(app): State<App>,
    Path(at): Path<InSession>,
    _: NoQuery,
    key: Key,
    body: Json<NewRunBody>,
) -> Result<Answer<202, RunBody>, Problem> {
    let (first, again) = (app.clone(), app.clone());
    let (session, session_again) = (at.id.clone(), at.id);
    let new = body.value;
    let work = move |claim| async move {
        let message = new.message.map(|text| NewMessage::text(Role::User, text));
        if let Some(message) = &message {
            message.check(&first.limits).map_err(|invalid| Problem::of_text("message", &invalid))?;
        }
        let interrupt = new.on_busy == OnBusy::Interrupt;
        let start = Start { id: new.id, executor: new.executor, model: new.model, message, interrupt };
        let (runs, tasks) = (first.runs.clone(), first.repository.tasks().clone());
        // Cancelling and starting belong together, whether or not the client waits.
        let run = tasks.detached(async move { runs.create(&session, start, claim).await }).await?;
        Ok(Answer::new(&RunBody { run }))
    };
    let again = move |kept: Value| async move {
        let id: Option<RunId> = serde_json::from_value(kept["run"].clone()).ok();
        let run = match id {
            Some(id) => again.repository.run(&id).await?,
            None => None,
        };
        Ok(Answer::new(&RunBody { run: run.ok_or(Error::SessionDeleted(session_again))? }))
    };
    once(app, key, body.bytes, work, again).await
}

/// A page of runs, newest first.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct RunsBody {
    runs: Vec<Run>,
    next_cursor: Option<String>,
}

pub(super) async fn of_session(
    State(app): State<App>,
    Path(at): Path<InSession>,
    list: Listing<NoFilter>,
) -> Result<Answer<200, RunsBody>, Problem> {
    let filter = RunFilter { session: Some(at.id), ..RunFilter::default() };
    let page = app.repository.runs(&filter, list.after, list.limit).await?;
    Ok(Answer::new(&RunsBody { runs: page.items, next_cursor: list.cursor(page.next) }))
}

pub(super) async fn list(State(app): State<App>, list: Listing<RunFilter>) -> Result<Answer<200, RunsBody>, Problem> {
    let page = app.repository.runs(&list.filter, list.after, list.limit).await?;
    Ok(Answer::new(&RunsBody { runs: page.items, next_cursor: list.cursor(page.next) }))
}

/// Whether to wait.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct WaitQuery {
    /// Seconds to wait for the run's end, 0 to 60.
    #[schemars(range(max = 60))]
    wait: Option<u64>,
}

pub(super) async fn read(
    State(app): State<App>,
    Path(at): Path<AtRun>,
    Query(query): Query<WaitQuery>,
) -> Result<Answer<200, RunBody>, Problem> {
    let wait = query.wait.unwrap_or(0);
    if wait > WAIT {
        return Err(Problem::invalid("wait", format!("wait is 0 to {WAIT} seconds")));
    }
    let run = app.runs.wait(&at.run_id, Duration::from_secs(wait)).await?;
    Ok(Answer::new(&RunBody { run }))
}

pub(super) async fn cancel(
    State(app): State<App>,
    Path(at): Path<AtRun>,
    _: NoQuery,
) -> Result<Answer<200, RunBody>, Problem> {
    let runs = app.runs.clone();
    let run = app.repository.tasks().detached(async move { runs.cancel(&at.run_id).await }).await?;
    Ok(Answer::new(&RunBody { run }))
}

/// What to cancel.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CancelBody {
    /// Also what runs below the session.
    #[serde(default = "yes")]
    pub(super) recursive: bool,
}

fn yes() -> bool {
    true
}

/// What was cancelled.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct CancelledBody {
    pub(super) cancelled_run_ids: Vec<RunId>,
}

pub(super) async fn cancel_session(
    State(app): State<App>,
    Path(at): Path<InSession>,
    _: NoQuery,
    body: Option<Json<CancelBody>>,
) -> Result<Answer<200, CancelledBody>, Problem> {
    let recursive = body.is_none_or(|body| body.value.recursive);
    let runs = app.runs.clone();
    let cancelled = app.repository.tasks().detached(async move { runs.cancel_session(&at.id, recursive).await });
    Ok(Answer::new(&CancelledBody { cancelled_run_ids: cancelled.await? }))
}

/// The question that waits for an answer, if there is one.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct QuestionBody {
    has_pending_question: bool,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    question: Option<PendingQuestion>,
}

pub(super) async fn question(
    State(app): State<App>,
    Path(at): Path<InSession>,
    _: NoQuery,
) -> Result<Answer<200, QuestionBody>, Problem> {
    let session = app.repository.session(&at.id).await?.ok_or(Error::SessionNotFound(at.id))?;
    let question = session.pending_question.and_then(|question| question.parse());
    Ok(Answer::new(&QuestionBody { has_pending_question: question.is_some(), question }))
}

/// An answer.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct AnswerBody {
    /// One of the question's options, or any text where it allows that.
    response: String,
    /// The `tool_call_id` of the question that is answered. If another question is pending by then, the answer is refused
    /// with 409 `no_pending_question`. Without it, the pending question is answered, whichever that is.
    #[serde(default)]
    tool_call_id: Option<String>,
}

/// What goes on with the answer.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct AnsweredBody {
    success: bool,
    session_id: SessionId,
    run: Run,
}

pub(super) async fn answer(
    State(app): State<App>,
    Path(at): Path<InSession>,
    _: NoQuery,
    body: Json<AnswerBody>,
) -> Result<Answer<200, AnsweredBody>, Problem> {
    let AnswerBody { response, tool_call_id } = body.value;
    let checked = NewMessage::text(Role::Tool, &response).check(&app.limits);
    checked.map_err(|invalid| Problem::of_text("response", &invalid))?;
    if response.trim().is_empty() {
        return Err(Problem::invalid("response", "not blank"));
    }
    let (runs, id, reply) = (app.runs.clone(), at.id.clone(), Reply { response, tool_call_id });
    let answered = app.repository.tasks().detached(async move { runs.answer(&id, reply, None).await }).await?;
    Ok(Answer::new(&AnsweredBody { success: true, session_id: at.id, run: answered.run }))
}

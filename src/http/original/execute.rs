//! Running a session, as clients of the original ask for it: only when there is something to answer, and the client
//! has seen what there is.

use aide::{OperationOutput, generate::GenContext, openapi};
use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    super::{
        App,
        error::Problem,
        extract::{Answer, Json, Path},
        sessions::InSession,
    },
    ALREADY_RUNNING, STARTED, events_url, found, last, not_found, set_effort,
};
use crate::{
    model::{Message, MessageId, ModelRef, PendingQuestion, ReasoningEffort, Role, Session, SessionId},
    runs::{self, Start},
    storage::{Error, Storage},
};

/// How to run a session.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
pub(in crate::http) struct ExecuteBody {
    /// The model where the session has none.
    model: Option<String>,
    /// The same, with who provides it.
    model_ref: Option<ModelRef>,
    /// How hard the model should think, from now on.
    reasoning_effort: Option<ReasoningEffort>,
    /// What the client believes to be there.
    client_sync: Option<ClientSync>,
}

/// What a client believes to be there.
#[derive(Debug, Deserialize, JsonSchema)]
struct ClientSync {
    client_message_count: i64,
    #[serde(default)]
    client_last_message_id: Option<String>,
    #[serde(default)]
    client_has_pending_question: bool,
    #[serde(default)]
    client_pending_question_tool_call_id: Option<String>,
}

/// What is there, and whether that is what the client believes.
#[derive(Debug, Serialize, JsonSchema)]
struct SyncBody {
    need_sync: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    server_message_count: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    server_last_message_id: Option<MessageId>,
    has_pending_question: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pending_question_tool_call_id: Option<String>,
    has_pending_user_message: bool,
}

impl SyncBody {
    fn new(session: &Session, last: Option<&Message>, client: Option<&ClientSync>) -> Self {
        let question: Option<PendingQuestion> = session.pending_question.clone().and_then(|question| question.parse());
        let mut sync = Self {
            need_sync: false,
            reason: None,
            server_message_count: session.message_count,
            server_last_message_id: last.map(|message| message.id.clone()),
            has_pending_question: session.has_pending_question,
            pending_question_tool_call_id: question.map(|question| question.tool_call_id),
            // A tool's result asks to be gone on with, as a user's message does.
            has_pending_user_message: last.is_some_and(|last| matches!(last.role, Role::User | Role::Tool)),
        };
        sync.reason = client.and_then(|client| sync.mismatch(client)).map(String::from);
        sync.need_sync = sync.reason.is_some();
        sync
    }

    /// What a client does not say is not compared.
    fn mismatch(&self, client: &ClientSync) -> Option<&'static str> {
        let differs = |said: &Option<String>, is: Option<&str>| said.is_some() && said.as_deref() != is;
        let (call, id) = (&client.client_pending_question_tool_call_id, &client.client_last_message_id);
        let asked = client.client_has_pending_question != self.has_pending_question;
        if asked || differs(call, self.pending_question_tool_call_id.as_deref()) {
            Some("pending_question_mismatch")
        } else if client.client_message_count != self.server_message_count {
            Some("message_count_mismatch")
        } else if differs(id, self.server_last_message_id.as_ref().map(MessageId::as_str)) {
            Some("last_message_id_mismatch")
        } else {
            None
        }
    }
}

/// What became of the wish to run a session.
#[derive(Debug, Serialize, JsonSchema)]
pub(in crate::http) struct ExecutedBody {
    session_id: SessionId,
    /// `started`, `already_running`, or `completed` when there is nothing to answer or the client is to look again.
    status: String,
    events_url: String,
    sync: SyncBody,
}

/// 202 when a run was started, 200 when not.
pub(in crate::http) struct Executed(ExecutedBody);

impl IntoResponse for Executed {
    fn into_response(self) -> Response {
        match self.0.status == STARTED {
            true => Answer::<202, _>::new(&self.0).into_response(),
            false => Answer::<200, _>::new(&self.0).into_response(),
        }
    }
}

impl OperationOutput for Executed {
    type Inner = ExecutedBody;

    fn inferred_responses(
        ctx: &mut GenContext,
        operation: &mut openapi::Operation,
    ) -> Vec<(Option<u16>, openapi::Response)> {
        let mut responses = Answer::<202, ExecutedBody>::inferred_responses(ctx, operation);
        responses.extend(Answer::<200, ExecutedBody>::inferred_responses(ctx, operation));
        responses
    }
}

pub(in crate::http) async fn execute(
    State(app): State<App>,
    Path(at): Path<InSession>,
    body: Option<Json<ExecuteBody>>,
) -> Result<Executed, Problem> {
    let body = body.map(|body| body.value).unwrap_or_default();
    let session = found(&app, &at.id).await?;
    let last = app.repository.messages(&at.id, last(None)).await?.messages.pop();
    let sync = SyncBody::new(&session, last.as_ref(), body.client_sync.as_ref());
    // A run that goes on writes messages: what the client believes is old then, and that is as it should be.
    let status = match app.repository.active_runs(&at.id, false).await?.is_empty() {
        false => ALREADY_RUNNING,
        true if sync.need_sync || !sync.has_pending_user_message => "completed",
        true => start(&app, session, body).await?,
    };
    let (status, events_url) = (status.into(), events_url(&at.id));
    Ok(Executed(ExecutedBody { session_id: at.id, status, events_url, sync }))
}

async fn start(app: &App, session: Session, body: ExecuteBody) -> Result<&'static str, Problem> {
    set_effort(app, &session.id, body.reasoning_effort).await?;
    let named = body.model_ref.map(|named| named.model).or(body.model).filter(|model| !model.trim().is_empty());
    // The session's own goes first; "unknown" is what some were stored with that had none.
    let model = named.filter(|_| session.model.as_deref().is_none_or(|model| model == "unknown"));
    let (runs, start) = (app.runs.clone(), Start { model, ..Start::default() });
    match app.repository.tasks().detached(async move { runs.create(&session.id, start, None).await }).await {
        Ok(_) => Ok(STARTED),
        Err(runs::Error::Storage(Error::SessionBusy(_))) => Ok(ALREADY_RUNNING),
        Err(runs::Error::Storage(error)) => Err(not_found(error)),
        Err(error) => Err(error.into()),
    }
}

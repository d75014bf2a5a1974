//! A session's events as clients of the original know them: `data` alone, one JSON object with its `type`.

use aide::{OperationOutput, generate::GenContext, openapi};
use axum::{
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::TryStreamExt;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    super::{
        App,
        error::Problem,
        events::{self, Events},
        extract::Path,
        sessions::InSession,
    },
    found, last,
};
use crate::{
    model::{EventScope, InEpoch, RawObject, Role, RunId, RunStatus, Session, SessionId},
    storage::{self, Storage},
};

const CANCELLED: &str = "Agent execution cancelled by user";

/// The stream of them.
pub(in crate::http) struct AgentEvents(Body);

pub(in crate::http) async fn follow(State(app): State<App>, Path(at): Path<InSession>) -> Result<AgentEvents, Problem> {
    // First where the log stands: what is committed after this is told.
    let seen = InEpoch { number: *app.repository.last_event().borrow(), epoch: app.repository.epoch() };
    let told = Events::new(&app, EventScope::Tree(at.id.clone()), Some(seen));
    let session = found(&app, &at.id).await?;
    if let Some(end) = ended_before(&app, &session).await? {
        return Ok(AgentEvents(data(&end).into()));
    }
    let told = told.into_stream().try_filter_map(move |bytes| translated(app.clone(), at.id.clone(), bytes));
    Ok(AgentEvents(Body::from_stream(told)))
}

impl IntoResponse for AgentEvents {
    fn into_response(self) -> Response {
        events::streamed(self.0)
    }
}

impl OperationOutput for AgentEvents {
    type Inner = Self;

    fn inferred_responses(
        ctx: &mut GenContext,
        operation: &mut openapi::Operation,
    ) -> Vec<(Option<u16>, openapi::Response)> {
        Events::inferred_responses(ctx, operation)
    }
}

/// The last word of a session in which nothing happens and nothing waits to be answered.
async fn ended_before(app: &App, session: &Session) -> storage::Result<Option<Value>> {
    let last = app.repository.messages(&session.id, last(None)).await?.messages.pop();
    let waits = last.is_some_and(|last| last.role == Role::User);
    match waits || !app.repository.active_runs(&session.id, true).await?.is_empty() {
        true => Ok(None),
        false => Ok(Some(end(session.last_run_status, session.last_run_error.as_deref(), &RawObject::default()))),
    }
}

fn end(status: Option<RunStatus>, error: Option<&str>, usage: &RawObject) -> Value {
    let tokens = |name: &str| usage.field::<u64>(name).unwrap_or_default();
    match status {
        Some(RunStatus::Cancelled) => json!({ "type": "error", "message": CANCELLED }),
        Some(RunStatus::Error | RunStatus::Interrupted) => {
            json!({ "type": "error", "message": error.unwrap_or("Agent execution failed") })
        }
        _ => json!({ "type": "complete", "usage": {
            "prompt_tokens": tokens("prompt_tokens"), "completion_tokens": tokens("completion_tokens"),
            "total_tokens": tokens("total_tokens"),
        } }),
    }
}

fn data(event: &Value) -> String {
    format!("data: {event}\n\n")
}

/// A frame as it was sent there; none for what was not told.
async fn translated(app: App, id: SessionId, frame: Bytes) -> storage::Result<Option<Bytes>> {
    let text = std::str::from_utf8(&frame).unwrap_or_default();
    let Some(told) = text.lines().find_map(|line| line.strip_prefix("data: ")) else {
        // A heartbeat.
        return Ok(Some(frame));
    };
    let told: Value = serde_json::from_str(told).unwrap_or_default();
    let events = match told["event"] == "run.finished" {
        true => vec![finished(&app, &told).await?],
        false => agent_events(&told),
    };
    let own = told["session_id"] == id.as_str() || told["event"] == "session.deleted";
    let events = events.into_iter().map(|event| match own {
        true => data(&event),
        false => data(&json!({
            "type": "sub_session_event", "parent_session_id": id, "child_session_id": told["session_id"], "event": event
        })),
    });
    Ok(Some(events.collect::<String>()).filter(|text| !text.is_empty()).map(Bytes::from))
}

async fn finished(app: &App, told: &Value) -> storage::Result<Value> {
    let run = match RunId::deserialize(&told["run_id"]) {
        Ok(id) => app.repository.run(&id).await?,
        Err(_) => None,
    };
    let usage = run.and_then(|run| run.usage).unwrap_or_default();
    Ok(end(RunStatus::deserialize(&told["status"]).ok(), told["error"].as_str(), &usage))
}

fn agent_events(told: &Value) -> Vec<Value> {
    let (session, child) = (&told["session_id"], &told["child_session_id"]);
    let event = match told["event"].as_str().unwrap_or_default() {
        "message.delta" => json!({ "type": "token", "content": told["text"] }),
        "reasoning.delta" => json!({ "type": "reasoning_token", "content": told["text"] }),
        "tool.progress" => {
            json!({ "type": "tool_token", "tool_call_id": told["tool_call_id"], "content": told["text"] })
        }
        "message.appended" => return tool_events(&told["message"]),
        "question.asked" => {
            json!({ "type": "need_clarification", "question": told["question"], "options": told["options"] })
        }
        "child.started" => {
            json!({ "type": "sub_session_started", "parent_session_id": session, "child_session_id": child })
        }
        "child.finished" => json!({
            "type": "sub_session_completed", "parent_session_id": session, "child_session_id": child,
            "status": told["status"], "error": told["error"],
        }),
        "session.deleted" => json!({ "type": "session_deleted", "session_id": session }),
        _ => return Vec::new(),
    };
    vec![event]
}

/// The calls that a message makes, or the result that it is.
fn tool_events(message: &Value) -> Vec<Value> {
    // Not as a type: a provider may have put fields of its own on a call.
    let started = |call: &Value| {
        let function = &call["function"];
        let arguments = function["arguments"].as_str().unwrap_or_default();
        let arguments: Value = serde_json::from_str(arguments).unwrap_or_default();
        json!({ "type": "tool_start", "tool_call_id": call["id"], "tool_name": function["name"], "arguments": arguments })
    };
    let calls = message["tool_calls"].as_array().map(Vec::as_slice).unwrap_or_default();
    let result = (message["role"] == "tool").then(|| {
        let result = json!({ "success": message["tool_success"] != false, "result": message["content"] });
        json!({ "type": "tool_complete", "tool_call_id": message["tool_call_id"], "result": result })
    });
    calls.iter().map(started).chain(result).collect()
}

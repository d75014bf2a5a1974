//! Permissions that an agent asks for: granted, denied, or put to the user as a question.

use agent_client_protocol::v1::schema::{
    PermissionOption, PermissionOptionKind, RequestPermissionOutcome, RequestPermissionRequest,
    RequestPermissionResponse, SelectedPermissionOutcome,
};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::{connection::refused, settings::Permissions};
use crate::{
    executor::Question,
    model::{Message, NewMessage, Role, ToolCall, ToolFunction},
};

/// The name of the call that asks the user.
pub(super) const TOOL: &str = "request_permission";

/// The answer that the settings give, without asking anybody. None when the user is to say.
pub(super) fn decide(policy: Permissions, asked: &RequestPermissionRequest) -> Option<RequestPermissionResponse> {
    use PermissionOptionKind as K;
    let wanted = match policy {
        Permissions::Ask => return None,
        Permissions::Allow => [K::AllowOnce, K::AllowAlways],
        Permissions::Deny => [K::RejectOnce, K::RejectAlways],
    };
    let option = wanted.iter().find_map(|kind| asked.options.iter().find(|option| option.kind == *kind));
    Some(option.map_or_else(refused, select))
}

fn select(option: &PermissionOption) -> RequestPermissionResponse {
    let selected = SelectedPermissionOutcome::new(option.option_id.clone());
    RequestPermissionResponse::new(RequestPermissionOutcome::Selected(selected))
}

/// What is asked, in words.
pub(super) fn question(asked: &RequestPermissionRequest) -> String {
    let fields = &asked.tool_call.fields;
    let title = fields.title.as_deref().filter(|title| !title.trim().is_empty());
    let title = title.map_or_else(|| format!("a call of a tool ({})", asked.tool_call.tool_call_id), String::from);
    format!("The agent asks for permission: {title}")
}

/// The message that asks the user, and the question in it.
pub(super) fn ask(asked: &RequestPermissionRequest, answer: oneshot::Sender<Message>) -> (NewMessage, Question) {
    let options: Vec<String> = asked.options.iter().map(|option| option.name.clone()).collect();
    let question = question(asked);
    let id = format!("permission-{}", uuid::Uuid::now_v7());
    let arguments = json!({ "question": question, "options": options, "input": asked.tool_call.fields.raw_input });
    let function = ToolFunction { name: TOOL.into(), arguments: arguments.to_string() };
    let message = NewMessage {
        tool_calls: Some(vec![ToolCall { id: id.clone(), kind: "function".into(), function }]),
        phase: Some("commentary".into()),
        ..NewMessage::text(Role::Assistant, String::new())
    };
    let (tool_call_id, tool_name) = (id, TOOL.into());
    (message, Question { tool_call_id, tool_name, question, options, allow_custom: false, answer })
}

/// The agent's option for an answer.
pub(super) fn response(asked: &RequestPermissionRequest, answer: &str) -> RequestPermissionResponse {
    asked.options.iter().find(|option| option.name == answer).map_or_else(refused, select)
}

/// An answer that was given to a question which an earlier run asked: the agent, which has forgotten that it asked, is
/// given it when it asks the same again.
pub(super) fn given(messages: &[Message]) -> Option<(String, String)> {
    let answer = messages.last().filter(|last| last.role == Role::Tool)?;
    let id = answer.tool_call_id.as_deref()?;
    let calls = messages.iter().rev().filter_map(|message| message.tool_calls.as_ref()?.as_array()).flatten();
    let mut calls = calls.filter(|call| call["id"] == id && call["function"]["name"] == TOOL);
    let arguments: Value = serde_json::from_str(calls.next()?["function"]["arguments"].as_str()?).ok()?;
    Some((arguments["question"].as_str()?.to_owned(), answer.content.clone()))
}

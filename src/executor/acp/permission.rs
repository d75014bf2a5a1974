//! Permissions that an agent asks for: granted, denied, or put to the user as a question.

use agent_client_protocol::v1::schema::{
    PermissionOption, PermissionOptionKind, RequestPermissionOutcome, RequestPermissionRequest,
    RequestPermissionResponse, SelectedPermissionOutcome,
};
use tokio::sync::oneshot;

use super::connection::refused;
use crate::{
    executor::{
        Question,
        permission::{self, Asking, Permissions},
    },
    model::{Message, NewMessage},
};

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
    permission::question(&title)
}

/// The message that asks the user, and the question in it.
pub(super) fn ask(asked: &RequestPermissionRequest, answer: oneshot::Sender<Message>) -> (NewMessage, Question) {
    let asking = Asking {
        tool: permission::TOOL,
        question: question(asked),
        options: asked.options.iter().map(|option| option.name.clone()).collect(),
        allow_custom: false,
        input: asked.tool_call.fields.raw_input.clone().unwrap_or_default(),
    };
    permission::ask(asking, answer)
}

/// The agent's option for an answer.
pub(super) fn response(asked: &RequestPermissionRequest, answer: &str) -> RequestPermissionResponse {
    asked.options.iter().find(|option| option.name == answer).map_or_else(refused, select)
}

//! Permissions that agents ask for, put to the user as questions. What an agent calls its answers is known to its kind.

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::{Question, content};
use crate::model::{Message, NewMessage, RawObject, Role, ToolCall};

/// The name of the call that asks for a permission.
pub(super) const TOOL: &str = "request_permission";

/// Who answers when an agent asks for permission.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Permissions {
    /// The user.
    #[default]
    Ask,
    /// It may, each time.
    Allow,
    /// It may not.
    Deny,
}

/// What is asked, in words.
pub(super) fn question(title: &str) -> String {
    format!("The agent asks for permission: {title}")
}

/// What a user is asked for an agent.
pub(super) struct Asking {
    /// The name of the call that asks.
    pub(super) tool: &'static str,
    pub(super) question: String,
    pub(super) options: Vec<String>,
    pub(super) allow_custom: bool,
    /// What the agent would do, in its own words.
    pub(super) input: Value,
}

/// The message that asks the user, and the question in it.
pub(super) fn ask(asking: Asking, answer: oneshot::Sender<Message>) -> (NewMessage, Question) {
    let Asking { tool, question, options, allow_custom, input } = asking;
    let id = format!("permission-{}", uuid::Uuid::now_v7());
    let arguments = json!({ "question": question, "options": options, "input": input });
    let message = NewMessage {
        tool_calls: Some(vec![ToolCall::new(&id, tool, arguments.to_string())]),
        phase: Some("commentary".into()),
        ..NewMessage::text(Role::Assistant, String::new())
    };
    (message, Question { tool_call_id: id, tool_name: tool.into(), question, options, allow_custom, answer })
}

/// An answer that was given to a question which an earlier run asked: the agent, which has forgotten that it asked, is
/// given it when it asks the same again.
pub(super) fn given(messages: &[Message]) -> Option<(String, String)> {
    let answer = messages.last().filter(|last| last.role == Role::Tool)?;
    let id = answer.tool_call_id.as_deref()?;
    let mut calls = messages.iter().rev().flat_map(content::calls).filter(|call| call.id.as_deref() == Some(id));
    let arguments: RawObject = serde_json::from_str(&calls.next()?.function.arguments?).ok()?;
    Some((arguments.field("question")?, answer.content.clone()))
}

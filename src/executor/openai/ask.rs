//! The one tool that a model is offered: a question to the user.

use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

use super::tell;
use crate::{
    executor::{Event, Question},
    model::{Message, ToolCall},
};

/// The tool's name.
pub(super) const TOOL: &str = "ask_user";

/// The tool, as a model is told of it.
pub(super) fn tool() -> Value {
    json!({ "type": "function", "function": {
        "name": TOOL,
        "description": "Ask the user a question and wait for the answer. Use it when the task cannot go on without \
            a decision or a fact that only the user has; otherwise decide for yourself.",
        "parameters": {
            "type": "object",
            "properties": {
                "question": { "type": "string", "description": "The question." },
                "options": { "type": "array", "items": { "type": "string" }, "description": "Answers to choose from." },
                "allow_custom": { "type": "boolean", "description": "Whether another answer is allowed; true when not given." },
            },
            "required": ["question"],
        },
    }})
}

/// Asks, and waits for the answer. None when there will be none.
pub(super) async fn ask(call: &ToolCall, events: &mpsc::Sender<Event>) -> Option<Message> {
    let (answer, answered) = oneshot::channel();
    tell(events, Event::Question(question(call, answer))).await;
    answered.await.ok()
}

/// The question in a call. A model that writes it down badly has still asked: the user sees what it wrote.
fn question(call: &ToolCall, answer: oneshot::Sender<Message>) -> Question {
    let arguments: Value = serde_json::from_str(&call.function.arguments).unwrap_or_default();
    let question = arguments["question"].as_str().filter(|text| !text.trim().is_empty());
    let options = arguments["options"].as_array().into_iter().flatten();
    let options: Vec<String> = options.filter_map(Value::as_str).map(String::from).collect();
    Question {
        tool_call_id: call.id.clone(),
        tool_name: call.function.name.clone(),
        question: question.unwrap_or(&call.function.arguments).to_owned(),
        // Without options, only words of one's own are left.
        allow_custom: options.is_empty() || arguments["allow_custom"].as_bool().unwrap_or(true),
        options,
        answer,
    }
}

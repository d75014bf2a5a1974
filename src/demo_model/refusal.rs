//! What the demo model refuses: what it is told to refuse, and a history that no provider takes.

use serde_json::{Value, json};

/// An answer that is an error.
#[derive(Debug, Clone)]
pub(super) struct Refusal {
    pub(super) status: u16,
    pub(super) body: Body,
    /// Seconds to wait before the next try, as they are written.
    pub(super) wait: String,
    /// How often; always when not given.
    pub(super) times: Option<u32>,
}

#[derive(Debug, Clone)]
pub(super) enum Body {
    Json(Value),
    Page(String),
}

impl Refusal {
    /// A refusal in the usual shape.
    pub(super) fn new(status: u16, code: &str, message: &str) -> Self {
        let body = json!({ "error": { "message": message, "type": "demo", "code": code } });
        Self { status, body: Body::Json(body), wait: "0".into(), times: None }
    }

    /// A gateway's page.
    pub(super) fn page(status: u16) -> Self {
        let page = format!(
            "<html>\r\n<head><title>{status} The gateway failed</title></head>\r\n<body></body>\r\n</html>\r\n"
        );
        Self { body: Body::Page(page), ..Self::new(status, "", "") }
    }

    /// That a field is not known, as strict servers say it.
    pub(super) fn unknown_field(name: &str) -> Self {
        let detail =
            json!([{ "type": "extra_forbidden", "loc": ["body", name], "msg": "Extra inputs are not permitted" }]);
        Self { body: Body::Json(json!({ "detail": detail })), ..Self::new(422, "", "") }
    }
}

/// What every provider refuses: arguments of a call that are no JSON, and a call without its result.
pub(super) fn of_history(messages: &[Value]) -> Option<Refusal> {
    for (at, message) in messages.iter().enumerate() {
        for call in message["tool_calls"].as_array().into_iter().flatten() {
            let arguments = call["function"]["arguments"].as_str().unwrap_or_default();
            if serde_json::from_str::<Value>(arguments).is_err() {
                let words = format!("messages.{at}: the arguments of a tool call are no valid JSON");
                return Some(Refusal::new(400, "invalid_request", &words));
            }
            let results = messages[at + 1..].iter().take_while(|message| message["role"] == "tool");
            if !results.into_iter().any(|result| result["tool_call_id"] == call["id"]) {
                let words = format!("messages.{at}: a tool call is not followed by its result");
                return Some(Refusal::new(400, "invalid_request", &words));
            }
        }
    }
    None
}

/// A history without what was put on its calls and messages.
pub(super) fn of_unsigned(messages: &[Value], signature: Option<&str>, thought: Option<&str>) -> Option<Refusal> {
    let calls = messages.iter().flat_map(|message| message["tool_calls"].as_array().into_iter().flatten());
    let mut signatures = calls.map(|call| call["extra_content"]["google"]["thought_signature"].as_str());
    if signature.is_some() && signatures.any(|found| found != signature) {
        return Some(Refusal::new(400, "invalid_request", "Function call is missing a thought_signature."));
    }
    let calling = messages.iter().filter(|message| message["tool_calls"].is_array());
    let mut thoughts = calling.map(|message| message["reasoning_details"][0]["text"].as_str());
    if thought.is_some() && thoughts.any(|found| found != thought) {
        return Some(Refusal::new(400, "invalid_request", "The message is missing its reasoning_details."));
    }
    None
}

//! Permissions that an agent asks for: granted, denied, or put to the user as a question.

use agent_client_protocol::v1::schema::{
    PermissionOption, PermissionOptionKind, RequestPermissionOutcome, RequestPermissionRequest,
    RequestPermissionResponse, SelectedPermissionOutcome, ToolCall,
};
use serde_json::{Value, json};

use super::{connection::refused, messages, told::name};
use crate::{
    executor::permission::{self, Asking, Permissions},
    model::RawJson,
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

/// What the user is asked. `call` is all that is known of the call by now: an agent may have told of it in parts.
pub(super) fn asking(call: &ToolCall, options: &[PermissionOption]) -> Asking {
    let title = Some(call.title.as_str()).filter(|title| !title.trim().is_empty());
    let title = title.map_or_else(|| format!("a call of a tool ({})", call.tool_call_id), String::from);
    let (tool, input) = (name(call), call.raw_input.as_ref().map(messages::text));
    // Some describe what they would do by its content alone, such as the new text of a file.
    let content = || (!call.content.is_empty()).then(|| RawJson::of(&call.content));
    let shown = input.clone().or_else(content);
    let labels = labels(options);
    let meaning: Vec<Value> = options.iter().map(|option| json!([option.option_id, option.kind])).collect();
    Asking {
        tool: permission::TOOL,
        question: permission::question(&title, &tool, shown.as_ref()),
        options: labels,
        allow_custom: false,
        input: input.unwrap_or_default(),
        about: json!({
            "tool": tool, "title": title, "kind": call.kind, "content": call.content, "locations": call.locations,
            "options": meaning,
        }),
    }
}

/// The agent's option for an answer.
pub(super) fn response(asked: &RequestPermissionRequest, answer: &str) -> RequestPermissionResponse {
    let mut options = labels(&asked.options).into_iter().zip(&asked.options);
    options.find(|(label, _)| label == answer).map_or_else(refused, |(_, option)| select(option))
}

/// The options' names, each of which is for one option: two of the same name are told apart by what they mean.
fn labels(options: &[PermissionOption]) -> Vec<String> {
    let name = |option: &PermissionOption| option.name.clone();
    let kind = |option: &PermissionOption| format!("{} ({})", option.name, json!(option.kind).as_str().unwrap_or("?"));
    let id = |option: &PermissionOption| format!("{} ({})", option.name, option.option_id);
    let is_clear = |labels: &[String]| labels.iter().collect::<std::collections::HashSet<_>>().len() == labels.len();
    let all = |label: &dyn Fn(&PermissionOption) -> String| options.iter().map(label).collect::<Vec<_>>();
    [all(&name), all(&kind)].into_iter().find(|labels| is_clear(labels)).unwrap_or_else(|| all(&id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_one_name_are_told_apart() {
        use PermissionOptionKind as K;
        let option = |id: &str, name: &str, kind| PermissionOption::new(id.to_owned(), name, kind);
        let plain = [option("a", "Yes", K::AllowOnce), option("b", "No", K::RejectOnce)];
        assert_eq!(labels(&plain), ["Yes", "No"]);
        let twice = [option("a", "Yes", K::AllowOnce), option("b", "Yes", K::AllowAlways)];
        assert_eq!(labels(&twice), ["Yes (allow_once)", "Yes (allow_always)"]);
        let same = [option("a", "Yes", K::AllowOnce), option("b", "Yes", K::AllowOnce)];
        assert_eq!(labels(&same), ["Yes (a)", "Yes (b)"]);
    }
}

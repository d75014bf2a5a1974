//! A session's history as a provider wants it: without what a summary stands for, and each call with its result.

use std::{borrow::Cow, collections::HashMap};

use super::{
    images::Images,
    wire::{Call, Content, Function, Part, Said},
};
use crate::{
    executor::{Turn, content},
    model::{Message, Role},
};

/// Providers refuse a transcript with a call that has no result.
const INTERRUPTED: &str = "The call was interrupted: it has no result.";

/// A message, with the results of its calls in the order of the calls.
struct Exchange<'a> {
    said: Said<'a>,
    results: Vec<Option<&'a Message>>,
}

/// The messages to send, with or without what the model thought.
pub(super) fn transcript<'a>(turn: &'a Turn, images: &'a Images, reasoning: bool) -> Vec<Said<'a>> {
    let mut exchanges: Vec<Exchange<'a>> = Vec::new();
    // Where the result of a call belongs. Some vendors use the same ids again: the last call is meant.
    let mut open: HashMap<Cow<'a, str>, (usize, usize)> = HashMap::new();
    for message in turn.messages.iter().filter(|message| !message.compressed) {
        if message.role == Role::Tool {
            // A result that no call asked for is left out: it would be refused.
            if let Some((exchange, place)) = message.tool_call_id.as_deref().and_then(|id| open.remove(id)) {
                exchanges[exchange].results[place] = Some(message);
            }
            continue;
        }
        let Some(said) = said(message, images, reasoning) else { continue };
        let calls = calls(&said);
        open.extend(calls.iter().enumerate().map(|(place, id)| (id.clone(), (exchanges.len(), place))));
        exchanges.push(Exchange { results: vec![None; calls.len()], said });
    }
    flatten(exchanges, turn.summary.as_deref())
}

fn flatten<'a>(exchanges: Vec<Exchange<'a>>, summary: Option<&'a str>) -> Vec<Said<'a>> {
    let beginning = exchanges.iter().take_while(|exchange| matches!(exchange.said, Said::System { .. })).count();
    let mut messages = Vec::new();
    for Exchange { said, results } in exchanges {
        let ids = calls(&said);
        messages.push(said);
        messages.extend(ids.into_iter().zip(results).map(|(tool_call_id, result)| {
            let content = result.map_or(INTERRUPTED, |result| &result.content);
            Said::Tool { tool_call_id, content }
        }));
    }
    // After what the session was set up with: it is what came first.
    if let Some(content) = summary {
        messages.insert(beginning, Said::System { content });
    }
    messages
}

fn calls<'a>(said: &Said<'a>) -> Vec<Cow<'a, str>> {
    match said {
        Said::Assistant { tool_calls, .. } => tool_calls.iter().map(|call| call.id.clone()).collect(),
        _ => Vec::new(),
    }
}

/// A message but for a tool's result. None when it says nothing, which some providers refuse.
fn said<'a>(message: &'a Message, images: &'a Images, reasoning: bool) -> Option<Said<'a>> {
    let content = message.content.as_str();
    match message.role {
        // Not all servers know a developer.
        Role::System | Role::Developer => Some(Said::System { content }).filter(|_| !content.is_empty()),
        Role::User => Some(Said::User { content: user(message, images) }),
        Role::Assistant => {
            let tool_calls = tool_calls(message);
            let content = Some(content).filter(|content| !content.is_empty());
            let reasoning_content = reasoning.then(|| message.reasoning.as_deref().unwrap_or_default());
            let says = content.is_some() || !tool_calls.is_empty();
            says.then_some(Said::Assistant { content, reasoning_content, tool_calls })
        }
        Role::Tool => None,
    }
}

fn user<'a>(message: &'a Message, images: &'a Images) -> Content<'a> {
    let text = message.content.as_str();
    let stored = content::parts(message);
    let has_text = stored.iter().any(|part| part.text.is_some());
    let mut parts: Vec<Part<'a>> = stored.into_iter().filter_map(|part| images.part(part)).collect();
    if parts.is_empty() {
        return Content::Text(text);
    }
    // The text is usually among the parts.
    if !has_text && !text.is_empty() {
        parts.insert(0, Part::Text { text: text.into() });
    }
    Content::Parts(parts)
}

fn tool_calls(message: &Message) -> Vec<Call<'_>> {
    content::calls(message).into_iter().filter_map(tool_call).collect()
}

fn tool_call(call: content::Call<'_>) -> Option<Call<'_>> {
    let arguments = call.function.arguments.unwrap_or("{}".into());
    let function = Function { name: call.function.name?, arguments };
    Some(Call { id: call.id?, kind: "function", function })
}

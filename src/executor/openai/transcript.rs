//! A session's history as a provider wants it: without what a summary stands for, each call with its result, and nothing
//! in it that is refused because an earlier reply was broken.

use std::{borrow::Cow, collections::HashMap};

use super::{
    calls::is_json,
    form::Form,
    images::Images,
    own::Own,
    wire::{Call, Content, Function, Part, Said},
};
use crate::{
    executor::{Turn, content},
    model::{Message, Role},
};

/// Providers refuse a transcript with a call that has no result.
const INTERRUPTED: &str = "The call was interrupted: it has no result.";
/// And one with arguments that are no JSON. The model is told how they began, in characters.
const BEGINNING: usize = 200;

/// How a history is written.
pub(super) struct Writing<'a> {
    pub(super) images: &'a Images,
    pub(super) form: Form,
    /// Where it is sent.
    pub(super) origin: &'a str,
}

/// A message, with the results of its calls in the order of the calls.
struct Exchange<'a> {
    said: Said<'a>,
    results: Vec<Answer<'a>>,
    /// Images that a message of this role cannot have; they follow it as the user's.
    pictures: Vec<Part<'a>>,
}

/// A call and its result.
struct Answer<'a> {
    /// The id of the call, as its vendor knows it.
    id: Cow<'a, str>,
    name: Cow<'a, str>,
    /// What there is to say of a call without a result.
    otherwise: Cow<'a, str>,
    result: Option<&'a Message>,
}

/// The messages to send.
pub(super) fn transcript<'a>(turn: &'a Turn, writing: &Writing<'a>) -> Vec<Said<'a>> {
    let mut exchanges: Vec<Exchange<'a>> = Vec::new();
    // Where the result of a call belongs. Some vendors use the same ids again: the last call is meant.
    let mut open: HashMap<Cow<'a, str>, (usize, usize)> = HashMap::new();
    for message in turn.messages.iter().filter(|message| !message.compressed) {
        if message.role == Role::Tool {
            // A result that no call asked for is left out: it would be refused.
            if let Some((exchange, place)) = message.tool_call_id.as_deref().and_then(|id| open.remove(id)) {
                exchanges[exchange].results[place].result = Some(message);
            }
            continue;
        }
        let Some((exchange, ids)) = writing.exchange(message) else { continue };
        open.extend(ids.into_iter().enumerate().map(|(place, id)| (id, (exchanges.len(), place))));
        exchanges.push(exchange);
    }
    writing.flatten(exchanges, turn.summary.as_deref())
}

impl<'a> Writing<'a> {
    fn flatten(&self, exchanges: Vec<Exchange<'a>>, summary: Option<&'a str>) -> Vec<Said<'a>> {
        let beginning = exchanges.iter().take_while(|exchange| matches!(exchange.said, Said::System { .. })).count();
        let mut messages = Vec::new();
        for Exchange { said, results, mut pictures } in exchanges {
            messages.push(said);
            for Answer { id, name, otherwise, result } in results {
                let (content, shown) = result.map_or((otherwise, Vec::new()), |result| self.shown(result));
                messages.push(Said::Tool { tool_call_id: id, content });
                if !shown.is_empty() {
                    let text = format!("What the result of {name} shows:").into();
                    pictures.extend([Part::Text { text }].into_iter().chain(shown));
                }
            }
            if !pictures.is_empty() {
                messages.push(Said::User { content: Content::Parts(pictures) });
            }
        }
        // After what the session was set up with: it is what came first.
        if let Some(content) = summary {
            messages.insert(beginning, Said::System { content: content.into() });
        }
        messages
    }

    /// A message but for a tool's result, and the stored ids of its calls. None when it says nothing, which some
    /// providers refuse.
    fn exchange(&self, message: &'a Message) -> Option<(Exchange<'a>, Vec<Cow<'a, str>>)> {
        let alone = |said| Some((Exchange { said, results: Vec::new(), pictures: Vec::new() }, Vec::new()));
        match message.role {
            // Not all servers know a developer.
            Role::System | Role::Developer => match content::words(message) {
                text if text.is_empty() => None,
                content => alone(Said::System { content }),
            },
            Role::User => alone(Said::User { content: self.user(message) }),
            Role::Assistant => self.assistant(message),
            Role::Tool => None,
        }
    }

    fn assistant(&self, message: &'a Message) -> Option<(Exchange<'a>, Vec<Cow<'a, str>>)> {
        let mut own = if self.form.extra { Own::of(message, self.origin) } else { Own::default() };
        let (mut tool_calls, mut results, mut ids) = (Vec::new(), Vec::new(), Vec::new());
        for (place, call) in content::calls(message).into_iter().enumerate() {
            let (Some(id), Some(name)) = (call.id, call.function.name) else { continue };
            let (extra, vendor_id) = own.take_call(place);
            let (arguments, otherwise) = arguments(call.function.arguments);
            let wire_id = vendor_id.map_or_else(|| id.clone(), Cow::Owned);
            ids.push(id);
            results.push(Answer { id: wire_id.clone(), name: name.clone(), otherwise, result: None });
            tool_calls.push(Call { id: wire_id, kind: "function", function: Function { name, arguments }, extra });
        }
        let (text, shown) = self.shown(message);
        let content = Some(text).filter(|text| !text.is_empty());
        let reasoning_content = self.form.reasoning.then(|| message.reasoning.as_deref().unwrap_or_default());
        let says = content.is_some() || !tool_calls.is_empty();
        let pictures = match shown.is_empty() {
            true => shown,
            false => [Part::Text { text: "What the assistant showed:".into() }].into_iter().chain(shown).collect(),
        };
        let said = Said::Assistant { content, reasoning_content, tool_calls, extra: own.message };
        says.then_some((Exchange { said, results, pictures }, ids))
    }

    /// A message's text, with a word for each image, and the images: only a user's message can have some.
    fn shown(&self, message: &'a Message) -> (Cow<'a, str>, Vec<Part<'a>>) {
        let mut text = content::words(message);
        let mut shown = Vec::new();
        for part in content::parts(message).into_iter().filter(|part| part.url().is_some()) {
            let word = match self.images.part(part) {
                Some(Part::Text { text }) => text,
                Some(image) => {
                    shown.push(image);
                    "[An image: it follows.]".into()
                }
                None => continue,
            };
            text = if text.is_empty() { word } else { format!("{text}\n{word}").into() };
        }
        (text, shown)
    }

    fn user(&self, message: &'a Message) -> Content<'a> {
        let parts = content::parts(message);
        let said: Vec<&str> = parts.iter().filter_map(|part| part.text.as_deref()).collect();
        // The text is usually among the parts.
        let apart = !content::has(&said.join("\n"), &message.content);
        let mut parts: Vec<Part<'a>> = parts.into_iter().filter_map(|part| self.images.part(part)).collect();
        if parts.is_empty() {
            return Content::Text(message.content.as_str().into());
        }
        if apart {
            parts.insert(0, Part::Text { text: message.content.as_str().into() });
        }
        Content::Parts(parts)
    }
}

/// A call's arguments as all providers take them, and what is said of it when it has no result.
fn arguments(arguments: Option<Cow<'_, str>>) -> (Cow<'_, str>, Cow<'_, str>) {
    match arguments {
        None => ("{}".into(), INTERRUPTED.into()),
        Some(arguments) if is_json(&arguments) => (arguments, INTERRUPTED.into()),
        Some(arguments) if arguments.trim().is_empty() => ("{}".into(), INTERRUPTED.into()),
        Some(arguments) => {
            let beginning: String = arguments.chars().take(BEGINNING).collect();
            let words =
                format!("The call was cut off and not carried out: its arguments are no JSON. They began: {beginning}");
            ("{}".into(), words.into())
        }
    }
}

//! What the server tells of a turn, as messages. Its events are of all that ever happens to a session: what belongs to
//! this turn is told by the mark that its prompt carries.

use std::collections::HashMap;

use serde_json::{Value, json};

use crate::{
    executor::{
        Error, Event, Outcome,
        told::{self, Words},
    },
    model::{JsonObject, Limits, RawJson},
};

/// Where a prompt carries its mark.
const MARK: &str = "culm";
/// Characters of an error that are told.
const TOLD: usize = 1000;

/// A prompt's text that carries a mark.
pub(super) fn marked(text: &str, mark: &str) -> Value {
    json!({ "type": "text", "text": text, "metadata": { MARK: mark } })
}

/// What was told so far, and is not yet a message.
pub(super) struct Told {
    mark: String,
    /// The message that asks, by its id.
    asked: Option<String>,
    /// The messages that answer, and what each cost.
    answers: HashMap<String, Value>,
    parts: HashMap<String, Part>,
    calls: HashMap<String, Call>,
    words: Words,
    usage: JsonObject,
    error: Option<Error>,
    limits: Limits,
}

/// A part of an answer that grows.
struct Part {
    reasoning: bool,
    /// Bytes of it that were heard.
    heard: usize,
}

/// How far a call of a tool has come.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Call {
    Written,
    Begun,
    Ended,
}

impl Told {
    pub(super) fn new(mark: String, limits: Limits) -> Self {
        Self {
            mark,
            asked: None,
            answers: HashMap::new(),
            parts: HashMap::new(),
            calls: HashMap::new(),
            words: Words::new(&limits),
            usage: JsonObject::new(),
            error: None,
            limits,
        }
    }

    /// What an event of the session says to whoever listens.
    pub(super) fn hear(&mut self, kind: &str, said: &Value) -> Vec<Event> {
        match kind {
            "message.updated" => self.message(&said["info"]),
            "message.part.updated" => self.part(&said["part"]),
            "message.part.delta" if said["field"] == "text" => self.grow(said),
            "todo.updated" => vec![tasks(&said["todos"])],
            "session.error" => {
                self.error = self.asked.is_some().then(|| failure(&said["error"]));
                Vec::new()
            }
            _ => Vec::new(),
        }
    }

    /// Whether the turn is worked on: an end that is told before that is an earlier one's.
    pub(super) fn has_begun(&self) -> bool {
        !self.answers.is_empty() || self.error.is_some()
    }

    /// What is left to say when the turn has ended, and how it did.
    pub(super) fn end(&mut self) -> (Option<Event>, Result<Outcome, Error>) {
        match self.error.take() {
            Some(error) => (self.words.said("commentary"), Err(error)),
            None => (self.words.said("final_answer"), Ok(Outcome::Completed)),
        }
    }

    /// The words so far, as a message.
    pub(super) fn said(&mut self) -> Option<Event> {
        self.words.said("commentary")
    }

    fn message(&mut self, info: &Value) -> Vec<Event> {
        let Some(id) = info["id"].as_str().filter(|_| info["role"] == "assistant" && self.asked.is_some()) else {
            return Vec::new();
        };
        let ended = !info["time"]["completed"].is_null();
        if !self.answers.contains_key(id) {
            // Late news of an earlier turn are of what has ended; what goes on after the history was made shorter
            // answers another message than the one that asked.
            if ended && info["parentID"].as_str() != self.asked.as_deref() {
                return Vec::new();
            }
            // Whatever failed before, it goes on.
            self.error = None;
        }
        let cost = if ended { json!({ "tokens": info["tokens"], "cost": info["cost"] }) } else { Value::Null };
        let known = self.answers.insert(id.into(), cost.clone());
        if cost.is_null() || known.as_ref() == Some(&cost) { Vec::new() } else { vec![self.count()] }
    }

    /// The sum of all answers, in the words of models' providers.
    fn count(&mut self) -> Event {
        let sum = |path: &[&str]| {
            let count = |cost: &Value| path.iter().try_fold(cost, |cost, name| cost.get(name))?.as_f64();
            self.answers.values().filter_map(count).sum::<f64>()
        };
        let tokens = |name| sum(&["tokens", name]);
        let cached = sum(&["tokens", "cache", "read"]) + sum(&["tokens", "cache", "write"]);
        let (prompt, completion) = (tokens("input") + cached, tokens("output") + tokens("reasoning"));
        let cost = sum(&["cost"]);
        for (name, count) in
            [("prompt_tokens", prompt), ("completion_tokens", completion), ("total_tokens", prompt + completion)]
        {
            self.usage.insert(name.into(), (count as u64).into());
        }
        if cost > 0.0 {
            self.usage.insert("cost".into(), json!({ "amount": cost, "currency": "USD" }));
        }
        Event::Usage(self.usage.clone())
    }

    fn part(&mut self, part: &Value) -> Vec<Event> {
        let message = part["messageID"].as_str().unwrap_or_default();
        if part["metadata"][MARK] == self.mark.as_str() {
            self.asked = Some(message.into());
        }
        if !self.answers.contains_key(message) {
            return Vec::new();
        }
        match part["type"].as_str() {
            Some("text") => self.whole(part, false),
            Some("reasoning") => self.whole(part, true),
            Some("tool") => self.tool(part),
            _ => Vec::new(),
        }
    }

    /// A part as it is now: what was not heard of it is told.
    fn whole(&mut self, part: &Value, reasoning: bool) -> Vec<Event> {
        let text = part["text"].as_str().unwrap_or_default();
        let known = self.parts.entry(id(part)).or_insert(Part { reasoning, heard: 0 });
        let more = text.get(known.heard..).unwrap_or_default();
        known.heard += more.len();
        self.tell(reasoning, more)
    }

    /// A fragment of a part.
    fn grow(&mut self, said: &Value) -> Vec<Event> {
        let (part, more) = (said["partID"].as_str().unwrap_or_default(), said["delta"].as_str().unwrap_or_default());
        let Some(part) = self.parts.get_mut(part) else { return Vec::new() };
        part.heard += more.len();
        let reasoning = part.reasoning;
        self.tell(reasoning, more)
    }

    fn tell(&mut self, reasoning: bool, more: &str) -> Vec<Event> {
        match (more.is_empty(), reasoning) {
            (true, _) => Vec::new(),
            (false, true) => self.words.reasoning(more),
            (false, false) => self.words.text(more),
        }
    }

    /// A call's state: that it is written, that it began or goes on, or what came of it.
    fn tool(&mut self, part: &Value) -> Vec<Event> {
        let (id, state) = (id(part), &part["state"]);
        let stage = match state["status"].as_str() {
            Some("completed" | "error") => Call::Ended,
            Some("running") => Call::Begun,
            _ => Call::Written,
        };
        let known = self.calls.insert(id.clone(), stage);
        let mut events = Vec::new();
        if known.is_none() {
            events.extend(self.said());
        }
        if stage >= Call::Begun && known.is_none_or(|known| known < Call::Begun) {
            let name = part["tool"].as_str().unwrap_or_default();
            let metadata = json!({ "title": state["title"].as_str().map(told::name) });
            let input = state.get("input").map(RawJson::of);
            events.push(Event::Message(told::called(&id, name, input.as_ref(), &metadata, &self.limits)));
        }
        match stage {
            Call::Ended if known == Some(Call::Ended) => {}
            Call::Ended => events.push(Event::Message(self.result(&id, state))),
            _ => {
                let text = state["title"].as_str().or_else(|| part["tool"].as_str()).unwrap_or_default();
                events.push(Event::ToolProgress { tool_call_id: told::call_id(&id), text: told::name(text) });
            }
        }
        events
    }

    fn result(&self, id: &str, state: &Value) -> crate::model::NewMessage {
        let success = state["status"] == "completed";
        let text = if success { &state["output"] } else { &state["error"] };
        told::result(id, success, text.as_str().unwrap_or_default(), &self.limits)
    }
}

/// A part's id: that of a call is one of its turn alone, for some models.
fn id(part: &Value) -> String {
    part["id"].as_str().unwrap_or_default().to_owned()
}

fn tasks(todos: &Value) -> Event {
    let todos = todos.as_array().into_iter().flatten();
    told::tasks(todos.map(|todo| {
        let description = todo["content"].as_str().unwrap_or_default().to_owned();
        (description, todo["status"].clone(), todo["priority"].clone())
    }))
}

/// Why a turn failed.
fn failure(error: &Value) -> Error {
    let name = error["name"].as_str().unwrap_or("something");
    let why: String = error["data"]["message"].as_str().unwrap_or(name).chars().take(TOLD).collect();
    match name {
        "ContextOverflowError" => Error::ContextTooLong(why),
        "MessageAbortedError" => Error::Failed("the agent was told to stop by somebody else".into()),
        _ => Error::Failed(format!("the agent failed: {why}")),
    }
}

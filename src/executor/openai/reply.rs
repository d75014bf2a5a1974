//! A model's reply, put together from its fragments.

use serde_json::json;

use super::wire::{CallDelta, Choice};
use crate::{
    executor::{Error, Event},
    model::{JsonObject, Limits, NewMessage, Role, ToolCall},
};

/// More calls than any model makes at once, and few enough to look through.
const CALLS: usize = 128;
/// A call's share of a message's size beside its text.
const CALL_BYTES: usize = 64;

/// What was said so far.
#[derive(Default)]
pub(super) struct Reply {
    text: String,
    reasoning: String,
    calls: Vec<Call>,
    /// How it ended, once it has.
    pub(super) finish_reason: Option<String>,
    /// What it used. Some vendors count with every fragment: the last count stands.
    pub(super) usage: Option<JsonObject>,
}

#[derive(Default)]
struct Call {
    index: Option<i64>,
    id: String,
    name: String,
    arguments: String,
}

impl Reply {
    /// Whether the model has begun to speak: asking again would make it speak twice.
    pub(super) fn has_begun(&self) -> bool {
        !(self.text.is_empty() && self.reasoning.is_empty() && self.calls.is_empty())
    }

    /// Takes a fragment in, and gives what is to be told of it.
    pub(super) fn take(&mut self, choice: Choice, limits: &Limits) -> Result<Vec<Event>, Error> {
        let whole = choice.message.filter(|_| !self.has_begun());
        let delta = choice.delta.or(whole).unwrap_or_default();
        let (reasoning, text) = (delta.reasoning(), delta.text());
        self.reasoning.push_str(&reasoning);
        self.text.push_str(&text);
        for call in delta.tool_calls.into_iter().flatten() {
            self.take_call(call)?;
        }
        self.finish_reason = choice.finish_reason.filter(|reason| !reason.is_empty()).or(self.finish_reason.take());
        if self.size() > limits.message {
            return Err(Error::Failed(format!("the model wrote more than {} bytes in one message", limits.message)));
        }
        let events = [(reasoning, Event::ReasoningDelta as fn(_) -> _), (text, Event::TextDelta)];
        Ok(events.into_iter().filter(|(text, _)| !text.is_empty()).map(|(text, event)| event(text)).collect())
    }

    fn size(&self) -> usize {
        let call = |call: &Call| call.id.len() + call.name.len() + call.arguments.len() + CALL_BYTES;
        self.text.len() + self.reasoning.len() + self.calls.iter().map(call).sum::<usize>()
    }

    fn take_call(&mut self, delta: CallDelta) -> Result<(), Error> {
        let function = delta.function.unwrap_or_default();
        let id = delta.id.unwrap_or_default();
        let name = function.name.as_deref().unwrap_or_default();
        let place = self.calls.iter().rposition(|call| call.is_meant(delta.index, &id));
        // Without index and id, a name begins a call.
        let place = place.or_else(|| {
            let goes_on = delta.index.is_none() && id.is_empty() && name.is_empty();
            goes_on.then(|| self.calls.len().checked_sub(1)).flatten()
        });
        let place = match place {
            Some(place) => place,
            None if self.calls.len() == CALLS => {
                return Err(Error::Failed(format!("the model called more than {CALLS} tools at once")));
            }
            None => {
                self.calls.push(Call { index: delta.index, ..Call::default() });
                self.calls.len() - 1
            }
        };
        self.calls[place].extend(&id, name, &function.arguments());
        Ok(())
    }

    /// The whole message. None when nothing was said.
    pub(super) fn into_message(self, limits: &Limits) -> Result<Option<NewMessage>, Error> {
        if !self.has_begun() {
            return match self.finish_reason.as_deref().filter(|reason| !is_usual(reason)) {
                None => Ok(None),
                Some(reason) => Err(Error::Failed(format!("the model ended with '{reason}' before it said anything"))),
            };
        }
        let reason = self.finish_reason.filter(|reason| !is_usual(reason));
        let calls = finished(self.calls)?;
        let message = NewMessage {
            id: Some(crate::model::MessageId::mint()),
            reasoning: Some(self.reasoning).filter(|reasoning| !reasoning.is_empty()),
            phase: Some(if calls.is_empty() { "final_answer" } else { "commentary" }.into()),
            tool_calls: Some(calls).filter(|calls| !calls.is_empty()),
            // Cut off by a limit or a filter: the reader is to know.
            metadata: reason.map(|reason| json!({ "finish_reason": reason }).into()),
            ..NewMessage::text(Role::Assistant, self.text)
        };
        message.check(limits).map_err(|invalid| Error::Failed(format!("the model's message: {invalid}")))?;
        Ok(Some(message))
    }
}

impl Call {
    /// Whether a fragment goes on with this call. Some vendors give all calls the same index: a new id is a new call.
    fn is_meant(&self, index: Option<i64>, id: &str) -> bool {
        match (index, id) {
            (None, "") => false,
            (Some(_), "") => self.index == index,
            (Some(_), id) => self.index == index && (self.id.is_empty() || self.id == id),
            (None, id) => self.id == id,
        }
    }

    fn extend(&mut self, id: &str, name: &str, arguments: &str) {
        // Some vendors repeat both with every fragment.
        for (mine, given) in [(&mut self.id, id), (&mut self.name, name)] {
            if mine.is_empty() {
                mine.push_str(given);
            }
        }
        self.arguments.push_str(arguments);
    }
}

/// The calls as they are stored. A result must find its call, so an id that cannot be one is replaced.
fn finished(calls: Vec<Call>) -> Result<Vec<ToolCall>, Error> {
    let mut finished: Vec<ToolCall> = Vec::new();
    for Call { id, name, arguments, .. } in calls {
        if name.is_empty() {
            return Err(Error::Failed("the model called a tool without naming it".into()));
        }
        let is_id = !id.is_empty() && id.len() <= 128 && !id.chars().any(char::is_control);
        let is_id = is_id && finished.iter().all(|other| other.id != id);
        let id = if is_id { id } else { format!("call_{}", uuid::Uuid::now_v7().simple()) };
        let arguments = if arguments.trim().is_empty() { "{}".into() } else { arguments };
        finished.push(ToolCall::new(id, name, arguments));
    }
    Ok(finished)
}

/// How a reply ends that was not cut off.
fn is_usual(reason: &str) -> bool {
    ["stop", "end_turn", "eos", "tool_calls", "function_call"].iter().any(|usual| reason.eq_ignore_ascii_case(usual))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn calls(fragments: &[Value]) -> Vec<(String, String, String)> {
        let mut reply = Reply::default();
        for fragment in fragments {
            let choice = serde_json::from_value(json!({ "delta": { "tool_calls": [fragment] } })).unwrap();
            reply.take(choice, &Limits::default()).unwrap();
        }
        let calls = reply.into_message(&Limits::default()).unwrap().unwrap().tool_calls.unwrap();
        calls.into_iter().map(|call| (call.id, call.function.name, call.function.arguments)).collect()
    }

    #[test]
    fn calls_are_put_together_however_a_vendor_cuts_them() {
        let wanted = [("a", "read", "{\"x\":1}"), ("b", "list", "{}")];
        let wanted = wanted.map(|(id, name, arguments)| (id.into(), name.into(), arguments.into()));
        let call = |name: &str, arguments: Value| json!({ "name": name, "arguments": arguments });
        let by_index = [
            json!({ "index": 0, "id": "a", "function": call("read", json!("{\"x\"")) }),
            json!({ "index": 1, "id": "b", "function": call("list", json!("")) }),
            json!({ "index": 0, "function": { "arguments": ":1}" } }),
        ];
        let repeating_all = [
            json!({ "index": 0, "id": "a", "function": call("read", json!("{\"x\"")) }),
            json!({ "index": 0, "id": "a", "function": call("read", json!(":1}")) }),
            json!({ "index": 1, "id": "b", "function": call("list", Value::Null) }),
        ];
        let all_at_index_0 = [
            json!({ "index": 0, "id": "a", "function": call("read", json!("{\"x\":1}")) }),
            json!({ "index": 0, "id": "b", "function": call("list", json!({})) }),
        ];
        let without_index = [
            json!({ "id": "a", "function": call("read", json!("{\"x\"")) }),
            json!({ "function": { "arguments": ":1}" } }),
            json!({ "id": "b", "function": call("list", json!(" ")) }),
        ];
        for fragments in [&by_index[..], &repeating_all, &all_at_index_0, &without_index] {
            assert_eq!(calls(fragments), wanted, "{fragments:?}");
        }
    }

    #[test]
    fn calls_without_an_id_or_with_one_twice_get_one() {
        let nameless = json!({ "function": { "name": "read", "arguments": {} } });
        let twice = json!({ "index": 0, "id": "", "function": { "name": "read" } });
        let again = json!({ "index": 1, "id": "x\n", "function": { "name": "read" } });
        let found = calls(&[nameless.clone(), nameless, twice, again]);
        assert_eq!(found.len(), 4);
        assert!(found.iter().all(|(id, ..)| id.starts_with("call_")), "{found:?}");
    }

    #[test]
    fn nothing_is_kept_without_bound() {
        let limits = Limits { message: 1000, ..Limits::default() };
        let choice = |delta: Value| serde_json::from_value::<Choice>(json!({ "delta": delta })).unwrap();
        let mut reply = Reply::default();
        assert!(reply.take(choice(json!({ "content": "x".repeat(600) })), &limits).is_ok());
        assert!(reply.take(choice(json!({ "reasoning": "x".repeat(600) })), &limits).is_err());
        let call = |index: usize| json!({ "tool_calls": [{ "index": index, "function": { "name": "f" } }] });
        let mut reply = Reply::default();
        let taken = (0..=CALLS).map(|index| reply.take(choice(call(index)), &Limits::default()));
        assert_eq!(taken.filter(Result::is_ok).count(), CALLS);
    }
}

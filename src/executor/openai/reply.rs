//! A model's reply, put together from its fragments.

use serde_json::json;

use super::{
    calls::Calls,
    chunk::{Chunk, Delta},
    extra, usage,
};
use crate::{
    executor::{Error, Event, surrogates::Joiner},
    model::{JsonObject, Limits, NewMessage, Role},
};

/// Where a message keeps which provider its own fields are from.
pub(super) const ORIGIN: &str = "provider";

/// What was said so far.
#[derive(Default)]
pub(super) struct Reply {
    text: Text,
    reasoning: Text,
    calls: Calls,
    extra: JsonObject,
    extra_bytes: usize,
    /// How it ended, once it has.
    pub(super) finish_reason: Option<String>,
    /// What it used. Some vendors count with every fragment: the last count stands.
    pub(super) usage: Option<JsonObject>,
    /// Which of several replies this is.
    choice: Option<i64>,
}

#[derive(Default)]
struct Text {
    text: String,
    joiner: Joiner,
}

/// A message that is whole, and what is wrong with it.
pub(super) struct Finished {
    pub(super) message: NewMessage,
    /// Why nothing can be done with it, although it is kept.
    pub(super) cut: Option<Error>,
}

impl Reply {
    /// Whether the model has begun to speak: asking again would make it speak twice.
    pub(super) fn has_begun(&self) -> bool {
        !(self.text.text.is_empty() && self.reasoning.text.is_empty() && self.calls.is_empty())
    }

    /// Whether it says nothing that a reader could see.
    pub(super) fn is_empty(&self) -> bool {
        let blank = |text: &Text| text.text.trim().is_empty();
        blank(&self.text) && blank(&self.reasoning) && self.calls.is_empty()
    }

    /// Whether its end gives no reason why there is nothing in it.
    pub(super) fn ended_as_usual(&self) -> bool {
        self.finish_reason.as_deref().is_none_or(|reason| is_usual(reason) || is_failure(reason))
    }

    /// Takes a chunk in, and gives what is to be told of it, and whether it had any content.
    pub(super) fn take(&mut self, chunk: Chunk, limits: &Limits) -> Result<(Vec<Event>, bool), Error> {
        if let Some(newer) = chunk.usage {
            usage::renew(self.usage.get_or_insert_default(), newer);
        }
        self.choice = self.choice.or(chunk.choice);
        if chunk.choice.is_some() && chunk.choice != self.choice {
            return Ok((Vec::new(), false));
        }
        let whole = chunk.whole.filter(|_| !self.has_begun());
        let delta = if chunk.delta.says() { chunk.delta } else { whole.unwrap_or_default() };
        // Servers that only want to be heard may repeat what is no content.
        let is_end = self.finish_reason.is_none() && chunk.finish_reason.is_some();
        let has_own = self.finish_reason.is_none() && !delta.extra.is_empty();
        let says = !(delta.text.is_empty() && delta.reasoning.is_empty() && delta.calls.is_empty());
        let has_content = says || is_end || has_own;
        self.finish_reason = chunk.finish_reason.or(self.finish_reason.take());
        let Delta { text, reasoning, calls, extra, .. } = delta;
        let (reasoning, text) = (self.reasoning.push(&reasoning), self.text.push(&text));
        calls.into_iter().try_for_each(|call| self.calls.take(call))?;
        if !extra.is_empty() {
            self.extra_bytes += serde_json::to_string(&extra).map_or(0, |json| json.len());
            extra::merge(&mut self.extra, extra);
        }
        if self.bytes() > limits.message {
            return Err(Error::Failed(format!("the model wrote more than {} bytes in one message", limits.message)));
        }
        let events = [(reasoning, Event::ReasoningDelta as fn(_) -> _), (text, Event::TextDelta)];
        let events = events.into_iter().filter(|(text, _)| !text.is_empty()).map(|(text, event)| event(text));
        Ok((events.collect(), has_content))
    }

    fn bytes(&self) -> usize {
        self.text.text.len() + self.reasoning.text.len() + self.calls.bytes() + self.extra_bytes
    }

    /// Why the reply is no success, if its end says so or there is nothing in it.
    pub(super) fn failure(&self) -> Option<Error> {
        let reason = self.finish_reason.as_deref().unwrap_or_default();
        let words = match reason {
            _ if is_failure(reason) => format!("the provider broke off: it ended the reply with '{reason}'"),
            _ if !self.is_empty() => return None,
            _ if is_usual(reason) => "the model ended its turn without saying anything".into(),
            _ => format!("the model ended with '{reason}' before it said anything"),
        };
        Some(Error::Failed(words))
    }

    /// The whole message, with the vendor's own fields and where they are from.
    pub(super) fn into_message(mut self, origin: &str, limits: &Limits) -> Result<Finished, Error> {
        let reason = self.finish_reason.filter(|reason| !is_usual(reason));
        let is_cut = reason.as_deref().is_some_and(is_cut);
        let calls = self.calls.finish(is_cut)?;
        let mut metadata = JsonObject::new();
        // Cut off by a limit or a filter: the reader is to know.
        if let Some(reason) = &reason {
            metadata.insert("finish_reason".into(), json!(reason));
        }
        if !calls.incomplete.is_empty() {
            metadata.insert("incomplete_tool_calls".into(), json!(calls.incomplete));
        }
        let cut = reason.filter(|_| is_cut && !calls.incomplete.is_empty()).map(|reason| {
            Error::Failed(format!(
                "a call of a tool was cut off, its arguments are incomplete (finish_reason '{reason}')"
            ))
        });
        if !self.extra.is_empty() || calls.calls.iter().any(|call| !call.extra.is_empty()) {
            self.extra.insert(ORIGIN.into(), json!(origin));
        }
        let calls = calls.calls;
        let message = NewMessage {
            id: Some(crate::model::MessageId::mint()),
            reasoning: Some(self.reasoning.end()).filter(|reasoning| !reasoning.is_empty()),
            phase: Some(if calls.is_empty() { "final_answer" } else { "commentary" }.into()),
            tool_calls: Some(calls).filter(|calls| !calls.is_empty()),
            metadata: Some(metadata).filter(|metadata| !metadata.is_empty()).map(|metadata| json!(metadata).into()),
            extra: self.extra.into(),
            ..NewMessage::text(Role::Assistant, self.text.end())
        };
        message.check(limits).map_err(|invalid| Error::Failed(format!("the model's message: {invalid}")))?;
        Ok(Finished { message, cut })
    }
}

impl Text {
    /// Makes it longer. What can be shown of the new piece.
    fn push(&mut self, piece: &str) -> String {
        let piece = self.joiner.join(piece);
        self.text.push_str(&piece);
        piece
    }

    fn end(mut self) -> String {
        self.text.push_str(self.joiner.end());
        self.text
    }
}

/// How a reply ends that was not cut off.
fn is_usual(reason: &str) -> bool {
    let usual = ["", "stop", "end_turn", "eos", "stop_sequence", "tool_calls", "tool_use", "function_call"];
    usual.iter().any(|usual| reason.eq_ignore_ascii_case(usual))
}

/// How one ends that reached a limit.
fn is_cut(reason: &str) -> bool {
    let reason = reason.to_ascii_lowercase();
    ["length", "max_tokens", "max_output_tokens", "model_context_window_exceeded", "incomplete"].contains(&&*reason)
}

/// How one ends that failed at the provider's.
fn is_failure(reason: &str) -> bool {
    let reason = reason.to_ascii_lowercase();
    let words = ["error", "failed", "insufficient_system_resource", "malformed", "unexpected_tool_call", "abort"];
    words.iter().any(|word| reason.contains(word))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn chunk(delta: Value, reason: Option<&str>) -> Chunk {
        Chunk::read(json!({ "choices": [{ "delta": delta, "finish_reason": reason }] }))
    }

    fn reply(delta: Value, reason: &str) -> Reply {
        let mut reply = Reply::default();
        reply.take(chunk(delta, Some(reason)), &Limits::default()).unwrap();
        reply
    }

    #[test]
    fn nothing_is_kept_without_bound() {
        let limits = Limits { message: 1000, ..Limits::default() };
        let mut reply = Reply::default();
        assert!(reply.take(chunk(json!({ "content": "x".repeat(600) }), None), &limits).is_ok());
        assert!(reply.take(chunk(json!({ "reasoning": "x".repeat(600) }), None), &limits).is_err());
        let mut reply = Reply::default();
        let own = || chunk(json!({ "own": "x".repeat(600) }), None);
        assert!(reply.take(own(), &limits).is_ok() && reply.take(own(), &limits).is_err());
    }

    #[test]
    fn of_several_replies_the_first_is_taken() {
        let of = |index: i64, text: &str| {
            Chunk::read(json!({ "choices": [{ "index": index, "delta": { "content": text } }] }))
        };
        let both = json!({ "choices": [{ "index": 2, "delta": { "content": "b" } }, { "index": 1, "delta": { "content": "!" } }] });
        let mut reply = Reply::default();
        for chunk in [of(1, "hi"), of(2, "other"), Chunk::read(both)] {
            reply.take(chunk, &Limits::default()).unwrap();
        }
        assert_eq!(reply.text.text, "hi!");
    }

    #[test]
    fn an_end_that_is_an_error_and_an_empty_reply_are_failures() {
        let text = || json!({ "content": "half" });
        for (reply, words) in [
            (reply(text(), "error"), "'error'"),
            (reply(text(), "MALFORMED_FUNCTION_CALL"), "MALFORMED"),
            (reply(json!({ "content": "\n" }), "stop"), "without saying anything"),
            (reply(json!({}), "length"), "'length' before"),
        ] {
            assert!(reply.failure().unwrap().to_string().contains(words), "{words}");
        }
        for reply in
            [reply(text(), "length"), reply(json!({ "reasoning": "all" }), "stop"), reply(text(), "content_filter")]
        {
            assert!(reply.failure().is_none());
        }
    }

    #[test]
    fn arguments_that_were_cut_off_are_stored_as_incomplete() {
        let call = json!({ "index": 0, "id": "a", "function": { "name": "write", "arguments": "{\"path\": \"x" } });
        let finished =
            reply(json!({ "tool_calls": [call] }), "length").into_message("here", &Limits::default()).unwrap();
        let metadata: Value = finished.message.metadata.unwrap().parse().unwrap();
        assert_eq!(metadata, json!({ "finish_reason": "length", "incomplete_tool_calls": ["a"] }));
        assert!(finished.cut.is_some());
        assert_eq!(finished.message.tool_calls.unwrap()[0].function.arguments, "{\"path\": \"x");
    }
}

//! The calls of a reply, put together from their fragments. Vendors number all calls 0, give each fragment an id of its
//! own, give none, or repeat the whole: what a fragment belongs to is decided by all that it says.

use serde_json::json;

use super::{chunk::CallDelta, extra};
use crate::{
    executor::{Error, surrogates, surrogates::Joiner},
    model::{JsonObject, ToolCall},
};

/// More calls than any model makes at once, and few enough to look through.
const CALLS: usize = 128;
/// A call's share of a message's size beside its text.
const CALL_BYTES: usize = 64;
/// Characters of an id that a result can refer to. Some vendors put a signature of kilobytes into it.
const ID: usize = 128;
/// Under which name a call keeps the id that its vendor gave it, if that is none of ours.
pub(super) const VENDOR_ID: &str = "provider_call_id";

/// The calls so far.
#[derive(Debug, Default)]
pub(super) struct Calls(Vec<Call>);

#[derive(Debug, Default)]
struct Call {
    index: Option<i64>,
    id: String,
    name: String,
    arguments: String,
    joiner: Joiner,
    extra: JsonObject,
    extra_bytes: usize,
}

/// The calls of a reply that has ended.
pub(super) struct Finished {
    pub(super) calls: Vec<ToolCall>,
    /// The ids of those whose arguments are no JSON.
    pub(super) incomplete: Vec<String>,
}

impl Calls {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// About how many bytes they have.
    pub(super) fn bytes(&self) -> usize {
        let bytes =
            |call: &Call| call.id.len() + call.name.len() + call.arguments.len() + call.extra_bytes + CALL_BYTES;
        self.0.iter().map(bytes).sum()
    }

    /// Takes a fragment.
    pub(super) fn take(&mut self, fragment: CallDelta) -> Result<(), Error> {
        let place = match self.place(&fragment) {
            Some(place) => place,
            None if self.0.len() == CALLS => {
                return Err(Error::Failed(format!("the model called more than {CALLS} tools at once")));
            }
            None => {
                self.0.push(Call { index: fragment.index, ..Call::default() });
                self.0.len() - 1
            }
        };
        self.0[place].extend(fragment);
        Ok(())
    }

    /// The call that a fragment continues. None when it begins one.
    fn place(&self, fragment: &CallDelta) -> Option<usize> {
        let same_id = |call: &Call| !fragment.id.is_empty() && call.id == fragment.id;
        let by_id = self.0.iter().rposition(same_id);
        let by_index = fragment.index.and_then(|index| self.0.iter().rposition(|call| call.index == Some(index)));
        // The same id at another index may be a vendor that uses one id for all: then the index decides.
        let found = match (by_index, by_id) {
            (Some(place), _) if same_id(&self.0[place]) => return Some(place),
            (None, Some(place)) if fragment.index.is_none() || fragment.name.is_empty() => return Some(place),
            (Some(place), _) => place,
            // A name begins a call, unless the last one, of the same name, is in the midst of its arguments.
            (None, _) if fragment.name.is_empty() => self.0.len().checked_sub(1)?,
            (None, _) if fragment.index.is_some() || !self.0.last()?.is_unfinished(&fragment.name) => return None,
            (None, _) => self.0.len() - 1,
        };
        (!self.0[found].is_before(fragment)).then_some(found)
    }

    /// The calls as they are stored. `cut` says that the reply ended before the model did.
    pub(super) fn finish(self, cut: bool) -> Result<Finished, Error> {
        let mut finished = Finished { calls: Vec::new(), incomplete: Vec::new() };
        let last = self.0.len().saturating_sub(1);
        for (place, mut call) in self.0.into_iter().enumerate() {
            call.arguments.push_str(call.joiner.end());
            match call.name.is_empty() {
                true if cut => continue,
                true => return Err(Error::Failed("the model called a tool without naming it".into())),
                false => finished.add(call, cut && place == last),
            }
        }
        Ok(finished)
    }
}

impl Finished {
    /// Adds a call. A result must find its call, so an id that cannot be one is replaced.
    fn add(&mut self, call: Call, cut: bool) {
        let Call { id: given, name, arguments, mut extra, .. } = call;
        let is_id = !given.is_empty() && given.len() <= ID && !given.chars().any(char::is_control);
        let is_id = is_id && self.calls.iter().all(|other| other.id != given);
        let id = if is_id { given.clone() } else { format!("call_{}", uuid::Uuid::now_v7().simple()) };
        if !is_id && given.len() > ID {
            extra.insert(VENDOR_ID.into(), json!(given));
        }
        let empty = arguments.trim().is_empty();
        if (empty && cut) || (!empty && !is_json(&arguments)) {
            self.incomplete.push(id.clone());
        }
        let arguments = if empty { "{}".into() } else { arguments };
        self.calls.push(ToolCall { extra: extra.into(), ..ToolCall::new(id, name, arguments) });
    }
}

impl Call {
    /// Whether a fragment at the same place begins another call: it names another tool, or this one is complete.
    fn is_before(&self, fragment: &CallDelta) -> bool {
        let another_id = !fragment.id.is_empty() && !self.id.is_empty() && fragment.id != self.id;
        let complete = || is_json(&self.arguments);
        match fragment.name.as_str() {
            "" => false,
            _ if self.name.is_empty() => false,
            name if name != self.name => true,
            _ if another_id => complete(),
            _ => complete() && is_json(&fragment.arguments) && fragment.arguments != self.arguments,
        }
    }

    fn is_unfinished(&self, name: &str) -> bool {
        self.name == name && !self.arguments.is_empty() && !is_json(&self.arguments)
    }

    fn extend(&mut self, fragment: CallDelta) {
        // Some vendors repeat both with every fragment.
        for (mine, given) in [(&mut self.id, &fragment.id), (&mut self.name, &fragment.name)] {
            if mine.is_empty() {
                *mine = surrogates::whole(given);
            }
        }
        // Some repeat all of the arguments at the end.
        if fragment.arguments != self.arguments || !is_json(&self.arguments) {
            let more = self.joiner.join(&fragment.arguments);
            self.arguments.push_str(&more);
        }
        if !fragment.extra.is_empty() {
            self.extra_bytes += serde_json::to_string(&fragment.extra).map_or(0, |json| json.len());
            extra::merge(&mut self.extra, fragment.extra);
        }
    }
}

/// Whether a text is a JSON value.
pub(super) fn is_json(text: &str) -> bool {
    serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::{super::chunk::Chunk, *};

    fn finish(fragments: &[Value]) -> Finished {
        let mut calls = Calls::default();
        for fragment in fragments {
            let chunk = Chunk::read(json!({ "choices": [{ "delta": { "tool_calls": [fragment] } }] }));
            chunk.delta.calls.into_iter().for_each(|call| calls.take(call).unwrap());
        }
        calls.finish(false).unwrap()
    }

    fn calls(fragments: &[Value]) -> Vec<(String, String, String)> {
        let calls = finish(fragments).calls.into_iter();
        calls.map(|call| (call.id, call.function.name, call.function.arguments)).collect()
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
        let an_id_for_each_fragment = [
            json!({ "index": 0, "id": "a", "function": call("read", json!("")) }),
            json!({ "index": 0, "id": "a2", "function": { "arguments": "{\"x\"" } }),
            json!({ "index": 0, "id": "a3", "function": { "name": null, "arguments": ":1}" } }),
            json!({ "index": 1, "id": "b", "function": call("list", json!("{")) }),
            json!({ "index": 1, "id": "b2", "function": { "name": "", "arguments": "}" } }),
        ];
        let an_id_for_each_and_all_at_index_0 = [
            json!({ "index": 0, "id": "a", "function": call("read", json!("{\"x\"")) }),
            json!({ "index": 0, "id": "a2", "function": call("read", json!(":1}")) }),
            json!({ "index": 0, "id": "b", "function": call("list", json!("{")) }),
            json!({ "index": 0, "id": "b2", "function": { "arguments": "}" } }),
        ];
        let an_id_for_each_without_index = [
            json!({ "id": "a", "function": call("read", json!("{\"x\"")) }),
            json!({ "id": "a2", "function": { "arguments": ":1}" } }),
            json!({ "id": "b", "function": call("list", json!("{}")) }),
        ];
        let the_whole_at_the_end = [
            json!({ "index": 0, "id": "a", "function": call("read", json!("{\"x\"")) }),
            json!({ "index": 0, "function": { "arguments": ":1}" } }),
            json!({ "index": 0, "id": "a", "function": call("read", json!("{\"x\":1}")) }),
            json!({ "index": 1, "id": "b", "function": call("list", json!({})) }),
        ];
        let cases = [
            &by_index[..],
            &repeating_all,
            &all_at_index_0,
            &without_index,
            &an_id_for_each_fragment,
            &an_id_for_each_and_all_at_index_0,
            &an_id_for_each_without_index,
            &the_whole_at_the_end,
        ];
        for fragments in cases {
            assert_eq!(calls(fragments), wanted, "{fragments:#?}");
        }
    }

    #[test]
    fn calls_that_only_their_arguments_tell_apart_are_several() {
        let call = |arguments: &str| json!({ "index": 0, "function": { "name": "read", "arguments": arguments } });
        let found = calls(&[call("{\"x\":1}"), call("{\"x\":2}")]);
        assert_eq!(found.iter().map(|call| &*call.2).collect::<Vec<_>>(), ["{\"x\":1}", "{\"x\":2}"]);
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
    fn an_id_that_is_too_long_is_kept_beside_the_call() {
        let long = "x".repeat(ID + 1);
        let found =
            finish(&[json!({ "index": 0, "id": long, "function": { "name": "read" }, "sig": { "a": 1 } })]).calls;
        assert!(found[0].id.starts_with("call_"));
        let extra = serde_json::to_value(&found[0].extra).unwrap();
        assert_eq!(extra, json!({ VENDOR_ID: long, "sig": { "a": 1 } }));
    }

    #[test]
    fn what_was_cut_off_is_named() {
        let call =
            |arguments: &str| json!({ "index": 0, "id": "a", "function": { "name": "read", "arguments": arguments } });
        assert_eq!(finish(&[call("{\"x")]).incomplete, ["a"]);
        assert!(finish(&[call("")]).incomplete.is_empty());
        let mut cut = Calls::default();
        let named = CallDelta { id: "a".into(), name: "read".into(), ..CallDelta::default() };
        cut.take(named).unwrap();
        cut.take(CallDelta { id: "b".into(), index: Some(1), ..CallDelta::default() }).unwrap();
        assert_eq!(cut.finish(true).unwrap().calls.len(), 1);
    }

    #[test]
    fn calls_have_a_bound() {
        let mut calls = Calls::default();
        let call = |index| CallDelta { index: Some(index), name: "f".into(), ..CallDelta::default() };
        assert_eq!((0..=CALLS).filter(|index| calls.take(call(*index as i64)).is_ok()).count(), CALLS);
    }
}

//! Permissions that agents ask for, put to the user as questions. What an agent calls its answers is known to its kind.
//!
//! **A permission is for what was shown.** An agent forgets what it asked when it ends, and asks again after a restart.
//! The stored answer is given to it only when session, tool, input and options are the same. Anything else asks again.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Value, json, value::RawValue};
use tokio::sync::oneshot;

use super::{Question, Turn, content, told};
use crate::model::{Limits, Message, NewMessage, RawJson, RawObject, Role, SessionId, ToolCall, hex};

/// The name of the call that asks for a permission.
pub(super) const TOOL: &str = "request_permission";
/// The field of the asking message's metadata that says what its answer is for. Agents cannot write it.
const ASKED: &str = "asked";
/// Bytes of a question, and of an input in it, that are shown. The call that asks has all of it.
const SHOWN: usize = 8 << 10;
/// Bytes of an input whose keys are put in order, at most.
const SORTED: usize = 1 << 20;

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

/// What is asked, in words: the agent's title for it, and the tool with what it is to be called with.
pub(super) fn question(title: &str, tool: &str, input: Option<&RawJson>) -> String {
    let title = visible(cut(title, SHOWN), false);
    let asked = format!("The agent asks for permission: {title}");
    let tool = Some(visible(cut(tool, 200), false)).filter(|tool| !tool.is_empty());
    match (input, tool) {
        (None, _) => asked,
        (Some(input), Some(tool)) => format!("{asked}\n\n{tool} {}", shown(input)),
        (Some(input), None) => format!("{asked}\n\n{}", shown(input)),
    }
}

/// More of a question: words of ours, and a line of the agent's.
pub(super) fn line(words: &str, said: &str) -> String {
    format!("{words}{}", visible(cut(said, SHOWN), false))
}

/// JSON for people: escaped, so that no text in it can pass for the question's own words, and with its keys in order, so
/// that the same input looks the same. Numbers have all their digits.
fn shown(input: &RawJson) -> String {
    let text = input.as_str();
    let sorted = (text.len() <= SORTED).then(|| serde_json::to_string_pretty(&Sorted(text)).ok()).flatten();
    let text = visible(sorted.as_deref().unwrap_or(text), true);
    match text.len() > SHOWN {
        true => format!("{}\n[{} more bytes are in the call that asks]", cut(&text, SHOWN), text.len() - SHOWN),
        false => text,
    }
}

/// JSON with the keys of all objects in order: their order says nothing. Nor do white space and the escapes of texts.
struct Sorted<'a>(&'a str);

impl Serialize for Sorted<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let read = <S::Error as serde::ser::Error>::custom::<serde_json::Error>;
        match self.0.as_bytes().first() {
            Some(b'{') => {
                let fields: BTreeMap<String, &RawValue> = serde_json::from_str(self.0).map_err(read)?;
                serializer.collect_map(fields.iter().map(|(name, value)| (name, Sorted(value.get()))))
            }
            Some(b'[') => {
                let items: Vec<&RawValue> = serde_json::from_str(self.0).map_err(read)?;
                serializer.collect_seq(items.iter().map(|item| Sorted(item.get())))
            }
            Some(b'"') => serde_json::from_str::<String>(self.0).map_err(read)?.serialize(serializer),
            _ => serde_json::from_str::<&RawValue>(self.0).map_err(read)?.serialize(serializer),
        }
    }
}

fn cut(text: &str, most: usize) -> &str {
    &text[..text.floor_char_boundary(most)]
}

/// Writes out the characters that are not seen, or make others look different.
fn visible(text: &str, lines: bool) -> String {
    let hides = |c: char| {
        let unseen =
            matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
        (c.is_control() && !(lines && c == '\n')) || unseen
    };
    let written = |c: char| if hides(c) { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(written).collect()
}

/// What a user is asked for an agent.
#[derive(Debug, Clone)]
pub(super) struct Asking {
    /// The name of the call that asks.
    pub(super) tool: &'static str,
    pub(super) question: String,
    pub(super) options: Vec<String>,
    pub(super) allow_custom: bool,
    /// What the agent would do, in its own words.
    pub(super) input: RawJson,
    /// All else that the answer is for: the tool's name, what the options mean.
    pub(super) about: Value,
}

impl Asking {
    /// What the answer is for, as a hash of all that was shown, and of the session.
    fn binding(&self, session: &SessionId) -> String {
        let Self { tool, question, options, allow_custom, input, about } = self;
        hex(&RawJson::of(&(session, tool, question, options, allow_custom, input, about)).digest())
    }
}

/// Puts questions to the user of a session.
pub(super) struct Desk {
    session: SessionId,
    limits: Limits,
    /// The answer that an earlier run was waiting for, and what it is for.
    given: Option<(String, String)>,
}

impl Desk {
    pub(super) fn of(turn: &Turn, limits: Limits) -> Self {
        Self { session: turn.session_id.clone(), limits, given: given(&turn.messages) }
    }

    /// The answer that the user gave to exactly this. It is given once.
    pub(super) fn answered(&mut self, asking: &Asking) -> Option<String> {
        let given = self.given.take_if(|(binding, _)| *binding == asking.binding(&self.session));
        given.map(|(_, answer)| answer)
    }

    /// The message that asks the user, and the question in it.
    pub(super) fn ask(&self, asking: Asking, answer: oneshot::Sender<Message>) -> (NewMessage, Question) {
        let binding = asking.binding(&self.session);
        let Asking { tool, question, options, allow_custom, input, about } = asking;
        let id = format!("permission-{}", uuid::Uuid::now_v7());
        let (input, about) = (told::bounded(&input, &self.limits), told::bounded(&RawJson::of(&about), &self.limits));
        let mut arguments = RawObject::default();
        arguments.insert("question", &question);
        arguments.insert("options", &options);
        arguments.insert("input", &input);
        arguments.insert("about", &about);
        let message = NewMessage {
            tool_calls: Some(vec![ToolCall::new(&id, tool, arguments.as_str())]),
            phase: Some("commentary".into()),
            metadata: Some(json!({ ASKED: binding }).into()),
            ..NewMessage::text(Role::Assistant, String::new())
        };
        (message, Question { tool_call_id: id, tool_name: tool.into(), question, options, allow_custom, answer })
    }
}

/// The answer to a question that an earlier run asked, and what it is for.
fn given(messages: &[Message]) -> Option<(String, String)> {
    let answer = messages.last().filter(|last| last.role == Role::Tool)?;
    let id = answer.tool_call_id.as_deref()?;
    let asks = |message: &&Message| content::calls(message).iter().any(|call| call.id.as_deref() == Some(id));
    let asked = messages.iter().rev().find(asks)?;
    let metadata = RawObject::try_from(asked.metadata.clone()?).ok()?;
    Some((metadata.field(ASKED)?, answer.content.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asking(question: &str, input: impl Into<RawJson>) -> Asking {
        let options = vec!["Allow".into()];
        let (question, input) = (question.into(), input.into());
        Asking { tool: TOOL, question, options, allow_custom: false, input, about: json!({ "t": 1 }) }
    }

    #[test]
    fn an_answer_is_for_session_question_input_and_options() {
        let (here, there) = ("here".parse().unwrap(), "there".parse().unwrap());
        let one = asking("x", json!({ "a": 1, "b": [2] }));
        let same = asking("x", serde_json::from_str::<RawJson>(r#"{ "b": [2], "a": 1 }"#).unwrap());
        assert_eq!(one.binding(&here), same.binding(&here), "the order of keys says nothing");
        let others = [
            asking("y", one.input.clone()),
            asking("x", json!({ "a": 1, "b": [3] })),
            Asking { options: vec!["Deny".into()], ..one.clone() },
            Asking { about: json!({ "t": 2 }), ..one.clone() },
            Asking { tool: "question", ..one.clone() },
        ];
        assert!(others.iter().all(|other| other.binding(&here) != one.binding(&here)));
        assert_ne!(one.binding(&there), one.binding(&here));
    }

    #[test]
    fn a_question_shows_the_input_and_hides_nothing() {
        let shown = question("ls\n\u{202e}x", "Bash", Some(&json!({ "command": "rm -rf /\n\u{200b}ls" }).into()));
        let input = "{\n  \"command\": \"rm -rf /\\n\\u{200b}ls\"\n}";
        assert_eq!(shown, format!("The agent asks for permission: ls\\n\\u{{202e}}x\n\nBash {input}"));
        let long = question("t", "", Some(&json!("x".repeat(2 * SHOWN)).into()));
        assert!(long.len() < SHOWN + 200 && long.ends_with("more bytes are in the call that asks]"), "{long}");
        assert_eq!(question("touch it", "bash", None), "The agent asks for permission: touch it");
    }
}

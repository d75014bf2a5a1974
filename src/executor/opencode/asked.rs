//! What the server asks during a turn: permissions, and questions of the agent's own. Its answers to choose from are
//! known here alone.

use std::collections::VecDeque;

use reqwest::Method;
use serde_json::{Value, json};

use super::session::Session;
use crate::{
    executor::{
        Error,
        permission::{self, Asking, Desk, Permissions},
    },
    model::RawJson,
};

/// The answers to a request for permission, and what the server calls them.
const ANSWERS: [(&str, &str); 3] = [("Allow", "once"), ("Always allow", "always"), ("Reject", "reject")];
const REJECT: &str = "reject";

/// A request that waits for its answer.
pub(super) struct Asked {
    id: String,
    /// Whether it is for a permission; else the agent asks something.
    permission: bool,
    /// What is not asked yet.
    questions: VecDeque<Asking>,
    answers: Vec<String>,
}

impl Asked {
    /// A request for permission. `call` is the call of a tool that it is for, where the server knows it.
    pub(super) fn permission(said: &Value, call: Option<Value>) -> Self {
        let texts = |name: &str| {
            let texts = said[name].as_array().into_iter().flatten().filter_map(Value::as_str);
            texts.map(String::from).collect::<Vec<_>>()
        };
        let (kind, patterns, always) =
            (said["permission"].as_str().unwrap_or_default(), texts("patterns"), texts("always"));
        let title = format!("{kind} {}", patterns.join(" "));
        let tool = call.as_ref().and_then(|call| call["tool"].as_str()).unwrap_or(kind).to_owned();
        let input = call.map(|mut call| call["state"]["input"].take()).filter(|input| !is_empty(input));
        // Some describe what they would do by this alone, such as the changes to a file.
        let shown = input.clone().or_else(|| Some(said["metadata"].clone()).filter(|metadata| !is_empty(metadata)));
        let mut question = permission::question(title.trim(), &tool, shown.map(RawJson::from).as_ref());
        if !always.is_empty() {
            question.push_str(&permission::line("\n\nAlways allow stands for: ", &always.join(", ")));
        }
        let asking = Asking {
            tool: permission::TOOL,
            question,
            options: ANSWERS.map(|(answer, _)| answer.into()).into(),
            allow_custom: false,
            input: input.map(RawJson::from).unwrap_or_default(),
            about: json!({
                "tool": tool, "permission": kind, "patterns": patterns, "always": always, "metadata": said["metadata"],
            }),
        };
        Self { id: id(said), permission: true, questions: VecDeque::from([asking]), answers: Vec::new() }
    }

    /// Questions of the agent.
    pub(super) fn question(said: &Value) -> Self {
        let questions = said["questions"].as_array().into_iter().flatten().map(|question| {
            let options = question["options"].as_array().into_iter().flatten();
            let options: Vec<String> =
                options.filter_map(|option| option["label"].as_str()).map(String::from).collect();
            Asking {
                tool: "question",
                question: question["question"].as_str().unwrap_or_default().to_owned(),
                allow_custom: options.is_empty() || question["custom"] != false,
                options,
                input: RawJson::of(question),
                about: Value::Null,
            }
        });
        Self { id: id(said), permission: false, questions: questions.collect(), answers: Vec::new() }
    }

    /// The answer that the settings give, without asking anybody. Questions are always the user's.
    pub(super) fn decide(&mut self, policy: Permissions) {
        let answer = match policy {
            Permissions::Allow if self.permission => ANSWERS[0].0,
            Permissions::Deny if self.permission => ANSWERS[2].0,
            _ => return,
        };
        self.questions.clear();
        self.answers.push(answer.into());
    }

    /// What is asked next, if it was not answered before.
    pub(super) fn next(&mut self, desk: &mut Desk) -> Option<Asking> {
        loop {
            let next = self.questions.pop_front()?;
            match desk.answered(&next) {
                Some(answer) => self.answers.push(answer),
                None => return Some(next),
            }
        }
    }

    pub(super) fn answer(&mut self, text: String) {
        self.answers.push(text);
    }

    /// Tells the server what was answered. That it knows of no such request any more is no error.
    pub(super) async fn reply(self, session: &Session) -> Result<(), Error> {
        let (kind, body) = match self.permission {
            true => ("permission", json!({ "reply": word(self.answers.first()) })),
            false => {
                let answers: Vec<[String; 1]> = self.answers.into_iter().map(|answer| [answer]).collect();
                ("question", json!({ "answers": answers }))
            }
        };
        let path = [kind, self.id.as_str(), "reply"];
        session.server.api.call(Method::POST, &path, &session.directory, Some(&body)).await.map(drop)
    }
}

fn is_empty(value: &Value) -> bool {
    value.is_null() || value.as_object().is_some_and(|object| object.is_empty())
}

fn id(said: &Value) -> String {
    said["id"].as_str().unwrap_or_default().to_owned()
}

/// The server's word for an answer.
fn word(answer: Option<&String>) -> &'static str {
    let known = ANSWERS.iter().find(|(text, _)| answer.is_some_and(|answer| answer == text));
    known.map_or(REJECT, |(_, word)| word)
}

//! What the server asks during a turn: permissions, and questions of the agent's own. Its answers to choose from are
//! known here alone.

use std::collections::VecDeque;

use reqwest::Method;
use serde_json::{Value, json};

use super::session::Session;
use crate::executor::{
    Error,
    permission::{self, Asking, Permissions},
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
    /// A request for permission.
    pub(super) fn permission(said: &Value) -> Self {
        let patterns: Vec<&str> = said["patterns"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let title = format!("{} {}", said["permission"].as_str().unwrap_or_default(), patterns.join(" "));
        let asking = Asking {
            tool: permission::TOOL,
            question: permission::question(title.trim()),
            options: ANSWERS.map(|(answer, _)| answer.into()).into(),
            allow_custom: false,
            input: said["metadata"].clone(),
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
                input: question.clone(),
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
    pub(super) fn next(&mut self, given: &mut Option<(String, String)>) -> Option<Asking> {
        loop {
            let next = self.questions.pop_front()?;
            match given.take_if(|(question, _)| *question == next.question) {
                Some((_, answer)) => self.answers.push(answer),
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

fn id(said: &Value) -> String {
    said["id"].as_str().unwrap_or_default().to_owned()
}

/// The server's word for an answer.
fn word(answer: Option<&String>) -> &'static str {
    let known = ANSWERS.iter().find(|(text, _)| answer.is_some_and(|answer| answer == text));
    known.map_or(REJECT, |(_, word)| word)
}

//! What the demo server does: the user's last message, line by line, told in the real server's events.

use std::{process::Stdio, sync::Arc, time::Duration};

use futures_util::{FutureExt, future::BoxFuture};
use serde_json::{Value, json};
use tokio::{process::Command, sync::oneshot};
use tokio_util::sync::CancellationToken;

use super::{Server, Session, Work, held, id};
use crate::tasks;

/// What the server can be told to do, for people.
pub const DIRECTIVES: &str = "\
The demo server repeats the user's last message, word by word. A line that begins with a directive is carried out instead:

  /slow TIME              wait that long before each word from here on (20ms otherwise)
  /think TEXT             think this aloud
  /endless                count for ever
  /tool NAME TEXT         call a tool, with this result
  /fail-tool NAME TEXT    call a tool that fails
  /plan A | B | C         make a plan; its first point is done
  /permit PATTERN | INPUT ask for permission to call a tool with this input, as JSON, and say what was answered
  /ask QUESTION | A | B   ask the user, and say what was answered
  /child LINE             have a session below this one carry out a line, and wait for its end
  /memory                 say what this session was told so far
  /where                  say the session's directory
  /model                  say which model was asked for
  /spawn TIME             start a process that stays that long, in the background
  /error TEXT             fail
  /garbage                print what means nothing, and tell events that nobody knows
  /huge BYTES             say so many bytes at once
  /silent                 say nothing more, until stopped
  /deaf                   do not stop when told to, from here on
  /crash [CODE]           complain, and end (3)
";

/// An answer that is being given.
struct Answer<'a> {
    server: &'a Arc<Server>,
    session: &'a Session,
    model: &'a Value,
    message: String,
    slow: Duration,
    deaf: bool,
}

/// Why an answer breaks off.
struct Failure(String);

/// Gives an answer, from the prompt to the end of the turn; an answer can have another one given.
pub(super) fn answer(server: Arc<Server>, session: Session, parts: Vec<Value>, model: Value) -> BoxFuture<'static, ()> {
    async move { give(&server, &session, &parts, &model).await }.boxed()
}

async fn give(server: &Arc<Server>, session: &Session, parts: &[Value], model: &Value) {
    let (question, message) = (id("msg"), id("msg"));
    let answer = Answer { server, session, model, message, slow: Duration::from_millis(20), deaf: false };
    answer.tell("message.updated", json!({ "info": { "id": question, "role": "user", "time": { "created": 0 } } }));
    for part in parts {
        let mut part = part.clone();
        (part["id"], part["messageID"]) = (id("prt").into(), question.clone().into());
        answer.tell("message.part.updated", json!({ "part": part }));
    }
    tokio::time::sleep(server.manner.late.unwrap_or_default()).await;
    let stop = CancellationToken::new();
    held(&server.busy).insert(session.id.clone(), Work { directory: session.directory.clone(), stop: stop.clone() });
    answer.tell("session.status", json!({ "status": { "type": "busy" } }));
    answer.update(&question, Value::Null);
    let ended = answer.carry_out(&question, &stop).await;
    held(&server.busy).remove(&session.id);
    let over = |session: &Session| {
        for (kind, more) in [("session.status", json!({ "status": { "type": "idle" } })), ("session.idle", json!({}))] {
            let mut said = more;
            said["sessionID"] = session.id.clone().into();
            server.tell(&session.directory, kind, said);
        }
    };
    if let Err((name, Failure(why))) = ended {
        server.count_stopped(&session.id);
        server.tell(
            &session.directory,
            "session.error",
            json!({ "sessionID": session.id, "error": { "name": name, "data": { "message": why } } }),
        );
        // As the real one does, it says twice that it is over, and news of the message come in between.
        over(session);
        server.tell(&session.directory, "message.updated", json!({ "sessionID": session.id, "info": {} }));
    }
    over(session);
}

impl Answer<'_> {
    fn tell(&self, kind: &str, mut said: Value) {
        said["sessionID"] = self.session.id.clone().into();
        self.server.tell(&self.session.directory, kind, said);
    }

    /// News of the message; its end, when it cost something.
    fn update(&self, question: &str, tokens: Value) {
        let mut info =
            json!({ "id": self.message, "role": "assistant", "parentID": question, "time": { "created": 0 } });
        if !tokens.is_null() {
            (info["tokens"], info["cost"]) = (tokens, json!(0.5));
            info["time"]["completed"] = 1.into();
        }
        self.tell("message.updated", json!({ "info": info }));
    }

    async fn carry_out(mut self, question: &str, stop: &CancellationToken) -> Result<(), (&'static str, Failure)> {
        let last = self.session.prompts.last().cloned().unwrap_or_default();
        // What comes before the last blank line is context; after the result of a call, it goes on with what it was at.
        let mut paragraphs = last.rsplit("\n\n").filter(|paragraph| !paragraph.starts_with("[result of a call]"));
        let script = paragraphs.next().unwrap_or(&last).to_owned();
        for line in script.lines() {
            let stepped = match self.deaf {
                true => Some(self.step(line).await),
                false => stop.run_until_cancelled(self.step(line)).await,
            };
            match stepped {
                Some(Ok(())) => {}
                Some(Err(failure)) => return Err(("APIError", failure)),
                None => return Err(("MessageAbortedError", Failure("Aborted".into()))),
            }
        }
        let words = script.split_whitespace().count();
        let cache = json!({ "read": 0, "write": 0 });
        self.update(question, json!({ "input": words, "output": words, "reasoning": 0, "cache": cache }));
        Ok(())
    }

    async fn step(&mut self, line: &str) -> Result<(), Failure> {
        let (directive, rest) = line.trim().split_once(' ').unwrap_or((line.trim(), ""));
        match directive {
            "/slow" => self.slow = humantime::parse_duration(rest).map_err(|error| Failure(error.to_string()))?,
            "/think" => self.say("reasoning", [rest]).await,
            "/endless" => {
                let numbers = (1_u64..).map(|number| format!("{number} "));
                self.say("text", numbers).await;
            }
            "/tool" => self.tool(rest, "completed", "output"),
            "/fail-tool" => self.tool(rest, "error", "error"),
            "/plan" => self.plan(rest),
            "/permit" => self.permit(rest).await,
            "/ask" => self.ask(rest).await,
            "/child" => self.child(rest).await?,
            "/memory" => self.say("text", [format!("{:?}", self.session.prompts)]).await,
            "/where" => self.say("text", [self.session.directory.clone()]).await,
            "/model" => self.say("text", [self.model.to_string()]).await,
            "/spawn" => self.spawn(rest).await?,
            "/error" => return Err(Failure(rest.into())),
            "/garbage" => {
                println!("this is no news\n\u{7}{{{{");
                self.tell("culm.unknown", json!({ "part": 7 }));
                self.tell("message.part.updated", json!({ "part": "of nothing" }));
            }
            "/huge" => self.say("text", ["x".repeat(rest.parse().unwrap_or(10 << 20))]).await,
            "/deaf" => self.deaf = true,
            "/silent" => std::future::pending().await,
            "/crash" => {
                eprintln!("the demo server breaks down");
                std::process::exit(rest.parse().unwrap_or(3));
            }
            _ => self.say("text", line.split_inclusive(' ')).await,
        }
        Ok(())
    }

    /// A part that grows.
    async fn say<W: AsRef<str>>(&self, kind: &str, words: impl IntoIterator<Item = W>) {
        let (part, mut whole) = (id("prt"), String::new());
        let grown =
            |text: &str| json!({ "part": { "id": part, "messageID": self.message, "type": kind, "text": text } });
        self.tell("message.part.updated", grown(""));
        for word in words {
            tokio::time::sleep(self.slow).await;
            let said = json!({ "messageID": self.message, "partID": part, "field": "text", "delta": word.as_ref() });
            self.tell("message.part.delta", said);
            whole.push_str(word.as_ref());
        }
        self.tell("message.part.updated", grown(&whole));
    }

    fn tool(&self, rest: &str, end: &str, field: &str) {
        let (name, text) = rest.split_once(' ').unwrap_or((rest, ""));
        let (part, input) = (id("prt"), json!({ "text": text }));
        let states = [
            json!({ "status": "pending", "input": {} }),
            json!({ "status": "running", "input": input }),
            json!({ "status": end, "input": input, field: text, "title": format!("Calls {name}") }),
        ];
        for state in states {
            let call = json!({ "id": part, "messageID": self.message, "type": "tool", "tool": name, "callID": "call_1", "state": state });
            self.tell("message.part.updated", json!({ "part": call }));
        }
    }

    fn plan(&self, rest: &str) {
        let todos = rest.split('|').enumerate().map(|(at, point)| {
            let status = if at == 0 { "completed" } else { "pending" };
            json!({ "content": point.trim(), "status": status, "priority": "medium" })
        });
        self.tell("todo.updated", json!({ "todos": todos.collect::<Vec<_>>() }));
    }

    async fn permit(&self, rest: &str) {
        let (pattern, input) = rest.split_once(" | ").unwrap_or((rest, ""));
        let mut asked = json!({ "permission": "bash", "patterns": [pattern], "metadata": {}, "always": [] });
        if let Ok(input) = serde_json::from_str::<Value>(input) {
            let call = json!({ "type": "tool", "tool": "bash", "callID": "call_1", "state": { "status": "running", "input": input } });
            held(&self.server.calls).insert(self.message.clone(), call);
            asked["tool"] = json!({ "messageID": self.message, "callID": "call_1" });
        }
        let answer = self.asked("per", "permission.asked", asked).await;
        self.say("text", [format!("answered: {}", answer["reply"].as_str().unwrap_or_default())]).await;
    }

    async fn ask(&self, rest: &str) {
        let mut given = rest.split('|').map(str::trim);
        let question = given.next().unwrap_or_default();
        let options: Vec<Value> = given.map(|label| json!({ "label": label, "description": label })).collect();
        let questions = json!([{ "question": question, "header": "h", "options": options }]);
        let answer = self.asked("que", "question.asked", json!({ "questions": questions })).await;
        self.say("text", [format!("answered: {}", answer["answers"])]).await;
    }

    async fn asked(&self, kind: &str, event: &str, mut said: Value) -> Value {
        let (id, (answer, answered)) = (id(kind), oneshot::channel());
        held(&self.server.asked).insert(id.clone(), answer);
        said["id"] = id.into();
        self.tell(event, said);
        answered.await.unwrap_or_default()
    }

    /// Has a session below this one work, and waits for its end. Being stopped ends the waiting alone.
    async fn child(&self, line: &str) -> Result<(), Failure> {
        let (server, below) = (self.server.clone(), self.session.clone());
        let mut child =
            server.begin(Some(below.id), &below.directory, "below").map_err(|error| Failure(error.to_string()))?;
        child.prompts.push(line.into());
        let ended = tasks::owned(answer(server, child, Vec::new(), Value::Null)).await;
        ended.map_err(|error| Failure(error.to_string()))?;
        self.say("text", ["the one below has ended"]).await;
        Ok(())
    }

    async fn spawn(&self, time: &str) -> Result<(), Failure> {
        let mut command = Command::new("sleep");
        command.arg(time).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let started = command.spawn().map_err(|error| Failure(error.to_string()))?;
        self.say("text", [format!("started {}", started.id().unwrap_or_default())]).await;
        Ok(())
    }
}

//! A parent whose children run as the test tells them.

use std::sync::Arc;

use async_trait::async_trait;
use culm::{
    executor::{Error, Event, Executor, Outcome, Turn},
    model::{AgentSession, EventScope, Limits, NewMessage, Role},
    runs::{self, Executors},
    storage::Storage,
};
use serde_json::{Value, json};
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::{Answer, Server, client::options};

/// A run that began, and waits to be told how it ends. Its text is that of its one message.
pub(super) struct Begun {
    pub(super) turn: Turn,
    pub(super) answer: oneshot::Sender<&'static str>,
}

struct Scripted(mpsc::UnboundedSender<Begun>);

#[async_trait]
impl Executor for Scripted {
    async fn run(&self, turn: Turn, events: mpsc::Sender<Event>, cancel: CancellationToken) -> Result<Outcome, Error> {
        let (answer, told) = oneshot::channel();
        let _ = self.0.send(Begun { turn, answer });
        tokio::select! {
            () = cancel.cancelled() => Ok(Outcome::Cancelled),
            Ok(text) = told => {
                let _ = events.send(Event::Message(NewMessage::text(Role::Assistant, text))).await;
                Ok(Outcome::Completed)
            }
        }
    }

    async fn dispose(&self, _: &AgentSession, _: bool) -> Result<(), Error> {
        Ok(())
    }

    async fn probe(&self) -> Result<String, Error> {
        Ok("scripted".into())
    }

    async fn shut_down(&self) {}
}

/// A server with a parent that has one child, and the runs that begin on it.
pub(super) struct Family {
    pub(super) server: Server,
    begun: Mutex<mpsc::UnboundedReceiver<Begun>>,
}

impl Family {
    pub(super) async fn start() -> Self {
        Self::to_depth(1).await
    }

    pub(super) async fn to_depth(max_child_depth: i64) -> Self {
        let (begins, begun) = mpsc::unbounded_channel();
        let scripted: Arc<dyn Executor> = Arc::new(Scripted(begins));
        let executors = Executors::from([("scripted".to_owned(), scripted)]);
        let options = runs::Options { max_child_depth, ..options() };
        let server = Server::start_on(tempfile::tempdir().unwrap(), Limits::default(), executors, options).await;
        let parent = json!({
            "id": "parent", "model_ref": { "provider": "here", "model": "large" }, "reasoning_effort": "high",
            "workspace": "/work", "token_budget": { "max": 9, "compression_trigger_percent": 85 },
            "task_list": { "items": ["one"] },
        });
        assert_eq!(server.post("/sessions", parent).await.status, 201);
        Self { server, begun: Mutex::new(begun) }
    }

    /// The next run that begins.
    pub(super) async fn begun(&self) -> Begun {
        self.begun.lock().await.recv().await.unwrap()
    }

    /// Creates a child that waits, or runs at once.
    pub(super) async fn child(&self, id: &str, auto_run: bool) -> Answer {
        let mut body = task(id);
        body["auto_run"] = json!(auto_run);
        let answer = self.server.post("/sessions/parent/children", body).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        answer
    }

    /// Lets a run answer, and waits until it has ended.
    pub(super) async fn finish(&self, run: Begun, text: &'static str) {
        let id = run.turn.run_id;
        run.answer.send(text).unwrap();
        let ended = self.server.get(&format!("/runs/{id}?wait=10")).await;
        assert_eq!(ended.body["run"]["status"], "completed");
    }

    pub(super) async fn show(&self, child: &str) -> Value {
        let answer = self.server.get(&format!("/sessions/parent/children/{child}")).await;
        assert_eq!(answer.status, 200);
        answer.body
    }

    pub(super) async fn texts(&self, session: &str) -> Vec<String> {
        let answer = self.server.get(&format!("/sessions/{session}/messages")).await;
        let messages = answer.body["messages"].as_array().unwrap().iter();
        messages.map(|message| message["content"].as_str().unwrap().to_owned()).collect()
    }

    pub(super) async fn post(&self, path: &str, body: Value) -> Answer {
        self.server.post(&format!("/sessions/parent/children/{path}"), body).await
    }

    pub(super) async fn patch(&self, child: &str, body: Value) -> Answer {
        self.server.patch(&format!("/sessions/parent/children/{child}"), body).await
    }

    pub(super) async fn events(&self, session: &str) -> Vec<String> {
        let scope = EventScope::Session(session.parse().unwrap());
        let page = self.server.repository.events(&scope, 0, 1000).await.unwrap();
        let name = |kind| serde_json::to_value(kind).unwrap().as_str().unwrap().to_owned();
        page.events.into_iter().map(|event| name(event.event)).collect()
    }
}

pub(super) fn task(id: &str) -> Value {
    json!({ "id": id, "title": " Title ", "responsibility": "Know", "prompt": "Look.\n\nThen tell.", "subagent_type": "explorer" })
}

pub(super) fn assignment(title: &str, responsibility: &str, kind: &str, prompt: &str) -> String {
    format!(
        "Sub-session title: {title}\nResponsibility: {responsibility}\nSubagent type: {kind}\n\nTask brief:\n{prompt}"
    )
}

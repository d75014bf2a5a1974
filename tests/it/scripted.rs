//! An executor that does what a test tells it, step by step: each turn is handed to the test, which speaks for it.

use std::time::Duration;

use async_trait::async_trait;
use culm::{
    executor::{Error, Event, Executor, Outcome, Question, Turn},
    model::{AgentSession, Message, NewMessage, Role},
};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// How long a test waits for what must come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// What comes, or the test fails.
pub(crate) async fn soon<F: Future>(what: F) -> F::Output {
    tokio::time::timeout(PATIENCE, what).await.expect("it did not come")
}

pub(crate) struct Scripted {
    turns: mpsc::UnboundedSender<Live>,
    stubborn: bool,
}

/// The turns of an executor, as they begin.
pub(crate) struct Turns(mpsc::UnboundedReceiver<Live>);

/// A turn that is under way.
pub(crate) struct Live {
    pub(crate) turn: Turn,
    pub(crate) events: mpsc::Sender<Event>,
    pub(crate) cancel: CancellationToken,
    end: oneshot::Sender<Result<Outcome, Error>>,
}

fn make(stubborn: bool) -> (Scripted, Turns) {
    let (turns, begun) = mpsc::unbounded_channel();
    (Scripted { turns, stubborn }, Turns(begun))
}

/// One that stops when it is told to.
pub(crate) fn polite() -> (Scripted, Turns) {
    make(false)
}

/// One that never listens.
pub(crate) fn stubborn() -> (Scripted, Turns) {
    make(true)
}

#[async_trait]
impl Executor for Scripted {
    async fn run(&self, turn: Turn, events: mpsc::Sender<Event>, cancel: CancellationToken) -> Result<Outcome, Error> {
        let (end, ended) = oneshot::channel();
        let live = Live { turn, events, cancel: cancel.clone(), end };
        if self.turns.send(live).is_err() {
            return Ok(Outcome::Completed);
        }
        // A turn that the test let go stays silent.
        let said = async {
            match ended.await {
                Ok(said) => said,
                Err(_) => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            said = said => said,
            () = cancel.cancelled(), if !self.stubborn => Ok(Outcome::Cancelled),
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

impl Turns {
    pub(crate) async fn next(&mut self) -> Live {
        soon(self.0.recv()).await.unwrap()
    }

    /// No turn waits here.
    pub(crate) fn none(&mut self) {
        assert!(self.0.try_recv().is_err(), "an executor was asked that should not have been");
    }
}

impl Live {
    pub(crate) async fn send(&self, event: Event) {
        soon(self.events.send(event)).await.unwrap();
    }

    pub(crate) async fn delta(&self, text: &str) {
        self.send(Event::TextDelta(text.into())).await;
    }

    pub(crate) async fn say(&self, text: &str) {
        self.send(Event::Message(NewMessage::text(Role::Assistant, text))).await;
    }

    /// Asks, with these options; where the answer comes.
    pub(crate) async fn ask(&self, call: &str, options: &[&str]) -> oneshot::Receiver<Message> {
        let (answer, answered) = oneshot::channel();
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        self.send(Event::Question(Question {
            tool_call_id: call.into(),
            tool_name: "ask".into(),
            question: "which?".into(),
            options,
            allow_custom: false,
            answer,
        }))
        .await;
        answered
    }

    pub(crate) fn end(self, how: Result<Outcome, Error>) {
        let _ = self.end.send(how);
    }

    pub(crate) fn complete(self) {
        self.end(Ok(Outcome::Completed));
    }

    pub(crate) fn run(&self) -> String {
        self.turn.run_id.to_string()
    }
}

/// One that answers at once, or once it is told to stop.
pub(crate) struct Quick;

#[async_trait]
impl Executor for Quick {
    async fn run(&self, turn: Turn, events: mpsc::Sender<Event>, cancel: CancellationToken) -> Result<Outcome, Error> {
        let text = format!("of {}", turn.run_id);
        let _ = events.send(Event::TextDelta(text.clone())).await;
        if turn.messages.iter().any(|message| message.content == "linger") {
            cancel.cancelled().await;
            return Ok(Outcome::Cancelled);
        }
        let _ = events.send(Event::Message(NewMessage::text(Role::Assistant, text))).await;
        Ok(Outcome::Completed)
    }

    async fn dispose(&self, _: &AgentSession, _: bool) -> Result<(), Error> {
        Ok(())
    }

    async fn probe(&self) -> Result<String, Error> {
        Ok("scripted".into())
    }

    async fn shut_down(&self) {}
}

/// One that panics.
pub(crate) struct Broken;

#[async_trait]
impl Executor for Broken {
    async fn run(&self, _: Turn, _: mpsc::Sender<Event>, _: CancellationToken) -> Result<Outcome, Error> {
        panic!("the executor is broken")
    }

    async fn dispose(&self, _: &AgentSession, _: bool) -> Result<(), Error> {
        Ok(())
    }

    async fn probe(&self) -> Result<String, Error> {
        Ok("scripted".into())
    }

    async fn shut_down(&self) {}
}

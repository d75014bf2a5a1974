//! One turn with the server: a prompt, what is told and asked meanwhile, and its end, whoever brings that about.

use std::collections::VecDeque;

use futures_util::{Stream, StreamExt};
use reqwest::Method;
use serde_json::Value;
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{asked::Asked, session::Session, settings::Settings, told::Told};
use crate::{
    executor::{Error, Event, Outcome, permission::Desk},
    model::Message,
};

/// Requests that wait while another one is asked, at most; the server waits with further ones.
const WAITING: usize = 32;

/// A turn that is under way.
pub(super) struct Talk<'a> {
    pub(super) settings: &'a Settings,
    pub(super) session: &'a Session,
    pub(super) events: &'a mpsc::Sender<Event>,
    pub(super) cancel: &'a CancellationToken,
    pub(super) told: Told,
    /// Where the user is asked.
    pub(super) desk: Desk,
}

/// How a turn came to its end.
pub(super) enum Ending {
    /// The server said so, or cannot be spoken to.
    Over(Result<Outcome, Error>),
    /// It is to be stopped.
    Cancelled,
    /// It took too long, or was silent for too long.
    Late(String),
}

/// What was asked of the user, and where the answer comes.
type Open = (Asked, oneshot::Receiver<Message>);

impl Talk<'_> {
    /// Prompts the agent, and listens until the turn ends or must.
    pub(super) async fn hold(&mut self, prompt: &Value) -> Ending {
        let begun = tokio::select! {
            biased;
            () = self.cancel.cancelled() => return Ending::Cancelled,
            () = self.events.closed() => return Ending::Cancelled,
            begun = self.begin(prompt) => begun,
        };
        match begun {
            Ok(said) => self.converse(said).await,
            Err(error) => Ending::Over(Err(self.session.explain(error).await)),
        }
    }

    async fn begin(&self, prompt: &Value) -> Result<impl Stream<Item = Result<Value, Error>> + use<>, Error> {
        let said = self.session.server.api.events(&self.session.directory).await?;
        match self.session.call(Method::POST, &["prompt_async"], Some(prompt)).await? {
            Some(_) => Ok(said),
            None => Err(Error::Failed("the agent has lost its session".into())),
        }
    }

    async fn converse(&mut self, said: impl Stream<Item = Result<Value, Error>>) -> Ending {
        let mut said = std::pin::pin!(said);
        let (mut open, mut waiting) = (None::<Open>, VecDeque::<Asked>::new());
        let (mut over, mut silent) = (Instant::now() + self.settings.turn, Instant::now() + self.settings.silence);
        loop {
            if open.is_none()
                && let Some(next) = waiting.pop_front()
            {
                match self.ask(next).await {
                    Ok(asked) => open = asked,
                    Err(error) => return Ending::Over(Err(self.session.explain(error).await)),
                }
            }
            let asked_at = Instant::now();
            tokio::select! {
                biased;
                () = self.cancel.cancelled() => return Ending::Cancelled,
                () = self.events.closed() => return Ending::Cancelled,
                answered = answered(&mut open) => {
                    // The user's time is not the agent's.
                    over += asked_at.elapsed();
                    match answered {
                        Some(asked) => waiting.push_front(asked),
                        None => return Ending::Cancelled,
                    }
                }
                event = said.next() => match event {
                    Some(Ok(event)) => match self.hear(&event).await {
                        Heard::Foreign => continue,
                        Heard::Told => {}
                        Heard::Asked(asked) if waiting.len() < WAITING => waiting.push_back(asked),
                        Heard::Asked(_) => {}
                        Heard::End => return Ending::Over(self.end().await),
                    },
                    Some(Err(error)) => return Ending::Over(Err(self.session.explain(error).await)),
                    None => return Ending::Over(Err(self.session.explain(unheard()).await)),
                },
                () = tokio::time::sleep_until(silent), if open.is_none() => {
                    return Ending::Late(format!("the agent said nothing for {}", humantime::format_duration(self.settings.silence)));
                }
                () = tokio::time::sleep_until(over), if open.is_none() => {
                    return Ending::Late(format!("the turn took more than {}", humantime::format_duration(self.settings.turn)));
                }
            }
            silent = Instant::now() + self.settings.silence;
        }
    }

    /// Takes an event. Others in the same directory are told of, too, and the sessions below this one: what those ask
    /// is asked here.
    async fn hear(&mut self, event: &Value) -> Heard {
        let (kind, said) = (event["type"].as_str().unwrap_or_default(), &event["properties"]);
        let session = said["sessionID"].as_str().unwrap_or_default();
        if matches!(kind, "permission.asked" | "question.asked") {
            if !self.session.is_above(session).await {
                return Heard::Foreign;
            }
            return Heard::Asked(match kind {
                "permission.asked" => Asked::permission(said, self.session.call_of(said).await),
                _ => Asked::question(said),
            });
        }
        if session != self.session.id {
            return Heard::Foreign;
        }
        if kind == "session.idle" && self.told.has_begun() {
            return Heard::End;
        }
        for event in self.told.hear(kind, said) {
            self.send(event).await;
        }
        Heard::Told
    }

    async fn end(&mut self) -> Result<Outcome, Error> {
        let (left, outcome) = self.told.end();
        if let Some(left) = left {
            self.send(left).await;
        }
        outcome
    }

    /// When nobody takes it any more the turn is over, and the loop sees it; also when nobody takes it yet.
    async fn send(&self, event: Event) {
        let _ = self.cancel.run_until_cancelled(self.events.send(event)).await;
    }

    /// Answers a request, or asks the user what is to be answered next.
    async fn ask(&mut self, mut asked: Asked) -> Result<Option<Open>, Error> {
        asked.decide(self.settings.permissions);
        let Some(asking) = asked.next(&mut self.desk) else {
            asked.reply(self.session).await?;
            return Ok(None);
        };
        if let Some(said) = self.told.said() {
            self.send(said).await;
        }
        let (answer, answered) = oneshot::channel();
        let (message, question) = self.desk.ask(asking, answer);
        self.send(Event::Message(message)).await;
        self.send(Event::Question(question)).await;
        Ok(Some((asked, answered)))
    }
}

/// What an event was.
enum Heard {
    /// Of somebody else.
    Foreign,
    /// Told to whoever listens.
    Told,
    /// A request that waits for an answer.
    Asked(Asked),
    /// The end of the turn.
    End,
}

/// The user's answer to what is open; for ever nothing where nothing is. None when there will be none.
async fn answered(open: &mut Option<Open>) -> Option<Asked> {
    let Some((_, answer)) = open else { return std::future::pending().await };
    let answer = answer.await;
    let (mut asked, _) = open.take()?;
    asked.answer(answer.ok()?.content);
    Some(asked)
}

fn unheard() -> Error {
    Error::Unavailable("the agent's events ended".into())
}

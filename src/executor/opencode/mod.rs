//! `opencode serve`: one server for the sessions of all, which is asked over HTTP and tells events.
//!
//! Its protocol is known here and to the demo server alone. It removes a session that works without stopping it
//! (measured): whatever is to end is told to stop first, with the sessions that its agent made below it.

mod api;
mod asked;
mod server;
mod session;
mod settings;
mod talk;
mod told;

use std::{collections::BTreeSet, path::Path, sync::Arc};

use async_trait::async_trait;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use self::{
    server::{Server, Shared, Use},
    session::Session,
    talk::{Ending, Talk},
    told::{Told, marked},
};
use super::{
    Error, Event, Outcome, Turn,
    permission::Desk,
    pool::{Backend, Known, Warm},
    process::Launch,
    prompt::{self, Piece},
};
use crate::{
    attachments::AttachmentReader,
    model::{AgentSession, BackendId, Limits, Process},
};

pub use self::settings::{Config, Settings};

/// Sessions of one `opencode serve`.
pub struct OpenCode {
    shared: Arc<Shared>,
    attachments: Arc<dyn AttachmentReader>,
    limits: Limits,
}

impl OpenCode {
    /// The server of the executor with this name, that is started as configured when it is needed.
    pub fn new(
        executor: &str,
        settings: Settings,
        launch: Launch,
        attachments: Arc<dyn AttachmentReader>,
        limits: Limits,
    ) -> Self {
        Self { shared: Shared::new(executor.into(), settings, launch), attachments, limits }
    }

    /// Where a session works, as the server names it.
    async fn directory(&self, workspace: Option<&Path>, row: &BackendId) -> Result<String, Error> {
        let directory = match workspace {
            Some(workspace) => workspace.to_owned(),
            None => self.shared.launch.make_home(row).await?,
        };
        let missing = || Error::Unavailable(format!("the working directory {} is not there", directory.display()));
        let real = std::fs::canonicalize(&directory).ok().filter(|real| real.is_dir()).ok_or_else(missing)?;
        real.to_str().map(String::from).ok_or_else(missing)
    }
}

#[async_trait]
impl Backend for OpenCode {
    type Warm = Talking;

    const KIND: &'static str = "opencode";

    async fn start(&self, turn: &Turn, row: &AgentSession) -> Result<Talking, Error> {
        let directory = self.directory(turn.workspace.as_deref(), &row.id).await?;
        let server = self.shared.obtain().await?;
        let title = row.session_id.as_str();
        let session = match &row.agent_session_id {
            Some(id) => match Session::find(server, id, directory.clone()).await? {
                Ok(session) => session,
                Err(server) => Session::make(server, directory, title).await?,
            },
            None => Session::make(server, directory, title).await?,
        };
        let (shared, attachments) = (self.shared.clone(), self.attachments.clone());
        Ok(Talking { shared, session, attachments, limits: self.limits, doing: Doing::Nothing })
    }

    /// A server that ended took all that worked with it: only what it keeps is left.
    async fn remove(&self, row: &AgentSession, purge: bool) -> Result<(), Error> {
        let server = match &row.agent_session_id {
            Some(_) if purge => Some(self.shared.obtain().await?),
            _ => self.shared.running().await,
        };
        if let Some(server) = server {
            for id in sessions(&server, row, purge).await? {
                finish(server.clone(), &id, purge).await?;
            }
        }
        match purge {
            true => self.shared.launch.remove_home(&row.id).await,
            false => Ok(()),
        }
    }

    async fn probe(&self) -> Result<String, Error> {
        let server = self.shared.obtain().await?;
        let health = server.api.call(Method::GET, &["global", "health"], &server.home, None).await?;
        let version = health.as_ref().and_then(|health| health["version"].as_str()).unwrap_or("of an unknown version");
        Ok(format!("opencode {version}, one server for all sessions"))
    }

    async fn shut_down(&self) {
        self.shared.shut_down().await;
    }
}

/// What the server has of a session. When its history changed, another one was begun: all of them are to go.
async fn sessions(server: &Server, row: &AgentSession, purge: bool) -> Result<BTreeSet<String>, Error> {
    let titled = if purge { Session::titled(server, row.session_id.as_str()).await? } else { Vec::new() };
    Ok(titled.into_iter().chain(row.agent_session_id.clone()).collect())
}

/// Stops a session, wherever it works, or removes it. One that is gone is done.
async fn finish(server: Use, id: &str, purge: bool) -> Result<(), Error> {
    match Session::anywhere(server, id).await? {
        Some(session) if purge => session.remove().await,
        Some(session) => session.stop(false).await,
        None => Ok(()),
    }
}

/// A session of the server that is warm.
pub struct Talking {
    shared: Arc<Shared>,
    session: Session,
    attachments: Arc<dyn AttachmentReader>,
    limits: Limits,
    doing: Doing,
}

/// What the session may be at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Doing {
    Nothing,
    /// A prompt was sent: it works, or is about to.
    Prompted,
    /// It works, though it was told to stop.
    Stubborn,
}

impl Talking {
    fn settings(&self) -> &Settings {
        &self.shared.settings
    }

    /// Has what was prompted stop. Whether it did.
    async fn stop(&mut self, begun: bool) {
        let stopped = self.session.stop(!begun).await;
        self.doing = if stopped.is_ok() { Doing::Nothing } else { Doing::Stubborn };
    }

    /// The model that is named, or the server's usual one: left to itself, it goes on with the one before.
    async fn model(&self, turn: &Turn) -> Result<Option<String>, Error> {
        if turn.model.is_some() {
            return Ok(turn.model.clone());
        }
        let config = self.session.server.api.call(Method::GET, &["config"], &self.session.directory, None).await?;
        Ok(config.and_then(|config| config["model"].as_str().map(String::from)))
    }

    async fn prompt(&self, turn: &Turn, seen: i64) -> Result<Option<Value>, Error> {
        let Some(pieces) = prompt::prompt(turn, seen, true, &*self.attachments).await? else { return Ok(None) };
        let mut prompt = json!({ "parts": parts(pieces, turn.run_id.as_str()) });
        if let Some(model) = self.model(turn).await? {
            let unclear =
                || Error::Failed(format!("the model {model:?} is no provider/model, such as \"openai/gpt-5\""));
            let (provider, model) = model.split_once('/').ok_or_else(unclear)?;
            prompt["model"] = json!({ "providerID": provider, "modelID": model });
        }
        Ok(Some(prompt))
    }
}

/// A prompt as the server takes it. The first text carries the mark.
fn parts(pieces: Vec<Piece>, mark: &str) -> Vec<Value> {
    let mut marking = Some(mark);
    let mut parts: Vec<Value> = Vec::new();
    for piece in pieces {
        parts.push(match piece {
            Piece::Text(text) => match marking.take() {
                Some(mark) => marked(&text, mark),
                None => json!({ "type": "text", "text": text }),
            },
            Piece::Image { mime_type, data } => {
                json!({ "type": "file", "mime": mime_type, "url": format!("data:{mime_type};base64,{data}") })
            }
        });
    }
    parts.extend(marking.map(|mark| marked("What is above is all.", mark)));
    parts
}

#[async_trait]
impl Warm for Talking {
    /// All sessions share it.
    fn process(&self) -> Option<Process> {
        None
    }

    fn agent_session_id(&self) -> Option<String> {
        Some(self.session.id.clone())
    }

    fn is_alive(&mut self) -> bool {
        self.doing == Doing::Nothing && self.session.server.is_alive()
    }

    async fn turn(
        &mut self,
        turn: &Turn,
        known: &mut Known<'_>,
        events: &mpsc::Sender<Event>,
        cancel: &CancellationToken,
    ) -> Result<Outcome, Error> {
        let prompt = match self.prompt(turn, known.seen).await {
            Ok(Some(prompt)) => prompt,
            Ok(None) => return Ok(Outcome::Skipped),
            Err(error) => return Err(self.session.explain(error).await),
        };
        known.ask().await?;
        // Until it has come to its end, it is in the midst of something.
        self.doing = Doing::Prompted;
        let told = Told::new(turn.run_id.to_string(), self.limits);
        let desk = Desk::of(turn, self.limits);
        let mut talk = Talk { settings: self.settings(), session: &self.session, events, cancel, told, desk };
        let ending = talk.hold(&prompt).await;
        let begun = talk.told.has_begun();
        match ending {
            Ending::Over(Ok(outcome)) => {
                self.doing = Doing::Nothing;
                Ok(outcome)
            }
            Ending::Over(Err(error)) => {
                // It may be that only its line is cut.
                self.stop(begun).await;
                Err(error)
            }
            Ending::Cancelled => {
                self.stop(begun).await;
                Ok(Outcome::Cancelled)
            }
            Ending::Late(why) => {
                self.stop(begun).await;
                Err(Error::Timeout(why))
            }
        }
    }

    async fn end(self) -> Result<(), Error> {
        // One that ended took all that worked with it.
        if !self.session.server.is_alive() {
            return Ok(());
        }
        let stopped = match self.doing {
            Doing::Stubborn => Err(session::stubborn()),
            doing => self.session.stop(doing == Doing::Prompted).await,
        };
        match stopped {
            // Nobody else's work goes with it.
            Err(_) if self.shared.end_used_by(1).await? => Ok(()),
            Err(_) => self.session.stop(false).await,
            Ok(()) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_of_images_alone_carries_its_mark_too() {
        let image = Piece::Image { mime_type: "image/png".into(), data: "AA==".into() };
        let parts = parts(vec![image], "run");
        assert_eq!(parts[0]["url"], "data:image/png;base64,AA==");
        assert_eq!(parts[1]["metadata"]["culm"], "run");
    }
}

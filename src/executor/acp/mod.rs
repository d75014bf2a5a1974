//! An agent in a process of its own, that speaks the Agent Client Protocol over its pipes.
//!
//! The protocol's crate is known here and to the demo agent alone. Agents differ in what they can do and say so when
//! they start: what they do not offer is not asked of them.

mod calls;
mod connection;
mod files;
mod lines;
mod messages;
mod models;
mod permission;
mod settings;
mod talk;
mod told;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use agent_client_protocol::{
    Error as Refusal, is_connection_terminated, is_incoming_transport_closed,
    schema::ProtocolVersion,
    v1::schema::{
        AgentCapabilities, ClientCapabilities, CloseSessionRequest, ContentBlock, FileSystemCapabilities, ImageContent,
        Implementation, InitializeRequest, InitializeResponse, LoadSessionRequest, NewSessionRequest,
        ResumeSessionRequest, SessionId, SetSessionModeRequest, StopReason, TextContent,
    },
};
use async_trait::async_trait;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use self::{
    connection::Connection,
    models::{Models, Unset},
    talk::{End, Talk},
    told::Told,
};
use super::{
    Error, Event, Outcome, Turn,
    permission::Desk,
    pool::{Backend, Known, Warm},
    process::{self, AgentProcess, Launch, Program, Started},
    prompt::{self, Piece},
};
use crate::{
    attachments::AttachmentReader,
    model::{AgentSession, BackendId, Limits, Process},
};

pub use self::settings::{Config, Files, Settings};

/// How long an agent may take to close a session before its process is ended.
const CLOSE: Duration = Duration::from_secs(2);

/// Bytes of an agent's line at most, in messages of the largest size: a character may be written as six.
const LINES: usize = 8;
/// And at least: an agent that reads a file for its user sends it in one line.
const LINE: usize = 1 << 20;

/// Agents that speak ACP.
pub struct Acp {
    settings: Arc<Settings>,
    launch: Launch,
    attachments: Arc<dyn AttachmentReader>,
    limits: Limits,
}

impl Acp {
    /// An agent that is started as configured, and keeps its messages within the limits.
    pub fn new(settings: Settings, launch: Launch, attachments: Arc<dyn AttachmentReader>, limits: Limits) -> Self {
        Self { settings: Arc::new(settings), launch, attachments, limits }
    }

    async fn agree(&self, connection: &Connection) -> Result<InitializeResponse, Refusal> {
        let files = FileSystemCapabilities::new()
            .read_text_file(self.settings.files >= Files::Read)
            .write_text_file(self.settings.files >= Files::Write);
        let hello = InitializeRequest::new(ProtocolVersion::V1)
            .client_capabilities(ClientCapabilities::new().fs(files))
            .client_info(Implementation::new("culm", env!("CARGO_PKG_VERSION")));
        let agreed = connection.agent().send_request(hello).block_task().await?;
        match agreed.protocol_version == ProtocolVersion::V1 {
            true => Ok(agreed),
            false => Err(Refusal::internal_error()
                .data(format!("it speaks version {} of the protocol", agreed.protocol_version))),
        }
    }

    /// Starts the agent and greets it.
    async fn speak(&self, backend: &BackendId, directory: Option<&Path>) -> Result<Spoken, Error> {
        if let Some(missing) = directory.filter(|directory| !directory.is_dir()) {
            return Err(Error::Unavailable(format!("the working directory {} is not there", missing.display())));
        }
        let (command, environment) = (&self.settings.command, &self.settings.environment);
        let program = Program { command, environment, directory };
        let Started { mut process, input, output } = self.launch.start(backend, &program).await?;
        let begun = async {
            let most = (LINES * self.limits.message).max(LINE);
            let connection = Connection::open(input, output, process.tail(), &self.launch.tasks, most).await?;
            let said = self.agree(&connection).await;
            Some((connection, said))
        };
        match tokio::time::timeout(self.settings.start, begun).await {
            Ok(Some((connection, Ok(said)))) => Ok(Spoken { process, connection, said }),
            Ok(Some((connection, Err(refusal)))) => {
                Err(Error::Unavailable(broken(&mut process, &connection, &refusal).await))
            }
            Ok(None) => Err(Error::Unavailable(gone(&mut process).await)),
            Err(_) => Err(slow(self.settings.start, &process)),
        }
    }

    /// The agent's session: the one that it had, where it can go on with it; else a new one. And what it offers there.
    async fn session(
        &self,
        connection: &Connection,
        can: &AgentCapabilities,
        row: &AgentSession,
        directory: PathBuf,
    ) -> Result<(SessionId, Option<Models>), Refusal> {
        if let Some(id) = &row.agent_session_id {
            let id = SessionId::from(id.clone());
            let agent = connection.agent();
            let resumed = if can.session_capabilities.resume.is_some() {
                let resume = ResumeSessionRequest::new(id.clone(), directory.clone());
                agent.send_request(resume).block_task().await.map(|resumed| resumed.config_options)
            } else if can.load_session {
                // It replays what was said, and nobody listens.
                let load = LoadSessionRequest::new(id.clone(), directory.clone());
                agent.send_request(load).block_task().await.map(|loaded| loaded.config_options)
            } else {
                Err(Refusal::method_not_found())
            };
            match resumed {
                Ok(options) => return Ok((id, Models::among(options))),
                Err(error) => {
                    tracing::debug!(code = ?error.code, session = %row.session_id, "an agent does not resume its session")
                }
            }
        }
        let new = connection.agent().send_request(NewSessionRequest::new(directory)).block_task().await?;
        if let Some(mode) = &self.settings.mode {
            let mode = SetSessionModeRequest::new(new.session_id.clone(), mode.clone());
            connection.agent().send_request(mode).block_task().await?;
        }
        Ok((new.session_id, Models::among(new.config_options)))
    }
}

#[async_trait]
impl Backend for Acp {
    type Warm = Agent;

    const KIND: &'static str = "acp";

    async fn start(&self, turn: &Turn, row: &AgentSession) -> Result<Agent, Error> {
        let directory = turn.workspace.clone();
        let Spoken { mut process, connection, said } = self.speak(&row.id, directory.as_deref()).await?;
        let directory = directory.unwrap_or_else(|| self.launch.directory(&row.id));
        let (can, begun) = (said.agent_capabilities, self.settings.start);
        let session = self.session(&connection, &can, row, directory.clone());
        let (session, models) = match tokio::time::timeout(begun, session).await {
            Ok(Ok(session)) => session,
            Ok(Err(refusal)) => return Err(Error::Unavailable(broken(&mut process, &connection, &refusal).await)),
            Err(_) => return Err(slow(begun, &process)),
        };
        let (settings, attachments) = (self.settings.clone(), self.attachments.clone());
        Ok(Agent {
            settings,
            process,
            connection,
            can,
            session,
            models,
            directory,
            attachments,
            limits: self.limits,
            lost: false,
        })
    }

    async fn remove(&self, row: &AgentSession, purge: bool) -> Result<(), Error> {
        match purge {
            true => process::purge(row, &self.launch.homes).await,
            false => process::reap(row).await,
        }
    }

    async fn probe(&self) -> Result<String, Error> {
        let id = BackendId::mint();
        let spoken = self.speak(&id, None).await;
        let said = match spoken {
            Ok(Spoken { process, connection, said }) => {
                drop(connection);
                process.end().await.map(|()| introduced(&said))
            }
            Err(error) => Err(error),
        };
        let _ = self.launch.remove_home(&id).await;
        said
    }

    async fn shut_down(&self) {}
}

/// An agent that was greeted.
struct Spoken {
    process: AgentProcess,
    connection: Connection,
    said: InitializeResponse,
}

/// What an agent says of itself.
fn introduced(said: &InitializeResponse) -> String {
    let name = said.agent_info.as_ref().map(|info| format!("{} {}", info.name, info.version));
    let can = &said.agent_capabilities;
    let goes_on = match (can.session_capabilities.resume.is_some(), can.load_session) {
        (true, _) => "goes on after a restart",
        (false, true) => "goes on after a restart by a replay",
        (false, false) => "is told everything after a restart",
    };
    format!("{}, {goes_on}", name.as_deref().unwrap_or("an agent without a name"))
}

fn slow(time: Duration, process: &AgentProcess) -> Error {
    let time = humantime::format_duration(time);
    Error::Unavailable(format!("the agent did not start within {time}{}", process.tail().said()))
}

/// Why an agent that refused something did: it may be gone, and then its last words say more.
///
/// What was asked fails as soon as the line is cut, when neither the line's end nor the process's may have been seen yet.
async fn broken(process: &mut AgentProcess, connection: &Connection, refusal: &Refusal) -> String {
    let cut = is_incoming_transport_closed(refusal) || is_connection_terminated(refusal);
    match cut || !connection.is_open() || !process.is_alive() {
        true => gone(process).await,
        false => format!("the agent refuses: {}", words(refusal)),
    }
}

async fn gone(process: &mut AgentProcess) -> String {
    format!("the agent is gone{}", process.last_words().await)
}

fn block(piece: Piece) -> ContentBlock {
    match piece {
        Piece::Text(text) => ContentBlock::Text(TextContent::new(text)),
        Piece::Image { mime_type, data } => ContentBlock::Image(ImageContent::new(data, mime_type)),
    }
}

fn words(refusal: &Refusal) -> String {
    let more = refusal.data.as_ref().map(|data| format!(" ({data})")).unwrap_or_default();
    format!("{}{more}", refusal.message)
}

/// An agent that is warm, with one session.
pub struct Agent {
    settings: Arc<Settings>,
    process: AgentProcess,
    connection: Connection,
    can: AgentCapabilities,
    session: SessionId,
    models: Option<Models>,
    directory: PathBuf,
    attachments: Arc<dyn AttachmentReader>,
    limits: Limits,
    /// It does what it was told to stop, or cannot be spoken to: it is of no more use.
    lost: bool,
}

impl Agent {
    /// Sets the model that the turn names, where the agent lets it be chosen.
    async fn set_model(&mut self, model: Option<&str>) -> Result<(), Error> {
        let Some(models) = &mut self.models else { return Ok(()) };
        let setting = models.set(self.connection.agent(), &self.session, model);
        match tokio::time::timeout(self.settings.start, setting).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(Unset::Unknown(why))) => Err(Error::Failed(why)),
            Ok(Err(Unset::Refused(refusal))) => {
                Err(Error::Failed(broken(&mut self.process, &self.connection, &refusal).await))
            }
            Err(_) => {
                self.lost = true;
                Err(Error::Timeout(format!("the agent did not take its model{}", self.process.tail().said())))
            }
        }
    }
}

#[async_trait]
impl Warm for Agent {
    fn process(&self) -> Option<Process> {
        self.process.identity()
    }

    fn agent_session_id(&self) -> Option<String> {
        Some(self.session.0.to_string())
    }

    fn is_alive(&mut self) -> bool {
        !self.lost && self.connection.is_open() && self.process.is_alive()
    }

    async fn turn(
        &mut self,
        turn: &Turn,
        known: &mut Known<'_>,
        events: &mpsc::Sender<Event>,
        cancel: &CancellationToken,
    ) -> Result<Outcome, Error> {
        let images = self.can.prompt_capabilities.image;
        let Some(prompt) = prompt::prompt(turn, known.seen, images, &*self.attachments).await? else {
            return Ok(Outcome::Skipped);
        };
        // It was asked nothing yet: what is set is not to be stopped.
        match cancel.run_until_cancelled(self.set_model(turn.model.as_deref())).await {
            Some(set) => set?,
            None => return Ok(Outcome::Cancelled),
        }
        known.ask().await?;
        let mut talk = Talk {
            settings: &self.settings,
            session: &self.session,
            connection: &self.connection,
            events,
            cancel,
            told: Told::new(self.limits),
            directory: &self.directory,
            desk: Desk::of(turn, self.limits),
        };
        // Until it has come to its end, it is in the midst of something.
        self.lost = true;
        let end = talk.hold(prompt.into_iter().map(block).collect()).await;
        let mut told = talk.told;
        match end {
            End::Said(Ok(response)) => {
                self.lost = false;
                if let Some(counted) = told.counted(&response) {
                    let _ = events.send(counted).await;
                }
                let phase = if response.stop_reason == StopReason::EndTurn { "final_answer" } else { "commentary" };
                if response.stop_reason != StopReason::Cancelled
                    && let Some(said) = told.said(phase)
                {
                    let _ = events.send(said).await;
                }
                talk::outcome(response.stop_reason)
            }
            End::Said(Err(refusal)) => {
                let why = broken(&mut self.process, &self.connection, &refusal).await;
                self.lost = !self.connection.is_open();
                Err(Error::Failed(why))
            }
            End::Cancelled { politely } => {
                self.lost = !politely;
                Ok(Outcome::Cancelled)
            }
            End::Late { why, politely } => {
                self.lost = !politely;
                Err(Error::Timeout(format!("{why}{}", self.process.tail().said())))
            }
        }
    }

    async fn end(self) -> Result<(), Error> {
        if !self.lost && self.can.session_capabilities.close.is_some() {
            let close =
                self.connection.agent().send_request(CloseSessionRequest::new(self.session.clone())).block_task();
            let _ = tokio::time::timeout(CLOSE, close).await;
        }
        // Its input is closed with the connection.
        drop(self.connection);
        self.process.end().await
    }
}

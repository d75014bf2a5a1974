//! What carries a run out: a model behind an API, or an agent process.
//!
//! An executor gets the transcript and a cancellation token, and sends back events. It knows nothing of storage and of
//! HTTP requests to Culm: whoever runs it stores what is durable, and publishes it after the commit.

pub mod acp;
pub mod config;
mod content;
pub mod openai;
pub mod opencode;
pub mod permission;
pub mod pool;
pub mod process;
mod prompt;
mod surrogates;
mod told;
pub mod trial;
mod web;

use std::path::PathBuf;

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::model::{AgentSession, JsonObject, Message, NewMessage, ReasoningEffort, RunId, SessionId};

/// Events on their way that wait at most; an executor that is faster waits.
pub const EVENTS: usize = 64;

/// A run to carry out.
#[derive(Debug, Clone)]
pub struct Turn {
    /// The run.
    pub run_id: RunId,
    /// Its session.
    pub session_id: SessionId,
    /// The model that the run or the session names; none is for the executor's own choice.
    pub model: Option<String>,
    /// How much to think.
    pub reasoning_effort: Option<ReasoningEffort>,
    /// The directory that the session works in: its tree's worktree, or else its own workspace.
    pub workspace: Option<PathBuf>,
    /// What stands for the messages that are compressed.
    pub summary: Option<String>,
    /// The whole history, in order, the compressed messages too.
    pub messages: Vec<Message>,
}

/// What an executor tells while it works.
#[derive(Debug)]
pub enum Event {
    /// A fragment of the assistant's text that is being written.
    TextDelta(String),
    /// A fragment of its reasoning.
    ReasoningDelta(String),
    /// How a tool gets on.
    ToolProgress {
        /// The call.
        tool_call_id: String,
        /// What there is to say.
        text: String,
    },
    /// A message that is finished. It stands for all fragments since the last one.
    Message(NewMessage),
    /// A question to the user. The run goes on with the answer.
    Question(Question),
    /// What the run used so far, in tokens, as the model's provider counts them.
    Usage(JsonObject),
    /// What is to be done, as it stands: it replaces the session's list of tasks.
    Tasks(JsonObject),
}

/// A question to the user, asked by a tool call in the message before it.
#[derive(Debug)]
pub struct Question {
    /// The call that asks. The answer is stored as its result before it is given to `answer`.
    pub tool_call_id: String,
    /// The tool's name.
    pub tool_name: String,
    /// The question.
    pub question: String,
    /// The answers to choose from.
    pub options: Vec<String>,
    /// Whether another answer is allowed.
    pub allow_custom: bool,
    /// Where the answer goes: the stored message. Dropped when there will be none.
    pub answer: oneshot::Sender<Message>,
}

/// How a run ended that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It came to its end.
    Completed,
    /// It stopped because it was told to.
    Cancelled,
    /// There was nothing to do: the last message asks for nothing.
    Skipped,
}

/// Why a run failed, in words for people. They hold no key and no other secret.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The executor cannot be started or reached.
    #[error("{0}")]
    Unavailable(String),
    /// The provider or the agent refused, or broke off.
    #[error("{0}")]
    Failed(String),
    /// The transcript is longer than the model takes.
    #[error("the transcript is longer than the model takes: {0}")]
    ContextTooLong(String),
    /// It was silent for too long.
    #[error("{0}")]
    Timeout(String),
}

impl Error {
    /// Which kind of failure it is, in a word, where its own words may repeat what people wrote.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Unavailable(_) => "unavailable",
            Self::Failed(_) => "failed",
            Self::ContextTooLong(_) => "context_too_long",
            Self::Timeout(_) => "timeout",
        }
    }
}

/// What carries runs out.
///
/// Any number of turns may run at once, at most one for each session. When `cancel` is cancelled, `run` returns soon
/// with [`Outcome::Cancelled`], having stopped what it started elsewhere; its future may also be dropped, which stops
/// the same. What it says after that counts for nothing.
#[async_trait]
pub trait Executor: Send + Sync {
    /// Carries a turn out. Events are sent in order; when nobody takes them any more, the run is over.
    async fn run(&self, turn: Turn, events: mpsc::Sender<Event>, cancel: CancellationToken) -> Result<Outcome, Error>;

    /// Ends what is kept warm for a session, as its row says, and waits until nothing of it is left. `purge` also removes
    /// what the agent keeps of it outside the database. What is gone already is done: it can be called again.
    async fn dispose(&self, backend: &AgentSession, purge: bool) -> Result<(), Error>;

    /// Starts or reaches what carries runs out, and asks it nothing. What it is, in words.
    async fn probe(&self) -> Result<String, Error>;

    /// Ends all that is kept warm.
    async fn shut_down(&self);
}

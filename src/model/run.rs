//! Runs: one execution of a session by an executor.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Message, NewMessage, RawObject, RunId, RunStatus, SessionId, Timestamp};

/// One execution of a session by an executor, from start to a terminal status.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Run {
    /// The id.
    pub id: RunId,
    /// The session.
    pub session_id: SessionId,
    /// The executor's name.
    pub executor: String,
    /// The model, where one was named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Where it stands.
    pub status: RunStatus,
    /// Which try it is, from 1.
    pub attempt: i64,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// When it began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What it used, in tokens, as its executor reported it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<RawObject>,
    /// The `seq` of its first message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_seq: Option<i64>,
    /// The `seq` of its last message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_seq: Option<i64>,
}

impl RunStatus {
    /// Whether a run of this status has ended.
    pub fn is_terminal(self) -> bool {
        !matches!(self, Self::Pending | Self::Running)
    }
}

/// A run to ask for.
#[derive(Debug, Clone)]
pub struct NewRun {
    /// The id; one is made where none is brought.
    pub id: Option<RunId>,
    /// The executor's name.
    pub executor: String,
    /// The model, instead of the session's.
    pub model: Option<String>,
    /// A message to append first, in the same transaction.
    pub message: Option<NewMessage>,
}

/// Which runs to list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RunFilter {
    /// Of this status.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<RunStatus>,
    /// Of this executor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub executor: Option<String>,
    /// Of this session; the path says it.
    #[serde(skip)]
    pub session: Option<SessionId>,
}

/// How a run ended.
#[derive(Debug, Clone)]
pub struct RunEnd {
    /// A terminal status.
    pub status: RunStatus,
    /// Why it failed.
    pub error: Option<String>,
    /// What it used.
    pub usage: Option<RawObject>,
    /// The text that it was writing when it ended.
    pub partial: Option<NewMessage>,
}

impl RunEnd {
    /// An end without more to say.
    pub fn with(status: RunStatus) -> Self {
        Self { status, error: None, usage: None, partial: None }
    }
}

/// A question that waits for its answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PendingQuestion {
    /// The question.
    pub question: String,
    /// The answers to choose from.
    #[serde(default)]
    pub options: Vec<String>,
    /// Whether another answer is allowed.
    #[serde(default)]
    pub allow_custom: bool,
    /// The tool call that asks.
    pub tool_call_id: String,
    /// The tool's name.
    #[serde(default)]
    pub tool_name: String,
}

/// An answer to a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// One of the question's options, or any text where it allows that.
    pub response: String,
    /// The call that asks, where the answer is for that one alone: another question may be pending by now.
    pub tool_call_id: Option<String>,
}

/// An answer that was stored.
#[derive(Debug, Clone)]
pub struct Answered {
    /// The tool's result that holds it.
    pub message: Message,
    /// The run that goes on with it: the one that asked, or a new one.
    pub run: Run,
    /// Whether the run is the one that asked.
    pub asked: bool,
}

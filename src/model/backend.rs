//! Backends: what an executor keeps warm for a session between runs.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{BackendId, SessionId, Timestamp};

/// Where a backend stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum BackendStatus {
    /// It works or waits: a process is there for it.
    Warm,
    /// Nothing is there; the next run starts it again, and goes on where the agent can.
    Dormant,
    /// Its session was closed.
    Closed,
}

/// A backend: one for each session and executor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentSession {
    /// The id. It names the backend's home directory, and its processes carry it in their environment.
    pub id: BackendId,
    /// The session.
    pub session_id: SessionId,
    /// The executor's name.
    pub executor: String,
    /// The kind of backend: `acp` or `opencode`.
    pub backend: String,
    /// The agent's own id of the session. None when it was asked nothing there, or the history has changed under it.
    pub agent_session_id: Option<String>,
    /// The process, which leads a group of its own.
    pub process: Option<Process>,
    /// Where it stands.
    pub status: BackendStatus,
    /// The last message that the agent knows of, by its `seq`; 0 from when it is asked something until that run has ended.
    pub seen_seq: i64,
    /// When it was used last.
    pub used_at: Timestamp,
}

/// A process, told from a later one of the same number by when it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its number.
    pub pid: i32,
    /// When it began, in clock ticks since the machine's start (field 22 of `/proc/PID/stat`).
    pub started: i64,
}

/// What becomes of a backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackendState {
    /// It is there.
    Warm {
        /// Its process; none where others share it.
        process: Option<Process>,
        /// The agent's own id of the session, where it goes on with one that it knows.
        agent_session_id: Option<String>,
    },
    /// It is asked something: what it knows is not certain until the run has ended.
    Asked {
        /// The agent's own id of the session.
        agent_session_id: Option<String>,
    },
    /// It was ended.
    Dormant,
    /// It was ended in the midst of a turn: nobody can tell what it knows.
    Lost,
}

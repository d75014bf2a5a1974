//! Closing, archiving and deleting, seen from outside of the database: what was closed, and what is left to tear down.

use schemars::JsonSchema;
use serde::Serialize;

use super::{AgentSession, BackendStatus, SessionId, Timestamp};

/// Which backends to list.
#[derive(Debug, Clone, Default)]
pub struct BackendFilter {
    /// Of this session, and of everything below it.
    pub below: Option<SessionId>,
    /// That stand so.
    pub status: Option<BackendStatus>,
}

/// How to close a session and everything below it.
#[derive(Debug, Clone, Default)]
pub struct Closing {
    /// Also archive them.
    pub archive: bool,
    /// Backends that were ended, as they were then: one that was used since is not.
    pub ended: Vec<AgentSession>,
    /// Backends that could not be ended, and why: jobs are left for them.
    pub failed: Vec<(AgentSession, String)>,
    /// Leave what is in use open, instead of closing nothing.
    pub leave_busy: bool,
}

/// Whether a session is closed, and what it has to close.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Openness {
    /// The session.
    pub session_id: SessionId,
    /// When it was closed.
    pub closed_at: Option<Timestamp>,
    /// When it was archived.
    pub archived_at: Option<Timestamp>,
    /// Backends that a call closed, or that a close would.
    pub backends: i64,
    /// Whether a run is pending or under way in it, or a backend of it is warm.
    pub busy: bool,
}

/// Something outside of the database that is to be torn down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Teardown {
    /// A backend: it is to be ended.
    Backend {
        /// As its row was.
        backend: AgentSession,
        /// Whether what the agent keeps of it is removed, too.
        purge: bool,
    },
}

/// A teardown that is not lost when the server ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TeardownJob {
    /// Its number.
    pub key: i64,
    /// What is to be done.
    pub work: Teardown,
}

/// What could not be torn down yet. It is tried again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Unfinished {
    /// The session that it was of.
    pub session_id: SessionId,
    /// `backend`: a process.
    pub kind: String,
    /// The executor's name.
    pub name: String,
    /// Why.
    pub error: String,
}

impl TeardownJob {
    /// What is said of a job that was not done.
    pub fn unfinished(&self, error: impl Into<String>) -> Unfinished {
        let Teardown::Backend { backend, .. } = &self.work;
        Unfinished {
            session_id: backend.session_id.clone(),
            kind: "backend".into(),
            name: backend.executor.clone(),
            error: error.into(),
        }
    }
}

//! Closing, archiving and deleting, seen from outside of the database: what was closed, and what is left to tear down.

use schemars::JsonSchema;
use serde::Serialize;

use super::{AgentSession, BackendStatus, SessionId, Timestamp, Worktree};

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
        /// The root of its session's tree.
        root: SessionId,
        /// Whether what the agent keeps of it is removed, too.
        purge: bool,
        /// Whether a server that is gone has left it: it is ended though its session is open.
        left: bool,
    },
    /// A worktree: it is to be removed, unless work is at risk.
    Worktree {
        /// As its row is, or was.
        worktree: Box<Worktree>,
        /// Whether it is removed although work is at risk.
        discard: bool,
        /// Whether its tree is there, and was closed.
        closing: bool,
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
    /// `backend` or `worktree`.
    pub kind: String,
    /// The executor's name, or the worktree's directory.
    pub name: String,
    /// Why.
    pub error: String,
}

impl TeardownJob {
    /// What is said of a job that was not done.
    pub fn unfinished(&self, error: impl Into<String>) -> Unfinished {
        let (session_id, kind, name) = match &self.work {
            Teardown::Backend { backend, .. } => (&backend.session_id, "backend", backend.executor.clone()),
            Teardown::Worktree { worktree, .. } => (&worktree.session_id, "worktree", worktree.path.to_string()),
        };
        Unfinished { session_id: session_id.clone(), kind: kind.into(), name, error: error.into() }
    }
}

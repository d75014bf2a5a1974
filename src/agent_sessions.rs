//! The rows of backends, for executors: what is warm is written down, so that nothing warm is ever forgotten.

use std::io;

use async_trait::async_trait;

use crate::model::{AgentSession, BackendId, BackendState, SessionId};

/// Who keeps the rows of backends.
#[async_trait]
pub trait AgentSessions: Send + Sync {
    /// The backend that a session has with an executor; made, dormant, where there is none, and one that was closed is
    /// dormant again. A session that was deleted is an error.
    async fn agent_session(&self, session: &SessionId, executor: &str, backend: &str) -> io::Result<AgentSession>;

    /// Writes down what becomes of a backend. When that fails, nobody will know of what is warm: it must be ended.
    async fn update_agent_session(&self, id: &BackendId, state: BackendState) -> io::Result<()>;
}

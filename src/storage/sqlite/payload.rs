//! What a teardown job is to know when the rows are gone, as JSON: the names are those that the schema's triggers write.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{backends, types};
use crate::model::{
    AbsolutePath, AgentSession, BackendId, BackendStatus, SessionId, Teardown, Timestamp, Worktree, WorktreeState,
};

#[derive(Debug, Serialize, Deserialize)]
struct BackendPayload {
    id: BackendId,
    session_id: SessionId,
    root_session_id: SessionId,
    executor: String,
    backend: String,
    agent_session_id: Option<String>,
    pid: Option<i64>,
    pid_started: Option<i64>,
    status: BackendStatus,
    seen_seq: i64,
    used_at: i64,
    purge: bool,
    /// Not written by the triggers.
    #[serde(default)]
    left: bool,
}

#[derive(Debug, Serialize, Deserialize)]
struct WorktreePayload {
    session_id: SessionId,
    state: WorktreeState,
    path: AbsolutePath,
    repository: AbsolutePath,
    git_dir: Option<AbsolutePath>,
    branch: Option<String>,
    branch_created: bool,
    base_commit: Option<String>,
    base_ref: Option<String>,
    adopted: bool,
    main: bool,
    rescue_ref: Option<String>,
    created_at: i64,
    updated_at: i64,
    discard: bool,
    closing: bool,
}

/// A job's kind, and what it is to know.
pub(super) fn payload(work: &Teardown) -> (&'static str, String) {
    match work {
        Teardown::Backend { backend, root, purge, left } => {
            let backend = backend.clone();
            let payload = BackendPayload {
                id: backend.id,
                session_id: backend.session_id,
                root_session_id: root.clone(),
                executor: backend.executor,
                backend: backend.backend,
                agent_session_id: backend.agent_session_id,
                pid: backend.process.map(|process| process.pid.into()),
                pid_started: backend.process.map(|process| process.started),
                status: backend.status,
                seen_seq: backend.seen_seq,
                used_at: backend.used_at.0,
                purge: *purge,
                left: *left,
            };
            ("backend", types::object(&payload))
        }
        Teardown::Worktree { worktree, discard, closing } => {
            let worktree = Worktree::clone(worktree);
            let payload = WorktreePayload {
                session_id: worktree.session_id,
                state: worktree.state,
                path: worktree.path,
                repository: worktree.repository,
                git_dir: worktree.git_dir,
                branch: worktree.branch,
                branch_created: worktree.branch_created,
                base_commit: worktree.base_commit,
                base_ref: worktree.base_ref,
                adopted: worktree.adopted,
                main: worktree.main,
                rescue_ref: worktree.rescue_ref,
                created_at: worktree.created_at.0,
                updated_at: worktree.updated_at.0,
                discard: *discard,
                closing: *closing,
            };
            ("worktree", types::object(&payload))
        }
    }
}

/// What a job is to do.
pub(super) fn work(kind: &str, payload: Value) -> serde_json::Result<Teardown> {
    if kind == "worktree" {
        return serde_json::from_value(payload).map(WorktreePayload::into_teardown);
    }
    serde_json::from_value(payload).map(BackendPayload::into_teardown)
}

impl BackendPayload {
    fn into_teardown(self) -> Teardown {
        let backend = AgentSession {
            id: self.id,
            session_id: self.session_id,
            executor: self.executor,
            backend: self.backend,
            agent_session_id: self.agent_session_id,
            process: backends::process(self.pid, self.pid_started),
            status: self.status,
            seen_seq: self.seen_seq,
            used_at: Timestamp(self.used_at),
        };
        Teardown::Backend { backend, root: self.root_session_id, purge: self.purge, left: self.left }
    }
}

impl WorktreePayload {
    fn into_teardown(self) -> Teardown {
        let worktree = Worktree {
            session_id: self.session_id,
            state: self.state,
            path: self.path,
            repository: self.repository,
            git_dir: self.git_dir,
            branch: self.branch,
            branch_created: self.branch_created,
            base_commit: self.base_commit,
            base_ref: self.base_ref,
            adopted: self.adopted,
            main: self.main,
            rescue_ref: self.rescue_ref,
            discard: self.discard,
            created_at: Timestamp(self.created_at),
            updated_at: Timestamp(self.updated_at),
            asked_for: String::new(),
        };
        Teardown::Worktree { worktree: Box::new(worktree), discard: self.discard, closing: self.closing }
    }
}

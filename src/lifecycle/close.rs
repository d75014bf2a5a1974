//! Closing a session and everything below it, and opening it again.

use std::{collections::HashMap, time::Duration};

use futures_util::{StreamExt, stream};
use schemars::JsonSchema;
use serde::Serialize;

use super::teardown::AT_ONCE;
use crate::{
    model::{AgentSession, BackendFilter, BackendId, BackendStatus, Closing, Openness, SessionId, Timestamp},
    runs::Runs,
    storage::{Error, Result, Storage},
};

/// How often a close begins again because something was used meanwhile. The last time, it leaves that open.
const ROUNDS: usize = 3;
/// How long it waits for what runs to stop. Each run has a bound of its own, but new ones may come.
const PATIENCE: Duration = Duration::from_secs(60);
/// Backends that are read at once.
const PAGE: i64 = 200;

/// What a call did with one session.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct SessionResult {
    /// The session.
    pub session_id: SessionId,
    /// The executors whose backends were warm, and were ended.
    pub disposed: Vec<String>,
    /// Backends that were closed, with those that were not warm.
    pub backends_closed: i64,
    /// Whether the worktree of the tree was removed.
    pub worktree_removed: bool,
    /// Whether the worktree of the tree stays, because work would be lost with it.
    pub worktree_at_risk: bool,
    /// When the session was closed, if it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub closed_at: Option<Timestamp>,
    /// When the session was archived, if it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub archived_at: Option<Timestamp>,
    /// What was not done, and why. The rest was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl SessionResult {
    fn of(session: Openness) -> Self {
        Self {
            session_id: session.session_id,
            disposed: Vec::new(),
            backends_closed: session.backends,
            worktree_removed: false,
            worktree_at_risk: false,
            closed_at: session.closed_at,
            archived_at: session.archived_at,
            error: None,
        }
    }
}

/// Closes a session and everything below it: stops what runs there, ends what is warm, and closes the rows. Archives
/// them too, where asked. What could not be ended is said, and tried again by the reaper.
pub async fn close(runs: &Runs, id: &SessionId, archive: bool) -> Result<Vec<SessionResult>> {
    let (runs, id) = (runs.clone(), id.clone());
    let tasks = runs.repository().tasks().clone();
    tasks.detached(async move { close_below(&runs, &id, archive).await }).await
}

async fn close_below(runs: &Runs, id: &SessionId, archive: bool) -> Result<Vec<SessionResult>> {
    let mut met = Met::default();
    for _ in 1..ROUNDS {
        match met.close(runs, id, archive, false).await {
            // Something was used since it was ended.
            Err(Error::SessionBusy(_)) => {}
            outcome => return outcome,
        }
    }
    met.close(runs, id, archive, true).await
}

/// What a close would do now.
pub async fn preview(runs: &Runs, id: &SessionId) -> Result<Vec<SessionResult>> {
    let sessions = runs.repository().openness(id).await?;
    let warm = warm(runs, id).await?;
    let result = |session: Openness| {
        let disposed = executors(&session.session_id, warm.iter());
        SessionResult { disposed, ..SessionResult::of(session) }
    };
    Ok(sessions.into_iter().map(result).collect())
}

/// Opens a session and everything below it again, or takes them out of the archive.
pub async fn open(runs: &Runs, id: &SessionId, unarchive: bool) -> Result<Vec<SessionResult>> {
    let sessions = runs.repository().open_sessions(id, unarchive).await?;
    Ok(sessions.into_iter().map(SessionResult::of).collect())
}

/// The backends that a close has met, as they were then.
#[derive(Default)]
struct Met {
    ended: HashMap<BackendId, AgentSession>,
    failed: HashMap<BackendId, (AgentSession, String)>,
}

impl Met {
    /// Stops, ends and closes, once.
    async fn close(
        &mut self,
        runs: &Runs,
        id: &SessionId,
        archive: bool,
        leave_busy: bool,
    ) -> Result<Vec<SessionResult>> {
        match self.end(runs, id).await {
            // Nothing is there to end. What became of the session is the write's to say.
            Err(Error::SessionNotFound(_)) => {}
            ended => ended?,
        }
        let (ended, failed) = (self.ended.values().cloned().collect(), self.failed.values().cloned().collect());
        let closing = Closing { archive, ended, failed, leave_busy };
        let sessions = runs.repository().close_sessions(id, closing).await?;
        Ok(sessions.into_iter().map(|session| self.result(session)).collect())
    }

    /// Stops what runs, then ends what is warm, all at the same time.
    async fn end(&mut self, runs: &Runs, id: &SessionId) -> Result<()> {
        if let Ok(stopped) = tokio::time::timeout(PATIENCE, runs.cancel_session(id, true)).await {
            stopped?;
        }
        let mut warm = warm(runs, id).await?;
        warm.retain(|backend| self.failed.get(&backend.id).is_none_or(|(failed, _)| failed.used_at != backend.used_at));
        let ending = stream::iter(warm).map(|backend| async move { (runs.dispose(&backend, false).await, backend) });
        let mut ending = ending.buffer_unordered(AT_ONCE);
        while let Some((outcome, backend)) = ending.next().await {
            let id = backend.id.clone();
            match outcome {
                Ok(()) => {
                    self.failed.remove(&id);
                    self.ended.insert(id, backend);
                }
                Err(error) => {
                    tracing::warn!(%error, backend = %id, "a backend was not ended; it is tried again");
                    self.ended.remove(&id);
                    self.failed.insert(id, (backend, error.to_string()));
                }
            }
        }
        Ok(())
    }

    fn result(&self, session: Openness) -> SessionResult {
        let failed = self.failed.values().filter(|(backend, _)| backend.session_id == session.session_id);
        let mut errors: Vec<String> =
            failed.map(|(backend, error)| format!("{} was not ended: {error}", backend.executor)).collect();
        errors.sort();
        if session.busy {
            errors.insert(0, "it stays open: it was used again each time it was to be closed".into());
        }
        let error = (!errors.is_empty()).then(|| errors.join("; "));
        let disposed = executors(&session.session_id, self.ended.values());
        SessionResult { disposed, error, ..SessionResult::of(session) }
    }
}

/// The executors whose backends of a session are among these.
fn executors<'a>(session: &SessionId, backends: impl Iterator<Item = &'a AgentSession>) -> Vec<String> {
    let of_session = backends.filter(|backend| backend.session_id == *session);
    let mut names: Vec<String> = of_session.map(|backend| backend.executor.clone()).collect();
    names.sort();
    names
}

/// What is warm in a session and below it.
async fn warm(runs: &Runs, id: &SessionId) -> Result<Vec<AgentSession>> {
    let filter = BackendFilter { below: Some(id.clone()), status: Some(BackendStatus::Warm) };
    let (mut warm, mut after) = (Vec::new(), None);
    loop {
        let page = runs.repository().agent_sessions(&filter, after, PAGE).await?;
        warm.extend(page.items);
        match page.next {
            Some(next) => after = Some(next),
            None => return Ok(warm),
        }
    }
}

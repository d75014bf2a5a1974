//! Closing a session and everything below it, and opening it again.

use std::{collections::HashMap, time::Duration};

use futures_util::{StreamExt, stream};
use schemars::JsonSchema;
use serde::Serialize;

use super::{
    teardown::AT_ONCE,
    worktree::{WorktreeError, go_on, in_turn, is_begun, take_away},
};
use crate::{
    executor::process,
    model::{
        AbsolutePath, AgentSession, AtRisk, BackendFilter, BackendId, BackendStatus, Closing, Openness, Removed,
        SessionId, Teardown, Timestamp, Worktree, WorktreeState, WorktreeStep,
    },
    repository::SessionRepository,
    runs::Runs,
    storage::{Error, Result, Storage},
    worktree::{self, Worktrees},
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
    /// What would be lost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at_risk: Option<Box<AtRisk>>,
    /// The ref that keeps what was in the worktree.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rescue_ref: Option<String>,
    /// Where files of the worktree are now that could not be deleted, or that git could not judge.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub set_aside: Option<AbsolutePath>,
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
            at_risk: None,
            rescue_ref: None,
            set_aside: None,
            closed_at: session.closed_at,
            archived_at: session.archived_at,
            error: None,
        }
    }

    fn fail(&mut self, error: String) {
        self.error = Some(self.error.take().map_or(error.clone(), |before| format!("{before}; {error}")));
    }
}

/// How to close.
#[derive(Debug, Clone, Copy, Default)]
pub struct Close {
    /// Also archive.
    pub archive: bool,
    /// Also remove a worktree that holds work which would be lost.
    pub force: bool,
}

/// Closes a session and everything below it: stops what runs there, ends what is warm, and closes the rows. The worktree
/// of the tree goes with its last open session, unless work is at risk. Archives them too, where asked. What could not be
/// done is said, and tried again by the reaper.
pub async fn close(runs: &Runs, worktrees: &Worktrees, id: &SessionId, how: Close) -> Result<Vec<SessionResult>> {
    let (runs, worktrees, id) = (runs.clone(), worktrees.clone(), id.clone());
    let tasks = runs.repository().tasks().clone();
    let work = async move {
        let mut results = close_below(&runs, &id, how.archive).await?;
        close_worktree(&runs, &worktrees, &id, how.force, &mut results).await;
        Ok(results)
    };
    tasks.detached(work).await
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

/// Removes the tree's worktree, and says what became of it: of the first of the sessions, the one that was named.
async fn close_worktree(
    runs: &Runs,
    worktrees: &Worktrees,
    id: &SessionId,
    force: bool,
    results: &mut [SessionResult],
) {
    let Some(result) = results.first_mut() else { return };
    match remove_worktree(runs, worktrees, id, force).await {
        Ok(Gone::Not) => {}
        Ok(Gone::Removed(removed)) => {
            (result.worktree_removed, result.rescue_ref) = (true, removed.rescue_ref);
            result.set_aside = removed.set_aside;
        }
        Ok(Gone::AtRisk(at_risk)) => (result.worktree_at_risk, result.at_risk) = (true, Some(at_risk)),
        Err(error) => {
            result.fail(format!("the worktree was not removed: {error}"));
            if let Err(error) = leave_worktree(runs, id, force, &error.to_string()).await {
                tracing::error!(%error, session = %id, "a worktree that was not removed is not on record");
            }
        }
    }
}

/// What became of a tree's worktree.
pub(super) enum Gone {
    /// There is none, or its tree is in use.
    Not,
    Removed(Box<Removed>),
    AtRisk(Box<AtRisk>),
}

/// Why a worktree stays for now.
#[derive(Debug, thiserror::Error)]
pub(super) enum Stays {
    #[error("what works in it has not ended")]
    InUse,
    #[error(transparent)]
    Failed(#[from] WorktreeError),
}

impl From<Error> for Stays {
    fn from(error: Error) -> Self {
        Self::Failed(error.into())
    }
}

/// Removes the worktree of a tree whose sessions are all closed; or goes on where that, or another call, ended half-way,
/// whoever is open meanwhile.
pub(super) async fn remove_worktree(
    runs: &Runs,
    worktrees: &Worktrees,
    id: &SessionId,
    discard: bool,
) -> std::result::Result<Gone, Stays> {
    let repository = runs.repository();
    let (worktree, _turn) = match in_turn(repository, worktrees, id).await {
        Ok(None) | Err(Error::SessionNotFound(_)) => return Ok(Gone::Not),
        Ok(Some(found)) => found,
        Err(error) => return Err(error.into()),
    };
    let taken = match is_begun(&worktree) {
        true => {
            let discard = discard || worktree.discard;
            go_on(repository, worktrees, &Worktree { discard, ..worktree }).await
        }
        false => match begin(repository, &worktree.session_id, discard).await? {
            Some(worktree) => take_away(repository, worktrees, &worktree).await.map(|(_, removed)| Some(removed)),
            None => return Ok(Gone::Not),
        },
    };
    // Runs wait while it is removed.
    runs.wake();
    match taken {
        Ok(Some(removed)) if removed.removed => Ok(Gone::Removed(Box::new(removed))),
        Ok(_) => Ok(Gone::Not),
        Err(WorktreeError::AtRisk(at_risk)) => Ok(Gone::AtRisk(at_risk)),
        Err(error) => Err(error.into()),
    }
}

/// Records that the worktree of a tree is being removed, if all of the tree is closed.
async fn begin(
    repository: &SessionRepository,
    root: &SessionId,
    discard: bool,
) -> std::result::Result<Option<Worktree>, Stays> {
    let tree = repository.openness(root).await?;
    if tree.iter().any(|session| session.closed_at.is_none()) {
        return Ok(None);
    }
    if tree.iter().any(|session| session.busy) {
        return Err(Stays::InUse);
    }
    let rescue_ref = worktree::rescue_ref(root, Timestamp::now());
    let step = WorktreeStep::Removing { rescue_ref, discard, closed: true };
    match repository.advance_worktree(root, step).await {
        // It was opened again at this moment, or is gone with its tree.
        Err(Error::SessionBusy(_) | Error::WorktreeNotFound(_)) => Ok(None),
        advanced => Ok(Some(advanced?)),
    }
}

/// The worktree of a session's tree, if it has one.
async fn worktree_of(runs: &Runs, id: &SessionId) -> Result<Option<Worktree>> {
    match runs.repository().worktree_of(id).await {
        Err(Error::SessionNotFound(_)) => Ok(None),
        found => found,
    }
}

async fn leave_worktree(runs: &Runs, id: &SessionId, discard: bool, error: &str) -> Result<()> {
    let Some(worktree) = worktree_of(runs, id).await? else { return Ok(()) };
    let work = Teardown::Worktree { worktree: Box::new(worktree), discard, closing: true };
    runs.repository().leave_teardown(work, error.to_owned()).await
}

/// What a close would do now.
pub async fn preview(runs: &Runs, worktrees: &Worktrees, id: &SessionId, force: bool) -> Result<Vec<SessionResult>> {
    let sessions = runs.repository().openness(id).await?;
    let warm = warm(runs, id).await?;
    let result = |session: Openness| {
        let disposed = executors(&session.session_id, warm.iter());
        SessionResult { disposed, ..SessionResult::of(session) }
    };
    let mut results: Vec<SessionResult> = sessions.into_iter().map(result).collect();
    preview_worktree(runs, worktrees, id, force, &warm, &mut results).await?;
    Ok(results)
}

/// Says of the first of the sessions what would become of the tree's worktree.
async fn preview_worktree(
    runs: &Runs,
    worktrees: &Worktrees,
    id: &SessionId,
    force: bool,
    warm: &[AgentSession],
    results: &mut [SessionResult],
) -> Result<()> {
    let there = |worktree: &Worktree| !worktree.main && worktree.state != WorktreeState::Creating;
    let Some(worktree) = worktree_of(runs, id).await?.filter(there) else { return Ok(()) };
    let tree = runs.repository().openness(&worktree.session_id).await?;
    let closed = |session: &Openness| {
        session.closed_at.is_some() || results.iter().any(|result| result.session_id == session.session_id)
    };
    if !tree.iter().all(closed) {
        return Ok(());
    }
    // What is warm works there until it is ended; what else does stands against it.
    let ending = process::all_of(warm).await;
    let at_risk = worktrees.preflight(&worktree, &ending).await;
    let Some(result) = results.first_mut() else { return Ok(()) };
    match at_risk {
        Ok(at_risk) => {
            let stands = !at_risk.blocking().is_empty();
            result.worktree_removed = force || !stands;
            result.worktree_at_risk = stands && !force;
            result.at_risk = stands.then(|| Box::new(at_risk));
        }
        Err(error) => result.fail(format!("the worktree cannot be looked at: {error}")),
    }
    Ok(())
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
pub(super) async fn warm(runs: &Runs, id: &SessionId) -> Result<Vec<AgentSession>> {
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

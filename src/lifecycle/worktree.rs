//! A tree's worktree: attached, shown, removed; and what a server that ended left of that.
//!
//! What is about to happen on the disk is written down first, and what has happened after it: a crash in between leaves
//! a row that says `creating` or `removing`, and the next start takes it up.

use serde_json::json;
use sha2::{Digest, Sha256};

use super::close;
use crate::{
    model::{
        AtRisk, AttachWorktree, Findings, Removed, SessionId, Teardown, Timestamp, Worktree, WorktreeState,
        WorktreeStep, hex,
    },
    repository::SessionRepository,
    runs::Runs,
    storage::{self, Storage},
    worktree::{self, Refusal, Turn, Worktrees},
};

impl From<Refusal> for WorktreeError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::AtRisk(at_risk) => Self::AtRisk(at_risk),
            Refusal::Failed(error) => Self::Failed(error),
        }
    }
}

/// Why nothing was done with a worktree.
#[derive(Debug, thiserror::Error)]
pub enum WorktreeError {
    /// The storage refused.
    #[error(transparent)]
    Storage(#[from] storage::Error),
    /// Work would be lost.
    #[error("work in the worktree would be lost: {}", .0.blocking().join(", "))]
    AtRisk(Box<AtRisk>),
    /// Git or the file system did not do it.
    #[error(transparent)]
    Failed(#[from] worktree::Error),
}

/// A worktree that a tree has now.
#[derive(Debug)]
pub struct Attached {
    /// The worktree.
    pub worktree: Worktree,
    /// Whether it was made now: the same request again is answered with what is there.
    pub new: bool,
    /// Files of a new one that a filter would have made: no filter of a repository is run, so they are as committed.
    pub unfiltered: Findings,
}

/// Attaches a worktree to the tree of a session.
pub async fn attach_worktree(
    repository: &SessionRepository,
    worktrees: &Worktrees,
    id: &SessionId,
    ask: AttachWorktree,
) -> Result<Attached, WorktreeError> {
    let (repository, worktrees, id) = (repository.clone(), worktrees.clone(), id.clone());
    let tasks = repository.tasks().clone();
    tasks.detached(async move { attach(&repository, &worktrees, &id, &ask).await }).await
}

async fn attach(
    repository: &SessionRepository,
    worktrees: &Worktrees,
    id: &SessionId,
    ask: &AttachWorktree,
) -> Result<Attached, WorktreeError> {
    let asked_for = hex(&Sha256::digest(json!(ask).to_string()));
    let there = match repository.worktree_of(id).await {
        // Whether it was deleted or never there is the write's to say.
        Err(storage::Error::SessionNotFound(_)) => None,
        found => found?,
    };
    if let Some(there) = there {
        let settled = matches!(there.state, WorktreeState::Attached | WorktreeState::Retained);
        return match settled && there.asked_for == asked_for {
            true => Ok(Attached { worktree: there, new: false, unfiltered: Findings::default() }),
            false => Err(storage::Error::WorktreeExists { root: there.session_id, path: there.path }.into()),
        };
    }
    let root = repository.session(id).await?.map_or_else(|| id.clone(), |session| session.root_session_id);
    let mut new = worktrees.plan(&root, ask).await?;
    new.asked_for = asked_for;
    // Whoever finds it on record waits until it is made, or is no more.
    let _turn = worktrees.turn(&new.path).await;
    let planned = repository.add_worktree(id, new).await?;
    let git_dir = match worktrees.create(&planned).await {
        Ok(git_dir) => git_dir,
        Err(error) => {
            // Why it was not made is what there is to say.
            let _ = abandon(repository, worktrees, &planned).await;
            return Err(error.into());
        }
    };
    match repository.advance_worktree(&root, WorktreeStep::Attached { git_dir: git_dir.clone() }).await {
        Ok(worktree) => {
            // It is there, whether that can be said or not.
            let unfiltered = worktrees.unfiltered(&worktree).await.unwrap_or_else(|error| {
                tracing::warn!(%error, path = %worktree.path, "whether filters are missing in a worktree was not found out");
                Findings::default()
            });
            Ok(Attached { worktree, new: true, unfiltered })
        }
        // The tree was deleted meanwhile: nobody knows of it any more.
        Err(error) => {
            let _ = abandon(repository, worktrees, &Worktree { git_dir: Some(git_dir), ..planned }).await;
            Err(error.into())
        }
    }
}

/// Takes back what was made of a worktree that nobody had. One that is adopted stays where it is. Within its turn.
async fn abandon(
    repository: &SessionRepository,
    worktrees: &Worktrees,
    worktree: &Worktree,
) -> Result<(), WorktreeError> {
    let abandoned = try_to_abandon(repository, worktrees, worktree).await;
    if let Err(error) = &abandoned {
        tracing::warn!(%error, path = %worktree.path, "a worktree was not made, and is not gone either");
        leave(repository, worktree, &error.to_string()).await;
    }
    abandoned
}

async fn try_to_abandon(
    repository: &SessionRepository,
    worktrees: &Worktrees,
    worktree: &Worktree,
) -> Result<(), WorktreeError> {
    match worktree.adopted {
        true => worktrees.release(worktree).await?,
        false => drop(worktrees.remove(worktree, true).await?),
    }
    match repository.advance_worktree(&worktree.session_id, WorktreeStep::Abandoned).await {
        Err(storage::Error::SessionDeleted(_) | storage::Error::SessionNotFound(_)) | Ok(_) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Removes the worktree of a session's tree, unless work is at risk and not to be discarded. What is warm in the tree works
/// in it, and ends before. The main working tree of a repository is let go, and stays.
pub async fn detach_worktree(
    runs: &Runs,
    worktrees: &Worktrees,
    id: &SessionId,
    discard: bool,
) -> Result<(Worktree, Removed), WorktreeError> {
    let (runs, worktrees, id) = (runs.clone(), worktrees.clone(), id.clone());
    let tasks = runs.repository().tasks().clone();
    let work = async move {
        let repository = runs.repository();
        let not_found = || storage::Error::WorktreeNotFound(id.clone());
        let (found, _turn) = in_turn(repository, &worktrees, &id).await?.ok_or_else(not_found)?;
        let rescue_ref = worktree::rescue_ref(&found.session_id, Timestamp::now());
        let removing = WorktreeStep::Removing { rescue_ref, discard, closed: false };
        let worktree = repository.advance_worktree(&id, removing).await?;
        end_warm(&runs, &worktree.session_id).await;
        let taken = take_away(repository, &worktrees, &worktree).await;
        // Runs wait while it is removed.
        runs.wake();
        taken
    };
    tasks.detached(work).await
}

/// Ends what is warm in a tree, in which no run begins. What cannot be ended is found at work in the worktree.
async fn end_warm(runs: &Runs, root: &SessionId) {
    let warm = close::warm(runs, root).await.unwrap_or_default();
    let ending = warm.iter().map(|backend| runs.dispose(backend, false));
    for error in futures_util::future::join_all(ending).await.into_iter().filter_map(Result::err) {
        tracing::warn!(%error, session = %root, "a backend was not ended before its worktree is removed");
    }
}

/// The worktree of a session's tree, in its turn, as it is once nobody else works on it.
pub(super) async fn in_turn(
    repository: &SessionRepository,
    worktrees: &Worktrees,
    id: &SessionId,
) -> storage::Result<Option<(Worktree, Turn)>> {
    loop {
        let Some(found) = repository.worktree_of(id).await? else { return Ok(None) };
        let turn = worktrees.turn(&found.path).await;
        // It may be gone meanwhile, and the tree have another one.
        match repository.worktree_of(id).await? {
            Some(worktree) if worktree.path == found.path => return Ok(Some((worktree, turn))),
            Some(_) => {}
            None => return Ok(None),
        }
    }
}

/// Removes a worktree that is on record as being removed, and records what became of it. Within its turn. What ends
/// half-way is a job.
pub(super) async fn take_away(
    repository: &SessionRepository,
    worktrees: &Worktrees,
    worktree: &Worktree,
) -> Result<(Worktree, Removed), WorktreeError> {
    let taken = try_to_take_away(repository, worktrees, worktree).await;
    if let Err(error @ (WorktreeError::Failed(_) | WorktreeError::Storage(_))) = &taken
        // Half removed, it is nothing to work in.
        && repository.worktree_of(&worktree.session_id).await.is_ok_and(|now| now.is_some_and(|now| is_begun(&now)))
    {
        leave(repository, worktree, &error.to_string()).await;
    }
    taken
}

async fn try_to_take_away(
    repository: &SessionRepository,
    worktrees: &Worktrees,
    worktree: &Worktree,
) -> Result<(Worktree, Removed), WorktreeError> {
    let root = &worktree.session_id;
    match worktrees.remove(worktree, worktree.discard).await {
        Ok(removed) => {
            let step = match removed.removed {
                true => WorktreeStep::Removed { rescue_ref: removed.rescue_ref.clone() },
                false => {
                    worktrees.release(worktree).await?;
                    WorktreeStep::Detached
                }
            };
            Ok((repository.advance_worktree(root, step).await?, removed))
        }
        Err(Refusal::AtRisk(at_risk)) => {
            repository.advance_worktree(root, WorktreeStep::Kept).await?;
            Err(WorktreeError::AtRisk(at_risk))
        }
        Err(Refusal::Failed(error)) => {
            if worktrees.is_whole(worktree).await {
                repository.advance_worktree(root, WorktreeStep::Kept).await?;
            }
            Err(error.into())
        }
    }
}

/// Whether it was being made or removed: seen within a turn, nobody is at it any more.
pub(super) fn is_begun(worktree: &Worktree) -> bool {
    matches!(worktree.state, WorktreeState::Creating | WorktreeState::Removing)
}

/// Leaves what was begun with a worktree to the reaper.
async fn leave(repository: &SessionRepository, worktree: &Worktree, error: &str) {
    let (discard, worktree) = (worktree.discard, Box::new(worktree.clone()));
    let work = Teardown::Worktree { worktree, discard, closing: true };
    if let Err(error) = repository.leave_teardown(work, error.to_owned()).await {
        tracing::error!(%error, "a worktree that was half removed is for the next start to remove");
    }
}

/// Ends what was begun with a worktree and not ended. Within its turn.
pub(super) async fn go_on(
    repository: &SessionRepository,
    worktrees: &Worktrees,
    worktree: &Worktree,
) -> Result<Option<Removed>, WorktreeError> {
    if worktree.state == WorktreeState::Creating {
        return abandon(repository, worktrees, worktree).await.map(|()| None);
    }
    take_away(repository, worktrees, worktree).await.map(|(_, removed)| Some(removed))
}

/// Ends what a server that is gone was making or removing. What cannot be ended now is a job.
pub(super) async fn settle_worktrees(repository: &SessionRepository, worktrees: &Worktrees) -> storage::Result<()> {
    for left in repository.unfinished_worktrees().await? {
        // Others serve already, and may have ended it, or begun with another one.
        let found = in_turn(repository, worktrees, &left.session_id).await;
        let Ok(Some((worktree, _turn))) = found else { continue };
        if !is_begun(&worktree) {
            continue;
        }
        match go_on(repository, worktrees, &worktree).await {
            Ok(_) => tracing::info!(path = %worktree.path, "what was begun with a worktree was ended"),
            Err(error) => tracing::warn!(%error, path = %worktree.path, "what was begun with a worktree was not ended"),
        }
    }
    Ok(())
}

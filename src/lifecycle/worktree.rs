//! A tree's worktree: attached, shown, removed; and what a server that ended left of that.
//!
//! What is about to happen on the disk is written down first, and what has happened after it: a crash in between leaves
//! a row that says `creating` or `removing`, and the next start takes it up.

use serde_json::json;
use sha2::{Digest, Sha256};

use crate::{
    model::{AtRisk, AttachWorktree, Removed, SessionId, Timestamp, Worktree, WorktreeState, WorktreeStep, hex},
    repository::SessionRepository,
    storage::{self, Storage},
    worktree::{self, Refusal, Worktrees},
};

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

/// Attaches a worktree to the tree of a session. Whether it was made now: the same request again is answered with what
/// is there.
pub async fn attach_worktree(
    repository: &SessionRepository,
    worktrees: &Worktrees,
    id: &SessionId,
    ask: AttachWorktree,
) -> Result<(Worktree, bool), WorktreeError> {
    let (repository, worktrees, id) = (repository.clone(), worktrees.clone(), id.clone());
    let tasks = repository.tasks().clone();
    tasks.detached(async move { attach(&repository, &worktrees, &id, &ask).await }).await
}

async fn attach(
    repository: &SessionRepository,
    worktrees: &Worktrees,
    id: &SessionId,
    ask: &AttachWorktree,
) -> Result<(Worktree, bool), WorktreeError> {
    let asked_for = hex(&Sha256::digest(json!(ask).to_string()));
    let there = match repository.worktree_of(id).await {
        // Whether it was deleted or never there is the write's to say.
        Err(storage::Error::SessionNotFound(_)) => None,
        found => found?,
    };
    if let Some(there) = there {
        let settled = matches!(there.state, WorktreeState::Attached | WorktreeState::Retained);
        return match settled && there.asked_for == asked_for {
            true => Ok((there, false)),
            false => Err(storage::Error::WorktreeExists { root: there.session_id, path: there.path }.into()),
        };
    }
    let root = repository.session(id).await?.map_or_else(|| id.clone(), |session| session.root_session_id);
    let mut new = worktrees.plan(&root, ask).await?;
    new.asked_for = asked_for;
    let planned = repository.add_worktree(id, new).await?;
    let git_dir = match worktrees.create(&planned).await {
        Ok(git_dir) => git_dir,
        Err(error) => {
            abandon(repository, worktrees, &planned).await;
            return Err(error.into());
        }
    };
    match repository.advance_worktree(&root, WorktreeStep::Attached { git_dir: git_dir.clone() }).await {
        Ok(worktree) => Ok((worktree, true)),
        // The tree was deleted meanwhile: nobody knows of it any more.
        Err(error) => {
            abandon(repository, worktrees, &Worktree { git_dir: Some(git_dir), ..planned }).await;
            Err(error.into())
        }
    }
}

/// Takes back what was made of a worktree that nobody had. One that is adopted stays where it is.
async fn abandon(repository: &SessionRepository, worktrees: &Worktrees, worktree: &Worktree) {
    let outcome = match worktree.adopted {
        true => worktrees.release(worktree).await.map_err(Refusal::from),
        false => worktrees.remove(worktree, true).await.map(drop),
    };
    if let Err(error) = outcome {
        tracing::warn!(%error, path = %worktree.path, "a worktree was not made, and is not gone either");
        return;
    }
    match repository.advance_worktree(&worktree.session_id, WorktreeStep::Abandoned).await {
        Err(storage::Error::SessionDeleted(_) | storage::Error::SessionNotFound(_)) | Ok(_) => {}
        Err(error) => tracing::warn!(%error, path = %worktree.path, "a worktree that was not made is still on record"),
    }
}

/// Removes the worktree of a session's tree, unless work is at risk and not to be discarded. The main working tree of a
/// repository is let go, and stays.
pub async fn detach_worktree(
    repository: &SessionRepository,
    worktrees: &Worktrees,
    id: &SessionId,
    discard: bool,
) -> Result<(Worktree, Removed), WorktreeError> {
    let (repository, worktrees, id) = (repository.clone(), worktrees.clone(), id.clone());
    let tasks = repository.tasks().clone();
    let work = async move {
        let not_found = || storage::Error::WorktreeNotFound(id.clone());
        let before = repository.worktree_of(&id).await?.ok_or_else(not_found)?;
        let rescue_ref = worktree::rescue_ref(&before.session_id, Timestamp::now());
        let worktree =
            repository.advance_worktree(&id, WorktreeStep::Removing { rescue_ref, discard, closed: false }).await?;
        let otherwise = match before.state {
            WorktreeState::Retained => WorktreeStep::Retained,
            _ => WorktreeStep::Kept,
        };
        take_away(&repository, &worktrees, &worktree, otherwise).await
    };
    tasks.detached(work).await
}

/// Removes a worktree that is on record as being removed, and records what became of it: `otherwise` where it stays.
pub(super) async fn take_away(
    repository: &SessionRepository,
    worktrees: &Worktrees,
    worktree: &Worktree,
    otherwise: WorktreeStep,
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
            repository.advance_worktree(root, otherwise).await?;
            Err(WorktreeError::AtRisk(at_risk))
        }
        Err(Refusal::Failed(error)) => {
            // Half removed, it is nothing to work in: it stays on record, to be tried again.
            if worktrees.is_whole(worktree).await {
                repository.advance_worktree(root, otherwise).await?;
            }
            Err(error.into())
        }
    }
}

/// Ends what a server that is gone was making or removing. What cannot be ended now stays on record.
pub(super) async fn settle_worktrees(repository: &SessionRepository, worktrees: &Worktrees) -> storage::Result<()> {
    for worktree in repository.unfinished_worktrees().await? {
        if worktree.state == WorktreeState::Creating {
            abandon(repository, worktrees, &worktree).await;
            continue;
        }
        match take_away(repository, worktrees, &worktree, WorktreeStep::Kept).await {
            Ok(_) => tracing::info!(path = %worktree.path, "the removal of a worktree was ended"),
            Err(error) => tracing::warn!(%error, path = %worktree.path, "the removal of a worktree was not ended"),
        }
    }
    Ok(())
}

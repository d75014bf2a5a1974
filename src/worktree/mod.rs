//! Git worktrees: made, taken over, looked at, removed. Knows git and the file system; what a session is, and what a
//! client hears, it does not know.
//!
//! - **Nothing of a repository runs**, in any call: `git.rs`, `shadow.rs`.
//! - **Nothing is lost unless it is said**, and then a ref holds it: `preflight.rs`, `rescue.rs`.
//! - **A removal that was interrupted goes on**: `remove.rs`.
//! - **What git cannot judge is never deleted**: `aside.rs`.

mod aside;
mod checkout;
mod commits;
mod create;
mod git;
mod preflight;
mod processes;
mod readable;
mod remove;
mod repository;
mod rescue;
mod shadow;
mod status;
mod walk;

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use tokio::sync::{Mutex as Order, OwnedMutexGuard};

pub use git::Git;
pub use remove::Step;

use crate::model::{AbsolutePath, AtRisk, Removed, SessionId, Timestamp, Worktree};

/// Why something could not be done with a worktree.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no git.
    #[error("git is not installed, or not on PATH: there are no worktrees without it")]
    NoGit,
    /// What was asked for is not possible.
    #[error("{reason}")]
    Invalid {
        /// Which part of it.
        param: &'static str,
        /// Why.
        reason: String,
    },
    /// The branch is checked out elsewhere.
    #[error("the branch '{branch}' is checked out in {place}")]
    BranchInUse {
        /// The branch.
        branch: String,
        /// Where.
        place: String,
    },
    /// Git did not do it.
    #[error("git {what}: {why}")]
    Git {
        /// What it was to do.
        what: String,
        /// What it says.
        why: String,
    },
    /// Git was stopped.
    #[error("git {what} was stopped: it took longer than {} s", after.as_secs())]
    TooLong {
        /// What it was to do.
        what: String,
        /// How long it could take.
        after: Duration,
    },
    /// The server stops.
    #[error("the server stops: this goes on with its next start")]
    Stopping,
    /// Files were not deleted in time.
    #[error("deleting its files took longer than {} s", after.as_secs())]
    Late {
        /// How long it could take.
        after: Duration,
    },
    /// Git would not come to an end with what lies there.
    #[error("git cannot read what is there: {0}")]
    Unreadable(String),
    /// There is more than can be looked at.
    #[error("there are more files than can be looked at")]
    TooMuch,
    /// The file system did not do it.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// Why a worktree was not removed.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// Work would be lost.
    #[error("work would be lost: {}", .0.blocking().join(", "))]
    AtRisk(Box<AtRisk>),
    /// It could not be done.
    #[error(transparent)]
    Failed(#[from] Error),
}

/// The worktrees of a server. Cheap to clone.
#[derive(Clone)]
pub struct Worktrees(Arc<Inner>);

struct Inner {
    git: Git,
    folder: PathBuf,
    /// Who works on which of them: one at a time.
    turns: Mutex<HashMap<AbsolutePath, Weak<Order<()>>>>,
}

/// Nobody else works on a worktree while this is there.
#[must_use = "it is over when this is dropped"]
pub struct Turn {
    _order: OwnedMutexGuard<()>,
}

impl Worktrees {
    /// Worktrees that are made in this directory unless another place is named.
    pub fn new(git: Git, folder: PathBuf) -> Self {
        Self(Arc::new(Inner { git, folder, turns: Mutex::default() }))
    }

    /// Removes a worktree, with all that is in it kept by a rescue ref; without `force`, only if nothing is at risk.
    /// Goes on where an earlier removal was interrupted. It needs no more than the record. The caller has the turn.
    pub async fn remove(&self, worktree: &Worktree, force: bool) -> Result<Removed, Refusal> {
        let mut desk = self.desk(worktree).await;
        if force && matches!(desk, Err(Error::Unreadable(_))) && aside::delete_pipes(worktree).await.unwrap_or(false) {
            desk = self.desk(worktree).await;
        }
        let desk = match desk {
            Err(Error::Unreadable(why)) => return aside::remove_unread(worktree, &why, force),
            desk => desk?,
        };
        loop {
            if let Step::Done(removed) = self.step(&desk, worktree, force).await? {
                return Ok(removed);
            }
        }
    }

    /// Deletes what calls of servers that were killed have left beside.
    pub async fn sweep(&self) {
        crate::tasks::blocking(shadow::sweep).await;
    }

    /// Waits until nobody else works on the worktree at this place. **Who changes one does all of it in one turn**: from
    /// the look at what is on record of it, over the disk, to the record of what was done. Two that each removed in a turn
    /// and recorded out of it would record what the other one made untrue.
    pub async fn turn(&self, path: &AbsolutePath) -> Turn {
        let order = {
            let mut turns = self.0.turns.lock().unwrap_or_else(PoisonError::into_inner);
            turns.retain(|_, turn| turn.strong_count() > 0);
            let known = turns.get(path).and_then(Weak::upgrade);
            let order = known.unwrap_or_default();
            turns.insert(path.clone(), Arc::downgrade(&order));
            order
        };
        Turn { _order: order.lock_owned().await }
    }

    fn git(&self) -> &Git {
        &self.0.git
    }

    fn folder(&self) -> &Path {
        &self.0.folder
    }
}

/// The ref that is to keep what is in a tree's worktree, if it is removed at this time.
pub fn rescue_ref(root: &SessionId, at: Timestamp) -> String {
    let at: String = at.to_string().chars().filter(char::is_ascii_alphanumeric).collect();
    format!("refs/rescue/{}/{at}", as_ref_name(root))
}

/// An id as one part of a ref's name.
fn as_ref_name(id: &SessionId) -> String {
    const PLAIN: &percent_encoding::AsciiSet = &percent_encoding::NON_ALPHANUMERIC.remove(b'-').remove(b'_');
    percent_encoding::utf8_percent_encode(id.as_str(), PLAIN).to_string()
}

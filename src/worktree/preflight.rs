//! What would be lost if a worktree were removed: eight checks, each reported by itself. Git makes the first two, of
//! those a part, when it removes one; it destroys the rest in silence.
//!
//! **It only looks**: nothing is written into the repository, and nothing in the worktree is touched.

use std::path::{Path, PathBuf};

use super::{
    Error, checkout,
    commits::Commits,
    processes,
    repository::{self, WorkingTree},
    shadow::Shadow,
    status::Status,
    walk,
};
use crate::{
    model::{AtRisk, Findings, Worktree},
    tasks,
};

/// What is under way when this is in the git directory.
const OPERATIONS: [(&str, &str); 7] = [
    ("rebase-merge", "rebase"),
    ("rebase-apply", "rebase or am"),
    ("MERGE_HEAD", "merge"),
    ("CHERRY_PICK_HEAD", "cherry-pick"),
    ("REVERT_HEAD", "revert"),
    ("BISECT_LOG", "bisect"),
    ("sequencer", "cherry-pick or revert of several"),
];

/// What begins the reason of a lock that is ours.
pub(super) const OURS: &str = "culm: ";

/// What was found in a working tree.
pub(super) struct Survey {
    pub(super) at_risk: AtRisk,
    pub(super) status: Status,
    /// Directories that are repositories of their own.
    pub(super) nested: Vec<PathBuf>,
    /// Submodules in which nothing would be lost.
    pub(super) clean: Vec<PathBuf>,
}

/// Looks at a working tree, or at what is left of one whose directory is gone. Processes that are to end are none.
pub(super) async fn survey(
    shadow: &Shadow,
    worktree: &Worktree,
    tree: &WorkingTree,
    there: bool,
    ending: &[i32],
) -> Result<Survey, Error> {
    let mut status = Status::of(shadow, &tree.git_dir, there.then_some(&tree.path)).await?;
    let mut at_risk = AtRisk::default();
    let (nested, clean) = match there {
        true => {
            let filtered = checkout::clean_files(shadow, tree, &status.changed).await?;
            status.changed.retain(|changed| !filtered.contains(&changed.path));
            let nested = files(&mut at_risk, &status, &tree.path, ending).await?;
            let clean = checkout::clean_submodules(shadow.git(), tree, &nested).await;
            nested.into_iter().partition(|dir| !clean.contains(dir))
        }
        false => (Vec::new(), Vec::new()),
    };
    at_risk.nested_repositories = findings(nested.iter().map(|path| shown(path)));
    changes(&mut at_risk, &status);
    under_way(&mut at_risk, &tree.git_dir);
    let commits = Commits { shadow, git_dir: &tree.git_dir, head: status.head.as_deref() };
    at_risk.unmerged_commits = findings(commits.unmerged(worktree).await?);
    at_risk.detached_commits = findings(commits.detached().await?);
    at_risk.stashes = findings(commits.stashes(status.branch.as_deref()).await?);
    Ok(Survey { at_risk, status, nested, clean })
}

fn changes(at_risk: &mut AtRisk, status: &Status) {
    for changed in &status.changed {
        match changed.hidden && !changed.staged {
            true => at_risk.hidden_edits.add(shown(&changed.path)),
            false => at_risk.uncommitted.add(shown(&changed.path)),
        }
    }
}

/// What is in the directory beside what git follows. The repositories in it.
async fn files(at_risk: &mut AtRisk, status: &Status, top: &Path, ending: &[i32]) -> Result<Vec<PathBuf>, Error> {
    let (mut made_again, mut kept) = (Vec::new(), Vec::new());
    for ignored in &status.ignored {
        match walk::is_made_again(top, ignored) {
            true => made_again.push(ignored.clone()),
            false => kept.push(ignored),
        }
    }
    let (dir, working, ending) = (top.to_owned(), top.to_owned(), ending.to_owned());
    let nested = tasks::blocking(move || walk::nested_repositories(&dir, &made_again)).await?;
    at_risk.processes = findings(tasks::blocking(move || processes::working_in(&working, &ending)).await);
    at_risk.ignored = findings(kept.into_iter().map(|path| shown(path)));
    let files = status.untracked.iter().filter(|path| !nested.contains(path));
    at_risk.untracked = findings(files.map(|path| shown(path)));
    Ok(nested)
}

/// Whether something is under way in a working tree.
pub(super) fn is_under_way(git_dir: &Path) -> bool {
    OPERATIONS.iter().any(|(name, _)| git_dir.join(name).exists())
}

fn under_way(at_risk: &mut AtRisk, git_dir: &Path) {
    for (name, operation) in OPERATIONS {
        if git_dir.join(name).exists() {
            at_risk.operations.add(operation);
        }
    }
    let reason = repository::read(&git_dir.join("locked")).ok();
    let reason = reason.map(|reason| String::from_utf8_lossy(&reason).trim().to_owned());
    at_risk.locked = reason.filter(|reason| !reason.starts_with(OURS));
}

fn findings(found: impl IntoIterator<Item = String>) -> Findings {
    let mut findings = Findings::default();
    found.into_iter().for_each(|what| findings.add(what));
    findings
}

fn shown(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

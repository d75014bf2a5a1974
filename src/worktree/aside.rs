//! Directories that git cannot judge: those that lead to their repository no more, and those of a repository that cannot be
//! read. Who discards them has them set aside, whole, under a name of ours: nothing of them is deleted, for nothing of them
//! could be kept in a ref, and nothing is in the way of a new worktree.

use std::{
    fs,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};

use super::{
    Error, Refusal,
    create::unlock,
    preflight::OURS,
    remove::{forgettable, is_tree_of, other_names, rescue_ref},
    repository::{self, Repository, WorkingTree},
    walk::{self, Kind, kind_of},
};
use crate::{
    model::{AbsolutePath, AtRisk, Removed, Worktree, hex},
    tasks,
};

/// Why git cannot say what is in a directory.
pub(super) const UNLINKED: &str = "it does not lead to its repository any more";

/// Removes a worktree of a repository that git cannot read.
pub(super) fn remove_unread(worktree: &Worktree, why: &str, force: bool) -> Result<Removed, Refusal> {
    let why = format!("its repository cannot be read: {why}");
    if force { Ok(set_aside(worktree, &why)) } else { Err(at_risk(&why)) }
}

/// Sets the directory of a worktree aside, wherever it is, under whatever name. Says why if that is not possible.
pub(super) fn set_aside(worktree: &Worktree, why: &str) -> Removed {
    let left = |why: String| Removed { left: Some(why), ..Removed::default() };
    if worktree.main {
        return left(format!("{why}; it is the main working tree, which is never removed"));
    }
    let Some(git_dir) = worktree.git_dir.as_ref().map(AbsolutePath::as_path) else { return left(why.to_owned()) };
    let (path, rescue_ref) = (worktree.path.as_path(), rescue_ref(worktree));
    let places: Vec<PathBuf> = [path.to_owned()].into_iter().chain(repository::tree_named_by(git_dir)).collect();
    let tree = places.iter().find_map(|place| is_tree_of(place, git_dir).or_else(|| is_unlinked(place, git_dir)));
    let renamed = || places.iter().flat_map(|place| other_names(place, &rescue_ref)).find(|place| place.is_dir());
    let aside = aside(path, &rescue_ref);
    if let Some(dir) = tree.or_else(renamed).or_else(|| stray(worktree)) {
        if let Err(error) = fs::rename(&dir, &aside) {
            tracing::warn!(%error, dir = %dir.display(), "a worktree that git cannot judge cannot be set aside");
            return left(format!("{why}; {} cannot be set aside: {error}", dir.display()));
        }
        tracing::warn!(dir = %dir.display(), aside = %aside.display(), why, "a worktree that git cannot judge was set aside");
    }
    if let Err(error) = let_go(worktree, &aside, git_dir) {
        tracing::warn!(%error, aside = %aside.display(), "a repository still has a worktree where it was");
    }
    let there = kind_of(&aside).ok().flatten().is_some();
    let set_aside = there.then(|| AbsolutePath::new(aside)).flatten();
    Removed { removed: true, left: Some(why.to_owned()), set_aside, ..Removed::default() }
}

/// Has the repository know where a worktree was set aside, as if git had moved it: somebody may mend the repository.
fn let_go(worktree: &Worktree, aside: &Path, git_dir: &Path) -> Result<(), Error> {
    if is_tree_of(aside, git_dir).is_some() {
        repository::point(&git_dir.join("gitdir"), aside.join(".git").as_os_str().as_bytes())?;
    }
    unlock(worktree)
}

/// Where what cannot be deleted is put: nobody looks for a worktree there.
pub(super) fn aside(tree: &Path, rescue_ref: &str) -> PathBuf {
    let hash = hex(&Sha256::digest(rescue_ref));
    tree.with_file_name(format!("culm-left-{}", &hash[..16]))
}

/// The directory at this place, if its repository says that the working tree is there, and nothing in it says otherwise:
/// its link to the repository is gone or broken. It is read as if it had one.
pub(super) fn is_unlinked(place: &Path, git_dir: &Path) -> Option<PathBuf> {
    // A link is not followed: what it leads to says nothing of itself.
    let is = |path: &Path, kind: Kind| kind_of(path).is_ok_and(|found| found == Some(kind));
    if !is(place, Kind::Directory) || is(&place.join(".git"), Kind::Directory) || WorkingTree::at(place).is_some() {
        return None;
    }
    let (tree, named) = (place.canonicalize().ok()?, repository::tree_named_by(git_dir)?.canonicalize().ok()?);
    (tree == named).then_some(tree)
}

/// What lies in the place of a worktree that is not found: perhaps the worktree, with another repository in it. Where git
/// has moved it, that is its place.
pub(super) fn stray(worktree: &Worktree) -> Option<PathBuf> {
    // One that was never made has nothing there.
    let git_dir = worktree.git_dir.as_ref()?;
    let place = repository::tree_named_by(git_dir.as_path()).unwrap_or_else(|| worktree.path.as_path().to_owned());
    let kind = kind_of(&place).ok().flatten()?;
    (kind != Kind::Directory || !is_another_sessions(&place)).then_some(place)
}

/// Whether this directory is a worktree that another session has by now.
fn is_another_sessions(place: &Path) -> bool {
    WorkingTree::at(place).is_some_and(|tree| {
        let ours = repository::read(&tree.git_dir.join("locked")).is_ok_and(|why| why.starts_with(OURS.as_bytes()));
        let named = repository::tree_named_by(&tree.git_dir).and_then(|named| named.canonicalize().ok());
        ours && named == Some(tree.path)
    })
}

/// Deletes the pipes in what a repository keeps about a worktree alone: they hold nothing, and git would wait for them.
/// Whether there were any.
pub(super) async fn delete_pipes(worktree: &Worktree) -> Result<bool, Error> {
    let (Some(git_dir), Some(repository)) = (&worktree.git_dir, Repository::at(worktree.repository.as_path())) else {
        return Ok(false);
    };
    let git_dir = git_dir.as_path().to_owned();
    if worktree.main || forgettable(&git_dir, Some(&repository)).is_err() {
        return Ok(false);
    }
    tasks::blocking(move || {
        let mut pipes = Vec::new();
        walk::walk(&git_dir, |path, kind| {
            pipes.extend((kind == Kind::Other).then(|| git_dir.join(path)));
            true
        })?;
        pipes.iter().try_for_each(fs::remove_file)?;
        Ok(!pipes.is_empty())
    })
    .await
}

pub(super) fn at_risk(why: &str) -> Refusal {
    Refusal::AtRisk(Box::new(AtRisk { unreadable: Some(why.to_owned()), ..AtRisk::default() }))
}

//! Removing a worktree, in steps that can each be the last before a crash.
//!
//! What has been done is read from the disk, never remembered: so a removal that was interrupted goes on where it was,
//! and one that is done changes nothing. First the directory is renamed, at once and as a whole: from then on nobody
//! writes into it by its name, and whether the removal had begun is beyond doubt. What is in it then is looked at again,
//! and written to the rescue ref; only then it is deleted. `git worktree remove` would look once, at less, and delete.

use std::{
    fs, io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Instant,
};

use sha2::{Digest, Sha256};

use super::{
    Error, Refusal, Worktrees,
    aside::{UNLINKED, aside, at_risk, is_unlinked, set_aside, stray},
    preflight::{Survey, survey},
    repository::{self, Repository, WorkingTree},
    rescue::{is_rescued, rescue},
    shadow::{Access, Bytes, Shadow},
    walk::{Kind, kind_of},
};
use crate::{
    model::{AbsolutePath, AtRisk, Findings, Removed, Worktree, hex},
    removal, tasks,
};

/// How often one worktree can have been rescued: each time, somebody put it back by hand.
const TIMES: usize = 100;
/// A place where nothing is.
const NOWHERE: &str = "/nonexistent";
const GONE: &str = "its repository is gone";

/// What a step of a removal did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The directory has another name, beside the old one.
    Renamed,
    /// What lies in its place, and git cannot judge, has another name.
    SetAside,
    /// The rescue ref is written.
    Rescued,
    /// The files are deleted.
    Deleted,
    /// The repository knows nothing of it any more.
    Forgotten,
    /// All is done, also what is to become of the branch.
    Done(Removed),
}

/// Where a worktree is looked at: its repository, and how that is asked. None of it where the repository is gone.
pub(super) struct Desk {
    of: Option<(Repository, Shadow)>,
    /// What was too large to be rescued here.
    left_out: Mutex<Findings>,
}

/// What there is of a worktree.
struct Remains {
    /// The repository, unless it is gone.
    repository: Option<Repository>,
    /// Its directory, under its name.
    tree: Option<PathBuf>,
    /// Its directory, under the other one.
    renamed: Option<PathBuf>,
    /// What lies in its place, where it is not found.
    stray: Option<PathBuf>,
    git_dir: PathBuf,
    rescue_ref: String,
    rescued: bool,
}

impl Worktrees {
    /// What would be lost if it were removed, once the processes of these numbers have ended. It only looks.
    pub async fn preflight(&self, worktree: &Worktree, ending: &[i32]) -> Result<AtRisk, Error> {
        if worktree.main {
            return Ok(AtRisk::default());
        }
        let desk = match self.desk(worktree).await {
            Err(error) => return unreadable(error),
            Ok(desk) => desk,
        };
        let remains = desk.remains(worktree).await?;
        if remains.stray.is_some() {
            return Ok(AtRisk { unreadable: Some(UNLINKED.into()), ..AtRisk::default() });
        }
        let dir = remains.tree.as_deref().or(remains.renamed.as_deref());
        if dir.is_none() && !remains.git_dir.is_dir() {
            return Ok(AtRisk::default());
        }
        match desk.survey(worktree, &remains, dir, ending).await {
            Ok(survey) => Ok(survey.at_risk),
            Err(error) => unreadable(error),
        }
    }

    /// One step of a removal. Without `force`, nothing that is at risk goes.
    pub async fn advance(&self, worktree: &Worktree, force: bool) -> Result<Step, Refusal> {
        self.step(&self.desk(worktree).await?, worktree, force).await
    }

    pub(super) async fn desk(&self, worktree: &Worktree) -> Result<Desk, Error> {
        match Repository::at(worktree.repository.as_path()) {
            Some(repository) => {
                let shadow = Shadow::of(self.git(), &repository, Access::Look, Bytes::Converted).await?;
                Ok(Desk { of: Some((repository, shadow)), left_out: Mutex::default() })
            }
            None => Ok(Desk { of: None, left_out: Mutex::default() }),
        }
    }

    pub(super) async fn step(&self, desk: &Desk, worktree: &Worktree, force: bool) -> Result<Step, Refusal> {
        if worktree.main {
            return Ok(left("it is the main working tree of its repository: that is never removed"));
        }
        let remains = desk.remains(worktree).await?;
        match &remains {
            Remains { renamed: Some(dir), rescued: true, .. } => {
                self.delete(dir, &aside(dir, &remains.rescue_ref)).await?;
                Ok(Step::Deleted)
            }
            Remains { renamed: Some(dir), .. } => {
                let outcome = self.keep(desk, worktree, &remains, Some(dir), force).await;
                if !matches!(outcome, Ok(Step::Rescued)) {
                    put_back(worktree, &remains, dir)?;
                }
                outcome
            }
            Remains { stray: Some(_), .. } if !force => Err(at_risk(UNLINKED)),
            Remains { stray: Some(_), .. } => Ok(match set_aside(worktree, UNLINKED) {
                Removed { removed: true, .. } => Step::SetAside,
                left => Step::Done(left),
            }),
            Remains { tree: Some(_), repository: None, .. } => without_repository(worktree, &remains, force),
            Remains { tree: Some(tree), .. } => self.rename(desk, worktree, &remains, tree, force).await,
            Remains { repository: None, .. } => Ok(done(desk, worktree, &remains, false)),
            _ if remains.git_dir.is_dir() && !remains.rescued => self.keep(desk, worktree, &remains, None, force).await,
            _ if remains.git_dir.is_dir() => {
                let git_dir = forgettable(&remains.git_dir, remains.repository.as_ref())?;
                self.delete(git_dir, &aside(worktree.path.as_path(), &format!("{}-git", remains.rescue_ref))).await?;
                Ok(Step::Forgotten)
            }
            _ => self.finish(desk, worktree, &remains).await,
        }
    }

    /// Whether its removal has not begun, or was taken back.
    pub async fn is_whole(&self, worktree: &Worktree) -> bool {
        let Ok(desk) = self.desk(worktree).await else { return false };
        desk.remains(worktree)
            .await
            .is_ok_and(|remains| remains.renamed.is_none() && (remains.tree.is_some() || remains.stray.is_some()))
    }

    /// Gives the directory its other name, unless work is at risk in it.
    async fn rename(
        &self,
        desk: &Desk,
        worktree: &Worktree,
        remains: &Remains,
        tree: &Path,
        force: bool,
    ) -> Result<Step, Refusal> {
        if !force {
            desk.survey(worktree, remains, Some(tree), &[]).await.map_err(refuse_unread)?.refuse()?;
        }
        // Where it really is, so that it is found beside that name again.
        if remains.git_dir.is_dir() && repository::tree_named_by(&remains.git_dir).as_deref() != Some(tree) {
            let gitfile = tree.join(".git");
            repository::point(&remains.git_dir.join("gitdir"), gitfile.as_os_str().as_bytes()).map_err(Error::Io)?;
        }
        fs::rename(tree, other_name(tree, &remains.rescue_ref)).map_err(Error::Io)?;
        Ok(Step::Renamed)
    }

    /// Writes the rescue ref, unless work is at risk.
    async fn keep(
        &self,
        desk: &Desk,
        worktree: &Worktree,
        remains: &Remains,
        dir: Option<&Path>,
        force: bool,
    ) -> Result<Step, Refusal> {
        let Some(place) = remains.place(dir) else {
            return without_repository(worktree, remains, force);
        };
        let survey = match desk.survey(worktree, remains, dir, &[]).await {
            Ok(survey) if force => Some(survey),
            Ok(survey) => Some(survey.refuse()?),
            // Git cannot say what there is, and it goes all the same: then it is kept as it lies there.
            Err(Error::Git { .. } | Error::TooLong { .. } | Error::TooMuch | Error::Unreadable(_)) if force => None,
            Err(error) => return Err(refuse_unread(error)),
        };
        let rescued = rescue(self.git(), worktree, &place, dir.is_some(), survey, &remains.rescue_ref, force).await;
        let left_out = rescued.map_err(|error| match error {
            Error::Unreadable(_) if !force => refuse_unread(error),
            error => Refusal::Failed(error),
        })?;
        if left_out.count > 0 {
            tracing::warn!(path = %worktree.path, files = left_out.count, "a rescue leaves out what is too large");
        }
        *desk.left_out.lock().unwrap_or_else(PoisonError::into_inner) = left_out;
        Ok(Step::Rescued)
    }

    /// Deletes a directory with all below it, for as long as a call may take that writes. What cannot be deleted is set
    /// aside. A thread cannot be stopped: what is late goes on, and who tries again helps it along.
    async fn delete(&self, dir: &Path, aside: &Path) -> Result<(), Refusal> {
        let (dir, aside, after) = (dir.to_owned(), aside.to_owned(), self.git().write);
        let deleting = tasks::blocking(move || {
            let left = match removal::delete(&dir, Instant::now() + after) {
                Err(error) if error.kind() == io::ErrorKind::TimedOut => return Err(Error::Late { after }),
                left => left?,
            };
            match left.is_nothing() {
                true => Ok(()),
                false => Ok(fs::rename(&dir, &aside)?),
            }
        });
        tokio::select! {
            biased;
            () = tokio::time::sleep(after) => Err(Error::Late { after }.into()),
            () = self.git().stopping() => Err(Error::Stopping.into()),
            deleted = deleting => Ok(deleted?),
        }
    }

    /// The branch goes too, where it was made for the worktree and all of it is merged: git says whether.
    async fn finish(&self, desk: &Desk, worktree: &Worktree, remains: &Remains) -> Result<Step, Refusal> {
        let (Some(repository), Some(branch)) = (&remains.repository, &worktree.branch) else {
            return Ok(done(desk, worktree, remains, false));
        };
        if !worktree.branch_created {
            return Ok(done(desk, worktree, remains, false));
        }
        let shadow = Shadow::of(self.git(), repository, Access::Write, Bytes::Converted).await?;
        let deleted = shadow.call(&["branch", "-d", "-q", "--", branch]).run().await?;
        let there = is_rescued(&shadow, &format!("refs/heads/{branch}")).await?;
        tracing::debug!(branch, code = deleted.code(), "git branch -d");
        Ok(done(desk, worktree, remains, !there))
    }
}

impl Desk {
    /// What there is of it, under which names.
    async fn remains(&self, worktree: &Worktree) -> Result<Remains, Error> {
        let (repository, shadow) = self.of.as_ref().map(|(repository, shadow)| (repository.clone(), shadow)).unzip();
        let git_dir = match (&worktree.git_dir, &repository) {
            (Some(git_dir), _) => git_dir.as_path().to_owned(),
            (None, repository) => half_made(worktree, repository.as_ref())?.unwrap_or_else(|| NOWHERE.into()),
        };
        let named = repository::tree_named_by(&git_dir);
        let places: Vec<PathBuf> = std::iter::once(worktree.path.as_path().to_owned()).chain(named).collect();
        let tree = places.iter().find_map(|place| is_tree_of(place, &git_dir));
        let tree = tree.or_else(|| places.iter().find_map(|place| is_unlinked(place, &git_dir)));
        let base = rescue_ref(worktree);
        let mut last: Option<String> = None;
        for rescue_ref in rescue_refs(&base) {
            let renamed = places.iter().map(|place| other_name(place, &rescue_ref)).find(|place| place.is_dir());
            let rescued = match shadow {
                Some(shadow) => is_rescued(shadow, &rescue_ref).await?,
                None => false,
            };
            // It was rescued, and somebody put it back under its name: then there is a further ref, or there will be.
            if rescued && renamed.is_none() {
                last = Some(rescue_ref);
                continue;
            }
            let (rescue_ref, rescued) = match last {
                Some(last) if renamed.is_none() && tree.is_none() => (last, true),
                _ => (rescue_ref, rescued),
            };
            // Where all of it is gone, somebody has put something else there.
            let is_over = tree.is_some() || renamed.is_some() || rescued && !git_dir.is_dir();
            let stray = if is_over { None } else { stray(worktree) };
            return Ok(Remains { repository, tree, renamed, stray, git_dir, rescue_ref, rescued });
        }
        Err(Error::TooMuch)
    }

    async fn survey(
        &self,
        worktree: &Worktree,
        remains: &Remains,
        dir: Option<&Path>,
        ending: &[i32],
    ) -> Result<Survey, Error> {
        let gone = || Error::Git { what: "worktree".into(), why: GONE.into() };
        let (_, shadow) = self.of.as_ref().ok_or_else(gone)?;
        let place = remains.place(dir).ok_or_else(gone)?;
        let mut found = survey(shadow, worktree, &place, dir.is_some(), ending).await?;
        // What its files are to the repository, git has said; what is in the place of its link, nobody can.
        if dir.is_some_and(|dir| is_tree_of(dir, &remains.git_dir).is_none()) {
            found.at_risk.unreadable = Some(UNLINKED.into());
        }
        Ok(found)
    }
}

impl Remains {
    /// The working tree as git is told of it.
    fn place(&self, dir: Option<&Path>) -> Option<WorkingTree> {
        let repository = self.repository.clone()?;
        let path = dir.unwrap_or(Path::new(NOWHERE)).to_owned();
        Some(WorkingTree { path, git_dir: self.git_dir.clone(), repository })
    }
}

impl Survey {
    /// Itself, unless it found what stands against a removal.
    fn refuse(self) -> Result<Self, Refusal> {
        match self.at_risk.blocking().is_empty() {
            true => Ok(self),
            false => Err(Refusal::AtRisk(Box::new(self.at_risk))),
        }
    }
}

/// The ref that keeps what was in a worktree.
pub(super) fn rescue_ref(worktree: &Worktree) -> String {
    let assigned = worktree.rescue_ref.clone();
    assigned.unwrap_or_else(|| super::rescue_ref(&worktree.session_id, worktree.updated_at))
}

/// The directory at this place, if it is the working tree that this git directory is about: something else may be there
/// meanwhile. A link to it is followed.
pub(super) fn is_tree_of(place: &Path, git_dir: &Path) -> Option<PathBuf> {
    let tree = place.canonicalize().ok().filter(|tree| tree.is_dir())?;
    let named = repository::git_dir_named_by(&tree)?;
    let same = named == git_dir || named.canonicalize().is_ok_and(|named| named == git_dir);
    same.then_some(tree)
}

/// The refs that keep it, if it is rescued time and again.
fn rescue_refs(base: &str) -> impl Iterator<Item = String> {
    (1..=TIMES).map(move |time| if time == 1 { base.to_owned() } else { format!("{base}-{time}") })
}

/// What it may be called while it is removed, whatever was rescued before.
pub(super) fn other_names(tree: &Path, base: &str) -> impl Iterator<Item = PathBuf> {
    rescue_refs(base).map(move |rescue_ref| other_name(tree, &rescue_ref))
}

/// What a directory is called while it is removed: the same after any crash, and nobody else's.
fn other_name(tree: &Path, rescue_ref: &str) -> PathBuf {
    let hash = hex(&Sha256::digest(rescue_ref));
    tree.with_file_name(format!(".culm-removing-{}", &hash[..16]))
}

/// What the repository keeps about it: that is removed as git does it when the directory is gone. Git itself would look
/// for it by a file that a crash may have taken already.
pub(super) fn forgettable<'a>(git_dir: &'a Path, repository: Option<&Repository>) -> Result<&'a Path, Refusal> {
    let worktrees = repository.map(|repository| repository.common.join("worktrees"));
    let above = git_dir.parent().and_then(|above| above.canonicalize().ok());
    let worktrees = worktrees.and_then(|worktrees| worktrees.canonicalize().ok());
    if above.is_none() || above != worktrees || kind_of(git_dir).map_err(Error::Io)? != Some(Kind::Directory) {
        let why = format!("{} is no directory of a worktree", git_dir.display());
        return Err(Error::Io(io::Error::new(io::ErrorKind::InvalidInput, why)).into());
    }
    Ok(git_dir)
}

fn done(desk: &Desk, worktree: &Worktree, remains: &Remains, branch_deleted: bool) -> Step {
    let rescue_ref = remains.rescued.then(|| remains.rescue_ref.clone());
    let aside = aside(worktree.path.as_path(), &remains.rescue_ref);
    let set_aside = kind_of(&aside).ok().flatten().and_then(|_| AbsolutePath::new(aside));
    let left_out = desk.left_out.lock().unwrap_or_else(PoisonError::into_inner).clone();
    Step::Done(Removed { removed: true, rescue_ref, branch_deleted, left: None, set_aside, left_out })
}

fn left(why: &str) -> Step {
    Step::Done(Removed { left: Some(why.into()), ..Removed::default() })
}

/// Nothing can be rescued: the files stay. They are in nobody's way where the repository is not gone, but damaged.
fn without_repository(worktree: &Worktree, remains: &Remains, force: bool) -> Result<Step, Refusal> {
    match force {
        true if remains.git_dir.is_dir() => Ok(Step::Done(set_aside(worktree, "its repository is damaged"))),
        true => Ok(left("its repository is gone, and nothing can be rescued into it")),
        false => Err(at_risk(GONE)),
    }
}

/// What git cannot say is a risk of its own.
fn unreadable(error: Error) -> Result<AtRisk, Error> {
    match error {
        // Not its own words: they are for whoever knows git, and in the log.
        Error::Git { what, why } if why != GONE => {
            tracing::warn!(what, why, "git cannot say what is in a worktree");
            Ok(AtRisk { unreadable: Some(format!("git {what} failed")), ..AtRisk::default() })
        }
        Error::Git { .. } | Error::TooLong { .. } | Error::TooMuch | Error::Unreadable(_) => {
            Ok(AtRisk { unreadable: Some(error.to_string()), ..AtRisk::default() })
        }
        error => Err(error),
    }
}

fn refuse_unread(error: Error) -> Refusal {
    match unreadable(error) {
        Ok(at_risk) => Refusal::AtRisk(Box::new(at_risk)),
        Err(error) => Refusal::Failed(error),
    }
}

/// Back under its name, where it was found to be at risk or could not be kept.
fn put_back(worktree: &Worktree, remains: &Remains, dir: &Path) -> Result<(), Error> {
    let beside = |name: &PathBuf| {
        name.parent().and_then(|parent| parent.canonicalize().ok()) == dir.parent().map(Path::to_owned)
    };
    let names = repository::tree_named_by(&remains.git_dir).into_iter().chain([worktree.path.as_path().to_owned()]);
    let name = names.into_iter().find(beside).unwrap_or_else(|| worktree.path.as_path().to_owned());
    match kind_of(&name)? {
        None => Ok(fs::rename(dir, name)?),
        Some(_) => {
            let why = format!("{} is taken: the worktree is in {}", name.display(), dir.display());
            Err(Error::Io(io::Error::new(io::ErrorKind::AlreadyExists, why)))
        }
    }
}

/// What the repository keeps about a worktree that was being made when the server ended; what its directory says of the
/// repository may be git's word for the stand-in, or nothing yet.
fn half_made(worktree: &Worktree, repository: Option<&Repository>) -> Result<Option<PathBuf>, Error> {
    let path = worktree.path.as_path();
    let Some(git_dir) = repository.and_then(|repository| repository.git_dir_of(path)) else { return Ok(None) };
    if path.is_dir() && repository::git_dir_named_by(path).as_deref() != Some(&git_dir) {
        repository::point(&path.join(".git"), &[b"gitdir: ", git_dir.as_os_str().as_bytes()].concat())?;
    }
    Ok(Some(git_dir))
}

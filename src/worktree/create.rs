//! Making a worktree, or taking over one that is there.

use std::{
    ffi::OsStr,
    fs, io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use super::{
    Error, Turn, Worktrees,
    commits::lines,
    preflight::OURS,
    repository::{self, Repository, WorkingTree},
    shadow::{Access, Bytes, Shadow},
    walk::kind_of,
};
use crate::{
    model::{AbsolutePath, AttachWorktree, NewWorktree, SessionId, Worktree},
    tasks,
};

/// Bytes of a part of a branch's name: it is a file's name, and git writes another one beside it.
const NAME: usize = 240;

impl Worktrees {
    /// What is to be attached, as it was asked for. Nothing is made yet.
    pub async fn plan(&self, root: &SessionId, ask: &AttachWorktree) -> Result<NewWorktree, Error> {
        match (&ask.adopt, &ask.repository) {
            (Some(path), _) => self.plan_adoption(path).await.map_err(|error| unusable("adopt", error)),
            (None, Some(repository)) => {
                let planned = self.plan_creation(root, repository, ask).await;
                planned.map_err(|error| unusable("repository", error))
            }
            (None, None) => Err(invalid("repository", "either a repository, or a worktree to adopt")),
        }
    }

    async fn plan_adoption(&self, path: &AbsolutePath) -> Result<NewWorktree, Error> {
        let none = || invalid("adopt", "it is not the top of a git working tree");
        let tree = WorkingTree::at(path.as_path()).ok_or_else(none)?;
        if let Some(original) = repository::tree_named_by(&tree.git_dir).filter(|_| !tree.is_main())
            && original.canonicalize().is_ok_and(|original| original != tree.path)
            && WorkingTree::at(&original).is_some_and(|other| other.git_dir == tree.git_dir)
        {
            return Err(invalid("adopt", format!("it is a copy of the worktree {}", original.display())));
        }
        let shadow = Shadow::of(self.git(), &tree.repository, Access::Look, Bytes::Converted).await?;
        let head = shadow.call_in(&tree.git_dir, &tree.path, &["rev-parse", "--verify", "--quiet", "HEAD^{commit}"]);
        let branch = shadow.call_in(&tree.git_dir, &tree.path, &["symbolic-ref", "--quiet", "HEAD"]);
        let (head, branch) = (first(&head.run().await?.stdout), first(&branch.run().await?.stdout));
        Ok(NewWorktree {
            main: tree.is_main(),
            path: absolute("adopt", tree.path)?,
            repository: absolute("adopt", tree.repository.name().to_owned())?,
            git_dir: Some(absolute("adopt", tree.git_dir)?),
            branch: branch.and_then(|name| name.strip_prefix("refs/heads/").map(str::to_owned)),
            branch_created: false,
            base_commit: head,
            base_ref: head_of(&shadow).await?,
            adopted: true,
            asked_for: String::new(),
        })
    }

    async fn plan_creation(
        &self,
        root: &SessionId,
        repository: &AbsolutePath,
        ask: &AttachWorktree,
    ) -> Result<NewWorktree, Error> {
        let none = || invalid("repository", "it is neither the top of a git working tree nor a git directory");
        let repository = Repository::at(repository.as_path()).ok_or_else(none)?;
        let shadow = Shadow::of(self.git(), &repository, Access::Look, Bytes::Converted).await?;
        let path = match &ask.path {
            Some(path) => free_place(path.as_path())?,
            None => self.own_place(root)?,
        };
        let branch = match (&ask.branch, &ask.commit) {
            (Some(branch), _) => Some(branch.clone()),
            (None, Some(_)) => None,
            (None, None) => Some(format!("culm/{}", super::as_ref_name(root))),
        };
        let (base_commit, branch_created) = start(&shadow, branch.as_deref(), ask.commit.as_deref()).await?;
        if let (Some(branch), false) = (&branch, branch_created) {
            let _among = self.among(&repository).await?;
            check_free(&shadow, &repository, branch).await?;
        }
        Ok(NewWorktree {
            path: absolute("path", path)?,
            repository: absolute("repository", repository.name().to_owned())?,
            git_dir: None,
            branch,
            branch_created,
            base_commit: Some(base_commit),
            base_ref: head_of(&shadow).await?,
            adopted: false,
            main: false,
            asked_for: String::new(),
        })
    }

    /// The place of a tree's worktree below the server's directory.
    fn own_place(&self, root: &SessionId) -> Result<PathBuf, Error> {
        fs::create_dir_all(self.folder())?;
        let name = root.as_str();
        let name = if name.starts_with('.') { format!("_{name}") } else { name.to_owned() };
        let place = self.folder().join(name);
        match kind_of(&place)? {
            None => {
                Ok(place.parent().unwrap_or(Path::new("/")).canonicalize()?.join(place.file_name().unwrap_or_default()))
            }
            Some(_) => Err(invalid("path", format!("{} is taken: name another place", place.display()))),
        }
    }

    /// Makes a worktree that was planned, or takes one over. What the repository keeps about it. The caller has the turn.
    pub async fn create(&self, worktree: &Worktree) -> Result<AbsolutePath, Error> {
        let reason = format!("{OURS}session {}", worktree.session_id);
        if let (true, Some(git_dir)) = (worktree.adopted, &worktree.git_dir) {
            if !worktree.main {
                take_over(worktree.path.as_path(), git_dir.as_path(), &reason)?;
            }
            return Ok(git_dir.clone());
        }
        let none = || invalid("repository", "it is gone");
        let repository = Repository::at(worktree.repository.as_path()).ok_or_else(none)?;
        let path = worktree.path.as_path();
        let place = path.to_owned();
        let made = tasks::blocking(move || make_place(&place)).await?;
        if let Err(error) = self.add(worktree, &repository, &reason).await {
            if made {
                // Git removes what it made itself.
                let _ = tokio::fs::remove_dir(path).await;
            }
            return Err(error);
        }
        let git_dir = repository.git_dir_of(path).ok_or_else(|| Error::Git {
            what: "worktree add".into(),
            why: "the repository does not know the worktree that was made".into(),
        })?;
        // Git has written where it was told that the repository is.
        repository::point(&path.join(".git"), &[b"gitdir: ", git_dir.as_os_str().as_bytes()].concat())?;
        absolute("repository", git_dir)
    }

    /// Waits until no worktree of a repository is being made: git reads what it keeps of all of them, and fails on one
    /// that is half written.
    async fn among(&self, repository: &Repository) -> Result<Turn, Error> {
        Ok(self.turn(&absolute("repository", repository.common.clone())?).await)
    }

    async fn add(&self, worktree: &Worktree, repository: &Repository, reason: &str) -> Result<(), Error> {
        let _among = self.among(repository).await?;
        let shadow = Shadow::of(self.git(), repository, Access::Write, Bytes::Converted).await?;
        let call = shadow.call(&["worktree", "add", "--quiet", "--lock", "--reason", reason]);
        let call = call.within(self.git().write);
        let path = worktree.path.as_path().as_os_str();
        let start = worktree.base_commit.as_deref().unwrap_or("HEAD");
        let call = match &worktree.branch {
            Some(branch) if worktree.branch_created => {
                call.args([OsStr::new("--no-track"), OsStr::new("-b"), OsStr::new(branch), path, OsStr::new(start)])
            }
            Some(branch) => call.args([path, OsStr::new(branch)]),
            None => call.args([OsStr::new("--detach"), path, OsStr::new(start)]),
        };
        call.ok().await.map(drop)
    }

    /// Lets a worktree go that stays where it is.
    pub async fn release(&self, worktree: &Worktree) -> Result<(), Error> {
        unlock(worktree)
    }
}

/// Takes our lock away, if there is one.
pub(super) fn unlock(worktree: &Worktree) -> Result<(), Error> {
    let Some(git_dir) = worktree.git_dir.as_ref().filter(|_| !worktree.main) else { return Ok(()) };
    let lock = git_dir.as_path().join("locked");
    match repository::read(&lock) {
        Ok(reason) if reason.starts_with(OURS.as_bytes()) => Ok(fs::remove_file(lock)?),
        _ => Ok(()),
    }
}

/// Says whose it is, unless somebody else did before; and where it is, if it was moved.
fn take_over(path: &Path, git_dir: &Path, reason: &str) -> Result<(), Error> {
    if repository::tree_named_by(git_dir).and_then(|tree| tree.canonicalize().ok()).as_deref() != Some(path) {
        repository::point(&git_dir.join("gitdir"), path.join(".git").as_os_str().as_bytes())?;
    }
    let lock = git_dir.join("locked");
    match kind_of(&lock)? {
        None => Ok(repository::point(&lock, reason.as_bytes())?),
        Some(_) => Ok(()),
    }
}

/// The commit to begin at, and whether the branch is to be made.
async fn start(shadow: &Shadow, branch: Option<&str>, commit: Option<&str>) -> Result<(String, bool), Error> {
    let commit = match commit {
        Some(commit) => {
            let unknown = || invalid("commit", "the repository has no such commit");
            Some(resolve(shadow, commit).await?.ok_or_else(unknown)?)
        }
        None => None,
    };
    let Some(branch) = branch else {
        return Ok((commit.ok_or_else(|| invalid("commit", "there is none"))?, false));
    };
    let name = format!("refs/heads/{branch}");
    let long = branch.split('/').any(|part| part.len() > NAME);
    if long || branch == "HEAD" || shadow.call(&["check-ref-format", &name]).run().await?.code() != Some(0) {
        return Err(invalid("branch", "git takes no branch of this name"));
    }
    check_beside(shadow, branch).await?;
    match (resolve(shadow, &name).await?, commit) {
        (Some(_), Some(_)) => Err(invalid("branch", "it is there: leave out the commit, or name another branch")),
        (Some(there), None) => Ok((there, false)),
        (None, Some(commit)) => Ok((commit, true)),
        (None, None) => Ok((origin_of(shadow, branch).await?, true)),
    }
}

/// A branch is a file, and its name's parts are directories: neither can be where the other is.
async fn check_beside(shadow: &Shadow, branch: &str) -> Result<(), Error> {
    let above: Vec<String> = branch.match_indices('/').map(|(at, _)| format!("refs/heads/{}", &branch[..at])).collect();
    let below = format!("refs/heads/{branch}/");
    let words = ["for-each-ref", "--format=%(refname)", &below];
    let there = shadow.call(&words).args(&above).ok().await?;
    let in_the_way = lines(&there).into_iter().find(|name| above.contains(name) || name.starts_with(&below));
    match in_the_way.as_deref().and_then(|name| name.strip_prefix("refs/heads/")) {
        Some(other) => Err(invalid("branch", format!("there cannot be both this branch and '{other}'"))),
        None => Ok(()),
    }
}

/// Where a new branch begins: where exactly one remote has it, as `git switch` has it, or else at HEAD.
async fn origin_of(shadow: &Shadow, branch: &str) -> Result<String, Error> {
    let words = ["for-each-ref", "--format=%(objectname)", "--count=2", &format!("refs/remotes/*/{branch}")];
    let remotes = lines(&shadow.call(&words).ok().await?);
    if let [one] = remotes.as_slice() {
        return Ok(one.clone());
    }
    let unborn = || invalid("repository", "it has no commit yet");
    resolve(shadow, "HEAD").await?.ok_or_else(unborn)
}

async fn resolve(shadow: &Shadow, name: &str) -> Result<Option<String>, Error> {
    let output = shadow.call(&["rev-parse", "--verify", "--quiet", &format!("{name}^{{commit}}")]).run().await?;
    // Of "^name" it is told what is left out, which is no commit to begin at.
    let is_name = |name: &String| matches!(name.len(), 40 | 64) && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    Ok(first(&output.stdout).filter(|name| output.code() == Some(0) && is_name(name)))
}

/// The branch of the repository's HEAD: where work is expected to be merged into.
async fn head_of(shadow: &Shadow) -> Result<Option<String>, Error> {
    Ok(first(&shadow.call(&["symbolic-ref", "--quiet", "HEAD"]).run().await?.stdout))
}

/// A branch can be checked out in one place only.
async fn check_free(shadow: &Shadow, repository: &Repository, branch: &str) -> Result<(), Error> {
    let list = shadow.call(&["worktree", "list", "--porcelain", "-z"]).ok().await?;
    let name = format!("branch refs/heads/{branch}");
    let mut place = Path::new("");
    for field in list.split(|byte| *byte == 0) {
        match field.strip_prefix(b"worktree ") {
            Some(path) => place = Path::new(OsStr::from_bytes(path)),
            None if field == name.as_bytes() => {
                // The main one, seen through the stand-in.
                let place = if place.starts_with(shadow.path()) { repository.name() } else { place };
                return Err(Error::BranchInUse { branch: branch.into(), place: place.display().to_string() });
            }
            None => {}
        }
    }
    Ok(())
}

/// A place for a new worktree, with what is above it as it really is.
fn free_place(path: &Path) -> Result<PathBuf, Error> {
    let plain = path.components().all(|part| !matches!(part, std::path::Component::ParentDir));
    let Some((name, parent)) = path.file_name().zip(path.parent()).filter(|_| plain) else {
        return Err(invalid("path", "a path without '..'"));
    };
    let parent = match parent.canonicalize() {
        Ok(parent) => parent,
        Err(error) if error.kind() == io::ErrorKind::NotFound => free_place(parent)?,
        Err(error) => return Err(invalid("path", error.to_string())),
    };
    let place = parent.join(name);
    match fs::read_dir(&place).map(|mut entries| entries.next().is_none()) {
        Ok(true) => Ok(place),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(place),
        Err(error) if error.kind() != io::ErrorKind::NotADirectory => Err(invalid("path", error.kind().to_string())),
        _ => Err(invalid("path", "something is there")),
    }
}

/// Makes the directory of a new worktree, and those above it. Whether it was not there.
fn make_place(path: &Path) -> Result<bool, Error> {
    let made = match path.parent().map_or(Ok(()), fs::create_dir_all) {
        Ok(()) => fs::create_dir(path),
        failed => failed,
    };
    match made {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(false),
        // Of a full disk nobody is to be told that the path is wrong.
        Err(error) if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => {
            Err(error.into())
        }
        Err(error) => Err(invalid("path", format!("{} cannot be made: {}", path.display(), error.kind()))),
    }
}

/// Why what was asked for cannot be used, where git or the file system says so before anything was made.
fn unusable(param: &'static str, error: Error) -> Error {
    let reason = match &error {
        Error::Git { what, why } => {
            tracing::debug!(what, why, "git cannot read a repository");
            "git cannot read it".into()
        }
        Error::Unreadable(_) | Error::TooLong { .. } | Error::TooMuch => error.to_string(),
        Error::Io(io) if !matches!(io.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => {
            format!("it cannot be read: {}", io.kind())
        }
        _ => return error,
    };
    invalid(param, reason)
}

fn first(answer: &[u8]) -> Option<String> {
    lines(answer).into_iter().next()
}

fn absolute(param: &'static str, path: PathBuf) -> Result<AbsolutePath, Error> {
    AbsolutePath::new(path).ok_or_else(|| invalid(param, "the path is too long"))
}

fn invalid(param: &'static str, reason: impl Into<String>) -> Error {
    Error::Invalid { param, reason: reason.into() }
}

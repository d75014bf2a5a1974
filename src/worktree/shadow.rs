//! A repository without what anybody wrote into it to steer git: a directory of our own that git takes for the one that
//! all working trees share (`GIT_COMMON_DIR`). Refs, objects and what is known of working trees are the repository's, by
//! symbolic links. Configuration, hooks and attributes are Culm's, so that there is nothing to run, and nothing to
//! override: filters and the like can have any name, and a list of them would be out of date when it is used.

use std::{
    fs::{self, File},
    io,
    os::unix::{ffi::OsStrExt, fs::symlink},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};
use tempfile::TempDir;

use super::{
    Error,
    git::{Call, Git},
    readable,
    repository::{self, Repository},
};
use crate::{removal, tasks};

/// How often a directory may be swept away before it is in use.
const SWEPT: usize = 10;
/// How long deleting one directory that was left may take.
const SWEEP: Duration = Duration::from_secs(10);

/// What is said of the repository's format, in its own words, where they are among these.
const FORMAT: [(&str, &[&str]); 4] = [
    ("extensions.objectformat", &["sha1", "sha256"]),
    ("extensions.refstorage", &["files", "reftable"]),
    ("extensions.preciousobjects", &["true", "false"]),
    ("extensions.relativeworktrees", &["true", "false"]),
];
/// What else is taken over: how files are compared and made. Nothing of it can run anything.
const TAKEN_OVER: [&str; 10] = [
    "core.bare",
    "core.filemode",
    "core.symlinks",
    "core.ignorecase",
    "core.precomposeunicode",
    "core.autocrlf",
    "core.eol",
    "core.sharedrepository",
    "core.sparsecheckout",
    "core.sparsecheckoutcone",
];
/// Extensions that a shadow can leave out: where a configuration lies, and where objects could be fetched from.
const LEFT_OUT: [&str; 3] = ["extensions.worktreeconfig", "extensions.partialclone", "extensions.noop"];

/// What calls may do to the repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// Nothing: objects that a call makes stay here.
    Look,
    /// Write refs and objects.
    Write,
}

/// How files become objects, and objects files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bytes {
    /// As the attributes have it: line ends and encodings. A filter has no command here.
    Converted,
    /// As they are.
    Raw,
}

/// A stand-in for a repository; it is gone when this is dropped.
pub(super) struct Shadow {
    git: Git,
    dir: TempDir,
    /// Locked, as long as the directory is in use: see [`sweep`].
    _lock: File,
}

impl Shadow {
    /// A stand-in for this repository.
    pub(super) async fn of(git: &Git, repository: &Repository, access: Access, bytes: Bytes) -> Result<Self, Error> {
        let common = repository.common.clone();
        let (dir, lock) = tasks::blocking(move || lay_out(&common, access, bytes)).await?;
        let shadow = Self { git: git.clone(), dir, _lock: lock };
        shadow.configure(&repository.common).await?;
        Ok(shadow)
    }

    /// Its directory.
    pub(super) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The git that is called.
    pub(super) fn git(&self) -> &Git {
        &self.git
    }

    /// A call on the repository itself.
    pub(super) fn call(&self, words: &[&str]) -> Call {
        self.git.call(self.path(), words).env("GIT_DIR", self.path()).env("GIT_COMMON_DIR", self.path())
    }

    /// A call on a working tree: its git directory, its files, its index.
    pub(super) fn call_in(&self, git_dir: &Path, tree: &Path, words: &[&str]) -> Call {
        let call = self.git.call(self.path(), words).env("GIT_DIR", git_dir).env("GIT_COMMON_DIR", self.path());
        call.env("GIT_WORK_TREE", tree).env("GIT_INDEX_FILE", self.index())
    }

    /// Where a copy of a working tree's index is: its own is never written.
    pub(super) fn index(&self) -> PathBuf {
        self.path().join("index")
    }

    /// An empty directory, in the place of a working tree that is gone.
    pub(super) fn nothing(&self) -> PathBuf {
        self.path().join("nothing")
    }

    /// Takes over what the repository is, from its own configuration, without what that includes.
    async fn configure(&self, common: &Path) -> Result<(), Error> {
        let (mut config, mut format) = (String::new(), 0);
        // The second is read by git where an extension says so: there it says of the main working tree that there is none.
        for name in ["config", "config.worktree"] {
            let list = self.list(&common.join(name)).await?;
            for (key, value) in list.split(|byte| *byte == 0).filter_map(pair) {
                match key {
                    "core.repositoryformatversion" => format = value.parse().unwrap_or(i64::MAX),
                    _ => config.push_str(&taken_over(key, value)?),
                }
            }
        }
        if format > 1 {
            return Err(Error::Invalid { param: "repository", reason: "its format is too new for this".into() });
        }
        let config = format!("[core]\n\trepositoryformatversion = {format}\n{config}");
        tokio::fs::write(self.path().join("config"), config).await?;
        Ok(())
    }

    async fn list(&self, config: &Path) -> Result<Vec<u8>, Error> {
        if !readable::is_small(config) {
            return Ok(Vec::new());
        }
        let list = self.git.call(self.path(), &["config", "--no-includes", "--list", "-z", "--file"]).arg(config);
        list.env("GIT_DIR", self.path()).env("GIT_COMMON_DIR", self.path()).ok().await
    }
}

fn pair(entry: &[u8]) -> Option<(&str, &str)> {
    let entry = std::str::from_utf8(entry).ok()?;
    // A key alone is true.
    Some(entry.split_once('\n').unwrap_or((entry, "true"))).filter(|(key, _)| !key.is_empty())
}

/// The line of a configuration, or nothing.
fn taken_over(key: &str, value: &str) -> Result<String, Error> {
    let (section, name) = key.split_once('.').unwrap_or((key, ""));
    let known = FORMAT.iter().find(|(format, _)| *format == key);
    match known {
        Some((_, values)) if values.contains(&value) => {}
        None if TAKEN_OVER.contains(&key) && value.bytes().all(|byte| byte.is_ascii_alphanumeric()) => {}
        None if section != "extensions" || LEFT_OUT.contains(&key) => return Ok(String::new()),
        _ => {
            let reason = format!("it is of a kind that this cannot work with: {key} = {value}");
            return Err(Error::Invalid { param: "repository", reason });
        }
    }
    Ok(format!("[{section}]\n\t{name} = {value}\n"))
}

/// How the directories of all stand-ins are named.
const PREFIX: &str = "culm-git-";

/// A new directory that is locked while it is in use. One that is swept away before that is made again.
fn locked_dir() -> io::Result<(TempDir, File)> {
    for _ in 0..SWEPT {
        let dir = tempfile::Builder::new().prefix(PREFIX).tempdir()?;
        let lock = match File::open(dir.path()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            lock => lock?,
        };
        match flock(&lock, FlockOperation::NonBlockingLockShared) {
            Err(Errno::WOULDBLOCK) => {}
            _ if dir.path().exists() => return Ok((dir, lock)),
            _ => {}
        }
    }
    Err(io::Error::other("each directory for a call of git is swept away at once"))
}

/// Deletes the directories that nobody has locked: those of servers that were killed.
pub(super) fn sweep() {
    for entry in fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten() {
        if !entry.file_name().as_bytes().starts_with(PREFIX.as_bytes()) {
            continue;
        }
        let Ok(lock) = File::open(entry.path()) else { continue };
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
            let left = removal::delete(&entry.path(), Instant::now() + SWEEP);
            tracing::debug!(path = %entry.path().display(), ?left, "a directory that a killed server left was deleted");
        }
    }
}

fn lay_out(common: &Path, access: Access, bytes: Bytes) -> Result<(TempDir, File), Error> {
    readable::check_repository(common)?;
    let (dir, lock) = locked_dir()?;
    let own = dir.path();
    let link = |name: &str| symlink(common.join(name), own.join(name));
    // Also where nothing is yet: what git or somebody else makes there meanwhile is seen.
    for name in ["refs", "packed-refs", "shallow"] {
        link(name)?;
    }
    for name in ["logs", "worktrees"] {
        if access == Access::Write {
            fs::create_dir_all(common.join(name))?;
        }
        link(name)?;
    }
    if common.join("reftable").exists() {
        link("reftable")?;
    }
    fs::create_dir(own.join("info"))?;
    // Without it, more is at risk.
    if readable::is_small(&common.join("info/exclude")) {
        symlink(common.join("info/exclude"), own.join("info/exclude"))?;
    }
    if bytes == Bytes::Raw {
        // Goes before what any file in a working tree says.
        fs::write(own.join("info/attributes"), "* -text -ident !eol !working-tree-encoding\n")?;
    }
    match access {
        Access::Write => link("objects")?,
        Access::Look => {
            fs::create_dir_all(own.join("objects/info"))?;
            symlink(common.join("objects"), own.join("their-objects"))?;
            fs::write(own.join("objects/info/alternates"), "../their-objects\n")?;
        }
    }
    // A link in its place is taken for a ref of another kind.
    fs::write(own.join("HEAD"), repository::read(&common.join("HEAD"))?)?;
    fs::create_dir(own.join("nothing"))?;
    Ok((dir, lock))
}

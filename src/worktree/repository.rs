//! Where a repository is, and what belongs to a working tree: read from the files themselves, without git, for git would
//! read the repository's configuration on its way.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, OpenOptions},
    io::{self, Read},
    os::unix::{
        ffi::{OsStrExt, OsStringExt},
        fs::OpenOptionsExt,
    },
    path::{Path, PathBuf},
};

use rustix::fs::OFlags;

/// Bytes of a file that says where something is, at most.
const POINTER: u64 = 16 << 10;

/// A repository: what all its working trees share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Repository {
    /// Its git directory.
    pub(super) common: PathBuf,
}

/// The top of a working tree, and what its repository keeps about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct WorkingTree {
    pub(super) path: PathBuf,
    pub(super) git_dir: PathBuf,
    pub(super) repository: Repository,
}

impl Repository {
    /// The repository of which this is a working tree's top, or the git directory.
    pub(super) fn at(path: &Path) -> Option<Self> {
        let path = path.canonicalize().ok()?;
        match WorkingTree::at(&path) {
            Some(tree) => Some(tree.repository),
            None => Self::of(&path),
        }
    }

    /// The repository that a git directory belongs to: its own, or that of the working tree that it speaks of.
    fn of(git_dir: &Path) -> Option<Self> {
        let common = match pointer(&git_dir.join("commondir")) {
            Ok(common) => git_dir.join(common).canonicalize().ok()?,
            Err(_) => git_dir.to_owned(),
        };
        let is = |name: &str, file: bool| {
            fs::metadata(common.join(name)).is_ok_and(|found| if file { found.is_file() } else { found.is_dir() })
        };
        (is("HEAD", true) && is("objects", false) && is("refs", false)).then_some(Self { common })
    }

    /// What people call it: the top of its main working tree, or the git directory of one that has none there.
    pub(super) fn name(&self) -> &Path {
        match (self.common.file_name(), self.common.parent()) {
            (Some(name), Some(parent)) if name == ".git" => parent,
            _ => &self.common,
        }
    }

    /// What it keeps about the working tree at this place, whether that is there or not.
    pub(super) fn git_dir_of(&self, tree: &Path) -> Option<PathBuf> {
        let known = fs::read_dir(self.common.join("worktrees")).ok()?.filter_map(Result::ok);
        let gitfile = tree.join(".git");
        known.map(|entry| entry.path()).find(|git_dir| {
            pointer(&git_dir.join("gitdir")).is_ok_and(|at| at == gitfile || git_dir.join(at) == gitfile)
        })
    }
}

impl WorkingTree {
    /// The working tree whose top this is.
    pub(super) fn at(path: &Path) -> Option<Self> {
        let path = path.canonicalize().ok()?;
        let git_dir = git_dir_named_by(&path)?.canonicalize().ok()?;
        let repository = Repository::of(&git_dir)?;
        Some(Self { path, git_dir, repository })
    }

    /// Whether it is the main working tree: its git directory is the repository itself.
    pub(super) fn is_main(&self) -> bool {
        self.git_dir == self.repository.common
    }
}

/// The git directory that the top of a working tree names. It may not be there.
pub(super) fn git_dir_named_by(tree: &Path) -> Option<PathBuf> {
    let gitfile = tree.join(".git");
    if fs::metadata(&gitfile).ok()?.is_dir() {
        return Some(gitfile);
    }
    let text = read(&gitfile).ok()?;
    let path = text.strip_prefix(b"gitdir: ")?;
    Some(tree.join(OsStr::from_bytes(without_line_end(path))))
}

/// Where the working tree is that a git directory speaks of, by what it says itself.
pub(super) fn tree_named_by(git_dir: &Path) -> Option<PathBuf> {
    let gitfile = git_dir.join(pointer(&git_dir.join("gitdir")).ok()?);
    gitfile.parent().map(Path::to_owned)
}

/// Writes a file that says where something is, whole or not at all.
pub(super) fn point(file: &Path, text: &[u8]) -> io::Result<()> {
    let mut beside = file.as_os_str().to_owned();
    beside.push(".culm");
    fs::write(&beside, [text, b"\n"].concat())?;
    fs::rename(&beside, file)
}

fn pointer(file: &Path) -> io::Result<PathBuf> {
    let text = read(file)?;
    Ok(PathBuf::from(OsString::from_vec(without_line_end(&text).to_vec())))
}

/// Without the one line feed that ends a file: a path may end in others.
fn without_line_end(text: &[u8]) -> &[u8] {
    text.strip_suffix(b"\n").unwrap_or(text)
}

/// A small file. A pipe in its place, which nobody writes to, would be waited for.
pub(super) fn read(file: &Path) -> io::Result<Vec<u8>> {
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
    let opened = OpenOptions::new().read(true).custom_flags(flags).open(file)?;
    if !opened.metadata()?.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut bytes = Vec::new();
    opened.take(POINTER).read_to_end(&mut bytes)?;
    Ok(bytes)
}

//! What lies in a directory, without following a link out of it; and what tools make again.

use std::{
    ffi::OsStr,
    fs, io,
    path::{Component, Path, PathBuf},
};

use super::{Error, repository};

/// Entries that are looked at, at most.
const ENTRIES: usize = 5_000_000;

/// Directories that tools make again whenever they miss them. No word that people use for what they keep.
const MADE_AGAIN: [&str; 20] = [
    "target",
    "node_modules",
    "__pycache__",
    ".venv",
    "venv",
    ".tox",
    ".nox",
    ".mypy_cache",
    ".pytest_cache",
    ".ruff_cache",
    ".gradle",
    ".next",
    ".nuxt",
    ".svelte-kit",
    ".turbo",
    ".parcel-cache",
    ".cache",
    ".eggs",
    ".terraform",
    ".DS_Store",
];
/// How a directory says so itself (<https://bford.info/cachedir/>).
const CACHE: (&str, &[u8]) = ("CACHEDIR.TAG", b"Signature: 8a477f597d28d172789f06886806bc55");

/// Whether what git ignores there is what tools make again.
pub(super) fn is_made_again(tree: &Path, ignored: &Path) -> bool {
    let known = |name: &OsStr| MADE_AGAIN.iter().any(|made| name == *made);
    let compiled = ignored.extension().is_some_and(|ending| ending == "pyc" || ending == "o");
    let tagged = |dir: &Path| repository::read(&dir.join(CACHE.0)).is_ok_and(|tag| tag.starts_with(CACHE.1));
    compiled
        || ignored.components().any(|part| matches!(part, Component::Normal(name) if known(name)))
        || ignored.ancestors().filter(|part| !part.as_os_str().is_empty()).any(|part| tagged(&tree.join(part)))
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Directory,
    File,
    Link,
    /// A pipe, a socket, a device: it holds nothing.
    Other,
}

/// Goes through all below a directory, by paths from it on; into a directory only where `enter` says so.
pub(super) fn walk(top: &Path, mut enter: impl FnMut(&Path, Kind) -> bool) -> Result<(), Error> {
    let (mut left, mut seen) = (vec![PathBuf::new()], 0);
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(top.join(&dir))? {
            let entry = entry?;
            seen += 1;
            if seen > ENTRIES {
                return Err(Error::TooMuch);
            }
            let (path, kind) = (dir.join(entry.file_name()), kind(entry.file_type()?));
            if enter(&path, kind) && kind == Kind::Directory {
                left.push(path);
            }
        }
    }
    Ok(())
}

fn kind(of: fs::FileType) -> Kind {
    match of {
        of if of.is_dir() => Kind::Directory,
        of if of.is_file() => Kind::File,
        of if of.is_symlink() => Kind::Link,
        _ => Kind::Other,
    }
}

/// What an entry is, whether it is there or not.
pub(super) fn kind_of(path: &Path) -> io::Result<Option<Kind>> {
    match fs::symlink_metadata(path) {
        Ok(found) => Ok(Some(kind(found.file_type()))),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The directories below this one that are repositories of their own, but for those in what is passed over.
pub(super) fn nested_repositories(top: &Path, passed_over: &[PathBuf]) -> Result<Vec<PathBuf>, Error> {
    let mut found = Vec::new();
    walk(top, |path, kind| {
        if path.file_name() == Some(OsStr::new(".git")) {
            // The top's own is its link to its repository.
            found.extend(path.parent().filter(|dir| !dir.as_os_str().is_empty()).map(Path::to_owned));
            return false;
        }
        kind == Kind::Directory && !passed_over.iter().any(|dir| path == dir)
    })?;
    found.sort();
    Ok(found)
}

/// The files and links below a directory, or it itself if it is one.
pub(super) fn files(top: &Path) -> Result<Vec<PathBuf>, Error> {
    if kind_of(top)? != Some(Kind::Directory) {
        return Ok(vec![PathBuf::new()]);
    }
    let mut found = Vec::new();
    walk(top, |path, kind| {
        if matches!(kind, Kind::File | Kind::Link) {
            found.push(path.to_owned());
        }
        true
    })?;
    Ok(found)
}

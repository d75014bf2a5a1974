//! What lies in a directory, without following a link out of it; and what tools make again.

use std::{
    ffi::OsStr,
    fs, io,
    path::{Component, Path, PathBuf},
};

use rustix::io::Errno;

use super::{Error, repository};

/// Characters of a long path that are shown.
const SHOWN: usize = 100;
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

/// Goes through all below a directory, by paths from it on; into a directory only where `enter` says so. One that is nested
/// deeper than a path can say is an error.
pub(super) fn walk(top: &Path, enter: impl FnMut(&Path, Kind) -> bool) -> Result<(), Error> {
    match reachable(top, enter)?.into_iter().next() {
        None => Ok(()),
        Some(dir) => Err(too_deep(&dir)),
    }
}

/// Goes through all below a directory that a path can say. The directories that it cannot.
fn reachable(top: &Path, mut enter: impl FnMut(&Path, Kind) -> bool) -> Result<Vec<PathBuf>, Error> {
    let (mut left, mut seen, mut too_deep) = (vec![PathBuf::new()], 0, Vec::new());
    while let Some(dir) = left.pop() {
        let entries = match fs::read_dir(top.join(&dir)) {
            Err(error) if is_too_long(&error) => {
                too_deep.push(dir);
                continue;
            }
            entries => entries?,
        };
        for entry in entries {
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
    Ok(too_deep)
}

/// Whether a path is longer than the system takes.
pub(super) fn is_too_long(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::NAMETOOLONG.raw_os_error())
}

/// Why git cannot read there: it says where by paths.
pub(super) fn too_deep(path: &Path) -> Error {
    Error::Unreadable(format!("{} is nested too deep", short(path)))
}

/// The beginning of a path.
fn short(path: &Path) -> String {
    let text = path.to_string_lossy();
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.into_owned(),
    }
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

/// Files and links, by paths from a directory on.
#[derive(Debug, Default)]
pub(super) struct Files {
    pub(super) found: Vec<PathBuf>,
    /// Where files may be that no path can say: the beginning of it.
    pub(super) too_deep: Vec<String>,
}

/// The files and links below a directory, or it itself if it is one.
pub(super) fn files(top: &Path) -> Result<Files, Error> {
    if kind_of(top)? != Some(Kind::Directory) {
        return Ok(Files { found: vec![PathBuf::new()], ..Files::default() });
    }
    let (mut found, mut too_deep) = (Vec::new(), Vec::new());
    let directories = reachable(top, |path, kind| {
        if matches!(kind, Kind::File | Kind::Link) {
            match fs::symlink_metadata(top.join(path)) {
                Err(error) if is_too_long(&error) => too_deep.push(short(path)),
                _ => found.push(path.to_owned()),
            }
        }
        true
    })?;
    too_deep.extend(directories.iter().map(|dir| short(dir)));
    Ok(Files { found, too_deep })
}

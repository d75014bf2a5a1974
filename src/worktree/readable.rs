//! What git will read, looked at before it does: type and size. Whoever works in a repository can put a pipe in the place
//! of a file, which git waits for, or a file of any size, which git reads into memory.
//!
//! Somebody may do so after the look: then the call's deadline ends it.

use std::{
    ffi::OsStr,
    fs, io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use rustix::io::Errno;

use super::{Error, repository, walk};

/// Bytes of a file of patterns, of settings or of a pointer.
const SMALL: u64 = 8 << 20;
/// Bytes of an index, of packed refs or of a log.
const LARGE: u64 = 512 << 20;
/// Entries of a repository that are looked at, at most.
const ENTRIES: usize = 1_000_000;

/// The files of a working tree that git reads by their names, wherever they are.
const BY_NAME: [&str; 3] = [".gitignore", ".gitattributes", ".gitmodules"];
/// What is never read in whole, however large it is.
const ANY_SIZE: [&str; 2] = ["objects", "modules"];
/// What of a repository is not git's, or is not read by the calls that are made.
const UNREAD: [&str; 6] = ["hooks", "info", "lfs", "annex", "modules", "description"];

/// Looks at what all working trees of a repository share.
pub(super) fn check_repository(common: &Path) -> Result<(), Error> {
    let (mut left, mut seen) = (vec![PathBuf::new()], 0);
    while let Some(dir) = left.pop() {
        let top = dir.as_os_str().is_empty();
        let entries = match fs::read_dir(common.join(&dir)) {
            // Another worktree goes meanwhile.
            Err(error) if !dir.as_os_str().is_empty() && error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) if walk::is_too_long(&error) => return Err(walk::too_deep(&dir)),
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            seen += 1;
            if seen > ENTRIES {
                return Ok(());
            }
            let path = dir.join(entry.file_name());
            // That of a lock is Culm's to read, and it reads no pipe.
            if entry.file_name() == "locked" || top && UNREAD.iter().any(|unread| entry.file_name() == *unread) {
                continue;
            }
            match entry.file_type()?.is_dir() {
                true => left.push(path),
                false => check(common, &path, most_of(&path))?,
            }
        }
    }
    Ok(())
}

/// Looks at a working tree, and at what is kept about it alone.
pub(super) fn check_tree(git_dir: &Path, tree: Option<&Path>) -> Result<(), Error> {
    if git_dir.is_dir() {
        check_repository(git_dir)?;
    }
    let Some(tree) = tree else { return Ok(()) };
    let (mut found, mut nested) = (Vec::new(), Vec::new());
    walk::walk(tree, |path, kind| {
        let named = |name: &str| path.file_name() == Some(OsStr::new(name));
        if kind != walk::Kind::Directory && BY_NAME.iter().any(|name| named(name)) {
            found.push(path.to_owned());
        }
        // The top's own is known.
        if named(".git") {
            nested.extend(path.parent().filter(|dir| !dir.as_os_str().is_empty()).map(Path::to_owned));
        }
        !named(".git")
    })?;
    found.iter().try_for_each(|path| check(tree, path, SMALL))?;
    // Git looks at which commit the repositories within are.
    let git_dirs = nested.iter().filter_map(|dir| repository::git_dir_named_by(&tree.join(dir)));
    git_dirs.filter(|git_dir| git_dir.is_dir()).try_for_each(|git_dir| check_repository(&git_dir))
}

/// Whether a file is there, and is one that is read in whole.
pub(super) fn is_small(file: &Path) -> bool {
    fs::metadata(file).is_ok_and(|found| found.is_file() && found.len() <= SMALL)
}

fn most_of(path: &Path) -> u64 {
    let first = path.components().next().map(|part| part.as_os_str().as_bytes().to_vec()).unwrap_or_default();
    if ANY_SIZE.iter().any(|name| name.as_bytes() == first) {
        return u64::MAX;
    }
    match first.as_slice() {
        b"index" | b"packed-refs" | b"logs" | b"reftable" | b"shallow" | b"worktrees" => LARGE,
        _ => SMALL,
    }
}

/// A file, or a link to one: git follows it.
fn check(top: &Path, path: &Path, most: u64) -> Result<(), Error> {
    let found = match fs::metadata(top.join(path)) {
        // A link to nothing is read as nothing; what vanished is gone.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) if error.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => return Ok(()),
        Err(error) if walk::is_too_long(&error) => return Err(walk::too_deep(path)),
        found => found?,
    };
    let (file, shown) = (found.is_file() || found.is_dir(), path.display());
    match (file, found.len() > most) {
        (false, _) => Err(Error::Unreadable(format!("{shown} is no file"))),
        (true, true) => Err(Error::Unreadable(format!("{shown} has {} bytes, more than {most}", found.len()))),
        (true, false) => Ok(()),
    }
}

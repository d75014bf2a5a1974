//! Deleting a directory with all below it, also where tools left what they cannot delete themselves: Go's module cache
//! is read-only. Knows nothing of worktrees and agents.
//!
//! No symbolic link is followed, also when somebody puts one there meanwhile: directories are opened below the first one
//! by the system itself (`openat2` with `RESOLVE_BENEATH`).

use std::{
    ffi::OsString,
    fs,
    io::{self, ErrorKind},
    os::{fd::AsRawFd, unix::fs::PermissionsExt},
    path::{Path, PathBuf},
    time::Instant,
};

use rustix::{
    fd::OwnedFd,
    fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, openat, openat2, unlinkat},
};

/// Paths that are named of what is left, at most.
const NAMED: usize = 100;

/// What could not be deleted.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Left {
    /// How much there is, directories included.
    pub count: usize,
    /// The first hundred, from the directory on.
    pub first: Vec<PathBuf>,
}

/// Deletes a directory, or what lies in its place. What is not writable is made writable first; what cannot be deleted
/// all the same is left, and everything else goes. Fails with `TimedOut` when `until` has come.
pub fn delete(dir: &Path, until: Instant) -> io::Result<Left> {
    let plainly = match fs::symlink_metadata(dir) {
        Ok(found) if !found.is_dir() => fs::remove_file(dir),
        Ok(_) => fs::remove_dir_all(dir),
        Err(error) => Err(error),
    };
    match plainly {
        Ok(()) => Ok(Left::default()),
        Err(error) if error.kind() == ErrorKind::NotFound && !dir.exists() => Ok(Left::default()),
        Err(_) => thoroughly(dir, until),
    }
}

/// One directory after the other, from the deepest.
fn thoroughly(dir: &Path, until: Instant) -> io::Result<Left> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let top = openat(CWD, dir, flags, Mode::empty())?;
    let (mut left, mut directories, mut at) = (Left::default(), vec![PathBuf::new()], 0);
    while let Some(path) = directories.get(at).cloned() {
        in_time(until)?;
        at += 1;
        match empty(&top, &path) {
            Ok((below, kept)) => {
                directories.extend(below.into_iter().map(|name| path.join(name)));
                kept.into_iter().for_each(|name| left.add(path.join(name)));
            }
            Err(_) => left.add(path),
        }
    }
    for path in directories.iter().rev() {
        in_time(until)?;
        let gone = match (path.parent(), path.file_name()) {
            (Some(parent), Some(name)) => {
                opened(&top, parent).and_then(|parent| Ok(unlinkat(&parent, name, AtFlags::REMOVEDIR)?))
            }
            _ => fs::remove_dir(dir),
        };
        match gone {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            // It holds what is named already.
            Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => {}
            Err(_) => left.add(path.clone()),
        }
    }
    Ok(left)
}

fn in_time(until: Instant) -> io::Result<()> {
    if Instant::now() < until { Ok(()) } else { Err(ErrorKind::TimedOut.into()) }
}

/// A directory below the top, whether it can be read or not.
fn opened(top: &OwnedFd, path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    Ok(openat2(top, path, flags, Mode::empty(), ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS)?)
}

/// Makes a directory writable, and deletes all in it that is no directory. The directories in it, and what stays.
fn empty(top: &OwnedFd, path: &Path) -> io::Result<(Vec<OsString>, Vec<OsString>)> {
    let dir = opened(top, path)?;
    // The directory itself, whatever is at its path by now.
    let this = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd()));
    let mode = fs::metadata(&this)?.permissions().mode();
    if mode & 0o700 != 0o700 {
        // Another owner's cannot be changed, and may be deletable all the same.
        let _ = fs::set_permissions(&this, fs::Permissions::from_mode(mode & 0o7777 | 0o700));
    }
    let (mut below, mut kept) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(&this)? {
        let entry = entry?;
        let name = entry.file_name();
        if entry.file_type()?.is_dir() {
            below.push(name);
        } else if let Err(error) = unlinkat(&dir, &name, AtFlags::empty())
            && error != rustix::io::Errno::NOENT
        {
            kept.push(name);
        }
    }
    Ok((below, kept))
}

impl Left {
    /// Whether all is gone.
    pub fn is_nothing(&self) -> bool {
        self.count == 0
    }

    fn add(&mut self, path: PathBuf) {
        self.count += 1;
        if self.first.len() < NAMED {
            self.first.push(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::symlink, time::Duration};

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    /// Directories that nothing can be deleted from, read or entered. Root can all the same: then nothing is special.
    #[test]
    fn what_is_read_only_goes_and_no_link_is_followed() {
        let (place, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let top = place.path().join("top");
        fs::write(elsewhere.path().join("kept"), "kept").unwrap();
        for (name, mode) in [("go/mod/a", 0o555), ("go/mod/b", 0o000), ("c", 0o333)] {
            let dir = top.join(name);
            fs::create_dir_all(dir.join("deep")).unwrap();
            fs::write(dir.join("deep/file"), "x").unwrap();
            symlink(elsewhere.path(), dir.join("link")).unwrap();
            fs::set_permissions(dir.join("deep"), fs::Permissions::from_mode(0o555)).unwrap();
            fs::set_permissions(dir, fs::Permissions::from_mode(mode)).unwrap();
        }
        fs::set_permissions(&top, fs::Permissions::from_mode(0o555)).unwrap();
        assert_eq!(thoroughly(&top, soon()).unwrap(), Left::default());
        assert!(!top.exists() && elsewhere.path().join("kept").exists());
        assert_eq!(delete(&top, soon()).unwrap(), Left::default(), "what is gone is deleted");
    }

    #[test]
    fn it_ends_when_it_must() {
        let place = tempfile::tempdir().unwrap();
        assert_eq!(thoroughly(place.path(), Instant::now()).unwrap_err().kind(), ErrorKind::TimedOut);
        assert!(place.path().exists());
    }
}

//! Deleting a directory with all below it, also where tools left what they cannot delete themselves: Go's module cache
//! is read-only. Knows nothing of worktrees and agents.
//!
//! No symbolic link is followed, also when somebody puts one there meanwhile: directories are opened below the first one
//! by the system itself (`openat2` with `RESOLVE_BENEATH`).
//!
//! Directories may be nested deeper than a path can say, or than a call can go down with a handle for each. So one that is
//! deep down is moved up to the top before it is emptied.

use std::{
    ffi::{OsStr, OsString},
    fs,
    io::{self, ErrorKind},
    os::{fd::AsRawFd, unix::fs::PermissionsExt},
    path::{Path, PathBuf},
    time::{Instant, SystemTime},
};

use rustix::{
    fd::OwnedFd,
    fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, openat, openat2, renameat, unlinkat},
    io::Errno,
};

/// Paths that are named of what is left, at most.
const NAMED: usize = 100;

/// Bytes of a path from which on a directory is moved up: the system takes 4096.
const DEEP: usize = 1024;

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
    match fs::symlink_metadata(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Left::default()),
        Err(error) => Err(error),
        Ok(found) if !found.is_dir() => fs::remove_file(dir).map(|()| Left::default()),
        Ok(_) => match thoroughly(dir, until) {
            // A system without `openat2`, or without `/proc`.
            Err(error) if error.kind() == ErrorKind::Unsupported => fs::remove_dir_all(dir).map(|()| Left::default()),
            deleted => deleted,
        },
    }
}

/// One directory after the other, from the deepest.
fn thoroughly(dir: &Path, until: Instant) -> io::Result<Left> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let top = openat(CWD, dir, flags, Mode::empty())?;
    let (mut left, mut directories, mut at) = (Left::default(), vec![PathBuf::new()], 0);
    // No name that an earlier call, which was interrupted, has given.
    let mut moved = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |now| now.as_nanos());
    while let Some(path) = directories.get(at).cloned() {
        in_time(until)?;
        at += 1;
        match empty(&top, &path, &mut moved) {
            Ok((below, kept)) => {
                directories.extend(below);
                kept.into_iter().for_each(|name| left.add(path.join(name)));
            }
            Err(error) if error.kind() == ErrorKind::Unsupported => return Err(error),
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

/// Deletes all in a directory that is no directory. Where the directories in it are, and what stays.
fn empty(top: &OwnedFd, path: &Path, moved: &mut u128) -> io::Result<(Vec<PathBuf>, Vec<OsString>)> {
    let dir = opened(top, path)?;
    let this = writable(&dir)?;
    let (mut below, mut kept) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(&this)? {
        let entry = entry?;
        let name = entry.file_name();
        if entry.file_type()?.is_dir() {
            let up = if path.as_os_str().len() > DEEP { move_up(top, &dir, &name, moved) } else { None };
            below.push(up.unwrap_or_else(|| path.join(name)));
        } else if let Err(error) = unlinkat(&dir, &name, AtFlags::empty())
            && error != Errno::NOENT
        {
            kept.push(name);
        }
    }
    Ok((below, kept))
}

/// Makes a directory writable. A path of the directory itself, whatever is at its own path by now.
fn writable(dir: &OwnedFd) -> io::Result<PathBuf> {
    let this = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd()));
    let mode = match fs::metadata(&this) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Err(ErrorKind::Unsupported.into()),
        found => found?.permissions().mode(),
    };
    if mode & 0o700 != 0o700 {
        // Another owner's cannot be changed, and may be deletable all the same.
        let _ = fs::set_permissions(&this, fs::Permissions::from_mode(mode & 0o7777 | 0o700));
    }
    Ok(this)
}

/// Moves a directory to the top. Its name there, unless it cannot be moved.
fn move_up(top: &OwnedFd, dir: &OwnedFd, name: &OsStr, moved: &mut u128) -> Option<PathBuf> {
    *moved += 1;
    let up = PathBuf::from(format!(".culm-deep-{moved}"));
    // One that is read-only cannot be moved.
    let _ = opened(dir, Path::new(name)).and_then(|dir| writable(&dir));
    renameat(dir, name, top, &up).is_ok().then_some(up)
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

    use rustix::fs::mkdirat;

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

    /// Deeper than a path can say, and than there are handles. Read-only in the middle.
    #[test]
    fn what_is_nested_without_end_goes() {
        let place = tempfile::tempdir().unwrap();
        let top = place.path().join("top");
        fs::create_dir(&top).unwrap();
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut dir = openat(CWD, &top, flags, Mode::empty()).unwrap();
        for depth in 0..3000 {
            mkdirat(&dir, "node_modules", Mode::RWXU).unwrap();
            let below = openat(&dir, "node_modules", flags, Mode::empty()).unwrap();
            openat(&below, "file", OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC, Mode::RUSR).unwrap();
            if depth % 100 == 0 {
                mkdirat(&dir, "beside", Mode::RUSR).unwrap();
            }
            dir = below;
        }
        assert_eq!(thoroughly(&top, soon()).unwrap(), Left::default());
        assert!(!top.exists());
    }

    #[test]
    fn it_ends_when_it_must() {
        let place = tempfile::tempdir().unwrap();
        assert_eq!(thoroughly(place.path(), Instant::now()).unwrap_err().kind(), ErrorKind::TimedOut);
        assert!(place.path().exists());
    }
}

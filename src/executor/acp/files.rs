//! Files that an agent asks the server to read or to write: inside its working directory, and nowhere else.
//!
//! The system itself keeps them there (`openat2` with `RESOLVE_BENEATH`): a path that leads out, by `..` or by a
//! symbolic link that somebody changes at the same moment, is not opened.

use std::{
    fs::File,
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};

/// Bytes of one file at most.
const FILE: u64 = 16 << 20;

/// A directory, and what is below it.
#[derive(Debug, Clone)]
pub(super) struct Below(PathBuf);

impl Below {
    pub(super) fn new(directory: PathBuf) -> Self {
        Self(directory)
    }

    fn open(&self, path: &Path, flags: OFlags) -> io::Result<File> {
        let outside = || io::Error::new(io::ErrorKind::PermissionDenied, "the path is outside the working directory");
        // An agent names files as it sees its directory, which may be a link to the real one.
        let real = std::fs::canonicalize(&self.0)?;
        let relative = path.strip_prefix(&self.0).or_else(|_| path.strip_prefix(&real)).map_err(|_| outside())?;
        let directory = openat(CWD, &real, OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::PATH, Mode::empty())?;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        // A pipe that nobody writes to would hold us.
        let flags = flags | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let mode = if flags.contains(OFlags::CREATE) { Mode::from_raw_mode(0o644) } else { Mode::empty() };
        let file = openat2(&directory, relative, flags, mode, resolve).map_err(|error| match error {
            rustix::io::Errno::XDEV | rustix::io::Errno::LOOP => outside(),
            error => error.into(),
        })?;
        let file = File::from(file);
        match file.metadata()?.is_file() {
            true => Ok(file),
            false => Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no file")),
        }
    }

    /// Lines of a text file, from the first (1) on, at most so many.
    pub(super) fn read(&self, path: &Path, line: Option<u32>, limit: Option<u32>) -> io::Result<String> {
        let file = self.open(path, OFlags::RDONLY)?;
        let mut text = String::new();
        if file.take(FILE + 1).read_to_string(&mut text)? as u64 > FILE {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("a file has at most {FILE} bytes")));
        }
        if line.is_none() && limit.is_none() {
            return Ok(text);
        }
        let skipped = line.unwrap_or(1).saturating_sub(1) as usize;
        let taken = limit.map_or(usize::MAX, |limit| limit as usize);
        Ok(text.split_inclusive('\n').skip(skipped).take(taken).collect())
    }

    /// Writes a text file, whole. Folders that are missing are not made.
    pub(super) fn write(&self, path: &Path, text: &str) -> io::Result<()> {
        let mut file = self.open(path, OFlags::WRONLY | OFlags::CREATE)?;
        file.set_len(0)?;
        file.write_all(text.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_leads_out() {
        let (inside, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (here, there) = (inside.path(), outside.path());
        std::fs::write(there.join("secret"), "secret").unwrap();
        std::fs::create_dir(here.join("below")).unwrap();
        for (link, target) in [("file", there.join("secret")), ("folder", there.into()), ("up", "../..".into())] {
            std::os::unix::fs::symlink(target, here.join(link)).unwrap();
        }
        std::os::unix::fs::symlink("below", here.join("within")).unwrap();
        let files = Below::new(here.into());
        let name = there.file_name().unwrap().to_str().unwrap();
        let out = [
            there.join("secret"),
            here.join("file"),
            here.join("folder/secret"),
            here.join(format!("../{name}/secret")),
            here.join(format!("below/../../{name}/secret")),
            here.join(format!("up/{name}/secret")),
            "/etc/hostname".into(),
            "relative".into(),
            "/proc/self/root/etc/hostname".into(),
        ];
        for path in out {
            assert!(files.read(&path, None, None).is_err(), "{} was read", path.display());
            assert!(files.write(&path, "changed").is_err(), "{} was written", path.display());
        }
        assert_eq!(std::fs::read_to_string(there.join("secret")).unwrap(), "secret");
        assert!(!there.join("new").exists() && files.write(&here.join("folder/new"), "x").is_err());
        files.write(&here.join("within/../within/file"), "one\ntwo\nthree\n").unwrap();
        assert_eq!(files.read(&here.join("below/file"), Some(2), Some(1)).unwrap(), "two\n");
        files.write(&here.join("below/file"), "1").unwrap();
        assert_eq!(files.read(&here.join("below/file"), None, None).unwrap(), "1");
        assert!(files.read(&here.join("below"), None, None).is_err(), "a folder is no file");
    }
}

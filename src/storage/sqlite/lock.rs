//! The lock of a database: a file beside it, which also remembers what there was between starts.
//!
//! **A database that is not there is not a new one.** Once one was made, its absence is an error, not an invitation. The
//! ids of the starts that the database's file may carry, its epoch and its last event tell a backup that was put back.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use super::open::{OpenError, read_only};

/// Bytes of the file. It never grows, so that it can be written on a full disk.
const SIZE: usize = 256;

/// What the lock file remembers of its database.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Memory {
    /// Whether one was made.
    pub(super) made: bool,
    /// The starts whose id the database's file may carry: one, or two around a start.
    pub(super) starts: Vec<String>,
    pub(super) epoch: i64,
    /// A number of an event that was committed, perhaps not the last.
    pub(super) last_event: i64,
}

impl Default for Memory {
    fn default() -> Self {
        Self { made: false, starts: Vec::new(), epoch: 1, last_event: 0 }
    }
}

impl Memory {
    fn read(file: &File) -> Self {
        let mut bytes = [0; SIZE];
        let read = file.read_at(&mut bytes, 0).unwrap_or(0);
        let (mut memory, text) = (Self::default(), String::from_utf8_lossy(&bytes[..read]));
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("made") => memory.made = true,
                Some("starts") => memory.starts = words.map(Into::into).collect(),
                Some("epoch") => memory.epoch = number(words.next(), 1),
                Some("last_event") => memory.last_event = number(words.next(), 0),
                _ => {}
            }
        }
        memory
    }

    fn text(&self) -> String {
        let made = if self.made { "made\n" } else { "" };
        let Self { starts, epoch, last_event, .. } = self;
        let text = format!("{made}starts {}\nepoch {epoch}\nlast_event {last_event}\n", starts.join(" "));
        format!("{text:\n<SIZE$}")
    }
}

fn number(word: Option<&str>, otherwise: i64) -> i64 {
    word.and_then(|word| word.parse().ok()).unwrap_or(otherwise)
}

/// The instance's lock: held as long as the value lives.
#[derive(Debug)]
pub struct Lock {
    file: File,
    path: PathBuf,
}

impl Lock {
    /// Takes the lock of a database, or says that another process has it.
    pub fn take(database: &Path) -> Result<Self, OpenError> {
        let path = beside(database, ".lock");
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let file = file.map_err(|error| read_only(database, &error))?;
        match file.try_lock() {
            Ok(()) => Ok(Self { file, path }),
            Err(TryLockError::WouldBlock) => Err(OpenError::Locked(database.into())),
            Err(TryLockError::Error(error)) => Err(read_only(database, &error)),
        }
    }

    pub(super) fn memory(&self) -> Memory {
        Memory::read(&self.file)
    }

    /// Remembers this from now on, also after the power failed.
    pub(super) fn remember(&self, memory: &Memory) -> io::Result<()> {
        self.file.write_all_at(memory.text().as_bytes(), 0)?;
        self.file.sync_data()
    }

    /// Remembers the last event of a database that was closed.
    pub(super) fn remember_last_event(&self, last_event: i64) -> io::Result<()> {
        self.remember(&Memory { last_event, ..self.memory() })
    }

    /// Keeps the last event up to date beside the lock, without a sync.
    pub(super) fn recorder(&self) -> io::Result<Recorder> {
        Ok(Recorder { file: self.file.try_clone()?, memory: self.memory() })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Lock {
    /// Closing the file would not do: a process that is being started has a copy of it until it has begun.
    fn drop(&mut self) {
        let _ = self.file.unlock();
    }
}

/// Keeps the last event in the lock file.
#[derive(Debug)]
pub(super) struct Recorder {
    file: File,
    memory: Memory,
}

impl Recorder {
    pub(super) fn record(&mut self, last_event: i64) -> io::Result<()> {
        if self.memory.last_event != last_event {
            self.memory.last_event = last_event;
            self.file.write_all_at(self.memory.text().as_bytes(), 0)?;
        }
        Ok(())
    }
}

/// A file beside a database.
pub fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

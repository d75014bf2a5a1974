//! The database is a file, not a name: one name for each file, and a watch over the file that is served.
//!
//! A file that was moved, deleted or replaced, or another log, index of the log or lock beside it, stops all writing within a
//! second. Nothing is
//! papered over with a new file: a connection is only made while the files are the ones that were opened. Files are asked
//! for their metadata by path; they are not opened.

use std::{
    fs::Metadata,
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use sqlx::{Connection, SqliteConnection};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    checkpoint::wal_path,
    halt::Halt,
    lock::{Recorder, beside},
    open::{OpenError, read_only},
};
use crate::tasks::{self, Worker};

/// How often the files are looked at.
const LOOK: Duration = Duration::from_millis(250);
/// The endings of the names of the log's index and of the lock.
const SHARED: &str = "-shm";
const LOCK: &str = ".lock";
/// Looks between two records of the last event.
const LOOKS: u32 = 4;

/// The one name of a database's file: links are followed. Where there is none, that of the file that would be made.
pub(super) fn resolve(path: &Path) -> Result<PathBuf, OpenError> {
    match path.canonicalize() {
        Ok(real) => match std::fs::metadata(&real) {
            Ok(file) if file.is_file() && file.nlink() > 1 => Err(OpenError::ManyNames(real)),
            _ => Ok(real),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if let Ok(target) = path.read_link() {
                return Err(OpenError::DanglingLink { path: path.into(), target });
            }
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let name = path.file_name().unwrap_or_default();
            folder.canonicalize().map(|folder| folder.join(name)).or_else(|_| Ok(path.into()))
        }
        Err(error) => Err(read_only(path, &error)),
    }
}

/// The files of a database that is open, by device and inode.
#[derive(Debug, Clone)]
pub(super) struct Files {
    path: PathBuf,
    database: (u64, u64),
    log: (u64, u64),
    /// The index of the log: another process without it would make another one, and read and write by that.
    shared: (u64, u64),
    /// The lock's file: without it a second server would take the database for its own.
    lock: (u64, u64),
}

impl Files {
    /// Those that are there now.
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        let id = |path: &Path| std::fs::metadata(path).map(|file| id(&file));
        let [shared, lock] = [SHARED, LOCK].map(|ending| id(&beside(path, ending)));
        Ok(Self { path: path.into(), database: id(path)?, log: id(&wal_path(path))?, shared: shared?, lock: lock? })
    }

    /// What became of them, if they are no longer what they were.
    pub(super) fn changed(&self) -> Option<String> {
        let shown = self.path.display();
        let advice = "nothing is written any more. Stop the server, put the file that it served back with its -wal file, \
                      and start again";
        match std::fs::metadata(&self.path) {
            Ok(file) if id(&file) == self.database => {}
            Ok(_) => return Some(format!("another file was put at {shown} while the database was served; {advice}")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Some(format!("the database {shown} was moved or deleted while it was served; {advice}"));
            }
            // Nothing is known then.
            Err(_) => {}
        }
        let is_gone = |path: &Path, opened| match std::fs::metadata(path) {
            Ok(file) => id(&file) != opened,
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        };
        let log = wal_path(&self.path);
        if is_gone(&log, self.log) {
            let (log, process) = (log.display(), std::process::id());
            return Some(format!(
                "the write-ahead log {log} was deleted or replaced while the database was served; nothing is written any \
                 more. Before the server is stopped, copy the log from /proc/{process}/fd: it has the newest writes"
            ));
        }
        let beside = [(beside(&self.path, SHARED), self.shared), (beside(&self.path, LOCK), self.lock)];
        beside.iter().find(|(path, opened)| is_gone(path, *opened)).map(|(path, _)| {
            let path = path.display();
            format!(
                "{path} was deleted or replaced while the database was served: another process would no longer see that \
                 it is in use. Nothing is written any more; stop the server and start it again"
            )
        })
    }
}

fn id(file: &Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}

/// Watches over the files, and keeps the last event in the lock file. `anchor` is a connection that reads: while it is open,
/// no other one is the last, whose close would remove the log.
pub(super) fn watch(
    halt: Halt,
    anchor: SqliteConnection,
    last_event: watch::Receiver<i64>,
    mut recorder: Recorder,
) -> Worker {
    Worker::start("the watch over the files", |closing: CancellationToken| async move {
        let mut looks = 0;
        while !halt.is_halted() && closing.run_until_cancelled(tokio::time::sleep(LOOK)).await.is_some() {
            let looking = halt.clone();
            tasks::blocking(move || looking.look()).await;
            looks += 1;
            if looks % LOOKS == 0
                && !halt.is_halted()
                && let Err(error) = recorder.record(*last_event.borrow())
            {
                tracing::debug!(%error, "the lock file was not written");
            }
        }
        if halt.is_halted() {
            std::mem::forget(anchor);
        } else if let Err(error) = anchor.close().await {
            tracing::debug!(%error, "a connection did not close");
        }
    })
}

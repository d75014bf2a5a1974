//! What stops all writing for good: a sync that failed, or files that are no longer those that were opened.
//!
//! **A failed sync is the end.** Linux reports a failed `fsync` once and marks the pages that it could not write as
//! clean: the next sync of the file succeeds, though they are lost. So a commit that is acknowledged after a failed sync
//! may lie behind a hole in the write-ahead log, and a checkpoint may copy into the database what the log does not have.
//! From the first failed sync that any connection sees, nothing is acknowledged, no connection is closed (closing the last
//! one copies the log and deletes it, and the second sync succeeds), and the server exits. The next start writes the log
//! to the disk again before anything is copied from it ([`super::recovery`]).
//!
//! What was acknowledged is never behind the hole: an acknowledged commit was synced, and with it all frames before it.
//! Frames that commits of `Prepare` left unsynced can be lost in the background, without a call that fails; the next sync
//! of any descriptor that was open then reports it, so the commit that makes them count is refused.
//!
//! The window that stays: the descriptors of a file report a failure each on their own, so a commit that is under way on
//! one connection while a sync fails on another fails too. On a system that told only one of them, a commit that ends in
//! the microseconds between the failed call and [`Halt::failed_sync`] would be acknowledged.

use std::sync::{Arc, OnceLock};

use super::{error, identity::Files};
use crate::storage::{Error, Result};

/// Whether writing has stopped, and why. Shared by everything that works on the files of one database.
#[derive(Debug, Clone)]
pub(super) struct Halt {
    reason: Arc<OnceLock<String>>,
    on_failed_sync: fn(&str),
    files: Option<Arc<Files>>,
}

impl Halt {
    /// `files` are the database's.
    pub(super) fn new(on_failed_sync: fn(&str), files: Option<Files>) -> Self {
        Self { reason: Arc::default(), on_failed_sync, files: files.map(Arc::new) }
    }

    /// Looks whether the files are those that were opened, and stops all writing if not. A connection is only made after
    /// this: it would be one to another file, or with another log.
    pub(super) fn look(&self) {
        if let Some(reason) = self.files.as_ref().and_then(|files| files.changed())
            && self.reason.set(reason.clone()).is_ok()
        {
            tracing::error!(reason, "writing has stopped");
        }
    }

    /// Fails with [`Error::Stopped`] once writing has stopped.
    pub(super) fn check(&self) -> Result<()> {
        self.reason.get().map_or(Ok(()), |reason| Err(Error::Stopped(reason.clone())))
    }

    pub(super) fn is_halted(&self) -> bool {
        self.reason.get().is_some()
    }

    /// Stops all writing if this error tells of a failed sync.
    pub(super) fn notice(&self, error: &Error) {
        if let Error::Stopped(reason) = error
            && !self.is_halted()
        {
            self.failed_sync(reason);
        }
    }

    /// The same for an error as sqlx gives it.
    pub(super) fn notice_sqlx(&self, error: &sqlx::Error) {
        if error::is_failed_sync(error) {
            self.failed_sync(&error::failed_sync(error));
        }
    }

    /// Stops all writing. Where the server set a handler, it exits here.
    pub(super) fn failed_sync(&self, reason: &str) {
        // First this: until the process has ended, nothing is acknowledged.
        if self.reason.set(reason.into()).is_ok() {
            (self.on_failed_sync)(reason);
        }
    }
}

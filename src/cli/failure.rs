//! How a command fails: what it says, and its exit code.

use std::{fmt::Display, io::Write, path::Path};

use culm::{
    config::ConfigError,
    storage::{self, sqlite::OpenError},
};

pub(crate) const EXIT_CODES: &str = "Exit codes:
  0  all is well
  1  a check found something, or the command failed
  2  a flag, a variable or the configuration file is wrong
  3  the database is from a newer version, or another build, of culm
  4  the database belongs to another application
  5  the database is damaged
  6  the database cannot be written
  7  another culm has the database open, or another process has locked it
  8  the address is in use or cannot be listened on
  9  the disk did not confirm a write (a failed fsync): start again, nothing acknowledged is lost
  10  there is no room for a temporary copy of the search index
  11  the database's file is missing, was replaced, or has several names";

/// The exit code when the file is not the database that it should be.
pub(crate) const OTHER_FILE: u8 = 11;
/// The exit code after a failed sync.
const FAILED_SYNC: u8 = 9;

/// Ends the process after a failed sync, without closing a connection to the database.
pub(crate) fn exit_after_failed_sync(reason: &str) {
    const ADVICE: &str = "exiting at once; nothing that was acknowledged is lost. Check the disk, then start again";
    match tracing::dispatcher::has_been_set() {
        true => tracing::error!(reason, "{ADVICE}"),
        // Where nobody can read it, the exit code must do.
        false => drop(writeln!(std::io::stderr(), "culm: {reason}; {ADVICE}")),
    }
    std::process::exit(FAILED_SYNC.into());
}

/// A command that failed: what to say, and the exit code.
pub(crate) struct Failure(pub(crate) u8, pub(crate) String);

impl Failure {
    pub(crate) fn new(code: u8, reason: impl Display) -> Self {
        Self(code, reason.to_string())
    }

    /// A command that the storage failed under. Damage that shows only now is refused as damage found at the start is.
    pub(crate) fn of_storage(db: &Path, error: storage::Error) -> Self {
        match error {
            storage::Error::Damaged(reason) => OpenError::Damaged { path: db.into(), reason }.into(),
            error => Self::new(1, error),
        }
    }
}

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Self {
        let code = match &error {
            OpenError::Missing(_) => 1,
            OpenError::Newer { .. } | OpenError::OtherBuild { .. } => 3,
            OpenError::OtherApplication(_) => 4,
            OpenError::Damaged { .. } | OpenError::OldSqlite(_) => 5,
            OpenError::ReadOnly { .. } => 6,
            OpenError::Locked(_) | OpenError::Busy(_) => 7,
            OpenError::FailedSync { .. } => FAILED_SYNC,
            OpenError::NoRoom { .. } => 10,
            OpenError::Gone(_)
            | OpenError::OrphanedLog(_)
            | OpenError::OtherLog(_)
            | OpenError::ManyNames(_)
            | OpenError::DanglingLink { .. } => OTHER_FILE,
        };
        Self::new(code, error)
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::new(2, error)
    }
}

//! How a command fails: what it says, and its exit code.

use std::fmt::Display;

use culm::{config::ConfigError, storage::sqlite::OpenError};

pub(crate) const EXIT_CODES: &str = "Exit codes:
  0  all is well
  1  a check found something, or the command failed
  2  a flag, a variable or the configuration file is wrong
  3  the database is from a newer version of culm
  4  the database belongs to another application
  5  the database is damaged
  6  the database cannot be written
  7  another culm has the database open
  8  the address is in use or cannot be listened on";

/// A command that failed: what to say, and the exit code.
pub(crate) struct Failure(pub(crate) u8, pub(crate) String);

impl Failure {
    pub(crate) fn new(code: u8, reason: impl Display) -> Self {
        Self(code, reason.to_string())
    }
}

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Self {
        let code = match &error {
            OpenError::Missing(_) => 1,
            OpenError::Newer { .. } => 3,
            OpenError::OtherApplication(_) => 4,
            OpenError::Damaged { .. } | OpenError::OldSqlite(_) => 5,
            OpenError::ReadOnly { .. } => 6,
            OpenError::Locked(_) => 7,
        };
        Self::new(code, error)
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::new(2, error)
    }
}

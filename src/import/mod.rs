//! Imports: what brings the sessions of another system here, one module a foreign format.
//!
//! An import reads its source and never writes there. It keeps what it does not know in `extra`, reports what it
//! repairs, and goes on after whatever is wrong with one session; only a storage that fails ends it. It adds what is
//! new and changes nothing that is there, so that it can be run again at any time.

pub mod bamboo;
mod report;

use std::path::PathBuf;

pub use report::{Count, Finding, FindingKind, Report};

use crate::storage;

/// How to import.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Report what would be done, and change nothing.
    pub dry_run: bool,
}

/// Hears before each session is read how many were, and how many there are.
pub type Progress<'a> = &'a mut (dyn FnMut(u64, u64) + Send);

/// Why an import ended early. What was imported until then stays, and is passed over when it is run again.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The directory is no home of the kind that was asked for.
    #[error("{0} has neither a directory 'sessions' nor a file 'sessions.json'; name the home directory itself")]
    NotAHome(PathBuf),
    /// The directory cannot be read.
    #[error("{path} cannot be read: {error}")]
    Unreadable {
        /// The directory.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// Only a dry run does without a database.
    #[error("there is no database to import into")]
    NoStorage,
    /// The database failed.
    #[error("the import stopped at '{session}': {error}; what was imported before it is kept, so run it again")]
    Storage {
        /// The directory in the source of the session, or of the first of those that were to be saved together.
        session: String,
        /// What the storage says.
        error: storage::Error,
    },
}

//! Imports a Bamboo home: the layouts of 2026.5, 2026.6 and 2026.11.
//!
//! Two passes. The first walks the directories, compares them with the index, and keeps a few facts of each session:
//! its id, its parent, its place. The second imports the sessions, parents first, in batches of bounded size, so that
//! memory does not grow with the home: while one batch is saved, the next is read. A file is read where it is first
//! needed, so both passes block their thread: an import is alone in its process.

mod batch;
mod beside;
mod fields;
mod file;
mod message;
mod session;
mod store;
mod tree;
mod walk;

use std::path::Path;

use super::{ImportError, Options, Progress, Report};
use crate::{
    model::{JsonObject, SessionId, Timestamp},
    storage::Storage,
};
use batch::{Batch, Reader};
use store::Target;

/// What became of a session, for its children.
enum Outcome {
    /// It is in the storage, or would be.
    Here { id: SessionId, root: SessionId, depth: i64 },
    /// It was deleted here, and so was all below it.
    Deleted,
    /// It could not be imported.
    Missing,
}

/// Refuses a directory that is no Bamboo home, before anything is made for its sessions.
///
/// # Errors
/// When it holds neither sessions nor an index of them.
pub fn check(home: &Path) -> Result<(), ImportError> {
    walk::check(home)
}

/// Imports the home's sessions. Adds what is new, and changes nothing that is there; a dry run changes nothing at all
/// and needs no storage.
///
/// # Errors
/// When the directory is no home, and when the storage fails. What is wrong with one session is a finding.
pub async fn import(
    home: &Path,
    storage: Option<&dyn Storage>,
    options: Options,
    progress: Progress<'_>,
) -> Result<Report, ImportError> {
    if storage.is_none() && !options.dry_run {
        return Err(ImportError::NoStorage);
    }
    let mut report = Report { dry_run: options.dry_run, ..Report::default() };
    let found = walk::sessions(home, &mut report)?;
    let (nodes, order) = tree::placed(found, &mut report);
    let target = Target { storage, dry_run: options.dry_run };
    let mut reader = Reader::new(home, &nodes, order, target, progress);
    let mut outcomes: Vec<Option<Outcome>> = nodes.iter().map(|_| None).collect();
    let mut batch = Batch::default();
    loop {
        let (saved, next) = tokio::join!(batch::save(batch, target), reader.next_batch(&outcomes));
        for (index, outcome, part) in saved? {
            outcomes[index] = Some(outcome);
            report.absorb(part);
        }
        batch = next?;
        if batch.is_empty() && reader.is_done() {
            return Ok(report);
        }
    }
}

fn time_of(object: &JsonObject) -> Option<Timestamp> {
    object.get("created_at")?.as_str()?.parse::<Timestamp>().ok().filter(|time| time.0 > 0)
}

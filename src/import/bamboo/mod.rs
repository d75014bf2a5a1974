//! Imports a Bamboo home: the layouts of 2026.5, 2026.6 and 2026.11.
//!
//! Two passes. The first walks the directories, compares them with the index, and keeps a few facts of each session:
//! its id, its parent, its place. The second imports one session at a time, parents first, so that memory does not
//! grow with the home. A file is read where it is first needed, so both passes block their thread: an import is
//! alone in its process.

mod beside;
mod fields;
mod file;
mod message;
mod session;
mod store;
mod tree;
mod walk;

use std::path::Path;

use serde_json::Value;

use super::{FindingKind, ImportError, Options, Progress, Report};
use crate::{
    model::{JsonObject, Message, Session, SessionId, Timestamp},
    storage::{self, Storage},
};
use file::Place;
use store::{Standing, Target};
use tree::Node;

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
    let mut outcomes: Vec<Outcome> = nodes.iter().map(|_| Outcome::Missing).collect();
    for (done, index) in (0..).zip(order) {
        progress(done, nodes.len() as u64);
        let node = &nodes[index];
        let place = Place { home, path: &node.found.directory };
        let parent = node.parent.map(|parent| &outcomes[parent]);
        let outcome = Box::pin(one(place, node, parent, target, &mut report)).await;
        outcomes[index] = match outcome {
            Ok(outcome) => outcome,
            Err(error) if store::is_refusal(&error) => {
                report.add(FindingKind::Refused, place.shown(), error.to_string());
                report.sessions.skipped += 1;
                Outcome::Missing
            }
            Err(error) => return Err(ImportError::Storage { session: place.shown(), error }),
        };
    }
    Ok(report)
}

/// Imports one session.
async fn one(
    place: Place<'_>,
    node: &Node,
    parent: Option<&Outcome>,
    target: Target<'_>,
    report: &mut Report,
) -> storage::Result<Outcome> {
    let Some(source) = session::read(place, report) else {
        report.sessions.skipped += 1;
        return Ok(Outcome::Missing);
    };
    let path = place.shown();
    let created_at = time_of(&source.fields);
    let (id, standing) = stand(node, created_at, target, report).await?;
    if matches!(standing, Standing::Deleted) || matches!(parent, Some(Outcome::Deleted)) {
        report.add(FindingKind::Deleted, path, format!("'{id}', or a session above it, was deleted here and stays so"));
        report.sessions.skipped += 1;
        return Ok(Outcome::Deleted);
    }
    let first = source.messages.iter().filter_map(Value::as_object).find_map(time_of);
    let mut session = session::session(source.fields, id, first.unwrap_or(source.modified), &path, report);
    let found = message::messages(source.messages, &session, &path, report);
    report.messages.skipped += found.skipped;
    if !found.others.is_empty() {
        session.extra.insert("messages".into(), found.others.into());
    }
    let above = above(node, parent, report);
    session::place(&mut session, node, above);
    let outcome = save(session, found.messages, standing, target, report).await?;
    if let Outcome::Here { id, .. } = &outcome {
        beside::attachments(place, id, target, report).await?;
        beside::usage(place, id, target, report).await?;
    }
    Ok(outcome)
}

fn time_of(object: &JsonObject) -> Option<Timestamp> {
    object.get("created_at")?.as_str()?.parse::<Timestamp>().ok().filter(|time| time.0 > 0)
}

/// The session's id, and what it is in the storage. One that is in use there by a session of another birth is
/// replaced: nobody's sessions are mixed.
async fn stand(
    node: &Node,
    created_at: Option<Timestamp>,
    target: Target<'_>,
    report: &mut Report,
) -> storage::Result<(SessionId, Standing)> {
    let standing = target.standing(&node.id).await?;
    match (&standing, created_at) {
        (Standing::Here(stored), Some(created_at)) if stored.created_at != created_at => {
            let id = SessionId::stored(tree::derived(&["session", node.id.as_str(), &created_at.to_string()]));
            let text = format!("'{}' is the id of another session here; it becomes '{id}'", node.id);
            report.add(FindingKind::DuplicateId, node.found.directory.display().to_string(), text);
            let standing = target.standing(&id).await?;
            Ok((id, standing))
        }
        _ => Ok((node.id.clone(), standing)),
    }
}

/// The session above: its id, its root and its depth.
fn above(node: &Node, parent: Option<&Outcome>, report: &mut Report) -> Option<(SessionId, SessionId, i64)> {
    match parent? {
        Outcome::Here { id, root, depth } => Some((id.clone(), root.clone(), *depth)),
        Outcome::Deleted | Outcome::Missing => {
            let wanted = node.found.parent.as_deref().unwrap_or(&node.found.tree);
            let text = format!("its parent '{wanted}' could not be imported; it becomes a root");
            report.add(FindingKind::DanglingParent, node.found.directory.display().to_string(), text);
            None
        }
    }
}

async fn save(
    session: Session,
    messages: Vec<Message>,
    standing: Standing,
    target: Target<'_>,
    report: &mut Report,
) -> storage::Result<Outcome> {
    let count = messages.len() as u64;
    let row = match &standing {
        Standing::Here(stored) => stored.as_ref(),
        _ => &session,
    };
    let (id, root, depth) = (row.id.clone(), row.root_session_id.clone(), row.spawn_depth);
    let added = match standing {
        Standing::Here(_) => {
            let added = target.add_new(&id, messages).await?;
            report.sessions.present += 1;
            added
        }
        _ => {
            target.create(session, messages).await?;
            report.sessions.added += 1;
            count
        }
    };
    report.messages.added += added;
    report.messages.present += count - added;
    Ok(Outcome::Here { id, root, depth })
}

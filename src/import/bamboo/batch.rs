//! Batches: sessions that are read one after the other, and saved together.
//!
//! **A parent is saved before its child is read**: what a child becomes depends on what became of its parent.

use std::{iter::Peekable, path::Path, vec::IntoIter};

use serde_json::Value;

use super::{
    Outcome, beside,
    file::Place,
    message, session,
    store::{self, Target},
    time_of,
    tree::{self, Node},
};
use crate::{
    import::{FindingKind, ImportError, Progress, Report},
    model::{Message, Session, SessionId, SessionSave, Timestamp},
    storage::{Error, Result},
};

/// Bytes of files at which a batch is full. One is read while another is written, in several forms at once: an import takes
/// 160 MiB of memory with these, and 210 with twice as many.
const BYTES: usize = 4 << 20;
/// Sessions of a batch at most, when they are small.
const SESSIONS: usize = 1000;

/// Reads the sessions of a home in their order.
pub(super) struct Reader<'a> {
    home: &'a Path,
    nodes: &'a [Node],
    order: Peekable<IntoIter<usize>>,
    target: Target<'a>,
    progress: Progress<'a>,
}

/// Sessions that were read: what creates the new ones among them, and what is to do then.
#[derive(Default)]
pub(super) struct Batch<'a> {
    saves: Vec<SessionSave>,
    sessions: Vec<Ready<'a>>,
}

impl Batch<'_> {
    pub(super) fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }
}

/// A session that was read, and what is still to do for it.
struct Ready<'a> {
    index: usize,
    place: Place<'a>,
    report: Report,
    size: usize,
    step: Step,
}

enum Step {
    /// This became of it.
    Nothing(Outcome),
    /// It is created; what is left of its messages is to be added. The report holds if it was not deleted here.
    Create { left: Vec<Vec<Message>>, count: u64, report: Report },
    /// To add to one that is here what is new.
    Add { stored: Box<Session>, messages: Vec<Message> },
}

impl<'a> Reader<'a> {
    pub(super) fn new(
        home: &'a Path,
        nodes: &'a [Node],
        order: Vec<usize>,
        target: Target<'a>,
        progress: Progress<'a>,
    ) -> Self {
        Self { home, nodes, order: order.into_iter().peekable(), target, progress }
    }

    pub(super) fn is_done(&mut self) -> bool {
        self.order.peek().is_none()
    }

    /// The next sessions: up to so many bytes, and up to one whose parent's outcome is not known yet.
    pub(super) async fn next_batch(
        &mut self,
        outcomes: &[Option<Outcome>],
    ) -> std::result::Result<Batch<'a>, ImportError> {
        let (mut batch, mut size) = (Batch::default(), 0);
        let is_known = |index: &usize| self.nodes[*index].parent.is_none_or(|parent| outcomes[parent].is_some());
        while size < BYTES
            && batch.sessions.len() < SESSIONS
            && let Some(index) = self.order.next_if(is_known)
        {
            let node = &self.nodes[index];
            (self.progress)((self.nodes.len() - self.order.len() - 1) as u64, self.nodes.len() as u64);
            let place = Place { home: self.home, path: &node.found.directory };
            let parent = node.parent.and_then(|parent| outcomes[parent].as_ref());
            let mut ready =
                Ready { index, place, report: Report::default(), size: 0, step: Step::Nothing(Outcome::Missing) };
            let save = Box::pin(ready.read(node, parent, self.target)).await.map_err(|error| failed(place, error))?;
            size += ready.size;
            batch.saves.extend(save);
            batch.sessions.push(ready);
        }
        Ok(batch)
    }
}

fn failed(place: Place<'_>, error: Error) -> ImportError {
    ImportError::Storage { session: place.shown(), error }
}

impl Ready<'_> {
    /// Reads the session; what creates it, if it is new.
    async fn read(&mut self, node: &Node, parent: Option<&Outcome>, target: Target<'_>) -> Result<Option<SessionSave>> {
        let Some(source) = session::read(self.place, &mut self.report) else {
            self.report.sessions.skipped += 1;
            return Ok(None);
        };
        self.size = source.size;
        let (id, stored) = stored(node, time_of(&source.fields), target, &mut self.report).await?;
        if matches!(parent, Some(Outcome::Deleted)) {
            self.deleted(&id);
            return Ok(None);
        }
        let mut report = Report::default();
        let (session, messages) = whole(source, id, node, parent, &self.place.shown(), &mut report);
        if let Some(stored) = stored {
            self.report.absorb(report);
            self.step = Step::Add { stored: Box::new(stored), messages };
            return Ok(None);
        }
        let count = messages.len() as u64;
        let (save, left) = store::creation(session, messages);
        self.step = Step::Create { left, count, report };
        Ok(Some(save))
    }

    fn deleted(&mut self, id: &SessionId) {
        let text = format!("'{id}', or a session above it, was deleted here and stays so");
        self.report.add(FindingKind::Deleted, self.place.shown(), text);
        self.report.sessions.skipped += 1;
        self.step = Step::Nothing(Outcome::Deleted);
    }
}

/// The session's id, and what is in the storage under it. An id that is in use there by a session of another birth is
/// replaced: nobody's sessions are mixed.
async fn stored(
    node: &Node,
    created_at: Option<Timestamp>,
    target: Target<'_>,
    report: &mut Report,
) -> Result<(SessionId, Option<Session>)> {
    let stored = target.session(&node.id).await?;
    match (&stored, created_at) {
        (Some(other), Some(created_at)) if other.created_at != created_at => {
            let id = SessionId::stored(tree::derived(&["session", node.id.as_str(), &created_at.to_string()]));
            let text = format!("'{}' is the id of another session here; it becomes '{id}'", node.id);
            report.add(FindingKind::DuplicateId, node.found.directory.display().to_string(), text);
            let stored = target.session(&id).await?;
            Ok((id, stored))
        }
        _ => Ok((node.id.clone(), stored)),
    }
}

/// The session as it is to be here, and its messages.
fn whole(
    source: session::Source,
    id: SessionId,
    node: &Node,
    parent: Option<&Outcome>,
    path: &str,
    report: &mut Report,
) -> (Session, Vec<Message>) {
    let first = source.messages.iter().filter_map(Value::as_object).find_map(time_of);
    let mut session = session::session(source.fields, id, first.unwrap_or(source.modified), path, report);
    let found = message::messages(source.messages, &session, path, report);
    report.messages.skipped += found.skipped;
    if !found.others.is_empty() {
        session.extra.insert("messages", &found.others);
    }
    session::place(&mut session, node, above(node, parent, report));
    (session, found.messages)
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

/// Saves a batch: new sessions together, then what each still lacks. What became of each, and the report of it.
pub(super) async fn save(
    batch: Batch<'_>,
    target: Target<'_>,
) -> std::result::Result<Vec<(usize, Outcome, Report)>, ImportError> {
    let Some(first) = batch.sessions.first().map(|ready| ready.place) else { return Ok(Vec::new()) };
    let mut created = target.create(batch.saves).await.map_err(|error| failed(first, error))?.into_iter();
    let mut done = Vec::with_capacity(batch.sessions.len());
    for mut ready in batch.sessions {
        let outcome = Box::pin(ready.finish(&mut created, target)).await;
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(error) if store::is_refusal(&error) => {
                ready.report.add(FindingKind::Refused, ready.place.shown(), error.to_string());
                ready.report.sessions.skipped += 1;
                Outcome::Missing
            }
            Err(error) => return Err(failed(ready.place, error)),
        };
        done.push((ready.index, outcome, ready.report));
    }
    Ok(done)
}

impl Ready<'_> {
    /// Does what is still to do. `created` has what became of each new session, in their order.
    async fn finish(
        &mut self,
        created: &mut impl Iterator<Item = Result<Session>>,
        target: Target<'_>,
    ) -> Result<Outcome> {
        let row = match std::mem::replace(&mut self.step, Step::Nothing(Outcome::Missing)) {
            Step::Nothing(outcome) => return Ok(outcome),
            Step::Create { left, count, report } => match created.next() {
                Some(Err(Error::SessionDeleted(id))) => {
                    self.deleted(&id);
                    return Ok(Outcome::Deleted);
                }
                created => {
                    self.report.absorb(report);
                    let row = created.unwrap_or_else(|| Err(Error::Failed("a session was not saved".into())))?;
                    self.report.sessions.added += 1;
                    target.add_slices(row.clone(), left).await?;
                    self.report.messages.added += count;
                    row
                }
            },
            Step::Add { stored, messages } => {
                let count = messages.len() as u64;
                let added = target.add_new(&stored.id, messages).await?;
                self.report.sessions.present += 1;
                self.report.messages.added += added;
                self.report.messages.present += count - added;
                *stored
            }
        };
        beside::attachments(self.place, &row.id, target, &mut self.report).await?;
        beside::usage(self.place, &row.id, target, &mut self.report).await?;
        Ok(Outcome::Here { id: row.id, root: row.root_session_id, depth: row.spawn_depth })
    }
}

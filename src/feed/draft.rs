//! A message that is being written. Its run makes it longer, and the feed tells what is new; who comes in the middle is
//! shown what was told so far. In memory alone: it ends with its run.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::Place;
use crate::model::{MessageId, RunId};

/// Bytes that are told at once at most: what waits for a slow subscriber is small.
const PIECE: usize = 16 << 10;

/// The messages that are being written, by their runs.
#[derive(Debug, Clone, Default)]
pub(super) struct Drafts(Arc<Mutex<HashMap<RunId, Shared>>>);

type Shared = Arc<Mutex<Written>>;

/// What a run has written of its message. It is shown until this is dropped.
#[derive(Debug)]
pub struct Draft {
    drafts: Drafts,
    written: Shared,
}

/// A message so far.
#[derive(Debug)]
pub(super) struct Written {
    pub(super) place: Place,
    pub(super) run_id: RunId,
    pub(super) message_id: MessageId,
    pub(super) text: Told,
    pub(super) reasoning: Told,
}

/// A text, and how much of it was told.
#[derive(Debug, Default)]
pub(super) struct Told {
    text: String,
    told: usize,
}

impl Drafts {
    pub(super) fn begin(&self, place: Place, run_id: RunId) -> Draft {
        let (text, reasoning) = (Told::default(), Told::default());
        let written = Written { place, run_id: run_id.clone(), message_id: MessageId::mint(), text, reasoning };
        let written = Arc::new(Mutex::new(written));
        locked(&self.0).insert(run_id, written.clone());
        Draft { drafts: self.clone(), written }
    }

    pub(super) fn all(&self) -> Vec<Shared> {
        locked(&self.0).values().cloned().collect()
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        locked(&self.drafts.0).remove(&self.written().run_id);
    }
}

impl Draft {
    /// Makes it longer.
    pub fn grow(&self, text: &str, reasoning: &str) {
        let mut written = self.written();
        written.text.text.push_str(text);
        written.reasoning.text.push_str(reasoning);
    }

    /// Bytes of text and reasoning.
    pub fn bytes(&self) -> usize {
        let written = self.written();
        written.text.text.len() + written.reasoning.text.len()
    }

    /// Takes it as it is, under its id; the next message begins.
    pub fn take(&self) -> (MessageId, String, String) {
        let mut written = self.written();
        let id = std::mem::replace(&mut written.message_id, MessageId::mint());
        let (text, reasoning) = (std::mem::take(&mut written.text), std::mem::take(&mut written.reasoning));
        (id, text.text, reasoning.text)
    }

    pub(super) fn written(&self) -> MutexGuard<'_, Written> {
        locked(&self.written)
    }
}

impl Told {
    /// Where the next piece begins, and the piece. None when all was told.
    pub(super) fn next(&self) -> Option<(usize, &str)> {
        let rest = &self.text[self.told..];
        let piece = &rest[..rest.floor_char_boundary(PIECE)];
        (!piece.is_empty()).then_some((self.told, piece))
    }

    /// The next piece was told.
    pub(super) fn pass(&mut self) {
        self.told += self.next().map_or(0, |(_, piece)| piece.len());
    }

    /// Bytes that were told.
    pub(super) fn told(&self) -> usize {
        self.told
    }

    /// The end of what was told, of about this many bytes, and where it begins.
    pub(super) fn ending(&self, bytes: usize) -> (usize, &str) {
        let told = &self.text[..self.told];
        let from = told.ceil_char_boundary(told.len().saturating_sub(bytes));
        (from, &told[from..])
    }
}

/// A panic under this lock leaves nothing half done that a later reader could not bear.
pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

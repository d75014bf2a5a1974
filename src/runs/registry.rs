//! The runs that are under way in this process: a machine free of I/O.
//!
//! An entry is made before a run's executor is asked anything, and removed by the run's own end alone, never by
//! whoever cancels: so an entry means that something still works.

use std::collections::{HashMap, HashSet};

use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::model::{Message, RunId};

/// One run that is under way.
#[derive(Debug)]
struct Live {
    cancel: CancellationToken,
    ended: watch::Sender<bool>,
    answer: Option<oneshot::Sender<Message>>,
}

/// The runs that are under way.
#[derive(Debug, Default)]
pub struct Registry {
    live: HashMap<RunId, Live>,
    /// Runs that were taken and then cancelled before they entered.
    unwanted: HashSet<RunId>,
}

impl Registry {
    /// A run begins. Its token is cancelled already when somebody wanted it to stop before.
    pub fn enter(&mut self, run: &RunId) -> CancellationToken {
        let cancel = CancellationToken::new();
        if self.unwanted.remove(run) {
            cancel.cancel();
        }
        let live = Live { cancel: cancel.clone(), ended: watch::Sender::new(false), answer: None };
        self.live.insert(run.clone(), live);
        cancel
    }

    /// A run is to stop; what is given waits for its end. None when it is not under way. `taken` says that it was
    /// taken from the queue and has not ended: then it stops as soon as it enters.
    pub fn cancel(&mut self, run: &RunId, taken: bool) -> Option<watch::Receiver<bool>> {
        match self.live.get(run) {
            Some(live) => {
                live.cancel.cancel();
                Some(live.ended.subscribe())
            }
            None => {
                if taken {
                    self.unwanted.insert(run.clone());
                }
                None
            }
        }
    }

    /// A run asks, and waits here for the answer.
    pub fn ask(&mut self, run: &RunId, answer: oneshot::Sender<Message>) {
        if let Some(live) = self.live.get_mut(run) {
            live.answer = Some(answer);
        }
    }

    /// Where the answer to a run's question goes.
    pub fn answer(&mut self, run: &RunId) -> Option<oneshot::Sender<Message>> {
        self.live.get_mut(run).and_then(|live| live.answer.take())
    }

    /// A run that was not under way when it was cancelled has ended: there is nothing to stop any more.
    pub fn forget(&mut self, run: &RunId) {
        self.unwanted.remove(run);
    }

    /// A run has ended, also in the database.
    pub fn end(&mut self, run: &RunId) {
        self.unwanted.remove(run);
        if let Some(live) = self.live.remove(run) {
            live.ended.send_replace(true);
        }
    }

    /// All that is under way is to stop; what is given waits for each one's end.
    pub fn cancel_all(&self) -> Vec<watch::Receiver<bool>> {
        let stopped = self.live.values().inspect(|live| live.cancel.cancel());
        stopped.map(|live| live.ended.subscribe()).collect()
    }

    /// Those that are under way.
    pub fn ids(&self) -> Vec<RunId> {
        self.live.keys().cloned().collect()
    }

    /// How many are under way.
    pub fn len(&self) -> usize {
        self.live.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.live.is_empty()
    }
}

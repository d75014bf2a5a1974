//! Runs that take the place of others: any number at once, one after the other.
//!
//! **Whoever interrupts has a turn.** Those that interrupt one session queue up here, so that none of them finds the run of
//! another in its way. A run that is started otherwise, in between, is cancelled as well.

use std::{
    collections::HashMap,
    future::Future,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use super::{Error, Runs};
use crate::{
    model::SessionId,
    storage::{self, Storage},
};

/// How often another run may be started in between before the caller is told of it.
const TRIES: usize = 10;

/// The queues of sessions that somebody interrupts.
#[derive(Debug, Default)]
pub(super) struct Interrupts(Mutex<HashMap<SessionId, Weak<tokio::sync::Mutex<()>>>>);

impl Interrupts {
    /// The queue of a session. It is forgotten when nobody is in it.
    fn queue(&self, session: &SessionId) -> Arc<tokio::sync::Mutex<()>> {
        let mut queues = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        queues.retain(|_, queue| queue.strong_count() > 0);
        let queue = queues.get(session).and_then(Weak::upgrade).unwrap_or_default();
        queues.insert(session.clone(), Arc::downgrade(&queue));
        queue
    }
}

impl Runs {
    /// Cancels what runs in a session, and then writes what needs the session idle. Fails with [`Error::Displaced`] when a
    /// run cannot be stopped, or others are started all the time.
    pub async fn interrupting<T, F>(&self, session: &SessionId, write: impl Fn() -> F + Send) -> Result<T, Error>
    where
        F: Future<Output = storage::Result<T>> + Send,
    {
        let queue = self.0.interrupts.queue(session);
        let _turn = queue.lock().await;
        let mut before = None;
        for _ in 0..TRIES {
            self.cancel_session(session, false).await?;
            match write().await {
                Err(storage::Error::SessionBusy(_)) => {}
                outcome => return Ok(outcome?),
            }
            let active = self.0.repository.active_runs(session, false).await?.pop().map(|run| run.id);
            // The same one again: it did not stop within its bound.
            if active.is_some() && active == before {
                break;
            }
            before = active.or(before);
        }
        Err(match before {
            Some(run) => Error::Displaced { session: session.clone(), run },
            None => storage::Error::SessionBusy(session.clone()).into(),
        })
    }
}

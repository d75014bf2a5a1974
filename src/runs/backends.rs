//! What executors keep warm, seen from outside of their runs: what a dead process left is ended at start, and what is
//! closed or deleted is ended within a bound.

use std::panic::AssertUnwindSafe;

use futures_util::{FutureExt, future};

use super::Runs;
use crate::{
    executor::{Error, process},
    model::{AgentSession, BackendFilter, BackendState, BackendStatus, Teardown},
    repository::SessionRepository,
    storage::{self, Storage},
};

/// Backends that are ended at one time at start.
const PAGE: i64 = 50;

/// Ends what another process of the server has left warm. What cannot be ended keeps its row, and is a job.
pub(super) async fn settle(repository: &SessionRepository) -> storage::Result<()> {
    let left = BackendFilter { status: Some(BackendStatus::Warm), ..BackendFilter::default() };
    let mut after = None;
    loop {
        let page = repository.agent_sessions(&left, after, PAGE).await?;
        let reaped = future::join_all(page.items.iter().map(process::reap)).await;
        for (backend, reaped) in page.items.iter().zip(reaped) {
            match reaped {
                Ok(()) => gone(repository, backend).await?,
                Err(error) => leave(repository, backend, &error).await?,
            }
        }
        match page.next {
            Some(next) => after = Some(next),
            None => return Ok(()),
        }
    }
}

async fn leave(repository: &SessionRepository, backend: &AgentSession, error: &Error) -> storage::Result<()> {
    tracing::error!(%error, backend = %backend.id, "a process that was left is still there; it is tried again");
    // Its session may have been deleted in a shell, and then there is a job already.
    let Some(session) = repository.session(&backend.session_id).await? else { return Ok(()) };
    let (backend, root) = (backend.clone(), session.root_session_id);
    let work = Teardown::Backend { backend, root, purge: false, left: true };
    repository.leave_teardown(work, error.to_string()).await
}

async fn gone(repository: &SessionRepository, backend: &AgentSession) -> storage::Result<()> {
    match Storage::update_agent_session(repository, &backend.id, BackendState::Dormant).await {
        Err(storage::Error::BackendNotFound(_)) => Ok(()),
        outcome => outcome,
    }
}

impl Runs {
    /// Ends what is kept warm for a session, within a bound. An executor that panics has failed. Of one that is not
    /// configured any more, the processes are ended, and the home is removed all the same.
    pub async fn dispose(&self, backend: &AgentSession, purge: bool) -> Result<(), Error> {
        let disposal = async {
            match self.0.executors.get(&backend.executor) {
                Some(executor) => executor.dispose(backend, purge).await,
                None if purge => process::purge(backend, &self.0.options.homes).await,
                None => process::reap(backend).await,
            }
        };
        let disposal = AssertUnwindSafe(disposal).catch_unwind();
        match tokio::time::timeout(self.0.options.dispose, disposal).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(Error::Failed("the executor broke down".into())),
            Err(_) => Err(Error::Timeout("it has not ended in time".into())),
        }
    }
}

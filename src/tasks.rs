//! The only place that spawns. Every task is tracked, so that a shutdown can wait for it.

use std::future::Future;

use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

/// Tasks that a server waits for before it ends.
#[derive(Debug, Clone, Default)]
pub struct Tasks(TaskTracker);

impl Tasks {
    /// Runs a task of the server's own.
    pub fn spawn<F>(&self, task: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.0.spawn(task)
    }

    /// Runs to its end even when its caller is gone: axum drops a handler's future with its client, and what follows
    /// a commit must not be lost with it.
    ///
    /// # Panics
    /// When the task does.
    pub async fn detached<F>(&self, task: F) -> F::Output
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        match self.0.spawn(task).await {
            Ok(output) => output,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // Nothing aborts a detached task but the end of the runtime, which ends the waiter first.
                Err(_) => std::future::pending().await,
            },
        }
    }

    /// Waits until every task has ended.
    pub async fn finish(&self) {
        self.0.close();
        self.0.wait().await;
    }
}

/// Runs the one task of something that owns and awaits it itself, such as the writer of a database.
pub fn owned<F>(task: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    tokio::spawn(task)
}

/// Does work that waits for the file system, or takes long, where it holds up no other task.
///
/// # Panics
/// When the work does.
pub async fn blocking<F, T>(work: F) -> T
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(output) => output,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Only the end of the runtime cancels it, which ends the waiter first.
            Err(_) => std::future::pending().await,
        },
    }
}

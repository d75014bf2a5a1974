//! The only place that spawns. Every task is tracked, so that a shutdown can wait for it.

use std::future::Future;

use tokio::{
    runtime::{Handle, RuntimeFlavor},
    sync::Mutex,
    task::JoinHandle,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Bytes of JSON that take milliseconds, where a request takes microseconds otherwise.
const MUCH_JSON: usize = 1 << 20;

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

/// Runs a task that somebody else waits for, or nobody.
pub fn owned<F>(task: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    tokio::spawn(task)
}

/// A task that works until it is told to end, such as the writer of a database.
#[derive(Debug)]
pub struct Worker {
    name: &'static str,
    task: Mutex<Option<JoinHandle<()>>>,
    closing: CancellationToken,
}

impl Worker {
    /// Starts it. The token tells it to end.
    pub fn start<F>(name: &'static str, work: impl FnOnce(CancellationToken) -> F) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let closing = CancellationToken::new();
        let task = owned(work(closing.clone()));
        Self { name, task: Some(task).into(), closing }
    }

    /// Whether it was told to end.
    pub fn is_closing(&self) -> bool {
        self.closing.is_cancelled()
    }

    /// Tells it to end, and waits until it has.
    pub async fn close(&self) {
        self.closing.cancel();
        if let Some(task) = self.task.lock().await.take()
            && let Err(error) = task.await
        {
            tracing::error!(%error, task = self.name, "a task ended badly");
        }
    }

    /// Ends it where it is, as a panic would.
    #[cfg(test)]
    pub(crate) async fn abort(&self) {
        if let Some(task) = self.task.lock().await.as_ref() {
            task.abort();
        }
    }
}

/// Reads or writes JSON of about this many bytes. Where they are many, what else this thread had to do goes on meanwhile on
/// another, unless the runtime has but one.
pub fn on_json<T>(bytes: usize, work: impl FnOnce() -> T) -> T {
    let runtime = Handle::try_current().ok().filter(|_| bytes >= MUCH_JSON);
    match runtime.map(|runtime| runtime.runtime_flavor()) {
        Some(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        _ => work(),
    }
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

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, time::Duration};

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn the_only_worker_does_other_things_beside_much_json() {
        let heard = owned(async {
            let (say, hear) = mpsc::channel();
            let other = owned(async move { say.send(()) });
            let heard = on_json(MUCH_JSON, || hear.recv_timeout(Duration::from_secs(60)));
            other.await.unwrap().unwrap();
            heard
        });
        assert_eq!(heard.await.unwrap(), Ok(()));
    }
}

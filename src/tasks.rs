//! The only place that spawns. Every task is tracked, so that a shutdown can wait for it.

use std::{
    any::Any,
    future::Future,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, OnceLock, mpsc},
    thread,
};

use tokio::{
    runtime::Handle,
    sync::{Mutex, oneshot},
    task::JoinHandle,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Bytes whose reading, writing, hashing or coding takes a millisecond, where a request takes microseconds otherwise. A
/// hand-over to another thread takes microseconds, too.
const MUCH: usize = 256 << 10;

/// Something that work holds until it has ended, wherever it is done.
type Held = Arc<dyn Any + Send + Sync>;

tokio::task_local! {
    static HELD: Held;
}

/// Work that holds something: so does what it hands over to [`Tasks::detached`] and [`blocking`], until that has ended.
pub async fn holding<F: Future>(held: Held, work: F) -> F::Output {
    HELD.scope(held, work).await
}

fn held() -> Option<Held> {
    HELD.try_with(Clone::clone).ok()
}

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
        let held = held();
        let task = async move {
            match held {
                Some(held) => holding(held, task).await,
                None => task.await,
            }
        };
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

/// Reads, writes, hashes or codes about this many bytes: here where they are few, and from 256 KiB on where it holds up
/// no other task.
///
/// # Panics
/// When the work does.
pub async fn on_bytes<F, T>(bytes: usize, work: F) -> T
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    match bytes < MUCH {
        true => work(),
        false => blocking(work).await,
    }
}

/// Does work that waits for the file system, or takes long, where it holds up no other task. The threads of this pool end
/// when they are idle: processes that must outlive that are started by [`starting`].
///
/// # Panics
/// When the work does.
pub async fn blocking<F, T>(work: F) -> T
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    let held = held();
    let work = move || {
        let _held = held;
        work()
    };
    match tokio::task::spawn_blocking(work).await {
        Ok(output) => output,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Only the end of the runtime cancels it, which ends the waiter first.
            Err(_) => std::future::pending().await,
        },
    }
}

/// Starts a process, within the runtime, on a thread that ends with this process and not before: Linux tells a process of
/// the end of the *thread* that started it, and a thread of a pool, or a worker of a runtime, may end at any time.
pub async fn starting<F, T>(start: F) -> io::Result<T>
where
    F: FnOnce() -> io::Result<T> + Send + 'static,
    T: Send + 'static,
{
    let ended = || io::Error::other("the thread that starts processes is not there");
    let (started, runtime) = (starter().ok_or_else(ended)?, Handle::current());
    let (answer, answered) = oneshot::channel();
    let work = move || {
        let _within = runtime.enter();
        // When nobody waits any more, what was started is dropped here.
        let _ = answer.send(start());
    };
    started.send(Box::new(work)).map_err(|_| ended())?;
    answered.await.map_err(|_| io::Error::other("starting a process broke down"))?
}

type Start = Box<dyn FnOnce() + Send>;

/// The thread that starts processes, named [`STARTER`].
fn starter() -> Option<&'static mpsc::Sender<Start>> {
    static SENDER: OnceLock<Option<mpsc::Sender<Start>>> = OnceLock::new();
    let make = || {
        let (sender, starts) = mpsc::channel::<Start>();
        let work = move || {
            for start in starts {
                // One that panics must not end the thread, and all that it has started with it.
                let _ = catch_unwind(AssertUnwindSafe(start));
            }
        };
        thread::Builder::new().name(STARTER.into()).spawn(work).ok().map(|_| sender)
    };
    SENDER.get_or_init(make).as_ref()
}

/// The name of the thread that starts processes.
pub const STARTER: &str = "culm-starter";

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn the_only_worker_does_other_things_beside_many_bytes() {
        let heard = owned(async {
            let (say, hear) = mpsc::channel();
            let other = owned(async move { say.send(()) });
            let heard = on_bytes(MUCH, move || hear.recv_timeout(Duration::from_secs(60))).await;
            other.await.unwrap().unwrap();
            heard
        });
        assert_eq!(heard.await.unwrap(), Ok(()));
    }

    #[tokio::test]
    async fn few_bytes_are_worked_on_where_they_are() {
        let here = std::thread::current().id();
        assert_eq!(on_bytes(MUCH - 1, || std::thread::current().id()).await, here);
        assert_ne!(on_bytes(MUCH, || std::thread::current().id()).await, here);
    }

    #[tokio::test]
    async fn one_thread_starts_all_processes_whatever_becomes_of_one() {
        let name = || Ok(thread::current().name().map(String::from));
        assert_eq!(starting(name).await.unwrap().as_deref(), Some(STARTER));
        let first = starting(|| Ok(thread::current().id())).await.unwrap();
        assert!(starting(|| -> io::Result<()> { panic!("on purpose") }).await.is_err());
        assert_eq!(starting(|| Ok(thread::current().id())).await.unwrap(), first);
    }
}

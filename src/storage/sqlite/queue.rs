//! The writer's queue: the end that callers hold.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::{FutureExt, future::BoxFuture};
use tokio::sync::{mpsc, oneshot, watch};

use super::{
    append, checkpoint,
    halt::Halt,
    probe::{self, LastWrite, Probe},
    transaction::{Call, Job, Work},
};
use crate::{
    model::Appended,
    storage::{Error, Result},
    tasks::Worker,
};

/// Jobs that wait at most; more are refused after [`PATIENCE`].
pub(super) const QUEUE: usize = 1024;
/// How long a job waits for its place in the queue, and a transaction for another process that holds the lock.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

pub(super) struct Append {
    pub(super) input: append::Append,
    pub(super) reply: oneshot::Sender<Result<Appended>>,
}

/// A command and when it was given.
pub(super) type Queued = (Instant, Command);

pub(super) enum Command {
    /// Appends are written together, by a number of statements that does not grow with theirs.
    Append(Append),
    Call(Box<dyn Job>),
    /// What counts for nothing until a later call, which alone waits for the disk.
    Prepare(Box<dyn Job>),
}

impl Command {
    /// Whether it frees space or ends what runs.
    pub(super) fn is_for_full_disk(&self) -> bool {
        match self {
            Self::Append(_) => false,
            Self::Call(job) | Self::Prepare(job) => job.is_for_full_disk(),
        }
    }

    pub(super) fn refuse(self, error: Error) {
        match self {
            // Nobody waits any more: nothing is done all the same.
            Self::Append(append) => drop(append.reply.send(Err(error))),
            Self::Call(job) | Self::Prepare(job) => job.answer(Err(error)),
        }
    }
}

/// The queue's end that callers hold.
pub(super) struct Writer {
    pub(super) queue: mpsc::Sender<Queued>,
    pub(super) foreign: watch::Receiver<u64>,
    pub(super) last_event: watch::Receiver<i64>,
    /// The write-ahead log's file.
    pub(super) wal: PathBuf,
    pub(super) halt: Halt,
    pub(super) worker: Worker,
    /// Whether only what frees space or ends what runs is taken.
    pub(super) full: Arc<AtomicBool>,
    pub(super) last_write: LastWrite,
    pub(super) probe: Probe,
}

impl Writer {
    pub(super) fn foreign_commits(&self) -> watch::Receiver<u64> {
        self.foreign.clone()
    }

    pub(super) fn last_event(&self) -> watch::Receiver<i64> {
        self.last_event.clone()
    }

    /// Runs a job in a transaction and gives its output after the commit.
    pub(super) async fn call<I: Send + Sync + 'static, T: Send + 'static>(
        &self,
        input: I,
        work: Work<I, T>,
    ) -> Result<T> {
        self.ask(Command::Call, false, input, work).await
    }

    /// The same for what frees space or ends what runs: a full disk takes it, too.
    pub(super) async fn call_when_full<I: Send + Sync + 'static, T: Send + 'static>(
        &self,
        input: I,
        work: Work<I, T>,
    ) -> Result<T> {
        self.ask(Command::Call, true, input, work).await
    }

    /// Whether an ordinary write would be taken.
    pub(super) async fn check(&self) -> Result<()> {
        self.halt.check()?;
        if self.worker.is_closing() || self.queue.is_closed() {
            return Err(self.gone());
        }
        if self.full.load(Ordering::Relaxed) {
            return Err(Error::Full);
        }
        self.probe.outcome(&self.last_write, || self.write_nothing_new()).await
    }

    fn write_nothing_new(&self) -> BoxFuture<'static, Result<()>> {
        let queue = self.queue.clone();
        let written = async move {
            let (reply, answer) = oneshot::channel();
            let work: Work<(), ()> = |conn, ()| Box::pin(probe::rewrite_header(conn));
            let call = Command::Call(Box::new(Call::new((), work, reply, false)));
            let sent = queue.send_timeout((Instant::now(), call), PATIENCE).await;
            sent.map_err(|_| Error::Busy("too many writes are queued"))?;
            answer.await.map_err(|_| Error::Closed("the writer has ended"))?
        };
        written.boxed()
    }

    /// The same for what may be lost when the power fails: a later call says that it counts, and what was committed
    /// before that one is on the disk with it.
    pub(super) async fn prepare<I: Send + Sync + 'static, T: Send + 'static>(
        &self,
        input: I,
        work: Work<I, T>,
    ) -> Result<T> {
        self.ask(Command::Prepare, false, input, work).await
    }

    /// Has the disk take what was committed, beside the writer: less is left then for the call that waits for it.
    pub(super) async fn flush(&self) {
        checkpoint::flush(self.wal.clone(), &self.halt).await;
    }

    async fn ask<I: Send + Sync + 'static, T: Send + 'static>(
        &self,
        how: fn(Box<dyn Job>) -> Command,
        for_full_disk: bool,
        input: I,
        work: Work<I, T>,
    ) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        self.send(how(Box::new(Call::new(input, work, reply, for_full_disk)))).await?;
        answer.await.map_err(|_| self.gone())?
    }

    /// Appends messages, together with whatever else is queued.
    pub(super) async fn append(&self, input: append::Append) -> Result<Appended> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Append(Append { input, reply })).await?;
        answer.await.map_err(|_| self.gone())?
    }

    async fn send(&self, command: Command) -> Result<()> {
        self.halt.check()?;
        if self.worker.is_closing() {
            return Err(self.gone());
        }
        self.queue.send_timeout((Instant::now(), command), PATIENCE).await.map_err(|refused| match refused {
            mpsc::error::SendTimeoutError::Timeout(_) => Error::Busy("too many writes are queued"),
            mpsc::error::SendTimeoutError::Closed(_) => self.gone(),
        })
    }

    /// Why nothing is written any more.
    fn gone(&self) -> Error {
        let why = match self.worker.is_closing() {
            true => "the database is closed",
            false => "the writer has ended, and nothing can be written until the server is started again",
        };
        Error::Closed(why)
    }

    /// Commits what is queued, empties the write-ahead log and closes the connection.
    pub(super) async fn close(&self) {
        self.worker.close().await;
    }
}

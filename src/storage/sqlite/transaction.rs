//! One transaction of the writer: all appends that wait, then each other job in a savepoint of its own.

use std::{
    panic::AssertUnwindSafe,
    time::{Duration, Instant},
};

use futures_util::{FutureExt, future::BoxFuture};
use sqlx::{Executor, SqliteConnection};
use tokio::sync::oneshot;

use super::{append, error, events, search};
use crate::{
    model::Appended,
    storage::{Error, Result},
};

/// What a job does with the connection, inside a transaction. It may be run again after the engine failed.
pub(super) type Work<I, T> = for<'c> fn(&'c mut SqliteConnection, &'c I) -> BoxFuture<'c, Result<T>>;

pub(super) trait Job: Send {
    fn run<'c>(&'c mut self, conn: &'c mut SqliteConnection) -> BoxFuture<'c, Result<()>>;
    fn answer(self: Box<Self>, outcome: Result<()>);
    /// Whether it frees space or ends what runs, and so is done on a full disk, too.
    fn is_for_full_disk(&self) -> bool;
}

pub(super) struct Call<I, T> {
    input: I,
    work: Work<I, T>,
    output: Option<T>,
    reply: oneshot::Sender<Result<T>>,
    for_full_disk: bool,
}

impl<I, T> Call<I, T> {
    pub(super) fn new(input: I, work: Work<I, T>, reply: oneshot::Sender<Result<T>>, for_full_disk: bool) -> Self {
        Self { input, work, output: None, reply, for_full_disk }
    }
}

impl<I: Send + Sync, T: Send> Job for Call<I, T> {
    fn run<'c>(&'c mut self, conn: &'c mut SqliteConnection) -> BoxFuture<'c, Result<()>> {
        Box::pin(async {
            self.output = Some((self.work)(conn, &self.input).await?);
            Ok(())
        })
    }

    fn answer(self: Box<Self>, outcome: Result<()>) {
        let Self { output, reply, .. } = *self;
        let answer = outcome.and_then(|()| output.ok_or_else(|| Error::Failed("a job ended without an output".into())));
        // Nobody waits any more: the work is done all the same.
        let _ = reply.send(answer);
    }

    fn is_for_full_disk(&self) -> bool {
        self.for_full_disk
    }
}

/// Work whose panic is an error of the engine: what it left on the connection goes with the connection.
pub(super) async fn or_panic<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let done = AssertUnwindSafe(work).catch_unwind().await;
    done.unwrap_or_else(|_| Err(Error::Failed("a write panicked; the log says where".into())))
}

/// How long a transaction goes on to begin jobs: those that are left have the next one, and what came meanwhile with
/// them.
const LONG: Duration = Duration::from_millis(10);

/// What came of each, for the jobs as far as it came, and what the transaction saw of the rest.
pub(super) struct Outcomes {
    pub(super) appends: Vec<Result<Appended>>,
    pub(super) calls: Vec<Result<()>>,
    pub(super) data_version: i64,
    pub(super) last_event: i64,
}

/// Appends that nothing is wrong with, and that are alone.
pub(super) async fn at_once(
    conn: &mut SqliteConnection,
    appends: &[&append::Append],
    alone: bool,
) -> Result<Option<Outcomes>> {
    if appends.is_empty() || !alone {
        return Ok(None);
    }
    let written = or_panic(append::at_once(conn, appends)).await?;
    Ok(written.map(|written| Outcomes {
        appends: written.appends.into_iter().map(Ok).collect(),
        calls: Vec::new(),
        data_version: written.data_version,
        last_event: written.last_event,
    }))
}

pub(super) async fn fill(
    conn: &mut SqliteConnection,
    begun: append::Begun,
    appends: &[&append::Append],
    calls: &mut [Box<dyn Job>],
) -> Result<Outcomes> {
    let (data_version, began) = (begun.data_version, Instant::now());
    let batch = append::decide(conn, appends, begun.places).await?;
    append::write(conn, appends, &batch).await?;
    let mut called = Vec::with_capacity(calls.len());
    let makes_forms = calls.iter().any(|call| !call.is_for_full_disk());
    for call in calls {
        run(conn, "savepoint job").await?;
        let outcome = call.run(conn).await;
        keep_or_undo(conn, &outcome).await?;
        called.push(match outcome {
            Err(error) if error::is_engine(&error) => return Err(error),
            outcome => outcome,
        });
        if began.elapsed() >= LONG {
            break;
        }
    }
    // What was written without its indexed form is found from the commit on. What others left, a step is enough for here.
    if makes_forms {
        search::settle(conn).await?;
    }
    let last_event = events::commit(conn).await?;
    Ok(Outcomes { appends: batch.outcomes(), calls: called, data_version, last_event })
}

async fn keep_or_undo(conn: &mut SqliteConnection, outcome: &Result<()>) -> Result<()> {
    match outcome {
        Ok(_) => run(conn, "release job").await,
        Err(error) if error::is_engine(error) => Ok(()),
        Err(_) => {
            run(conn, "rollback to job").await?;
            run(conn, "release job").await
        }
    }
}

/// Begins, and tries again in small steps while another process holds the lock.
pub(super) async fn begin(
    conn: &mut SqliteConnection,
    appends: &[&append::Append],
    until: Instant,
) -> Result<append::Begun> {
    loop {
        match append::begin(conn, appends).await {
            Err(Error::Busy(_)) if Instant::now() < until => {}
            begun => return begun,
        }
    }
}

pub(super) async fn run(conn: &mut SqliteConnection, statement: &'static str) -> Result<()> {
    conn.execute(sqlx::query(statement)).await.map(drop).map_err(error::of)
}

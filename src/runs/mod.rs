//! Runs: start, cancel, follow, settle, shut down. Joins the repository and the executors.
//!
//! **One active run per session** is the database's rule; **every run ends** is kept here: cancel is asked politely and
//! forced after a grace period, and a run's end is written by its own task, whatever happened to its executor.

mod backends;
mod foreign;
mod interrupts;
mod registry;
mod turn;
mod words;

use std::{
    collections::{BTreeMap, HashSet},
    panic::AssertUnwindSafe,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::FutureExt;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

pub use registry::Registry;

use crate::{
    executor::Executor,
    feed::Feed,
    model::{Answered, NewRun, Reply, Run, RunEnd, RunFilter, RunId, RunStatus, SessionId, SessionUpdate},
    repository::SessionRepository,
    storage::{self, Claim, Storage},
    tasks::Tasks,
};

/// How long to wait before a run's end is written again, when that failed.
const RETRY: Duration = Duration::from_millis(500);
/// How long a call waits for runs to stop, beyond the grace period.
const BEYOND: Duration = Duration::from_secs(5);

/// Executors by their names.
pub type Executors = BTreeMap<String, Arc<dyn Executor>>;

/// How runs are carried out.
#[derive(Debug, Clone)]
pub struct Options {
    /// Runs at one time; further ones wait in order.
    pub max_concurrent: usize,
    /// How long a cancelled run may take to stop by itself.
    pub grace: Duration,
    /// How long the end of what an executor keeps warm may take.
    pub dispose: Duration,
    /// Bytes of a message that is being written at most.
    pub message: usize,
    /// The directory of all backends' homes.
    pub homes: PathBuf,
    /// The executor of runs that name none.
    pub default_executor: Option<String>,
    /// How deep below its root a session may be created as a child.
    pub max_child_depth: i64,
}

/// Why a run was not started.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No executor is configured that it could run on.
    #[error("no executor is configured; see [executors] of the configuration file")]
    NoExecutor,
    /// No executor has this name.
    #[error("no executor has the name '{0}'")]
    UnknownExecutor(String),
    /// Another run has the place of the one that was to interrupt.
    #[error("the run '{run}' of session '{session}' could not be interrupted, or took the place of this one")]
    Displaced {
        /// The session.
        session: SessionId,
        /// The run that has its place.
        run: RunId,
    },
    /// The storage refused.
    #[error(transparent)]
    Storage(#[from] storage::Error),
}

/// A run as a client asks for it.
#[derive(Debug, Default)]
pub struct Start {
    /// The run; its executor's name may be empty for the default.
    pub id: Option<RunId>,
    /// The executor's name.
    pub executor: Option<String>,
    /// The model.
    pub model: Option<String>,
    /// A message to append first.
    pub message: Option<crate::model::NewMessage>,
    /// Whether what runs in the session is cancelled first.
    pub interrupt: bool,
}

/// The runs of a server. Cheap to clone.
#[derive(Clone)]
pub struct Runs(Arc<Inner>);

struct Inner {
    repository: SessionRepository,
    feed: Feed,
    executors: Executors,
    options: Options,
    tasks: Tasks,
    registry: Mutex<Registry>,
    interrupts: interrupts::Interrupts,
    /// There may be a run to take, and a place for it.
    wake: Notify,
    stopping: CancellationToken,
}

impl Runs {
    /// Settles and ends what a dead process left, and takes runs as they are asked for.
    pub async fn start(
        repository: SessionRepository,
        feed: Feed,
        executors: Executors,
        options: Options,
    ) -> storage::Result<Self> {
        let settled = repository.settle_runs().await?;
        if settled > 0 {
            tracing::warn!(settled, "runs of a process that is gone were ended as interrupted");
        }
        backends::settle(&repository).await?;
        let (tasks, registry) = (repository.tasks().clone(), Mutex::default());
        let interrupts = interrupts::Interrupts::default();
        let (wake, stopping) = (Notify::new(), CancellationToken::new());
        let runs = Inner { repository, feed, executors, options, tasks, registry, interrupts, wake, stopping };
        let runs = Self(Arc::new(runs));
        let (taking, following) = (runs.clone(), runs.clone());
        runs.0.tasks.spawn(async move { taking.take().await });
        runs.0.tasks.spawn(async move {
            following.0.stopping.run_until_cancelled(foreign::follow(&following)).await;
        });
        Ok(runs)
    }

    /// Takes pending runs, in order, while there is room.
    async fn take(&self) {
        loop {
            let room = self.0.options.max_concurrent.saturating_sub(self.registry().len());
            let taken = match room {
                0 => Vec::new(),
                room => self.claim(room).await,
            };
            if taken.is_empty() {
                tokio::select! {
                    () = self.0.stopping.cancelled() => return,
                    () = self.0.wake.notified() => {}
                }
            }
            for run in taken {
                let (runs, cancel) = (self.clone(), self.registry().enter(&run.id));
                if self.0.stopping.is_cancelled() {
                    cancel.cancel();
                }
                let span =
                    tracing::info_span!("run", run = %run.id, session = %run.session_id, executor = run.executor);
                self.0.tasks.spawn(async move { runs.carry_out(run, cancel).await }.instrument(span));
            }
        }
    }

    async fn claim(&self, room: usize) -> Vec<Run> {
        if self.0.stopping.is_cancelled() {
            return Vec::new();
        }
        match self.0.repository.claim_runs(i64::try_from(room).unwrap_or(i64::MAX)).await {
            Ok(runs) => runs,
            // Nothing is written any more until the server is started again; the log has said so.
            Err(storage::Error::Stopped(_) | storage::Error::Closed(_)) => Vec::new(),
            Err(error) => {
                // A full disk is warned of by itself.
                match error {
                    storage::Error::Full => tracing::debug!("pending runs wait for room on the disk"),
                    error => tracing::warn!(%error, "pending runs were not taken"),
                }
                tokio::time::sleep(RETRY).await;
                self.0.wake.notify_one();
                Vec::new()
            }
        }
    }

    /// One run, from its executor's start to its end in the database.
    async fn carry_out(&self, run: Run, cancel: CancellationToken) {
        let end = match self.0.executors.get(&run.executor) {
            None => failed(format!("no executor has the name '{}'", run.executor)),
            // An executor that panics ends its run as well.
            Some(executor) => AssertUnwindSafe(turn::follow(self, &run, executor.as_ref(), &cancel))
                .catch_unwind()
                .await
                .unwrap_or_else(|_| failed("the executor broke down")),
        };
        let end = match self.0.stopping.is_cancelled() && end.status == RunStatus::Cancelled {
            true => RunEnd { status: RunStatus::Interrupted, error: Some("the server stopped".into()), ..end },
            false => end,
        };
        self.log_end(&run, &end).await;
        self.write_end(&run, end).await;
        self.registry().end(&run.id);
        self.0.wake.notify_one();
    }

    /// A run that failed is a line of the log, with the words of what failed and without those of people: a provider may
    /// repeat what it was sent.
    async fn log_end(&self, run: &Run, end: &RunEnd) {
        let Some(error) = end.error.clone().filter(|_| end.status == RunStatus::Error) else {
            return tracing::debug!(status = ?end.status, "a run ended");
        };
        let Ok(session) = self.0.repository.load(&run.session_id).await else {
            return tracing::warn!("a run failed");
        };
        let error = crate::tasks::blocking(move || words::without_echo(&error, session.as_ref())).await;
        tracing::warn!(error, "a run failed");
    }

    /// A run's end is written however long that takes: until then its session is busy.
    async fn write_end(&self, run: &Run, end: RunEnd) {
        use storage::Error as E;
        loop {
            match self.0.repository.finish_run(run, end.clone()).await {
                // Its session was deleted, and the run with it.
                Ok(_) | Err(E::RunNotFound(_) | E::SessionDeleted(_) | E::SessionNotFound(_)) => return,
                // What it wrote last cannot be stored; that it ended can.
                Err(E::MessageExists(_)) => {
                    return Box::pin(self.write_end(run, RunEnd { partial: None, ..end })).await;
                }
                // Nothing is written any more, whoever waits: the next start settles the run.
                Err(E::Stopped(_) | E::Closed(_)) => return,
                // Nor can it on a full disk; the run ends all the same.
                Err(E::Full) if end.partial.is_some() => {
                    tracing::warn!("the disk is full: what a run had written of its last message is not kept");
                    return Box::pin(self.write_end(run, RunEnd { partial: None, ..end })).await;
                }
                Err(error) => {
                    tracing::warn!(%error, run = %run.id, "the end of a run was not written; it is tried again");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    /// Asks for a run.
    pub async fn create(&self, session: &SessionId, start: Start, claim: Option<Claim>) -> Result<Run, Error> {
        let executor = self.executor_for(session, start.executor).await?;
        let new = NewRun { id: start.id, executor, model: start.model, message: start.message };
        let create = || self.0.repository.create_run(session, new.clone(), claim.clone());
        let run = match start.interrupt {
            true => self.interrupting(session, create).await?,
            false => create().await?,
        };
        self.0.wake.notify_one();
        Ok(run)
    }

    /// The name of the executor that a run in this session goes to. That there is such a session is said first.
    pub async fn executor_for(&self, session: &SessionId, named: Option<String>) -> Result<String, Error> {
        match self.executor(named) {
            Ok(name) => Ok(name),
            Err(error) => {
                self.check_session(session).await?;
                Err(error)
            }
        }
    }

    /// Whether a session can be written to, asked by a change that changes nothing.
    pub async fn check_session(&self, session: &SessionId) -> storage::Result<()> {
        self.0.repository.update_session(session, SessionUpdate::default(), None).await.map(drop)
    }

    /// The name of the executor that a run goes to.
    pub fn executor(&self, named: Option<String>) -> Result<String, Error> {
        let (executors, only) = (&self.0.executors, self.0.executors.keys().next());
        match named {
            Some(name) if executors.contains_key(&name) => Ok(name),
            Some(_) if executors.is_empty() => Err(Error::NoExecutor),
            Some(name) => Err(Error::UnknownExecutor(name)),
            None => match (&self.0.options.default_executor, only) {
                (Some(name), _) => Ok(name.clone()),
                (None, Some(name)) if executors.len() == 1 => Ok(name.clone()),
                _ => Err(Error::NoExecutor),
            },
        }
    }

    /// How runs are carried out.
    pub fn options(&self) -> &Options {
        &self.0.options
    }

    /// The sessions that the runs are of.
    pub fn repository(&self) -> &SessionRepository {
        &self.0.repository
    }

    /// What is told of them.
    pub fn feed(&self) -> &Feed {
        &self.0.feed
    }

    /// Runs may have been asked for in another way.
    pub fn wake(&self) {
        self.0.wake.notify_one();
    }

    /// Cancels a run and waits until it has stopped, for the grace period and a little more at most.
    pub async fn cancel(&self, id: &RunId) -> storage::Result<Run> {
        let run = self.found(id).await?;
        if run.status.is_terminal() {
            return Ok(run);
        }
        let run = self.0.repository.cancel_pending_run(&run).await?;
        if run.status == RunStatus::Running {
            let ending = self.registry().cancel(id, true);
            if self.ended(id, ending).await {
                self.registry().forget(id);
            }
        }
        self.found(id).await
    }

    async fn found(&self, id: &RunId) -> storage::Result<Run> {
        self.0.repository.run(id).await?.ok_or_else(|| storage::Error::RunNotFound(id.clone()))
    }

    /// Waits until a run has ended, within the bound. Whether it has.
    async fn ended(&self, id: &RunId, ending: Option<watch::Receiver<bool>>) -> bool {
        let waiting = async {
            match ending {
                Some(mut ending) => drop(ending.wait_for(|ended| *ended).await),
                // Taken, and about to enter: the log of events tells of its end.
                None => self.wait_for_end(id).await,
            }
        };
        tokio::time::timeout(self.0.options.grace + BEYOND, waiting).await.is_ok()
    }

    /// Waits until the database says that a run has ended, or there is no such run.
    async fn wait_for_end(&self, id: &RunId) {
        let mut news = self.0.repository.last_event();
        // Another process may end it without an event.
        let mut commits = self.0.repository.foreign_commits();
        loop {
            news.mark_unchanged();
            commits.mark_unchanged();
            match self.0.repository.run(id).await {
                Ok(Some(run)) if !run.status.is_terminal() => {}
                _ => return,
            }
            let changed = tokio::select! {
                changed = news.changed() => changed,
                changed = commits.changed() => changed,
            };
            if changed.is_err() {
                return;
            }
        }
    }

    /// Waits until a run has ended, at most this long; the run as it is then.
    pub async fn wait(&self, id: &RunId, at_most: Duration) -> storage::Result<Run> {
        let _ = tokio::time::timeout(at_most, self.wait_for_end(id)).await;
        self.found(id).await
    }

    /// Cancels what runs in a session, and below it where asked, and waits until it has stopped, for the grace period
    /// and a little more at most. What is started meanwhile is cancelled as well. The runs that it ended: without those
    /// that came to their own end meanwhile, and those that still run.
    pub async fn cancel_session(&self, session: &SessionId, below: bool) -> storage::Result<Vec<RunId>> {
        let (mut asked, mut cancelled) = (HashSet::new(), Vec::new());
        loop {
            let mut active = self.0.repository.active_runs(session, below).await?;
            active.retain(|run| asked.insert(run.id.clone()));
            if active.is_empty() {
                return Ok(cancelled);
            }
            // All are told first, so that their grace periods pass together.
            let stopping = active.iter().map(|run| self.cancel(&run.id));
            for outcome in futures_util::future::join_all(stopping).await {
                match outcome {
                    Ok(run) if run.status == RunStatus::Cancelled => cancelled.push(run.id),
                    Ok(_) => {}
                    Err(storage::Error::RunNotFound(id)) => cancelled.push(id),
                    Err(error) => return Err(error),
                }
            }
        }
    }

    /// Stops runs whose rows are gone with their sessions. Those that have not stopped within the bound.
    pub async fn stop_deleted(&self, runs: &[RunId]) -> Vec<RunId> {
        let ending: Vec<_> = {
            let mut registry = self.registry();
            runs.iter().map(|run| (run.clone(), registry.cancel(run, false))).collect()
        };
        let waits = ending.into_iter().filter_map(|(run, ending)| Some((run, ending?)));
        let waits = waits.map(|(run, ending)| async move { (!self.ended(&run, Some(ending)).await).then_some(run) });
        futures_util::future::join_all(waits).await.into_iter().flatten().collect()
    }

    /// Stores the answer to a session's question; the run that asked goes on with it, or a new one does, on this model
    /// or on that of the last run.
    pub async fn answer(&self, session: &SessionId, reply: Reply, model: Option<String>) -> Result<Answered, Error> {
        let filter = RunFilter { session: Some(session.clone()), ..RunFilter::default() };
        let last = match self.0.repository.runs(&filter, None, 1).await {
            Ok(mut page) => page.items.pop(),
            Err(storage::Error::SessionNotFound(_)) => {
                self.check_session(session).await?;
                None
            }
            Err(error) => return Err(error.into()),
        };
        let known = last.as_ref().map(|run| run.executor.clone()).filter(|name| self.0.executors.contains_key(name));
        let executor = match known.map_or_else(|| self.executor(None), Ok) {
            Ok(name) => name,
            // Nothing could go on with the answer: the question stays.
            Err(error) if last.as_ref().is_none_or(|run| run.status.is_terminal()) && self.asks(session).await? => {
                return Err(error);
            }
            Err(_) => String::new(),
        };
        let model = model.or_else(|| last.and_then(|run| run.model));
        let next = NewRun { id: None, executor, model, message: None };
        let answered = self.0.repository.answer_question(session, reply, next).await?;
        let waiting = self.registry().answer(&answered.run.id);
        if let Some(answer) = waiting {
            let _ = answer.send(answered.message.clone());
        }
        self.0.wake.notify_one();
        Ok(answered)
    }

    async fn asks(&self, session: &SessionId) -> storage::Result<bool> {
        let session = self.0.repository.session(session).await?;
        Ok(session.is_some_and(|session| session.pending_question.is_some()))
    }

    /// Stops all runs; what is pending stays queued. Then ends all that is warm. Returns when each run has written its
    /// end, or the grace is over, and nothing is warm, or there was no time for it.
    pub async fn shut_down(&self) {
        self.0.stopping.cancel();
        let ending = self.registry().cancel_all();
        let ended = ending.into_iter().map(|mut ending| async move { drop(ending.wait_for(|ended| *ended).await) });
        let all = futures_util::future::join_all(ended);
        let _ = tokio::time::timeout(self.0.options.grace + BEYOND, all).await;
        let ending = self.0.executors.values().map(|executor| executor.shut_down());
        let ending = futures_util::future::join_all(ending);
        if tokio::time::timeout(self.0.options.dispose, ending).await.is_err() {
            tracing::warn!("not all that was warm was ended in time");
        }
    }

    fn registry(&self) -> MutexGuard<'_, Registry> {
        self.0.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn failed(why: impl Into<String>) -> RunEnd {
    RunEnd { error: Some(why.into()), ..RunEnd::with(RunStatus::Error) }
}

//! Warm backends: kept between the runs of a session, ended when nobody needs them, or when there are too many.
//!
//! **Nothing warm is forgotten.** What is started is written down before it is asked anything, and a turn that is
//! dropped in the midst leaves its backend to a task that ends it, not to the next turn.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use tokio::{
    sync::{Notify, OwnedMutexGuard, mpsc, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{Error, Event, Executor, Outcome, Turn};
use crate::{
    agent_sessions::AgentSessions,
    model::{AgentSession, BackendId, BackendState, Process, SessionId},
    tasks::Tasks,
};

/// A kind of agent: how it is started for a session, whether that takes a process of its own or a shared server.
#[async_trait]
pub trait Backend: Send + Sync + 'static {
    /// What is warm.
    type Warm: Warm;

    /// The kind's name in `agent_sessions.backend`.
    const KIND: &'static str;

    /// Starts it for a turn's session, and goes on with what the agent remembers where it can. Dropped, it leaves
    /// nothing behind.
    async fn start(&self, turn: &Turn, row: &AgentSession) -> Result<Self::Warm, Error>;

    /// Ends what is not in the pool: what another process of the server left. `purge` also removes what the agent keeps.
    async fn remove(&self, row: &AgentSession, purge: bool) -> Result<(), Error>;

    /// Starts it for no session, and ends it. What it is, in words.
    async fn probe(&self) -> Result<String, Error>;

    /// Ends what all sessions share.
    async fn shut_down(&self);
}

/// A backend that is warm. Dropped, it is ended at once.
#[async_trait]
pub trait Warm: Send + Sync + 'static {
    /// Its process; none where others share it.
    fn process(&self) -> Option<Process>;

    /// The agent's own id of the session.
    fn agent_session_id(&self) -> Option<String>;

    /// Whether it can take a turn.
    fn is_alive(&mut self) -> bool;

    /// Carries a turn out. What the agent knows is written down with `known`, before it is asked anything.
    async fn turn(
        &mut self,
        turn: &Turn,
        known: &mut Known<'_>,
        events: &mpsc::Sender<Event>,
        cancel: &CancellationToken,
    ) -> Result<Outcome, Error>;

    /// Ends it politely, then not; nothing of it is left then.
    async fn end(self) -> Result<(), Error>;
}

/// What the agent of a backend knows of the history.
///
/// **An agent is told everything.** What it was told is what its row says, and that says nothing from when it is asked
/// something until the run has ended: one that was killed meanwhile begins a new session, and is told what is stored.
pub struct Known<'a> {
    /// The last message that it knows of, by its `seq`; 0 for none.
    pub seen: i64,
    rows: &'a dyn AgentSessions,
    row: &'a BackendId,
    agent_session_id: Option<String>,
    knows: &'a mut Option<String>,
    midst: &'a mut bool,
}

impl Known<'_> {
    /// It is asked something from here on.
    pub async fn ask(&mut self) -> Result<(), Error> {
        let agent_session_id = self.agent_session_id.clone();
        (*self.knows, *self.midst) = (agent_session_id.clone(), true);
        self.rows.update_agent_session(self.row, BackendState::Asked { agent_session_id }).await.map_err(unwritten)
    }
}

/// How often is looked whether what idles is still there.
const LOOK: Duration = Duration::from_secs(1);

/// How many stay warm, and how long.
#[derive(Debug, Clone, Copy)]
pub struct Warmth {
    /// How long one may idle.
    pub idle: Duration,
    /// How many there may be. Those that work are never ended for it: while more sessions run, there are more.
    pub most: usize,
}

/// Backends of one executor, by their sessions.
pub struct Pool<B: Backend>(Arc<Inner<B>>);

struct Inner<B: Backend> {
    name: String,
    backend: B,
    rows: Arc<dyn AgentSessions>,
    warmth: Warmth,
    tasks: Tasks,
    slots: Mutex<HashMap<SessionId, Arc<Slot<B::Warm>>>>,
    /// Something was kept: when it is to end must be looked at.
    kept: Notify,
    stop: CancellationToken,
}

/// A session's place. Whoever holds it is the only one to use or end what is in it.
struct Slot<W> {
    warm: Arc<tokio::sync::Mutex<Option<Kept<W>>>>,
    unwanted: watch::Sender<bool>,
}

struct Kept<W> {
    backend: W,
    row: BackendId,
    /// The agent's own id of the session, as its row has it: none until it was asked something there.
    knows: Option<String>,
    /// It was asked something, and has not come to its end.
    midst: bool,
    /// Where it works.
    workspace: Option<PathBuf>,
    used: Instant,
}

impl<B: Backend> Pool<B> {
    /// A pool of an executor with this name.
    pub fn start(name: String, backend: B, rows: Arc<dyn AgentSessions>, warmth: Warmth, tasks: Tasks) -> Self {
        let (slots, kept, stop) = (Mutex::default(), Notify::new(), CancellationToken::new());
        let pool = Arc::new(Inner { name, backend, rows, warmth, tasks, slots, kept, stop });
        let keeper = pool.clone();
        pool.tasks.spawn(async move { keeper.stop.run_until_cancelled(keeper.end_idle()).await });
        Self(pool)
    }
}

#[async_trait]
impl<B: Backend> Executor for Pool<B> {
    async fn run(&self, turn: Turn, events: mpsc::Sender<Event>, cancel: CancellationToken) -> Result<Outcome, Error> {
        let lease = tokio::select! {
            biased;
            () = cancel.cancelled() => return Ok(Outcome::Cancelled),
            lease = Lease::take(&self.0, &turn.session_id) => lease,
        };
        lease.carry_out(&turn, &events, &cancel).await
    }

    async fn dispose(&self, row: &AgentSession, purge: bool) -> Result<(), Error> {
        let slot = self.0.slots().get(&row.session_id).cloned();
        if let Some(slot) = slot {
            self.0.empty(&row.session_id, &slot).await?;
        }
        self.0.backend.remove(row, purge).await
    }

    async fn probe(&self) -> Result<String, Error> {
        self.0.backend.probe().await
    }

    async fn shut_down(&self) {
        self.0.stop.cancel();
        let slots: Vec<_> = self.0.slots().iter().map(|(session, slot)| (session.clone(), slot.clone())).collect();
        let ending = slots.iter().map(|(session, slot)| self.0.empty(session, slot));
        for ended in futures_util::future::join_all(ending).await {
            if let Err(error) = ended {
                tracing::warn!(%error, executor = self.0.name, "a backend was not ended");
            }
        }
        self.0.backend.shut_down().await;
    }
}

impl<B: Backend> Inner<B> {
    fn slots(&self) -> MutexGuard<'_, HashMap<SessionId, Arc<Slot<B::Warm>>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A session's place, made where there is none.
    fn slot(&self, session: &SessionId) -> Arc<Slot<B::Warm>> {
        let make = || Arc::new(Slot { warm: Arc::default(), unwanted: watch::Sender::new(false) });
        self.slots().entry(session.clone()).or_insert_with(make).clone()
    }

    /// Forgets places that nobody uses and nothing is in.
    fn tidy(&self) {
        let unused = |slot: &Arc<Slot<B::Warm>>| {
            Arc::strong_count(slot) == 1 && slot.warm.try_lock().is_ok_and(|warm| warm.is_none())
        };
        self.slots().retain(|_, slot| !unused(slot));
    }

    /// Ends what is in a place, and the turn that uses it.
    async fn empty(&self, session: &SessionId, slot: &Slot<B::Warm>) -> Result<(), Error> {
        slot.unwanted.send_replace(true);
        let mut warm = slot.warm.lock().await;
        slot.unwanted.send_replace(false);
        let ended = match warm.take() {
            Some(kept) => self.end(session, kept).await,
            None => Ok(()),
        };
        drop(warm);
        ended
    }

    async fn end(&self, session: &SessionId, kept: Kept<B::Warm>) -> Result<(), Error> {
        let ended = kept.backend.end().await;
        let state = if kept.midst { BackendState::Lost } else { BackendState::Dormant };
        // Its session may be gone, and the row with it: then there is nothing to say.
        if let Err(error) = self.rows.update_agent_session(&kept.row, state).await {
            tracing::debug!(%error, %session, "a backend's end was not written");
        }
        ended
    }

    /// Ends what idles for too long or has ended by itself, for ever.
    async fn end_idle(&self) {
        loop {
            let now = Instant::now();
            let (mut next, mut expired) = (now + Duration::from_secs(3600), Vec::new());
            for (session, mut held) in self.idle() {
                let Some(kept) = held.as_mut() else { continue };
                let end = kept.used + self.warmth.idle;
                match end <= now || !kept.backend.is_alive() {
                    true => expired.push((session, held)),
                    // One that ends by itself tells nobody.
                    false => next = next.min(end).min(now + LOOK),
                }
            }
            futures_util::future::join_all(expired.into_iter().map(|(session, kept)| self.end_kept(session, kept)))
                .await;
            self.tidy();
            tokio::select! {
                () = tokio::time::sleep_until(next) => {}
                () = self.kept.notified() => {}
            }
        }
    }

    /// All places that nobody uses, held.
    fn idle(&self) -> Vec<(SessionId, Held<B::Warm>)> {
        let slots = self.slots();
        let held = slots.iter().filter_map(|(id, slot)| Some((id.clone(), slot.warm.clone().try_lock_owned().ok()?)));
        held.collect()
    }

    async fn end_kept(&self, session: SessionId, mut held: Held<B::Warm>) {
        if let Some(kept) = held.take()
            && let Err(error) = self.end(&session, kept).await
        {
            tracing::warn!(%error, %session, "a backend was not ended");
        }
    }

    /// Ends those that idle longest, until one more has room.
    async fn make_room(&self) {
        let mut idle: Vec<_> = self.idle().into_iter().filter(|(_, kept)| kept.is_some()).collect();
        let all = self.slots().len();
        idle.sort_by_key(|(_, kept)| kept.as_ref().map(|kept| kept.used));
        let too_many = all.saturating_sub(self.warmth.most).min(idle.len());
        let ending = idle.drain(..too_many).map(|(session, kept)| self.end_kept(session, kept));
        futures_util::future::join_all(ending).await;
    }
}

type Held<W> = OwnedMutexGuard<Option<Kept<W>>>;

/// A turn's hold on its session's place. Dropped before the turn has come to its end, what is in it is ended.
struct Lease<B: Backend> {
    pool: Arc<Inner<B>>,
    session: SessionId,
    held: Option<Held<B::Warm>>,
    unwanted: watch::Receiver<bool>,
}

impl<B: Backend> Lease<B> {
    async fn take(pool: &Arc<Inner<B>>, session: &SessionId) -> Self {
        let slot = pool.slot(session);
        let held = Some(slot.warm.clone().lock_owned().await);
        Self { pool: pool.clone(), session: session.clone(), held, unwanted: slot.unwanted.subscribe() }
    }

    async fn carry_out(
        mut self,
        turn: &Turn,
        events: &mpsc::Sender<Event>,
        cancel: &CancellationToken,
    ) -> Result<Outcome, Error> {
        let mut unwanted = self.unwanted.clone();
        let outcome = tokio::select! {
            biased;
            _ = unwanted.wait_for(|unwanted| *unwanted) => return Ok(Outcome::Cancelled),
            outcome = self.work(turn, events, cancel) => outcome,
        };
        self.put_back();
        outcome
    }

    async fn work(
        &mut self,
        turn: &Turn,
        events: &mpsc::Sender<Event>,
        cancel: &CancellationToken,
    ) -> Result<Outcome, Error> {
        let pool = self.pool.clone();
        let mut row = pool.rows.agent_session(&turn.session_id, &pool.name, B::KIND).await.map_err(unwritten)?;
        // Its last turn did not come to an end, and what the agent made of that nobody knows: it begins anew.
        row.agent_session_id.take_if(|_| row.seen_seq == 0);
        let Some(held) = &mut self.held else { return Err(Error::Failed("the backend is gone".into())) };
        let usable = held.as_mut().is_some_and(|kept| {
            let known = kept.row == row.id && kept.knows == row.agent_session_id;
            known && kept.workspace == turn.workspace && kept.backend.is_alive()
        });
        if !usable {
            // It broke down, or works elsewhere, or the history has changed under it: what it remembers is not what is
            // stored.
            if let Some(kept) = held.take() {
                pool.end(&turn.session_id, kept).await?;
            }
            pool.make_room().await;
            // Starting is of no use to a run that is cancelled: what was started goes with the future.
            let started = tokio::select! {
                biased;
                () = cancel.cancelled() => return Ok(Outcome::Cancelled),
                started = pool.backend.start(turn, &row) => started.inspect_err(|error| {
                    tracing::warn!(executor = pool.name, kind = error.kind(), "an agent was not started; its run says why");
                })?,
            };
            let (process, own) = (started.process(), started.agent_session_id());
            let knows = row.agent_session_id.filter(|known| own.as_ref() == Some(known));
            let state = BackendState::Warm { process, agent_session_id: knows.clone() };
            let (workspace, used) = (turn.workspace.clone(), Instant::now());
            **held = Some(Kept { backend: started, row: row.id.clone(), knows, midst: false, workspace, used });
            pool.rows.update_agent_session(&row.id, state).await.map_err(unwritten)?;
        }
        let Some(kept) = held.as_mut() else { return Err(Error::Failed("the backend is gone".into())) };
        let Kept { backend, knows, midst, .. } = kept;
        let (seen, agent_session_id) = (if knows.is_some() { row.seen_seq } else { 0 }, backend.agent_session_id());
        let mut known = Known { seen, rows: &*pool.rows, row: &row.id, agent_session_id, knows, midst };
        let outcome = backend.turn(turn, &mut known, events, cancel).await;
        *midst &= !backend.is_alive();
        outcome
    }

    /// The turn came to its end. What is still good stays warm.
    fn put_back(mut self) {
        let Some(held) = &mut self.held else { return };
        // One that ended, or was never there, is left to be ended as if the turn had been dropped.
        if let Some(kept) = held.as_mut()
            && kept.backend.is_alive()
        {
            kept.used = Instant::now();
            self.held = None;
            self.pool.kept.notify_one();
        }
    }
}

impl<B: Backend> Drop for Lease<B> {
    fn drop(&mut self) {
        let Some(held) = self.held.take() else { return };
        let (pool, session) = (self.pool.clone(), self.session.clone());
        // The place stays held until its backend is gone: the next turn waits for that.
        self.pool.tasks.spawn(async move {
            pool.end_kept(session, held).await;
            pool.tidy();
        });
    }
}

/// What cannot be written down must not be.
fn unwritten(error: std::io::Error) -> Error {
    Error::Failed(format!("the backend was not written down: {error}"))
}

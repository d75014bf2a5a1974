//! An executor that keeps something warm for each session that it ran, as its rows say, and counts it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, OnceLock},
};

use async_trait::async_trait;
use culm::{
    agent_sessions::AgentSessions,
    executor::{Error, Event, Executor, Outcome, Turn},
    model::{AgentSession, BackendId, BackendState, NewMessage, Role, RunId, SessionId},
    repository::SessionRepository,
};
use tokio::sync::{Barrier, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::scripted::soon;

/// How things end that are warm.
#[derive(Clone)]
pub(crate) enum Ending {
    Works,
    Fails,
    Hangs,
    Panics,
    /// Once as many are being ended.
    Together(Arc<Barrier>),
    /// When the test says so.
    Told(mpsc::UnboundedSender<Held>),
}

/// A disposal that waits for the test to let it go.
pub(crate) type Held = oneshot::Sender<()>;

/// Shared with the test, which sees what is warm.
#[derive(Clone)]
pub(crate) struct Warm(Arc<State>);

struct State {
    rows: OnceLock<SessionRepository>,
    /// Whose each is, and by which run it was warmed last.
    warm: Mutex<BTreeMap<BackendId, (SessionId, RunId)>>,
    /// What is warm and what its rows say change together.
    changing: tokio::sync::Mutex<()>,
    ending: Mutex<Ending>,
    /// What was ended, and whether it was purged.
    disposed: Mutex<Vec<(AgentSession, bool)>>,
}

impl Warm {
    pub(crate) fn new() -> Self {
        let (warm, ending, disposed) = (Mutex::default(), Mutex::new(Ending::Works), Mutex::default());
        Self(Arc::new(State { rows: OnceLock::new(), warm, changing: Default::default(), ending, disposed }))
    }

    /// Where its rows are: known once the server is there.
    pub(crate) fn write_to(&self, rows: &SessionRepository) {
        assert!(self.0.rows.set(rows.clone()).is_ok());
    }

    pub(crate) fn ends(&self, how: Ending) {
        *self.0.ending.lock().unwrap() = how;
    }

    /// From now on disposals wait to be let go.
    pub(crate) fn holds(&self) -> mpsc::UnboundedReceiver<Held> {
        let (held, holding) = mpsc::unbounded_channel();
        self.ends(Ending::Told(held));
        holding
    }

    /// The backends that are warm, and whose they are.
    pub(crate) fn warm(&self) -> BTreeMap<BackendId, SessionId> {
        self.0.warm.lock().unwrap().iter().map(|(id, (session, _))| (id.clone(), session.clone())).collect()
    }

    /// The sessions whose backends were ended, and whether they were purged, sorted.
    pub(crate) fn disposed(&self) -> Vec<(String, bool)> {
        let disposed = self.0.disposed.lock().unwrap();
        let mut names: Vec<_> = disposed.iter().map(|(of, purge)| (of.session_id.to_string(), *purge)).collect();
        names.sort();
        names
    }

    /// All that was known of what was ended.
    pub(crate) fn dispositions(&self) -> Vec<(AgentSession, bool)> {
        self.0.disposed.lock().unwrap().clone()
    }

    fn rows(&self) -> &dyn AgentSessions {
        self.0.rows.get().expect("the rows are known")
    }

    async fn use_backend(&self, turn: &Turn) -> Result<(), Error> {
        let _changing = self.0.changing.lock().await;
        let failed = |error: std::io::Error| Error::Failed(error.to_string());
        let backend = self.rows().agent_session(&turn.session_id, "scripted", "acp").await.map_err(failed)?;
        self.0.warm.lock().unwrap().insert(backend.id.clone(), (turn.session_id.clone(), turn.run_id.clone()));
        let state = BackendState::Warm { process: None, agent_session_id: Some(format!("of {}", turn.session_id)) };
        let written = self.rows().update_agent_session(&backend.id, state).await;
        if written.is_err() {
            self.0.warm.lock().unwrap().remove(&backend.id);
        }
        written.map_err(failed)
    }
}

#[async_trait]
impl Executor for Warm {
    async fn run(&self, turn: Turn, events: mpsc::Sender<Event>, cancel: CancellationToken) -> Result<Outcome, Error> {
        self.use_backend(&turn).await?;
        if turn.messages.iter().any(|message| message.content == "linger") {
            cancel.cancelled().await;
            return Ok(Outcome::Cancelled);
        }
        let _ = events.send(Event::Message(NewMessage::text(Role::Assistant, "done"))).await;
        Ok(Outcome::Completed)
    }

    async fn dispose(&self, backend: &AgentSession, purge: bool) -> Result<(), Error> {
        let ending = self.0.ending.lock().unwrap().clone();
        let met = self.0.warm.lock().unwrap().get(&backend.id).cloned();
        match ending {
            Ending::Works => {}
            Ending::Fails => return Err(Error::Failed("it does not end".into())),
            Ending::Hangs => std::future::pending().await,
            Ending::Panics => panic!("the executor is broken"),
            Ending::Together(barrier) => {
                barrier.wait().await;
            }
            Ending::Told(held) => {
                let (go, gone) = oneshot::channel();
                held.send(go).unwrap();
                gone.await.unwrap();
            }
        }
        let _changing = self.0.changing.lock().await;
        let same = {
            let mut warm = self.0.warm.lock().unwrap();
            let same = warm.get(&backend.id) == met.as_ref();
            if same {
                warm.remove(&backend.id);
            }
            same
        };
        self.0.disposed.lock().unwrap().push((backend.clone(), purge));
        // One that was warmed since is another one.
        if same {
            // It went with its session where that is gone.
            let _ = self.rows().update_agent_session(&backend.id, BackendState::Dormant).await;
        }
        Ok(())
    }

    async fn shut_down(&self) {
        self.0.warm.lock().unwrap().clear();
    }
}

/// The next disposal that waits.
pub(crate) async fn next(held: &mut mpsc::UnboundedReceiver<Held>) -> Held {
    soon(held.recv()).await.unwrap()
}

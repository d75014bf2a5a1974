//! The executor contract, against an agent that speaks the real protocol over real pipes.

mod cancelled;
mod lines;
pub(super) mod said;
mod warm;

use std::{collections::HashMap, path::Path, sync::Mutex};

use culm::{
    agent_sessions::AgentSessions,
    executor::{
        acp::{Acp, Config},
        pool::Pool,
        process::Launch,
    },
    model::{AgentSession, BackendId, BackendState, BackendStatus, Process},
    tasks::Tasks,
};
use tempfile::TempDir;

use super::*;

pub(super) const CULM: &str = env!("CARGO_BIN_EXE_culm");

/// The rows of backends, without a database.
#[derive(Default)]
pub(super) struct Rows(pub(super) Mutex<HashMap<SessionId, AgentSession>>);

#[async_trait]
impl AgentSessions for Rows {
    async fn agent_session(&self, session: &SessionId, executor: &str, backend: &str) -> io::Result<AgentSession> {
        let made = || AgentSession {
            id: BackendId::mint(),
            session_id: session.clone(),
            executor: executor.into(),
            backend: backend.into(),
            agent_session_id: None,
            process: None,
            status: BackendStatus::Dormant,
            seen_seq: 0,
            used_at: Timestamp(0),
        };
        Ok(self.0.lock().unwrap().entry(session.clone()).or_insert_with(made).clone())
    }

    async fn update_agent_session(&self, id: &BackendId, state: BackendState) -> io::Result<()> {
        let mut rows = self.0.lock().unwrap();
        let row = rows.values_mut().find(|row| row.id == *id).ok_or(io::ErrorKind::NotFound)?;
        match state {
            BackendState::Warm { process, agent_session_id } => {
                (row.status, row.process, row.agent_session_id) = (BackendStatus::Warm, process, agent_session_id);
            }
            BackendState::Asked { agent_session_id } => (row.agent_session_id, row.seen_seq) = (agent_session_id, 0),
            BackendState::Dormant => (row.status, row.process) = (BackendStatus::Dormant, None),
            BackendState::Lost => {
                (row.status, row.process) = (BackendStatus::Dormant, None);
                (row.agent_session_id, row.seen_seq) = (None, 0);
            }
        }
        Ok(())
    }
}

/// How an executor is made: with homes in a folder, what is written down, an agent's manner, and further settings.
type Make = fn(&Path, &Arc<Rows>, &Tasks, &[&str], &str) -> Arc<dyn Executor>;

/// A session that talks to a demo agent.
pub(super) struct Talking {
    pub(super) home: TempDir,
    pub(super) rows: Arc<Rows>,
    tasks: Tasks,
    pub(super) pool: Arc<dyn Executor>,
    pub(super) history: Vec<NewMessage>,
    make: Make,
}

impl Talking {
    /// With an agent of this manner, configured with more than its command.
    fn to(manner: &[&str], more: &str) -> Self {
        Self::with(pool, manner, more)
    }

    pub(super) fn with(make: Make, manner: &[&str], more: &str) -> Self {
        let (home, rows, tasks) = (tempfile::tempdir().unwrap(), Arc::default(), Tasks::default());
        let pool = make(home.path(), &rows, &tasks, manner, more);
        Self { home, rows, tasks, pool, history: Vec::new(), make }
    }

    /// Another server, which finds what this one wrote down.
    pub(super) async fn restarted(self, manner: &[&str]) -> Self {
        self.pool.shut_down().await;
        let pool = (self.make)(self.home.path(), &self.rows, &self.tasks, manner, "");
        Self { pool, ..self }
    }

    pub(super) fn row(&self) -> AgentSession {
        self.rows.0.lock().unwrap()[&"s".parse().unwrap()].clone()
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut AgentSession)) {
        change(self.rows.0.lock().unwrap().get_mut(&"s".parse().unwrap()).unwrap());
    }

    /// As storage does when a run ends: what was asked something knows all.
    fn settle(&self) {
        let seen = i64::try_from(self.history.len()).unwrap();
        let mut rows = self.rows.0.lock().unwrap();
        for row in rows.values_mut().filter(|row| row.seen_seq == 0 && row.agent_session_id.is_some()) {
            row.seen_seq = seen;
        }
    }

    /// What the user says next, after all that was said. The run before has ended.
    pub(super) fn turn(&mut self, text: &str) -> Turn {
        self.settle();
        self.history.push(NewMessage::text(Role::User, text));
        turn(self.history.clone())
    }

    pub(super) fn running(&mut self, text: &str) -> Running {
        let turn = self.turn(text);
        Running::of(self.pool.clone(), turn)
    }

    /// Says something, and hears the answer out. The agent has seen all of it then.
    pub(super) async fn say(&mut self, text: &str) -> (Result<Outcome, Error>, Vec<String>) {
        let turn = self.turn(text);
        let (outcome, told) = finish(&*self.pool, turn).await;
        let spoken = told.iter().filter_map(|line| line.strip_prefix("text ")).collect::<String>();
        self.history.push(NewMessage::text(Role::Assistant, spoken));
        self.settle();
        (outcome, told)
    }

    /// What the agent says to something.
    pub(super) async fn hears(&mut self, text: &str) -> String {
        let (outcome, told) = self.say(text).await;
        assert_eq!(outcome.unwrap(), Outcome::Completed);
        told.iter().filter_map(|line| line.strip_prefix("text ")).collect()
    }

    /// The processes that are there for the session.
    fn processes(&self) -> Vec<i32> {
        marked(&self.row().id)
    }

    async fn until_gone(&self) {
        while !self.processes().is_empty() {
            tokio::task::yield_now().await;
        }
    }
}

fn pool(home: &Path, rows: &Arc<Rows>, tasks: &Tasks, manner: &[&str], more: &str) -> Arc<dyn Executor> {
    let command: Vec<&str> = [CULM, "demo-agent"].into_iter().chain(manner.iter().copied()).collect();
    launched(&command, Limits::default(), home, rows, tasks, more)
}

fn launched(
    command: &[&str],
    limits: Limits,
    home: &Path,
    rows: &Arc<Rows>,
    tasks: &Tasks,
    more: &str,
) -> Arc<dyn Executor> {
    let config: Config = toml::from_str(&format!("command = {command:?}\n{more}")).unwrap();
    let settings = config.settings().unwrap();
    let launcher = vec![CULM.into(), "launch-agent".into()];
    let launch = Launch { launcher, homes: home.join("homes"), tasks: tasks.clone() };
    let warmth = settings.warmth;
    let acp = Acp::new(settings, launch, Arc::new(NoAttachments), limits);
    Arc::new(Pool::start("demo".into(), acp, rows.clone(), warmth, tasks.clone()))
}

/// All processes that carry a backend's mark and have not ended.
pub(crate) fn marked(backend: &BackendId) -> Vec<i32> {
    let mark = format!("CULM_BACKEND={backend}");
    let pids = std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let carries = |pid: &i32| {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes())
    };
    pids.filter(carries).collect()
}

//! Executors tried out without a server: whether they start, and whether they answer. Nothing of it is kept.

use std::{collections::HashMap, io, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{Mutex, mpsc};
use tokio_util::sync::CancellationToken;

use super::{EVENTS, Error, Event, Executor, Outcome, Turn, config::Surroundings, process::Launch};
use crate::{
    agent_sessions::AgentSessions,
    attachments::AttachmentReader,
    model::{
        AgentSession, AttachmentId, BackendId, BackendState, BackendStatus, Limits, NewMessage, Role, RunId, SessionId,
        Timestamp,
    },
};

/// What an executor is asked.
const PROMPT: &str = "Say hello in one short sentence. Do nothing else.";

/// Rows of backends for as long as a trial takes, and no attachments.
#[derive(Default)]
struct Trial(Mutex<HashMap<SessionId, AgentSession>>);

#[async_trait]
impl AgentSessions for Trial {
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
            used_at: Timestamp::now(),
        };
        Ok(self.0.lock().await.entry(session.clone()).or_insert_with(made).clone())
    }

    async fn update_agent_session(&self, _: &BackendId, _: BackendState) -> io::Result<()> {
        Ok(())
    }
}

#[async_trait]
impl AttachmentReader for Trial {
    async fn read_attachment(&self, _: &SessionId, _: &AttachmentId, _: usize) -> io::Result<Option<(Bytes, String)>> {
        Ok(None)
    }
}

/// What executors are made with for a trial.
pub fn surroundings(launch: Launch, limits: Limits) -> Surroundings {
    Surroundings { attachments: Arc::new(Trial::default()), rows: Arc::new(Trial::default()), launch, limits }
}

/// Carries one turn out. What was answered.
pub async fn ask(executor: &dyn Executor) -> Result<String, Error> {
    let (send, mut events) = mpsc::channel(EVENTS);
    let work = executor.run(turn(), send, CancellationToken::new());
    let listening = async {
        let mut answer = String::new();
        while let Some(event) = events.recv().await {
            match event {
                Event::Message(message) => answer.push_str(&message.content),
                // Nobody is there to answer: the turn goes on without.
                Event::Question(question) => drop(question.answer),
                _ => {}
            }
        }
        answer
    };
    let (outcome, answer) = tokio::join!(work, listening);
    match outcome? {
        Outcome::Completed => Ok(answer),
        Outcome::Cancelled => Err(Error::Failed("it asks something, which nobody is there to answer".into())),
        Outcome::Skipped => Err(Error::Failed("it has nothing to say".into())),
    }
}

fn turn() -> Turn {
    Turn {
        run_id: RunId::mint(),
        session_id: SessionId::mint(),
        model: None,
        reasoning_effort: None,
        workspace: None,
        summary: None,
        messages: vec![NewMessage::text(Role::User, PROMPT).into_message(1, Timestamp::now())],
    }
}

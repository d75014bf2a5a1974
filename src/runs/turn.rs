//! One turn: what an executor tells is stored where it is durable, and told on where it is not.

use std::{future::Future, path::PathBuf, time::Duration};

use serde_json::json;
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;

use super::{Runs, failed};
use crate::{
    executor::{self, Event, Executor, Outcome, Question, Turn},
    feed::{Draft, Place},
    model::{
        NewMessage, PendingQuestion, RawObject, Role, Run, RunEnd, RunStatus, Session, SessionUpdate, WholeSession,
        Worktree, WorktreeState,
    },
    storage::{Error, Result, Storage},
};

/// How long fragments are gathered before they are told.
const GATHERED: Duration = Duration::from_millis(50);

/// What became of a turn.
enum Ending {
    /// The executor said so.
    Said(std::result::Result<Outcome, executor::Error>),
    /// It was told to stop, and did not within the grace period.
    Forced,
    /// Its run is over, or its session gone: nothing more is taken from it.
    Lost,
    /// What it said could not be stored.
    Refused(Error),
}

/// Has an executor carry a run out, until it ends or must. How the run ended.
pub(super) async fn follow(runs: &Runs, run: &Run, executor: &dyn Executor, cancel: &CancellationToken) -> RunEnd {
    // Not asked at all when it was cancelled before it began.
    if cancel.is_cancelled() {
        return RunEnd::with(RunStatus::Cancelled);
    }
    let loaded = async {
        let above = runs.0.repository.sessions_above(&run.session_id).await?;
        let worktree = runs.0.repository.worktree_of(&run.session_id).await?;
        Ok::<_, Error>((runs.0.repository.load(&run.session_id).await?, above, worktree))
    };
    let (session, above, worktree) = match loaded.await {
        Ok((Some(session), above, worktree)) => (session, above, worktree),
        Ok((None, ..)) | Err(Error::SessionNotFound(_)) => return RunEnd::with(RunStatus::Cancelled),
        Err(error) => return failed(error.to_string()),
    };
    if worktree.as_ref().is_some_and(|worktree| worktree.state == WorktreeState::Removing) {
        return failed("the worktree of its tree is half removed: that failed, and is tried again");
    }
    let place =
        Place { session_id: run.session_id.clone(), root_session_id: session.session.root_session_id.clone(), above };
    let (send, events) = mpsc::channel(executor::EVENTS);
    let work = executor.run(turn(run, session, worktree), send, cancel.clone());
    let draft = runs.0.feed.draft(place.clone(), run.id.clone());
    let mut telling = Telling { runs, run, place, draft, usage: None };
    let ending = telling.listen(work, events, cancel).await;
    telling.end(ending, cancel)
}

fn turn(run: &Run, whole: WholeSession, worktree: Option<Worktree>) -> Turn {
    let WholeSession { session, messages, .. } = whole;
    let Session { model, reasoning_effort, workspace, conversation_summary, .. } = session;
    let summary = conversation_summary.and_then(|summary| RawObject::try_from(summary).ok()?.field("content"));
    let there = worktree.filter(|worktree| worktree.state != WorktreeState::Creating);
    let workspace = there.map(|worktree| worktree.path.as_path().to_owned()).or(workspace.map(PathBuf::from));
    Turn {
        run_id: run.id.clone(),
        session_id: run.session_id.clone(),
        model: run.model.clone().or(model),
        reasoning_effort,
        workspace,
        summary,
        messages,
    }
}

/// What there is of a message that was being written, as one that says so.
fn partial(draft: &Draft) -> Option<NewMessage> {
    let (id, text, reasoning) = draft.take();
    if text.is_empty() && reasoning.is_empty() {
        return None;
    }
    Some(NewMessage {
        id: Some(id),
        reasoning: Some(reasoning).filter(|reasoning| !reasoning.is_empty()),
        metadata: Some(json!({ "partial": true }).into()),
        ..NewMessage::text(Role::Assistant, text)
    })
}

/// A turn that is under way.
struct Telling<'a> {
    runs: &'a Runs,
    run: &'a Run,
    place: Place,
    draft: Draft,
    usage: Option<RawObject>,
}

impl Telling<'_> {
    async fn listen(
        &mut self,
        work: impl Future<Output = std::result::Result<Outcome, executor::Error>>,
        mut events: mpsc::Receiver<Event>,
        cancel: &CancellationToken,
    ) -> Ending {
        tokio::pin!(work);
        let mut gathered = tokio::time::interval(GATHERED);
        gathered.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let forced = self.grace(cancel);
        tokio::pin!(forced);
        let mut telling = true;
        loop {
            tokio::select! {
                biased;
                () = &mut forced => return Ending::Forced,
                event = events.recv(), if telling => match event {
                    Some(event) => if let Err(error) = self.hear(event).await {
                        return lost_or(error);
                    },
                    None => telling = false,
                },
                said = &mut work => {
                    while let Ok(event) = events.try_recv() {
                        if let Err(error) = self.hear(event).await {
                            return lost_or(error);
                        }
                    }
                    return Ending::Said(said);
                }
                _ = gathered.tick() => self.runs.0.feed.tell(&self.draft),
            }
        }
    }

    /// The end of the grace period, once the run is cancelled.
    fn grace(&self, cancel: &CancellationToken) -> impl Future<Output = ()> + use<> {
        let (cancel, grace) = (cancel.clone(), self.runs.0.options.grace);
        async move {
            cancel.cancelled().await;
            tokio::time::sleep_until(Instant::now() + grace).await;
        }
    }

    async fn hear(&mut self, event: Event) -> Result<()> {
        match event {
            Event::TextDelta(text) => self.grow(&text, ""),
            Event::ReasoningDelta(text) => self.grow("", &text),
            Event::ToolProgress { tool_call_id, text } => {
                let data = json!({ "run_id": self.run.id, "tool_call_id": tool_call_id, "text": text });
                self.runs.0.feed.delta(&self.place, "tool.progress", data);
                Ok(())
            }
            Event::Message(message) => self.store(message).await,
            Event::Question(question) => self.ask(question).await,
            Event::Tasks(tasks) => {
                let update = SessionUpdate { task_list: Some(Some(tasks.into())), ..SessionUpdate::default() };
                self.runs.0.repository.update_session(&self.run.session_id, update, None).await.map(drop)
            }
            Event::Usage(usage) => {
                self.usage = Some(usage.into());
                Ok(())
            }
        }
    }

    fn grow(&mut self, text: &str, reasoning: &str) -> Result<()> {
        let limit = self.runs.0.options.message;
        if self.draft.bytes() + text.len() + reasoning.len() > limit {
            return Err(Error::Failed(format!("the executor writes a message of more than {limit} bytes")));
        }
        self.draft.grow(text, reasoning);
        Ok(())
    }

    /// A finished message stands for the fragments before it, under the id that they had.
    async fn store(&mut self, mut message: NewMessage) -> Result<()> {
        self.runs.0.feed.tell(&self.draft);
        let (id, ..) = self.draft.take();
        if message.role == Role::Assistant {
            message.id = Some(id);
        }
        self.runs.0.repository.append_run_messages(self.run, vec![message]).await.map(drop)
    }

    async fn ask(&mut self, question: Question) -> Result<()> {
        let Question { tool_call_id, tool_name, question, options, allow_custom, answer } = question;
        // First where the answer goes: it may come as soon as the question is stored.
        self.runs.registry().ask(&self.run.id, answer);
        let pending = PendingQuestion { question, options, allow_custom, tool_call_id, tool_name };
        self.runs.0.repository.ask_question(self.run, pending).await
    }

    fn end(self, ending: Ending, cancel: &CancellationToken) -> RunEnd {
        let cancelled = cancel.is_cancelled();
        let end = match ending {
            // Whatever comes after a cancel counts as cancelled.
            Ending::Forced | Ending::Lost => RunEnd::with(RunStatus::Cancelled),
            Ending::Said(Ok(Outcome::Completed)) => RunEnd::with(RunStatus::Completed),
            Ending::Said(Ok(Outcome::Skipped)) => RunEnd::with(RunStatus::Skipped),
            Ending::Said(_) if cancelled => RunEnd::with(RunStatus::Cancelled),
            Ending::Said(Ok(Outcome::Cancelled)) => failed("the executor stopped without being told to"),
            Ending::Said(Err(error)) => failed(error.to_string()),
            Ending::Refused(error) => failed(error.to_string()),
        };
        RunEnd { usage: self.usage, partial: partial(&self.draft), ..end }
    }
}

fn lost_or(error: Error) -> Ending {
    match error {
        Error::RunOver(_) | Error::RunNotFound(_) | Error::SessionDeleted(_) | Error::SessionNotFound(_) => {
            Ending::Lost
        }
        error => Ending::Refused(error),
    }
}

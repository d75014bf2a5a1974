//! Child sessions: what a parent can do with those below it. Joins sessions and runs.
//!
//! A child and its run are written together, by storage; here the executor is found before that, so that nothing is
//! stored or interrupted for a run that cannot be. What belongs together runs in a task of its own: a client that
//! leaves breaks nothing.

use crate::{
    lifecycle,
    model::{
        Archived, ChildStep, ChildUpdate, ContinuedChild, CreatedChild, DeleteOptions, DeleteReceipt, Message,
        MessageFilter, NewChild, NewMessage, NewRun, Order, PAGE_BYTES, Page, Position, Role, RunFilter, RunId,
        Session, SessionFilter, SessionId, UpdatedChild, Window,
    },
    runs::{Error, Runs},
    storage::{self, Claim, Storage},
    worktree::Worktrees,
};

/// Creates a child, and asks for its first run unless it is to wait.
pub async fn create(
    runs: &Runs,
    parent: &SessionId,
    new: NewChild,
    claim: Option<Claim>,
) -> Result<CreatedChild, Error> {
    let run = match new.auto_run {
        true => Some(run_on(runs.executor_for(parent, new.executor.clone()).await?)),
        false => None,
    };
    let (depth, parent) = (runs.options().max_child_depth, parent.clone());
    let (runs, tasks) = (runs.clone(), runs.repository().tasks().clone());
    tasks
        .detached(async move {
            let created = runs.repository().create_child(&parent, new, depth, run, claim).await?;
            runs.wake();
            Ok(created)
        })
        .await
}

fn run_on(executor: String) -> NewRun {
    NewRun { id: None, executor, model: None, message: None }
}

/// The children of a session, newest first.
pub async fn list(
    runs: &Runs,
    parent: &SessionId,
    after: Option<Position>,
    limit: i64,
) -> storage::Result<Page<Session>> {
    found(runs, parent).await?;
    let filter = SessionFilter {
        parent: Some(parent.clone()),
        archived: Some(Archived::All),
        order: Some(Order::Created),
        ..SessionFilter::default()
    };
    runs.repository().sessions(&filter, after, limit).await
}

async fn found(runs: &Runs, id: &SessionId) -> storage::Result<Session> {
    runs.repository().session(id).await?.ok_or_else(|| storage::Error::SessionNotFound(id.clone()))
}

/// A child of this parent. The place of a session in its tree is for life: what is true once stays so.
pub async fn child(runs: &Runs, parent: &SessionId, child: &SessionId) -> storage::Result<Session> {
    found(runs, parent).await?;
    let session = found(runs, child).await?;
    match &session.parent_session_id {
        None => Err(storage::Error::NotChildSession(child.clone())),
        Some(above) if above == parent => Ok(session),
        Some(_) => Err(storage::Error::NotChildOfParent { child: child.clone(), parent: parent.clone() }),
    }
}

/// The last user message of a session.
pub async fn latest_user_message(runs: &Runs, id: &SessionId) -> storage::Result<Option<Message>> {
    let filter = MessageFilter { window: Window::Last, limit: 1, bytes: PAGE_BYTES, role: Some(Role::User) };
    Ok(runs.repository().messages(id, filter).await?.messages.pop())
}

/// Changes a child, and what it is assigned.
pub async fn update(
    runs: &Runs,
    parent: &SessionId,
    child: &SessionId,
    update: ChildUpdate,
) -> storage::Result<UpdatedChild> {
    runs.repository().update_child(parent, child, update).await
}

/// Runs a child again. What runs there already goes on, and is the answer.
pub async fn run(runs: &Runs, parent: &SessionId, child: &SessionId, reset: bool) -> Result<ContinuedChild, Error> {
    let next = Some(next_run(runs, parent, child).await?);
    let (runs, parent, child) = (runs.clone(), parent.clone(), child.clone());
    let tasks = runs.repository().tasks().clone();
    tasks
        .detached(async move {
            let step = ChildStep::Retry { reset };
            let continued = runs.repository().continue_child(&parent, &child, step, next, None).await?;
            runs.wake();
            Ok(continued)
        })
        .await
}

/// The next run of a child: on the executor that it had, where that is still there.
async fn next_run(runs: &Runs, parent: &SessionId, child: &SessionId) -> Result<NewRun, Error> {
    let filter = RunFilter { session: Some(child.clone()), ..RunFilter::default() };
    let last = match runs.repository().runs(&filter, None, 1).await {
        Ok(mut page) => page.items.pop(),
        // Whether it was deleted or never there is the write's to say.
        Err(storage::Error::SessionNotFound(_)) => None,
        Err(error) => return Err(error.into()),
    };
    let known = last.and_then(|run| runs.executor(Some(run.executor)).ok());
    match known.map_or_else(|| runs.executor(None), Ok) {
        Ok(name) => Ok(run_on(name)),
        // That there is such a child is said first.
        Err(error) => {
            runs.check_session(parent).await?;
            runs.check_session(child).await?;
            self::child(runs, parent, child).await?;
            Err(error)
        }
    }
}

/// A message to a child.
pub struct Send {
    /// The message.
    pub message: NewMessage,
    /// Whether the child runs with it at once.
    pub auto_run: bool,
    /// Whether what runs there is cancelled first.
    pub interrupt: bool,
}

/// Sends a message to a child. Nothing is interrupted unless the message can be taken.
pub async fn send(
    runs: &Runs,
    parent: &SessionId,
    id: &SessionId,
    send: Send,
    claim: Option<Claim>,
) -> Result<ContinuedChild, Error> {
    let (runs, parent, id) = (runs.clone(), parent.clone(), id.clone());
    let tasks = runs.repository().tasks().clone();
    tasks
        .detached(async move {
            let next = match send.auto_run {
                true => Some(next_run(&runs, &parent, &id).await?),
                false => None,
            };
            let take = || {
                let step = ChildStep::Take(Box::new(send.message.clone()));
                runs.repository().continue_child(&parent, &id, step, next.clone(), claim.clone())
            };
            let is_there = send.interrupt && is_child(&runs, &parent, &id).await?;
            let continued = match is_there {
                true => runs.interrupting(&id, take).await?,
                false => take().await?,
            };
            runs.wake();
            Ok(continued)
        })
        .await
}

/// Whether there is such a child. One that is not there has nothing to stop: the write says what became of it.
async fn is_child(runs: &Runs, parent: &SessionId, id: &SessionId) -> storage::Result<bool> {
    match child(runs, parent, id).await {
        Ok(_) => Ok(true),
        Err(storage::Error::SessionNotFound(_)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Cancels what runs in a child, and below it where asked, and waits until it has stopped.
pub async fn cancel(runs: &Runs, parent: &SessionId, id: &SessionId, below: bool) -> storage::Result<Vec<RunId>> {
    child(runs, parent, id).await?;
    let (runs, id) = (runs.clone(), id.clone());
    let tasks = runs.repository().tasks().clone();
    tasks.detached(async move { runs.cancel_session(&id, below).await }).await
}

/// Deletes a child and everything below it, and stops what ran there.
pub async fn delete(
    runs: &Runs,
    worktrees: &Worktrees,
    parent: &SessionId,
    id: &SessionId,
) -> storage::Result<DeleteReceipt> {
    child(runs, parent, id).await?;
    lifecycle::delete(runs, worktrees, id, DeleteOptions::default()).await
}

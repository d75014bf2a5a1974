//! Children: created, changed and continued, each with their messages and their run in one transaction.

use serde_json::{Value, json};
use sqlx::SqliteConnection;

use super::{
    error, events, idempotency, messages, runs,
    sessions::{self, SessionRow},
};
use crate::{
    model::{
        CHILD_COMPRESSION, CHILD_SYSTEM_PROMPT, ChildStep, ChildUpdate, ContinuedChild, CreatedChild, EventKind,
        MessageId, NewChild, NewMessage, NewRun, RawJson, RawObject, Role, Run, RunStatus, Session, SessionId,
        SessionUpdate, Timestamp, UpdatedChild, assignment,
    },
    storage::{Claim, Error, Result},
};

/// A child to create, with the ids that it and its parts will have.
pub(super) struct Create {
    parent: SessionId,
    id: SessionId,
    new: NewChild,
    max_depth: i64,
    run: Option<runs::Create>,
    messages: [NewMessage; 2],
    claim: Option<Claim>,
}

impl Create {
    pub(super) fn new(
        parent: &SessionId,
        mut new: NewChild,
        max_depth: i64,
        run: Option<NewRun>,
        claim: Option<Claim>,
    ) -> Self {
        let id = new.id.get_or_insert_with(SessionId::mint).clone();
        let run = run.map(|run| runs::Create::new(&id, run, None));
        let assignment = assignment(&new.title, &new.responsibility, &new.subagent_type, &new.prompt);
        let messages = [(Role::System, CHILD_SYSTEM_PROMPT), (Role::User, assignment.as_str())]
            .map(|(role, text)| NewMessage { id: Some(MessageId::mint()), ..NewMessage::text(role, text) });
        Self { parent: parent.clone(), id, new, max_depth, run, messages, claim }
    }

    /// The child below this parent, with what it takes over.
    fn session(&self, parent: SessionRow) -> Session {
        let new = &self.new;
        let mut session = Session::new(self.id.clone());
        sessions::place(&mut session, Some(&parent));
        let parent = parent.into_session();
        session.title.clone_from(&new.title);
        session.model = parent.model;
        session.provider = parent.provider;
        session.model_ref = parent.model_ref;
        session.reasoning_effort = parent.reasoning_effort;
        session.workspace = parent.workspace;
        session.token_budget = parent.token_budget.map(compressed_earlier);
        session.task_list = parent.task_list;
        session.subagent_type = Some(new.subagent_type.clone());
        session.responsibility = Some(new.responsibility.clone());
        session.prompt = Some(new.prompt.clone());
        session.last_run_status = Some(RunStatus::Pending);
        let model = new.model.clone().filter(|model| !model.is_empty()).map(Some);
        SessionUpdate { model, ..SessionUpdate::default() }.apply(&mut session);
        session
    }
}

fn compressed_earlier(budget: RawJson) -> RawJson {
    match RawObject::try_from(budget) {
        Ok(mut fields) => {
            let (trigger, target) = CHILD_COMPRESSION;
            fields.insert("compression_trigger_percent", &trigger);
            fields.insert("compression_target_percent", &target);
            fields.into()
        }
        Err(other) => other,
    }
}

pub(super) async fn create(conn: &mut SqliteConnection, input: &Create) -> Result<CreatedChild> {
    let hash = sessions::hash(&(&input.new, &input.parent));
    if let Some(there) = sessions::created_from(conn, &input.id, &hash).await? {
        let run = runs::first_of(conn, there.session_key).await?;
        return created(conn, input, run).await;
    }
    let parent = sessions::row_to_write(conn, &input.parent).await?;
    if parent.spawn_depth >= input.max_depth {
        return Err(Error::NotRootSession(input.parent.clone()));
    }
    sessions::add(conn, &input.session(parent), &hash).await?;
    runs::add(conn, &input.id, 0, &input.messages, None).await?;
    let run = match &input.run {
        Some(run) => Some(runs::create(conn, run).await?),
        None => None,
    };
    created(conn, input, run).await
}

async fn created(conn: &mut SqliteConnection, input: &Create, run: Option<Run>) -> Result<CreatedChild> {
    let ids = json!({ "session": input.id, "run": run.as_ref().map(|run| &run.id) });
    keep(conn, input.claim.as_ref(), 201, ids).await?;
    Ok(CreatedChild { child: sessions::row_to_write(conn, &input.id).await?.into_session(), run })
}

async fn keep(conn: &mut SqliteConnection, claim: Option<&Claim>, status: u16, ids: Value) -> Result<()> {
    match claim {
        Some(claim) => idempotency::keep(conn, claim, status, &ids).await,
        None => Ok(()),
    }
}

/// A child below its parent.
pub(super) struct Place {
    pub(super) parent: SessionId,
    pub(super) child: SessionId,
}

impl Place {
    /// The child's row, if the child is this parent's.
    async fn row(&self, conn: &mut SqliteConnection) -> Result<SessionRow> {
        sessions::row_to_write(conn, &self.parent).await?;
        let row = sessions::row_to_write(conn, &self.child).await?;
        match &row.parent_session_id {
            None => Err(Error::NotChildSession(self.child.clone())),
            Some(parent) if *parent == self.parent => Ok(row),
            Some(_) => Err(Error::NotChildOfParent { child: self.child.clone(), parent: self.parent.clone() }),
        }
    }
}

/// A child's changes.
pub(super) struct Update {
    pub(super) place: Place,
    pub(super) update: ChildUpdate,
    /// The id of the assignment, where there is no user message to hold it.
    pub(super) message: MessageId,
}

pub(super) async fn update(conn: &mut SqliteConnection, input: &Update) -> Result<UpdatedChild> {
    let row = input.place.row(conn).await?;
    sessions::check_idle(conn, &row).await?;
    let key = row.session_key;
    let before = row.into_session();
    let mut after = before.clone();
    let assigned = apply(&input.update, &mut after)?;
    if after != before {
        after.version += 1;
        after.updated_at = after.updated_at.max(Timestamp::now());
        sessions::write(conn, key, &after).await?;
        let told = json!({ "title": after.title, "pinned": after.pinned, "last_run_status": after.last_run_status });
        events::tell(conn, key, EventKind::SessionUpdated, told).await?;
    }
    let messages_removed = match assigned {
        Some(text) => reassign(conn, key, before.last_seq, input, text).await?,
        None => 0,
    };
    let child = sessions::row_to_write(conn, &input.place.child).await?.into_session();
    Ok(UpdatedChild { child, messages_removed })
}

/// Makes the changes on a copy of the row. The new assignment, if there is one.
fn apply(update: &ChildUpdate, child: &mut Session) -> Result<Option<String>> {
    if let Some(title) = &update.title {
        child.title.clone_from(title);
    }
    if !update.assigns() {
        return Ok(None);
    }
    let effective = |given: &Option<String>, kept: &Option<String>, name| {
        let kept = || kept.clone().filter(|text| !text.trim().is_empty());
        given.clone().or_else(kept).ok_or(Error::ChildIncomplete(name))
    };
    let responsibility = effective(&update.responsibility, &child.responsibility, "responsibility")?;
    let subagent_type = effective(&update.subagent_type, &child.subagent_type, "subagent_type")?;
    let prompt = effective(&update.prompt, &child.prompt, "prompt")?;
    let text = assignment(&child.title, &responsibility, &subagent_type, &prompt);
    child.responsibility = Some(responsibility);
    child.subagent_type = Some(subagent_type);
    child.prompt = Some(prompt);
    child.last_run_status = Some(RunStatus::Pending);
    child.last_run_error = None;
    Ok(Some(text))
}

/// Puts a new assignment in the place of the last user message. Messages that were cut off after it.
async fn reassign(conn: &mut SqliteConnection, key: i64, last_seq: i64, input: &Update, text: String) -> Result<i64> {
    let Some(seq) = messages::last_of_user(conn, key).await? else {
        let message = NewMessage { id: Some(input.message.clone()), ..NewMessage::text(Role::User, text) };
        runs::add(conn, &input.place.child, last_seq, &[message], None).await?;
        messages::forget_derived(conn, key).await?;
        return Ok(0);
    };
    let now = Timestamp::now().0;
    // What a message is in pieces would contradict its new text.
    let rewrite = sqlx::query_scalar!(
        r#"update messages set content = ?3, parts = null, updated_at = ?4
           where session_key = ?1 and seq = ?2 returning id as "id!: String""#,
        key,
        seq,
        text,
        now
    );
    let id = rewrite.fetch_one(&mut *conn).await.map_err(error::of)?;
    events::tell_updated(conn, key, &id).await?;
    let removed = match input.update.reset_after_update {
        true => cut_after(conn, key, seq).await?,
        false => 0,
    };
    messages::forget_derived(conn, key).await?;
    Ok(removed)
}

/// Cuts off what is after a place: with it goes a question that was asked there.
async fn cut_after(conn: &mut SqliteConnection, key: i64, seq: i64) -> Result<i64> {
    let (messages_removed, changed) = messages::cut_after(conn, key, seq).await?;
    if changed {
        events::tell(conn, key, EventKind::MessagesTruncated, json!({ "messages_removed": messages_removed })).await?;
        messages::forget_derived(conn, key).await?;
        runs::withdraw_question(conn, key).await?;
    }
    Ok(messages_removed)
}

/// A child to give something to do.
pub(super) struct Continue {
    place: Place,
    step: ChildStep,
    run: Option<runs::Create>,
    claim: Option<Claim>,
}

impl Continue {
    pub(super) fn new(place: Place, mut step: ChildStep, run: Option<NewRun>, claim: Option<Claim>) -> Self {
        let mut run = run;
        if let ChildStep::Take(message) = &mut step {
            message.id.get_or_insert_with(MessageId::mint);
            if let Some(run) = &mut run {
                run.message = Some(NewMessage::clone(message));
            }
        }
        let run = run.map(|run| runs::Create::new(&place.child, run, None));
        Self { place, step, run, claim }
    }
}

pub(super) async fn proceed(conn: &mut SqliteConnection, input: &Continue) -> Result<ContinuedChild> {
    let row = input.place.row(conn).await?;
    let (key, last_seq) = (row.session_key, row.last_seq);
    if let (ChildStep::Retry { .. }, Some(run)) = (&input.step, runs::active_of(conn, key).await?) {
        let child = row.into_session();
        return Ok(ContinuedChild { child, messages_removed: 0, run: Some(run), was_active: true });
    }
    sessions::check_idle(conn, &row).await?;
    let messages_removed = match &input.step {
        ChildStep::Retry { reset: true } => {
            let last = messages::last_of_user(conn, key).await?.ok_or(Error::NoUserMessage)?;
            cut_after(conn, key, last).await?
        }
        _ => 0,
    };
    let run = match &input.run {
        Some(run) => Some(runs::create(conn, run).await?),
        None => leave_for_later(conn, key, last_seq, input).await?,
    };
    let message = match &input.step {
        ChildStep::Take(message) => message.id.as_ref(),
        ChildStep::Retry { .. } => None,
    };
    let ids = json!({ "message": message, "run": run.as_ref().map(|run| &run.id) });
    keep(conn, input.claim.as_ref(), 202, ids).await?;
    let child = sessions::row_to_write(conn, &input.place.child).await?.into_session();
    Ok(ContinuedChild { child, messages_removed, run, was_active: false })
}

/// Stores what the child is to do when it next runs. No run.
async fn leave_for_later(
    conn: &mut SqliteConnection,
    key: i64,
    last_seq: i64,
    input: &Continue,
) -> Result<Option<Run>> {
    if let ChildStep::Take(message) = &input.step {
        runs::add(conn, &input.place.child, last_seq, std::slice::from_ref(message), None).await?;
    }
    runs::follow(conn, key, RunStatus::Pending, None, None).await?;
    let told = json!({ "last_run_status": RunStatus::Pending });
    events::tell(conn, key, EventKind::SessionUpdated, told).await?;
    Ok(None)
}

//! Runs: asked for, taken, ended; their questions and answers.
//!
//! **One active run per session**, by the unique index `runs_active`; and every run ends: whatever is running when the
//! database is opened has lost its process, and is settled.

use serde_json::{Value, json};
use sqlx::{SqliteConnection, SqlitePool};

use super::{
    append::{self, Opens, Tells},
    backends,
    bounded::{self, Read},
    error, events,
    events::NewEvent,
    idempotency, sessions,
    types::{self, Raw, Word},
    usage,
};
use crate::{
    model::{
        Answered, Appended, EventKind, Message, MessageId, NewMessage, NewRun, Page, PendingQuestion, Position,
        RawObject, Reply, Role, Run, RunEnd, RunFilter, RunId, RunStatus, SessionId, Timestamp,
    },
    storage::{Claim, Error, Result},
};

/// A run's row, with the keys of its session and the session above.
struct Row {
    key: i64,
    session_key: i64,
    parent_key: Option<i64>,
    id: RunId,
    session_id: SessionId,
    executor: String,
    model: Option<String>,
    status: Word<RunStatus>,
    attempt: i64,
    created_at: Timestamp,
    started_at: Option<Timestamp>,
    finished_at: Option<Timestamp>,
    error: Option<String>,
    usage: Option<Raw>,
    first_seq: Option<i64>,
    last_seq: Option<i64>,
}

impl Row {
    /// About how many bytes it has in memory, and as JSON.
    fn bytes(&self) -> usize {
        let of = |text: Option<&str>| text.map_or(0, str::len);
        of(self.error.as_deref()) + of(self.usage.as_ref().map(|usage| usage.0.as_str())) + 512
    }

    fn into_run(self) -> Run {
        Run {
            id: self.id,
            session_id: self.session_id,
            executor: self.executor,
            model: self.model,
            status: self.status.0,
            attempt: self.attempt,
            created_at: self.created_at,
            started_at: self.started_at,
            finished_at: self.finished_at,
            error: self.error,
            usage: self.usage.map(Raw::object),
            first_seq: self.first_seq,
            last_seq: self.last_seq,
        }
    }

    /// What is told of the session, and of the one above.
    fn news(&self, own: EventKind, above: EventKind, data: Value) -> Vec<NewEvent> {
        let mut told = vec![NewEvent::new(self.session_key, own, data.clone())];
        if let Some(parent) = self.parent_key {
            let mut data = data;
            data["child_session_id"] = json!(self.session_id);
            told.push(NewEvent::new(parent, above, data));
        }
        told
    }
}

/// The one list of columns. Runs are looked at first: among many sessions few have one that is asked for. The few active
/// ones are found by their index where nothing else is (a `+` keeps their order from being it).
macro_rules! select_runs {
    ($rest:literal, $($value:expr),*) => {
        sqlx::query_as!(
            Row,
            r#"select r.run_key as "key!: i64", r.session_key as "session_key!: i64", s.parent_key as "parent_key?: i64",
                 r.id as "id: RunId", s.id as "session_id: SessionId", r.executor, r.model, r.status as "status: Word<RunStatus>",
                 r.attempt, r.created_at as "created_at: Timestamp", r.started_at as "started_at: Timestamp",
                 r.finished_at as "finished_at: Timestamp", r.error, r.usage as "usage: Raw", r.first_seq, r.last_seq
               from runs r cross join live_sessions s using (session_key) "# + $rest,
            $($value),*
        )
    };
}

/// A run to ask for.
pub(super) struct Create {
    pub(super) session: SessionId,
    pub(super) id: RunId,
    pub(super) new: NewRun,
    pub(super) claim: Option<Claim>,
}

impl Create {
    pub(super) fn new(session: &SessionId, mut new: NewRun, claim: Option<Claim>) -> Self {
        let id = new.id.get_or_insert_with(RunId::mint).clone();
        if let Some(message) = &mut new.message {
            message.id.get_or_insert_with(MessageId::mint);
        }
        Self { session: session.clone(), id, new, claim }
    }
}

pub(super) async fn create(conn: &mut SqliteConnection, input: &Create) -> Result<Run> {
    let session = sessions::row_to_write(conn, &input.session).await?;
    if row(conn, &input.id).await?.is_some() {
        return Err(Error::RunExists(input.id.clone()));
    }
    sessions::check_idle(conn, &session).await?;
    let (key, now) = (session.session_key, Timestamp::now());
    if let Some(message) = &input.new.message {
        add(conn, &input.session, session.last_seq, std::slice::from_ref(message), None).await?;
    }
    let id = input.id.as_str();
    let insert = sqlx::query!(
        "insert into runs (id, session_key, executor, model, status, created_at) values (?1, ?2, ?3, ?4, 'pending', ?5)",
        id,
        key,
        input.new.executor,
        input.new.model,
        now.0
    );
    insert.execute(&mut *conn).await.map_err(error::of)?;
    let reopen =
        sqlx::query!("update sessions set closed_at = null where session_key = ?1 and closed_at is not null", key);
    reopen.execute(&mut *conn).await.map_err(error::of)?;
    follow(conn, key, RunStatus::Pending, None, None).await?;
    // Who goes on without answering what an interrupted run asked.
    withdraw_question(conn, key).await?;
    let told = json!({ "last_run_status": RunStatus::Pending, "run_id": input.id });
    events::tell(conn, key, EventKind::SessionUpdated, told).await?;
    if let Some(claim) = &input.claim {
        idempotency::keep(conn, claim, 202, &json!({ "run": input.id })).await?;
    }
    Ok(row_of(conn, &input.id).await?.into_run())
}

async fn row(conn: &mut SqliteConnection, id: &RunId) -> Result<Option<Row>> {
    let id = id.as_str();
    select_runs!("where r.id = ?1", id).fetch_optional(conn).await.map_err(error::of)
}

async fn row_of(conn: &mut SqliteConnection, id: &RunId) -> Result<Row> {
    row(conn, id).await?.ok_or_else(|| Error::RunNotFound(id.clone()))
}

/// The session's columns follow its runs.
pub(super) async fn follow(
    conn: &mut SqliteConnection,
    session: i64,
    status: RunStatus,
    error: Option<&str>,
    usage: Option<&RawObject>,
) -> Result<()> {
    let (status, usage, now) = (types::word(&status), usage.map(types::object), Timestamp::now().0);
    let follow = sqlx::query!(
        "update sessions set last_run_status = ?2, last_run_error = ?3, token_usage = coalesce(?4, token_usage),
           version = version + 1, updated_at = max(updated_at, ?5), last_activity_at = max(last_activity_at, ?5)
         where session_key = ?1",
        session,
        status,
        error,
        usage,
        now
    );
    follow.execute(conn).await.map(drop).map_err(error::of)
}

/// Adds messages at the end of a history, those of a run with its id.
pub(super) async fn add(
    conn: &mut SqliteConnection,
    session: &SessionId,
    last_seq: i64,
    messages: &[NewMessage],
    run: Option<&RunId>,
) -> Result<Vec<Message>> {
    let now = Timestamp::now();
    let placed = messages.iter().cloned().zip(last_seq + 1..);
    let messages: Vec<Message> =
        placed.map(|(new, seq)| Message { run_id: run.cloned(), ..new.into_message(seq, now) }).collect();
    let rows: Vec<_> = messages.iter().map(|message| (session.clone(), message.clone())).collect();
    append::insert(conn, &rows, Opens::At(now), Tells::Yes).await?;
    Ok(messages)
}

/// The run of a session that is pending or running.
pub(super) async fn active_of(conn: &mut SqliteConnection, session: i64) -> Result<Option<Run>> {
    let row = select_runs!("where r.session_key = ?1 and r.status in ('pending', 'running')", session);
    Ok(row.fetch_optional(conn).await.map_err(error::of)?.map(Row::into_run))
}

/// The first run of a session.
pub(super) async fn first_of(conn: &mut SqliteConnection, session: i64) -> Result<Option<Run>> {
    let row = select_runs!("where r.session_key = ?1 order by r.run_key limit 1", session);
    Ok(row.fetch_optional(conn).await.map_err(error::of)?.map(Row::into_run))
}

pub(super) async fn find(pool: &SqlitePool, id: &RunId) -> Result<Option<Run>> {
    let mut conn = pool.acquire().await.map_err(error::of)?;
    Ok(row(&mut conn, id).await?.map(Row::into_run))
}

pub(super) async fn page(
    pool: &SqlitePool,
    filter: &RunFilter,
    after: Option<Position>,
    limit: i64,
) -> Result<Page<Run>> {
    let (before, more) = (after.map_or(i64::MAX, |place| place.key), limit + 1);
    let (status, executor) = (filter.status.as_ref().map(types::word), filter.executor.as_deref());
    let session = match &filter.session {
        Some(session) => Some(sessions::key_to_read(pool, session).await?),
        None => None,
    };
    // One query for each index that drives: a condition that may be absent drives none.
    macro_rules! fetch {
        ($rest:literal, $($value:expr),*) => { bounded::read(select_runs!($rest, $($value),*).fetch(pool), Row::bytes).await };
    }
    let read = match (session, status, executor) {
        (Some(key), Some(status), executor) => fetch!(
            "where r.session_key = ?1 and r.status = ?2 and r.run_key < ?3 and (?4 is null or r.executor = ?4)
                 order by r.run_key desc limit ?5",
            key,
            status,
            before,
            executor,
            more
        ),
        (Some(key), None, executor) => fetch!(
            "where r.session_key = ?1 and r.run_key < ?2 and (?3 is null or r.executor = ?3)
                 order by r.run_key desc limit ?4",
            key,
            before,
            executor,
            more
        ),
        (None, Some(status), Some(executor)) => fetch!(
            "where r.executor = ?1 and r.status = ?2 and r.run_key < ?3 order by r.run_key desc limit ?4",
            executor,
            status,
            before,
            more
        ),
        (None, Some(status), None) => {
            fetch!("where r.status = ?1 and r.run_key < ?2 order by r.run_key desc limit ?3", status, before, more)
        }
        (None, None, Some(executor)) => {
            fetch!("where r.executor = ?1 and r.run_key < ?2 order by r.run_key desc limit ?3", executor, before, more)
        }
        (None, None, None) => fetch!("where r.run_key < ?1 order by r.run_key desc limit ?2", before, more),
    };
    let Read { rows, unread } = read?;
    let rows = rows.into_iter().map(|row| (Position { at: row.created_at.0, key: row.key }, row.into_run()));
    Ok(Page::cut_where(rows.collect(), limit, unread))
}

pub(super) async fn active(pool: &SqlitePool, id: &SessionId, below: bool) -> Result<Vec<Run>> {
    let key = sessions::key_to_read(pool, id).await?;
    if !below {
        let run = select_runs!("where r.session_key = ?1 and r.status in ('pending', 'running')", key);
        return Ok(run.fetch_optional(pool).await.map_err(error::of)?.map(Row::into_run).into_iter().collect());
    }
    // The active ones are few, whatever the tree has: each is asked whether the session is above it.
    let rows = select_runs!(
        "where r.status in ('pending', 'running') and s.root_key = (select root_key from sessions where session_key = ?1)
           and ?1 in (
             with recursive above (k) as (
               select r.session_key
               union all
               select a.parent_key from sessions a join above on a.session_key = above.k where a.parent_key is not null
             )
             select k from above
           ) order by +r.run_key",
        key
    );
    let rows = rows.fetch_all(pool).await.map_err(error::of)?;
    Ok(rows.into_iter().map(Row::into_run).collect())
}

pub(super) async fn claim(conn: &mut SqliteConnection, limit: i64) -> Result<Vec<Run>> {
    // Where a worktree is being removed, nothing begins to work in it. One whose removal failed is not waited for: it can
    // take long, and who carries the run out says so.
    let rows = select_runs!(
        "where r.status in ('pending', 'running') and r.status = 'pending' and not exists (
           -- The worktree first: jobs are looked through only for one that is being removed.
           select 1 from worktrees w cross join sessions root on root.session_key = w.root_key
           where w.root_key = s.root_key and w.state = 'removing' and not exists (
             select 1 from teardown_jobs j
             where j.kind = 'worktree' and j.last_error is not null and j.payload ->> 'session_id' = root.id)
         ) order by +r.run_key limit ?1",
        limit
    );
    let rows = rows.fetch_all(&mut *conn).await.map_err(error::of)?;
    let now = Timestamp::now();
    let mut runs = Vec::with_capacity(rows.len());
    for row in rows {
        let start =
            sqlx::query!("update runs set status = 'running', started_at = ?2 where run_key = ?1", row.key, now.0);
        start.execute(&mut *conn).await.map_err(error::of)?;
        follow(conn, row.session_key, RunStatus::Running, None, None).await?;
        let told = json!({ "run_id": row.id, "executor": row.executor });
        events::record(conn, &row.news(EventKind::RunStarted, EventKind::ChildStarted, told)).await?;
        runs.push(Run { status: RunStatus::Running, started_at: Some(now), ..row.into_run() });
    }
    Ok(runs)
}

/// Messages of a run.
pub(super) struct Said {
    pub(super) run: RunId,
    pub(super) messages: Vec<NewMessage>,
}

pub(super) async fn append_messages(conn: &mut SqliteConnection, input: &Said) -> Result<Appended> {
    let row = running(conn, &input.run).await?;
    let session = sessions::row_to_write(conn, &row.session_id).await?;
    let messages = add(conn, &row.session_id, session.last_seq, &input.messages, Some(&input.run)).await?;
    let last_seq = messages.last().map_or(session.last_seq, |message| message.seq);
    note_places(conn, row.key, &messages).await?;
    Ok(Appended { messages, last_seq })
}

async fn running(conn: &mut SqliteConnection, id: &RunId) -> Result<Row> {
    match row_of(conn, id).await? {
        row if row.status.0 == RunStatus::Running => Ok(row),
        _ => Err(Error::RunOver(id.clone())),
    }
}

async fn note_places(conn: &mut SqliteConnection, run: i64, messages: &[Message]) -> Result<()> {
    let (Some(first), Some(last)) = (messages.first(), messages.last()) else { return Ok(()) };
    let note = sqlx::query!(
        "update runs set first_seq = coalesce(first_seq, ?2), last_seq = ?3 where run_key = ?1",
        run,
        first.seq,
        last.seq
    );
    note.execute(conn).await.map(drop).map_err(error::of)
}

/// A run's end.
pub(super) struct Finish {
    pub(super) run: RunId,
    pub(super) end: RunEnd,
}

pub(super) async fn finish(conn: &mut SqliteConnection, input: &Finish) -> Result<Run> {
    let row = row_of(conn, &input.run).await?;
    if row.status.0.is_terminal() {
        return Ok(row.into_run());
    }
    let end = &input.end;
    if let Some(partial) = &end.partial {
        let session = sessions::row_to_write(conn, &row.session_id).await?;
        let partial = std::slice::from_ref(partial);
        let messages = add(conn, &row.session_id, session.last_seq, partial, Some(&input.run)).await?;
        note_places(conn, row.key, &messages).await?;
    }
    end_row(conn, &row, end).await?;
    backends::note_seen(conn, row.session_key, &row.executor, row.started_at).await?;
    if end.status != RunStatus::Interrupted {
        withdraw_question(conn, row.session_key).await?;
    }
    Ok(row_of(conn, &input.run).await?.into_run())
}

async fn end_row(conn: &mut SqliteConnection, row: &Row, end: &RunEnd) -> Result<()> {
    let (status, usage, now) = (types::word(&end.status), end.usage.as_ref().map(types::object), Timestamp::now().0);
    let write = sqlx::query!(
        "update runs set status = ?2, error = ?3, usage = ?4, finished_at = ?5 where run_key = ?1",
        row.key,
        status,
        end.error,
        usage,
        now
    );
    write.execute(&mut *conn).await.map_err(error::of)?;
    if let Some(used) = &end.usage {
        usage::log_run(conn, &row.session_id, (&row.id, &row.executor, row.model.as_ref()), used.clone()).await?;
    }
    follow(conn, row.session_key, end.status, end.error.as_deref(), end.usage.as_ref()).await?;
    let mut told = json!({ "run_id": row.id, "status": end.status });
    if let Some(error) = &end.error {
        told["error"] = json!(error);
    }
    events::record(conn, &row.news(EventKind::RunFinished, EventKind::ChildFinished, told)).await
}

/// With the run that asked, nobody waits for the answer any more.
pub(super) async fn withdraw_question(conn: &mut SqliteConnection, session: i64) -> Result<()> {
    match take_question(conn, session).await? {
        true => events::tell(conn, session, EventKind::QuestionAnswered, json!({ "withdrawn": true })).await,
        false => Ok(()),
    }
}

/// Takes a session's question away. Whether there was one.
async fn take_question(conn: &mut SqliteConnection, session: i64) -> Result<bool> {
    let take = sqlx::query!(
        "update sessions set pending_question = null, version = version + 1
         where session_key = ?1 and pending_question is not null",
        session
    );
    Ok(take.execute(conn).await.map_err(error::of)?.rows_affected() > 0)
}

pub(super) async fn cancel_pending(conn: &mut SqliteConnection, id: &RunId) -> Result<Run> {
    match row_of(conn, id).await? {
        row if row.status.0 == RunStatus::Pending => {
            end_row(conn, &row, &RunEnd::with(RunStatus::Cancelled)).await?;
            Ok(row_of(conn, id).await?.into_run())
        }
        row => Ok(row.into_run()),
    }
}

pub(super) async fn settle(conn: &mut SqliteConnection) -> Result<i64> {
    let rows =
        select_runs!("where r.status in ('pending', 'running') and r.status = ?1 order by +r.run_key", "running");
    let rows = rows.fetch_all(&mut *conn).await.map_err(error::of)?;
    let end = RunEnd { error: Some("the server ended while it ran".into()), ..RunEnd::with(RunStatus::Interrupted) };
    for row in &rows {
        end_row(conn, row, &end).await?;
    }
    Ok(i64::try_from(rows.len()).unwrap_or(i64::MAX))
}

pub(super) async fn ask(conn: &mut SqliteConnection, run: &RunId, question: &PendingQuestion) -> Result<()> {
    let row = running(conn, run).await?;
    let (json, now) = (types::json(&Some(question)), Timestamp::now().0);
    let ask = sqlx::query!(
        "update sessions set pending_question = ?2, version = version + 1, updated_at = max(updated_at, ?3) where session_key = ?1",
        row.session_key,
        json,
        now
    );
    ask.execute(&mut *conn).await.map_err(error::of)?;
    let mut told = json!(question);
    told["run_id"] = json!(run);
    events::tell(conn, row.session_key, EventKind::QuestionAsked, told).await
}

/// An answer to a session's question.
pub(super) struct Answer {
    pub(super) session: SessionId,
    pub(super) message: MessageId,
    pub(super) reply: Reply,
    pub(super) next: Create,
}

pub(super) async fn answer(conn: &mut SqliteConnection, input: &Answer) -> Result<Answered> {
    let session = sessions::row_to_write(conn, &input.session).await?;
    let (key, last_seq) = (session.session_key, session.last_seq);
    let question = session.into_session().pending_question.and_then(|question| question.parse());
    let Reply { response, tool_call_id } = &input.reply;
    let meant = |question: &PendingQuestion| tool_call_id.as_ref().is_none_or(|id| *id == question.tool_call_id);
    let question = question.filter(meant).ok_or_else(|| Error::NoPendingQuestion(input.session.clone()))?;
    if !question.allow_custom && !question.options.is_empty() && !question.options.contains(response) {
        return Err(Error::InvalidAnswer(question.options));
    }
    let active = select_runs!("where r.session_key = ?1 and r.status in ('pending', 'running')", key);
    let active = active.fetch_optional(&mut *conn).await.map_err(error::of)?;
    take_question(conn, key).await?;
    let result = NewMessage {
        id: Some(input.message.clone()),
        tool_call_id: Some(question.tool_call_id),
        tool_success: Some(true),
        ..NewMessage::text(Role::Tool, response)
    };
    let run = active.as_ref().map(|row| &row.id);
    let mut messages = add(conn, &input.session, last_seq, std::slice::from_ref(&result), run).await?;
    let told = json!({ "response": response });
    events::tell(conn, key, EventKind::QuestionAnswered, told).await?;
    let message = messages.remove(0);
    match active {
        Some(row) => {
            note_places(conn, row.key, std::slice::from_ref(&message)).await?;
            Ok(Answered { message, run: row.into_run(), asked: true })
        }
        None => Ok(Answered { message, run: create(conn, &input.next).await?, asked: false }),
    }
}

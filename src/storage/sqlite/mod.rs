//! [`Storage`] on SQLite: a table of contents. The SQL is in one file per noun, the writes go through `writer.rs`.

mod append;
mod attachments;
mod backends;
mod bounded;
mod check;
mod checkpoint;
mod children;
mod cleanup;
mod clock;
mod closing;
mod deletion;
mod error;
mod events;
mod halt;
mod housekeeping;
mod idempotency;
mod identity;
mod index_check;
mod lists;
mod lock;
mod messages;
mod open;
mod pages;
mod payload;
mod probe;
mod purge;
mod queue;
mod recovery;
mod reindex;
mod runs;
mod search;
mod sessions;
mod space;
mod starts;
mod teardown;
#[cfg(test)]
mod tests;
mod transaction;
mod types;
mod usage;
mod wal_readers;
mod warnings;
mod whole;
mod worktrees;
mod writer;

use async_trait::async_trait;
use bytes::Bytes;
use serde_json::Value;
use sqlx::SqlitePool;
use tokio::sync::{Mutex, watch};

pub use check::check;
pub use events::LogBounds;
pub use lock::{Lock, beside};
pub use open::{LOG_TARGET, OpenError, Options, THREADS, was_left_open};
pub use reindex::reindex;

use super::{Answer, AppendOptions, Claim, Result, Saved, Source, Storage};
use crate::{
    model::{
        AgentSession, Answered, Appended, Attachment, AttachmentId, BackendFilter, BackendId, BackendState, ChildStep,
        ChildUpdate, Cleanup, CleanupReceipt, CleanupStep, ClearReceipt, Closing, ContinuedChild, CreatedChild,
        DeleteOptions, DeleteReceipt, EventPage, EventScope, Message, MessageFilter, MessageId, MessagePage,
        MessageReceipt, NewAttachment, NewChild, NewMessage, NewRun, NewSession, NewWorktree, Openness, Page,
        PendingQuestion, Position, RawObject, Receipt, ReceiptId, Reply, Run, RunEnd, RunFilter, RunId, SearchPage,
        SearchPosition, SearchQuery, Session, SessionFilter, SessionId, SessionSave, SessionTree, SessionUpdate,
        Teardown, TeardownJob, Truncate, TruncateReceipt, UpdatedChild, UsageRecord, WholeSession, Worktree,
        WorktreeStep,
    },
    tasks::Worker,
};
use queue::Writer;
use warnings::Warnings;

/// Sessions in one SQLite file.
pub struct SqliteStorage {
    writer: Writer,
    checkpoints: Worker,
    warnings: Warnings,
    watch: Worker,
    epoch: i64,
    readers: SqlitePool,
    /// Held until the database is closed.
    lock: Mutex<Option<Lock>>,
}

#[async_trait]
impl Storage for SqliteStorage {
    async fn create_session(&self, new: NewSession, claim: Option<Claim>) -> Result<Session> {
        let input = sessions::Create::new(new, claim);
        self.writer.call(input, |conn, input| Box::pin(sessions::create(conn, input))).await
    }

    async fn session(&self, id: &SessionId) -> Result<Option<Session>> {
        sessions::find(&self.readers, id).await
    }

    async fn sessions(&self, filter: &SessionFilter, after: Option<Position>, limit: i64) -> Result<Page<Session>> {
        lists::list(&self.readers, filter, after, limit).await
    }

    async fn update_session(&self, id: &SessionId, update: SessionUpdate, if_match: Option<i64>) -> Result<Session> {
        let input = sessions::Update { id: id.clone(), update, if_match };
        self.writer.call(input, |conn, input| Box::pin(sessions::update(conn, input))).await
    }

    async fn session_tree(&self, id: &SessionId, limit: i64) -> Result<(SessionTree, bool)> {
        sessions::tree(&self.readers, id, limit).await
    }

    async fn sessions_above(&self, id: &SessionId) -> Result<Vec<SessionId>> {
        sessions::above(&self.readers, id).await
    }

    async fn delete_session(&self, id: &SessionId, options: DeleteOptions) -> Result<DeleteReceipt> {
        let input = deletion::Delete { id: id.clone(), options, full: self.writer.full.clone() };
        self.writer.call_when_full(input, |conn, input| Box::pin(deletion::delete(conn, input))).await
    }

    async fn clear_session(&self, id: &SessionId, if_match: Option<i64>) -> Result<ClearReceipt> {
        let input = messages::Clear { session: id.clone(), if_match };
        self.writer.call_when_full(input, |conn, input| Box::pin(messages::clear(conn, input))).await
    }

    async fn cleanup_sessions(&self, cleanup: Cleanup) -> Result<CleanupReceipt> {
        match cleanup.dry_run {
            true => cleanup::dry_run(&self.readers, &cleanup).await,
            false => cleanup::to_its_end(&self.readers, &self.writer, cleanup).await,
        }
    }

    async fn begin_cleanup(&self, cleanup: Cleanup) -> Result<Receipt> {
        let id = cleanup.receipt_id.clone().unwrap_or_else(ReceiptId::mint);
        let input = cleanup::Begin { id, cleanup };
        self.writer.call_when_full(input, |conn, input| Box::pin(cleanup::begin(conn, input))).await
    }

    async fn continue_cleanup(&self, id: &ReceiptId) -> Result<Option<CleanupStep>> {
        cleanup::proceed(&self.readers, &self.writer, id).await
    }

    async fn stop_cleanup(&self, id: &ReceiptId) -> Result<Receipt> {
        self.writer.call_when_full(id.clone(), |conn, id| Box::pin(cleanup::stop(conn, id))).await
    }

    async fn running_cleanups(&self) -> Result<Vec<Receipt>> {
        cleanup::running(&self.readers).await
    }

    async fn receipt(&self, id: &ReceiptId) -> Result<Receipt> {
        cleanup::find(&self.readers, id).await
    }

    async fn receipt_sessions(
        &self,
        id: &ReceiptId,
        after: Option<&SessionId>,
        limit: i64,
    ) -> Result<(Vec<SessionId>, bool)> {
        cleanup::ids(&self.readers, id, after, limit).await
    }

    async fn append_messages(
        &self,
        id: &SessionId,
        mut messages: Vec<NewMessage>,
        options: AppendOptions,
    ) -> Result<Appended> {
        for message in &mut messages {
            message.id.get_or_insert_with(MessageId::mint);
        }
        self.writer.append(append::Append::new(id.clone(), messages, options).await).await
    }

    async fn messages(&self, id: &SessionId, filter: MessageFilter) -> Result<MessagePage> {
        pages::page(&self.readers, id, filter).await
    }

    async fn message(&self, id: &SessionId, message: &MessageId) -> Result<Option<Message>> {
        messages::find(&self.readers, id, message).await
    }

    async fn edit_message(
        &self,
        id: &SessionId,
        message: &MessageId,
        content: String,
        if_match: Option<i64>,
    ) -> Result<MessageReceipt> {
        let input =
            messages::Target { session: id.clone(), message: message.clone(), content: Some(content), if_match };
        self.writer.call(input, |conn, input| Box::pin(messages::edit(conn, input))).await
    }

    async fn delete_message(
        &self,
        id: &SessionId,
        message: &MessageId,
        if_match: Option<i64>,
    ) -> Result<MessageReceipt> {
        let input = messages::Target { session: id.clone(), message: message.clone(), content: None, if_match };
        self.writer.call_when_full(input, |conn, input| Box::pin(messages::delete(conn, input))).await
    }

    async fn truncate_messages(&self, id: &SessionId, cut: Truncate, if_match: Option<i64>) -> Result<TruncateReceipt> {
        let input = messages::Cut { session: id.clone(), cut, if_match };
        self.writer.call_when_full(input, |conn, input| Box::pin(messages::truncate(conn, input))).await
    }

    async fn load_session(&self, id: &SessionId) -> Result<Option<WholeSession>> {
        whole::load(&self.readers, id).await
    }

    async fn save_sessions(&self, saves: Vec<SessionSave>) -> Result<Vec<Result<Saved>>> {
        self.writer.call(saves, |conn, saves| Box::pin(whole::save(conn, saves))).await
    }

    async fn append_usage(&self, id: &SessionId, record: RawObject) -> Result<UsageRecord> {
        let input = usage::NewRecord { session: id.clone(), record };
        self.writer.call(input, |conn, input| Box::pin(usage::append(conn, input))).await
    }

    async fn usage(&self, id: &SessionId, after: Option<Position>, limit: i64) -> Result<Page<UsageRecord>> {
        usage::page(&self.readers, id, after, limit).await
    }

    async fn add_attachment(&self, id: &SessionId, new: NewAttachment, bytes: Source) -> Result<Option<Attachment>> {
        attachments::upload(&self.readers, &self.writer, id, new, bytes).await
    }

    async fn attachment(&self, id: &SessionId, attachment: &AttachmentId) -> Result<Option<Attachment>> {
        attachments::find(&self.readers, id, attachment).await
    }

    async fn attachment_bytes(&self, id: &SessionId, attachment: &AttachmentId, offset: i64) -> Result<Vec<Bytes>> {
        attachments::bytes(&self.readers, id, attachment, offset).await
    }

    async fn attachments(&self, id: &SessionId, after: Option<Position>, limit: i64) -> Result<Page<Attachment>> {
        attachments::page(&self.readers, id, after, limit).await
    }

    async fn delete_attachment(&self, id: &SessionId, attachment: &AttachmentId) -> Result<()> {
        let input = (id.clone(), attachment.clone());
        self.writer
            .call_when_full(input, |conn, (id, attachment)| Box::pin(attachments::delete(conn, id, attachment)))
            .await
    }

    async fn create_run(&self, id: &SessionId, new: NewRun, claim: Option<Claim>) -> Result<Run> {
        let input = runs::Create::new(id, new, claim);
        self.writer.call(input, |conn, input| Box::pin(runs::create(conn, input))).await
    }

    async fn run(&self, id: &RunId) -> Result<Option<Run>> {
        runs::find(&self.readers, id).await
    }

    async fn runs(&self, filter: &RunFilter, after: Option<Position>, limit: i64) -> Result<Page<Run>> {
        runs::page(&self.readers, filter, after, limit).await
    }

    async fn active_runs(&self, id: &SessionId, below: bool) -> Result<Vec<Run>> {
        runs::active(&self.readers, id, below).await
    }

    async fn claim_runs(&self, limit: i64) -> Result<Vec<Run>> {
        self.writer.call(limit, |conn, limit| Box::pin(runs::claim(conn, *limit))).await
    }

    async fn append_run_messages(&self, run: &Run, mut messages: Vec<NewMessage>) -> Result<Appended> {
        for message in &mut messages {
            message.id.get_or_insert_with(MessageId::mint);
        }
        let input = runs::Said { run: run.id.clone(), messages };
        self.writer.call(input, |conn, input| Box::pin(runs::append_messages(conn, input))).await
    }

    async fn finish_run(&self, run: &Run, mut end: RunEnd) -> Result<Run> {
        if let Some(partial) = &mut end.partial {
            partial.id.get_or_insert_with(MessageId::mint);
        }
        let input = runs::Finish { run: run.id.clone(), end };
        self.writer.call_when_full(input, |conn, input| Box::pin(runs::finish(conn, input))).await
    }

    async fn cancel_pending_run(&self, run: &Run) -> Result<Run> {
        self.writer.call_when_full(run.id.clone(), |conn, run| Box::pin(runs::cancel_pending(conn, run))).await
    }

    async fn settle_runs(&self) -> Result<i64> {
        self.writer.call_when_full((), |conn, ()| Box::pin(runs::settle(conn))).await
    }

    async fn ask_question(&self, run: &Run, question: PendingQuestion) -> Result<()> {
        let input = (run.id.clone(), question);
        self.writer.call(input, |conn, (run, question)| Box::pin(runs::ask(conn, run, question))).await
    }

    async fn answer_question(&self, id: &SessionId, reply: Reply, next: NewRun) -> Result<Answered> {
        let next = runs::Create::new(id, next, None);
        let input = runs::Answer { session: id.clone(), message: MessageId::mint(), reply, next };
        self.writer.call(input, |conn, input| Box::pin(runs::answer(conn, input))).await
    }

    async fn create_child(
        &self,
        parent: &SessionId,
        new: NewChild,
        max_depth: i64,
        run: Option<NewRun>,
        claim: Option<Claim>,
    ) -> Result<CreatedChild> {
        let input = children::Create::new(parent, new, max_depth, run, claim);
        self.writer.call(input, |conn, input| Box::pin(children::create(conn, input))).await
    }

    async fn update_child(&self, parent: &SessionId, child: &SessionId, update: ChildUpdate) -> Result<UpdatedChild> {
        let place = children::Place { parent: parent.clone(), child: child.clone() };
        let input = children::Update { place, update, message: MessageId::mint() };
        self.writer.call(input, |conn, input| Box::pin(children::update(conn, input))).await
    }

    async fn continue_child(
        &self,
        parent: &SessionId,
        child: &SessionId,
        step: ChildStep,
        run: Option<NewRun>,
        claim: Option<Claim>,
    ) -> Result<ContinuedChild> {
        let place = children::Place { parent: parent.clone(), child: child.clone() };
        let input = children::Continue::new(place, step, run, claim);
        self.writer.call(input, |conn, input| Box::pin(children::proceed(conn, input))).await
    }

    async fn agent_session(&self, session: &SessionId, executor: &str, backend: &str) -> Result<AgentSession> {
        let (session, executor, backend) = (session.clone(), executor.to_owned(), backend.to_owned());
        let input = backends::Open { session, executor, backend, id: BackendId::mint() };
        self.writer.call(input, |conn, input| Box::pin(backends::open(conn, input))).await
    }

    async fn update_agent_session(&self, id: &BackendId, state: BackendState) -> Result<()> {
        let input = (id.clone(), state);
        self.writer.call_when_full(input, |conn, (id, state)| Box::pin(backends::update(conn, id, state))).await
    }

    async fn agent_sessions(
        &self,
        filter: &BackendFilter,
        after: Option<Position>,
        limit: i64,
    ) -> Result<Page<AgentSession>> {
        backends::page(&self.readers, filter, after, limit).await
    }

    async fn close_sessions(&self, id: &SessionId, closing: Closing) -> Result<Vec<Openness>> {
        let input = closing::Close { id: id.clone(), closing };
        self.writer.call_when_full(input, |conn, input| Box::pin(closing::close(conn, input))).await
    }

    async fn open_sessions(&self, id: &SessionId, unarchive: bool) -> Result<Vec<Openness>> {
        let input = closing::Open { id: id.clone(), unarchive };
        self.writer.call(input, |conn, input| Box::pin(closing::open(conn, input))).await
    }

    async fn openness(&self, id: &SessionId) -> Result<Vec<Openness>> {
        closing::openness(&self.readers, id).await
    }

    async fn claim_teardowns(&self, limit: i64) -> Result<Vec<TeardownJob>> {
        // Asked often, and nothing is written when there is nothing to do.
        match teardown::any_due(&self.readers).await? {
            true => self.writer.call_when_full(limit, |conn, limit| Box::pin(teardown::claim(conn, *limit))).await,
            false => Ok(Vec::new()),
        }
    }

    async fn leave_teardown(&self, work: Teardown, error: String) -> Result<()> {
        let input = teardown::Leave { work, error };
        self.writer.call_when_full(input, |conn, input| Box::pin(teardown::leave(conn, input))).await
    }

    async fn finish_teardown(&self, job: &TeardownJob, error: Option<String>) -> Result<()> {
        let input = teardown::Finish { job: job.clone(), error };
        self.writer.call_when_full(input, |conn, input| Box::pin(teardown::finish(conn, input))).await
    }

    async fn add_worktree(&self, session: &SessionId, new: NewWorktree) -> Result<Worktree> {
        let input = worktrees::Add { session: session.clone(), new };
        self.writer.call(input, |conn, input| Box::pin(worktrees::add(conn, input))).await
    }

    async fn worktree_of(&self, session: &SessionId) -> Result<Option<Worktree>> {
        worktrees::of_session(&self.readers, session).await
    }

    async fn advance_worktree(&self, session: &SessionId, step: WorktreeStep) -> Result<Worktree> {
        let input = worktrees::Advance { session: session.clone(), step };
        self.writer.call_when_full(input, |conn, input| Box::pin(worktrees::advance(conn, input))).await
    }

    async fn unfinished_worktrees(&self) -> Result<Vec<Worktree>> {
        worktrees::unfinished(&self.readers).await
    }

    async fn events(&self, scope: &EventScope, after: i64, limit: i64) -> Result<EventPage> {
        events::page(&self.readers, scope, after, limit).await
    }

    fn last_event(&self) -> watch::Receiver<i64> {
        self.writer.last_event()
    }

    fn epoch(&self) -> i64 {
        self.epoch
    }

    async fn answer(&self, scope: &str, key: &str) -> Result<Option<Answer>> {
        idempotency::find(&self.readers, scope, key).await
    }

    async fn keep_refusal(&self, claim: Claim, status: u16, problem: Value) -> Result<()> {
        let input = (claim, status, problem);
        self.writer
            .call(input, |conn, (claim, status, problem)| Box::pin(idempotency::keep(conn, claim, *status, problem)))
            .await
    }

    async fn search(&self, query: &SearchQuery, after: Option<SearchPosition>, limit: i64) -> Result<SearchPage> {
        search::search(&self.readers, query, after, limit).await
    }

    fn foreign_commits(&self) -> watch::Receiver<u64> {
        self.writer.foreign_commits()
    }

    fn warnings(&self) -> Vec<String> {
        self.warnings.all()
    }

    async fn check_writable(&self) -> Result<()> {
        self.writer.check().await
    }

    async fn close(&self) {
        // Closing the last connection removes the log.
        self.watch.close().await;
        self.readers.close().await;
        self.checkpoints.close().await;
        self.writer.close().await;
        if let Some(lock) = self.lock.lock().await.take()
            && !self.writer.halt.is_halted()
            && let Err(error) = lock.remember_last_event(*self.writer.last_event().borrow())
        {
            tracing::debug!(%error, "the lock file was not written");
        }
    }
}

impl SqliteStorage {
    /// Has the search index take in what is written at once in larger pieces from now on, for an import: small ones are
    /// merged again and again. A transaction may take up 16 MiB for it.
    pub async fn gather_index(&self) -> Result<()> {
        self.writer.call((), |conn, ()| Box::pin(reindex::gather(conn))).await
    }

    /// Merges the search index into one piece, step by step. Bulk writes leave it in many, and the small writes that
    /// follow would each pay a part of it. The cost is that of writing the index once.
    pub async fn merge_index(&self) -> Result<()> {
        let mut pages = reindex::START_OF_MERGE;
        while self.writer.call(pages, |conn, pages| Box::pin(reindex::merge(conn, *pages))).await? {
            pages = reindex::STEP_OF_MERGE;
        }
        Ok(())
    }
}

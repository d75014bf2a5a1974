//! The repository as a `Storage`: a write forgets what it touched, a read is kept or passes through.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use serde_json::Value;
use tokio::sync::watch;

use super::{SessionRepository, Touched, locked};
use crate::{
    model::*,
    storage::{Answer, AppendOptions, Claim, Result, Saved, Source, Storage},
};

#[async_trait]
impl Storage for SessionRepository {
    async fn create_session(&self, new: NewSession, claim: Option<Claim>) -> Result<Session> {
        // A new child raises its parent's counter.
        let touched = Touched::These(new.id.iter().chain(&new.parent).cloned().collect());
        self.write(touched, |storage| async move { storage.create_session(new, claim).await }).await
    }

    async fn session(&self, id: &SessionId) -> Result<Option<Session>> {
        self.storage.session(id).await
    }

    async fn sessions(&self, filter: &SessionFilter, after: Option<Position>, limit: i64) -> Result<Page<Session>> {
        self.storage.sessions(filter, after, limit).await
    }

    async fn update_session(&self, id: &SessionId, update: SessionUpdate, if_match: Option<i64>) -> Result<Session> {
        let key = id.clone();
        self.write(Touched::one(id), |storage| async move { storage.update_session(&key, update, if_match).await })
            .await
    }

    async fn session_tree(&self, id: &SessionId, limit: i64) -> Result<(SessionTree, bool)> {
        self.storage.session_tree(id, limit).await
    }

    async fn sessions_above(&self, id: &SessionId) -> Result<Vec<SessionId>> {
        self.storage.sessions_above(id).await
    }

    async fn delete_session(&self, id: &SessionId, options: DeleteOptions) -> Result<DeleteReceipt> {
        // The tree below and the parent above change too, and are known only by the commit.
        let key = id.clone();
        self.write(Touched::Any, |storage| async move { storage.delete_session(&key, options).await }).await
    }

    async fn clear_session(&self, id: &SessionId, if_match: Option<i64>) -> Result<ClearReceipt> {
        let key = id.clone();
        self.write(Touched::one(id), |storage| async move { storage.clear_session(&key, if_match).await }).await
    }

    async fn cleanup_sessions(&self, cleanup: Cleanup) -> Result<CleanupReceipt> {
        let touched = if cleanup.dry_run { Touched::These(vec![]) } else { Touched::Any };
        self.write(touched, |storage| async move { storage.cleanup_sessions(cleanup).await }).await
    }

    async fn begin_cleanup(&self, cleanup: Cleanup) -> Result<Receipt> {
        self.write(Touched::These(vec![]), |storage| async move { storage.begin_cleanup(cleanup).await }).await
    }

    async fn continue_cleanup(&self, id: &ReceiptId) -> Result<Option<CleanupStep>> {
        let id = id.clone();
        self.write(Touched::Any, |storage| async move { storage.continue_cleanup(&id).await }).await
    }

    async fn stop_cleanup(&self, id: &ReceiptId) -> Result<Receipt> {
        let id = id.clone();
        self.write(Touched::These(vec![]), |storage| async move { storage.stop_cleanup(&id).await }).await
    }

    async fn running_cleanups(&self) -> Result<Vec<Receipt>> {
        self.storage.running_cleanups().await
    }

    async fn receipt(&self, id: &ReceiptId) -> Result<Receipt> {
        self.storage.receipt(id).await
    }

    async fn receipt_sessions(
        &self,
        id: &ReceiptId,
        after: Option<&SessionId>,
        limit: i64,
    ) -> Result<(Vec<SessionId>, bool)> {
        self.storage.receipt_sessions(id, after, limit).await
    }

    async fn append_messages(
        &self,
        id: &SessionId,
        messages: Vec<NewMessage>,
        options: AppendOptions,
    ) -> Result<Appended> {
        let key = id.clone();
        self.write(Touched::one(id), |storage| async move { storage.append_messages(&key, messages, options).await })
            .await
    }

    async fn messages(&self, id: &SessionId, filter: MessageFilter) -> Result<MessagePage> {
        self.storage.messages(id, filter).await
    }

    async fn message(&self, id: &SessionId, message: &MessageId) -> Result<Option<Message>> {
        self.storage.message(id, message).await
    }

    async fn edit_message(
        &self,
        id: &SessionId,
        message: &MessageId,
        content: String,
        if_match: Option<i64>,
    ) -> Result<MessageReceipt> {
        let (key, message) = (id.clone(), message.clone());
        let work =
            |storage: Arc<dyn Storage>| async move { storage.edit_message(&key, &message, content, if_match).await };
        self.write(Touched::one(id), work).await
    }

    async fn delete_message(
        &self,
        id: &SessionId,
        message: &MessageId,
        if_match: Option<i64>,
    ) -> Result<MessageReceipt> {
        let (key, message) = (id.clone(), message.clone());
        self.write(Touched::one(id), |storage| async move { storage.delete_message(&key, &message, if_match).await })
            .await
    }

    async fn truncate_messages(&self, id: &SessionId, cut: Truncate, if_match: Option<i64>) -> Result<TruncateReceipt> {
        let key = id.clone();
        self.write(Touched::one(id), |storage| async move { storage.truncate_messages(&key, cut, if_match).await })
            .await
    }

    async fn load_session(&self, id: &SessionId) -> Result<Option<WholeSession>> {
        self.storage.load_session(id).await
    }

    async fn save_sessions(&self, saves: Vec<SessionSave>) -> Result<Vec<Result<Saved>>> {
        let written = |save: &SessionSave| [Some(save.session.id.clone()), save.session.parent_session_id.clone()];
        let touched = Touched::These(saves.iter().flat_map(written).flatten().collect());
        self.write(touched, |storage| async move { storage.save_sessions(saves).await }).await
    }

    async fn append_usage(&self, id: &SessionId, record: RawObject) -> Result<UsageRecord> {
        let key = id.clone();
        self.write(Touched::one(id), |storage| async move { storage.append_usage(&key, record).await }).await
    }

    async fn usage(&self, id: &SessionId, after: Option<Position>, limit: i64) -> Result<Page<UsageRecord>> {
        self.storage.usage(id, after, limit).await
    }

    async fn add_attachment(&self, id: &SessionId, new: NewAttachment, bytes: Source) -> Result<Option<Attachment>> {
        let key = id.clone();
        self.write(Touched::one(id), |storage| async move { storage.add_attachment(&key, new, bytes).await }).await
    }

    async fn attachment(&self, id: &SessionId, attachment: &AttachmentId) -> Result<Option<Attachment>> {
        self.storage.attachment(id, attachment).await
    }

    async fn attachment_bytes(&self, id: &SessionId, attachment: &AttachmentId, offset: i64) -> Result<Vec<Bytes>> {
        self.storage.attachment_bytes(id, attachment, offset).await
    }

    async fn attachments(&self, id: &SessionId, after: Option<Position>, limit: i64) -> Result<Page<Attachment>> {
        self.storage.attachments(id, after, limit).await
    }

    async fn delete_attachment(&self, id: &SessionId, attachment: &AttachmentId) -> Result<()> {
        let (key, attachment) = (id.clone(), attachment.clone());
        self.write(Touched::one(id), |storage| async move { storage.delete_attachment(&key, &attachment).await }).await
    }

    async fn create_run(&self, id: &SessionId, new: NewRun, claim: Option<Claim>) -> Result<Run> {
        let key = id.clone();
        self.write(Touched::one(id), |storage| async move { storage.create_run(&key, new, claim).await }).await
    }

    async fn run(&self, id: &RunId) -> Result<Option<Run>> {
        self.storage.run(id).await
    }

    async fn runs(&self, filter: &RunFilter, after: Option<Position>, limit: i64) -> Result<Page<Run>> {
        self.storage.runs(filter, after, limit).await
    }

    async fn active_runs(&self, id: &SessionId, below: bool) -> Result<Vec<Run>> {
        self.storage.active_runs(id, below).await
    }

    async fn claim_runs(&self, limit: i64) -> Result<Vec<Run>> {
        // Which sessions they are of is known by the outcome.
        let (storage, cache) = (self.storage.clone(), self.cache.clone());
        self.tasks
            .detached(async move {
                let runs = storage.claim_runs(limit).await?;
                let sessions: Vec<_> = runs.iter().map(|run| run.session_id.clone()).collect();
                locked(&cache).forget(&sessions);
                Ok(runs)
            })
            .await
    }

    async fn append_run_messages(&self, run: &Run, messages: Vec<NewMessage>) -> Result<Appended> {
        let (touched, run) = (Touched::one(&run.session_id), run.clone());
        self.write(touched, |storage| async move { storage.append_run_messages(&run, messages).await }).await
    }

    async fn finish_run(&self, run: &Run, end: RunEnd) -> Result<Run> {
        let (touched, run) = (Touched::one(&run.session_id), run.clone());
        self.write(touched, |storage| async move { storage.finish_run(&run, end).await }).await
    }

    async fn cancel_pending_run(&self, run: &Run) -> Result<Run> {
        let (touched, run) = (Touched::one(&run.session_id), run.clone());
        self.write(touched, |storage| async move { storage.cancel_pending_run(&run).await }).await
    }

    async fn settle_runs(&self) -> Result<i64> {
        self.write(Touched::Any, |storage| async move { storage.settle_runs().await }).await
    }

    async fn ask_question(&self, run: &Run, question: PendingQuestion) -> Result<()> {
        let (touched, run) = (Touched::one(&run.session_id), run.clone());
        self.write(touched, |storage| async move { storage.ask_question(&run, question).await }).await
    }

    async fn answer_question(&self, id: &SessionId, reply: Reply, next: NewRun) -> Result<Answered> {
        let key = id.clone();
        self.write(Touched::one(id), |storage| async move { storage.answer_question(&key, reply, next).await }).await
    }

    async fn create_child(
        &self,
        parent: &SessionId,
        new: NewChild,
        max_depth: i64,
        run: Option<NewRun>,
        claim: Option<Claim>,
    ) -> Result<CreatedChild> {
        // As with any session that is created below another one.
        let touched = Touched::These(new.id.iter().chain([parent]).cloned().collect());
        let parent = parent.clone();
        let work =
            |storage: Arc<dyn Storage>| async move { storage.create_child(&parent, new, max_depth, run, claim).await };
        self.write(touched, work).await
    }

    async fn update_child(&self, parent: &SessionId, child: &SessionId, update: ChildUpdate) -> Result<UpdatedChild> {
        let (parent, key) = (parent.clone(), child.clone());
        self.write(Touched::one(child), |storage| async move { storage.update_child(&parent, &key, update).await })
            .await
    }

    async fn continue_child(
        &self,
        parent: &SessionId,
        child: &SessionId,
        step: ChildStep,
        run: Option<NewRun>,
        claim: Option<Claim>,
    ) -> Result<ContinuedChild> {
        let (parent, key) = (parent.clone(), child.clone());
        let work =
            |storage: Arc<dyn Storage>| async move { storage.continue_child(&parent, &key, step, run, claim).await };
        self.write(Touched::one(child), work).await
    }

    async fn agent_session(&self, session: &SessionId, executor: &str, backend: &str) -> Result<AgentSession> {
        let (session, executor, backend) = (session.clone(), executor.to_owned(), backend.to_owned());
        let work =
            |storage: Arc<dyn Storage>| async move { storage.agent_session(&session, &executor, &backend).await };
        self.write(Touched::These(vec![]), work).await
    }

    async fn update_agent_session(&self, id: &BackendId, state: BackendState) -> Result<()> {
        let id = id.clone();
        self.write(Touched::These(vec![]), |storage| async move { storage.update_agent_session(&id, state).await })
            .await
    }

    async fn agent_sessions(
        &self,
        filter: &BackendFilter,
        after: Option<Position>,
        limit: i64,
    ) -> Result<Page<AgentSession>> {
        self.storage.agent_sessions(filter, after, limit).await
    }

    async fn close_sessions(&self, id: &SessionId, closing: Closing) -> Result<Vec<Openness>> {
        // What is below is known only by the commit.
        let key = id.clone();
        self.write(Touched::Any, |storage| async move { storage.close_sessions(&key, closing).await }).await
    }

    async fn open_sessions(&self, id: &SessionId, unarchive: bool) -> Result<Vec<Openness>> {
        let key = id.clone();
        self.write(Touched::Any, |storage| async move { storage.open_sessions(&key, unarchive).await }).await
    }

    async fn openness(&self, id: &SessionId) -> Result<Vec<Openness>> {
        self.storage.openness(id).await
    }

    async fn claim_teardowns(&self, limit: i64) -> Result<Vec<TeardownJob>> {
        self.storage.claim_teardowns(limit).await
    }

    async fn leave_teardown(&self, work: Teardown, error: String) -> Result<()> {
        self.write(Touched::These(vec![]), |storage| async move { storage.leave_teardown(work, error).await }).await
    }

    async fn finish_teardown(&self, job: &TeardownJob, error: Option<String>) -> Result<()> {
        let job = job.clone();
        self.write(Touched::These(vec![]), |storage| async move { storage.finish_teardown(&job, error).await }).await
    }

    async fn add_worktree(&self, session: &SessionId, new: NewWorktree) -> Result<Worktree> {
        let key = session.clone();
        self.write(Touched::These(vec![]), |storage| async move { storage.add_worktree(&key, new).await }).await
    }

    async fn worktree_of(&self, session: &SessionId) -> Result<Option<Worktree>> {
        self.storage.worktree_of(session).await
    }

    async fn advance_worktree(&self, session: &SessionId, step: WorktreeStep) -> Result<Worktree> {
        let key = session.clone();
        self.write(Touched::These(vec![]), |storage| async move { storage.advance_worktree(&key, step).await }).await
    }

    async fn unfinished_worktrees(&self) -> Result<Vec<Worktree>> {
        self.storage.unfinished_worktrees().await
    }

    async fn events(&self, scope: &EventScope, after: i64, limit: i64) -> Result<EventPage> {
        self.storage.events(scope, after, limit).await
    }

    fn epoch(&self) -> i64 {
        self.storage.epoch()
    }

    fn last_event(&self) -> watch::Receiver<i64> {
        self.storage.last_event()
    }

    async fn answer(&self, scope: &str, key: &str) -> Result<Option<Answer>> {
        self.storage.answer(scope, key).await
    }

    async fn keep_refusal(&self, claim: Claim, status: u16, problem: Value) -> Result<()> {
        self.write(Touched::These(vec![]), |storage| async move { storage.keep_refusal(claim, status, problem).await })
            .await
    }

    async fn search(&self, query: &SearchQuery, after: Option<SearchPosition>, limit: i64) -> Result<SearchPage> {
        self.storage.search(query, after, limit).await
    }

    fn foreign_commits(&self) -> watch::Receiver<u64> {
        self.storage.foreign_commits()
    }

    fn warnings(&self) -> Vec<String> {
        self.storage.warnings()
    }

    async fn check_writable(&self) -> Result<()> {
        self.storage.check_writable().await
    }

    async fn close(&self) {
        self.storage.close().await;
    }
}

//! The storage contract: what every implementation of [`Storage`] promises.
//!
//! - **Atomic.** Each method is one transaction. It returns only after its commit, or fails and has changed nothing.
//! - **Durable.** What was acknowledged is on disk.
//! - **Deleted stays deleted.** Every write to an id that was deleted fails with [`Error::SessionDeleted`]; reading
//!   or deleting it again is [`Error::SessionNotFound`]. From the commit of a delete nothing shows what was deleted: no
//!   read, list, count, search or event but the one that tells of it. Rows and bytes go later, in steps that no write
//!   waits for long, and that go on after a restart.
//! - **Absent is not an error turned silent.** A read that fails is an error; `None` means that there is no such row.
//! - **No lost update.** Appends of any number of callers all survive, each with a `seq` of its own, strictly
//!   increasing within a session and never reused. A version that a caller names is compared in the transaction.
//! - **Busy.** Messages of a session with a run that is pending or running do not change ([`Error::SessionBusy`]);
//!   its title, pin and settings do.
//! - **Activity is not in the future.** Whatever a caller brings, a session's last activity is at most the server's time.
//!   Activity that a wrong clock put into the future is moved back to now, in its order. While the clock shows a year
//!   before 1970 or after 9999, every write fails with [`Error::ClockOutOfRange`].
//!
//! Lists are bounded by the caller's `limit` and go on from a [`Position`].

mod claim;
mod error;
pub mod sqlite;

use std::pin::Pin;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::Stream;
use serde_json::Value;
use tokio::sync::watch;

pub use claim::{Answer, Claim};
pub use error::{Error, Result};

use crate::model::{
    AgentSession, Answered, Appended, Attachment, AttachmentId, BackendFilter, BackendId, BackendState, ChildStep,
    ChildUpdate, Cleanup, CleanupReceipt, CleanupStep, ClearReceipt, Closing, ContinuedChild, CreatedChild,
    DeleteOptions, DeleteReceipt, EventPage, EventScope, Message, MessageFilter, MessageId, MessagePage,
    MessageReceipt, NewAttachment, NewChild, NewMessage, NewRun, NewSession, NewWorktree, Openness, Page,
    PendingQuestion, Position, RawObject, Receipt, ReceiptId, Reply, Run, RunEnd, RunFilter, RunId, SearchPage,
    SearchPosition, SearchQuery, Session, SessionFilter, SessionId, SessionSave, SessionTree, SessionUpdate, Teardown,
    TeardownJob, Truncate, TruncateReceipt, UpdatedChild, UsageRecord, WholeSession, Worktree, WorktreeStep,
};

/// Bytes of an attachment that are read at once.
pub const PIECE: i64 = 1 << 20;

/// Why bytes did not arrive, as the source says it.
pub type SourceError = Box<dyn std::error::Error + Send + Sync>;

/// Bytes as they arrive.
pub type Source = Pin<Box<dyn Stream<Item = std::result::Result<Bytes, SourceError>> + Send>>;

/// What a save made: the row as it is now, and the places of the messages that were added.
pub type Saved = (Session, Vec<(MessageId, i64)>);

/// How to append.
#[derive(Debug, Clone, Default)]
pub struct AppendOptions {
    /// Fail with [`Error::VersionConflict`] unless this is the session's last `seq`.
    pub expected_last_seq: Option<i64>,
    /// Store the answer under this key, in the same transaction.
    pub claim: Option<Claim>,
}

/// Sessions, messages and what belongs to them, in one place that never disagrees with itself.
/// The module's page says what holds for every method.
#[async_trait]
pub trait Storage: Send + Sync {
    /// Creates a session, with its system prompt as first message. One that brings an id which was created from the
    /// same content is answered as it is now; from other content, it fails with [`Error::SessionExists`].
    async fn create_session(&self, new: NewSession, claim: Option<Claim>) -> Result<Session>;

    /// The session with this id.
    async fn session(&self, id: &SessionId) -> Result<Option<Session>>;

    /// Sessions that meet the filter, newest first.
    async fn sessions(&self, filter: &SessionFilter, after: Option<Position>, limit: i64) -> Result<Page<Session>>;

    /// Changes a session. Raises its version by one, unless nothing differs. Metadata that has grown beyond the update's
    /// limit is refused ([`Error::MetadataTooLarge`]).
    async fn update_session(&self, id: &SessionId, update: SessionUpdate, if_match: Option<i64>) -> Result<Session>;

    /// A session and what is below it, in the order of creation; at most `limit` sessions, and whether there are more.
    async fn session_tree(&self, id: &SessionId, limit: i64) -> Result<(SessionTree, bool)>;

    /// The sessions above one, nearest first; at most 100.
    async fn sessions_above(&self, id: &SessionId) -> Result<Vec<SessionId>>;

    /// Deletes a session and everything below it, and leaves tombstones. The time it takes grows with the number of
    /// sessions, not with what they hold. It also leaves, for each backend and each worktree a teardown
    /// job, which is the caller's to carry out. A parent that stays is told that a run of its child has ended.
    async fn delete_session(&self, id: &SessionId, options: DeleteOptions) -> Result<DeleteReceipt>;

    /// Removes all messages but a first system message, all attachments, derived state and the pending question.
    async fn clear_session(&self, id: &SessionId, if_match: Option<i64>) -> Result<ClearReceipt>;

    /// Deletes every session that the cleanup names, to its end: [`Storage::begin_cleanup`], then
    /// [`Storage::continue_cleanup`] as long as there is something to do. A session that it keeps (pinned, archived, active
    /// since, with an active run: see [`Cleanup`]) keeps everything above it. A dry run only reads, and no write waits for
    /// it.
    async fn cleanup_sessions(&self, cleanup: Cleanup) -> Result<CleanupReceipt>;

    /// Writes down a cleanup that is to be carried out, of the sessions that there are now. Receipts are kept for seven days
    /// from their end.
    async fn begin_cleanup(&self, cleanup: Cleanup) -> Result<Receipt>;

    /// Deletes the next of what a cleanup names, decided at the instant of deletion: whole trees in one transaction, up to
    /// 500 sessions or one larger tree, with what a delete does. None when there is nothing more, or it was stopped.
    async fn continue_cleanup(&self, id: &ReceiptId) -> Result<Option<CleanupStep>>;

    /// Stops a cleanup: what it has deleted stays deleted. One that has ended stays as it is; the receipt as it is now is
    /// the answer.
    async fn stop_cleanup(&self, id: &ReceiptId) -> Result<Receipt>;

    /// The cleanups that have not ended, oldest first.
    async fn running_cleanups(&self) -> Result<Vec<Receipt>>;

    /// How far a cleanup is.
    async fn receipt(&self, id: &ReceiptId) -> Result<Receipt>;

    /// The ids of sessions that a cleanup has deleted, sorted, after this one; and whether there are more.
    async fn receipt_sessions(
        &self,
        id: &ReceiptId,
        after: Option<&SessionId>,
        limit: i64,
    ) -> Result<(Vec<SessionId>, bool)>;

    /// Appends messages, all or none; each new one raises the session's version by one. One whose id is in the session
    /// with the same content is answered as it is there, whatever else the call would fail with.
    async fn append_messages(
        &self,
        id: &SessionId,
        messages: Vec<NewMessage>,
        options: AppendOptions,
    ) -> Result<Appended>;

    /// A window of a session's messages, in `seq` order.
    async fn messages(&self, id: &SessionId, filter: MessageFilter) -> Result<MessagePage>;

    /// The message with this id.
    async fn message(&self, id: &SessionId, message: &MessageId) -> Result<Option<Message>>;

    /// Replaces an assistant's text, and clears derived state.
    async fn edit_message(
        &self,
        id: &SessionId,
        message: &MessageId,
        content: String,
        if_match: Option<i64>,
    ) -> Result<MessageReceipt>;

    /// Removes one message, and clears derived state.
    async fn delete_message(
        &self,
        id: &SessionId,
        message: &MessageId,
        if_match: Option<i64>,
    ) -> Result<MessageReceipt>;

    /// Cuts off a part of the history. If anything was removed, clears derived state and takes a pending question away.
    async fn truncate_messages(&self, id: &SessionId, cut: Truncate, if_match: Option<i64>) -> Result<TruncateReceipt>;

    /// A session with all its messages, from one instant.
    async fn load_session(&self, id: &SessionId) -> Result<Option<WholeSession>>;

    /// Writes what holders of whole sessions changed, and creates those that were not loaded, in this order and in one
    /// transaction. One that is refused fails alone, and the others are written.
    async fn save_sessions(&self, saves: Vec<SessionSave>) -> Result<Vec<Result<Saved>>>;

    /// The same of one.
    async fn save_session(&self, save: SessionSave) -> Result<Saved> {
        let saved = self.save_sessions(vec![save]).await?.pop();
        saved.unwrap_or_else(|| Err(Error::Failed("a save ended without an outcome".into())))
    }

    /// Appends one record to the session's token-usage log.
    async fn append_usage(&self, id: &SessionId, record: RawObject) -> Result<UsageRecord>;

    /// The session's token-usage log, oldest first.
    async fn usage(&self, id: &SessionId, after: Option<Position>, limit: i64) -> Result<Page<UsageRecord>>;

    /// Stores an attachment as its bytes arrive, never all of them in memory. Not one transaction but many, whose rows
    /// nobody sees until the last. None when the session has an attachment with this id: it stays as it is.
    /// What fails in `bytes` ends it with [`Error::Source`]; nothing is left then, nor when the future is dropped,
    /// once the database has been opened again.
    async fn add_attachment(&self, id: &SessionId, new: NewAttachment, bytes: Source) -> Result<Option<Attachment>>;

    /// What is said of an attachment.
    async fn attachment(&self, id: &SessionId, attachment: &AttachmentId) -> Result<Option<Attachment>>;

    /// The bytes of an attachment from this offset on, up to the next multiple of [`PIECE`], as they lie; none at its end
    /// and when there is no such attachment.
    async fn attachment_bytes(&self, id: &SessionId, attachment: &AttachmentId, offset: i64) -> Result<Vec<Bytes>>;

    /// A session's attachments, oldest first.
    async fn attachments(&self, id: &SessionId, after: Option<Position>, limit: i64) -> Result<Page<Attachment>>;

    /// Deletes an attachment. Messages that show it stay as they are.
    async fn delete_attachment(&self, id: &SessionId, attachment: &AttachmentId) -> Result<()>;

    /// Asks for a run: it waits until [`Storage::claim_runs`] takes it. A session that was closed is open again. A question that an earlier run left is taken
    /// away. Fails with [`Error::SessionBusy`] while another
    /// of the session is pending or running.
    async fn create_run(&self, id: &SessionId, new: NewRun, claim: Option<Claim>) -> Result<Run>;

    /// The run with this id.
    async fn run(&self, id: &RunId) -> Result<Option<Run>>;

    /// Runs that meet the filter, newest first.
    async fn runs(&self, filter: &RunFilter, after: Option<Position>, limit: i64) -> Result<Page<Run>>;

    /// The runs of a session that are pending or running, and those of everything below it where asked.
    async fn active_runs(&self, id: &SessionId, below: bool) -> Result<Vec<Run>>;

    /// Takes the pending runs that were asked for first, at most `limit`: they are running from now on. No run is ever
    /// taken twice.
    async fn claim_runs(&self, limit: i64) -> Result<Vec<Run>>;

    /// Appends messages that a run made. Fails with [`Error::RunOver`] unless it is running: the run's order to stop.
    async fn append_run_messages(&self, run: &Run, messages: Vec<NewMessage>) -> Result<Appended>;

    /// Ends a run: the backend of its executor has seen the whole history then, if it was asked something. One that has
    /// ended already stays as it is; the run as it is now is the answer.
    async fn finish_run(&self, run: &Run, end: RunEnd) -> Result<Run>;

    /// Ends a run that is pending as cancelled. Any other stays as it is; the run as it is now is the answer.
    async fn cancel_pending_run(&self, run: &Run) -> Result<Run>;

    /// Ends, as interrupted, every run that is running: what a dead process left. The number of them.
    async fn settle_runs(&self) -> Result<i64>;

    /// Keeps the question that a running run asks.
    async fn ask_question(&self, run: &Run, question: PendingQuestion) -> Result<()>;

    /// Stores the answer as the result of the call that asked, and takes the question away. Where the run that asked is
    /// no more, `next` is asked for in the same transaction. Fails with [`Error::NoPendingQuestion`], also when another
    /// question is pending than the answer is for, and with [`Error::InvalidAnswer`] when it is none of the only answers allowed.
    async fn answer_question(&self, id: &SessionId, reply: Reply, next: NewRun) -> Result<Answered>;

    /// Creates a child with its system prompt and its assignment, and asks for its first run where one is given. It takes
    /// over what its parent works with: model, budget, workspace, tasks. Fails with [`Error::NotRootSession`] when it
    /// would be deeper below its root than `max_depth`. One that brings an id which was created from the same content
    /// is answered as it is now, with its first run.
    async fn create_child(
        &self,
        parent: &SessionId,
        new: NewChild,
        max_depth: i64,
        run: Option<NewRun>,
        claim: Option<Claim>,
    ) -> Result<CreatedChild>;

    /// Changes a child, which is pending then if it is assigned something else: the last user message becomes the new
    /// assignment, or one is appended; what came after it is cut off where asked; derived state is cleared. Fails with
    /// [`Error::SessionBusy`] while a run is pending or running, and as [`Storage::continue_child`] when it is no child
    /// of this parent.
    async fn update_child(&self, parent: &SessionId, child: &SessionId, update: ChildUpdate) -> Result<UpdatedChild>;

    /// Gives a child something to do, and asks for the run that does it; without one it is pending. While a run is
    /// pending or running, that one is the answer to a retry, and a message fails with [`Error::SessionBusy`]. Fails
    /// with [`Error::NotChildSession`] for a root, and with [`Error::NotChildOfParent`] below another parent.
    async fn continue_child(
        &self,
        parent: &SessionId,
        child: &SessionId,
        step: ChildStep,
        run: Option<NewRun>,
        claim: Option<Claim>,
    ) -> Result<ContinuedChild>;

    /// The backend that a session has with an executor; made, dormant, where there is none, and one that was closed is
    /// dormant again. One that is of another kind keeps nothing of what its agent knew.
    async fn agent_session(&self, session: &SessionId, executor: &str, backend: &str) -> Result<AgentSession>;

    /// Writes down what becomes of a backend. Fails with [`Error::BackendNotFound`] when it went with its session. When a
    /// message that its agent may know changes or goes, it loses the agent's own id of the session: the agent begins anew.
    async fn update_agent_session(&self, id: &BackendId, state: BackendState) -> Result<()>;

    /// Backends that meet the filter, oldest first.
    async fn agent_sessions(
        &self,
        filter: &BackendFilter,
        after: Option<Position>,
        limit: i64,
    ) -> Result<Page<AgentSession>>;

    /// Closes a session, everything below it and their backends, and leaves a teardown job for each backend that could
    /// not be ended. While a run of one of them is pending or under way, or a backend is warm that the caller has not met
    /// as it is now, it fails with [`Error::SessionBusy`], or leaves these sessions as they are where asked. All of the
    /// sessions, in the order of creation.
    async fn close_sessions(&self, id: &SessionId, closing: Closing) -> Result<Vec<Openness>>;

    /// Opens a session and everything below it again, or takes them out of the archive, where they stay closed. All of
    /// the sessions, in the order of creation.
    async fn open_sessions(&self, id: &SessionId, unarchive: bool) -> Result<Vec<Openness>>;

    /// A session and everything below it, in the order of creation, as they stand.
    async fn openness(&self, id: &SessionId) -> Result<Vec<Openness>>;

    /// Takes teardown jobs that are due, at most `limit`: for five minutes, or until the database is opened again, they
    /// are the caller's. Those are gone whose backend is in use again, and those of a close whose tree was opened again; a
    /// worktree waits for what works in it.
    async fn claim_teardowns(&self, limit: i64) -> Result<Vec<TeardownJob>>;

    /// Leaves a job for what could not be torn down, and why; due in a moment. One that is there stands for it, too.
    async fn leave_teardown(&self, work: Teardown, error: String) -> Result<()>;

    /// A teardown job was carried out, and is no more; or it failed, and is due again later each time.
    async fn finish_teardown(&self, job: &TeardownJob, error: Option<String>) -> Result<()>;

    /// Records the worktree that the tree of a session is to have; it is being made. Fails with
    /// [`Error::WorktreeExists`] while the tree has another one, or another tree this one.
    async fn add_worktree(&self, session: &SessionId, new: NewWorktree) -> Result<Worktree>;

    /// The worktree of the tree that a session is in, whatever is under way with it; none that is removed.
    async fn worktree_of(&self, session: &SessionId) -> Result<Option<Worktree>>;

    /// Records what becomes of the worktree of a session's tree; the row as it is then. Fails with
    /// [`Error::WorktreeNotFound`] where there is none that the step could be taken from, and a removal with
    /// [`Error::SessionBusy`] while a run of the tree is pending or running. While one is being removed, the runs of its
    /// tree wait, unless a job says that this failed.
    async fn advance_worktree(&self, session: &SessionId, step: WorktreeStep) -> Result<Worktree>;

    /// Worktrees that are being made or removed.
    async fn unfinished_worktrees(&self) -> Result<Vec<Worktree>>;

    /// Events after this number, in order: those of the next `limit` that are in the scope.
    async fn events(&self, scope: &EventScope, after: i64, limit: i64) -> Result<EventPage>;

    /// The number of the last event that was committed, as it grows.
    fn last_event(&self) -> watch::Receiver<i64>;

    /// The epoch of the database: 1, and one more each time that it went back in time, as when a backup was put back. What
    /// was numbered in another epoch (events, versions, positions) means something else in this one.
    fn epoch(&self) -> i64;

    /// What a request with this key was answered in the last 24 hours.
    async fn answer(&self, scope: &str, key: &str) -> Result<Option<Answer>>;

    /// Keeps a refusal under its key. (A success is kept by the write that it speaks of.)
    async fn keep_refusal(&self, claim: Claim, status: u16, problem: Value) -> Result<()>;

    /// Finds messages by their text and sessions by their title or summary, in one ranking. What was written is found
    /// from the moment at which its write returns.
    ///
    /// A row matches when it holds every term that is not excluded and none that is: terms are words, phrases and
    /// beginnings of words, found in any order, whatever their case and accents; punctuation separates words, also
    /// within a term, whose words then stand side by side. Chinese, Japanese and Korean text matches by any part. A
    /// query without a term that is not excluded finds nothing. Filters hold before anything is counted; a role
    /// leaves out sessions; ids that are unknown find nothing.
    ///
    /// The cost is bounded, and `bounded` says when that cut something off: in the order of relevance, the newest
    /// matches alone were ranked, and when their pages end, older ones follow in a ranking of their own; in the order
    /// of storing, the page is shorter than its limit, perhaps empty, and the next one goes on. Pages show each row at
    /// most once, and nothing that was stored since the first.
    async fn search(&self, query: &SearchQuery, after: Option<SearchPosition>, limit: i64) -> Result<SearchPage>;

    /// Counts the commits of other processes that were noticed; at most a second passes until one is. Its sender is
    /// gone when nothing can be written any more.
    fn foreign_commits(&self) -> watch::Receiver<u64>;

    /// What an operator should know although writes are taken, in words: a checkpoint that fails, say.
    fn warnings(&self) -> Vec<String>;

    /// Whether an ordinary write would be taken: by the outcome of the last one where that is less than a second old, else by
    /// one that reaches the disk and changes nothing, which all share who ask meanwhile. Fails with [`Error::Full`] also
    /// while deletes and what ends runs are taken.
    async fn check_writable(&self) -> Result<()>;

    /// Commits what was accepted, and leaves the database in one file. Later calls fail.
    async fn close(&self);
}

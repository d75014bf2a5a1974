//! A storage that fails or stops where a test says so; in all else it is the real one.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use bytes::Bytes;
use culm::{
    model::*,
    storage::{Answer, AppendOptions, Claim, Error, Result, Saved, Source, Storage},
};
use serde_json::Value;
use tokio::sync::{oneshot, watch};

use crate::support::Database;

/// A place in a call of storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Place {
    /// Nothing has been done yet.
    Before,
    /// It was done, and its caller does not know yet.
    After,
}

enum Turn {
    Fail,
    Stop { reached: oneshot::Sender<()>, go: oneshot::Receiver<()> },
}

/// A call that stops, from the side of the test.
pub(super) struct Stopped {
    reached: oneshot::Receiver<()>,
    go: oneshot::Sender<()>,
}

impl Stopped {
    /// Waits until the call has come to its place.
    pub(super) async fn reached(&mut self) {
        (&mut self.reached).await.expect("a call that comes to this place");
    }

    /// Lets the call go on.
    pub(super) fn go(self) {
        self.go.send(()).expect("a call that waits");
    }
}

pub(super) struct Steered {
    /// Held, because its directory goes with it.
    database: Arc<Database>,
    turns: Mutex<HashMap<(&'static str, Place), VecDeque<Turn>>>,
    calls: Mutex<HashMap<&'static str, usize>>,
}

impl Steered {
    pub(super) fn new(database: Arc<Database>) -> Self {
        Self { database, turns: Mutex::default(), calls: Mutex::default() }
    }

    /// The next call of a method fails here.
    pub(super) fn fail(&self, method: &'static str, place: Place) {
        self.plan(method, place, Turn::Fail);
    }

    /// The next call of a method stops here.
    pub(super) fn stop(&self, method: &'static str, place: Place) -> Stopped {
        let ((reached, at), (go, gone)) = (oneshot::channel(), oneshot::channel());
        self.plan(method, place, Turn::Stop { reached, go: gone });
        Stopped { reached: at, go }
    }

    /// How often a method was called.
    pub(super) fn calls(&self, method: &str) -> usize {
        self.calls.lock().unwrap().get(method).copied().unwrap_or_default()
    }

    fn plan(&self, method: &'static str, place: Place, turn: Turn) {
        self.turns.lock().unwrap().entry((method, place)).or_default().push_back(turn);
    }

    async fn steer<T>(&self, method: &'static str, call: impl Future<Output = Result<T>> + Send) -> Result<T> {
        *self.calls.lock().unwrap().entry(method).or_default() += 1;
        self.turn(method, Place::Before).await?;
        let outcome = call.await;
        self.turn(method, Place::After).await?;
        outcome
    }

    async fn turn(&self, method: &'static str, place: Place) -> Result<()> {
        let turn = self.turns.lock().unwrap().get_mut(&(method, place)).and_then(VecDeque::pop_front);
        match turn {
            None => {}
            Some(Turn::Fail) => return Err(Error::Unavailable("as the test has it".into())),
            Some(Turn::Stop { reached, go }) => {
                reached.send(()).expect("a test that waits");
                go.await.expect("a test that goes on");
            }
        }
        Ok(())
    }
}

macro_rules! steered {
    ($($method:ident($($name:ident: $type:ty),*) -> $output:ty;)*) => {
        #[async_trait]
        impl Storage for Steered {
            $(
                async fn $method(&self, $($name: $type),*) -> Result<$output> {
                    self.steer(stringify!($method), self.database.storage.$method($($name),*)).await
                }
            )*

            fn foreign_commits(&self) -> watch::Receiver<u64> {
                self.database.storage.foreign_commits()
            }

            fn warnings(&self) -> Vec<String> {
                self.database.storage.warnings()
            }

            fn epoch(&self) -> i64 {
                self.database.storage.epoch()
            }

            fn last_event(&self) -> watch::Receiver<i64> {
                self.database.storage.last_event()
            }

            async fn close(&self) {
                self.database.storage.close().await;
            }
        }
    };
}

steered! {
    create_session(new: NewSession, claim: Option<Claim>) -> Session;
    session(id: &SessionId) -> Option<Session>;
    sessions(filter: &SessionFilter, after: Option<Position>, limit: i64) -> Page<Session>;
    update_session(id: &SessionId, update: SessionUpdate, if_match: Option<i64>) -> Session;
    session_tree(id: &SessionId, limit: i64) -> (SessionTree, bool);
    delete_session(id: &SessionId, options: DeleteOptions) -> DeleteReceipt;
    clear_session(id: &SessionId, if_match: Option<i64>) -> ClearReceipt;
    cleanup_sessions(cleanup: Cleanup) -> CleanupReceipt;
    begin_cleanup(cleanup: Cleanup) -> Receipt;
    continue_cleanup(id: &ReceiptId) -> Option<CleanupStep>;
    stop_cleanup(id: &ReceiptId) -> Receipt;
    running_cleanups() -> Vec<Receipt>;
    receipt(id: &ReceiptId) -> Receipt;
    receipt_sessions(id: &ReceiptId, after: Option<&SessionId>, limit: i64) -> (Vec<SessionId>, bool);
    append_messages(id: &SessionId, messages: Vec<NewMessage>, options: AppendOptions) -> Appended;
    messages(id: &SessionId, filter: MessageFilter) -> MessagePage;
    message(id: &SessionId, message: &MessageId) -> Option<Message>;
    edit_message(id: &SessionId, message: &MessageId, content: String, if_match: Option<i64>) -> MessageReceipt;
    delete_message(id: &SessionId, message: &MessageId, if_match: Option<i64>) -> MessageReceipt;
    truncate_messages(id: &SessionId, cut: Truncate, if_match: Option<i64>) -> TruncateReceipt;
    load_session(id: &SessionId) -> Option<WholeSession>;
    save_sessions(saves: Vec<SessionSave>) -> Vec<Result<Saved>>;
    append_usage(id: &SessionId, record: RawObject) -> UsageRecord;
    usage(id: &SessionId, after: Option<Position>, limit: i64) -> Page<UsageRecord>;
    add_attachment(id: &SessionId, new: NewAttachment, bytes: Source) -> Option<Attachment>;
    attachment(id: &SessionId, attachment: &AttachmentId) -> Option<Attachment>;
    attachment_bytes(id: &SessionId, attachment: &AttachmentId, offset: i64) -> Vec<Bytes>;
    attachments(id: &SessionId, after: Option<Position>, limit: i64) -> Page<Attachment>;
    delete_attachment(id: &SessionId, attachment: &AttachmentId) -> ();
    sessions_above(id: &SessionId) -> Vec<SessionId>;
    create_run(id: &SessionId, new: NewRun, claim: Option<Claim>) -> Run;
    run(id: &RunId) -> Option<Run>;
    runs(filter: &RunFilter, after: Option<Position>, limit: i64) -> Page<Run>;
    active_runs(id: &SessionId, below: bool) -> Vec<Run>;
    claim_runs(limit: i64) -> Vec<Run>;
    append_run_messages(run: &Run, messages: Vec<NewMessage>) -> Appended;
    finish_run(run: &Run, end: RunEnd) -> Run;
    cancel_pending_run(run: &Run) -> Run;
    settle_runs() -> i64;
    ask_question(run: &Run, question: PendingQuestion) -> ();
    answer_question(id: &SessionId, reply: Reply, next: NewRun) -> Answered;
    create_child(parent: &SessionId, new: NewChild, max_depth: i64, run: Option<NewRun>, claim: Option<Claim>) -> CreatedChild;
    update_child(parent: &SessionId, child: &SessionId, update: ChildUpdate) -> UpdatedChild;
    continue_child(parent: &SessionId, child: &SessionId, step: ChildStep, run: Option<NewRun>, claim: Option<Claim>) -> ContinuedChild;
    agent_session(session: &SessionId, executor: &str, backend: &str) -> AgentSession;
    update_agent_session(id: &BackendId, state: BackendState) -> ();
    agent_sessions(filter: &BackendFilter, after: Option<Position>, limit: i64) -> Page<AgentSession>;
    close_sessions(id: &SessionId, closing: Closing) -> Vec<Openness>;
    open_sessions(id: &SessionId, unarchive: bool) -> Vec<Openness>;
    openness(id: &SessionId) -> Vec<Openness>;
    claim_teardowns(limit: i64) -> Vec<TeardownJob>;
    leave_teardown(work: Teardown, error: String) -> ();
    finish_teardown(job: &TeardownJob, error: Option<String>) -> ();
    add_worktree(session: &SessionId, new: NewWorktree) -> Worktree;
    worktree_of(session: &SessionId) -> Option<Worktree>;
    advance_worktree(session: &SessionId, step: WorktreeStep) -> Worktree;
    unfinished_worktrees() -> Vec<Worktree>;
    events(scope: &EventScope, after: i64, limit: i64) -> EventPage;
    search(query: &SearchQuery, after: Option<SearchPosition>, limit: i64) -> SearchPage;
    answer(scope: &str, key: &str) -> Option<Answer>;
    keep_refusal(claim: Claim, status: u16, problem: Value) -> ();
    check_writable() -> ();
}

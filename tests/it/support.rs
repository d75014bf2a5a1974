//! What the tests share: a database in a directory of its own, an operator's shell on it, and short builders.
//! Nothing here knows what a test is about.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use culm::{
    attachments::AttachmentReader,
    model::{
        Appended, Attachment, Cleanup, CleanupMode, KindFilter, Message, MessageFilter, MessageId, NewAttachment,
        NewMessage, NewSession, PAGE_BYTES, Reply, Role, Session, SessionFilter, SessionId, SessionUpdate, Timestamp,
        ToolCall, Window,
    },
    repository::SessionRepository,
    storage::{
        AppendOptions, Source, Storage,
        sqlite::{Options, SqliteStorage},
    },
    tasks::Tasks,
};
use futures_util::stream;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Row, SqliteConnection, sqlite::SqliteConnectOptions};
use tempfile::TempDir;

/// Asserts that a call failed for this reason.
macro_rules! assert_fails {
    ($call:expr, $why:pat $(if $guard:expr)?) => {
        match $call {
            Err($why) $(if $guard)? => {}
            other => panic!("{} was to fail with {}, and gave {other:?}", stringify!($call), stringify!($why)),
        }
    };
}

/// A database in a directory that goes with it.
pub(crate) struct Database {
    dir: TempDir,
    pub(crate) storage: Arc<SqliteStorage>,
}

/// A new SQLite database.
pub(crate) async fn sqlite() -> Database {
    let dir = tempfile::tempdir().unwrap();
    let storage = SqliteStorage::open(&Options::new(dir.path().join("culm.db"))).await.unwrap();
    Database { dir, storage: Arc::new(storage) }
}

/// The same behind the cache.
pub(crate) struct Cached {
    _database: Database,
    repository: SessionRepository,
}

/// A new SQLite database behind a cache.
pub(crate) async fn repository() -> Cached {
    let database = sqlite().await;
    let repository = SessionRepository::new(database.storage.clone(), 1 << 20, Tasks::default());
    Cached { _database: database, repository }
}

impl Cached {
    pub(crate) fn reader(&self) -> &dyn AttachmentReader {
        &self.repository
    }

    pub(crate) fn shared_reader(&self) -> Arc<dyn AttachmentReader> {
        Arc::new(self.repository.clone())
    }

    pub(crate) fn storage(&self) -> &dyn Storage {
        &self.repository
    }
}

impl Database {
    pub(crate) fn storage(&self) -> &dyn Storage {
        &*self.storage
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("culm.db")
    }

    /// Closes the database and opens it again.
    pub(crate) async fn reopen(self) -> Self {
        self.storage.close().await;
        Self::open_in(self.into_closed().0).await
    }

    /// Opens the database of a directory again.
    pub(crate) async fn open_in(dir: TempDir) -> Self {
        let storage = SqliteStorage::open(&Options::new(dir.path().join("culm.db"))).await.unwrap();
        Self { dir, storage: Arc::new(storage) }
    }

    /// A copy of another one's files as they are, opened: as after a kill.
    pub(crate) async fn copy_of(other: &Self) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for ending in ["", "-wal"] {
            let name = format!("culm.db{ending}");
            std::fs::copy(other.path().with_file_name(&name), dir.path().join(&name)).unwrap();
        }
        let storage = SqliteStorage::open(&Options::new(dir.path().join("culm.db"))).await.unwrap();
        Self { dir, storage: Arc::new(storage) }
    }

    /// The directory and the file of a database that was closed: its lock is given up.
    pub(crate) fn into_closed(self) -> (TempDir, PathBuf) {
        let path = self.path();
        (self.dir, path)
    }

    /// Runs statements in a shell that has ended when this returns.
    pub(crate) async fn run_and_leave(&self, sql: &str) {
        let mut shell = self.shell().await;
        run(&mut shell, sql).await;
        shell.close().await.unwrap();
    }

    /// A connection as an operator's shell has it: foreign keys are off.
    pub(crate) async fn shell(&self) -> SqliteConnection {
        shell(&self.path()).await
    }
}

/// A connection as an operator's shell has it: foreign keys are off.
pub(crate) async fn shell(path: &Path) -> SqliteConnection {
    let options = SqliteConnectOptions::new().filename(path).foreign_keys(false);
    options.busy_timeout(Duration::from_secs(5)).connect().await.unwrap()
}

/// Runs statements in a shell.
pub(crate) async fn run(shell: &mut SqliteConnection, sql: &str) {
    try_run(shell, sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
}

pub(crate) async fn try_run(shell: &mut SqliteConnection, sql: &str) -> sqlx::Result<()> {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(shell).await.map(drop)
}

/// The one number that a query gives.
pub(crate) async fn number(shell: &mut SqliteConnection, sql: &str) -> i64 {
    let row = sqlx::query(AssertSqlSafe(sql.to_owned())).fetch_one(shell).await;
    row.unwrap_or_else(|error| panic!("{sql}: {error}")).get(0)
}

/// Asserts what holds for every database at rest: counters are true, nothing is orphaned, the index is the messages.
pub(crate) async fn assert_sound(shell: &mut SqliteConnection) {
    let lies = "select count(*) from live_sessions s where
        message_count <> (select count(*) from messages m where m.session_key = s.session_key)
        or last_seq < (select coalesce(max(seq), 0) from messages m where m.session_key = s.session_key)
        or content_bytes <> (select coalesce(sum(bytes), 0) from messages m where m.session_key = s.session_key)
        or run_count <> (select count(*) from runs r where r.session_key = s.session_key)
        or attachment_count <> (select count(*) from attachments a where a.session_key = s.session_key)
        or attachment_bytes <> (select coalesce(sum(size), 0) from attachments a where a.session_key = s.session_key)
        or children_count <> (select count(*) from live_sessions c where c.parent_key = s.session_key)";
    assert_eq!(number(shell, lies).await, 0, "sessions whose counters are not true");
    assert_eq!(number(shell, "select count(*) from pragma_foreign_key_check").await, 0, "orphans");
    let shown = "select count(*) from (select message_key, attachment_id from attachment_links
        except select message_key, attachment_id from attachment_uses)";
    assert_eq!(number(shell, shown).await, 0, "attachments that messages show without a record of it");
    let buried = "select count(*) from live_sessions join tombstones using (id)";
    assert_eq!(number(shell, buried).await, 0, "sessions with a tombstone");
    let queued = "select count(*) from sessions s left join purges p using (session_key)
        where (s.deleted_at is null) <> (p.session_key is null)";
    assert_eq!(number(shell, queued).await, 0, "deleted sessions that nobody purges");
    for index in ["message_index", "session_index", "title_index"] {
        run(shell, &format!("insert into {index} ({index}, rank) values ('integrity-check', 1)")).await;
    }
}

/// Asks until the answer is the wanted one, for a minute at most.
pub(crate) async fn until(shell: &mut SqliteConnection, sql: &str, wanted: i64) {
    let asking = async { while number(shell, sql).await != wanted {} };
    tokio::time::timeout(Duration::from_secs(60), asking).await.unwrap_or_else(|_| panic!("{sql} is never {wanted}"));
}

/// A client for servers of the tests: without TLS, and without the certificates that take a while to read.
pub(crate) fn client() -> reqwest::Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy().tls_certs_only([]).build().unwrap()
}

pub(crate) fn id(text: &str) -> SessionId {
    text.parse().unwrap()
}

pub(crate) fn mid(text: &str) -> MessageId {
    text.parse().unwrap()
}

pub(crate) fn new(text: &str) -> NewSession {
    NewSession { id: Some(id(text)), title: Some(text.into()), ..NewSession::default() }
}

pub(crate) async fn create(storage: &dyn Storage, text: &str) -> Session {
    storage.create_session(new(text), None).await.unwrap()
}

pub(crate) async fn child(storage: &dyn Storage, parent: &str, text: &str) -> Session {
    storage.create_session(NewSession { parent: Some(id(parent)), ..new(text) }, None).await.unwrap()
}

pub(crate) async fn pin(storage: &dyn Storage, text: &str) {
    let update = SessionUpdate { pinned: Some(true), ..SessionUpdate::default() };
    storage.update_session(&id(text), update, None).await.unwrap();
}

pub(crate) fn title(text: &str) -> SessionUpdate {
    SessionUpdate { title: Some(text.into()), ..SessionUpdate::default() }
}

/// A message whose id is its text.
pub(crate) fn said(role: Role, text: &str) -> NewMessage {
    NewMessage { id: Some(mid(text)), ..NewMessage::text(role, text) }
}

/// A message that calls tools, by the ids of the calls.
pub(crate) fn calls(text: &str, ids: &[&str]) -> NewMessage {
    let call = |id: &&str| ToolCall::new(*id, "read", "{}");
    NewMessage { tool_calls: Some(ids.iter().map(call).collect()), ..said(Role::Assistant, text) }
}

/// An answer to whichever question is pending.
pub(crate) fn reply(text: &str) -> Reply {
    Reply { response: text.into(), tool_call_id: None }
}

pub(crate) fn result(text: &str, call: &str) -> NewMessage {
    NewMessage { tool_call_id: Some(call.into()), ..said(Role::Tool, text) }
}

pub(crate) async fn append(storage: &dyn Storage, session: &str, messages: Vec<NewMessage>) -> Appended {
    storage.append_messages(&id(session), messages, AppendOptions::default()).await.unwrap()
}

/// Appends user messages.
pub(crate) async fn say(storage: &dyn Storage, session: &str, texts: &[&str]) -> Appended {
    append(storage, session, texts.iter().map(|text| said(Role::User, text)).collect()).await
}

pub(crate) async fn read(storage: &dyn Storage, session: &str) -> Session {
    storage.session(&id(session)).await.unwrap().unwrap_or_else(|| panic!("no session {session}"))
}

pub(crate) fn window(window: Window, limit: i64) -> MessageFilter {
    MessageFilter { window, limit, bytes: PAGE_BYTES, role: None }
}

pub(crate) async fn history(storage: &dyn Storage, session: &str) -> Vec<Message> {
    storage.messages(&id(session), window(Window::First, 10_000)).await.unwrap().messages
}

pub(crate) async fn texts(storage: &dyn Storage, session: &str) -> Vec<String> {
    history(storage, session).await.into_iter().map(|message| message.content).collect()
}

pub(crate) fn new_attachment(name: &str) -> NewAttachment {
    let mime_type = Some("image/png".into());
    NewAttachment { id: name.parse().unwrap(), mime_type, filename: None, created_at: Timestamp::now() }
}

/// Bytes that are all there, in pieces of an odd size.
pub(crate) fn source(bytes: &[u8]) -> Source {
    let pieces: Vec<_> = bytes.chunks(100_003).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
    Box::pin(stream::iter(pieces))
}

pub(crate) async fn attach(storage: &dyn Storage, session: &str, name: &str, bytes: Vec<u8>) -> bool {
    storage.add_attachment(&id(session), new_attachment(name), source(&bytes)).await.unwrap().is_some()
}

/// An attachment with its bytes from an offset on.
pub(crate) async fn download(
    storage: &dyn Storage,
    session: &str,
    name: &str,
    offset: i64,
) -> Option<(Attachment, Vec<u8>)> {
    let (session, name) = (id(session), name.parse().unwrap());
    let attachment = storage.attachment(&session, &name).await.unwrap()?;
    let mut bytes = Vec::new();
    loop {
        let offset = offset + i64::try_from(bytes.len()).unwrap();
        match storage.attachment_bytes(&session, &name, offset).await.unwrap() {
            more if more.is_empty() => return Some((attachment, bytes)),
            more => bytes.extend(more.concat()),
        }
    }
}

pub(crate) fn everything() -> SessionFilter {
    SessionFilter { kind: Some(KindFilter::All), ..SessionFilter::default() }
}

/// The ids of a list's first page.
pub(crate) async fn listed(storage: &dyn Storage, filter: &SessionFilter) -> Vec<String> {
    let page = storage.sessions(filter, None, 10_000).await.unwrap();
    page.items.into_iter().map(|session| session.id.to_string()).collect()
}

/// The ids of all sessions, sorted.
pub(crate) async fn all_ids(storage: &dyn Storage) -> Vec<String> {
    let mut ids = listed(storage, &everything()).await;
    ids.sort();
    ids
}

pub(crate) fn cleanup(mode: CleanupMode) -> Cleanup {
    Cleanup::of(mode)
}

/// The frames in the write-ahead log.
pub(crate) async fn log_frames(shell: &mut SqliteConnection) -> i64 {
    let row = sqlx::query("pragma wal_checkpoint(passive)").fetch_one(shell).await.unwrap();
    row.get(1)
}

/// Empties the write-ahead log, after the server if that is copying it.
pub(crate) async fn empty_log(shell: &mut SqliteConnection) {
    until(shell, "pragma wal_checkpoint(truncate)", 0).await;
}

/// Waits until the server has copied so much of the write-ahead log that fewer frames than this are left.
pub(crate) async fn log_copied(shell: &mut SqliteConnection, fewer_than: i64) {
    let copying = async {
        loop {
            let row = sqlx::query("pragma wal_checkpoint(noop)").fetch_one(&mut *shell).await.unwrap();
            let (frames, copied): (i64, i64) = (row.get(1), row.get(2));
            if frames - copied < fewer_than {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), copying).await.expect("the log is never copied");
}

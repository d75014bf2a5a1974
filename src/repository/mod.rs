//! The cache in front of storage, and the only way to it: a `Storage` around a `Storage`.
//!
//! Nothing but this holds the storage that it wraps, so nothing changes a session behind the cache's back, except
//! another process: its commits are noticed within a second, and the cache forgets everything then.
//!
//! **A gone client breaks nothing.** Each write runs in a task of its own, with what follows its commit: a caller that
//! is dropped in between cannot leave a cache that shows the past.

mod cache;
mod through;

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};

pub use cache::{Cache, Key, Ticket};

use crate::{
    agent_sessions::AgentSessions,
    attachments::AttachmentReader,
    model::{
        AgentSession, AttachmentId, BackendId, BackendState, Message, MessageFilter, NewSession, Page, Position,
        RawObject, Session, SessionFilter, SessionId, WholeSession, Window,
    },
    storage::{Result, Storage},
    tasks::{self, Tasks},
};

/// The newest messages of a session that are kept at most, and the bytes that they have.
const RECENT: i64 = 200;
const RECENT_BYTES: i64 = 1 << 20;

/// What is kept: ready to be sent. JSON alone, because its size is known: what it is parsed into can take many times as
/// much.
#[derive(Debug)]
enum Kept {
    Row { version: i64, json: Bytes },
    Recent(Recent),
    List(Bytes),
}

/// A session as its call answers it.
#[derive(serde::Serialize)]
struct Wrapped<'a> {
    session: &'a Session,
}

/// The newest messages of a session, each as its JSON.
#[derive(Debug)]
struct Recent {
    messages: Vec<(i64, Bytes)>,
    last_seq: i64,
    has_more_before: bool,
}

/// A page of messages as JSON: `{"messages": […], "last_seq", "has_more_before", "has_more_after"}`.
pub type MessagesJson = Bytes;

/// Sessions behind a cache that never lies. Cheap to clone.
#[derive(Clone)]
pub struct SessionRepository {
    storage: Arc<dyn Storage>,
    cache: Arc<Mutex<Cache<Kept>>>,
    tasks: Tasks,
}

/// How a runtime saves the session that it works on, without knowing where it is kept.
#[async_trait]
pub trait RuntimePersistence: Send + Sync {
    /// Saves what the runtime changed, on top of what others changed meanwhile, and corrects its copy.
    async fn save_runtime_session(&self, session: &mut WholeSession) -> Result<()>;
    /// Appends one record to the session's token-usage log.
    async fn append_token_usage_record(&self, id: &SessionId, record: RawObject) -> Result<()>;
}

impl SessionRepository {
    /// A cache of at most this many bytes in front of a storage that nobody else holds.
    pub fn new(storage: Arc<dyn Storage>, cache_bytes: usize, tasks: Tasks) -> Self {
        let cache = Arc::new(Mutex::new(Cache::new(cache_bytes)));
        let (mut foreign, forgetful) = (storage.foreign_commits(), cache.clone());
        tasks.spawn(async move {
            while foreign.changed().await.is_ok() {
                locked(&forgetful).forget_all();
            }
        });
        Self { storage, cache, tasks }
    }

    /// A whole session, always as storage has it: histories are not kept in memory.
    pub async fn load(&self, id: &SessionId) -> Result<Option<WholeSession>> {
        self.storage.load_session(id).await
    }

    /// A whole session, created as a root with this model if there is none. A deleted id stays deleted.
    pub async fn load_or_create(&self, id: &SessionId, model: &str) -> Result<WholeSession> {
        loop {
            if let Some(session) = self.load(id).await? {
                return Ok(session);
            }
            let new = NewSession { id: Some(id.clone()), model: Some(model.into()), ..NewSession::default() };
            match self.create_session(new, None).await {
                // Created by another one at this moment: then there is one to load.
                Ok(_) | Err(crate::storage::Error::SessionExists(_)) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Brings a copy in memory up to date without losing what its holder changed and has not saved: fields that the
    /// holder did not touch, and messages that others wrote, come from storage. None when the session is gone.
    pub async fn load_merged(&self, held: &WholeSession) -> Result<Option<WholeSession>> {
        Ok(self.load(&held.session.id).await?.map(|stored| held.on_top_of(stored)))
    }

    /// Writes what the holder of a whole session changed, and corrects its copy: see [`WholeSession`]. When it fails,
    /// neither the cache nor the copy has changed.
    pub async fn save(&self, session: &mut WholeSession) -> Result<()> {
        let (row, places) = self.save_session(session.changes()).await?;
        session.saved(row, &places.into_iter().collect());
        Ok(())
    }

    /// A session's version, and the session as JSON: `{"session": {…}}`.
    pub async fn session_json(&self, id: &SessionId) -> Result<Option<(i64, Bytes)>> {
        let Some(kept) = self.row(id).await? else { return Ok(None) };
        match &*kept {
            Kept::Row { version, json } => Ok(Some((*version, json.clone()))),
            _ => Ok(None),
        }
    }

    /// A page of a list of sessions as JSON, shown as `show` has it: always in the same way for the same page.
    pub async fn sessions_json<T: serde::Serialize>(
        &self,
        filter: &SessionFilter,
        after: Option<Position>,
        limit: i64,
        show: impl FnOnce(Page<Session>) -> T,
    ) -> Result<Bytes> {
        let asked = serde_json::to_string(&(filter, after, limit)).unwrap_or_default();
        let (key, asked) = (Key::List(asked.clone()), asked.len());
        if let Some(Kept::List(json)) = self.cache().get(&key).as_deref() {
            return Ok(json.clone());
        }
        let ticket = Out::take(self, key);
        let json = json(&show(self.storage.sessions(filter, after, limit).await?));
        ticket.keep(&Arc::new(Kept::List(json.clone())), json.len() + 2 * asked + 256);
        Ok(json)
    }

    /// A window of a session's messages as JSON, in ascending or descending order of `seq`.
    pub async fn messages_json(&self, id: &SessionId, filter: MessageFilter, descending: bool) -> Result<MessagesJson> {
        if filter.role.is_none() && matches!(filter.window, Window::Last | Window::After(_)) {
            let kept = self.recent(id).await?;
            if let Kept::Recent(recent) = &*kept
                && let Some(json) = recent.window(filter, descending)
            {
                return Ok(json);
            }
        }
        let page = self.storage.messages(id, filter).await?;
        let bytes = page.messages.iter().map(Message::bytes).sum();
        let shown =
            Shown { descending, last_seq: page.last_seq, before: page.has_more_before, after: page.has_more_after };
        let put = |json: &mut Vec<u8>, message: &Message| serde_json::to_writer(json, message).unwrap_or_default();
        Ok(tasks::on_bytes(bytes, move || shown.json(bytes, page.messages.iter(), put)).await)
    }

    /// Waits until what was begun has ended.
    pub fn tasks(&self) -> &Tasks {
        &self.tasks
    }

    async fn row(&self, id: &SessionId) -> Result<Option<Arc<Kept>>> {
        let key = Key::Row(id.clone());
        if let Some(kept) = self.cache().get(&key) {
            return Ok(Some(kept));
        }
        let ticket = Out::take(self, key);
        let Some(session) = self.storage.session(id).await? else { return Ok(None) };
        let json = json(&Wrapped { session: &session });
        let bytes = json.len() + 256;
        let kept = Arc::new(Kept::Row { version: session.version, json });
        ticket.keep(&kept, bytes);
        Ok(Some(kept))
    }

    async fn recent(&self, id: &SessionId) -> Result<Arc<Kept>> {
        let key = Key::Recent(id.clone());
        if let Some(kept) = self.cache().get(&key) {
            return Ok(kept);
        }
        let ticket = Out::take(self, key);
        let filter = MessageFilter { window: Window::Last, limit: RECENT, bytes: RECENT_BYTES, role: None };
        let page = self.storage.messages(id, filter).await?;
        let messages: Vec<(i64, Bytes)> = page.messages.iter().map(|m| (m.seq, json(m))).collect();
        let bytes = messages.iter().map(|(_, json)| json.len() + 64).sum::<usize>() + 256;
        let recent = Recent { messages, last_seq: page.last_seq, has_more_before: page.has_more_before };
        let kept = Arc::new(Kept::Recent(recent));
        ticket.keep(&kept, bytes);
        Ok(kept)
    }

    fn cache(&self) -> MutexGuard<'_, Cache<Kept>> {
        locked(&self.cache)
    }

    /// Runs a write to its end, and forgets what it touched before it is acknowledged.
    async fn write<T, F>(&self, touched: Touched, work: impl FnOnce(Arc<dyn Storage>) -> F) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let (work, cache) = (work(self.storage.clone()), self.cache.clone());
        self.tasks
            .detached(async move {
                let outcome = work.await;
                let mut cache = locked(&cache);
                match touched {
                    Touched::These(ids) => cache.forget(&ids),
                    Touched::Any => cache.forget_all(),
                }
                outcome
            })
            .await
    }
}

/// What a write may have changed, besides lists.
enum Touched {
    These(Vec<SessionId>),
    Any,
}

impl Touched {
    fn one(id: &SessionId) -> Self {
        Self::These(vec![id.clone()])
    }
}

/// A ticket that is given back whatever happens to the read.
struct Out<'a> {
    repository: &'a SessionRepository,
    ticket: Option<Ticket>,
}

impl<'a> Out<'a> {
    fn take(repository: &'a SessionRepository, key: Key) -> Self {
        let ticket = Some(repository.cache().ticket(key));
        Self { repository, ticket }
    }

    fn keep(mut self, value: &Arc<Kept>, bytes: usize) {
        if let Some(ticket) = self.ticket.take() {
            self.repository.cache().keep(ticket, value.clone(), bytes);
        }
    }
}

impl Drop for Out<'_> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.repository.cache().give_up(ticket);
        }
    }
}

/// A panic under this lock leaves nothing half done that a later reader could not bear.
fn locked<V>(cache: &Mutex<Cache<V>>) -> MutexGuard<'_, Cache<V>> {
    cache.lock().unwrap_or_else(PoisonError::into_inner)
}

/// In no more memory than it is long.
fn json<T: serde::Serialize>(value: &T) -> Bytes {
    serde_json::to_vec(value).unwrap_or_default().into_boxed_slice().into()
}

impl Recent {
    /// The window, when it lies within what is kept.
    fn window(&self, filter: MessageFilter, descending: bool) -> Option<MessagesJson> {
        let limit = usize::try_from(filter.limit).ok()?;
        let (from, to) = match filter.window {
            Window::Last => (self.messages.len().saturating_sub(limit), self.messages.len()),
            Window::After(seq) => {
                let from = self.messages.partition_point(|(place, _)| *place <= seq);
                if from == 0 && self.has_more_before {
                    return None;
                }
                (from, (from + limit).min(self.messages.len()))
            }
            _ => return None,
        };
        if filter.window == Window::Last && self.has_more_before && limit > self.messages.len() {
            return None;
        }
        let before = from > 0 || self.has_more_before;
        let rows = &self.messages[from..to];
        let shown = Shown { descending, last_seq: self.last_seq, before, after: to < self.messages.len() };
        let bytes = rows.iter().map(|(_, json)| json.len() + 1).sum();
        Some(shown.json(bytes, rows.iter(), |page, (_, json)| page.extend_from_slice(json)))
    }
}

/// What is said of a page's messages.
struct Shown {
    descending: bool,
    last_seq: i64,
    before: bool,
    after: bool,
}

impl Shown {
    /// The page's JSON, of messages in ascending order that take about this many bytes.
    fn json<T>(
        &self,
        bytes: usize,
        mut messages: impl DoubleEndedIterator<Item = T>,
        put: impl Fn(&mut Vec<u8>, T),
    ) -> MessagesJson {
        let Self { descending, last_seq, before, after } = *self;
        let mut json = Vec::with_capacity(bytes + 128);
        json.extend_from_slice(b"{\"messages\":[");
        let empty = json.len();
        while let Some(message) = if descending { messages.next_back() } else { messages.next() } {
            if json.len() > empty {
                json.push(b',');
            }
            put(&mut json, message);
        }
        let rest = format!("],\"last_seq\":{last_seq},\"has_more_before\":{before},\"has_more_after\":{after}}}");
        json.extend_from_slice(rest.as_bytes());
        json.into()
    }
}

#[async_trait]
impl AttachmentReader for SessionRepository {
    async fn read_attachment(
        &self,
        session: &SessionId,
        id: &AttachmentId,
        limit: usize,
    ) -> io::Result<Option<(Bytes, String)>> {
        let Some(attachment) = self.storage.attachment(session, id).await.map_err(io::Error::other)? else {
            return Ok(None);
        };
        let size = usize::try_from(attachment.size).unwrap_or(usize::MAX);
        if size > limit {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let mut bytes = BytesMut::with_capacity(size);
        while bytes.len() < size {
            let offset = i64::try_from(bytes.len()).unwrap_or(i64::MAX);
            match self.storage.attachment_bytes(session, id, offset).await.map_err(io::Error::other)? {
                // Deleted while it was read.
                more if more.is_empty() => return Ok(None),
                more => more.iter().for_each(|more| bytes.extend_from_slice(more)),
            }
        }
        Ok(Some((bytes.freeze(), attachment.mime_type)))
    }
}

#[async_trait]
impl AgentSessions for SessionRepository {
    async fn agent_session(&self, session: &SessionId, executor: &str, backend: &str) -> io::Result<AgentSession> {
        Storage::agent_session(self, session, executor, backend).await.map_err(io::Error::other)
    }

    async fn update_agent_session(&self, id: &BackendId, state: BackendState) -> io::Result<()> {
        Storage::update_agent_session(self, id, state).await.map_err(io::Error::other)
    }
}

#[async_trait]
impl RuntimePersistence for SessionRepository {
    async fn save_runtime_session(&self, session: &mut WholeSession) -> Result<()> {
        self.save(session).await
    }

    async fn append_token_usage_record(&self, id: &SessionId, record: RawObject) -> Result<()> {
        self.append_usage(id, record).await.map(drop)
    }
}

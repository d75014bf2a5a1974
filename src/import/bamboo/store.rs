//! The one place that writes: brings a session to the storage, or finds out what bringing it there would do.

use std::collections::{HashMap, HashSet};

use futures_util::stream;

use crate::{
    model::{
        AttachmentId, Message, MessageId, NewAttachment, Position, RawObject, Session, SessionId, SessionSave,
        WholeSession,
    },
    storage::{AppendOptions, Error, Result, Storage},
};

/// Bytes of messages that one transaction writes.
const SLICE: usize = 8 << 20;
/// The key in a session's `extra` of the last message that was imported: what people removed up to there stays removed.
const THROUGH: &str = "imported_through";
/// Records of the usage log that are read at once.
const PAGE: i64 = 1000;

/// Where an import goes.
#[derive(Clone, Copy)]
pub(super) struct Target<'a> {
    pub(super) storage: Option<&'a dyn Storage>,
    pub(super) dry_run: bool,
}

/// Whether a refusal is about one session alone, and not about the storage.
pub(super) fn is_refusal(error: &Error) -> bool {
    !matches!(error, Error::Full | Error::Busy(_) | Error::Unavailable(_) | Error::Failed(_))
}

impl<'a> Target<'a> {
    /// The storage, where it is to be written to.
    fn writes(&self) -> Option<&'a dyn Storage> {
        self.storage.filter(|_| !self.dry_run)
    }

    /// The session that has this id in the storage.
    pub(super) async fn session(&self, id: &SessionId) -> Result<Option<Session>> {
        match self.storage {
            Some(storage) => storage.session(id).await,
            None => Ok(None),
        }
    }

    /// Creates sessions together. One that is refused fails alone.
    pub(super) async fn create(&self, saves: Vec<SessionSave>) -> Result<Vec<Result<Session>>> {
        if let Some(storage) = self.writes() {
            let saved = storage.save_sessions(saves).await?;
            return Ok(saved.into_iter().map(|saved| saved.map(|(row, _)| row)).collect());
        }
        let mut outcomes = Vec::with_capacity(saves.len());
        for save in saves {
            outcomes.push(self.would_create(save.session).await);
        }
        Ok(outcomes)
    }

    /// Only a write is told that an id was deleted; one of nothing changes nothing.
    async fn would_create(&self, session: Session) -> Result<Session> {
        let Some(storage) = self.storage else { return Ok(session) };
        match storage.append_messages(&session.id, Vec::new(), AppendOptions::default()).await {
            Err(Error::SessionNotFound(_)) => Ok(session),
            Ok(_) => Err(Error::SessionExists(session.id)),
            Err(error) => Err(error),
        }
    }

    /// Adds the slices that follow the first to a session that was created with that.
    pub(super) async fn add_slices(&self, mut row: Session, slices: Vec<Vec<Message>>) -> Result<()> {
        let Some(storage) = self.writes() else { return Ok(()) };
        for added in slices {
            // Without a change of the row, its times stay those of the source.
            row = self.add(storage, row.clone(), row, added).await?;
        }
        Ok(())
    }

    /// Adds what is new; the number of messages that are.
    pub(super) async fn add_new(&self, id: &SessionId, messages: Vec<Message>) -> Result<u64> {
        let Some(storage) = self.storage else { return Ok(0) };
        let Some(stored) = storage.load_session(id).await? else { return Ok(0) };
        let new = new_messages(&stored, messages);
        let count = new.len() as u64;
        if let (Some(storage), true) = (self.writes(), count > 0) {
            let mut row = stored.session;
            for added in slices(new) {
                let mut marked = row.clone();
                mark(&mut marked, &added);
                row = self.add(storage, row, marked, added).await?;
            }
        }
        Ok(count)
    }

    async fn add(
        &self,
        storage: &dyn Storage,
        base: Session,
        session: Session,
        added: Vec<Message>,
    ) -> Result<Session> {
        let save = SessionSave { session, base: Some(base), added, changed: Vec::new(), removed: Vec::new() };
        storage.save_session(save).await.map(|(row, _)| row)
    }

    pub(super) async fn has_attachment(&self, session: &SessionId, id: &AttachmentId) -> Result<bool> {
        match self.storage {
            Some(storage) => Ok(storage.attachment(session, id).await?.is_some()),
            None => Ok(false),
        }
    }

    /// Whether the attachment is new.
    pub(super) async fn attach(&self, session: &SessionId, new: NewAttachment, bytes: Vec<u8>) -> Result<bool> {
        match self.writes() {
            Some(storage) => {
                let bytes = stream::once(async move { Ok(bytes.into()) });
                storage.add_attachment(session, new, Box::pin(bytes)).await.map(|added| added.is_some())
            }
            None => Ok(!self.has_attachment(session, &new.id).await?),
        }
    }

    /// Adds the records that the session's log lacks; the number of those.
    pub(super) async fn add_usage(&self, session: &SessionId, records: Vec<RawObject>) -> Result<u64> {
        let mut there = self.usage(session).await?;
        let mut added = 0;
        for record in records {
            match there.get_mut(&record.digest()) {
                Some(count) if *count > 0 => *count -= 1,
                _ => {
                    added += 1;
                    if let Some(storage) = self.writes() {
                        storage.append_usage(session, record).await?;
                    }
                }
            }
        }
        Ok(added)
    }

    /// The log's records, and how often each is there.
    async fn usage(&self, session: &SessionId) -> Result<HashMap<[u8; 32], u64>> {
        let mut there = HashMap::new();
        let Some(storage) = self.storage else { return Ok(there) };
        let mut after: Option<Position> = None;
        loop {
            let page = match storage.usage(session, after, PAGE).await {
                Err(Error::SessionNotFound(_)) => return Ok(there),
                page => page?,
            };
            for stored in page.items {
                *there.entry(stored.record.digest()).or_default() += 1;
            }
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(there),
            }
        }
    }
}

/// What creates a session with the first slice of its messages, and the slices that are to follow.
pub(super) fn creation(mut session: Session, messages: Vec<Message>) -> (SessionSave, Vec<Vec<Message>>) {
    let mut slices = slices(messages);
    let added = if slices.is_empty() { Vec::new() } else { slices.remove(0) };
    mark(&mut session, &added);
    (SessionSave { session, base: None, added, changed: Vec::new(), removed: Vec::new() }, slices)
}

fn mark(session: &mut Session, messages: &[Message]) {
    if let Some(last) = messages.last() {
        session.extra.insert(THROUGH, &last.id);
    }
}

/// The messages after the last one that was imported: what is missing before it was removed here.
fn new_messages(stored: &WholeSession, messages: Vec<Message>) -> Vec<Message> {
    let through = stored.session.extra.field::<String>(THROUGH);
    let there: HashSet<&MessageId> = stored.messages.iter().map(|message| &message.id).collect();
    let imported = |m: &Message| there.contains(&m.id) || through.as_deref() == Some(m.id.as_str());
    let first = messages.iter().rposition(imported).map_or(0, |last| last + 1);
    messages.into_iter().skip(first).collect()
}

/// Messages in groups of bounded size.
fn slices(messages: Vec<Message>) -> Vec<Vec<Message>> {
    let (mut slices, mut size) = (vec![Vec::new()], 0);
    for message in messages {
        let bytes = serde_json::to_string(&message).map_or(0, |json| json.len());
        if size > 0 && size + bytes > SLICE {
            slices.push(Vec::new());
            size = 0;
        }
        size += bytes;
        if let Some(slice) = slices.last_mut() {
            slice.push(message);
        }
    }
    slices
}

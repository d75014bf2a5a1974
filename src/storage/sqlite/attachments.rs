//! Attachments: bytes in rows of 256 KiB, their upload, and the purge of what was deleted.
//!
//! **An upload is seen whole or not at all.** Its chunks belong to a key that no attachment has until the transaction
//! that finishes it; what is left of one that broke off is purged like the bytes of a deleted attachment.
//!
//! **Nothing waits for what it does not need.** While one round of bytes is written, the next one arrives, this one is
//! hashed, and the one before is brought to the disk: four things that take about as long.

use bytes::{Buf, Bytes, BytesMut};
use futures_util::{StreamExt, TryStreamExt, stream::Fuse};
use sha2::{Digest, Sha256};
use sqlx::{Row as _, SqliteConnection, SqlitePool, sqlite::SqliteRow};

use super::{error, queue::Writer, sessions};
use crate::{
    model::{
        Attachment, AttachmentId, AttachmentUrl, NewAttachment, Page, Position, SessionId, Timestamp,
        detected_mime_type, hex,
    },
    storage::{Error, PIECE, Result, Source},
    tasks,
};

/// Bytes in one row; see the migration for why. It is part of the format: a place in a file is found by it.
const CHUNK: i64 = 256 << 10;
/// Chunks that are read by one query, or written by one statement: no other write should wait long for it.
const CHUNKS: i64 = PIECE / CHUNK;
const ROUND: usize = PIECE as usize;
/// Rows that one statement of a purge removes: 1 MiB, whose pages are zeroed and written to the log.
const STEP: i64 = 4;

/// Bytes that arrived, from this chunk on. The first of an upload have no key yet.
struct Round {
    key: Option<i64>,
    place: i64,
    bytes: Bytes,
}

/// An upload that is all there, its last bytes not yet written.
struct Finish {
    last: Round,
    attachment: Attachment,
}

/// Takes in bytes as they arrive: two rounds of them are in memory at most.
pub(super) async fn upload(
    pool: &SqlitePool,
    writer: &Writer,
    session: &SessionId,
    new: NewAttachment,
    source: Source,
) -> Result<Option<Attachment>> {
    // What is refused is refused before its bytes are taken.
    let mut conn = pool.acquire().await.map_err(error::of)?;
    if place(&mut conn, session, &new.id).await?.is_none() {
        return Ok(None);
    }
    drop(conn);
    let mut key = None;
    let finished = match arrive(writer, &mut key, session, new, source).await {
        Ok(finish) => writer.call(finish, |conn, input| Box::pin(complete(conn, input))).await,
        Err(error) => Err(error),
    };
    if let Some(key) = key
        && !matches!(finished, Ok(Some(_)))
        && let Err(error) = writer.call_when_full(key, |conn, key| Box::pin(give_up(conn, *key))).await
    {
        tracing::warn!(%error, "what is left of an upload is purged at the next start");
    }
    finished
}

async fn arrive(
    writer: &Writer,
    key: &mut Option<i64>,
    session: &SessionId,
    new: NewAttachment,
    source: Source,
) -> Result<Finish> {
    let (mut arriving, mut hasher) = (Arriving::new(source), Sha256::new());
    let mut last = Round { key: None, place: 0, bytes: arriving.round().await? };
    while arriving.more().await? {
        // Known before it has bytes: what breaks off is given up, whatever of it was written.
        let is_first = key.is_none();
        if is_first {
            *key = Some(writer.prepare((), |conn, ()| Box::pin(take_key(conn))).await?);
            last.key = *key;
        }
        let place = last.place + CHUNKS;
        let hash = hash(hasher, last.bytes.clone());
        let write = writer.prepare(last, |conn, round| Box::pin(store(conn, round)));
        let next = async {
            // First the writer is to hear of this one.
            tokio::task::yield_now().await;
            arriving.round().await
        };
        let flush = async {
            if !is_first {
                writer.flush().await;
            }
            Ok(())
        };
        let (_, bytes, hashed, ()) = tokio::try_join!(write, next, hash, flush)?;
        hasher = hashed;
        last = Round { key: *key, place, bytes };
    }
    let hasher = hash(hasher, last.bytes.clone()).await?;
    let Arriving { detected, size, .. } = arriving;
    let attachment = Attachment {
        url: AttachmentUrl { session: session.clone(), id: new.id.clone() }.to_string(),
        id: new.id,
        session_id: session.clone(),
        mime_type: new.mime_type.unwrap_or_else(|| detected.unwrap_or("application/octet-stream").into()),
        detected_mime_type: detected.map(Into::into),
        filename: new.filename,
        size,
        sha256: hex(&hasher.finalize()),
        created_at: new.created_at,
    };
    Ok(Finish { last, attachment })
}

/// Where it holds up nobody: a round takes most of a millisecond.
async fn hash(hasher: Sha256, bytes: Bytes) -> Result<Sha256> {
    Ok(tasks::blocking(move || hasher.chain_update(&bytes)).await)
}

/// Bytes that arrive, and what is known of them so far.
struct Arriving {
    source: Fuse<Source>,
    /// What of the last piece is in no round yet.
    held: Bytes,
    detected: Option<&'static str>,
    size: i64,
}

impl Arriving {
    fn new(source: Source) -> Self {
        Self { source: source.fuse(), held: Bytes::new(), detected: None, size: 0 }
    }

    /// The next bytes, as many as a round has unless they are the last.
    async fn round(&mut self) -> Result<Bytes> {
        let mut round = BytesMut::with_capacity(ROUND);
        while round.len() < ROUND && self.more().await? {
            round.extend_from_slice(&self.held.split_to(self.held.len().min(ROUND - round.len())));
        }
        if self.size == 0 {
            self.detected = detected_mime_type(&round);
        }
        self.size += i64::try_from(round.len()).unwrap_or(i64::MAX);
        Ok(round.freeze())
    }

    /// Whether there is more: it waits for it.
    async fn more(&mut self) -> Result<bool> {
        while self.held.is_empty() {
            let Some(piece) = self.source.try_next().await.map_err(Error::Source)? else { return Ok(false) };
            self.held = piece;
        }
        Ok(true)
    }
}

/// The key of the session that an attachment is for; none when its id is in use there.
async fn place(conn: &mut SqliteConnection, session: &SessionId, id: &AttachmentId) -> Result<Option<i64>> {
    let session = sessions::row_to_write(conn, session).await?.session_key;
    let id = id.as_str();
    let there = sqlx::query_scalar!("select 1 from attachments where session_key = ?1 and id = ?2", session, id);
    let there = there.fetch_optional(conn).await.map_err(error::of)?;
    Ok(Some(session).filter(|_| there.is_none()))
}

/// A key for bytes that belong to no attachment yet.
async fn take_key(conn: &mut SqliteConnection) -> Result<i64> {
    let insert = sqlx::query_scalar!(
        r#"insert into loose_chunks (uploading) values (1) returning attachment_key as "attachment_key!: i64""#
    );
    insert.fetch_one(conn).await.map_err(error::of)
}

/// Writes bytes as chunks. The key that they have.
async fn store(conn: &mut SqliteConnection, round: &Round) -> Result<i64> {
    let key = match round.key {
        Some(key) => key,
        None => take_key(conn).await?,
    };
    let bytes = &round.bytes[..];
    let insert = sqlx::query!(
        "with recursive chunk (n) as (
           select 0 where length(?3) > 0
           union all
           select n + 1 from chunk where (n + 1) * ?4 < length(?3)
         )
         insert into attachment_chunks (attachment_key, place, bytes)
         select ?1, ?2 + n, substr(?3, n * ?4 + 1, ?4) from chunk",
        key,
        round.place,
        bytes,
        CHUNK
    );
    insert.execute(conn).await.map_err(error::of)?;
    Ok(key)
}

/// The last bytes, and the instant from which the attachment is seen. None when another with its id came first.
async fn complete(conn: &mut SqliteConnection, input: &Finish) -> Result<Option<Attachment>> {
    let new = &input.attachment;
    let Some(session) = place(conn, &new.session_id, &new.id).await? else { return Ok(None) };
    let (key, id) = (store(conn, &input.last).await?, new.id.as_str());
    let insert = sqlx::query!(
        "insert into attachments (attachment_key, session_key, id, mime_type, detected_mime_type, filename, size, sha256, created_at)
         values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        key,
        session,
        id,
        new.mime_type,
        new.detected_mime_type,
        new.filename,
        new.size,
        new.sha256,
        new.created_at.0
    );
    insert.execute(&mut *conn).await.map_err(error::of)?;
    let owned = sqlx::query!("delete from loose_chunks where attachment_key = ?1", key);
    owned.execute(conn).await.map_err(error::of)?;
    Ok(Some(new.clone()))
}

async fn give_up(conn: &mut SqliteConnection, key: i64) -> Result<()> {
    let loose = sqlx::query!("update loose_chunks set uploading = 0 where attachment_key = ?1", key);
    loose.execute(conn).await.map(drop).map_err(error::of)
}

/// At start no upload is under way: what is left of those that were is for the purge.
pub(super) async fn sweep(conn: &mut SqliteConnection) -> sqlx::Result<()> {
    sqlx::query!("update loose_chunks set uploading = 0 where uploading = 1").execute(conn).await.map(drop)
}

/// A row of attachments, with its place in the list.
struct Row {
    key: i64,
    id: AttachmentId,
    mime_type: String,
    detected_mime_type: Option<String>,
    filename: Option<String>,
    size: i64,
    sha256: String,
    created_at: Timestamp,
}

impl Row {
    fn into_attachment(self, session: &SessionId) -> Attachment {
        Attachment {
            url: AttachmentUrl { session: session.clone(), id: self.id.clone() }.to_string(),
            id: self.id,
            session_id: session.clone(),
            mime_type: self.mime_type,
            detected_mime_type: self.detected_mime_type,
            filename: self.filename,
            size: self.size,
            sha256: self.sha256,
            created_at: self.created_at,
        }
    }
}

/// The one list of columns, with what follows it.
macro_rules! select_attachments {
    ($rest:literal, $($value:expr),*) => {
        sqlx::query_as!(
            Row,
            r#"select a.attachment_key as "key!: i64", a.id as "id: AttachmentId", a.mime_type, a.detected_mime_type, a.filename,
                 a.size, a.sha256, a.created_at as "created_at: Timestamp" from attachments a "# + $rest,
            $($value),*
        )
    };
}

pub(super) async fn find(
    pool: &SqlitePool,
    session: &SessionId,
    attachment: &AttachmentId,
) -> Result<Option<Attachment>> {
    let (of, id) = (session.as_str(), attachment.as_str());
    let row = select_attachments!("join live_sessions s using (session_key) where s.id = ?1 and a.id = ?2", of, id);
    let row = row.fetch_optional(pool).await.map_err(error::of)?;
    Ok(row.map(|row| row.into_attachment(session)))
}

pub(super) async fn page(
    pool: &SqlitePool,
    session: &SessionId,
    after: Option<Position>,
    limit: i64,
) -> Result<Page<Attachment>> {
    let key = sessions::key_to_read(pool, session).await?;
    let (after, more) = (after.map_or(0, |place| place.key), limit + 1);
    let rows = select_attachments!(
        "join live_sessions s using (session_key)
         where a.session_key = ?1 and a.attachment_key > ?2 order by a.attachment_key limit ?3",
        key,
        after,
        more
    );
    let rows = rows.fetch_all(pool).await.map_err(error::of)?.into_iter();
    let rows = rows.map(|row| (Position { at: row.created_at.0, key: row.key }, row.into_attachment(session)));
    Ok(Page::cut(rows.collect(), limit))
}

pub(super) async fn bytes(
    pool: &SqlitePool,
    session: &SessionId,
    attachment: &AttachmentId,
    offset: i64,
) -> Result<Vec<Bytes>> {
    let (of, id) = (session.as_str(), attachment.as_str());
    let (place, end, skip) = (offset / CHUNK, (offset / PIECE + 1) * CHUNKS, offset % CHUNK);
    let rows = sqlx::query(
        "select c.bytes from attachments a join live_sessions s using (session_key)
           join attachment_chunks c on c.attachment_key = a.attachment_key
         where s.id = ?1 and a.id = ?2 and c.place >= ?3 and c.place < ?4
         order by c.place",
    );
    let rows = rows.bind(of).bind(id).bind(place).bind(end).fetch_all(pool).await.map_err(error::of)?;
    let mut chunks = Vec::with_capacity(rows.len());
    for row in rows {
        row.try_get::<&[u8], _>(0).map_err(error::of)?;
        chunks.push(Bytes::from_owner(Chunk(row)));
    }
    if let Some(first) = chunks.first_mut() {
        first.advance(usize::try_from(skip).unwrap_or(ROUND).min(first.len()));
    }
    chunks.retain(|chunk| !chunk.is_empty());
    Ok(chunks)
}

/// A row of one chunk, whose bytes are sent from where they lie.
struct Chunk(SqliteRow);

impl AsRef<[u8]> for Chunk {
    fn as_ref(&self) -> &[u8] {
        self.0.try_get(0).unwrap_or_default()
    }
}

pub(super) async fn delete(conn: &mut SqliteConnection, session: &SessionId, attachment: &AttachmentId) -> Result<()> {
    let key = sessions::row_to_write(conn, session).await?.session_key;
    let id = attachment.as_str();
    let delete = sqlx::query!("delete from attachments where session_key = ?1 and id = ?2", key, id);
    match delete.execute(conn).await.map_err(error::of)?.rows_affected() {
        0 => Err(Error::AttachmentNotFound(attachment.clone())),
        _ => Ok(()),
    }
}

/// Removes a step's worth of bytes that no attachment owns. Whether there may be more.
pub(super) async fn purge(conn: &mut SqliteConnection) -> Result<bool> {
    let next = sqlx::query_scalar!(
        r#"select attachment_key as "key!: i64" from loose_chunks where uploading = 0 order by attachment_key limit 1"#
    );
    let Some(key) = next.fetch_optional(&mut *conn).await.map_err(error::of)? else { return Ok(false) };
    let chunks = sqlx::query!(
        "delete from attachment_chunks where attachment_key = ?1
           and place in (select place from attachment_chunks where attachment_key = ?1 limit ?2)",
        key,
        STEP
    );
    if chunks.execute(&mut *conn).await.map_err(error::of)?.rows_affected() == 0 {
        let done = sqlx::query!("delete from loose_chunks where attachment_key = ?1", key);
        done.execute(conn).await.map_err(error::of)?;
    }
    Ok(true)
}

//! Attachments: bytes in rows of 256 KiB, their upload, and the purge of what was deleted.
//!
//! **An upload is seen whole or not at all.** Its chunks belong to a key that no attachment has until the transaction
//! that finishes it; what is left of one that broke off is purged like the bytes of a deleted attachment.

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, TryStreamExt, stream::Fuse};
use sha2::{Digest, Sha256};
use sqlx::{SqliteConnection, SqlitePool};

use super::{error, sessions, writer::Writer};
use crate::{
    model::{
        Attachment, AttachmentId, AttachmentUrl, NewAttachment, Page, Position, SessionId, Timestamp,
        detected_mime_type, hex,
    },
    storage::{Error, PIECE, Result, Source},
};

/// Bytes in one row; see the migration for why. It is part of the format: a place in a file is found by it.
const CHUNK: usize = PIECE as usize;
/// Chunks that are written by one transaction: each waits for the disk, and no other write should wait long for it.
const CHUNKS: i64 = 8;
const ROUND: usize = CHUNKS as usize * CHUNK;
/// Rows that one purge step removes: 4 MiB, so that no other write waits long for it.
const STEP: i64 = 16;

/// One upload's place.
struct Begin {
    session: SessionId,
    id: AttachmentId,
}

/// Bytes that arrived, from this chunk on.
struct Round {
    key: i64,
    place: i64,
    bytes: Bytes,
}

/// An upload that is all there, its last bytes not yet written.
struct Finish {
    last: Round,
    attachment: Attachment,
}

/// Takes in bytes as they arrive: a round of them in memory, one on its way to the disk.
pub(super) async fn upload(
    writer: &Writer,
    session: &SessionId,
    new: NewAttachment,
    source: Source,
) -> Result<Option<Attachment>> {
    let place = Begin { session: session.clone(), id: new.id.clone() };
    let Some(key) = writer.call(place, |conn, place| Box::pin(begin(conn, place))).await? else { return Ok(None) };
    let finished = match arrive(writer, key, session, new, source).await {
        Ok(finish) => writer.call(finish, |conn, input| Box::pin(complete(conn, input))).await,
        Err(error) => Err(error),
    };
    if !matches!(finished, Ok(Some(_)))
        && let Err(error) = writer.call(key, |conn, key| Box::pin(give_up(conn, *key))).await
    {
        tracing::warn!(%error, "what is left of an upload is purged at the next start");
    }
    finished
}

async fn arrive(writer: &Writer, key: i64, session: &SessionId, new: NewAttachment, source: Source) -> Result<Finish> {
    let mut arriving = Arriving::new(source);
    let mut last = Round { key, place: 0, bytes: arriving.round().await? };
    while arriving.more().await? {
        let place = last.place + CHUNKS;
        let write = writer.call(last, |conn, round| Box::pin(store(conn, round)));
        let ((), bytes) = tokio::try_join!(write, arriving.round())?;
        last = Round { key, place, bytes };
    }
    let Arriving { hasher, detected, size, .. } = arriving;
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

/// Bytes that arrive, and what is known of them so far.
struct Arriving {
    source: Fuse<Source>,
    /// What of the last piece is in no round yet.
    held: Bytes,
    hasher: Sha256,
    detected: Option<&'static str>,
    size: i64,
}

impl Arriving {
    fn new(source: Source) -> Self {
        Self { source: source.fuse(), held: Bytes::new(), hasher: Sha256::new(), detected: None, size: 0 }
    }

    /// The next bytes, as many as a round has unless they are the last.
    async fn round(&mut self) -> Result<Bytes> {
        let mut round = BytesMut::with_capacity(ROUND);
        while round.len() < ROUND && self.more().await? {
            let part = self.held.split_to(self.held.len().min(ROUND - round.len()));
            self.hasher.update(&part);
            round.extend_from_slice(&part);
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

/// A key for the chunks; none when the id is in use.
async fn begin(conn: &mut SqliteConnection, place: &Begin) -> Result<Option<i64>> {
    let session = sessions::row_to_write(conn, &place.session).await?.session_key;
    if is_there(conn, session, &place.id).await? {
        return Ok(None);
    }
    let key = sqlx::query_scalar!(
        r#"insert into loose_chunks (uploading) values (1) returning attachment_key as "attachment_key!: i64""#
    );
    key.fetch_one(conn).await.map(Some).map_err(error::of)
}

async fn is_there(conn: &mut SqliteConnection, session: i64, id: &AttachmentId) -> Result<bool> {
    let id = id.as_str();
    let there = sqlx::query_scalar!("select 1 from attachments where session_key = ?1 and id = ?2", session, id);
    there.fetch_optional(conn).await.map(|row| row.is_some()).map_err(error::of)
}

/// Writes bytes as chunks.
async fn store(conn: &mut SqliteConnection, round: &Round) -> Result<()> {
    let bytes = &round.bytes[..];
    let insert = sqlx::query!(
        "with recursive chunk (n) as (
           select 0 where length(?3) > 0
           union all
           select n + 1 from chunk where (n + 1) * ?4 < length(?3)
         )
         insert into attachment_chunks (attachment_key, place, bytes)
         select ?1, ?2 + n, substr(?3, n * ?4 + 1, ?4) from chunk",
        round.key,
        round.place,
        bytes,
        PIECE
    );
    insert.execute(conn).await.map(drop).map_err(error::of)
}

/// The last bytes, and the instant from which the attachment is seen. None when another with its id came first.
async fn complete(conn: &mut SqliteConnection, input: &Finish) -> Result<Option<Attachment>> {
    let new = &input.attachment;
    let session = sessions::row_to_write(conn, &new.session_id).await?.session_key;
    if is_there(conn, session, &new.id).await? {
        return Ok(None);
    }
    store(conn, &input.last).await?;
    let (key, id) = (input.last.key, new.id.as_str());
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
    let row = select_attachments!("join sessions s using (session_key) where s.id = ?1 and a.id = ?2", of, id);
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
        "where a.session_key = ?1 and a.attachment_key > ?2 order by a.attachment_key limit ?3",
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
) -> Result<Bytes> {
    let (of, id) = (session.as_str(), attachment.as_str());
    let (place, skip) = (offset / PIECE, offset % PIECE);
    let bytes = sqlx::query_scalar!(
        "select c.bytes from attachments a join sessions s using (session_key)
           join attachment_chunks c on c.attachment_key = a.attachment_key
         where s.id = ?1 and a.id = ?2 and c.place = ?3",
        of,
        id,
        place
    );
    let bytes: Bytes = bytes.fetch_optional(pool).await.map_err(error::of)?.unwrap_or_default().into();
    Ok(bytes.slice(usize::try_from(skip).unwrap_or(CHUNK).min(bytes.len())..))
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

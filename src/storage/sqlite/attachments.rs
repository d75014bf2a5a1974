//! Attachments: bytes in rows of 256 KiB, and the purge of what was deleted.

use sha2::{Digest, Sha256};
use sqlx::{SqliteConnection, SqlitePool};

use super::{error, sessions};
use crate::{
    model::{Attachment, AttachmentId, NewAttachment, SessionId, Timestamp},
    storage::Result,
};

/// Bytes in one row; see the migration for why.
const CHUNK: usize = 256 << 10;
/// Rows that one purge step removes: 4 MiB, so that no other write waits long for it.
const STEP: i64 = 16;

/// An attachment to store.
pub(super) struct Upload {
    pub(super) session: SessionId,
    pub(super) new: NewAttachment,
    pub(super) bytes: Vec<u8>,
}

pub(super) async fn add(conn: &mut SqliteConnection, upload: &Upload) -> Result<bool> {
    let session = sessions::row_to_write(conn, &upload.session).await?.session_key;
    let (new, id) = (&upload.new, upload.new.id.as_str());
    let there = sqlx::query_scalar!("select 1 from attachments where session_key = ?1 and id = ?2", session, id);
    if there.fetch_optional(&mut *conn).await.map_err(error::of)?.is_some() {
        return Ok(false);
    }
    let size = i64::try_from(upload.bytes.len()).unwrap_or(i64::MAX);
    let sha256: String = Sha256::digest(&upload.bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    let key = sqlx::query_scalar!(
        r#"insert into attachments (session_key, id, mime_type, filename, size, sha256, created_at)
           values (?1, ?2, ?3, ?4, ?5, ?6, ?7) returning attachment_key as "key!: i64""#,
        session,
        id,
        new.mime_type,
        new.filename,
        size,
        sha256,
        new.created_at.0
    );
    let key = key.fetch_one(&mut *conn).await.map_err(error::of)?;
    for (place, chunk) in (0i64..).zip(upload.bytes.chunks(CHUNK)) {
        let insert = sqlx::query!(
            "insert into attachment_chunks (attachment_key, place, bytes) values (?1, ?2, ?3)",
            key,
            place,
            chunk
        );
        insert.execute(&mut *conn).await.map_err(error::of)?;
    }
    Ok(true)
}

pub(super) async fn find(
    pool: &SqlitePool,
    id: &SessionId,
    attachment: &AttachmentId,
) -> Result<Option<(Attachment, Vec<u8>)>> {
    let mut snapshot = pool.begin().await.map_err(error::of)?;
    let (session, name) = (id.as_str(), attachment.as_str());
    let row = sqlx::query!(
        r#"select a.attachment_key as "key!: i64", a.mime_type, a.filename, a.size, a.sha256, a.created_at as "created_at: Timestamp"
           from attachments a join sessions s using (session_key) where s.id = ?1 and a.id = ?2"#,
        session,
        name
    );
    let Some(row) = row.fetch_optional(&mut *snapshot).await.map_err(error::of)? else { return Ok(None) };
    let chunks =
        sqlx::query_scalar!("select bytes from attachment_chunks where attachment_key = ?1 order by place", row.key);
    let bytes = chunks.fetch_all(&mut *snapshot).await.map_err(error::of)?.concat();
    let attachment = Attachment {
        id: attachment.clone(),
        session_id: id.clone(),
        mime_type: row.mime_type,
        filename: row.filename,
        size: row.size,
        sha256: row.sha256,
        created_at: row.created_at,
    };
    Ok(Some((attachment, bytes)))
}

/// Removes a step's worth of bytes whose attachment is gone. Whether there is more.
pub(super) async fn purge(conn: &mut SqliteConnection) -> Result<bool> {
    let next = sqlx::query_scalar!("select attachment_key from attachment_purges order by attachment_key limit 1");
    let Some(key) = next.fetch_optional(&mut *conn).await.map_err(error::of)? else { return Ok(false) };
    let chunks = sqlx::query!(
        "delete from attachment_chunks where attachment_key = ?1
           and place in (select place from attachment_chunks where attachment_key = ?1 limit ?2)",
        key,
        STEP
    );
    if chunks.execute(&mut *conn).await.map_err(error::of)?.rows_affected() == 0 {
        let done = sqlx::query!("delete from attachment_purges where attachment_key = ?1", key);
        done.execute(conn).await.map_err(error::of)?;
    }
    Ok(true)
}

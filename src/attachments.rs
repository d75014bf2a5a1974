//! Reading attachments, for executors: a message names an image, a model is sent its bytes.

use std::io;

use async_trait::async_trait;
use bytes::Bytes;

use crate::model::{AttachmentId, AttachmentUrl, SessionId};

/// Who can read attachments.
#[async_trait]
pub trait AttachmentReader: Send + Sync {
    /// An attachment's bytes and its type. None when the session has no such attachment; one of more than `limit`
    /// bytes fails with [`io::ErrorKind::FileTooLarge`].
    async fn read_attachment(
        &self,
        session: &SessionId,
        id: &AttachmentId,
        limit: usize,
    ) -> io::Result<Option<(Bytes, String)>>;

    /// The same for a reference, `attachment://…` or `bamboo-attachment://…`. One that is neither fails with
    /// [`io::ErrorKind::InvalidInput`].
    async fn resolve(&self, url: &str, limit: usize) -> io::Result<Option<(Bytes, String)>> {
        let url: AttachmentUrl = url.parse().map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        self.read_attachment(&url.session, &url.id, limit).await
    }
}

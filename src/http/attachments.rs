//! Attachments over HTTP.

use axum::extract::State;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    App,
    download::{Download, Wanted},
    error::Problem,
    extract::{Answer, NoQuery, Path},
    listing::{Listing, NoFilter},
    sessions::InSession,
    upload::Upload,
};
use crate::{
    model::{Attachment, AttachmentId, NewAttachment, SessionId, Timestamp},
    storage::{Error, Storage},
};

/// An attachment in a path.
#[derive(Debug, Deserialize, JsonSchema)]
pub(super) struct AtAttachment {
    /// The session's id.
    id: SessionId,
    /// The attachment's id.
    attachment_id: AttachmentId,
}

/// One attachment.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct AttachmentBody {
    attachment: Attachment,
}

pub(super) async fn add(
    State(app): State<App>,
    Path(at): Path<InSession>,
    upload: Upload,
) -> Result<Answer<201, AttachmentBody>, Problem> {
    let Upload { mime_type, filename, bytes } = upload;
    let new = NewAttachment { id: AttachmentId::mint(), mime_type, filename, created_at: Timestamp::now() };
    let added = app.repository.add_attachment(&at.id, new, bytes).await?;
    let attachment = added.ok_or_else(|| Error::Failed("an id that was just made is in use".into()))?;
    Ok(Answer::new(&AttachmentBody { attachment }))
}

/// A page of a session's attachments, oldest first.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct AttachmentsBody {
    attachments: Vec<Attachment>,
    next_cursor: Option<String>,
}

pub(super) async fn list(
    State(app): State<App>,
    Path(at): Path<InSession>,
    list: Listing<NoFilter>,
) -> Result<Answer<200, AttachmentsBody>, Problem> {
    let page = app.repository.attachments(&at.id, list.after, list.limit).await?;
    Ok(Answer::new(&AttachmentsBody { attachments: page.items, next_cursor: list.cursor(page.next) }))
}

pub(super) async fn read(
    State(app): State<App>,
    Path(at): Path<AtAttachment>,
    _: NoQuery,
    wanted: Wanted,
) -> Result<Download, Problem> {
    match app.repository.attachment(&at.id, &at.attachment_id).await? {
        Some(attachment) => wanted.of(attachment, app.repository.clone()),
        None if app.repository.session(&at.id).await?.is_none() => Err(Error::SessionNotFound(at.id).into()),
        None => Err(Error::AttachmentNotFound(at.attachment_id).into()),
    }
}

/// What the deletion of an attachment did.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct RemovedBody {
    success: bool,
    session_id: SessionId,
    attachment_id: AttachmentId,
}

pub(super) async fn delete(
    State(app): State<App>,
    Path(at): Path<AtAttachment>,
    _: NoQuery,
) -> Result<Answer<200, RemovedBody>, Problem> {
    app.repository.delete_attachment(&at.id, &at.attachment_id).await?;
    Ok(Answer::new(&RemovedBody { success: true, session_id: at.id, attachment_id: at.attachment_id }))
}

//! A user's message, as clients of the original send it: with the session, the prompt and the images that it needs.

use axum::extract::State;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    super::{
        App,
        error::Problem,
        extract::{Answer, Json},
        upload::{self, InlineBody, Upload},
    },
    events_url, last,
};
use crate::{
    model::{
        Attachment, AttachmentId, ImageUrl, MessagePart, ModelRef, NewAttachment, NewMessage, NewSession, Role,
        SessionId, SessionUpdate, Timestamp,
    },
    repository::SessionRepository,
    storage::{self, AppendOptions, Error, Storage},
};

/// A user's message, and what its session is to work with from now on.
#[derive(Debug, Deserialize, JsonSchema)]
pub(in crate::http) struct ChatBody {
    /// The text.
    message: String,
    /// The model; not blank.
    model: String,
    /// The session, created if there is none; a new one when absent.
    #[serde(default)]
    session_id: Option<SessionId>,
    /// Stored as a system message where it is not the last one already.
    #[serde(default)]
    system_prompt: Option<String>,
    /// Kept in the session's metadata; absent, it is removed there. So are the next two.
    #[serde(default)]
    enhance_prompt: Option<String>,
    #[serde(default)]
    copilot_conclusion_with_options_enhancement_enabled: Option<bool>,
    #[serde(default)]
    selected_skill_ids: Option<Vec<String>>,
    /// The directory that the session works in.
    #[serde(default)]
    workspace_path: Option<String>,
    /// Stored as attachments.
    #[serde(default)]
    images: Option<Vec<ChatImage>>,
    /// Who provides the model.
    #[serde(default)]
    provider: Option<String>,
    /// Both together; wins over `model` and `provider`.
    #[serde(default)]
    model_ref: Option<ModelRef>,
}

/// An image of a message.
#[derive(Debug, Deserialize, JsonSchema)]
struct ChatImage {
    /// The bytes, as base64 or as a data URL.
    base64: String,
    #[serde(default)]
    name: Option<String>,
    #[serde(default, rename = "type")]
    mime_type: Option<String>,
}

impl ChatBody {
    fn update(&self, app: &App) -> Result<SessionUpdate, Problem> {
        let model = self.model.trim();
        if model.is_empty() {
            return Err(Problem::invalid("model", "not blank"));
        }
        let skills = self.selected_skill_ids.as_ref().map(|ids| json!(ids).to_string());
        let concludes = self.copilot_conclusion_with_options_enhancement_enabled.map(|enabled| enabled.to_string());
        let kept = [
            ("enhance_prompt", self.enhance_prompt.clone()),
            ("copilot_conclusion_with_options_enhancement_enabled", concludes),
            ("selected_skill_ids", skills),
        ];
        let update = SessionUpdate {
            model: Some(Some(model.into())),
            provider: self.provider.clone().map(Some),
            model_ref: self.model_ref.clone().map(Some),
            workspace: self.workspace_path.clone().map(Some),
            metadata: kept.map(|(key, value)| (key.to_owned(), value)).into(),
            metadata_limit: Some(app.limits.metadata),
            ..SessionUpdate::default()
        };
        update.check(&app.limits)?;
        Ok(update)
    }
}

/// A message that was stored. No run was started.
#[derive(Debug, Serialize, JsonSchema)]
pub(in crate::http) struct ChatStoredBody {
    session_id: SessionId,
    stream_url: String,
    status: String,
}

pub(in crate::http) async fn chat(
    State(app): State<App>,
    body: Json<ChatBody>,
) -> Result<Answer<201, ChatStoredBody>, Problem> {
    let mut chat = body.value;
    let update = chat.update(&app)?;
    let user = NewMessage::text(Role::User, &chat.message);
    user.check(&app.limits).map_err(|invalid| Problem::from(invalid).about("message"))?;
    let id = chat.session_id.take().unwrap_or_else(SessionId::mint);
    let prompt = chat.system_prompt.take().filter(|prompt| !prompt.trim().is_empty());
    let new = NewSession { id: Some(id.clone()), system_prompt: prompt.clone(), ..NewSession::default() };
    new.check(&app.limits)?;
    let images = images(chat.images.take().unwrap_or_default(), &app).await?;
    let (repository, session) = (app.repository.clone(), id.clone());
    // What belongs together is done whether or not the client waits.
    let stored = async move {
        match repository.session(&session).await? {
            // Refused before anything changes; a run that starts now is told by the append.
            Some(_) if !repository.active_runs(&session, false).await?.is_empty() => {
                return Err(Error::SessionBusy(session));
            }
            Some(_) => {}
            None => match repository.create_session(new, None).await {
                // Created by another one at this moment.
                Ok(_) | Err(Error::SessionExists(_)) => {}
                Err(error) => return Err(error),
            },
        }
        // First what can be refused for what the session holds already.
        repository.update_session(&session, update, None).await?;
        store(&repository, &session, user, prompt, images).await
    };
    app.repository.tasks().detached(stored).await?;
    Ok(Answer::new(&ChatStoredBody { stream_url: events_url(&id), session_id: id, status: "streaming".into() }))
}

async fn images(images: Vec<ChatImage>, app: &App) -> Result<Vec<Upload>, Problem> {
    let mut uploads = Vec::with_capacity(images.len());
    for (place, image) in images.into_iter().enumerate() {
        let filename = image.name.filter(|name| !name.is_empty());
        let body = InlineBody { data: image.base64, mime_type: image.mime_type, filename };
        let upload = upload::inline(body, app.limits.attachment).await;
        let about = |problem: Problem| Problem::invalid(format!("images[{place}]"), problem.to_string());
        uploads.push(upload.map_err(about)?);
    }
    Ok(uploads)
}

/// Stores a user's message with its images, behind the prompt that it is to be answered under. All or nothing.
async fn store(
    repository: &SessionRepository,
    id: &SessionId,
    mut user: NewMessage,
    prompt: Option<String>,
    images: Vec<Upload>,
) -> storage::Result<()> {
    let before = repository.messages(id, last(Some(Role::System))).await?.messages.pop().map(|message| message.content);
    let prompt = prompt.filter(|prompt| before.as_ref() != Some(prompt));
    let mut added: Vec<Attachment> = Vec::new();
    let stored = async {
        for Upload { mime_type, filename, bytes } in images {
            let new = NewAttachment { id: AttachmentId::mint(), mime_type, filename, created_at: Timestamp::now() };
            added.extend(repository.add_attachment(id, new, bytes).await?);
        }
        if !added.is_empty() {
            let text = MessagePart::Text { text: user.content.clone() };
            let shown = added.iter().map(|image| ImageUrl { url: image.url.clone(), detail: None });
            let shown = shown.map(|image_url| MessagePart::ImageUrl { image_url });
            user.parts = Some(std::iter::once(text).chain(shown).collect());
        }
        let prompt = prompt.map(|prompt| NewMessage::text(Role::System, prompt));
        let messages = prompt.into_iter().chain([user]).collect();
        repository.append_messages(id, messages, AppendOptions::default()).await
    };
    let stored = stored.await;
    if stored.is_err() {
        for image in &added {
            let _ = repository.delete_attachment(id, &image.id).await;
        }
    }
    stored.map(drop)
}

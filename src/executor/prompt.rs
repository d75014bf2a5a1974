//! What an agent is told when a turn begins: what was said since it listened last, or all of it when it is new.

use std::borrow::Cow;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::json;

use crate::{
    attachments::AttachmentReader,
    model::{Message, Role, detected_mime_type},
    tasks,
};

use super::{Error, Turn, content};

/// Bytes of one image at most.
const IMAGE: usize = 20 << 20;

/// A piece of a prompt.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece {
    Text(String),
    /// An image, in base64.
    Image {
        mime_type: String,
        data: String,
    },
}

/// A prompt. None when the last message asks for nothing.
///
/// An agent keeps its own transcript and cannot be handed ours: what it does not know is told in words before what it
/// is asked.
pub(super) async fn prompt(
    turn: &Turn,
    seen: i64,
    images: bool,
    attachments: &dyn AttachmentReader,
) -> Result<Option<Vec<Piece>>, Error> {
    let unseen = turn.messages.iter().filter(|message| message.seq > seen && !message.compressed);
    let unseen: Vec<&Message> = unseen.collect();
    let asked = unseen.iter().rev().take_while(|message| matches!(message.role, Role::User | Role::Tool)).count();
    if asked == 0 {
        return Ok(None);
    }
    let (before, asked) = unseen.split_at(unseen.len() - asked);
    let mut pieces = Vec::new();
    if let Some(told) = told(turn, seen, before) {
        pieces.push(text(told));
    }
    for message in asked {
        match message.role {
            Role::Tool => {
                pieces.push(text(said(message)));
                for part in content::parts(message).iter().filter_map(content::Part::url) {
                    pieces.push(image(part, images, attachments).await?);
                }
            }
            _ => pieces.extend(parts(message, images, attachments).await?),
        }
    }
    Ok(Some(pieces))
}

fn text(text: impl Into<String>) -> Piece {
    Piece::Text(text.into())
}

/// What was said before, in words.
fn told(turn: &Turn, seen: i64, before: &[&Message]) -> Option<String> {
    let summary =
        turn.summary.as_ref().filter(|_| seen == 0).map(|summary| format!("[summary of what came first] {summary}"));
    let said: Vec<String> = summary.into_iter().chain(before.iter().map(|message| said(message))).collect();
    (!said.is_empty()).then(|| {
        format!(
            "What follows was said before, by the user and by you. Go on from it; do not answer it again.\n\n{}",
            said.join("\n\n")
        )
    })
}

fn said(message: &Message) -> String {
    let quoted = |text: Option<Cow<'_, str>>| json!(text);
    let calls = content::calls(message).into_iter().map(|call| call.function);
    let calls = calls.map(|call| format!("\n(called {} {})", quoted(call.name), quoted(call.arguments)));
    let who = match message.role {
        Role::System | Role::Developer => "instructions",
        Role::User => "user",
        Role::Assistant => "you",
        Role::Tool => "result of a call",
    };
    let shown = content::parts(message).iter().filter(|part| part.url().is_some()).count();
    let shown = "\n(an image)".repeat(shown);
    format!("[{who}] {}{shown}{}", content::words(message), calls.collect::<String>())
}

/// A user's message: its parts where it has some.
async fn parts(message: &Message, images: bool, attachments: &dyn AttachmentReader) -> Result<Vec<Piece>, Error> {
    let mut pieces = Vec::new();
    let parts = content::parts(message);
    let said: Vec<&str> = parts.iter().filter_map(|part| part.text.as_deref()).collect();
    if !content::has(&said.join("\n"), &message.content) {
        pieces.push(text(message.content.clone()));
    }
    for part in parts {
        if let Some(words) = &part.text {
            pieces.push(text(words.as_ref()));
        } else if let Some(url) = part.url() {
            pieces.push(image(url, images, attachments).await?);
        }
    }
    Ok(pieces)
}

/// The image that a data URL holds.
fn held_in(url: &str) -> Option<Piece> {
    let data = data_url::DataUrl::process(url).ok()?;
    let (bytes, _) = data.decode_to_vec().ok()?;
    Some(Piece::Image { mime_type: data.mime_type().to_string(), data: STANDARD.encode(bytes) })
}

/// An image, or why it cannot be shown.
async fn image(url: &str, takes_images: bool, attachments: &dyn AttachmentReader) -> Result<Piece, Error> {
    let missing = |why: &str| {
        Ok(text(format!("[The image {} cannot be shown: {why}.]", url.chars().take(100).collect::<String>())))
    };
    if !takes_images {
        return missing("this agent takes none");
    }
    if url.get(..5).is_some_and(|scheme| scheme.eq_ignore_ascii_case("data:")) {
        let held = url.to_owned();
        return match tasks::on_bytes(url.len(), move || held_in(&held)).await {
            Some(image) => Ok(image),
            None => missing("it is damaged"),
        };
    }
    match attachments.resolve(url, IMAGE).await {
        Ok(Some((bytes, declared))) => {
            let mime_type = detected_mime_type(&bytes).unwrap_or(&declared).to_owned();
            let data = tasks::on_bytes(bytes.len(), move || STANDARD.encode(&bytes)).await;
            Ok(Piece::Image { mime_type, data })
        }
        Ok(None) => missing("it is not there any more"),
        Err(error) if error.kind() == std::io::ErrorKind::FileTooLarge => missing("it is too large"),
        Err(error) if error.kind() == std::io::ErrorKind::InvalidInput => missing("its address is of no known kind"),
        Err(error) => Err(Error::Failed(format!("the image {url} could not be read: {error}"))),
    }
}

//! Images of a transcript: attachments become data URLs, because a provider cannot read Culm's.

use std::{
    collections::HashMap,
    io::{self, ErrorKind},
};

use base64::{Engine, engine::general_purpose::STANDARD};

use super::wire::{Image, Part};
use crate::{
    attachments::AttachmentReader,
    executor::{Error, content},
    model::{Message, detected_mime_type},
    tasks,
};

/// Bytes of one image at most, and of all in one request: providers take no more.
const ONE: usize = 20 << 20;
const ALL: usize = 50 << 20;

/// The images of a transcript by their addresses: a data URL, or why there is none.
pub(super) struct Images(HashMap<String, Result<String, String>>);

impl Images {
    /// Reads the attachments that messages show, the newest first: it is the oldest that find no room.
    pub(super) async fn load(messages: &[Message], attachments: &dyn AttachmentReader) -> Result<Self, Error> {
        let (mut images, mut room) = (HashMap::new(), ALL);
        let shown = messages.iter().rev().filter(|message| !message.compressed);
        for part in shown.flat_map(content::parts) {
            let Some(url) = part.url().filter(|url| !is_foreign(url) && !images.contains_key(*url)) else { continue };
            let image = read(url, attachments, room.min(ONE)).await;
            let image = image.map_err(|error| Error::Failed(format!("the image {url} could not be read: {error}")))?;
            room = room.saturating_sub(image.as_ref().map_or(0, String::len) / 4 * 3);
            images.insert(url.to_owned(), image);
        }
        Ok(Self(images))
    }

    /// A part as it is sent. One that cannot be sent says so to the model.
    pub(super) fn part<'a>(&'a self, part: content::Part<'a>) -> Option<Part<'a>> {
        if part.url().is_none() {
            return part.text.map(|text| Part::Text { text });
        }
        let (url, detail) = part.into_image()?;
        match self.0.get(url.as_ref()) {
            Some(Ok(data)) => Some(Part::ImageUrl { image_url: Image { url: data.into(), detail } }),
            Some(Err(reason)) => Some(Part::Text { text: reason.into() }),
            None => Some(Part::ImageUrl { image_url: Image { url, detail } }),
        }
    }
}

/// Whether a provider can read it by itself.
fn is_foreign(url: &str) -> bool {
    ["http:", "https:", "data:"]
        .iter()
        .any(|scheme| url.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme)))
}

async fn read(url: &str, attachments: &dyn AttachmentReader, limit: usize) -> io::Result<Result<String, String>> {
    let missing = |why: &str| Ok(Err(format!("[The image {url} cannot be shown: {why}.]")));
    let (bytes, declared) = match attachments.resolve(url, limit).await {
        Ok(Some(found)) => found,
        Ok(None) => return missing("it is not there any more"),
        Err(error) if error.kind() == ErrorKind::FileTooLarge => return missing("it is too large"),
        Err(error) if error.kind() == ErrorKind::InvalidInput => return missing("its address is of no known kind"),
        Err(error) => return Err(error),
    };
    let shown = detected_mime_type(&bytes).filter(is_image);
    match shown.or(Some(declared.as_str()).filter(is_image)) {
        Some(mime_type) => {
            let begin = format!("data:{mime_type};base64,");
            Ok(Ok(tasks::on_bytes(bytes.len(), move || begin + &STANDARD.encode(&bytes)).await))
        }
        None => missing("it is no image"),
    }
}

fn is_image(mime_type: &&str) -> bool {
    mime_type.starts_with("image/")
}

//! What executors read of a stored message's parts and calls, which are kept as text. Each is read by itself: an
//! imported message may have some that are not known here, or fields of other types.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::model::{Message, RawJson};

/// A piece of a message: a text, an image, or something unknown.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Part<'a> {
    #[serde(borrow, default, deserialize_with = "text")]
    pub(super) text: Option<Cow<'a, str>>,
    #[serde(borrow, default, deserialize_with = "object")]
    image_url: Image<'a>,
}

#[derive(Debug, Default, Deserialize)]
struct Image<'a> {
    #[serde(borrow, default, deserialize_with = "text")]
    url: Option<Cow<'a, str>>,
    #[serde(borrow, default, deserialize_with = "text")]
    detail: Option<Cow<'a, str>>,
}

impl<'a> Part<'a> {
    /// Where the image is that it shows.
    pub(super) fn url(&self) -> Option<&str> {
        self.image_url.url.as_deref()
    }

    /// The image's address, and how closely a model should look.
    pub(super) fn into_image(self) -> Option<(Cow<'a, str>, Option<Cow<'a, str>>)> {
        Some((self.image_url.url?, self.image_url.detail))
    }
}

/// A call of a tool.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Call<'a> {
    #[serde(borrow, default, deserialize_with = "text")]
    pub(super) id: Option<Cow<'a, str>>,
    #[serde(borrow, default, deserialize_with = "object")]
    pub(super) function: Function<'a>,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct Function<'a> {
    #[serde(borrow, default, deserialize_with = "text")]
    pub(super) name: Option<Cow<'a, str>>,
    #[serde(borrow, default, deserialize_with = "text")]
    pub(super) arguments: Option<Cow<'a, str>>,
}

/// A message's parts.
pub(super) fn parts(message: &Message) -> Vec<Part<'_>> {
    items(message.parts.as_ref())
}

/// The calls that a message makes.
pub(super) fn calls(message: &Message) -> Vec<Call<'_>> {
    items(message.tool_calls.as_ref())
}

fn items<'a, T: Deserialize<'a> + Default>(json: Option<&'a RawJson>) -> Vec<T> {
    let items: Vec<&RawValue> = json.and_then(RawJson::parse).unwrap_or_default();
    items.into_iter().map(|item| serde_json::from_str(item.get()).unwrap_or_default()).collect()
}

/// A text that borrows where it has no escapes.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Cow<'de, str>>, D::Error> {
    let json = <&RawValue>::deserialize(deserializer)?;
    Ok(serde_json::from_str(json.get()).ok().map(|Text(text)| text))
}

fn object<'de, T: Deserialize<'de> + Default, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    let json = <&RawValue>::deserialize(deserializer)?;
    Ok(serde_json::from_str(json.get()).unwrap_or_default())
}

//! What executors read of a stored message's parts and calls, which are kept as text. Each is read by itself: an
//! imported message may have some that are not known here, or fields of other types.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::model::{JsonObject, Message, RawJson};

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

/// A message's text: that of its parts, and its content where the parts do not have it.
pub(super) fn words(message: &Message) -> Cow<'_, str> {
    let mut texts = parts(message).into_iter().filter_map(|part| part.text);
    let (Some(first), second) = (texts.next(), texts.next()) else { return Cow::Borrowed(&message.content) };
    let joined = match second {
        None => first,
        Some(second) => [first, second].into_iter().chain(texts).collect::<Vec<_>>().join("\n").into(),
    };
    match has(&joined, &message.content) {
        true => joined,
        false => format!("{}\n{joined}", message.content).into(),
    }
}

/// Whether a text has all that another says, however it is spaced.
pub(super) fn has(text: &str, other: &str) -> bool {
    let bare = |text: &str| text.split_whitespace().collect::<String>();
    let other = bare(other);
    other.is_empty() || bare(text).contains(&other)
}

/// The fields of each call that are not everybody's: a vendor's own. In the order of [`calls`].
pub(super) fn own_fields(message: &Message) -> Vec<JsonObject> {
    let calls: Vec<&RawValue> = message.tool_calls.as_ref().and_then(RawJson::parse).unwrap_or_default();
    let own = |call: &RawValue| {
        let mut fields: JsonObject = serde_json::from_str(call.get()).unwrap_or_default();
        fields.retain(|name, _| !["id", "type", "function", "index"].contains(&name.as_str()));
        fields
    };
    calls.into_iter().map(own).collect()
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

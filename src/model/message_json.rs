//! Messages as clients write them: as chat-completion APIs and their SDKs do, and with Culm's own fields.
//!
//! What has no field of its own is kept: of a message in `extra`, of a part or a call where it stands, in the order and
//! with the digits that it came with. Nothing is read into a tree of values, and each field that is wrong is named by its
//! path.

use std::{borrow::Cow, collections::HashSet, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, SeqAccess, Visitor},
};

use super::{ImageUrl, MessagePart, NewMessage, RawJson, RawObject, Timestamp, ToolCall, ToolFunction};

/// Fields of a stored message that only the server sets.
const OF_SERVER: &[&str] = &["seq", "updated_at", "run_id", "compressed"];
const FIELDS: &[&str] = &[
    "id",
    "role",
    "content",
    "reasoning",
    "parts",
    "tool_calls",
    "tool_call_id",
    "tool_success",
    "phase",
    "metadata",
    "created_at",
    "extra",
];

/// An object that is put together from its fields, in their order.
struct Pieces(String);

impl Pieces {
    fn new() -> Self {
        Self("{".into())
    }

    fn add(&mut self, name: &str, value: &RawJson) {
        if self.0.len() > 1 {
            self.0.push(',');
        }
        self.0.push_str(RawJson::of(name).as_str());
        self.0.push(':');
        self.0.push_str(value.as_str());
    }

    fn end<E: Error>(mut self) -> Result<RawObject, E> {
        self.0.push('}');
        serde_json::from_str(&self.0).map_err(E::custom)
    }
}

/// The fields of an object in their order, of which some have a place of their own, and are written down here only if the
/// object must be kept whole: they can be long.
#[derive(Default)]
struct Fields(Vec<(String, Option<RawJson>)>);

impl Fields {
    /// A field with a place of its own.
    fn own(&mut self, name: &str) {
        self.0.push((name.into(), None));
    }

    /// Any other field.
    fn other(&mut self, name: &str, value: RawJson) {
        self.0.push((name.into(), Some(value)));
    }

    fn has_others(&self) -> bool {
        self.0.iter().any(|(_, value)| value.is_some())
    }

    /// The object, given the values of the fields that have a place of their own.
    fn whole<E: Error>(&self, own: impl Fn(&str) -> RawJson) -> Result<RawObject, E> {
        let mut whole = Pieces::new();
        for (name, value) in &self.0 {
            whole.add(name, &value.clone().unwrap_or_else(|| own(name)));
        }
        whole.end()
    }
}

/// Reads an object with a function of its fields.
struct Object<F>(F);

impl<'de, T, F> Visitor<'de> for Object<F>
where
    F: ObjectOf<'de, Value = T>,
{
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }
    fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<T, A::Error> {
        self.0.read(fields)
    }
}

/// How an object is read.
trait ObjectOf<'de> {
    type Value;

    fn read<A: MapAccess<'de>>(self, fields: A) -> Result<Self::Value, A::Error>;
}

/// A message's text: null, a string, or the text of its parts.
enum Content {
    Nothing,
    Text(String),
    Parts(Vec<MessagePart>),
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Content;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string, null or an array of parts")
            }
            fn visit_unit<E>(self) -> Result<Content, E> {
                Ok(Content::Nothing)
            }
            fn visit_str<E>(self, text: &str) -> Result<Content, E> {
                Ok(Content::Text(text.into()))
            }
            fn visit_string<E>(self, text: String) -> Result<Content, E> {
                Ok(Content::Text(text))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Content, A::Error> {
                let mut parts = Vec::new();
                while let Some(part) = list.next_element()? {
                    parts.push(part);
                }
                Ok(Content::Parts(parts))
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

/// A time: RFC 3339, or seconds since 1970 as some APIs have it.
struct Moment(Timestamp);

impl<'de> Deserialize<'de> for Moment {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let json = RawJson::deserialize(deserializer)?;
        let seconds = json.parse::<f64>().map(|seconds| Timestamp((seconds * 1e6) as i64));
        let time = seconds.filter(|time| time.is_in_range()).or_else(|| json.parse()).filter(|time| time.0 > 0);
        time.map(Self).ok_or_else(|| D::Error::custom("expected a time such as 2026-01-31T12:00:00Z, 1970 to 9999"))
    }
}

impl<'de> Deserialize<'de> for NewMessage {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> ObjectOf<'de> for Reader {
            type Value = NewMessage;

            fn read<A: MapAccess<'de>>(self, mut fields: A) -> Result<NewMessage, A::Error> {
                let mut role = None;
                let mut new = NewMessage::text(super::Role::User, "");
                let (mut of_content, mut extra, mut kept) = (None, Pieces::new(), HashSet::new());
                let mut keep = |name: &str, value: &RawJson| {
                    if !kept.insert(name.to_owned()) {
                        return Err(A::Error::custom(format!("duplicate field `{name}`")));
                    }
                    extra.add(name, value);
                    Ok(())
                };
                while let Some(name) = fields.next_key::<Cow<'_, str>>()? {
                    match &*name {
                        "id" => new.id = fields.next_value()?,
                        "role" => role = Some(fields.next_value()?),
                        "content" => match fields.next_value()? {
                            Content::Nothing => {}
                            Content::Text(text) => new.content = text,
                            Content::Parts(parts) => of_content = Some(parts),
                        },
                        "reasoning" => new.reasoning = fields.next_value()?,
                        "parts" => new.parts = fields.next_value()?,
                        "tool_calls" => new.tool_calls = fields.next_value()?,
                        "tool_call_id" => new.tool_call_id = fields.next_value()?,
                        "tool_success" => new.tool_success = fields.next_value()?,
                        "phase" => new.phase = fields.next_value()?,
                        "metadata" => new.metadata = fields.next_value()?,
                        "created_at" => {
                            new.created_at = fields.next_value::<Option<Moment>>()?.map(|Moment(time)| time);
                        }
                        "extra" => {
                            let own: Option<RawObject> = fields.next_value()?;
                            for (name, value) in own.iter().flat_map(RawObject::entries) {
                                keep(&name, &value)?;
                            }
                        }
                        name if OF_SERVER.contains(&name) => return Err(A::Error::unknown_field(name, FIELDS)),
                        // What SDKs write of what is not there.
                        name => {
                            let value: Option<RawJson> = fields.next_value()?;
                            value.iter().try_for_each(|value| keep(name, value))?;
                        }
                    }
                }
                new.role = role.ok_or_else(|| A::Error::missing_field("role"))?;
                new.extra = extra.end()?;
                if let Some(parts) = of_content {
                    if new.parts.is_some() {
                        return Err(A::Error::custom("either content or parts is an array of parts"));
                    }
                    let texts: Vec<Cow<'_, str>> = parts.iter().filter_map(MessagePart::text).collect();
                    new.content = texts.join("\n");
                    new.parts = Some(parts);
                }
                Ok(new)
            }
        }
        deserializer.deserialize_map(Object(Reader))
    }
}

impl<'de> Deserialize<'de> for MessagePart {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> ObjectOf<'de> for Reader {
            type Value = MessagePart;

            fn read<A: MapAccess<'de>>(self, mut fields: A) -> Result<MessagePart, A::Error> {
                let (mut kind, mut text, mut image) = (None::<String>, None::<String>, None::<Image>);
                let mut all = Fields::default();
                while let Some(name) = fields.next_key::<Cow<'_, str>>()? {
                    match &*name {
                        "type" => kind = fields.next_value().map(Some)?,
                        "text" => text = fields.next_value().map(Some)?,
                        "image_url" => image = fields.next_value().map(Some)?,
                        _ => {
                            all.other(&name, fields.next_value()?);
                            continue;
                        }
                    }
                    all.own(&name);
                }
                let kind = kind.ok_or_else(|| A::Error::missing_field("type"))?;
                let is_plain = !all.has_others() && image.as_ref().is_none_or(|image| !image.all.has_others());
                match (kind.as_str(), text, image) {
                    ("text", None, _) => Err(A::Error::missing_field("text")),
                    ("image_url", _, None) => Err(A::Error::missing_field("image_url")),
                    ("text", Some(text), None) if is_plain => Ok(MessagePart::Text { text }),
                    ("image_url", None, Some(image)) if is_plain => Ok(MessagePart::ImageUrl { image_url: image.url }),
                    (_, text, image) => {
                        let image: Option<RawObject> = image.map(|image| image.whole()).transpose()?;
                        let own = |name: &str| match name {
                            "type" => RawJson::of(&kind),
                            "text" => RawJson::of(&text),
                            _ => RawJson::of(&image),
                        };
                        all.whole(own).map(MessagePart::Other)
                    }
                }
            }
        }
        deserializer.deserialize_map(Object(Reader))
    }
}

/// An image's address, with all its fields.
struct Image {
    url: ImageUrl,
    all: Fields,
}

impl Image {
    fn whole<E: Error>(&self) -> Result<RawObject, E> {
        let ImageUrl { url, detail } = &self.url;
        self.all.whole(|name| if name == "url" { RawJson::of(url) } else { RawJson::of(detail) })
    }
}

impl<'de> Deserialize<'de> for Image {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> ObjectOf<'de> for Reader {
            type Value = Image;

            fn read<A: MapAccess<'de>>(self, mut fields: A) -> Result<Image, A::Error> {
                let (mut url, mut detail, mut all) = (None, None, Fields::default());
                while let Some(name) = fields.next_key::<Cow<'_, str>>()? {
                    match &*name {
                        "url" => url = fields.next_value().map(Some)?,
                        "detail" => detail = fields.next_value()?,
                        _ => {
                            all.other(&name, fields.next_value()?);
                            continue;
                        }
                    }
                    all.own(&name);
                }
                let url = url.ok_or_else(|| A::Error::missing_field("url"))?;
                Ok(Image { url: ImageUrl { url, detail }, all })
            }
        }
        deserializer.deserialize_map(Object(Reader))
    }
}

impl<'de> Deserialize<'de> for ToolCall {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> ObjectOf<'de> for Reader {
            type Value = ToolCall;

            fn read<A: MapAccess<'de>>(self, mut fields: A) -> Result<ToolCall, A::Error> {
                let (mut id, mut kind, mut function, mut extra) = (None, None::<String>, None, Pieces::new());
                while let Some(name) = fields.next_key::<Cow<'_, str>>()? {
                    match &*name {
                        "id" => id = Some(fields.next_value()?),
                        "type" => kind = fields.next_value()?,
                        "function" => {
                            let Some(Function { function: called, whole }) = fields.next_value()? else { continue };
                            function = Some(called);
                            whole.iter().for_each(|whole| extra.add("function", whole));
                        }
                        name => extra.add(name, &fields.next_value()?),
                    }
                }
                let extra = extra.end()?;
                // A call of a tool that takes text: it stays as it is, and can be read as any other.
                let function = function.or_else(|| {
                    let custom: Custom = extra.field("custom")?;
                    Some(ToolFunction { name: custom.name, arguments: custom.input })
                });
                Ok(ToolCall {
                    id: id.ok_or_else(|| A::Error::missing_field("id"))?,
                    kind: kind.unwrap_or_else(|| "function".into()),
                    function: function.ok_or_else(|| A::Error::missing_field("function"))?,
                    extra,
                })
            }
        }
        deserializer.deserialize_map(Object(Reader))
    }
}

/// The call of a tool that takes text.
#[derive(Deserialize)]
struct Custom {
    name: String,
    input: String,
}

impl<'de> Deserialize<'de> for ToolFunction {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Function::deserialize(deserializer).map(|Function { function, .. }| function)
    }
}

/// What is called; as it came, too, where it has further fields.
struct Function {
    function: ToolFunction,
    whole: Option<RawJson>,
}

impl<'de> Deserialize<'de> for Function {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> ObjectOf<'de> for Reader {
            type Value = Function;

            fn read<A: MapAccess<'de>>(self, mut fields: A) -> Result<Function, A::Error> {
                let (mut of_name, mut arguments, mut all) = (None::<String>, None::<String>, Fields::default());
                while let Some(name) = fields.next_key::<Cow<'_, str>>()? {
                    match &*name {
                        "name" => of_name = fields.next_value().map(Some)?,
                        "arguments" => arguments = fields.next_value().map(Some)?,
                        _ => {
                            all.other(&name, fields.next_value()?);
                            continue;
                        }
                    }
                    all.own(&name);
                }
                let name = of_name.ok_or_else(|| A::Error::missing_field("name"))?;
                let arguments = arguments.ok_or_else(|| A::Error::missing_field("arguments"))?;
                let own = |field: &str| if field == "name" { RawJson::of(&name) } else { RawJson::of(&arguments) };
                let whole = if all.has_others() { Some(all.whole::<A::Error>(own)?.into()) } else { None };
                Ok(Function { function: ToolFunction { name, arguments }, whole })
            }
        }
        deserializer.deserialize_map(Object(Reader))
    }
}

impl<'de> Deserialize<'de> for ImageUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Image { url, all } = Image::deserialize(deserializer)?;
        if all.has_others() {
            return Err(D::Error::custom("an image has a url and a detail"));
        }
        Ok(url)
    }
}

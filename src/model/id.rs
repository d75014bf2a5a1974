//! Public ids: what clients bring or the server makes (UUIDv7, so that the order of ids is the order of time).

use std::{fmt, str::FromStr, sync::Arc};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Words that are a path of the API where an id could stand.
const RESERVED: [&str; 4] = ["cleanup", "truncate", "count", "search"];

/// Why a text is no id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidId {
    /// Empty, or longer than 128 bytes.
    #[error("an id has 1 to 128 bytes")]
    Length,
    /// A control character, a slash or a backslash, or white space at an end.
    #[error("an id holds no control characters, no '/' or '\\' and no white space at its ends")]
    Character,
    /// `.`, or a text with `..`: what a file system would follow.
    #[error("an id is not '.' and does not hold '..'")]
    Dots,
    /// A word that is a path of the API.
    #[error("an id is not a word that is a path here (cleanup, truncate, count, search)")]
    Reserved,
}

fn check(text: &str) -> Result<(), InvalidId> {
    if text.is_empty() || text.len() > 128 {
        return Err(InvalidId::Length);
    }
    // Most are of these characters alone, which one pass tells.
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if !text.bytes().all(plain) {
        let forbidden = |c: char| c.is_control() || c == '/' || c == '\\';
        if text.contains(forbidden) || text.trim() != text {
            return Err(InvalidId::Character);
        }
        if text == "." || text.contains("..") {
            return Err(InvalidId::Dots);
        }
    }
    match RESERVED.contains(&text) {
        true => Err(InvalidId::Reserved),
        false => Ok(()),
    }
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// A new id, unique and later than all before it.
            pub fn mint() -> Self {
                Self(uuid::Uuid::now_v7().to_string().into())
            }

            /// An id that the database holds: it was checked on its way in.
            pub(crate) fn stored(text: String) -> Self {
                Self(text.into())
            }

            /// The id's text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                check(text).map(|()| Self(text.into()))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }

        impl JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "minLength": 1, "maxLength": 128 })
            }
        }
    };
}

id!(
    /// A session's public id, unique among all sessions that are or ever were.
    SessionId
);
id!(
    /// A message's public id, unique within its session.
    MessageId
);
id!(
    /// A run's public id, unique among all runs.
    RunId
);
id!(
    /// An attachment's public id, unique within its session.
    AttachmentId
);
id!(
    /// A receipt's public id.
    ReceiptId
);
id!(
    /// A backend's public id.
    BackendId
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_a_file_system_or_a_terminal_would_follow_are_refused() {
        let long = "x".repeat(129);
        for text in ["", ".", "..", "a..b", "a/b", "a\\b", "a\0b", "a\nb", " a", "a ", "cleanup", &long] {
            assert!(text.parse::<SessionId>().is_err(), "{text:?}");
        }
        for text in ["session-123", "a.b", "数据", "a b", &long[..128]] {
            assert_eq!(text.parse::<SessionId>().map(|id| id.to_string()).as_deref(), Ok(text));
        }
    }

    #[test]
    fn minted_ids_are_in_the_order_of_their_making() {
        let ids: Vec<_> = (0..100).map(|_| SessionId::mint()).collect();
        assert!(ids.is_sorted());
    }
}

//! How the model's types stand in SQLite's columns.

use std::marker::PhantomData;

use serde::{Deserialize, Deserializer, Serialize, de::DeserializeOwned};
use sqlx::{
    Decode, Sqlite, Type, TypeInfo,
    error::BoxDynError,
    sqlite::{SqliteTypeInfo, SqliteValueRef},
};

use crate::{
    model::{AttachmentId, BackendId, MessageId, RawJson, RawObject, ReceiptId, RunId, SessionId, Timestamp},
    storage::{Error, Result},
    tasks,
};

/// A text that was perhaps edited in a shell: what is no UTF-8 shows as U+FFFD instead of failing a whole list.
#[derive(Debug)]
pub(super) struct Text(pub(super) String);

impl Type<Sqlite> for Text {
    fn type_info() -> SqliteTypeInfo {
        <str as Type<Sqlite>>::type_info()
    }
    fn compatible(ty: &SqliteTypeInfo) -> bool {
        ty.is_null() || <str as Type<Sqlite>>::compatible(ty) || <[u8] as Type<Sqlite>>::compatible(ty)
    }
}

impl<'r> Decode<'r, Sqlite> for Text {
    fn decode(value: SqliteValueRef<'r>) -> std::result::Result<Self, BoxDynError> {
        let bytes = <&[u8] as Decode<Sqlite>>::decode(value)?;
        Ok(Self(String::from_utf8_lossy(bytes).into_owned()))
    }
}

/// A JSON column.
#[derive(Debug)]
pub(super) struct Json<T>(pub(super) T);

impl<T> Type<Sqlite> for Json<T> {
    fn type_info() -> SqliteTypeInfo {
        <str as Type<Sqlite>>::type_info()
    }
    fn compatible(ty: &SqliteTypeInfo) -> bool {
        Text::compatible(ty)
    }
}

impl<'r, T: DeserializeOwned> Decode<'r, Sqlite> for Json<T> {
    fn decode(value: SqliteValueRef<'r>) -> std::result::Result<Self, BoxDynError> {
        let bytes = <&[u8] as Decode<Sqlite>>::decode(value)?;
        let read = || match serde_json::from_slice(bytes) {
            Ok(value) => Ok(value),
            // Perhaps it is only no UTF-8.
            Err(_) => serde_json::from_str(&String::from_utf8_lossy(bytes)),
        };
        Ok(Self(read()?))
    }
}

/// Rows as one JSON array, not taken apart yet.
#[derive(Debug)]
pub(super) struct Rows<T>(String, PhantomData<fn() -> T>);

impl<T: DeserializeOwned + Send + 'static> Rows<T> {
    /// The rows.
    pub(super) async fn read(self) -> Result<Vec<T>> {
        let Self(text, _) = self;
        let rows = tasks::on_bytes(text.len(), move || serde_json::from_str(&text)).await;
        rows.map_err(|error| Error::Failed(format!("rows cannot be read: {error}")))
    }
}

impl<T> Type<Sqlite> for Rows<T> {
    fn type_info() -> SqliteTypeInfo {
        <str as Type<Sqlite>>::type_info()
    }
    fn compatible(ty: &SqliteTypeInfo) -> bool {
        Text::compatible(ty)
    }
}

impl<'r, T> Decode<'r, Sqlite> for Rows<T> {
    fn decode(value: SqliteValueRef<'r>) -> std::result::Result<Self, BoxDynError> {
        Text::decode(value).map(|Text(text)| Self(text, PhantomData))
    }
}

/// A JSON column that stays text.
#[derive(Debug)]
pub(super) struct Raw(pub(super) RawJson);

impl Raw {
    /// The object that a column holds which is checked to hold one.
    pub(super) fn object(self) -> RawObject {
        RawObject::try_from(self.0).unwrap_or_default()
    }
}

impl Type<Sqlite> for Raw {
    fn type_info() -> SqliteTypeInfo {
        <str as Type<Sqlite>>::type_info()
    }
    fn compatible(ty: &SqliteTypeInfo) -> bool {
        Text::compatible(ty)
    }
}

impl<'r> Decode<'r, Sqlite> for Raw {
    fn decode(value: SqliteValueRef<'r>) -> std::result::Result<Self, BoxDynError> {
        let Text(text) = Text::decode(value)?;
        Ok(Self(RawJson::stored(text)?))
    }
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        RawJson::stored(String::deserialize(deserializer)?).map(Self).map_err(serde::de::Error::custom)
    }
}

/// The text of one within another JSON.
impl<'de, T: DeserializeOwned> Deserialize<'de> for Json<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        serde_json::from_str(&text).map(Self).map_err(serde::de::Error::custom)
    }
}

/// A column that holds one of the model's words without its JSON quotes.
#[derive(Debug)]
pub(super) struct Word<T>(pub(super) T);

impl<T> Type<Sqlite> for Word<T> {
    fn type_info() -> SqliteTypeInfo {
        <str as Type<Sqlite>>::type_info()
    }
    fn compatible(ty: &SqliteTypeInfo) -> bool {
        Text::compatible(ty)
    }
}

impl<'r, T: DeserializeOwned> Decode<'r, Sqlite> for Word<T> {
    fn decode(value: SqliteValueRef<'r>) -> std::result::Result<Self, BoxDynError> {
        let Text(text) = Text::decode(value)?;
        Ok(Self(serde_json::from_value(serde_json::Value::String(text))?))
    }
}

/// The word that a column holds for a value of the model.
pub(super) fn word<T: Serialize>(value: &T) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        _ => String::new(),
    }
}

/// The JSON that a column holds for a value of the model; none for none.
pub(super) fn json<T: Serialize>(value: &Option<T>) -> Option<String> {
    value.as_ref().map(object)
}

/// The JSON that a column holds for a value of the model.
pub(super) fn object<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_else(|_| "null".into())
}

macro_rules! stored_id {
    ($($id:ident),*) => { $(
        impl Type<Sqlite> for $id {
            fn type_info() -> SqliteTypeInfo {
                <str as Type<Sqlite>>::type_info()
            }
            fn compatible(ty: &SqliteTypeInfo) -> bool {
                Text::compatible(ty)
            }
        }
        impl<'r> Decode<'r, Sqlite> for $id {
            fn decode(value: SqliteValueRef<'r>) -> std::result::Result<Self, BoxDynError> {
                Text::decode(value).map(|Text(text)| $id::stored(text))
            }
        }
    )* };
}

stored_id!(SessionId, MessageId, RunId, AttachmentId, BackendId, ReceiptId);

impl Type<Sqlite> for Timestamp {
    fn type_info() -> SqliteTypeInfo {
        <i64 as Type<Sqlite>>::type_info()
    }
    fn compatible(ty: &SqliteTypeInfo) -> bool {
        <i64 as Type<Sqlite>>::compatible(ty)
    }
}

impl<'r> Decode<'r, Sqlite> for Timestamp {
    fn decode(value: SqliteValueRef<'r>) -> std::result::Result<Self, BoxDynError> {
        <i64 as Decode<Sqlite>>::decode(value).map(Self)
    }
}

//! JSON that Culm keeps for others and does not look into: text, checked once and never made a tree.
//!
//! A tree of values takes ten to a hundred times the memory of its text. The text also keeps what a tree would lose:
//! integers of any size and the order of keys.

use std::{borrow::Cow, collections::BTreeMap, fmt, marker::PhantomData, sync::Arc};

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{DeserializeOwned, DeserializeSeed, Error as _, IgnoredAny, MapAccess, SeqAccess, Unexpected, Visitor},
};
use serde_json::{Value, value::RawValue};

use super::{JsonObject, json_digest};

/// Arrays and objects within one another at most. A reader with a bound of 128, as serde_json's, can still read what
/// wraps them.
const DEPTH: usize = 120;

/// Any JSON, as the text it came as. Cheap to clone. Equal to what says the same in another order of keys, with other
/// white space or escapes.
#[derive(Clone)]
pub struct RawJson(Arc<RawValue>);

/// A JSON object, as the text it came as.
#[derive(Clone, PartialEq)]
pub struct RawObject(RawJson);

impl RawJson {
    /// The JSON of a value. Null for what has no JSON, such as a map with keys that are no texts.
    pub fn of<T: Serialize + ?Sized>(value: &T) -> Self {
        serde_json::value::to_raw_value(value).map_or_else(|_| Self::null(), |json| Self(json.into()))
    }

    /// A stored text: one that was checked when it came.
    pub fn stored(text: String) -> serde_json::Result<Self> {
        RawValue::from_string(text).map(|json| Self(json.into()))
    }

    fn null() -> Self {
        Self(RawValue::NULL.to_owned().into())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        self.0.get()
    }

    /// The JSON as a type that takes what is wanted of it. None where it is something else.
    pub fn parse<'a, T: Deserialize<'a>>(&'a self) -> Option<T> {
        serde_json::from_str(self.as_str()).ok()
    }

    /// A hash that all JSON which says the same has: whatever the order of keys, white space and escapes. Of equal keys
    /// the last counts.
    pub fn digest(&self) -> [u8; 32] {
        json_digest::of(self.as_str())
    }

    /// Whether it is an object.
    pub fn is_object(&self) -> bool {
        self.as_str().starts_with('{')
    }

    /// Whether it is an array.
    pub fn is_array(&self) -> bool {
        self.as_str().starts_with('[')
    }
}

impl RawObject {
    /// Whether it has no field.
    pub fn is_empty(&self) -> bool {
        self.as_str().trim_matches(['{', '}']).trim().is_empty()
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// A hash that all objects have which say the same.
    pub fn digest(&self) -> [u8; 32] {
        self.0.digest()
    }

    /// One field, if it is there and of this type.
    pub fn field<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        let mut json = serde_json::Deserializer::from_str(self.as_str());
        Field(name, PhantomData).deserialize(&mut json).ok()?
    }

    /// The fields, each as its text.
    pub fn fields(&self) -> BTreeMap<String, &RawValue> {
        serde_json::from_str(self.as_str()).unwrap_or_default()
    }

    /// The fields in their order, each as its text.
    pub fn entries(&self) -> Vec<(String, RawJson)> {
        let mut json = serde_json::Deserializer::from_str(self.as_str());
        json.deserialize_map(Entries).unwrap_or_default()
    }

    /// Sets one field.
    pub fn insert(&mut self, name: &str, value: &impl Serialize) {
        let value = RawJson::of(value);
        let mut fields = self.fields();
        fields.insert(name.into(), &value.0);
        *self = Self(RawJson::of(&fields));
    }

    /// Removes one field.
    pub fn remove(&mut self, name: &str) {
        let mut fields = self.fields();
        fields.remove(name);
        *self = Self(RawJson::of(&fields));
    }
}

/// Null.
impl Default for RawJson {
    fn default() -> Self {
        Self::null()
    }
}

impl Default for RawObject {
    fn default() -> Self {
        Self::from(&JsonObject::new())
    }
}

impl From<&JsonObject> for RawObject {
    fn from(object: &JsonObject) -> Self {
        Self(RawJson::of(object))
    }
}

impl From<JsonObject> for RawObject {
    fn from(object: JsonObject) -> Self {
        Self::from(&object)
    }
}

impl From<Value> for RawJson {
    fn from(value: Value) -> Self {
        Self::of(&value)
    }
}

impl From<RawObject> for RawJson {
    fn from(object: RawObject) -> Self {
        object.0
    }
}

impl TryFrom<RawJson> for RawObject {
    type Error = RawJson;

    fn try_from(json: RawJson) -> Result<Self, RawJson> {
        if json.is_object() { Ok(Self(json)) } else { Err(json) }
    }
}

impl PartialEq for RawJson {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str() || self.digest() == other.digest()
    }
}

impl PartialEq<Value> for RawJson {
    fn eq(&self, other: &Value) -> bool {
        *self == Self::of(other)
    }
}

impl fmt::Debug for RawJson {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for RawObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for RawJson {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl Serialize for RawObject {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for RawJson {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let json = Box::<RawValue>::deserialize(deserializer)?;
        check(json.get()).map_err(D::Error::custom)?;
        Ok(Self(json.into()))
    }
}

impl<'de> Deserialize<'de> for RawObject {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let json = RawJson::deserialize(deserializer)?;
        let is = |json: &RawJson| match json.as_str().as_bytes().first() {
            Some(b'[') => Unexpected::Seq,
            Some(b'n') => Unexpected::Unit,
            Some(b't' | b'f') => Unexpected::Other("boolean"),
            Some(b'"') => Unexpected::Other("string"),
            _ => Unexpected::Other("number"),
        };
        Self::try_from(json).map_err(|json| D::Error::invalid_type(is(&json), &"a map"))
    }
}

impl JsonSchema for RawJson {
    fn inline_schema() -> bool {
        Value::inline_schema()
    }
    fn schema_name() -> Cow<'static, str> {
        Value::schema_name()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        Value::json_schema(generator)
    }
}

impl JsonSchema for RawObject {
    fn inline_schema() -> bool {
        JsonObject::inline_schema()
    }
    fn schema_name() -> Cow<'static, str> {
        JsonObject::schema_name()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        JsonObject::json_schema(generator)
    }
}

/// Refuses what a reader could not read: too deep, half a surrogate pair, a number beyond what a float holds.
fn check(json: &str) -> serde_json::Result<()> {
    let mut json = serde_json::Deserializer::from_str(json);
    Readable(DEPTH).deserialize(&mut json)
}

/// Walks through JSON, so many levels down, and keeps nothing of it.
#[derive(Clone, Copy)]
struct Readable(usize);

impl Readable {
    fn below<E: serde::de::Error>(self) -> Result<Self, E> {
        let deep = || E::custom(format!("more than {DEPTH} arrays and objects within one another"));
        self.0.checked_sub(1).map(Self).ok_or_else(deep)
    }
}

impl<'de> DeserializeSeed<'de> for Readable {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Readable {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }
    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }
    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }
    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }
    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }
    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let item = self.below()?;
        while items.next_element_seed(item)?.is_some() {}
        Ok(())
    }
    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<(), A::Error> {
        let value = self.below()?;
        // A name is a string like another: it is read for what it may not be.
        while fields.next_key_seed(self)?.is_some() {
            fields.next_value_seed(value)?;
        }
        Ok(())
    }
}

/// The fields of an object that was checked.
struct Entries;

impl<'de> Visitor<'de> for Entries {
    type Value = Vec<(String, RawJson)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Self::Value, A::Error> {
        let mut entries = Vec::new();
        while let Some((name, value)) = fields.next_entry::<String, Box<RawValue>>()? {
            entries.push((name, RawJson(value.into())));
        }
        Ok(entries)
    }
}

/// One field of an object; the others are passed over.
struct Field<'n, T>(&'n str, PhantomData<T>);

impl<'de, T: DeserializeOwned> DeserializeSeed<'de> for Field<'_, T> {
    type Value = Option<T>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<T>, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de, T: DeserializeOwned> Visitor<'de> for Field<'_, T> {
    type Value = Option<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Option<T>, A::Error> {
        let mut found = None;
        while let Some(name) = fields.next_key::<Cow<'_, str>>()? {
            match name == self.0 {
                true => found = Some(fields.next_value()?),
                false => drop(fields.next_value::<IgnoredAny>()?),
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &str) -> RawJson {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn json_is_the_same_whatever_the_order_of_its_keys_and_its_spaces() {
        assert_eq!(json(r#"{"a": 1, "b": [1.50, "\u0041"]}"#), json(r#"{"b":[15e-1,"A"],"a":1}"#));
        assert_eq!(json(r#"{"a":1,"a":2}"#), json(r#"{"a":2}"#));
        assert_eq!(json(r#" { "q\"\\" : [ true , null ] } "#), json(r#"{"\u0071\u0022\\":[true,null]}"#));
        assert_eq!(json("[1e2,-0.10,1E+30]"), json("[100.0,-1e-1,10e29]"));
        assert_eq!(json("123456789012345678901.50"), json("1234567890123456789015e-1"));
        let different = [
            ("1", "1.0"),
            ("18446744073709551617", "18446744073709551618"),
            ("[]", "{}"),
            ("[[1],2]", "[1,[2]]"),
            (r#""1""#, "1"),
            ("123456789012345678901.5", "123456789012345678902.5"),
            ("1.2345678901234568e20", "123456789012345678901"),
            (r#"{"a":"b"}"#, r#"["a","b"]"#),
        ];
        for (one, other) in different {
            assert_ne!(json(one), json(other));
        }
    }

    #[test]
    fn what_is_deep_is_compared_too() {
        let deep = |inner: &str| json(&(r#"[{"a":"#.repeat(55) + inner + &"}]".repeat(55)));
        assert_eq!(deep("[1,2]"), deep("[1, 2]"));
        assert_ne!(deep("[1,2]"), deep("[1,3]"));
    }

    #[test]
    fn the_text_stays_as_it_came() {
        let text = "{\"b\" : 18446744073709551617 ,\n \"a\":[ ]}";
        assert_eq!(json(text).as_str(), text);
        assert_eq!(serde_json::to_string(&[json(text)]).unwrap(), format!("[{text}]"));
    }

    #[test]
    fn what_no_reader_could_read_is_refused() {
        let deep = |levels| "[".repeat(levels) + &"]".repeat(levels);
        assert!(serde_json::from_str::<RawJson>(&deep(DEPTH)).is_ok());
        for text in [deep(DEPTH + 1), deep(1 << 20), r#""\ud800""#.into(), r#"{"\ud800":1}"#.into(), "1e999".into()] {
            assert!(serde_json::from_str::<RawJson>(&text).is_err());
        }
    }

    #[test]
    fn a_field_is_read_alone() {
        let mut object: RawObject = serde_json::from_str(r#"{"a":{"b":1},"c":"d"}"#).unwrap();
        assert_eq!((object.field::<String>("c"), object.field::<u8>("c")), (Some("d".into()), None));
        object.insert("c", &7);
        object.remove("a");
        assert_eq!((object.as_str(), object.is_empty()), (r#"{"c":7}"#, false));
        assert!(RawObject::default().is_empty());
    }
}

//! Points in time: microseconds since 1970 UTC at rest, RFC 3339 with a `Z` on the wire, from 1970 to 9999.

use std::time::{SystemTime, UNIX_EPOCH};

use chrono::{DateTime, SecondsFormat, Utc};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What a time must be, said to who gave another one.
const EXPECTED: &str = "a time in RFC 3339 from 1970 to 9999, such as 2026-01-31T12:00:00Z";

/// Microseconds since 1970 UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Timestamp(pub i64);

/// The system clock shows a year that no time here can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the system clock shows a year before 1970 or after 9999: set it right")]
pub struct ClockOutOfRange;

/// A text that is no time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{EXPECTED}")]
pub struct InvalidTime;

impl Timestamp {
    /// The last microsecond of the year 9999, the last that RFC 3339 can write.
    pub const MAX: Self = Self(253_402_300_799_999_999);

    /// This instant as the system clock shows it, in whatever year.
    pub fn now() -> Self {
        // Not chrono's own, which panics before 1970.
        let micros = match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(since) => i64::try_from(since.as_micros()),
            Err(before) => i64::try_from(before.duration().as_micros()).map(|micros| -micros),
        };
        Self(micros.unwrap_or(i64::MAX))
    }

    /// This instant. Fails if the system clock shows a year that cannot be stored or written.
    pub fn checked_now() -> Result<Self, ClockOutOfRange> {
        Some(Self::now()).filter(|now| now.is_in_range()).ok_or(ClockOutOfRange)
    }

    /// Whether the year is one from 1970 to 9999.
    pub(super) fn is_in_range(self) -> bool {
        (0..=Self::MAX.0).contains(&self.0)
    }
}

impl From<DateTime<Utc>> for Timestamp {
    fn from(time: DateTime<Utc>) -> Self {
        Self(time.timestamp_micros())
    }
}

impl std::fmt::Display for Timestamp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let time = DateTime::from_timestamp_micros(self.0).unwrap_or_default();
        f.write_str(&time.to_rfc3339_opts(SecondsFormat::Micros, true))
    }
}

impl std::str::FromStr for Timestamp {
    type Err = InvalidTime;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let time = DateTime::parse_from_rfc3339(text).map_err(|_| InvalidTime)?;
        Some(Self::from(time.with_timezone(&Utc))).filter(|time| time.is_in_range()).ok_or(InvalidTime)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Timestamp {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Timestamp".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": "date-time" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_from_1970_to_9999_in_any_zone() {
        for (text, micros) in [
            ("1970-01-01T00:00:00.000001Z", 1),
            ("1969-12-31T23:00:00.000001-01:00", 1),
            ("9999-12-31T23:59:59.999999Z", Timestamp::MAX.0),
        ] {
            assert_eq!(text.parse(), Ok(Timestamp(micros)), "{text}");
        }
        for text in
            ["1969-12-31T23:59:59Z", "0000-01-01T00:00:00Z", "9999-12-31T23:59:59-01:00", "10000-01-01T00:00:00Z"]
        {
            assert_eq!(text.parse::<Timestamp>(), Err(InvalidTime), "{text}");
        }
        assert_eq!(Timestamp::MAX.to_string(), "9999-12-31T23:59:59.999999Z");
    }
}

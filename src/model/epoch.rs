//! Numbers that clients keep, with the epoch of the database that they belong to.

use std::{borrow::Cow, fmt, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, de::Error};

/// A number of this epoch: `17` in the first, `17-2` in the second. An epoch begins when a database went back in time, as
/// when a backup was put back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InEpoch {
    /// The number of an event, or a version.
    pub number: i64,
    /// The epoch, from 1 on.
    pub epoch: i64,
}

impl fmt::Display for InEpoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.epoch {
            1 => write!(f, "{}", self.number),
            epoch => write!(f, "{}-{epoch}", self.number),
        }
    }
}

impl FromStr for InEpoch {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(number) = text.parse() {
            return Ok(Self { number, epoch: 1 });
        }
        let (number, epoch) = text.rsplit_once('-').unwrap_or((text, "1"));
        Ok(Self { number: number.parse()?, epoch: epoch.parse()? })
    }
}

impl<'de> Deserialize<'de> for InEpoch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|_| D::Error::custom("not the id of an event, such as 17 or 17-2"))
    }
}

impl JsonSchema for InEpoch {
    fn schema_name() -> Cow<'static, str> {
        "EventId".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^-?[0-9]+(-[0-9]+)?$" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_read_as_it_is_shown() {
        for (text, number, epoch) in [("17", 17, 1), ("17-2", 17, 2), ("-5", -5, 1), ("0", 0, 1)] {
            assert_eq!(text.parse(), Ok(InEpoch { number, epoch }), "{text}");
            assert_eq!(InEpoch { number, epoch }.to_string(), text);
        }
        for text in ["", "-", "a", "1-", "1-b", "99999999999999999999"] {
            assert!(text.parse::<InEpoch>().is_err(), "{text}");
        }
    }
}

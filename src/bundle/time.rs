//! Times in JSON: RFC 3339 in UTC, with at most microseconds.

use crate::model::Timestamp;
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serializer};
use std::time::SystemTime;

pub(super) fn serialize<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(time)
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse(&text).ok_or_else(|| D::Error::custom("not a time: RFC 3339 in UTC"))
}

fn parse(text: &str) -> Option<Timestamp> {
    // Its own error holds the text; what is written later takes no other form.
    let time: SystemTime = humantime::parse_rfc3339(text).ok()?;
    let time = Timestamp::from(time);
    (time.secs >= 0).then_some(time)
}

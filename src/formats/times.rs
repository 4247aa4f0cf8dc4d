//! Times as text: RFC 3339 in UTC, as the audit log and the listings show them.
//!
//! Owns nothing but the two serde adapters.

/// `#[serde(with = "times::text")]` for a [`Timestamp`](crate::model::Timestamp).
pub(crate) mod text {
    use crate::model::Timestamp;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    /// Writes RFC 3339.
    pub fn serialize<S: Serializer>(time: &Timestamp, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(time)
    }

    /// Reads RFC 3339.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Timestamp, D::Error> {
        let text = String::deserialize(from)?;
        Timestamp::parse(&text).ok_or_else(|| D::Error::custom("not a time: RFC 3339 in UTC"))
    }
}

/// The same for one that may be absent.
pub(crate) mod maybe {
    use crate::model::Timestamp;
    use serde::{Deserialize, Deserializer, Serializer};

    #[derive(Deserialize)]
    struct Text(#[serde(with = "super::text")] Timestamp);

    /// Writes RFC 3339 or null.
    pub fn serialize<S: Serializer>(time: &Option<Timestamp>, to: S) -> Result<S::Ok, S::Error> {
        match time {
            Some(time) => to.collect_str(time),
            None => to.serialize_none(),
        }
    }

    /// Reads RFC 3339 or null.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Timestamp>, D::Error> {
        Ok(Option::<Text>::deserialize(from)?.map(|t| t.0))
    }
}

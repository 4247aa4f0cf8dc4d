//! The table `[limits]` of the configuration: what one user may have of each resource.

use super::{Resource, Share};
use serde::de::{Error, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

/// What one uid of the host may have of each resource; what others and all together may have are multiples of it. Rows whose
/// share follows from other keys are not in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shares([u64; Resource::COUNT]);

/// The largest number that can be configured.
const LARGEST: u64 = 1 << 40;

impl Default for Shares {
    fn default() -> Self {
        Shares(Resource::TABLE.map(|row| match row.share {
            Share::Number(number) => number,
            Share::Fixed(number) => number,
            Share::OfMemory | Share::OfSecrets => 0,
        }))
    }
}

impl Shares {
    /// What one user may have, where there is so much locked memory, in bytes, and room for so many secrets.
    pub fn share(&self, resource: Resource, memory: u64, secrets: u64) -> u64 {
        match resource.row().share {
            Share::Number(_) => self.0[resource as usize],
            Share::Fixed(number) => number,
            Share::OfMemory => (memory / 4).max(1),
            Share::OfSecrets => (secrets / 10).max(1),
        }
    }

    /// With another share of one resource. One whose share follows from other keys keeps that.
    pub fn with(mut self, resource: Resource, share: u64) -> Self {
        self.0[resource as usize] = share;
        self
    }

    fn configurable() -> impl Iterator<Item = (Resource, &'static str)> {
        let number = |row: &super::Row| matches!(row.share, Share::Number(_));
        Resource::TABLE.into_iter().filter(number).map(|row| (row.resource, row.name))
    }
}

impl Serialize for Shares {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut map = to.serialize_map(None)?;
        for (resource, name) in Self::configurable() {
            map.serialize_entry(name, &self.0[resource as usize])?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Shares {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Table;
        impl<'de> Visitor<'de> for Table {
            type Value = Shares;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table of limits")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Shares, A::Error> {
                let mut shares = Shares::default();
                while let Some(key) = map.next_key::<String>()? {
                    let found = Shares::configurable().find(|(_, name)| *name == key);
                    let (resource, _) = found.ok_or_else(|| {
                        let known: Vec<_> = Shares::configurable().map(|(_, name)| name).collect();
                        A::Error::custom(format!("unknown limit '{key}', expected one of {}", known.join(", ")))
                    })?;
                    let share: u64 = map.next_value()?;
                    if !(1..=LARGEST).contains(&share) {
                        return Err(A::Error::custom(format!("'{key}' must be 1 to {LARGEST}")));
                    }
                    shares = shares.with(resource, share);
                }
                Ok(shares)
            }
        }
        from.deserialize_map(Table)
    }
}

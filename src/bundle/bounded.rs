//! Lists that end where they are too long, not after they were read.

use serde::Deserialize;
use serde::de::{Deserializer, Error, SeqAccess, Visitor};
use std::fmt;
use std::marker::PhantomData;

/// At most `max` values; one more is an error, and nothing is kept room for in advance.
pub(super) fn list<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
    max: usize,
) -> Result<Vec<T>, D::Error> {
    deserializer.deserialize_seq(List { max, of: PhantomData })
}

struct List<T> {
    max: usize,
    of: PhantomData<T>,
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for List<T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list of at most {}", self.max)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<T>, A::Error> {
        let mut all = Vec::new();
        while let Some(one) = seq.next_element()? {
            if all.len() == self.max {
                return Err(A::Error::custom(format_args!("more than {} in one list", self.max)));
            }
            all.push(one);
        }
        Ok(all)
    }
}

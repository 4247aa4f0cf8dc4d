//! Lists that end where they are too long, not after they were read.

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, SeqAccess, Visitor};
use std::fmt;
use std::marker::PhantomData;

/// At most `max` values; one more is an error, and nothing is kept room for in advance.
pub(super) fn list<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
    max: usize,
) -> Result<Vec<T>, D::Error> {
    List::new(max, || ()).deserialize(deserializer)
}

/// The same as a seed, for who wants to hear that it was too long.
pub(super) struct List<T, F> {
    max: usize,
    too_long: F,
    of: PhantomData<T>,
}

impl<T, F: FnOnce()> List<T, F> {
    pub fn new(max: usize, too_long: F) -> Self {
        List { max, too_long, of: PhantomData }
    }
}

impl<'de, T: Deserialize<'de>, F: FnOnce()> DeserializeSeed<'de> for List<T, F> {
    type Value = Vec<T>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Vec<T>, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de, T: Deserialize<'de>, F: FnOnce()> Visitor<'de> for List<T, F> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list of at most {}", self.max)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<T>, A::Error> {
        let mut all = Vec::new();
        while let Some(one) = seq.next_element()? {
            if all.len() == self.max {
                (self.too_long)();
                return Err(A::Error::custom(format_args!("more than {} in one list", self.max)));
            }
            all.push(one);
        }
        Ok(all)
    }
}

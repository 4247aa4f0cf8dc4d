//! Numbers and names that must not be mixed up.

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number!(
    /// A user id as the initial user namespace counts it.
    Uid(u32)
);
number!(
    /// A group id as the initial user namespace counts it.
    Gid(u32)
);
number!(
    /// An inode number. Stored, never given twice, the same after every restart. 1 is the root.
    Ino(u64)
);
number!(
    /// The number of a version of a secret, from 1. Never given twice for a name.
    VersionNo(u64)
);
number!(
    /// How many transactions the store has seen.
    Generation(u64)
);

impl Ino {
    /// The root of the tree.
    pub const ROOT: Ino = Ino(1);
    /// The first number that a node of the store may have; those below are the tree's own (`.pinfold`).
    pub const FIRST: Ino = Ino(1024);
}

impl Gid {
    /// The group of the root of a new tree: nobody is in it.
    pub const NOBODYS: Gid = Gid(u32::MAX - 1);
}

impl Uid {
    /// root.
    pub const ROOT: Uid = Uid(0);
}

/// Whom a secret is sealed to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Scope {
    /// This machine.
    Host,
    /// The container of that configured name.
    Container(String),
}

/// A name that cannot be a scope's.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("'{0}' cannot name a scope: 1 to 64 of a-z A-Z 0-9 . _ -, not beginning with a dot, not 'host'")]
pub struct ScopeError(String);

impl Scope {
    /// The scope of the container with this name.
    ///
    /// # Errors
    /// [`ScopeError`] for a name that is too long, empty, or could be taken for something else.
    pub fn container(name: &str) -> Result<Self, ScopeError> {
        let fits = (1..=64).contains(&name.len())
            && !name.starts_with('.')
            && name != "host"
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
        if fits { Ok(Scope::Container(name.into())) } else { Err(ScopeError(name.into())) }
    }

    /// `host`, or the container's name.
    pub fn as_str(&self) -> &str {
        match self {
            Scope::Host => "host",
            Scope::Container(name) => name,
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl From<Scope> for String {
    fn from(s: Scope) -> String {
        s.as_str().to_owned()
    }
}

impl TryFrom<String> for Scope {
    type Error = ScopeError;
    fn try_from(s: String) -> Result<Self, ScopeError> {
        if s == "host" { Ok(Scope::Host) } else { Scope::container(&s) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scope_names_that_could_be_paths_are_refused() {
        for bad in ["", ".", "..", "a/b", "host", "a b", &"x".repeat(65)] {
            assert!(Scope::container(bad).is_err(), "{bad}");
        }
        assert_eq!(Scope::try_from("web".to_owned()), Ok(Scope::Container("web".into())));
        assert_eq!(Scope::try_from("host".to_owned()), Ok(Scope::Host));
    }
}

//! Numbers and names that must not be mixed up.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

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

/// A point in time, as a filesystem keeps it: seconds since the epoch, and nanoseconds below 10^9.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Timestamp {
    /// Seconds since 1970-01-01T00:00:00Z, negative before.
    pub secs: i64,
    /// Nanoseconds of that second.
    pub nanos: u32,
}

impl Timestamp {
    /// The clock.
    pub fn now() -> Self {
        SystemTime::now().into()
    }

    /// Milliseconds since 1970; 0 before that.
    pub fn millis(self) -> u64 {
        u64::try_from(self.secs).unwrap_or(0).saturating_mul(1000).saturating_add(u64::from(self.nanos / 1_000_000))
    }
}

impl From<SystemTime> for Timestamp {
    fn from(t: SystemTime) -> Self {
        match t.duration_since(UNIX_EPOCH) {
            Ok(d) => Timestamp { secs: i64::try_from(d.as_secs()).unwrap_or(i64::MAX), nanos: d.subsec_nanos() },
            Err(before) => {
                let d = before.duration();
                let whole = -i64::try_from(d.as_secs()).unwrap_or(i64::MAX);
                match d.subsec_nanos() {
                    0 => Timestamp { secs: whole, nanos: 0 },
                    n => Timestamp { secs: whole - 1, nanos: 1_000_000_000 - n },
                }
            }
        }
    }
}

impl From<Timestamp> for SystemTime {
    fn from(t: Timestamp) -> Self {
        let nanos = Duration::from_nanos(u64::from(t.nanos));
        let whole = Duration::from_secs(t.secs.unsigned_abs());
        let base = if t.secs >= 0 { UNIX_EPOCH.checked_add(whole) } else { UNIX_EPOCH.checked_sub(whole) };
        base.and_then(|b| b.checked_add(nanos)).unwrap_or(UNIX_EPOCH)
    }
}

/// RFC 3339 in UTC with microseconds; a time before 1970 shows as 1970.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_rfc3339_micros(SystemTime::from(*self).max(UNIX_EPOCH)).fmt(f)
    }
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
    fn times_before_the_epoch_survive_the_round_trip() {
        for t in
            [Timestamp { secs: -5, nanos: 250 }, Timestamp { secs: 0, nanos: 0 }, Timestamp { secs: 1 << 33, nanos: 9 }]
        {
            assert_eq!(Timestamp::from(SystemTime::from(t)), t);
        }
    }

    #[test]
    fn scope_names_that_could_be_paths_are_refused() {
        for bad in ["", ".", "..", "a/b", "host", "a b", &"x".repeat(65)] {
            assert!(Scope::container(bad).is_err(), "{bad}");
        }
        assert_eq!(Scope::try_from("web".to_owned()), Ok(Scope::Container("web".into())));
        assert_eq!(Scope::try_from("host".to_owned()), Ok(Scope::Host));
    }
}

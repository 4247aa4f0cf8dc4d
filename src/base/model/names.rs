//! Names of machines: the console, and the hosts that import from it.
//!
//! Owns what such a name may be. It looks nothing up: a name is what the policy and the console's trust say it is.

use serde::{Deserialize, Serialize};
use std::fmt;
use thiserror::Error;

/// The longest name, in bytes: files are named after it, with an extension.
const MACHINE_MAX: usize = 240;

/// Text that is no machine's name.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
#[error("a machine's name is 1 to 240 of A-Z a-z 0-9 . _ -, begins with a letter or a digit and has no '..'")]
pub struct MachineNameError;

fn check(name: &str) -> Result<(), MachineNameError> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    let whole = (1..=MACHINE_MAX).contains(&name.len())
        && name.bytes().all(plain)
        && name.as_bytes()[0].is_ascii_alphanumeric()
        && !name.contains("..");
    if whole { Ok(()) } else { Err(MachineNameError) }
}

macro_rules! machine_name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Box<str>);

        impl $name {
            /// Checks text from a file or a bundle.
            ///
            /// # Errors
            /// [`MachineNameError`] says what a name is.
            pub fn parse(name: &str) -> Result<Self, MachineNameError> {
                check(name).map(|()| Self(name.into()))
            }

            /// The name.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = MachineNameError;
            fn try_from(name: String) -> Result<Self, MachineNameError> {
                Self::parse(&name)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0.into()
            }
        }
    };
}

machine_name! {
    /// The name of a host that gets bundles: safe as a file's name, and in a line of text.
    HostName
}
machine_name! {
    /// The name of the host whose store others import from.
    ConsoleName
}

/// What a host's acknowledgement to a console is called: both name it, since a host may have several consoles, and several
/// hosts' acknowledgements may lie in one folder. No name has an `@`.
pub fn ack_file(host: &HostName, console: &ConsoleName) -> String {
    format!("{host}@{console}.ack")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_safe_as_files_and_in_lines() {
        for good in ["h1", "web-1.example.org", "9p", "a_b", &"x".repeat(240)] {
            assert_eq!(HostName::parse(good).unwrap().as_str(), good);
            assert_eq!(ConsoleName::parse(good).unwrap().to_string(), good);
        }
        let long = "x".repeat(241);
        for bad in ["", ".", "..", ".x", "-x", "_x", "a..b", "a/b", "a b", "a\n", "a\0", "é", "a:b", "a#", &long] {
            assert_eq!(HostName::parse(bad), Err(MachineNameError), "{bad:?}");
        }
        assert!(serde_json::from_str::<HostName>("\"../x\"").is_err());
        assert_eq!(serde_json::to_string(&HostName::parse("h").unwrap()).unwrap(), "\"h\"");
    }
}

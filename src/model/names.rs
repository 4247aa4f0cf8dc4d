//! Names of machines: consoles, and the hosts they send to.

use serde::{Deserialize, Serialize};
use std::fmt;
use thiserror::Error;

/// The longest name, in bytes: a file is named after it, with an extension.
const MAX: usize = 240;

/// Why text names no machine.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[error(
    "'{0}' cannot name a machine: 1 to {MAX} of a-z A-Z 0-9 . _ -, beginning with a letter or a digit, without '..'"
)]
pub struct MachineNameError(String);

macro_rules! machine {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Box<str>);

        impl $name {
            /// Checks a name: it becomes a file's, a folder's, and a word in what is signed.
            ///
            /// # Errors
            /// [`MachineNameError`] for anything that could be taken for something else.
            pub fn parse(name: &str) -> Result<Self, MachineNameError> {
                if is_machine_name(name) {
                    Ok($name(name.into()))
                } else {
                    Err(MachineNameError(name.chars().take(80).collect()))
                }
            }

            /// The name.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl std::str::FromStr for $name {
            type Err = MachineNameError;
            fn from_str(name: &str) -> Result<Self, Self::Err> {
                Self::parse(name)
            }
        }

        impl TryFrom<String> for $name {
            type Error = MachineNameError;
            fn try_from(name: String) -> Result<Self, Self::Error> {
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

machine!(
    /// A host that bundles are made for, as the console's policy names it.
    HostName
);
machine!(
    /// A console, as it names itself in what it signs.
    ConsoleName
);

fn is_machine_name(name: &str) -> bool {
    (1..=MAX).contains(&name.len())
        && name.as_bytes()[0].is_ascii_alphanumeric()
        && !name.contains("..")
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_be_paths_or_options_are_refused() {
        for bad in ["", ".", "..", "a..b", ".a", "-a", "a/b", "a b", "a\n", "ä", "a*", &"x".repeat(241)] {
            assert!(HostName::parse(bad).is_err(), "{bad:?}");
            assert!(serde_json::from_value::<ConsoleName>(bad.into()).is_err(), "{bad:?}");
        }
        for good in ["h1", "web.example.org", "A_b-c", "0"] {
            assert_eq!(HostName::parse(good).unwrap().to_string(), good);
        }
    }
}

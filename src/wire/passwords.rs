//! Passwords and their rotation: the requests and what the daemon answers.
//!
//! Owns the types; their names on the wire are in `methods`.

use super::{base64, time};
use crate::model::{PasswordName, PasswordPattern, Timestamp};
use crate::secret::Secret;
use serde::{Deserialize, Serialize};

/// The passwords there are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PasswordList {
    /// `USER@HOST:SERVICE` with `*` and `?`; all if null.
    #[serde(default)]
    pub pattern: Option<PasswordPattern>,
}

/// Passwords, by host, service and user.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PasswordListing {
    /// One for each.
    pub passwords: Vec<PasswordEntry>,
}

/// A password, without its content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PasswordEntry {
    /// `USER@HOST:SERVICE`.
    pub name: PasswordName,
    /// The current version.
    pub version: u64,
    /// When that was committed.
    #[serde(with = "time::text")]
    pub changed: Timestamp,
    /// Whether somebody may read it in the tree: by mode or ACL.
    pub open: bool,
    /// How far a rotation is that has not ended.
    #[serde(default)]
    pub rotation: Option<RotationState>,
}

/// How far a rotation is, and with it which of the two passwords the far side takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RotationState {
    /// The new one is stored and the far side was not touched: the old one is valid.
    Pending,
    /// The far side was or is being told: either may be valid, a login says which.
    Changing,
    /// The far side said that it changed: the new one is valid, as far as it can be believed.
    ChangedUnverified,
}

impl RotationState {
    /// Its name, as JSON has it.
    pub fn as_str(self) -> &'static str {
        match self {
            RotationState::Pending => "pending",
            RotationState::Changing => "changing",
            RotationState::ChangedUnverified => "changed_unverified",
        }
    }

    /// The state of this name.
    pub fn parse(text: &str) -> Option<Self> {
        [RotationState::Pending, RotationState::Changing, RotationState::ChangedUnverified]
            .into_iter()
            .find(|state| state.as_str() == text)
    }

    /// Which password is valid: `old`, `either`, `new`.
    pub fn valid(self) -> &'static str {
        match self {
            RotationState::Pending => "old",
            RotationState::Changing => "either",
            RotationState::ChangedUnverified => "new",
        }
    }
}

/// Which of the two a rotation ends with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Keep {
    /// The one there was.
    Old,
    /// The next one.
    New,
}

impl Keep {
    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Keep::Old => "old",
            Keep::New => "new",
        }
    }
}

/// Stores a password.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PasswordPut {
    /// Whose.
    pub name: PasswordName,
    /// Whether one that is there gets a new version; refused otherwise.
    #[serde(default)]
    pub replace: Option<bool>,
    /// One line of UTF-8 without control characters, base64 on the wire.
    #[serde(with = "base64::secret")]
    pub content: Secret,
}

/// Shows a password to an admin. Bounded for each of them, and recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PasswordShow {
    /// Whose.
    pub name: PasswordName,
    /// The next one of a rotation that has not ended, instead.
    #[serde(default)]
    pub next: Option<bool>,
}

/// A password.
#[derive(Debug, Serialize, Deserialize)]
pub struct ShownPassword {
    /// Which version; of the next one, its own.
    pub version: u64,
    /// How far a rotation is that has not ended.
    #[serde(default)]
    pub rotation: Option<RotationState>,
    /// The bytes, base64 on the wire.
    #[serde(with = "base64::secret")]
    pub content: Secret,
}

/// Removes a password. Refused while it is being rotated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PasswordRemove {
    /// Whose.
    pub name: PasswordName,
    /// Keeps no version either.
    #[serde(default)]
    pub purge: Option<bool>,
}

/// Begins a rotation: the new password is stored beside the old one, `pending`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RotationBegin {
    /// Whose.
    pub name: PasswordName,
    /// The new password, base64 on the wire.
    #[serde(with = "base64::secret")]
    pub content: Secret,
}

/// Both passwords of a rotation that was begun. Recorded, as a show is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RotationOpen {
    /// Whose.
    pub name: PasswordName,
}

/// What a rotation is about.
#[derive(Debug, Serialize, Deserialize)]
pub struct RotationOpened {
    /// How far it is.
    pub state: RotationState,
    /// The password there was, base64 on the wire.
    #[serde(with = "base64::secret")]
    pub old: Secret,
    /// The next one, base64 on the wire.
    #[serde(with = "base64::secret")]
    pub new: Secret,
}

/// Notes how far a rotation is, durably. Refused if it is not where the caller believes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RotationMark {
    /// Whose.
    pub name: PasswordName,
    /// Where it is.
    pub from: RotationState,
    /// Where it is from now on.
    pub to: RotationState,
}

/// Ends a rotation: one of the two is the password, and the next one is no more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RotationEnd {
    /// Whose.
    pub name: PasswordName,
    /// Which.
    pub keep: Keep,
    /// Whether a login showed it; else it is the caller's word, and recorded so.
    pub verified: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_called_the_same_everywhere() {
        for state in [RotationState::Pending, RotationState::Changing, RotationState::ChangedUnverified] {
            assert_eq!(serde_json::to_value(state).unwrap(), state.as_str());
            assert_eq!(RotationState::parse(state.as_str()), Some(state));
        }
        assert_eq!(RotationState::parse("done"), None);
        for keep in [Keep::Old, Keep::New] {
            assert_eq!(serde_json::to_value(keep).unwrap(), keep.as_str());
        }
    }
}

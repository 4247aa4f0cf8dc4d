//! Passwords and their rotation: the requests and what the daemon answers.
//!
//! Owns the types; their names on the wire are in `methods`.

use super::{Fault, base64};
use crate::model::{PasswordName, PasswordPattern, Timestamp};
use crate::secret::Secret;
use crate::times;
use serde::{Deserialize, Serialize};
use std::time::Duration;

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
    #[serde(with = "times::text")]
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

/// What ends the reason, behind it the seconds.
const NEXT_IN: &str = "; the next one in ";
/// The longest wait that is believed.
const WAIT_MAX: Duration = Duration::from_secs(61);

/// Too many passwords were asked for within a minute; the next may be after so long.
pub fn too_many_passwords(wait: Duration) -> Fault {
    Fault::Refused(format!("too many passwords were shown{NEXT_IN}{} s", wait.as_secs() + 1))
}

/// How long until the next password, if that is why one was refused: 61 s at most.
pub fn next_password_after(fault: &Fault) -> Option<Duration> {
    let Fault::Refused(reason) = fault else { return None };
    let (_, seconds) = reason.rsplit_once(NEXT_IN)?;
    let seconds: u64 = seconds.strip_suffix(" s")?.parse().ok()?;
    Some(Duration::from_secs(seconds).min(WAIT_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asked_too_often_hears_when_to_come_again() {
        let fault = too_many_passwords(Duration::from_millis(12_300));
        assert_eq!(fault, Fault::Refused("too many passwords were shown; the next one in 13 s".into()));
        assert_eq!(next_password_after(&fault), Some(Duration::from_secs(13)));
        for other in ["no", "; the next one in s", "; the next one in -1 s", "; the next one in 1 min"] {
            assert_eq!(next_password_after(&Fault::Refused(other.into())), None, "{other}");
        }
        let long = Fault::Refused("x; the next one in 4000000 s".into());
        assert_eq!(next_password_after(&long), Some(WAIT_MAX));
        assert_eq!(next_password_after(&Fault::Failed("; the next one in 1 s".into())), None);
    }

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

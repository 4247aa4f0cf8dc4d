//! Messages about the conditions of a secret: what must hold, beside mode and ACL, for it to open.

use crate::model::SecretPath;
use serde::{Deserialize, Serialize};

/// Sets and clears conditions of a secret; all of it or nothing. With nothing to change it only tells them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Condition {
    /// Which secret.
    pub path: SecretPath,
    /// The unit of the system manager that the caller must be of.
    #[serde(default)]
    pub unit: Option<String>,
    /// The program that it must run.
    #[serde(default)]
    pub exe: Option<String>,
    /// The label that the kernel's security module must give it, `*` for any text.
    #[serde(default)]
    pub label: Option<String>,
    /// RFC 3339, UTC: until when.
    #[serde(default)]
    pub expires: Option<String>,
    /// `reload:UNIT` or `restart:UNIT`: no condition, but what is to hear of a new version.
    #[serde(default)]
    pub on_change: Option<String>,
    /// What goes: `unit`, `exe`, `label`, `expires`, `on-change`.
    #[serde(default, deserialize_with = "super::methods::or_default")]
    pub clear: Vec<String>,
}

impl Condition {
    /// Whether it changes nothing: it only tells.
    pub fn only_tells(&self) -> bool {
        let Condition { path: _, unit, exe, label, expires, on_change, clear } = self;
        [unit, exe, label, expires, on_change].into_iter().all(Option::is_none) && clear.is_empty()
    }
}

/// What holds of a secret.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Conditions {
    /// Sorted by name.
    pub conditions: Vec<ConditionInfo>,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConditionInfo {
    /// Its attribute's name, less `user.pinfold.`.
    pub name: String,
    /// Its value.
    pub value: String,
}

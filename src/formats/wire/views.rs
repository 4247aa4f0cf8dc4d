//! Messages about views.

use super::Rule;
use super::methods::or_default;
use crate::model::SecretPath;
use serde::{Deserialize, Serialize};

/// Defines a view.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ViewAdd {
    /// Where.
    pub path: SecretPath,
    /// `pem`, `concat`, `pin389`, `authorized-keys`, `template`, `hashdir` or `pkcs12`.
    pub kind: String,
    /// What it is composed from, as the kind wants it.
    #[serde(default, deserialize_with = "or_default")]
    pub args: Vec<String>,
    /// The text of a template.
    #[serde(default)]
    pub template: Option<String>,
    /// Owner; 0 if null.
    #[serde(default)]
    pub uid: Option<u32>,
    /// Group; 0 if null.
    #[serde(default)]
    pub gid: Option<u32>,
    /// Permission bits; 0600 if null, 0700 for a directory.
    #[serde(default)]
    pub mode: Option<u16>,
    /// Make missing directories, 0755 of root.
    #[serde(default, deserialize_with = "or_default")]
    pub parents: bool,
    /// Only say what it would be.
    #[serde(default, deserialize_with = "or_default")]
    pub pretend: bool,
}

/// The views.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ViewList {}

/// Removes a view; nothing it is composed from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ViewRemove {
    /// Which.
    pub path: SecretPath,
}

/// A view as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ViewInfo {
    /// Where.
    pub path: String,
    /// Its kind.
    pub kind: String,
    /// Kind and arguments; of a template, what it reads.
    pub definition: String,
    /// Whose secrets it is composed from.
    pub scope: String,
    /// Owner, in a container's scope as seen inside.
    pub uid: u32,
    /// Group, the same.
    pub gid: u32,
    /// Permission bits.
    pub mode: u16,
    /// Bytes of its content; null for a directory, and if it does not open.
    pub size: Option<u64>,
    /// What it is composed from.
    pub sources: Vec<ViewSource>,
    /// Why it does not open now.
    pub problem: Option<String>,
}

/// A source of a view.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ViewSource {
    /// As the view names it: of a container's scope, as it is named inside.
    pub path: String,
    /// Its current version; null if it is not there, or was never written.
    pub version: Option<u64>,
    /// Its owner.
    pub uid: Option<u32>,
    /// Its permission bits.
    pub mode: Option<u16>,
    /// Whether it has conditions, which do not hold for who reads the view, but for its end.
    pub conditions: bool,
}

/// A view was defined, or would be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ViewAdded {
    /// The view.
    pub view: ViewInfo,
    /// Who may read it.
    pub readers: Vec<Rule>,
    /// Whether it was made.
    pub made: bool,
}

/// All views.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ViewListing {
    /// Sorted by path; entries of directories are left out.
    pub views: Vec<ViewInfo>,
}

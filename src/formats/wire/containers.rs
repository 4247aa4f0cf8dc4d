//! Scopes of containers and their instances: the requests and what the daemon answers.
//!
//! Owns the types; their names on the wire are in `methods`.

use crate::model::Timestamp;
use crate::times;
use serde::{Deserialize, Serialize};

/// Declares the scope of a container: its key, and its folder below `containers`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScopeAdd {
    /// 1 to 64 of a-z A-Z 0-9 . _ -, not beginning with a dot, not `host`.
    pub name: String,
    /// Whether callers inside may change what is in it.
    #[serde(default)]
    pub write: Option<bool>,
    /// How its ids are counted; `auto` if null.
    #[serde(default)]
    pub uid_map: Option<UidMap>,
}

/// How the ids of a scope's nodes are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UidMap {
    /// As seen inside; shown through the map of the attached instances, which all must have the same.
    #[default]
    Auto,
    /// As the host counts them; instances may have any map.
    Host,
}

/// The declared scopes.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScopeList {}

/// Takes a scope back, with its folder and its key. Refused while secrets are in it, unless `purge`; and while instances
/// are attached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScopeRemove {
    /// Which.
    pub name: String,
    /// With all secrets in it and their history.
    #[serde(default)]
    pub purge: Option<bool>,
}

/// Attaches a running container to a scope.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attach {
    /// To which scope.
    pub scope: String,
    /// Its first process, as the host counts it.
    pub pid: u32,
    /// What it is to be called: 1 to 128 of a-z A-Z 0-9 . _ -, unlike every other; SCOPE-PID if null.
    #[serde(default)]
    pub id: Option<String>,
    /// For how many seconds; until it ends if null.
    #[serde(default)]
    pub timeout_seconds: Option<u64>,
}

/// An instance was attached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attached {
    /// What it is called.
    pub id: String,
}

/// Detaches an instance: nothing opens inside it any more, and what is open cannot be read on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Detach {
    /// Which.
    pub id: String,
}

/// The attached instances.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Instances {}

/// Declared scopes, by name.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ScopeListing {
    /// One for each.
    pub scopes: Vec<ScopeEntry>,
}

/// A declared scope.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScopeEntry {
    /// Its name.
    pub name: String,
    /// Whether callers inside may change what is in it.
    pub write: bool,
    /// How its ids are counted.
    pub uid_map: UidMap,
    /// The state of the daemon's own entry for it in the kernel keyring: `alive`, `revoked`, `expired`, `missing`.
    pub key: String,
    /// Secrets in it.
    pub secrets: u64,
    /// Instances that may open them.
    pub instances: u64,
    /// When it was declared.
    #[serde(with = "times::text")]
    pub made: Timestamp,
}

/// Instances, by scope and id.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct InstanceListing {
    /// One for each.
    pub instances: Vec<InstanceEntry>,
}

/// An attached instance, or one that was detached and has not ended yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceEntry {
    /// What it is called.
    pub id: String,
    /// Of which scope.
    pub scope: String,
    /// Its first process, as the host counts it.
    pub pid: u32,
    /// When that started, in clock ticks since boot.
    pub start: u64,
    /// Its cgroup; null where it has none of its own, and namespaces alone count.
    pub cgroup: Option<String>,
    /// The inode number of its user namespace.
    pub user_ns: u64,
    /// The inode number of its pid namespace.
    pub pid_ns: u64,
    /// When it was attached.
    #[serde(with = "times::text")]
    pub attached: Timestamp,
    /// Until when it may open anything.
    #[serde(with = "times::maybe", default)]
    pub expires: Option<Timestamp>,
    /// The state of its entry in the kernel keyring: `alive`, `revoked`, `expired`, `missing`.
    pub state: String,
    /// The entry's serial number, for `keyctl revoke`; null if it has none any more.
    pub key_serial: Option<i32>,
}

//! Who somebody is: the questions `access` asks, and the answers `audit` keeps.

use super::{Gid, Label, Scope, Uid};
use serde::{Deserialize, Serialize};

/// A question about a caller that could not be answered, and why. It always ends in a refusal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Doubt(pub String);

/// A file as the kernel knows it, whatever its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileId {
    /// st_dev.
    pub dev: u64,
    /// st_ino.
    pub ino: u64,
}

/// One running container: its scope, and the name its runtime gave it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct InstanceId {
    /// Whose secrets it may have.
    pub scope: Scope,
    /// The runtime's id.
    pub id: String,
}

/// Somebody who wants something. The decision is generic over it; what costs a look into /proc is asked only when the
/// decision needs it.
pub trait Subject {
    /// The uid the kernel gave with the request (fsuid), in the initial user namespace.
    fn uid(&self) -> Uid;
    /// The gid the kernel gave with the request (fsgid).
    fn gid(&self) -> Gid;
    /// Whether `gid` is its group or one of its supplementary groups.
    ///
    /// # Errors
    /// [`Doubt`] if that cannot be found out.
    fn in_group(&self, gid: Gid) -> Result<bool, Doubt>;
    /// All its groups, `gid()` among them: to be asked of later, when it cannot be looked at any more.
    ///
    /// # Errors
    /// [`Doubt`] if they cannot be found out.
    fn groups(&self) -> Result<Vec<Gid>, Doubt>;
    /// Whether it is an admin: uid 0 in the initial user and pid namespaces, outside every attached instance; or the
    /// daemon itself; or somebody the control socket let in as one.
    ///
    /// # Errors
    /// [`Doubt`] if that cannot be found out.
    fn is_admin(&self) -> Result<bool, Doubt>;
    /// The systemd unit its cgroup names, if any: `nginx.service`.
    ///
    /// # Errors
    /// [`Doubt`] if the cgroup cannot be read.
    fn unit(&self) -> Result<Option<String>, Doubt>;
    /// The executable it runs.
    ///
    /// # Errors
    /// [`Doubt`] if it vanished or has none.
    fn exe(&self) -> Result<FileId, Doubt>;
    /// The label that the kernel's security module gives it.
    ///
    /// # Errors
    /// [`Doubt`] if no module gives one, or it cannot be read.
    fn label(&self) -> Result<Label, Doubt>;
    /// The attached instance it is in, if any.
    ///
    /// # Errors
    /// [`Doubt`] if it cannot be said, or if two claim it.
    fn instance(&self) -> Result<Option<InstanceId>, Doubt>;
    /// Whether the kernel lets it pass directories whatever their mode: it has CAP_DAC_READ_SEARCH or CAP_DAC_OVERRIDE in
    /// effect. Of one that has not, the kernel has judged every directory that it came through.
    ///
    /// # Errors
    /// [`Doubt`] if that cannot be found out.
    fn passes_directories(&self) -> Result<bool, Doubt> {
        Ok(true)
    }
    /// How many names of a path in the tree it may have come past by a mount that begins below the tree's root: those of
    /// the longest beginning of the path that is mounted by itself in its mount namespace. `tree` is the device of the
    /// tree.
    ///
    /// # Errors
    /// [`Doubt`] if its mounts cannot be read.
    fn mounted_past(&self, tree: u64, path: &str) -> Result<usize, Doubt> {
        let _ = (tree, path);
        Ok(0)
    }
    /// The daemon's own work (renewal, export), decided like everybody's.
    fn is_daemon(&self) -> bool {
        false
    }
}

/// What the audit log says of a caller. Absent fields could not be read, or do not apply.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CallerInfo {
    /// User id, in the initial namespace.
    pub uid: u32,
    /// Group id, in the initial namespace.
    pub gid: u32,
    /// Process (thread group) id; 0 for the kernel or the daemon itself.
    pub pid: u32,
    /// When the process started, in clock ticks since boot (field 22 of /proc/PID/stat): with `pid`, one process for ever.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub start: Option<u64>,
    /// The path of its executable, as /proc shows it: what the process itself may have set.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub exe: Option<std::sync::Arc<str>>,
    /// Its cgroup (v2 path).
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cgroup: Option<std::sync::Arc<str>>,
    /// The systemd unit the cgroup names.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub unit: Option<std::sync::Arc<str>>,
    /// The attached container instance it is in.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub container: Option<std::sync::Arc<str>>,
    /// The label that the kernel's security module gives it, with AppArmor's mode.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub label: Option<std::sync::Arc<str>>,
    /// Through whom it asked, where somebody speaks for it: the helper that makes a key.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub through: Option<std::sync::Arc<str>>,
}

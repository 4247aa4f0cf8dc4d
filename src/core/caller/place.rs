//! Where a process is, and the question which attached container that is in.

use super::file_id;
use crate::model::{Doubt, FileId, InstanceId};
use serde::{Deserialize, Serialize};
use std::io;
use std::sync::{Arc, OnceLock};

/// A namespace as the kernel numbers it: device and inode of its file. As long as something is in it, or holds a
/// descriptor of it, no other has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NsId {
    /// st_dev of nsfs.
    pub dev: u64,
    /// st_ino, which `readlink /proc/PID/ns/user` shows.
    pub ino: u64,
}

impl NsId {
    /// What the link `/proc/PID/ns/KIND` says (namespaces(7)): `user:[4026531837]`. All are of one filesystem.
    pub(super) fn of_link(kind: &str, link: &str) -> Option<Self> {
        static DEV: OnceLock<Option<u64>> = OnceLock::new();
        let ino = link.strip_prefix(kind)?.strip_prefix(":[")?.strip_suffix(']')?.parse().ok()?;
        let dev = (*DEV.get_or_init(|| file_id("/proc/self/ns/user").ok().map(|id| id.dev)))?;
        Some(NsId { dev, ino })
    }
}

impl From<FileId> for NsId {
    fn from(id: FileId) -> Self {
        NsId { dev: id.dev, ino: id.ino }
    }
}

impl From<(u64, u64)> for NsId {
    fn from((dev, ino): (u64, u64)) -> Self {
        NsId { dev, ino }
    }
}

/// The daemon's own namespaces: whoever is in other ones is an outsider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Own {
    pub user: NsId,
    pub pid: NsId,
}

impl Own {
    pub fn read() -> io::Result<Self> {
        Ok(Own { user: file_id("/proc/self/ns/user")?.into(), pid: file_id("/proc/self/ns/pid")?.into() })
    }
}

/// Whether a cgroup is another or below it, by components: `/a/bc` is not below `/a/b`.
pub(super) fn is_below(path: &str, top: &str) -> bool {
    path.strip_prefix(top.trim_end_matches('/')).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Where a process is, question by question, since some cost more; every answer is of the same thread, or a [`Doubt`].
pub trait Whereabouts {
    /// Its cgroup, v2 path.
    ///
    /// # Errors
    /// [`Doubt`], here and below, if it has gone or cannot be read.
    fn cgroup(&self) -> Result<Arc<str>, Doubt>;
    /// Its pid namespace. It never leaves it.
    ///
    /// # Errors
    /// As above.
    fn pid_ns(&self) -> Result<NsId, Doubt>;
    /// Its user namespace at this moment.
    ///
    /// # Errors
    /// As above.
    fn user_ns(&self) -> Result<NsId, Doubt>;
    /// The pid namespaces above its own, nearest first, up to and with the daemon's.
    ///
    /// # Errors
    /// As above.
    fn above_pid_ns(&self) -> Result<Arc<[NsId]>, Doubt>;
    /// The user namespaces above its own, nearest first, up to and with the daemon's.
    ///
    /// # Errors
    /// As above.
    fn above_user_ns(&self) -> Result<Arc<[NsId]>, Doubt>;
}

/// The attached containers: [`Registry`](super::Registry), or [`NoInstances`].
pub trait Instances: Send + Sync {
    /// Whether any is attached. If not, nobody's place is looked at.
    fn any(&self) -> bool;

    /// The one that holds this place: the cgroup is its own or below, *and* both namespaces are its own or descend from
    /// them.
    ///
    /// # Errors
    /// [`Doubt`] if two claim it, or if only a part agrees: a process in the container's cgroup with the host's
    /// namespaces was moved there.
    fn holding(&self, place: &dyn Whereabouts) -> Result<Option<InstanceId>, Doubt>;
}

/// Nothing is attached.
#[derive(Debug, Clone, Copy)]
pub struct NoInstances;

impl Instances for NoInstances {
    fn any(&self) -> bool {
        false
    }

    fn holding(&self, _place: &dyn Whereabouts) -> Result<Option<InstanceId>, Doubt> {
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_says_what_its_file_is() {
        for kind in ["user", "pid", "mnt"] {
            let path = format!("/proc/self/ns/{kind}");
            let link = std::fs::read_link(&path).unwrap();
            assert_eq!(NsId::of_link(kind, link.to_str().unwrap()), Some(file_id(&path).unwrap().into()));
        }
        for bad in ["", "user:", "user:[]", "user:[1", "pid:[1]", "user:[x]", "user:[1]x"] {
            assert_eq!(NsId::of_link("user", bad), None, "{bad}");
        }
    }

    #[test]
    fn below_is_by_components() {
        for (path, top, below) in [
            ("/a/b", "/a/b", true),
            ("/a/b/c", "/a/b", true),
            ("/a/bc", "/a/b", false),
            ("/a", "/a/b", false),
            ("/", "/a", false),
            ("/a", "/", true),
        ] {
            assert_eq!(is_below(path, top), below, "{path} {top}");
        }
    }
}

//! Taking hold of a container by its first process: what it is known by, and descriptors that keep those numbers its own.

use super::cgroup;
use crate::caller::handle::Handle;
use crate::caller::place::{NsId, Own};
use crate::model::{Doubt, IdMap, IdMaps};
use crate::sys::namespace::Namespace;
use serde::{Deserialize, Serialize};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// What an instance is known by, as it was when it was attached. Kept in the store over a restart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marks {
    /// Process id of its init, in the daemon's pid namespace.
    pub pid: u32,
    /// When that process started, in clock ticks since boot.
    pub start: u64,
    /// The kernel's boot id: process ids and namespace numbers begin anew at each boot.
    pub boot: String,
    /// Its cgroup, v2 path; `None` where the runtime made none of its own, and namespaces alone count.
    pub cgroup: Option<String>,
    /// Its user namespace.
    pub user_ns: NsId,
    /// Its pid namespace.
    pub pid_ns: NsId,
    /// The mount namespace its init was in. For people: it may leave it, and no decision rests on it.
    pub mnt_ns: NsId,
    /// What its user namespace maps to the daemon's.
    pub maps: IdMaps,
}

/// A live instance: a descriptor of its init, and of its namespaces, so that their numbers cannot be used again.
#[derive(Debug)]
pub struct Held {
    marks: Marks,
    pidfd: OwnedFd,
    pid_ns: Namespace,
    user_ns: Namespace,
}

impl Held {
    /// What it is known by.
    pub fn marks(&self) -> &Marks {
        &self.marks
    }

    /// Its init: polls as readable once that has ended.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Its user namespace, for setns(2).
    pub fn user_ns(&self) -> BorrowedFd<'_> {
        self.user_ns.as_fd()
    }

    /// Its pid namespace.
    pub fn pid_ns(&self) -> BorrowedFd<'_> {
        self.pid_ns.as_fd()
    }
}

/// Looks at the process `pid` (a container's first one) through one pidfd, and takes hold of it.
///
/// # Errors
/// [`Doubt`] with the reason: it has gone, cannot be read, or is a thread; its ids are not mapped yet; it is in the
/// daemon's own pid and user namespaces, so that nothing but a cgroup would tell it from a process of the host, and
/// anybody can be moved into a cgroup; or an unprivileged uid made its user namespace, and can enter it from the host.
pub fn hold(pid: u32) -> Result<Held, Doubt> {
    let _ = (pid, Own::read(), IdMap::identity(), cgroup::own_of, Handle::open_process);
    todo!()
}

/// The same for one that was attached before the daemon was started anew: only if it is still the same one.
///
/// # Errors
/// As [`hold`], and if the boot, the start time, a namespace, the map of ids or the cgroup is another than it was.
pub fn hold_again(marks: &Marks) -> Result<Held, Doubt> {
    let _ = marks;
    todo!()
}

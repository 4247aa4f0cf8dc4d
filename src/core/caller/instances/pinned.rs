//! Taking hold of a container by its first process: what it is known by, and descriptors that keep those numbers its own.

use super::cgroup::Init;
use crate::caller::handle::Handle;
use crate::caller::place::{NsId, Own, is_below};
use crate::model::{Doubt, IdMap, IdMaps};
use crate::sys::namespace::Namespace;
use crate::sys::proc;
use serde::{Deserialize, Serialize};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::mpsc;
use std::time::Duration;

/// How long a process may keep others from looking at it.
const PATIENCE: Duration = Duration::from_secs(2);

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

/// A live instance: a descriptor of its init, and of its pid and user namespaces, so that their numbers cannot be used
/// again. (Not of its mount namespace: that would keep the container's mounts busy.)
#[derive(Debug)]
pub struct Held {
    marks: Marks,
    pidfd: OwnedFd,
    /// Not kept where it is the daemon's own: a descriptor less for each.
    _pid_ns: Option<Namespace>,
    user_ns: Option<Namespace>,
    own: Own,
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

    /// Whether its init has ended. Asks the pidfd alone, so it never waits.
    pub fn has_ended(&self) -> bool {
        proc::has_ended(self.pidfd())
    }

    /// Its user namespace, for setns(2); `None` if that is the daemon's own.
    pub fn user_ns(&self) -> Option<BorrowedFd<'_>> {
        self.user_ns.as_ref().map(AsFd::as_fd)
    }

    /// Marks that nothing stands behind.
    #[cfg(test)]
    pub(super) fn of_marks(marks: Marks, own: Own) -> Self {
        let pidfd = std::fs::File::open("/dev/null").expect("it is there").into();
        Held { marks, pidfd, _pid_ns: None, user_ns: None, own }
    }

    /// The daemon's own namespaces, which it was compared with.
    pub(super) fn own(&self) -> &Own {
        &self.own
    }
}

/// Looks at the process `pid` (a container's first one) through one pidfd, and takes hold of it.
///
/// What can be told from a process of the host, and so be held:
///
/// | cgroup | pid namespace | user namespace | |
/// |---|---|---|---|
/// | own or not | own | any | held: to get into a pid namespace takes root's nsenter *and* a fork |
/// | own or not | the host's | own | held: to get into a user namespace takes root's setns |
/// | own | the host's | the host's | refused: root moves anybody into a cgroup with one `echo` |
///
/// # Errors
/// [`Doubt`] with the reason: it has gone, cannot be read, or is a thread; its ids are not mapped yet; both namespaces
/// are the daemon's own; or an unprivileged uid of the host made its user namespace: every process of that uid could
/// enter it, and all that is in it.
///
/// It takes two seconds at most, see [`hold_again`]; then it is a doubt.
pub fn hold(pid: u32) -> Result<Held, Doubt> {
    let busy = || Doubt(format!("process {pid} cannot be looked at in the middle of its exec"));
    in_time(pid, PATIENCE, move || look(pid, None))?.ok_or_else(busy)
}

/// The same for one that was attached before the daemon was started anew: only if it is still the same one.
///
/// `None` if it cannot be looked at within `patience`. A process can bring that about: while exec(2) closes a file that it
/// wrote on our own mount, nobody can read what it is, until that FLUSH is answered. So whoever holds a lock that a FLUSH
/// needs would wait for ever, were this not bounded. It says nothing about whether it is still the same one.
///
/// # Errors
/// As [`hold`], and if the boot, the start time, a namespace, the map of ids or the cgroup is another than it was.
pub fn hold_again(marks: &Marks, patience: Duration) -> Result<Option<Held>, Doubt> {
    let before = marks.clone();
    in_time(marks.pid, patience, move || compare(&before))
}

/// The answer of `find`, if it comes in time.
fn in_time(
    pid: u32,
    patience: Duration,
    find: impl FnOnce() -> Result<Held, Doubt> + Send + 'static,
) -> Result<Option<Held>, Doubt> {
    let (tell, told) = mpsc::channel();
    // A thread that waits for an exec cannot be ended; it ends with the exec.
    let thread = std::thread::Builder::new().name("hold".into()).spawn(move || drop(tell.send(find())));
    thread.map_err(|e| Doubt(format!("process {pid} cannot be looked at: {e}")))?;
    told.recv_timeout(patience).map_or(Ok(None), |found| found.map(Some))
}

fn compare(marks: &Marks) -> Result<Held, Doubt> {
    if boot_id()? != marks.boot {
        return Err(Doubt("the system was booted since".into()));
    }
    let held = look(marks.pid, Some(marks))?;
    let now = &held.marks;
    for (what, same) in [
        ("pid namespace", now.pid_ns == marks.pid_ns),
        ("user namespace", now.user_ns == marks.user_ns),
        ("map of ids", now.maps == marks.maps),
    ] {
        if !same {
            return Err(Doubt(format!("process {} has another {what} than when it was attached", marks.pid)));
        }
    }
    Ok(held)
}

fn look(pid: u32, before: Option<&Marks>) -> Result<Held, Doubt> {
    let own = Own::read().map_err(|e| Doubt(format!("the daemon's own namespaces cannot be read: {e}")))?;
    let handle = Handle::open_process(pid)?;
    let start = handle.start()?;
    if before.is_some_and(|b| b.start != start) {
        return Err(Doubt(format!("process {pid} is another one, started later")));
    }
    let (pid_ns, user_ns) = (handle.open_ns("pid")?, handle.open_ns("user")?);
    let (pid_id, user_id) = (id(&pid_ns)?, id(&user_ns)?);
    if (pid_id, user_id) == (own.pid, own.user) {
        return Err(Doubt(format!(
            "process {pid} is in the host's own pid and user namespaces: nothing but a cgroup could tell it from the \
             host, and that is no boundary"
        )));
    }
    made_by_root(&user_ns, &own)?;
    let maps = if user_id == own.user {
        IdMaps::identity()
    } else {
        IdMaps { uid: map(&handle, "uid_map")?, gid: map(&handle, "gid_map")? }
    };
    let init = Init { handle: &handle, pid, pid_ns: pid_id, user_ns: user_id, own };
    let cgroup = match before {
        None => init.cgroup()?,
        Some(Marks { cgroup: None, .. }) => None,
        Some(Marks { cgroup: Some(cgroup), .. }) => {
            // An init may have gone deeper since (systemd does), never elsewhere.
            let path = init.path()?;
            if !is_below(&path, cgroup) {
                return Err(Doubt(format!("process {pid} has left the cgroup it was attached with, for {path}")));
            }
            Some(cgroup.clone())
        }
    };
    let mnt_ns = handle.ns("mnt")?;
    // It could have gone to a new user namespace since: the maps would be those of the new one.
    if handle.ns("user")? != user_id {
        return Err(Doubt(format!("process {pid} is just changing its user namespace")));
    }
    let pidfd = handle.into_pidfd().ok_or_else(|| Doubt("the kernel has no pidfds".into()))?;
    if proc::has_ended(pidfd.as_fd()) {
        return Err(Doubt(format!("process {pid} has ended")));
    }
    let marks = Marks { pid, start, boot: boot_id()?, cgroup, user_ns: user_id, pid_ns: pid_id, mnt_ns, maps };
    let (pid_ns, user_ns) = ((pid_id != own.pid).then_some(pid_ns), (user_id != own.user).then_some(user_ns));
    Ok(Held { marks, pidfd, _pid_ns: pid_ns, user_ns, own })
}

/// That root made the outermost of the user namespaces it is in: whoever made one has all capabilities in it, and may
/// enter it from outside with setns(2), and from there everything that belongs to it (user_namespaces(7)).
fn made_by_root(user_ns: &Namespace, own: &Own) -> Result<(), Doubt> {
    let lost = |e: io::Error| Doubt(format!("who made its user namespace cannot be read: {e}"));
    let mut at = user_ns.parent().map_err(lost)?.map(|parent| (user_ns.owner(), parent));
    while let Some((owner, parent)) = at {
        if id(&parent)? == own.user {
            return match owner.map_err(lost)? {
                0 => Ok(()),
                uid => Err(Doubt(format!(
                    "uid {uid} made its user namespace, so every process of uid {uid} can enter it from the host"
                ))),
            };
        }
        at = parent.parent().map_err(lost)?.map(|above| (parent.owner(), above));
    }
    // The daemon's own.
    if id(user_ns)? == own.user { Ok(()) } else { Err(Doubt("its user namespace is not below the daemon's".into())) }
}

fn map(handle: &Handle, file: &str) -> Result<IdMap, Doubt> {
    IdMap::parse(&handle.read(file)?).map_err(|e| Doubt(format!("its {file}: {e}")))
}

fn id(namespace: &Namespace) -> Result<NsId, Doubt> {
    namespace.id().map(NsId::from).map_err(|e| Doubt(format!("its namespaces cannot be read: {e}")))
}

fn boot_id() -> Result<String, Doubt> {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|id| id.trim().to_owned())
        .map_err(|e| Doubt(format!("the boot id cannot be read: {e}")))
}

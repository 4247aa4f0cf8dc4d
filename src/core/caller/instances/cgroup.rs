//! Which cgroup is a container's own: the one that it sees as its root, or its init's, if nobody else is in it.
//!
//! Looks once, at attach. It neither makes nor changes a cgroup.

use crate::caller::handle::Handle;
use crate::caller::place::{NsId, Own};
use crate::caller::unit;
use crate::model::Doubt;
use crate::sys::namespace;
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use std::io;
use std::path::{Path, PathBuf};

/// Where the v2 hierarchy may be mounted: alone, or beside those of v1 (systemd's hybrid layout).
const MOUNTS: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
/// The most processes and the most cgroups of one container that are looked at.
const PROCESSES_MAX: usize = 65_536;
const CGROUPS_MAX: usize = 4096;

/// A container's first process, and the namespaces that are its.
pub(super) struct Init<'a> {
    pub handle: &'a Handle,
    pub pid: u32,
    pub pid_ns: NsId,
    pub user_ns: NsId,
    pub own: Own,
}

impl Init<'_> {
    /// Its cgroup, as the daemon's cgroup namespace has it.
    pub fn path(&self) -> Result<String, Doubt> {
        unit::v2_path(&self.handle.read("cgroup")?).map(str::to_owned)
    }

    /// The cgroup that the runtime made for this container; `None` if there is none, since its init is in the root or
    /// shares its cgroup with processes outside of its namespaces. Then the cgroup says nothing.
    ///
    /// # Errors
    /// [`Doubt`] if it cannot be looked into, or holds too much.
    pub fn cgroup(&self) -> Result<Option<String>, Doubt> {
        let path = self.path()?;
        if path == "/" {
            return Ok(None);
        }
        let hierarchy = hierarchy()?;
        let top = self.top(&path)?;
        for candidate in [&top, &path] {
            if candidate != "/" && self.is_alone_in(&hierarchy, candidate)? {
                return Ok(Some(candidate.clone()));
            }
        }
        Ok(None)
    }

    /// What its cgroup namespace shows as `/`: an init that is systemd moves itself to a cgroup beside its services.
    /// Its own cgroup, if it has no such namespace.
    fn top(&self, path: &str) -> Result<String, Doubt> {
        let lost = |e: io::Error| Doubt(format!("its cgroup namespace cannot be entered: {e}"));
        let namespace = self.handle.open_ns("cgroup")?;
        let own = namespace::Namespace::open("/proc/self/ns/cgroup").and_then(|n| n.id()).map_err(lost)?;
        if namespace.id().map_err(lost)? == own {
            return Ok(path.to_owned());
        }
        let inside = self.handle.look("cgroup", |file| namespace::read_in_cgroup_namespace(&namespace, file))?;
        // Outside of its own namespace's root, it was moved: only its own cgroup is known then.
        let Ok(inside) = unit::v2_path(&inside) else { return Ok(path.to_owned()) };
        Ok(match path.strip_suffix(inside.trim_end_matches('/')) {
            Some("") | None => path.to_owned(),
            Some(top) => top.to_owned(),
        })
    }

    /// Whether everybody in this cgroup and below is in the container's namespaces.
    fn is_alone_in(&self, hierarchy: &Path, cgroup: &str) -> Result<bool, Doubt> {
        let mut folders = vec![hierarchy.join(cgroup.trim_start_matches('/'))];
        let (mut processes, mut cgroups, mut init_seen) = (0, 0, false);
        while let Some(folder) = folders.pop() {
            cgroups += 1;
            for pid in pids(&folder).map_err(|e| unreadable(cgroup, &e))? {
                processes += 1;
                init_seen |= pid == self.pid;
                if pid != self.pid && !self.holds(pid)? {
                    return Ok(false);
                }
            }
            if processes > PROCESSES_MAX || cgroups + folders.len() > CGROUPS_MAX {
                return Err(Doubt(format!("more processes or cgroups are in '{cgroup}' than can be looked at")));
            }
            folders.extend(below(&folder).map_err(|e| unreadable(cgroup, &e))?);
        }
        // Another hierarchy than the one /proc speaks of, or it was moved meanwhile.
        if init_seen { Ok(true) } else { Err(Doubt(format!("process {} is not in its cgroup '{cgroup}'", self.pid))) }
    }

    /// Whether a process is in the container's namespaces; one that has gone meanwhile was nobody.
    fn holds(&self, pid: u32) -> Result<bool, Doubt> {
        let look = || {
            let process = Handle::open_process(pid)?;
            let within = |kind, of: NsId, own: NsId| -> Result<bool, Doubt> {
                let at = process.ns(kind)?;
                Ok(at == of || at != own && process.above_ns(kind)?.contains(&of))
            };
            Ok(within("pid", self.pid_ns, self.own.pid)? && within("user", self.user_ns, self.own.user)?)
        };
        match look() {
            Err(Doubt(_)) if pid != 0 && !Path::new(&format!("/proc/{pid}")).exists() => Ok(true),
            found => found,
        }
    }
}

fn hierarchy() -> Result<PathBuf, Doubt> {
    MOUNTS
        .iter()
        .find(|at| statfs(**at).is_ok_and(|s| s.filesystem_type() == CGROUP2_SUPER_MAGIC))
        .map(PathBuf::from)
        .ok_or_else(|| Doubt("no cgroup v2 hierarchy is mounted at /sys/fs/cgroup".into()))
}

/// The processes of one cgroup; 0 stands for those of a foreign pid namespace. A cgroup that has gone has none.
fn pids(folder: &Path) -> io::Result<Vec<u32>> {
    let read = |file| std::fs::read_to_string(folder.join(file));
    match read("cgroup.procs") {
        Ok(text) => text.lines().map(|line| line.parse().map_err(io::Error::other)).collect(),
        // It can be removed after it was listed.
        Err(_) if !folder.exists() => Ok(Vec::new()),
        // A threaded cgroup (cgroups(7)) lists threads alone; their process is in the domain above it.
        Err(_) if read("cgroup.type").is_ok_and(|kind| kind.trim() == "threaded") => Ok(Vec::new()),
        Err(e) => Err(e),
    }
}

fn below(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut folders = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            folders.push(entry.path());
        }
    }
    Ok(folders)
}

fn unreadable(cgroup: &str, e: &io::Error) -> Doubt {
    Doubt(format!("the cgroup '{cgroup}' cannot be looked into: {e}"))
}

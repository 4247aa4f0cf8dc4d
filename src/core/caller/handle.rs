//! One thread, held: every answer read through it is of that thread, or there is none.

use super::place::NsId;
use super::{Shared, file_id};
use crate::model::{Doubt, FileId};
use crate::sys::namespace::Namespace;
use crate::sys::proc::{self, PidfdInfo};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

/// A thread by its pidfd, or by a descriptor on its folder in `/proc` where the kernel cannot tell enough by a pidfd.
pub(super) struct Handle {
    /// The folder in `/proc` under which to read, by number or through the descriptor.
    base: String,
    by: By,
}

enum By {
    /// Numbers are safe to use as long as the pidfd says afterwards that the thread is still there.
    Pidfd(Arc<Pidfd>, PidfdInfo),
    /// The same of a whole process.
    Leader(OwnedFd, u32),
    /// The folder belongs to one thread for ever: reads fail once it has gone.
    Folder {
        /// Kept open: `base` goes through it.
        _open: File,
        /// The process, once it was looked up.
        tgid: OnceLock<u32>,
    },
}

/// A thread's pidfd, and the thread's number in pidfs, which is given once.
pub(super) struct Pidfd {
    fd: OwnedFd,
    inode: u64,
}

impl Handle {
    /// A whole process rather than a thread: refused if `pid` is not the leader's.
    pub fn open_process(pid: u32) -> Result<Self, Doubt> {
        match proc::open_process(pid) {
            Ok(fd) => Ok(Handle { base: format!("/proc/{pid}"), by: By::Leader(fd, pid) }),
            Err(e) if e.raw_os_error() == Some(libc::ESRCH) => Err(gone(pid, &e)),
            // The kernel says the same (ENOENT) of a thread, and for a moment of a process that was just reaped.
            Err(e) if !std::path::Path::new(&format!("/proc/{pid}")).exists() => Err(gone(pid, &e)),
            // Before Linux 5.3 there are none at all.
            Err(e) => Err(Doubt(format!("{pid} is no process that can be pinned, but one of its threads: {e}"))),
        }
    }

    pub fn open(shared: &Shared, tid: u32) -> Result<Self, Doubt> {
        if tid == 0 {
            return Err(Doubt("no process id: the caller is in a foreign pid namespace, or is the kernel".into()));
        }
        if shared.use_pidfds() {
            match Self::by_pidfd(shared, tid) {
                Ok(handle) => return Ok(handle),
                // Nothing was learnt but that the kernel is older.
                Err(e) if matches!(e.raw_os_error(), Some(libc::EINVAL | libc::ENOTTY | libc::ENOSYS)) => {
                    shared.pidfds.store(false, Ordering::Relaxed);
                }
                Err(e) => return Err(gone(tid, &e)),
            }
        }
        Self::by_folder(tid).map_err(|e| gone(tid, &e))
    }

    fn by_pidfd(shared: &Shared, tid: u32) -> io::Result<Self> {
        let base = format!("/proc/{tid}");
        // The thread held under this number is not reaped, so the number is still its own.
        if let Some(held) = shared.cache.pidfd(tid)
            && let Ok(info) = proc::info(&held.fd)
        {
            return Ok(Handle { base, by: By::Pidfd(held, info) });
        }
        let fd = proc::open_thread(tid)?;
        let info = proc::info(&fd)?;
        let held = Arc::new(Pidfd { inode: proc::inode(&fd)?, fd });
        shared.cache.keep_pidfd(tid, Arc::clone(&held));
        Ok(Handle { base, by: By::Pidfd(held, info) })
    }

    /// A process by its folder: what is read through it is of one process for ever, or nothing.
    pub fn open_folder(pid: u32) -> Result<Self, Doubt> {
        Self::by_folder(pid).map_err(|e| gone(pid, &e))
    }

    /// Its flags in the kernel (linux/sched.h, `PF_…`).
    pub fn flags(&self) -> Result<u64, Doubt> {
        let stat = self.read("stat")?;
        after_name(&stat)
            .and_then(|rest| rest.split_ascii_whitespace().nth(6)?.parse().ok())
            .ok_or_else(|| Doubt("no flags in its stat".into()))
    }

    fn by_folder(tid: u32) -> io::Result<Self> {
        let folder =
            File::options().read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY).open(format!("/proc/{tid}"))?;
        Ok(Handle {
            base: format!("/proc/self/fd/{}", folder.as_raw_fd()),
            by: By::Folder { _open: folder, tgid: OnceLock::new() },
        })
    }

    /// What the pidfd said when it was opened.
    pub fn info(&self) -> Option<&PidfdInfo> {
        match &self.by {
            By::Pidfd(_, info) => Some(info),
            By::Leader(..) | By::Folder { .. } => None,
        }
    }

    /// The thread's number in pidfs.
    pub fn inode(&self) -> Option<u64> {
        match &self.by {
            By::Pidfd(held, _) => Some(held.inode),
            By::Leader(..) | By::Folder { .. } => None,
        }
    }

    /// What the pidfd says now.
    pub fn info_now(&self) -> Option<PidfdInfo> {
        match &self.by {
            By::Pidfd(held, _) => proc::info(&held.fd).ok(),
            By::Leader(..) | By::Folder { .. } => None,
        }
    }

    /// The process's number.
    pub fn tgid(&self) -> Result<u32, Doubt> {
        let known = match &self.by {
            By::Pidfd(_, info) => return Ok(info.tgid),
            By::Leader(_, tgid) => return Ok(*tgid),
            By::Folder { tgid, .. } => tgid,
        };
        if let Some(tgid) = known.get() {
            return Ok(*tgid);
        }
        let status = self.read("status")?;
        let tgid = field(&status, "Tgid:").and_then(|v| v.trim().parse().ok());
        tgid.map(|tgid| *known.get_or_init(|| tgid)).ok_or_else(|| Doubt("no Tgid in its status".into()))
    }

    /// A file of its folder, whole.
    pub fn read(&self, name: &str) -> Result<String, Doubt> {
        self.look(name, |path| std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// What a link of its folder says.
    pub fn link(&self, name: &str) -> Result<std::path::PathBuf, Doubt> {
        self.look(name, |path| std::fs::read_link(path))
    }

    /// Device and inode of what a link of its folder leads to.
    pub fn file_id(&self, name: &str) -> Result<FileId, Doubt> {
        self.look(name, |path| file_id(path))
    }

    /// The number of one of its namespaces: `user`, `pid`. Read off the link's text, in half the time of a stat(2), which
    /// makes an inode for it first.
    pub fn ns(&self, kind: &str) -> Result<NsId, Doubt> {
        let link = self.link(&format!("ns/{kind}"))?;
        NsId::of_link(kind, &link.to_string_lossy())
            .ok_or_else(|| Doubt(format!("its {kind} namespace reads '{}'", link.display())))
    }

    /// One of its namespaces itself.
    pub fn open_ns(&self, kind: &str) -> Result<Namespace, Doubt> {
        self.look(&format!("ns/{kind}"), Namespace::open)
    }

    /// The namespaces above its own of this kind, nearest first, up to and with the daemon's.
    pub fn above_ns(&self, kind: &str) -> Result<Arc<[NsId]>, Doubt> {
        let lost = |e| Doubt(format!("what lies above its {kind} namespace cannot be read: {e}"));
        let mut above = Vec::new();
        let mut at = self.open_ns(kind)?;
        while let Some(parent) = at.parent().map_err(lost)? {
            above.push(parent.id().map_err(lost)?.into());
            at = parent;
        }
        Ok(above.into())
    }

    /// When its process (not its thread) started, in clock ticks since boot.
    pub fn start(&self) -> Result<u64, Doubt> {
        // The leader's number cannot be used again while a thread of the group is there, which is looked at last.
        let tgid = self.tgid()?;
        let stat = std::fs::read_to_string(format!("/proc/{tgid}/stat")).map_err(|e| gone(tgid, &e))?;
        self.still_there()?;
        start_of(&stat).ok_or_else(|| Doubt("no start time in its stat".into()))
    }

    /// The pidfd it is held by, of a whole process; a thread's is shared.
    pub fn into_pidfd(self) -> Option<OwnedFd> {
        match self.by {
            By::Leader(fd, _) => Some(fd),
            By::Pidfd(..) | By::Folder { .. } => None,
        }
    }

    /// What `f` finds out about a file of its folder, if the thread is still there afterwards.
    pub fn look<T>(&self, name: &str, f: impl FnOnce(&str) -> io::Result<T>) -> Result<T, Doubt> {
        let found = f(&format!("{}/{name}", self.base));
        self.still_there()?;
        found.map_err(|e| Doubt(format!("its /proc/PID/{name} cannot be read: {e}")))
    }

    fn still_there(&self) -> Result<(), Doubt> {
        let there = match &self.by {
            By::Pidfd(held, _) => proc::is_there(&held.fd),
            By::Leader(fd, _) => proc::is_there(fd),
            By::Folder { .. } => std::fs::symlink_metadata(format!("{}/status", self.base)).is_ok(),
        };
        if there { Ok(()) } else { Err(Doubt("the process has gone".into())) }
    }
}

fn gone(tid: u32, e: &io::Error) -> Doubt {
    Doubt(format!("process {tid} has gone: {e}"))
}

/// The value of a line of `/proc/PID/status`.
pub(super) fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name))
}

/// What follows the second field of `/proc/PID/stat`, the command's name in parentheses, which may hold anything.
fn after_name(stat: &str) -> Option<&str> {
    Some(stat.rsplit_once(')')?.1)
}

/// Field 22 of `/proc/PID/stat`.
fn start_of(stat: &str) -> Option<u64> {
    after_name(stat)?.split_ascii_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_name_cannot_shift_the_fields() {
        let stat = "7 (a ) S 1 2) 3 (b) S 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4242 1000 1 2";
        assert_eq!(start_of(stat), Some(4242));
        assert_eq!(start_of("7 (x"), None);
        assert_eq!(start_of("7 (x) S 1"), None);
    }
}

//! A thread that waits in the kernel for a key, and is asked about meanwhile.

use super::Callers;
use super::handle::{Handle, field};
use super::process::{During, Process};
use crate::model::{Doubt, Gid, Uid};
use std::sync::Arc;

/// `PF_KTHREAD` of linux/sched.h, as field 9 of `/proc/PID/stat` shows it (proc(5)).
const PF_KTHREAD: u64 = 0x0020_0000;

impl Callers {
    /// The thread that waits in request_key(2): its ids are read now, since no request brings them. It sleeps until the
    /// helper has ended, and not even SIGKILL ends it before, so its number is its own for as long.
    ///
    /// # Errors
    /// [`Doubt`] if it has gone or cannot be read.
    pub fn identify_waiting(&self, tid: u32) -> Result<Process, Doubt> {
        let status = Handle::open(&self.0, tid)?.read("status")?;
        // Real, effective, saved, and that of the filesystem (proc(5)): the last is the one keys go by.
        let id =
            |field: &str| status.lines().find_map(|l| l.strip_prefix(field))?.split_whitespace().nth(3)?.parse().ok();
        match (id("Uid:"), id("Gid:")) {
            (Some(uid), Some(gid)) => {
                Ok(Process::new(Arc::clone(&self.0), Uid(uid), Gid(gid), tid, During::AnyRequest))
            }
            _ => Err(Doubt(format!("the ids of {tid} cannot be read"))),
        }
    }

    /// Whether the kernel itself started a process: its parent is one of the kernel's own threads. Nobody else has such a parent: who
    /// loses his is given to pid 1 or to a subreaper. What program it runs says nothing: anybody can have code of his own run
    /// inside ours (LD_PRELOAD), so nothing rests on that.
    ///
    /// # Errors
    /// [`Doubt`] if it, or its parent, cannot be looked at.
    pub fn is_started_by_kernel(&self, pid: u32) -> Result<bool, Doubt> {
        let process = Handle::open(&self.0, pid)?;
        let parent_of = |process: &Handle| {
            let status = process.read("status")?;
            let parent = field(&status, "PPid:").and_then(|v| v.trim().parse::<u32>().ok());
            parent.filter(|p| *p != 0).ok_or_else(|| Doubt(format!("{pid} has no parent that can be seen")))
        };
        let parent = parent_of(&process)?;
        // Both words of the parent are read through one descriptor, so they are of one process.
        let held = Handle::open_folder(parent)?;
        let flags = held.flags()?;
        // Whose number it was when the flags were read is still the parent's: a parent that ended would have left another.
        Ok(parent_of(&process)? == parent && flags & PF_KTHREAD != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Subject;

    #[test]
    fn the_ids_are_those_of_the_thread() {
        let callers = Callers::new().unwrap();
        let own = nix::unistd::gettid().as_raw().cast_unsigned();
        assert_eq!(callers.identify_waiting(own).unwrap().uid(), Uid(nix::unistd::geteuid().as_raw()));
        let mut child = std::process::Command::new("setpriv")
            .args(["--reuid=1990030", "--regid=1990031", "--clear-groups", "sleep", "100"])
            .spawn()
            .unwrap();
        let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
        let found = loop {
            let found = callers.identify_waiting(child.id()).unwrap();
            // setpriv takes the gid and the uid one after the other: whoever looks between them sees one of the two.
            let is_other = found.uid() != Uid(0) && found.gid() != Gid(0);
            if is_other || std::time::Instant::now() > end {
                break found;
            }
            std::thread::yield_now();
        };
        assert_eq!((found.uid(), found.gid()), (Uid(1_990_030), Gid(1_990_031)));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(callers.identify_waiting(child.id()).is_err());
    }

    #[test]
    fn the_kernel_starts_its_own_and_nobody_starts_a_shell_as_the_kernel() {
        let callers = Callers::new().unwrap();
        let own = std::process::id();
        assert!(!callers.is_started_by_kernel(own).unwrap());
        // A child whose parent ends goes to pid 1 or to a subreaper, not to the kernel.
        let out =
            std::process::Command::new("sh").args(["-c", "sleep 100 >/dev/null 2>&1 & echo $!"]).output().unwrap();
        let orphan: i32 = String::from_utf8(out.stdout).unwrap().trim().parse().unwrap();
        let started = callers.is_started_by_kernel(orphan.cast_unsigned());
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(orphan), nix::sys::signal::Signal::SIGKILL).unwrap();
        assert!(!started.unwrap());
        // pid 2 is the kernel's, and what it starts are the kernel's threads; in a pid namespace of its own there is none.
        let flags = |pid| Handle::open_folder(pid).and_then(|held| held.flags());
        if std::fs::read_to_string("/proc/2/comm").is_ok_and(|name| name.trim() == "kthreadd") {
            assert_ne!(flags(2).unwrap() & PF_KTHREAD, 0);
        }
        assert_eq!(flags(own).unwrap() & PF_KTHREAD, 0);
        assert!(callers.is_started_by_kernel(1).is_err() || !callers.is_started_by_kernel(1).unwrap());
    }
}

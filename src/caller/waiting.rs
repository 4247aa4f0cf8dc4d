//! A thread that waits in the kernel for a key, and is asked about meanwhile.

use super::Callers;
use super::handle::Handle;
use super::process::{During, Process};
use crate::model::{Doubt, Gid, Uid};
use std::sync::Arc;

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

    /// Whether a process runs the very file that the daemon does.
    ///
    /// # Errors
    /// [`Doubt`] if either cannot be read.
    pub fn runs_ours(&self, pid: u32) -> Result<bool, Doubt> {
        let own = super::file_id("/proc/self/exe").map_err(|e| Doubt(format!("the daemon's own executable: {e}")))?;
        Ok(Handle::open(&self.0, pid)?.file_id("exe")? == own)
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
        assert!(callers.runs_ours(own).unwrap());
        assert!(!callers.runs_ours(child.id()).unwrap());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(callers.identify_waiting(child.id()).is_err());
    }
}

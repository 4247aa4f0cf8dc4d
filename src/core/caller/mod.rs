//! Who a caller is: from the ids of a request to the answers that `access` and `audit` ask for.
//!
//! Reads `/proc` and pidfds, lazily: nothing is read until asked. It decides nothing. What cannot be found out is a
//! [`Doubt`](crate::model::Doubt), never a guess.
//!
//! What an answer may rest on: the thread that made a FUSE request is blocked in the kernel until the reply, and once the
//! daemon has read its request not even SIGKILL ends it. So its id names it **until the reply is sent, and no longer**:
//! ask before answering.

mod account;
mod cache;
mod control;
mod handle;
pub mod instances;
mod known;
mod place;
mod process;
mod unit;
mod waiting;

pub use account::Account;
pub use control::{Control, Daemon};
pub use instances::{AttachError, Held, Marks, Registry, hold, hold_again};
pub use known::Known;
pub use place::{Instances, NoInstances, NsId, Whereabouts};
pub use process::{Process, SystemCall};

use crate::model::{FileId, Gid, Uid};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What the daemon knows about callers in general: its own namespaces, the attached instances, and a bounded cache of
/// what never changes. One a daemon; clones share it.
#[derive(Clone)]
pub struct Callers(Arc<Shared>);

struct Shared {
    own: place::Own,
    instances: Arc<dyn Instances>,
    cache: cache::Cache,
    /// Whether pidfds tell what is needed (Linux 6.13). Off after the first "unknown ioctl": `/proc` alone from then on.
    pidfds: AtomicBool,
    /// Whether a security module gives labels. None comes later: it is said at boot.
    labels: bool,
}

impl Callers {
    /// For a daemon without attached containers.
    ///
    /// # Errors
    /// If the daemon's own namespaces cannot be read (no `/proc`).
    pub fn new() -> io::Result<Self> {
        Self::with_instances(Arc::new(NoInstances))
    }

    /// For a daemon whose attached containers `instances` knows.
    ///
    /// # Errors
    /// As [`Callers::new`].
    pub fn with_instances(instances: Arc<dyn Instances>) -> io::Result<Self> {
        let own = place::Own::read()?;
        // Without a module the kernel says EINVAL.
        let labels = std::fs::read("/proc/self/attr/current").is_ok_and(|text| !text.is_empty());
        let (cache, pidfds) = (cache::Cache::default(), AtomicBool::new(true));
        Ok(Callers(Arc::new(Shared { own, instances, cache, pidfds, labels })))
    }

    /// The caller of a request: ids as the kernel gave them. `tid` is a thread's, in the pid namespace of the mount; 0 if
    /// the caller is not visible there. Reads nothing yet.
    pub fn identify(&self, uid: Uid, gid: Gid, tid: u32) -> Process {
        Process::new(Arc::clone(&self.0), uid, gid, tid, process::During::AnyRequest)
    }

    /// The other end of a connection, which nothing holds: what it is is read each time it is asked.
    pub fn identify_peer(&self, uid: Uid, gid: Gid, pid: u32) -> Process {
        Process::new(Arc::clone(&self.0), uid, gid, pid, process::During::Connection)
    }

    /// The caller of a FLUSH. An exec that closes a write handle sends one while it holds a lock (exec_update_lock) that
    /// reading `/proc/PID/stat`, `syscall`, `exe` and `ns/*` waits for: the reader would hang until it is itself killed.
    /// So none of these is read for this one. Its start time is known if the same thread was seen before; its executable
    /// is not, and whether it is an admin is a doubt. Decide, and take [`Process::who`], at OPEN or CREATE.
    pub fn identify_in_flush(&self, uid: Uid, gid: Gid, tid: u32) -> Process {
        Process::new(Arc::clone(&self.0), uid, gid, tid, process::During::Flush)
    }

    /// As on a kernel before 6.13.
    #[cfg(test)]
    fn without_pidfds(self) -> Self {
        self.0.pidfds.store(false, Ordering::Relaxed);
        self
    }
}

impl Shared {
    fn use_pidfds(&self) -> bool {
        self.pidfds.load(Ordering::Relaxed)
    }
}

/// Device and inode of what a path leads to.
fn file_id(path: impl AsRef<std::path::Path>) -> io::Result<FileId> {
    let found = std::fs::metadata(path)?;
    Ok(FileId { dev: found.dev(), ino: found.ino() })
}

#[cfg(test)]
mod flush_test;
#[cfg(test)]
mod tests;

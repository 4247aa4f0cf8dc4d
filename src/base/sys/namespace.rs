//! Namespaces by descriptor: which one a process is in, which lies above it, who made it (ioctl_nsfs(2)).
//!
//! Owns the system calls on them; what it means to be in one is for `caller` to say. It enters none but, in a thread
//! that ends with the question, a cgroup namespace.

use nix::sched::CloneFlags;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

/// `_IO(0xb7, n)` of linux/nsfs.h.
const NS_GET_PARENT: libc::c_ulong = 0xb702;
const NS_GET_OWNER_UID: libc::c_ulong = 0xb704;

/// A descriptor of a namespace: as long as it is open, its number names no other.
#[derive(Debug)]
pub struct Namespace(OwnedFd);

impl Namespace {
    /// Opens a file of `/proc/PID/ns`.
    ///
    /// # Errors
    /// As open(2): ENOENT if the process has gone.
    pub fn open(path: &str) -> io::Result<Self> {
        Ok(Namespace(File::open(path)?.into()))
    }

    /// Device and inode, which tell namespaces apart.
    ///
    /// # Errors
    /// As fstat(2); it does not fail on an open descriptor.
    pub fn id(&self) -> io::Result<(u64, u64)> {
        let found = File::from(self.0.try_clone()?).metadata()?;
        Ok((found.dev(), found.ino()))
    }

    /// The one above, for user and pid namespaces; `None` for the one this process is in itself, and for what lies
    /// beside or above that.
    ///
    /// # Errors
    /// As ioctl(2): EINVAL for other kinds.
    pub fn parent(&self) -> io::Result<Option<Self>> {
        // SAFETY: NS_GET_PARENT takes no argument and touches no memory of ours.
        let fd = unsafe { libc::ioctl(self.0.as_raw_fd(), NS_GET_PARENT) };
        if fd >= 0 {
            // SAFETY: the kernel just made this descriptor and nothing else has it.
            return Ok(Some(Namespace(unsafe { OwnedFd::from_raw_fd(fd) })));
        }
        match io::Error::last_os_error() {
            e if e.raw_os_error() == Some(libc::EPERM) => Ok(None),
            e => Err(e),
        }
    }

    /// Who made this user namespace, as a uid of the caller's own.
    ///
    /// # Errors
    /// As ioctl(2): EINVAL for other kinds.
    pub fn owner(&self) -> io::Result<u32> {
        let mut uid: libc::uid_t = 0;
        // SAFETY: NS_GET_OWNER_UID writes one uid_t to its argument, which lives through the call.
        if unsafe { libc::ioctl(self.0.as_raw_fd(), NS_GET_OWNER_UID, &raw mut uid) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(uid)
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// What a file says to a reader inside a cgroup namespace. Read in a thread of its own, which ends there: the namespace
/// is the thread's, not the process's.
///
/// # Errors
/// As setns(2) and read(2).
pub fn read_in_cgroup_namespace(namespace: &Namespace, path: &str) -> io::Result<String> {
    std::thread::scope(|scope| {
        let read = std::thread::Builder::new().name("cgroupns".into()).spawn_scoped(scope, || {
            nix::sched::setns(namespace, CloneFlags::CLONE_NEWCGROUP)?;
            std::fs::read_to_string(path)
        })?;
        read.join().unwrap_or_else(|_| Err(io::Error::other("the thread that looked panicked")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_lies_above_ones_own() {
        for kind in ["user", "pid"] {
            let own = Namespace::open(&format!("/proc/self/ns/{kind}")).unwrap();
            assert!(own.parent().unwrap().is_none(), "{kind}");
            assert_eq!(own.id().unwrap(), Namespace::open(&format!("/proc/self/ns/{kind}")).unwrap().id().unwrap());
        }
        let net = Namespace::open("/proc/self/ns/net").unwrap();
        assert_eq!(net.parent().unwrap_err().raw_os_error(), Some(libc::EINVAL));
        assert_eq!(net.owner().unwrap_err().raw_os_error(), Some(libc::EINVAL));
    }

    #[test]
    fn a_file_is_read_from_inside_and_this_thread_stays_outside() {
        let outside = || std::fs::read_link("/proc/thread-self/ns/cgroup").unwrap();
        let before = outside();
        let own = Namespace::open("/proc/self/ns/cgroup").unwrap();
        let read = read_in_cgroup_namespace(&own, "/proc/self/cgroup").unwrap();
        assert_eq!(read, std::fs::read_to_string("/proc/self/cgroup").unwrap());
        assert!(read_in_cgroup_namespace(&own, "/nonexistent").is_err());
        assert_eq!(outside(), before);
    }
}

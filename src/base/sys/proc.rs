//! Descriptors for processes and threads: what the kernel says of one by its pidfd.
//!
//! Owns the three system calls; what the answers mean is for `caller` to say.

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// `PIDFD_THREAD` of linux/pidfd.h (6.9): the id may be any thread's. It is O_EXCL.
const PIDFD_THREAD: libc::c_int = libc::O_EXCL;
/// `PIDFD_GET_INFO` of linux/pidfd.h (6.13): _IOWR(0xFF, 11, struct pidfd_info), its first version of 64 bytes.
const PIDFD_GET_INFO: libc::c_ulong = (3 << 30) | ((size_of::<RawInfo>() as libc::c_ulong) << 16) | (0xff << 8) | 11;
/// `PIDFD_INFO_CGROUPID`: the cgroup's id is wanted, or was given. Process ids are always given.
const WANT_CGROUP: u64 = 1 << 2;

/// What the kernel says of a thread and its process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PidfdInfo {
    /// The process (thread group), in this process's pid namespace.
    pub tgid: u32,
    /// The id of its cgroup in the v2 hierarchy, unique for the life of the system.
    pub cgroup: Option<u64>,
}

/// struct pidfd_info, version 0.
#[repr(C)]
#[derive(Default)]
struct RawInfo {
    mask: u64,
    cgroupid: u64,
    pid: u32,
    tgid: u32,
    ppid: u32,
    creds: [u32; 8],
    exit_code: i32,
}

/// A descriptor for the thread `tid`, whether or not it leads its process.
///
/// # Errors
/// ESRCH if there is none; EINVAL before Linux 6.9.
pub fn open_thread(tid: u32) -> io::Result<OwnedFd> {
    open(tid, PIDFD_THREAD)
}

/// A descriptor for the process `pid`.
///
/// # Errors
/// ESRCH if there is none; EINVAL or ENOENT if that is a thread that does not lead its process.
pub fn open_process(pid: u32) -> io::Result<OwnedFd> {
    open(pid, 0)
}

fn open(id: u32, flags: libc::c_int) -> io::Result<OwnedFd> {
    // 0 would be a process of a foreign pid namespace, never one that can be named.
    let nobody = || io::Error::from_raw_os_error(libc::ESRCH);
    let id = libc::pid_t::try_from(id).ok().filter(|id| *id > 0).ok_or_else(nobody)?;
    // SAFETY: pidfd_open takes two integers and touches no memory of ours.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, id, flags) };
    let fd = libc::c_int::try_from(fd).expect("a descriptor is an int");
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just made this descriptor and nothing else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// What the kernel says of it now.
///
/// # Errors
/// ESRCH if it was reaped; ENOTTY or EINVAL before Linux 6.13.
pub fn info(pidfd: &OwnedFd) -> io::Result<PidfdInfo> {
    let mut raw = RawInfo { mask: WANT_CGROUP, ..RawInfo::default() };
    // SAFETY: `raw` has the layout and the size that the request number names, and lives through the call.
    if unsafe { libc::ioctl(pidfd.as_raw_fd(), PIDFD_GET_INFO, &raw mut raw) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(PidfdInfo { tgid: raw.tgid, cgroup: (raw.mask & WANT_CGROUP != 0).then_some(raw.cgroupid) })
}

/// The number of its thread in pidfs, unique for the life of the system.
///
/// # Errors
/// What fstat(2) says.
pub fn inode(pidfd: &OwnedFd) -> io::Result<u64> {
    let mut stat = MaybeUninit::<libc::stat>::uninit();
    // SAFETY: `stat` has room for the answer.
    if unsafe { libc::fstat(pidfd.as_raw_fd(), stat.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: fstat returned 0, so it filled the structure.
    Ok(unsafe { stat.assume_init() }.st_ino)
}

/// Whether it has not been reaped, so that its number still names it.
pub fn is_there(pidfd: &OwnedFd) -> bool {
    // SAFETY: signal 0 is sent to nobody; the null pointer asks for no siginfo.
    let sent = unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_fd().as_raw_fd(), 0, std::ptr::null::<libc::siginfo_t>(), 0)
    };
    // EPERM also says that it is there.
    sent == 0 || io::Error::last_os_error().raw_os_error() == Some(libc::EPERM)
}

/// Whether the process has ended, reaped or not.
pub fn has_ended(pidfd: BorrowedFd<'_>) -> bool {
    let mut asked = [PollFd::new(pidfd, PollFlags::POLLIN)];
    // One that cannot be asked is not there.
    !matches!(poll(&mut asked, PollTimeout::ZERO), Ok(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What both tests need; where the kernel is older, the error is one that callers take for that.
    fn look(tid: u32) -> Option<(OwnedFd, PidfdInfo)> {
        match open_thread(tid).and_then(|fd| info(&fd).map(|info| (fd, info))) {
            Ok(found) => Some(found),
            Err(e) if matches!(e.raw_os_error(), Some(libc::EINVAL | libc::ENOTTY | libc::ENOSYS)) => None,
            Err(e) => panic!("{e}"),
        }
    }

    #[test]
    fn this_kernel_has_them_from_6_13_on() {
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        let mut numbers = release.split(['.', '-']).map(|n| n.trim().parse::<u32>().unwrap_or(0));
        let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        assert_eq!(look(std::process::id()).is_some(), version >= (6, 13), "{release}");
    }

    #[test]
    fn a_thread_is_known_by_its_own_number_and_its_process() {
        let (tid, done) = std::sync::mpsc::channel();
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            tid.send(nix::unistd::gettid().as_raw()).unwrap();
            let _ = stopped.recv();
        });
        let tid = done.recv().unwrap().try_into().unwrap();
        if let (Some((fd, of_thread)), Some((process, _))) = (look(tid), look(std::process::id())) {
            assert_eq!(of_thread.tgid, std::process::id());
            assert_ne!(inode(&fd).unwrap(), inode(&process).unwrap());
            assert!(of_thread.cgroup.is_some());
            assert!(is_there(&fd));
        }
        drop(stop);
        thread.join().unwrap();
    }

    #[test]
    fn a_reaped_process_is_not_there() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let held = look(child.id());
        assert!(held.iter().all(|(fd, _)| is_there(fd)));
        child.wait().unwrap();
        assert!(held.iter().all(|(fd, _)| !is_there(fd)));
        assert!(held.iter().all(|(fd, _)| info(fd).unwrap_err().raw_os_error() == Some(libc::ESRCH)));
    }
}

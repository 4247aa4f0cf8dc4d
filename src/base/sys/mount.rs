//! Mounting and unmounting the tree, and seeing what is mounted, without fuser's own mounting (unsafe to rely on in
//! 0.18.0) and without a system call through a mount that may be this process's own.

use super::mountinfo::{self, MountInfo};
use nix::fcntl::{OFlag, open};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::Mode;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The filesystem type as `findmnt` shows it: FUSE, subtype pinfold.
const FSTYPE: &str = "fuse.pinfold";
/// How long a live daemon may take to answer a GETATTR before a mount counts as not stale.
const STALE_PATIENCE: Duration = Duration::from_secs(2);

/// FUSE_NOTIFY_INC_EPOCH (linux/fuse.h).
const NOTIFY_INC_EPOCH: i32 = 8;
/// chattr(1)'s `i` (linux/fs.h).
const FS_IMMUTABLE_FL: libc::c_long = 0x10;

/// Opens `/dev/fuse`, for [`mount_fuse`] and then for the session.
///
/// # Errors
/// ENOENT or ENODEV where the kernel has no FUSE, EPERM where a container's device list leaves it out.
pub fn open_fuse_device() -> io::Result<OwnedFd> {
    Ok(open("/dev/fuse", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty())?)
}

/// Makes the kernel forget every name it knows of this connection, at once and waiting for nobody (FUSE_NOTIFY_INC_EPOCH).
///
/// # Errors
/// EINVAL before Linux 6.16; ENOTCONN when it is not mounted any more.
pub fn forget_names(fd: BorrowedFd<'_>) -> io::Result<()> {
    // struct fuse_out_header (linux/fuse.h): its length, the notification in the place of the error, no request.
    let mut header = [0; 16];
    header[..4].copy_from_slice(&16u32.to_ne_bytes());
    header[4..8].copy_from_slice(&NOTIFY_INC_EPOCH.to_ne_bytes());
    nix::unistd::write(fd, &header)?;
    Ok(())
}

/// Mounts the connection `fd` (of [`open_fuse_device`]) at the directory `target`; `source` is the name that mount(8)
/// shows. Nosuid, nodev, noexec; for all users; permissions checked by the kernel.
///
/// Until a session answers the kernel's INIT, whoever touches the mount waits.
///
/// # Errors
/// What mount(2) says; ENOTDIR if the target is no directory.
pub fn mount_fuse(target: &Path, fd: BorrowedFd<'_>, source: &str) -> io::Result<()> {
    // rootmode is octal: a directory, with the mode the tree's root begins with. The kernel judges by it when an
    // invalidation overtakes the first GETATTR; with 0 everybody but root would be refused then. The ids are those whom
    // umount(8) would let in; root alone.
    let data = format!("fd={},rootmode=40705,user_id=0,group_id=0,allow_other,default_permissions", fd.as_raw_fd());
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    Ok(mount(Some(source), target, Some(FSTYPE), flags, Some(data.as_str()))?)
}

/// Takes the topmost mount at `path` out of the tree at once; it ends when its last user does.
///
/// # Errors
/// What umount2(2) says; EINVAL if nothing is mounted there.
pub fn unmount_detach(path: &Path) -> io::Result<()> {
    Ok(umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)?)
}

/// Cuts the connection of the topmost mount at `path`, and takes the mount out of the tree: whoever waits for an answer, or asks anything
/// later, gets ENOTCONN or ECONNABORTED.
///
/// # Errors
/// What umount2(2) says.
pub fn unmount_cut(path: &Path) -> io::Result<()> {
    Ok(umount2(path, MntFlags::MNT_FORCE | MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)?)
}

/// Makes a directory immutable (chattr(1), `+i`) or changeable again: not even root makes a file in it then. What is
/// mounted on it is not touched by that.
///
/// # Errors
/// ENOTTY or EOPNOTSUPP where its filesystem has no such flag, EPERM without CAP_LINUX_IMMUTABLE.
pub fn set_immutable(path: &Path, immutable: bool) -> io::Result<()> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let directory = open(path, flags, Mode::empty())?;
    let mut flags: libc::c_long = 0;
    // SAFETY: the descriptor is open, and FS_IOC_GETFLAGS writes an int where there is room for a long.
    if unsafe { libc::ioctl(directory.as_raw_fd(), libc::FS_IOC_GETFLAGS, &raw mut flags) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let wanted = if immutable { flags | FS_IMMUTABLE_FL } else { flags & !FS_IMMUTABLE_FL };
    // SAFETY: the descriptor is open, and FS_IOC_SETFLAGS reads an int from a long that lives here.
    if wanted != flags && unsafe { libc::ioctl(directory.as_raw_fd(), libc::FS_IOC_SETFLAGS, &raw const wanted) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// The mount that one sees at `path`, if `path` is a mount point: the topmost one, and not one hidden by another mount
/// above it. Decided from `/proc/self/mountinfo` alone, so it never waits for a filesystem at `path`.
///
/// Symlinks are resolved in the directories before the last component, never in the last one.
///
/// # Errors
/// If the directories before it, or mountinfo, cannot be read.
pub fn mount_at(path: &Path) -> io::Result<Option<MountInfo>> {
    let path = resolve_parents(path)?;
    let table = std::fs::read("/proc/self/mountinfo")?;
    Ok(mountinfo::visible_at(&mountinfo::parse(&table), path.as_os_str().as_bytes()))
}

/// What of the filesystem on this device is mounted by itself, by a table as `/proc/PID/mountinfo` has it: paths in the
/// filesystem, without a leading slash.
pub fn parts_of(table: &[u8], dev: u64) -> Vec<String> {
    mountinfo::parts_of(&mountinfo::parse(table), dev)
}

/// Whether the mount at `path` is FUSE and its daemon is dead (ENOTCONN). A live daemon that does not answer within two
/// seconds is not dead. A path where nothing, or no FUSE, is mounted is not stale.
///
/// The kernel shows the death of a connection nowhere but in the errno of a request: `/sys/fs/fuse/connections/N` stays
/// until the unmount. So a request is made, by a child that does nothing else, holds no descriptor of this process (a
/// copy of `/dev/fuse` in a child that waits for us would keep us mounted for ever) and is left behind if it hangs.
///
/// # Errors
/// If mountinfo cannot be read or no child can be made.
pub fn is_stale(path: &Path) -> io::Result<bool> {
    let Some(found) = mount_at(path)? else { return Ok(false) };
    if found.fstype != "fuse" && !found.fstype.starts_with("fuse.") {
        return Ok(false);
    }
    let path = resolve_parents(path)?;
    let path = CString::new(path.as_os_str().as_bytes()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    Ok(stat_in_child(&path, STALE_PATIENCE)? == Some(libc::ENOTCONN))
}

/// The absolute path with its directories resolved and its last component as it is.
fn resolve_parents(path: &Path) -> io::Result<PathBuf> {
    let absolute = std::path::absolute(path)?;
    match (absolute.parent(), absolute.file_name()) {
        (Some(parent), Some(name)) => Ok(parent.canonicalize()?.join(name)),
        (Some(_), None) => Err(io::Error::new(io::ErrorKind::InvalidInput, "a mount point does not end in '..'")),
        (None, _) => Ok(absolute),
    }
}

/// The errno of a stat of `path` made by a child, 0 for success, `None` if it took longer than `patience`.
fn stat_in_child(path: &CString, patience: Duration) -> io::Result<Option<i32>> {
    // SAFETY: the child of a process with threads may only do what is async-signal-safe until it exits (fork(2)).
    // `child_stat` makes three raw system calls on memory that was allocated before, takes no lock, allocates nothing.
    let pid = match unsafe { libc::fork() } {
        -1 => return Err(io::Error::last_os_error()),
        0 => child_stat(path),
        pid => pid,
    };
    // SAFETY: pidfd_open takes two integers. The child is ours and not yet waited for, so its pid cannot be another's.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let ended = if fd < 0 {
        Err(io::Error::last_os_error())
    } else {
        let fd = i32::try_from(fd).expect("a descriptor is an int");
        // SAFETY: the kernel just made this descriptor and nothing else has it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        wait_readable(fd.as_fd(), patience)
    };
    if let Ok(true) = ended {
        return Ok(Some(reap(pid)?));
    }
    // SAFETY: kill takes two integers; the child has not been waited for, so the pid is still its own.
    unsafe { libc::kill(pid, libc::SIGKILL) };
    // Inside a request that a daemon has taken, not even SIGKILL ends it: somebody else waits for it.
    std::thread::Builder::new().name("reap".into()).spawn(move || reap(pid))?;
    ended.map(|_| None)
}

/// The child's part: drops every descriptor, stats, exits with the errno.
fn child_stat(path: &CString) -> ! {
    let mut stat = std::mem::MaybeUninit::<libc::statx>::uninit();
    // Asked of the daemon, not of what the kernel remembers: cached attributes outlive a daemon by years.
    let flags = libc::AT_SYMLINK_NOFOLLOW | libc::AT_STATX_FORCE_SYNC;
    // SAFETY: close_range takes integers, and this copy of the process uses no descriptor afterwards; `path` is
    // NUL-terminated and `stat` has room for the answer, which is not read; _exit runs no handler of the parent's.
    unsafe {
        libc::syscall(libc::SYS_close_range, 0u32, u32::MAX, 0u32);
        let errno = match libc::statx(libc::AT_FDCWD, path.as_ptr(), flags, libc::STATX_BASIC_STATS, stat.as_mut_ptr())
        {
            0 => 0,
            _ => *libc::__errno_location(),
        };
        libc::_exit(errno)
    }
}

fn reap(pid: libc::pid_t) -> io::Result<i32> {
    use nix::sys::wait::{WaitStatus, waitpid};
    loop {
        match waitpid(nix::unistd::Pid::from_raw(pid), None) {
            Ok(WaitStatus::Exited(_, code)) => return Ok(code),
            Ok(_) => return Err(io::Error::from(io::ErrorKind::Interrupted)),
            Err(nix::errno::Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

/// Whether `fd` became readable within `patience`.
fn wait_readable(fd: BorrowedFd<'_>, patience: Duration) -> io::Result<bool> {
    use nix::poll::{PollFd, PollFlags};
    super::wait::ready(&mut [PollFd::new(fd, PollFlags::POLLIN)], Some(std::time::Instant::now() + patience))
}

#[cfg(test)]
mod tests {
    #[test]
    fn not_even_root_makes_a_file_in_an_immutable_directory() {
        assert!(nix::unistd::geteuid().is_root(), "this test needs root");
        let dir = tempfile::TempDir::new_in("/dev/shm").unwrap();
        super::set_immutable(dir.path(), true).unwrap();
        let made = std::fs::write(dir.path().join("x"), b"").map_err(|e| e.raw_os_error());
        super::set_immutable(dir.path(), false).unwrap();
        assert_eq!(made, Err(Some(libc::EPERM)));
        std::fs::write(dir.path().join("x"), b"").unwrap();
    }

    use super::*;
    use std::io::{Read, Write};
    use std::time::Instant;

    /// A mount at a throw-away folder, gone with the test.
    struct Mounted {
        dir: tempfile::TempDir,
    }

    impl Mounted {
        fn new(device: &OwnedFd) -> Self {
            let dir = tempfile::tempdir().unwrap();
            mount_fuse(dir.path(), device.as_fd(), "pinfold").unwrap();
            Mounted { dir }
        }
    }

    impl Drop for Mounted {
        fn drop(&mut self) {
            let _ = unmount_detach(self.dir.path());
        }
    }

    #[test]
    fn a_fuse_mount_shows_its_type_and_is_gone_after_unmounting() {
        let device = open_fuse_device().unwrap();
        let mounted = Mounted::new(&device);
        let found = mount_at(mounted.dir.path()).unwrap().expect("it is mounted");
        assert_eq!((found.fstype.as_str(), found.source.as_str()), ("fuse.pinfold", "pinfold"));
        for option in ["nosuid", "nodev", "noexec"] {
            assert!(found.options.split(',').any(|o| o == option), "{option} in {}", found.options);
        }
        unmount_detach(mounted.dir.path()).unwrap();
        assert_eq!(mount_at(mounted.dir.path()).unwrap(), None);
        assert!(unmount_detach(mounted.dir.path()).is_err());
    }

    #[test]
    fn a_mount_whose_daemon_died_is_stale_and_a_folder_is_not() {
        let device = open_fuse_device().unwrap();
        let mounted = Mounted::new(&device);
        drop(device);
        assert!(is_stale(mounted.dir.path()).unwrap());
        unmount_detach(mounted.dir.path()).unwrap();
        assert!(!is_stale(mounted.dir.path()).unwrap());
        assert!(!is_stale(Path::new("/proc")).unwrap());
    }

    #[test]
    fn a_mount_that_does_not_answer_is_not_stale_and_holds_nobody() {
        let device = open_fuse_device().unwrap();
        let mounted = Mounted::new(&device);
        // Take the INIT so that the connection is live, answer it, and then answer nothing more.
        let mut file = std::fs::File::from(device.try_clone().unwrap());
        let mut request = vec![0u8; 1 << 16];
        let len = file.read(&mut request).unwrap();
        assert!(len >= 40 && request[4] == 26, "the first request is INIT");
        let mut reply = vec![0u8; 16 + 64];
        reply[0] = 80;
        reply[8..16].copy_from_slice(&request[8..16]);
        reply[16] = 7; // major
        reply[20] = 31; // minor
        reply[24 + 16 - 4..24 + 16].copy_from_slice(&0u32.to_ne_bytes());
        reply[36..40].copy_from_slice(&4096u32.to_ne_bytes()); // max_write
        file.write_all(&reply).unwrap();
        let began = Instant::now();
        assert!(!is_stale(mounted.dir.path()).unwrap());
        assert!(began.elapsed() >= STALE_PATIENCE, "it did ask");
        assert!(began.elapsed() < STALE_PATIENCE * 4);
        drop((file, device));
        assert!(is_stale(mounted.dir.path()).unwrap(), "the child that hung held a copy of the device");
    }
}

//! A program run apart from the daemon: in a pid namespace of its own, so that nothing of it can stay behind, as another
//! user, without capabilities, descriptors or keys.
//!
//! Owns the two forks that takes. A first process is the namespace's init: it hands SIGTERM on to everything in the
//! namespace, and when the program itself has ended, or init is killed, the kernel kills whatever the program left. It
//! never runs code of the daemon's beyond the system calls here.

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// `KEYCTL_JOIN_SESSION_KEYRING`.
const JOIN_SESSION_KEYRING: libc::c_int = 1;
/// `_LINUX_CAPABILITY_VERSION_3`: two words of each set.
const CAPABILITIES_V3: u32 = 0x2008_0522;
/// The highest capability there can be: sets have 64 bits.
const LAST_CAP: libc::c_int = 63;
/// The descriptor of the program's file in the child, until exec closes it.
const PROGRAM: RawFd = 3;
/// How the child says that something before exec failed.
pub const NOT_CONFINED: i32 = 126;
/// How the child says that exec failed.
pub const NOT_RUN: i32 = 127;

/// Whom a program runs as. Anybody but uid 0 has no capability.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunAs {
    /// Real, effective and saved.
    pub uid: u32,
    /// The same.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

/// A program to be run.
#[derive(Debug)]
pub struct Program<'a> {
    /// An absolute path.
    pub path: &'a CStr,
    /// All arguments, the name first.
    pub args: &'a [CString],
    /// The whole environment, `NAME=value`.
    pub env: &'a [CString],
    /// Its standard input.
    pub stdin: BorrowedFd<'a>,
    /// Its standard output.
    pub stdout: BorrowedFd<'a>,
    /// Its errors.
    pub stderr: BorrowedFd<'a>,
    /// Whom it runs as.
    pub run_as: &'a RunAs,
}

/// A running program. Dropping it kills it and all it has started.
#[derive(Debug)]
pub struct Child {
    pidfd: OwnedFd,
    reaped: bool,
}

/// What the child needs, as plain pointers: after the fork nothing may be allocated.
struct Raw {
    path: *const libc::c_char,
    file: RawFd,
    args: *const *const libc::c_char,
    env: *const *const libc::c_char,
    stdin: RawFd,
    stdout: RawFd,
    stderr: RawFd,
    uid: u32,
    gid: u32,
    groups: *const u32,
    group_count: usize,
}

/// Starts a program.
///
/// # Errors
/// ENOENT if there is no such file; EPERM without CAP_SYS_ADMIN; what the system says. That it cannot be executed shows in
/// its exit status ([`NOT_RUN`], [`NOT_CONFINED`]).
pub fn spawn(program: &Program<'_>) -> io::Result<Child> {
    // Above the three standard ones, so that dup2 in the child overwrites none.
    let high = |fd: BorrowedFd<'_>| nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_DUPFD_CLOEXEC(3));
    let own = |fd: RawFd| {
        // SAFETY: fcntl just made this descriptor and nothing else has it.
        unsafe { OwnedFd::from_raw_fd(fd) }
    };
    let stdin = own(high(program.stdin)?);
    let stdout = own(high(program.stdout)?);
    let stderr = own(high(program.stderr)?);
    // Root opens it: its folder may be closed to whom it runs as, as Mandos's plugin folders are.
    let file = nix::fcntl::open(program.path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
    let file = own(high(file.as_fd())?);
    let pointers = |list: &[CString]| -> Vec<*const libc::c_char> {
        list.iter().map(|s| s.as_ptr()).chain(std::iter::once(std::ptr::null())).collect()
    };
    let (args, env) = (pointers(program.args), pointers(program.env));
    let raw = Raw {
        path: program.path.as_ptr(),
        file: file.as_raw_fd(),
        args: args.as_ptr(),
        env: env.as_ptr(),
        stdin: stdin.as_raw_fd(),
        stdout: stdout.as_raw_fd(),
        stderr: stderr.as_raw_fd(),
        uid: program.run_as.uid,
        gid: program.run_as.gid,
        groups: program.run_as.groups.as_ptr(),
        group_count: program.run_as.groups.len(),
    };
    // No handler of the daemon's may run in the child.
    let before = nix::sys::signal::SigSet::all().thread_swap_mask(nix::sys::signal::SigmaskHow::SIG_SETMASK)?;
    let mut pidfd: RawFd = -1;
    // SAFETY: without CLONE_VM the child has its own copy of the memory, as after fork(2). It makes system calls only,
    // through `init`, which does not return; `raw` points into vectors that live until the end of this function, in the
    // child's copy for as long as the child is.
    let pid = unsafe { clone(libc::CLONE_NEWPID | libc::CLONE_PIDFD, &mut pidfd) };
    if pid == 0 {
        // SAFETY: this is the child of a clone without CLONE_VM, single-threaded, with all signals blocked.
        unsafe { init(&raw) }
    }
    let made = if pid < 0 { Err(io::Error::last_os_error()) } else { Ok(()) };
    // It was in force a moment ago, so it can be set.
    let _ = before.thread_set_mask();
    made?;
    Ok(Child { pidfd: own(pidfd), reaped: false })
}

impl Child {
    /// Readable once it has ended.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Asks it, and everything it has started, to end.
    pub fn terminate(&self) {
        self.signal(libc::SIGTERM);
    }

    /// Ends it, and everything it has started.
    pub fn kill(&self) {
        self.signal(libc::SIGKILL);
    }

    /// Its exit status, 128 and the signal's number if one ended it; `None` while it runs. Asked again, `None`.
    ///
    /// # Errors
    /// What waitid(2) says.
    pub fn try_wait(&mut self) -> io::Result<Option<i32>> {
        self.wait_with(WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG)
    }

    fn wait_with(&mut self, flags: WaitPidFlag) -> io::Result<Option<i32>> {
        if self.reaped {
            return Ok(None);
        }
        let status = match waitid(Id::PIDFd(self.pidfd.as_fd()), flags)? {
            WaitStatus::Exited(_, code) => code,
            WaitStatus::Signaled(_, signal, _) => 128 + signal as i32,
            _ => return Ok(None),
        };
        self.reaped = true;
        Ok(Some(status))
    }

    fn signal(&self, signal: libc::c_int) {
        if self.reaped {
            return;
        }
        // SAFETY: a pidfd, a number, no siginfo, no flags: no memory of ours is touched. One that has ended is ESRCH.
        unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.pidfd.as_raw_fd(),
                signal,
                std::ptr::null::<libc::siginfo_t>(),
                0u32,
            )
        };
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill();
        let _ = self.wait_with(WaitPidFlag::WEXITED);
    }
}

/// fork(2) with flags; the parent gets the child's pid. Not clone3(2): a filter of system calls cannot see its flags, so
/// that systemd's `RestrictNamespaces=` refuses it altogether.
///
/// # Safety
/// As fork(2) in a program with threads: the child may make async-signal-safe calls only, and must not return. `pidfd` is
/// null, or writable and wanted (CLONE_PIDFD).
unsafe fn clone(flags: libc::c_int, pidfd: *mut RawFd) -> libc::c_long {
    let flags = flags.cast_unsigned() as libc::c_ulong | libc::SIGCHLD as libc::c_ulong;
    // SAFETY: without CLONE_VM and with a null stack the child goes on with its copy of this one; the descriptor goes where
    // the parent's thread id would; the two other pointers are null, so that their order, which differs, does not matter.
    unsafe { libc::syscall(libc::SYS_clone, flags, 0usize, pidfd, 0usize, 0usize) }
}

/// The first process of the namespace.
///
/// # Safety
/// In a child of its own memory with one thread and all signals blocked; `raw` must be whole.
unsafe fn init(raw: &Raw) -> ! {
    // SAFETY: system calls with plain numbers and with pointers to locals or to what `raw` promises; raw syscalls where
    // glibc's wrapper would look for threads that are not there (setres*id, keyctl).
    unsafe {
        // With the thread that waits for it goes the program: a daemon that is killed leaves nothing running.
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0);
        // The daemon's session keyring holds the keys of the scopes: a child would possess them.
        if libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, std::ptr::null::<libc::c_char>(), 0, 0, 0) < 0
            || libc::dup2(raw.stdin, 0) < 0
            || libc::dup2(raw.stdout, 1) < 0
            || libc::dup2(raw.stderr, 2) < 0
            || (raw.file != PROGRAM && libc::dup3(raw.file, PROGRAM, libc::O_CLOEXEC) < 0)
            // Everything else at once: a copy of the store's lock would keep the lock.
            || libc::syscall(libc::SYS_close_range, PROGRAM.cast_unsigned() + 1, u32::MAX, 0u32) < 0
        {
            libc::_exit(NOT_CONFINED);
        }
        let main = clone(0, std::ptr::null_mut());
        if main == 0 {
            program(raw);
        }
        for fd in 0..=PROGRAM {
            libc::close(fd);
        }
        if main < 0 {
            libc::_exit(NOT_CONFINED);
        }
        let mut wanted: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut wanted);
        libc::sigaddset(&raw mut wanted, libc::SIGTERM);
        libc::sigaddset(&raw mut wanted, libc::SIGCHLD);
        loop {
            match libc::sigwaitinfo(&raw const wanted, std::ptr::null_mut()) {
                libc::SIGTERM => {
                    // Everything in the namespace but this process.
                    libc::kill(-1, libc::SIGTERM);
                    libc::kill(-1, libc::SIGCONT);
                }
                libc::SIGCHLD => loop {
                    let mut status = 0;
                    let ended = libc::waitpid(-1, &raw mut status, libc::WNOHANG);
                    if ended <= 0 {
                        break;
                    }
                    if libc::c_long::from(ended) == main {
                        let signalled = libc::WIFSIGNALED(status);
                        libc::_exit(if signalled { 128 + libc::WTERMSIG(status) } else { libc::WEXITSTATUS(status) });
                    }
                },
                _ => {}
            }
        }
    }
}

/// Becomes the program.
///
/// # Safety
/// As [`init`], of which it is a child.
unsafe fn program(raw: &Raw) -> ! {
    // SAFETY: as in `init`.
    unsafe {
        libc::setsid();
        libc::chdir(c"/".as_ptr());
        if raw.uid != 0 {
            for cap in 0..=LAST_CAP {
                // EINVAL for those this kernel does not have.
                libc::prctl(libc::PR_CAPBSET_DROP, cap, 0, 0, 0);
            }
        }
        let failed = libc::syscall(libc::SYS_setgroups, raw.group_count, raw.groups) < 0
            || libc::syscall(libc::SYS_setresgid, raw.gid, raw.gid, raw.gid) < 0
            || libc::syscall(libc::SYS_setresuid, raw.uid, raw.uid, raw.uid) < 0;
        if failed || libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 {
            libc::_exit(NOT_CONFINED);
        }
        if raw.uid != 0 {
            let header = [CAPABILITIES_V3, 0];
            let none = [0u32; 6];
            if libc::syscall(libc::SYS_capset, header.as_ptr(), none.as_ptr()) < 0 {
                libc::_exit(NOT_CONFINED);
            }
        }
        // What is ignored would stay so; what has a handler must not run it once signals come through again.
        for signal in 1..=64 {
            libc::signal(signal, libc::SIG_DFL);
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
        libc::execve(raw.path, raw.args, raw.env);
        if *libc::__errno_location() == libc::EACCES {
            // Its folder is closed to this user. Whether the file itself is, the kernel asks here too.
            libc::syscall(libc::SYS_execveat, PROGRAM, c"".as_ptr(), raw.args, raw.env, libc::AT_EMPTY_PATH);
        }
        libc::_exit(NOT_RUN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::wait::ready;
    use nix::poll::{PollFd, PollFlags};
    use std::io::Read;
    use std::time::{Duration, Instant};

    fn shell(script: &str, run_as: &RunAs) -> (Child, std::fs::File) {
        let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap();
        let null = std::fs::File::open("/dev/null").unwrap();
        let args = ["sh", "-c", script].map(|a| CString::new(a).unwrap());
        let child = spawn(&Program {
            path: c"/bin/sh",
            args: &args,
            env: &[c"PATH=/usr/bin:/bin".to_owned()],
            stdin: null.as_fd(),
            stdout: write.as_fd(),
            stderr: std::io::stderr().as_fd(),
            run_as,
        });
        (child.unwrap(), read.into())
    }

    fn nobody() -> RunAs {
        RunAs { uid: 65534, gid: 65534, groups: Vec::new() }
    }

    fn ended(child: &mut Child) -> i32 {
        let mut fds = [PollFd::new(child.fd(), PollFlags::POLLIN)];
        assert!(ready(&mut fds, Some(Instant::now() + Duration::from_secs(20))).unwrap(), "it does not end");
        child.try_wait().unwrap().expect("its descriptor says that it ended")
    }

    #[test]
    fn nothing_is_left_of_root() {
        let key = crate::sys::keyctl::join_anonymous_session()
            .and_then(|()| crate::sys::keyctl::add_user_key_to_session("pinfold:child-test", b"secret"));
        let key = key.unwrap().0;
        let leak = nix::unistd::pipe().unwrap(); // without O_CLOEXEC, on purpose
        let script = format!(
            "id -u; id -G; grep -E '^(Cap(Prm|Eff|Bnd|Amb|Inh)|NoNewPrivs|SigBlk|SigIgn)' /proc/self/status; \
             echo $(ls /proc/self/fd); grep -c child-test /proc/keys; \
             keyctl print {key} 2>/dev/null || echo kept; echo $$"
        );
        let (mut child, mut out) = shell(&script, &nobody());
        let mut text = String::new();
        out.read_to_string(&mut text).unwrap();
        assert_eq!(ended(&mut child), 0, "{text}");
        drop(leak);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(&lines[..2], ["65534", "65534"], "{text}");
        for name in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "SigBlk"] {
            assert!(lines.contains(&format!("{name}:\t0000000000000000").as_str()), "{name}: {text}");
        }
        let ignored = lines.iter().find_map(|l| l.strip_prefix("SigIgn:\t")).unwrap();
        // 32 and 33 are the C library's own; it lets nobody set them.
        assert_eq!(u64::from_str_radix(ignored, 16).unwrap() & !(3 << 31), 0, "{text}");
        assert!(lines.contains(&"NoNewPrivs:\t1"), "{text}");
        // The three standard ones and the folder that ls reads.
        assert_eq!(&lines[10..], ["0 1 2 3", "0", "kept", "2"], "{text}");
    }

    #[test]
    fn what_forks_away_goes_with_the_program() {
        // A session of its own, deaf to SIGTERM, with the pipe held open: nothing a process group would reach.
        let script = "trap '' TERM; setsid sh -c 'trap \"\" TERM; sleep 1000' & sleep 0.1; echo out; exit 3";
        let (mut child, mut out) = shell(script, &nobody());
        let begun = Instant::now();
        let mut text = String::new();
        out.read_to_string(&mut text).unwrap();
        assert_eq!((text.as_str(), ended(&mut child)), ("out\n", 3));
        assert!(begun.elapsed() < Duration::from_secs(10), "the pipe was held");
    }

    #[test]
    fn it_hears_a_request_and_cannot_withstand_a_kill() {
        let (mut child, mut out) = shell("trap 'exit 7' TERM; echo ready; while :; do sleep 0.05; done", &nobody());
        out.read_exact(&mut [0; 6]).unwrap();
        child.terminate();
        assert_eq!(ended(&mut child), 7);
        let (mut child, mut out) = shell("trap '' TERM; echo ready; while :; do sleep 1; done", &nobody());
        out.read_exact(&mut [0; 6]).unwrap();
        child.terminate();
        assert_eq!(child.try_wait().unwrap(), None);
        child.kill();
        assert_eq!(ended(&mut child), 128 + libc::SIGKILL);
        assert_eq!(out.read(&mut [0; 1]).unwrap(), 0, "nobody holds its output");
    }

    #[test]
    fn a_closed_folder_does_not_stop_it_and_a_closed_file_does() {
        use std::os::unix::fs::PermissionsExt;
        let home = tempfile::tempdir().unwrap(); // 0700
        let path = home.path().join("true");
        std::fs::copy("/bin/true", &path).unwrap();
        let null = std::fs::File::open("/dev/null").unwrap();
        let run = |path: &std::path::Path| {
            let path = CString::new(path.to_str().unwrap()).unwrap();
            let args = std::slice::from_ref(&path);
            let (stdin, stdout, stderr, run_as) = (null.as_fd(), null.as_fd(), null.as_fd(), &nobody());
            spawn(&Program { path: &path, args, env: &[], stdin, stdout, stderr, run_as })
                .map(|mut child| ended(&mut child))
        };
        assert_eq!(run(&path).unwrap(), 0);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o744)).unwrap();
        assert_eq!(run(&path).unwrap(), NOT_RUN);
        assert_eq!(run(&home.path().join("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}

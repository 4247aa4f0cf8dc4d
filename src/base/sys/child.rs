//! Programs that the daemon starts.
//!
//! Owns what each of them must leave behind before it runs. Whoever starts a program begins with [`command`], not with
//! `Command::new`: a child inherits the session keyring, possesses the scopes' keys in it, and may read them under any
//! uid.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// A program to be started, in a session keyring of its own that is empty.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    // SAFETY: the closure runs in the forked child before exec, where only async-signal-safe calls are allowed: it makes
    // one system call that reads no memory, and allocates nothing.
    unsafe { command.pre_exec(leave_session) };
    command
}

/// As [`command`], for a program whose end is awaited by the thread that starts it, and asked for with a signal to its
/// group: it leads a session and a group of its own, without a terminal; it has the standard descriptors and `keep`, under
/// the number that has here, and no other; SIGTERM comes when the thread ends; no file grows beyond `file_max`.
pub fn alone(program: impl AsRef<OsStr>, keep: Option<OwnedFd>, file_max: Option<u64>) -> Command {
    let mut command = command(program);
    let detach = move || {
        // SAFETY: setsid takes nothing, prctl two numbers, close_range three; none of them touches memory of ours.
        unsafe {
            if libc::setsid() < 0 || libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM, 0, 0, 0) < 0 {
                return Err(io::Error::last_os_error());
            }
            // Before Linux 5.11 there is no such flag; what Rust opens closes at exec anyway. Not closed now: among them
            // is the pipe by which the parent hears that exec failed.
            libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC);
        }
        if let Some(fd) = &keep {
            // SAFETY: the closure owns the descriptor, so the number is that of an open one; F_SETFD takes a number.
            if unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, 0) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        if let Some(most) = file_max {
            let limit = libc::rlimit { rlim_cur: most, rlim_max: most };
            // SAFETY: setrlimit reads the structure, which lives through the call.
            if unsafe { libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limit) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: as in `command`: system calls only, and what the closure holds was made before the fork.
    unsafe { command.pre_exec(detach) };
    command
}

fn leave_session() -> io::Result<()> {
    // SAFETY: KEYCTL_JOIN_SESSION_KEYRING with a null name reads no memory; the other arguments are unused.
    let ring =
        unsafe { libc::syscall(libc::SYS_keyctl, super::keyctl::JOIN_SESSION_KEYRING, 0usize, 0usize, 0usize, 0usize) };
    if ring < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::keyctl;

    /// The permissions of a scope's entry.
    const ENTRY: u32 = 0x3f05_0000;

    #[test]
    fn a_child_cannot_read_a_scope_s_entry() {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                keyctl::join_anonymous_session().unwrap();
                let id = keyctl::add_user_key_to_session("pinfold:host:test", b"the key").unwrap();
                keyctl::set_perm(id, ENTRY).unwrap();
                let by_serial = format!("keyctl pipe {}", id.0);
                let by_name = "keyctl pipe $(keyctl search @s user pinfold:host:test)".to_owned();
                for script in [by_serial, by_name] {
                    for uid in ["0", "1990020"] {
                        let read = |mut command: Command| {
                            let ids = [format!("--reuid={uid}"), format!("--regid={uid}")];
                            let command = command.args(ids).args(["--clear-groups", "sh", "-c", &script]);
                            String::from_utf8(command.output().unwrap().stdout).unwrap()
                        };
                        // What would happen otherwise: inherited, it is read under any uid.
                        assert_eq!(read(Command::new("setpriv")), "the key", "{script} as {uid}");
                        assert_eq!(read(super::command("setpriv")), "", "{script} as {uid}");
                        assert_eq!(read(super::alone("setpriv", None, None)), "", "{script} as {uid}");
                    }
                }
            });
        });
    }
}

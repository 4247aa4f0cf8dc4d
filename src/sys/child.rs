//! Programs that the daemon starts.
//!
//! Owns what each of them must leave behind before it runs. Whoever starts a program begins with [`command`], not with
//! `Command::new`: a child inherits the session keyring, possesses the scopes' keys in it, and may read them under any
//! uid.

use std::ffi::OsStr;
use std::io;
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
                    }
                }
            });
        });
    }
}

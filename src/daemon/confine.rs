//! What the daemon gives up once it serves: the capabilities that answering needs no more, and new privileges.
//!
//! Owns the list, with the reason for each that is kept. Applied to the threads that read what others send (the filesystem's,
//! the control socket's, the credentials'): capabilities belong to threads. The main thread keeps what unmounting and unlocking
//! by programs need; the unit bounds it (docs/systemd.md). Not Landlock: a thread confined by it may not look at `/proc/PID/exe` and
//! `/proc/PID/ns` of processes outside, whatever its rules say, and who a caller is could not be found out any more.

use crate::sys::process::{self, Capability};

/// What answering needs.
const KEPT: [Capability; 6] = [
    // /proc/PID/exe and ns of other users' processes.
    Capability::SysPtrace,
    // stat of the program that `user.pinfold.exe` names, wherever it is.
    Capability::DacReadSearch,
    // A key for a user: owned by root, put into his keyring by a thread with his uid; in a container, from inside its user namespace.
    Capability::SetUid,
    Capability::SetGid,
    Capability::SysAdmin,
    // Memory that is taken later is locked too.
    Capability::IpcLock,
];

/// What a thread does first that answers others.
pub fn enter() {
    // Weaker is no reason not to serve; it is told.
    if let Err(error) = process::confine(&KEPT) {
        tracing::warn!(%error, "a thread keeps capabilities that it does not need");
    }
}

/// In its place where the configuration says `confine = false`.
pub fn not_at_all() {}

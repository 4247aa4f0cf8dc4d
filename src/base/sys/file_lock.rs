//! A lock on a file that goes with its holder, whatever ends it.
//!
//! fork(2) copies descriptors, and with them the lock: a process that is killed while it starts another leaves its locks to
//! the child, which closes them when it comes to run. Whoever is started in its place waits for that.

use super::proc;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use std::fs::File;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// How often it is looked whether the lock is free.
const STEP: Duration = Duration::from_millis(2);

/// The lock of `file`, for this process alone. If another has it and `wait` says so, it is waited for, at most `patience`.
///
/// # Errors
/// The file, and EWOULDBLOCK if another has the lock, else what flock(2) says.
pub fn exclusive(
    mut file: File,
    patience: Duration,
    wait: impl Fn(&File) -> bool,
) -> Result<Flock<File>, (File, Errno)> {
    let begun = Instant::now();
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Err((back, Errno::EWOULDBLOCK)) if wait(&back) && begun.elapsed() < patience => {
                file = back;
                std::thread::sleep(STEP);
            }
            other => return other,
        }
    }
}

/// Whether no process has this number, or only one that has ended and was not waited for.
#[must_use]
pub fn is_dead(pid: u32) -> bool {
    match proc::open_process(pid) {
        Ok(process) => proc::has_ended(process.as_fd()),
        // EINVAL and ENOENT: the number is that of a thread now.
        Err(e) => matches!(e.raw_os_error(), Some(libc::ESRCH | libc::EINVAL | libc::ENOENT)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn the_lock_is_waited_for_as_long_as_it_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let opened = move || File::options().create(true).truncate(false).write(true).open(&path).unwrap();
        let held = exclusive(opened(), Duration::ZERO, |_| false).unwrap();
        let begun = Instant::now();
        let (_, refused) = exclusive(opened(), Duration::from_mins(1), |_| false).unwrap_err();
        assert_eq!(refused, Errno::EWOULDBLOCK);
        let (_, late) = exclusive(opened(), Duration::from_millis(20), |_| true).unwrap_err();
        assert_eq!(late, Errno::EWOULDBLOCK);
        assert!(begun.elapsed() >= Duration::from_millis(20));
        let waiter = std::thread::spawn(move || exclusive(opened(), Duration::from_mins(1), |_| true).is_ok());
        drop(held);
        assert!(waiter.join().unwrap());
    }

    #[test]
    fn a_process_that_has_ended_is_dead_reaped_or_not() {
        assert!(!is_dead(std::process::id()));
        let mut child = Command::new("true").spawn().unwrap();
        while !is_dead(child.id()) {
            std::thread::sleep(STEP);
        }
        child.wait().unwrap();
        assert!(is_dead(child.id()));
        assert!(is_dead(0) && is_dead(u32::MAX));
    }
}

//! Errands in the user keyring (`@u`) of another uid, in this user namespace or another: put a key there, look for keys,
//! take keys out.
//!
//! Whose `@u` is meant is decided by the real uid of the process that asks, so each errand is a child process of its
//! own, with that real uid; the effective one stays root's. It is not a thread that changes its uid: for as long as a
//! thread has the real uid of a service, that service may send it SIGKILL, which ends the whole daemon (kill(2)). The
//! child shares the memory (CLONE_VM), so no page and no secret is copied; it makes a handful of system calls, allocates
//! nothing and takes no lock. All signals are blocked in it: what the service sends never reaches a handler of the daemon.
//! SIGKILL ends the errand alone, and one that was stopped is killed when its time is over. One that is merely slow, on a
//! busy machine, has longer: its uid did nothing to it, and must not be blamed for it.
//!
//! It decides nothing about who gets what, and never reads a payload.

use super::keyctl::{self, JOIN_SESSION_KEYRING, KeyId};
use std::ffi::{CStr, c_int, c_long, c_void};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

/// How long an errand may take; it takes some 100 µs.
const PATIENCE: Patience = Patience { stopped: Duration::from_secs(1), slow: Duration::from_secs(5) };
/// Bytes of stack for a child that calls no deeper than syscall(2).
const STACK: usize = 64 << 10;
const LINK: c_long = 8;
const UNLINK: c_long = 9;
const SEARCH: c_long = 10;
const USER_KEYRING: c_long = -4;
const KILL: c_long = libc::SIGKILL as c_long;

/// Whose keyring.
#[derive(Debug, Clone, Copy)]
pub struct UserKeyring<'a> {
    /// The user namespace, `None` for the daemon's own.
    pub namespace: Option<BorrowedFd<'a>>,
    /// The uid, as that namespace counts.
    pub uid: u32,
}

/// A key to be made.
#[derive(Debug, Clone, Copy)]
pub struct NewKey<'a> {
    /// At most [`keyctl::DESCRIPTION_MAX`] bytes.
    pub description: &'a CStr,
    /// 1 to [`keyctl::PAYLOAD_MAX`] bytes.
    pub payload: &'a [u8],
    /// Its group, as the daemon's namespace counts; `None` leaves it root's.
    pub gid: Option<u32>,
    /// Its permissions (keyctl_setperm(3)).
    pub perm: u32,
    /// Seconds after which it expires.
    pub timeout: Option<u32>,
}

/// Why an errand was not done.
#[derive(Debug, thiserror::Error)]
pub enum ErrandError {
    /// A system call failed.
    #[error("{step}: {source}")]
    Refused {
        /// What was tried.
        step: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// Somebody killed it, or stopped it and its time was over.
    #[error("the uid killed or stopped who came to its keyring")]
    Killed,
    /// It ran and was not done in its time.
    #[error("not done in time: the machine is busy, or the uid slows down who comes to its keyring")]
    Late,
}

/// How long an errand is waited for.
#[derive(Debug, Clone, Copy)]
struct Patience {
    /// If it is stopped then; it is looked at each time this has passed.
    stopped: Duration,
    /// If it runs. Whoever stops it and lets it go, by turns, or takes its priority, gains no more than this.
    slow: Duration,
}

/// Makes a key that belongs to root and puts it into the `@u` of `place`; a key of that description there is displaced.
/// It lives for as long as it is linked there. Everything about it is set before it can be found.
///
/// # Errors
/// [`ErrandError`]; then the key is gone.
pub fn give(place: UserKeyring<'_>, new: &NewKey<'_>) -> Result<KeyId, ErrandError> {
    let at = |step| move |source| ErrandError::Refused { step, source };
    on_errand(place, PATIENCE, |child| {
        let key = keyctl::add_user_key_to_thread(new.description, new.payload).map_err(at("making the key"))?;
        if let Some(gid) = new.gid {
            keyctl::set_group(key, gid).map_err(at("setting the key's group"))?;
        }
        keyctl::set_perm(key, new.perm).map_err(at("setting the key's permissions"))?;
        if let Some(timeout) = new.timeout {
            keyctl::set_timeout(key, timeout).map_err(at("setting the key's timeout"))?;
        }
        child.run(Todo::Link(key))?;
        Ok(key)
    })
}

/// What a search for each description finds in the `@u` of `place`: nothing, or what the kernel refuses to show, is
/// `None`.
///
/// # Errors
/// [`ErrandError`] if nobody could look.
pub fn look(place: UserKeyring<'_>, descriptions: &[&CStr]) -> Result<Vec<Option<KeyId>>, ErrandError> {
    look_within(PATIENCE, place, descriptions)
}

fn look_within(
    patience: Patience,
    place: UserKeyring<'_>,
    descriptions: &[&CStr],
) -> Result<Vec<Option<KeyId>>, ErrandError> {
    let mut found = vec![0; descriptions.len()];
    on_errand(place, patience, |child| child.run(Todo::Search(descriptions, &mut found)))?;
    Ok(found.into_iter().map(|serial| i32::try_from(serial).ok().filter(|s| *s > 0).map(KeyId)).collect())
}

/// Takes keys out of the `@u` of `place`; those that are not there are skipped.
///
/// # Errors
/// [`ErrandError`] if nobody could go there.
pub fn take(place: UserKeyring<'_>, keys: &[KeyId]) -> Result<(), ErrandError> {
    on_errand(place, PATIENCE, |child| child.run(Todo::Unlink(keys)))
}

/// What the child does once it is there.
enum Todo<'a> {
    Link(KeyId),
    Search(&'a [&'a CStr], &'a mut [c_long]),
    Unlink(&'a [KeyId]),
}

/// The thread that has the child: it sleeps while the child runs, and ends with the errand.
struct Child<'a> {
    place: UserKeyring<'a>,
    pidfd: &'a AtomicI32,
}

/// Runs `errand` in a thread of its own, whose thread keyring ends with it, and kills a child that takes too long.
fn on_errand<R: Send>(
    place: UserKeyring<'_>,
    patience: Patience,
    errand: impl FnOnce(&Child<'_>) -> Result<R, ErrandError> + Send,
) -> Result<R, ErrandError> {
    let failed = |source| ErrandError::Refused { step: "starting a thread", source };
    // Written by the kernel before the child runs, and closed by the receiver of the answer: open for as long as it may
    // be needed here.
    let pidfd = &AtomicI32::new(-1);
    std::thread::scope(|scope| {
        let (tell, told) = mpsc::sync_channel(1);
        let thread = move || {
            let result = errand(&Child { place, pidfd });
            // The receiver waits for as long as this thread runs.
            let _ = tell.send(result);
        };
        std::thread::Builder::new().name("keyring".into()).spawn_scoped(scope, thread).map_err(failed)?;
        let begun = Instant::now();
        let mut is_late = false;
        let result = loop {
            match told.recv_timeout(patience.stopped) {
                Ok(result) => break result,
                Err(RecvTimeoutError::Timeout) => {
                    let child = pidfd.load(Ordering::Acquire);
                    let stopped = is_stopped(child);
                    is_late |= !stopped && begun.elapsed() >= patience.slow;
                    if stopped || is_late {
                        kill(child);
                    }
                }
                Err(RecvTimeoutError::Disconnected) => break Err(ErrandError::Killed),
            }
        };
        close(pidfd);
        match result {
            Err(ErrandError::Killed) if is_late => Err(ErrandError::Late),
            result => result,
        }
    })
}

impl Child<'_> {
    fn run(&self, todo: Todo<'_>) -> Result<(), ErrandError> {
        let at = |step| move |source| ErrandError::Refused { step, source };
        if self.place.uid == u32::MAX {
            // setresuid(2) would take it for "as it is": root's own keyring.
            return Err(at("taking the uid")(io::ErrorKind::InvalidInput.into()));
        }
        // Of this thread, which ends soon, and of the child, which has no use for any.
        nix::sys::signal::SigSet::all().thread_block().map_err(|e| at("blocking signals")(e.into()))?;
        let namespace = self.place.namespace.map_or(-1, |fd| fd.as_raw_fd());
        let mut job = Job { namespace, uid: self.place.uid, todo, failed: None };
        let mut stack = vec![0u128; STACK / size_of::<u128>()];
        let top = stack.as_mut_ptr_range().end.cast::<c_void>();
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD;
        // SAFETY: the child runs `go` on `stack`, whose end is aligned to 16 bytes, and this thread sleeps until it has
        // ended (CLONE_VFORK), so `job` and `stack` outlive it and are used by nobody else meanwhile; so is the errno of
        // this thread, which both have. `pidfd` is where the kernel writes a number before the child runs (CLONE_PIDFD).
        let pid = unsafe { libc::clone(go, top, flags, (&raw mut job).cast(), self.pidfd.as_ptr()) };
        if pid < 0 {
            return Err(at("starting a child")(io::Error::last_os_error()));
        }
        let mut status = 0;
        // SAFETY: waitpid writes one number, to `status`. The child is ours and nobody else waits for it: it sends no
        // SIGCHLD, and is waited for by its number.
        let waited = unsafe { libc::waitpid(pid, &raw mut status, libc::__WALL) };
        if waited != pid {
            return Err(at("waiting for the child")(io::Error::last_os_error()));
        }
        match job.failed {
            _ if !libc::WIFEXITED(status) => Err(ErrandError::Killed),
            Some((step, errno)) => Err(at(step)(io::Error::from_raw_os_error(errno))),
            None => Ok(()),
        }
    }
}

/// Whether there is a child, and it was stopped.
fn is_stopped(pidfd: c_int) -> bool {
    let Ok(pidfd) = libc::id_t::try_from(pidfd) else { return false };
    let options = libc::WSTOPPED | libc::WNOHANG | libc::WNOWAIT | libc::__WALL;
    // SAFETY: all zeros is a value of this structure of numbers. waitid writes to it alone, and takes nothing away from
    // the thread that waits for the child's end (WNOWAIT, no WEXITED). The descriptor is open: see `on_errand`.
    let (waited, found) = unsafe {
        let mut found: libc::siginfo_t = std::mem::zeroed();
        (libc::waitid(libc::P_PIDFD, pidfd, &raw mut found, options), found)
    };
    // Nothing to tell: it stays zero (waitid(2)).
    waited == 0 && found.si_signo == libc::SIGCHLD
}

/// Ends a child that was stopped or is late; nothing if there is none.
fn kill(pidfd: c_int) {
    if pidfd >= 0 {
        // SAFETY: pidfd_send_signal takes numbers and a null pointer. The descriptor is open: see `on_errand`.
        unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd, libc::SIGKILL, 0usize, 0) };
    }
}

fn close(pidfd: &AtomicI32) {
    let fd = pidfd.swap(-1, Ordering::AcqRel);
    if fd >= 0 {
        // SAFETY: the kernel opened it for this errand, whose thread is done; nobody else knows its number.
        drop(unsafe { OwnedFd::from_raw_fd(fd) });
    }
}

/// What the child is to do, in the memory that it shares.
struct Job<'a> {
    namespace: c_int,
    uid: u32,
    todo: Todo<'a>,
    failed: Option<(&'static str, c_int)>,
}

/// The child, from its first to its last instruction.
extern "C" fn go(job: *mut c_void) -> c_int {
    // SAFETY: it is the `Job` of `Child::run`, which sleeps.
    let job = unsafe { &mut *job.cast::<Job<'_>>() };
    job.failed = job.run().err();
    0
}

impl Job<'_> {
    /// System calls and nothing else.
    fn run(&mut self) -> Result<(), (&'static str, c_int)> {
        // Stopped by the uid it goes to, it must neither outlive the daemon nor keep its /dev/fuse open.
        call("tying it to the daemon", libc::SYS_prctl, [c_long::from(libc::PR_SET_PDEATHSIG), KILL, 0, 0, 0])?;
        let last = c_long::from(u32::MAX);
        let namespace = c_long::from(self.namespace);
        if namespace > 0 {
            call("closing files", libc::SYS_close_range, [0, namespace - 1, 0, 0, 0])?;
        }
        call("closing files", libc::SYS_close_range, [namespace + 1, last, 0, 0, 0])?;
        // The session keyring has the scopes' keys: it stays behind.
        call("leaving the session keyring", libc::SYS_keyctl, [JOIN_SESSION_KEYRING, 0, 0, 0, 0])?;
        if self.namespace >= 0 {
            let kind = c_long::from(libc::CLONE_NEWUSER);
            call("entering the user namespace", libc::SYS_setns, [namespace, kind, 0, 0, 0])?;
        }
        // The system call itself, for this process alone. The effective and the file system's uid stay root's.
        call("taking the uid", libc::SYS_setresuid, [c_long::from(self.uid), -1, -1, 0, 0])?;
        match &mut self.todo {
            Todo::Link(key) => {
                let arguments = [LINK, c_long::from(key.0), USER_KEYRING, 0, 0];
                call("linking the key into the uid's keyring", libc::SYS_keyctl, arguments).map(drop)
            }
            Todo::Search(descriptions, found) => {
                for (description, found) in descriptions.iter().zip(found.iter_mut()) {
                    let kind = c"user".as_ptr() as c_long;
                    let arguments = [SEARCH, USER_KEYRING, kind, description.as_ptr() as c_long, 0];
                    *found = call("searching", libc::SYS_keyctl, arguments).unwrap_or(0);
                }
                Ok(())
            }
            Todo::Unlink(keys) => {
                for key in *keys {
                    let arguments = [UNLINK, c_long::from(key.0), USER_KEYRING, 0, 0];
                    let _ = call("unlinking", libc::SYS_keyctl, arguments);
                }
                Ok(())
            }
        }
    }
}

fn call(step: &'static str, number: c_long, a: [c_long; 5]) -> Result<c_long, (&'static str, c_int)> {
    // SAFETY: the calls made here take numbers, null pointers and strings that end in NUL and outlive the errand. errno
    // is that of the sleeping thread.
    let result = unsafe { libc::syscall(number, a[0], a[1], a[2], a[3], a[4]) };
    if result >= 0 {
        return Ok(result);
    }
    // SAFETY: the location is always valid; see above.
    Err((step, unsafe { *libc::__errno_location() }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::keyctl::KeyError;
    use std::process::Command;

    const PERM: u32 = 0x0b3f_0b00;

    /// One that no other run of these tests on this machine has: keyrings are the machine's, and so is kill(-1).
    fn unique(n: u32) -> u32 {
        100_000_000 + 16 * std::process::id() + n
    }

    fn host(uid: u32) -> UserKeyring<'static> {
        UserKeyring { namespace: None, uid }
    }

    fn new<'a>(description: &'a CStr, payload: &'a [u8], gid: u32) -> NewKey<'a> {
        NewKey { description, payload, gid: Some(gid), perm: PERM, timeout: None }
    }

    fn as_uid(uid: u32, script: &str) -> (bool, String) {
        let out = Command::new("setpriv")
            .args([&format!("--reuid={uid}"), &format!("--regid={uid}"), "--clear-groups", "keyctl", "session", "-"])
            .args(["sh", "-c", script])
            .output()
            .unwrap();
        (
            out.status.success(),
            String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr),
        )
    }

    #[test]
    fn a_uid_finds_what_it_was_given_and_cannot_change_it() {
        let (uid, other) = (unique(1), unique(2));
        let key = give(host(uid), &new(c"pinfold: a;b", b"1234", uid)).unwrap();
        let find = r#"k=$(keyctl search @u user "pinfold: a;b") && keyctl pipe $k"#;
        assert!(as_uid(uid, find).1.starts_with("1234"), "{:?}", as_uid(uid, find));
        assert!(!as_uid(other, find).0);
        assert!(as_uid(other, &format!("keyctl pipe {}", key.0)).1.contains("Permission denied"));
        for change in ["update %% x", "revoke %%", "setperm %% 0x3f3f3f3f", "chown %% 1", "timeout %% 5"] {
            let (done, told) = as_uid(uid, &format!("keyctl {}", change.replace("%%", &key.0.to_string())));
            assert!(!done && told.contains("Permission denied"), "{change}: {told}");
        }
        keyctl::update(key, b"56789").unwrap();
        assert!(as_uid(uid, find).1.starts_with("56789"));
        assert_eq!(look(host(uid), &[c"pinfold: a;b", c"pinfold: none"]).unwrap(), [Some(key), None]);
        let (done, _) = as_uid(uid, &format!("keyctl unlink {} @u && keyctl add user 'pinfold: a;b' mine @u", key.0));
        assert!(done);
        let found = look(host(uid), &[c"pinfold: a;b"]).unwrap();
        assert!(found[0].is_some() && found[0] != Some(key), "{found:?} is not {key:?}");
        let again = give(host(uid), &new(c"pinfold: a;b", b"0", uid)).unwrap();
        assert_eq!(look(host(uid), &[c"pinfold: a;b"]).unwrap(), [Some(again)]);
        take(host(uid), &[again, key]).unwrap();
        assert_eq!(look(host(uid), &[c"pinfold: a;b"]).unwrap(), [None]);
    }

    #[test]
    fn this_process_keeps_its_uid_and_failures_name_their_step() {
        let nobody = std::fs::File::open("/dev/null").unwrap();
        let place = UserKeyring { namespace: Some(std::os::fd::AsFd::as_fd(&nobody)), uid: 0 };
        let error = give(place, &new(c"pinfold:x", b"x", 0)).unwrap_err();
        assert!(error.to_string().starts_with("entering the user namespace"), "{error}");
        let error = give(host(unique(3)), &new(c"pinfold:x", b"", 0)).unwrap_err();
        assert!(error.to_string().starts_with("making the key"), "{error}");
        assert_eq!(nix::unistd::getuid().as_raw(), 0);
    }

    #[test]
    fn the_key_of_a_failed_errand_does_not_stay() {
        let mut made = None;
        let lost = on_errand(host(unique(4)), PATIENCE, |child| {
            let key = keyctl::add_user_key_to_thread(c"pinfold:lost", b"x").unwrap();
            made = Some(key);
            // Nobody may link this one.
            keyctl::set_perm(key, 0x3f01_0000).unwrap();
            child.run(Todo::Link(key))
        });
        assert!(lost.unwrap_err().to_string().starts_with("linking the key"));
        let key = made.unwrap();
        let end = std::time::Instant::now() + Duration::from_secs(10);
        while !matches!(keyctl::describe(key), Err(KeyError::Missing)) {
            assert!(std::time::Instant::now() < end, "the key is still there");
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(give(host(u32::MAX), &new(c"pinfold:x", b"x", 0)).is_err(), "-1 would mean: stay who you are");
    }

    /// Sends a signal to all that its uid may send one to, until it is dropped or the tests end.
    struct Hostile(std::process::Child);

    impl Hostile {
        fn start(uid: u32, signal: &str) -> Self {
            let mut command = Command::new("setpriv");
            command.args([&format!("--reuid={uid}"), &format!("--regid={uid}"), "--clear-groups", "--pdeathsig=KILL"]);
            command.args(["sh", "-c", &format!("while :; do kill -{signal} -1; done 2>/dev/null")]);
            Hostile(command.spawn().unwrap())
        }
    }

    impl Drop for Hostile {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[test]
    fn a_uid_that_kills_or_stops_the_errand_harms_no_other() {
        let uid = unique(5);
        for signal in ["KILL", "STOP"] {
            let hostile = Hostile::start(uid, signal);
            let begun = std::time::Instant::now();
            let mut killed = 0;
            // Each is done, or said to be killed, in a bounded time.
            while killed < 2 && begun.elapsed() < Duration::from_secs(20) {
                match give(host(uid), &new(c"pinfold:fought-over", b"x", uid)) {
                    Ok(_) => {}
                    Err(ErrandError::Killed) => killed += 1,
                    Err(other) => panic!("{other}"),
                }
            }
            drop(hostile);
            assert!(killed > 0, "{signal}: it was never hit");
        }
        let key = give(host(uid), &new(c"pinfold:fought-over", b"x", uid)).unwrap();
        take(host(uid), &[key]).unwrap();
    }

    #[test]
    fn one_that_is_slow_is_not_taken_for_one_that_was_stopped() {
        let patience = Patience { stopped: Duration::from_millis(20), slow: Duration::from_secs(600) };
        let mut searches = 50_000;
        loop {
            let begun = Instant::now();
            let found = look_within(patience, host(unique(6)), &vec![c"pinfold: none"; searches]).unwrap();
            assert_eq!(found.len(), searches);
            if begun.elapsed() > 5 * patience.stopped {
                break;
            }
            searches *= 2;
        }
        let patience = Patience { slow: patience.stopped, ..patience };
        let late = look_within(patience, host(unique(6)), &vec![c"pinfold: none"; searches * 8]);
        assert!(matches!(late, Err(ErrandError::Late)), "{late:?}");
    }
}

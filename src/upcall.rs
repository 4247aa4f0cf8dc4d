//! The kernel's side of a key that somebody asked for and that is not there yet: request_key(2) waits, and `pinfold upcall`
//! is started by request-key(8) to make it.
//!
//! Owns which key it is, who really asked, and the answer: the key filled, or refused for a second. Whether he may have it
//! is the daemon's to say. The one who asked cannot be ended while he waits, so everything here is bounded.

use crate::secret::Secret;
use crate::sys::keyctl::{self, KeyError, KeyId};
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

/// How long the one who asked waits at most.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a refusal is remembered, in seconds: without one it would be a minute.
const REFUSED_FOR: u32 = 1;
/// How many keys are made at once; beyond that they are refused.
const AT_ONCE: usize = 8;
/// What descriptions begin with that are ours.
const PREFIX: &str = "pinfold:";
/// Who possesses it may see, read and find it; its owner, who asked, see it.
const PERMS: u32 = 0x0b01_0000;

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum UpcallError {
    /// The key is not one that this process is to make.
    #[error("key {0} is not to be made here: {1}")]
    NotOurs(i32, String),
    /// Too many at once.
    #[error("{AT_ONCE} keys are being made already")]
    Busy,
    /// The daemon said no, or nothing at all in time.
    #[error("{0}")]
    Refused(String),
    /// The kernel refused.
    #[error("{0}: {1}")]
    Kernel(&'static str, #[source] io::Error),
}

/// What somebody waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// The path that the description names, after `pinfold:`.
    pub path: String,
    /// The thread that waits, as the initial pid namespace counts.
    pub tid: u32,
    /// The key, and the one that is the authority to make it: the daemon looks for both itself.
    pub key: i32,
    /// See there.
    pub auth: i32,
}

/// The daemon's answer.
#[derive(Debug)]
pub struct Answer {
    /// What goes into the key.
    pub content: Secret,
    /// Seconds until it expires.
    pub timeout: u32,
}

/// Makes the key with this number. `slots` is a folder of root's alone; `ask` is called in a thread of its own, which is
/// left behind if it takes too long.
///
/// # Errors
/// [`UpcallError`]; whoever waits has been told ENOKEY then, if the kernel let us.
pub fn make(
    key: i32,
    slots: &Path,
    ask: impl FnOnce(Asked) -> Result<Answer, String> + Send + 'static,
) -> Result<(), UpcallError> {
    let id = KeyId(key);
    // Before all else: without it not even a refusal can be given.
    let auth = keyctl::assume_authority(id).map_err(|e| UpcallError::NotOurs(key, e.to_string()))?;
    let made = make_as_authorised(id, auth, slots, ask);
    if made.is_err() {
        keyctl::negate(id, REFUSED_FOR).map_err(|e| UpcallError::Kernel("refusing it", e))?;
    }
    made
}

fn make_as_authorised(
    id: KeyId,
    auth: KeyId,
    slots: &Path,
    ask: impl FnOnce(Asked) -> Result<Answer, String> + Send + 'static,
) -> Result<(), UpcallError> {
    let asked = asked(id, auth)?;
    let _slot = slot(slots)?;
    let (tell, told) = mpsc::sync_channel(1);
    let thread = move || {
        // Nobody listens any more once the time is over.
        let _ = tell.send(ask(asked));
    };
    let started = std::thread::Builder::new().name("ask".into()).spawn(thread);
    started.map_err(|e| UpcallError::Kernel("starting a thread", e))?;
    let answer = told
        .recv_timeout(PATIENCE)
        .map_err(|_| UpcallError::Refused("the daemon does not answer in time".into()))?
        .map_err(UpcallError::Refused)?;
    // What it may be used for is set before there is anything in it.
    keyctl::set_perm(id, PERMS).map_err(|e| UpcallError::Kernel("setting its permissions", e))?;
    keyctl::set_timeout(id, answer.timeout).map_err(|e| UpcallError::Kernel("setting its timeout", e))?;
    keyctl::instantiate(id, answer.content.expose()).map_err(|e| UpcallError::Kernel("filling it", e))
}

/// Which secret, and who asked: the authorisation key, which this process alone has, names the thread.
fn asked(id: KeyId, auth: KeyId) -> Result<Asked, UpcallError> {
    let no = |why: String| UpcallError::NotOurs(id.0, why);
    let about = keyctl::describe(id).map_err(|e: KeyError| no(e.to_string()))?;
    let description = String::from_utf8(about.description).map_err(|_| no("its description is not UTF-8".into()))?;
    let path = description.strip_prefix(PREFIX).filter(|_| about.kind == "user");
    let path = path.ok_or_else(|| no(format!("a key '{}' of type {}", description.escape_debug(), about.kind)))?;
    let keys = std::fs::read_to_string("/proc/keys").map_err(|e| no(format!("/proc/keys: {e}")))?;
    let tid = waiting(&keys, id).ok_or_else(|| no("nobody waits for it".into()))?;
    Ok(Asked { path: path.to_owned(), tid, key: id.0, auth: auth.0 })
}

/// The thread that waits for a key: `… .request_ key:c9668c4 pid:27456 ci:0`, the key's number in hexadecimal.
fn waiting(keys: &str, id: KeyId) -> Option<u32> {
    let wanted = format!("key:{:x}", id.0);
    let mut lines = keys.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace().skip_while(|word| !word.starts_with(".request_")).skip(1);
        (words.next()? == wanted).then(|| words.next()?.strip_prefix("pid:")?.parse().ok())?
    });
    let first = lines.next()?;
    // Two would be a doubt.
    lines.next().is_none().then_some(first)
}

/// One of the places for those who make a key at the same time; free again when the file is closed, however that happens.
fn slot(folder: &Path) -> Result<nix::fcntl::Flock<File>, UpcallError> {
    for number in 0..AT_ONCE {
        let file =
            File::options().write(true).create(true).truncate(false).open(folder.join(format!("upcall.{number}")));
        let file = file.map_err(|e| UpcallError::Kernel("opening a slot", e))?;
        if let Ok(slot) = nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusiveNonblock) {
            return Ok(slot);
        }
    }
    Err(UpcallError::Busy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_thread_that_waits_is_found_by_the_key_s_number() {
        let keys = "04088efb I------     8 perm 1b010000     0     0 .request_ key:c9668c4 pid:27456 ci:0\n\
                    0c9668c4 IRQ----     3 3m   0b010000  1000  1000 user      key:c9668c4 pid:1 ci:0: 4\n\
                    14088efb I------     8 perm 1b010000     0     0 .request_ key:c9668c5 pid:27457 ci:7\n";
        assert_eq!(waiting(keys, KeyId(0x0c96_68c4)), Some(27456));
        assert_eq!(waiting(keys, KeyId(0x0c96_68c5)), Some(27457));
        assert_eq!(waiting(keys, KeyId(0x00c9_668c)), None);
        assert_eq!(waiting(&keys.repeat(2), KeyId(0x0c96_68c4)), None, "two are a doubt");
    }

    #[test]
    fn so_many_at_once_and_no_more() {
        let home = tempfile::tempdir().unwrap();
        let held: Vec<_> = (0..AT_ONCE).map(|_| slot(home.path()).unwrap()).collect();
        assert!(matches!(slot(home.path()), Err(UpcallError::Busy)));
        drop(held);
        slot(home.path()).unwrap();
        assert!(matches!(slot(&home.path().join("not-there")), Err(UpcallError::Kernel(..))));
    }

    #[test]
    fn a_key_that_nobody_waits_for_is_not_made() {
        let made = make(1, Path::new("/"), |_| panic!("nobody is to be asked"));
        assert!(matches!(made, Err(UpcallError::NotOurs(1, _))), "{made:?}");
    }
}

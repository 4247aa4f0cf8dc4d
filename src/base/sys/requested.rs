//! A key that somebody asked the kernel for and that is being made, as the uid that asked sees it.
//!
//! Owns the look. A key under construction, and the authority to make it, can be seen by the uid that asked (and by nobody else but who
//! was given the authority): so a thread goes there with that uid for its filesystem accesses, by which keys go. No signal comes of it:
//! who may kill a thread is decided by its real and effective uid, which stay. It decides nothing about who gets what.

use super::keyctl::{self, KeyError, KeyId};
use nix::sys::prctl;
use nix::unistd::{Uid, setfsuid};
use std::fs::File;
use std::io::{self, Read};
use thiserror::Error;

/// More than this of `/proc/keys` is not read: some forty thousand keys.
const KEYS_MAX: u64 = 4 << 20;

/// Why nothing was seen.
#[derive(Debug, Error)]
pub enum LookError {
    /// The key is not to be seen by that uid.
    #[error("its uid does not see the key: {0}")]
    Key(#[from] KeyError),
    /// The system refused.
    #[error("looking for it: {0}")]
    System(#[from] io::Error),
    /// There is no such thing as that uid sees it, or more than one.
    #[error("{0}")]
    Other(&'static str),
}

/// A key that is being made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requested {
    /// Its type, `user` mostly.
    pub kind: String,
    /// Whose it is, as this user namespace counts: the one who asked.
    pub uid: u32,
    /// Its description.
    pub description: Vec<u8>,
    /// The thread that asked and waits, in the initial pid namespace.
    pub tid: u32,
}

/// The key, if `uid` sees that it is being made under the authority of the key `auth`.
///
/// # Errors
/// [`LookError`].
pub fn look(uid: u32, key: KeyId, auth: KeyId) -> Result<Requested, LookError> {
    let thread = std::thread::Builder::new().name("requested".into()).spawn(move || as_uid(uid, key))?;
    let (about, keys) = thread.join().map_err(|_| LookError::Other("the look failed"))??;
    let tid = waiting(&keys, key, auth)?;
    Ok(Requested { kind: about.kind, uid: about.uid, description: about.description, tid })
}

/// What the kernel tells of the key, and all that the uid sees. The thread ends afterwards, and its uid with it.
fn as_uid(uid: u32, key: KeyId) -> Result<(keyctl::About, String), LookError> {
    let dumpable = prctl::get_dumpable().map_err(io::Error::from)?;
    setfsuid(Uid::from_raw(uid));
    // It says nothing of success; asked for a uid that cannot be, it changes nothing and says what there is.
    let taken = setfsuid(Uid::from_raw(u32::MAX)).as_raw() == uid;
    // The kernel sets it anew for the whole process with any change of a uid.
    prctl::set_dumpable(dumpable).map_err(io::Error::from)?;
    if !taken {
        return Err(LookError::Other("that uid cannot be taken"));
    }
    let about = keyctl::describe(key)?;
    let mut keys = Vec::new();
    File::open("/proc/keys")?.take(KEYS_MAX).read_to_end(&mut keys)?;
    if keys.len() as u64 >= KEYS_MAX {
        return Err(LookError::Other("that uid sees too many keys"));
    }
    Ok((about, String::from_utf8_lossy(&keys).into_owned()))
}

// Flags are I instantiated, R revoked, D dead, Q in quota, U under construction, N negative, i invalidated.

/// The thread that waits for the key, if it is being made under that authority. A description may have line breaks, and so
/// whole lines of its maker's choice: a key that has two lines is a doubt.
fn waiting(keys: &str, key: KeyId, auth: KeyId) -> Result<u32, LookError> {
    let target = line(keys, key)?;
    if !matches!(target.as_bytes(), [b'-', b'-', b'-', _, b'U', b'-', b'-', ..]) {
        return Err(LookError::Other("the key is not being made"));
    }
    let authority = line(keys, auth)?;
    let alive = matches!(authority.as_bytes(), [b'I', b'-', b'-', _, b'-', b'-', b'-', ..]);
    let mut words = authority.split_ascii_whitespace().skip_while(|word| *word != ".request_").skip(1);
    let of = words.next().and_then(|word| word.strip_prefix("key:"));
    let tid = words.next().and_then(|word| word.strip_prefix("pid:")).and_then(|tid| tid.parse().ok());
    match (alive, of, tid) {
        (true, Some(of), Some(tid)) if of == format!("{:x}", key.0) => Ok(tid),
        _ => Err(LookError::Other("that is not the authority to make the key")),
    }
}

/// What follows a key's number in the list.
fn line(keys: &str, key: KeyId) -> Result<&str, LookError> {
    let number = format!("{:08x} ", key.0);
    let mut lines = keys.lines().filter_map(|line| line.strip_prefix(&number));
    match (lines.next(), lines.next()) {
        (Some(line), None) => Ok(line),
        (None, _) => Err(LookError::Other("its uid does not see the key, or the authority to make it")),
        (Some(_), Some(_)) => Err(LookError::Other("the key is listed twice")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: &str = "04088efb I--Q---     1 perm 0b010000  1000  1000 .request_ key:c9668c4 pid:27456 ci:0\n\
                        0c9668c4 ---QU--     3 perm 3f010000  1000  1000 user      pinfold:svc/pin\n\
                        14088efb I--Q---     1 perm 0b010000  1000  1000 .request_ key:c9668c5 pid:27457 ci:7\n\
                        0c9668c5 I--Q---     3   3m 0b010000  1000  1000 user      pinfold:svc/pin: 4\n";
    const KEY: KeyId = KeyId(0x0c96_68c4);
    const AUTH: KeyId = KeyId(0x0408_8efb);

    #[test]
    fn only_what_is_being_made_under_its_own_authority_counts() {
        assert_eq!(waiting(KEYS, KEY, AUTH).unwrap(), 27456);
        for (key, auth, says) in [
            (KEY, KeyId(0x1408_8efb), "not the authority"),
            (KeyId(0x0c96_68c5), KeyId(0x1408_8efb), "not being made"),
            (KEY, KEY, "not the authority"),
            (KEY, KeyId(1), "does not see"),
            (KeyId(1), AUTH, "does not see"),
        ] {
            let error = waiting(KEYS, key, auth).unwrap_err();
            assert!(error.to_string().contains(says), "{key:?} {auth:?}: {error}");
        }
        for flags in ["IR-Q---", "-R-Q---", "I-DQ---", "I--Q--i", "---Q---"] {
            let gone = KEYS.replacen("04088efb I--Q---", &format!("04088efb {flags}"), 1);
            assert!(waiting(&gone, KEY, AUTH).is_err(), "{flags}");
        }
    }

    #[test]
    fn a_description_that_looks_like_a_line_is_a_doubt() {
        let forged = format!(
            "{KEYS}00000001 I--Q---     1 perm 3f3f3f3f  1000  1000 user      x\n04088efb I--Q---     1 perm 0b010000  1000  1000 .request_ key:c9668c4 pid:1 ci:0: 1\n"
        );
        assert!(waiting(&forged, KEY, AUTH).unwrap_err().to_string().contains("twice"));
    }

    #[test]
    fn a_key_of_another_uid_is_not_seen() {
        let error = look(1_990_077, KeyId(1), KeyId(2)).unwrap_err();
        assert!(matches!(error, LookError::Key(KeyError::Missing)), "{error}");
    }
}

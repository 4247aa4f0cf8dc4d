//! Entries in the kernel keyring: this process's own session keyring, and keys in it.
//!
//! Owns the calls of keyctl(2) that pinfold makes, by linux-keyutils where it has them. It decides nothing about what a
//! key is for, and never looks at keys of others.

use linux_keyutils::{Key, KeyError as LibError, KeyPermissions, KeyRing, KeyRingIdentifier, KeySerialId};
use std::io;

/// `KEYCTL_JOIN_SESSION_KEYRING` (keyctl(2)); linux-keyutils has no call for it.
pub(super) const JOIN_SESSION_KEYRING: libc::c_long = 1;
/// `KEYCTL_UPDATE`; the library's call takes a handle of its own.
const UPDATE: libc::c_long = 2;
/// `KEYCTL_CHOWN`.
const CHOWN: libc::c_long = 4;
/// `KEYCTL_DESCRIBE`; the library's cuts the text at a `;` and panics on a long one.
const DESCRIBE: libc::c_long = 6;
/// `KEYCTL_INSTANTIATE`.
const INSTANTIATE: libc::c_long = 12;
/// `KEYCTL_NEGATE`.
const NEGATE: libc::c_long = 13;
/// `KEYCTL_ASSUME_AUTHORITY`.
const ASSUME_AUTHORITY: libc::c_long = 16;
/// `KEY_SPEC_THREAD_KEYRING`.
const THREAD_KEYRING: libc::c_long = -1;
/// `KEYCTL_LINK`.
const LINK: libc::c_long = 8;
/// `KEYCTL_SEARCH`.
const SEARCH: libc::c_long = 10;
/// `KEY_SPEC_USER_KEYRING`.
const USER_KEYRING: libc::c_long = -4;
/// Everything for who possesses the ring, nothing for anybody else, its owner included.
const RING_PERMS: u32 = 0x3f00_0000;
/// The most bytes a key of type `user` holds.
pub const PAYLOAD_MAX: usize = 32_767;
/// The most bytes a description has.
pub const DESCRIPTION_MAX: usize = 4095;

/// A key's serial number. It names the key in every session; whether it can be read is another matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyId(pub i32);

/// What became of a key, told at the moment it was used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// ENOKEY: unlinked, invalidated, or collected some minutes after it was revoked or had expired.
    #[error("the key is not there")]
    Missing,
    /// EKEYREVOKED.
    #[error("the key was revoked")]
    Revoked,
    /// EKEYEXPIRED: its timeout has passed.
    #[error("the key has expired")]
    Expired,
    /// EACCES or EPERM: it is there, and not for this process; also one's own key for the moment between its unlinking
    /// and the kernel's dropping it.
    #[error("the key is not for this process")]
    Denied,
    /// Anything else, a payload larger than the buffer included.
    #[error("the kernel keyring failed: {0}")]
    Other(#[source] io::Error),
}

/// Gives the calling thread a new session keyring without a name, that nobody else can join, search or see
/// (permissions 0x3f000000).
///
/// Only threads and children started afterwards have it (keyrings(7)): call it before the first thread.
///
/// # Errors
/// What keyctl(2) says.
pub fn join_anonymous_session() -> io::Result<()> {
    // SAFETY: KEYCTL_JOIN_SESSION_KEYRING with a null name reads no memory of ours; the other arguments are unused.
    let ring = unsafe {
        libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, std::ptr::null::<libc::c_char>(), 0usize, 0usize, 0usize)
    };
    if ring < 0 {
        return Err(io::Error::last_os_error());
    }
    let ring = i32::try_from(ring).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    set_perm(KeyId(ring), RING_PERMS)
}

/// Adds a key of type `user`, or updates the one of that description, in the session keyring.
///
/// `desc` is at most 4095 bytes; `payload` 1 to [`PAYLOAD_MAX`]. It has the kernel's default permissions until
/// [`set_perm`].
///
/// # Errors
/// What add_key(2) says: EDQUOT for the quota, EINVAL for the sizes.
pub fn add_user_key_to_session(desc: &str, payload: &[u8]) -> io::Result<KeyId> {
    let key = session().and_then(|ring| ring.add_key(desc, payload)).map_err(to_io)?;
    Ok(KeyId(key.get_id().0))
}

/// Sets the permissions (keyctl_setperm(3)): possessor, user, group, other, a byte each from the left.
///
/// # Errors
/// What keyctl(2) says.
pub fn set_perm(id: KeyId, perm: u32) -> io::Result<()> {
    key(id).set_perms(KeyPermissions::from_u32(perm)).map_err(to_io)
}

/// Reads the payload into the front of `buf`, and says how long it is.
///
/// # Errors
/// [`KeyError`] says what became of the key; a payload that does not fit is [`KeyError::Other`] and `buf` unspecified.
pub fn read(id: KeyId, mut buf: &mut [u8]) -> Result<usize, KeyError> {
    let room = buf.len();
    // The kernel returns the payload's length, also when it did not fit.
    match key(id).read(&mut buf) {
        Ok(len) if len <= room => Ok(len),
        Ok(len) => Err(KeyError::Other(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("a payload of {len} bytes where {room} were expected"),
        ))),
        Err(e) => Err(e.into()),
    }
}

/// Reads the payload of the key of type `user` and this description in the caller's user keyring into the front of `buf`,
/// and says how long it is. The thread is to end soon: its own keyring has a link to the user's from now on, since a key
/// is read only by who possesses it.
///
/// # Errors
/// As [`read`]; a description with a NUL is [`KeyError::Missing`].
pub fn read_user_key(desc: &str, buf: &mut [u8]) -> Result<usize, KeyError> {
    let desc = std::ffi::CString::new(desc).map_err(|_| KeyError::Missing)?;
    // SAFETY: two ring numbers; no memory of ours.
    let linked = unsafe { libc::syscall(libc::SYS_keyctl, LINK, USER_KEYRING, THREAD_KEYRING, 0usize, 0usize) };
    if linked < 0 {
        return Err(KeyError::Other(io::Error::last_os_error()));
    }
    // SAFETY: both strings end with NUL and live through the call; nothing is linked to the ring 0.
    let found =
        unsafe { libc::syscall(libc::SYS_keyctl, SEARCH, THREAD_KEYRING, c"user".as_ptr(), desc.as_ptr(), 0usize) };
    match i32::try_from(found) {
        Ok(id) if id > 0 => read(KeyId(id), buf),
        _ => Err(match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::ENOKEY) => KeyError::Missing,
            error if error.raw_os_error() == Some(libc::EKEYREVOKED) => KeyError::Revoked,
            error if error.raw_os_error() == Some(libc::EKEYEXPIRED) => KeyError::Expired,
            error if error.raw_os_error() == Some(libc::EACCES) => KeyError::Denied,
            error => KeyError::Other(error),
        }),
    }
}

/// Revokes it: every later use, by anybody, is EKEYREVOKED, until the kernel collects it and it is ENOKEY.
///
/// # Errors
/// What keyctl(2) says.
pub fn revoke(id: KeyId) -> io::Result<()> {
    key(id).revoke().map_err(to_io)
}

/// Lets it expire in so many seconds; 0 clears the timeout.
///
/// # Errors
/// What keyctl(2) says.
pub fn set_timeout(id: KeyId, seconds: u32) -> io::Result<()> {
    key(id).set_timeout(seconds as usize).map_err(to_io)
}

/// Takes it out of the session keyring; without another link it is gone.
///
/// # Errors
/// What keyctl(2) says; ENOENT or ENOKEY if it is not linked there.
pub fn unlink_from_session(id: KeyId) -> io::Result<()> {
    session().and_then(|ring| ring.unlink_key(key(id))).map_err(to_io)
}

/// What the kernel tells of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct About {
    /// Its type, `user` or `keyring` mostly.
    pub kind: String,
    /// Its owner, as this user namespace counts.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Its permissions.
    pub perm: u32,
    /// Its description, whole; others than pinfold may have put any bytes there.
    pub description: Vec<u8>,
}

/// What a key is, of a key this process may view.
///
/// # Errors
/// [`KeyError`] says what became of it.
pub fn describe(id: KeyId) -> Result<About, KeyError> {
    // Three numbers and a type of 31 bytes at most come before the description.
    let mut text = vec![0u8; DESCRIPTION_MAX + 128];
    // SAFETY: KEYCTL_DESCRIBE writes at most as many bytes as it is told there are at that address; `text` has them, and
    // nobody else has it.
    let len = unsafe { libc::syscall(libc::SYS_keyctl, DESCRIBE, id.0, text.as_mut_ptr(), text.len()) };
    let len = usize::try_from(len).map_err(|_| KeyError::of(io::Error::last_os_error()))?;
    if len > text.len() {
        return Err(KeyError::Other(io::ErrorKind::InvalidData.into()));
    }
    text.truncate(len.saturating_sub(1));
    About::parse(&text).ok_or_else(|| KeyError::Other(io::ErrorKind::InvalidData.into()))
}

impl About {
    /// `type;uid;gid;perm;description`: the last may have semicolons of its own.
    fn parse(text: &[u8]) -> Option<Self> {
        let mut parts = text.splitn(5, |b| *b == b';');
        let mut word = || std::str::from_utf8(parts.next()?).ok();
        let (kind, uid, gid, perm) = (word()?.to_owned(), word()?, word()?, word()?);
        Some(About {
            kind,
            uid: uid.parse().ok()?,
            gid: gid.parse().ok()?,
            perm: u32::from_str_radix(perm, 16).ok()?,
            description: parts.next()?.to_vec(),
        })
    }
}

/// Replaces the payload, 1 to [`PAYLOAD_MAX`] bytes; serial, permissions and links stay. A timeout does not: set it again.
///
/// # Errors
/// [`KeyError`] says what became of the key; [`KeyError::Other`] with EDQUOT for the owner's quota.
pub fn update(id: KeyId, payload: &[u8]) -> Result<(), KeyError> {
    // SAFETY: KEYCTL_UPDATE reads `payload.len()` bytes at that address, which are borrowed for the length of the call.
    let done = unsafe { libc::syscall(libc::SYS_keyctl, UPDATE, id.0, payload.as_ptr(), payload.len()) };
    if done < 0 { Err(KeyError::of(io::Error::last_os_error())) } else { Ok(()) }
}

/// Gives the key to a group; its owner stays.
///
/// # Errors
/// What keyctl(2) says; EACCES for a group that is not one's own, without CAP_SYS_ADMIN.
pub fn set_group(id: KeyId, gid: u32) -> io::Result<()> {
    // SAFETY: KEYCTL_CHOWN takes numbers only; a uid of -1 leaves the owner.
    let done = unsafe { libc::syscall(libc::SYS_keyctl, CHOWN, id.0, u32::MAX, gid) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Takes the authority to make a key that somebody waits for: the kernel gave it to this process's session keyring. It is a
/// key itself, which is given back.
///
/// # Errors
/// What keyctl(2) says; ENOKEY if it is not ours to make.
pub fn assume_authority(id: KeyId) -> io::Result<KeyId> {
    // SAFETY: KEYCTL_ASSUME_AUTHORITY takes a number.
    let auth = unsafe { libc::syscall(libc::SYS_keyctl, ASSUME_AUTHORITY, id.0) };
    if auth < 0 {
        return Err(io::Error::last_os_error());
    }
    i32::try_from(auth).map(KeyId).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// Fills a key that somebody waits for, 1 to [`PAYLOAD_MAX`] bytes. It needs the authority.
///
/// # Errors
/// What keyctl(2) says.
pub fn instantiate(id: KeyId, payload: &[u8]) -> io::Result<()> {
    // SAFETY: KEYCTL_INSTANTIATE reads `payload.len()` bytes at that address, which are borrowed for the call; ring 0 links
    // it nowhere besides.
    let done = unsafe { libc::syscall(libc::SYS_keyctl, INSTANTIATE, id.0, payload.as_ptr(), payload.len(), 0) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Refuses a key that somebody waits for: it is ENOKEY for so many seconds. It needs the authority.
///
/// # Errors
/// What keyctl(2) says.
pub fn negate(id: KeyId, seconds: u32) -> io::Result<()> {
    // SAFETY: KEYCTL_NEGATE takes numbers.
    let done = unsafe { libc::syscall(libc::SYS_keyctl, NEGATE, id.0, seconds, 0) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Adds a key of type `user` to the keyring of the calling thread, which ends with it: without another link the key does
/// too.
///
/// # Errors
/// As [`add_user_key_to_session`].
pub(super) fn add_user_key_to_thread(desc: &std::ffi::CStr, payload: &[u8]) -> io::Result<KeyId> {
    // SAFETY: add_key reads two strings that end in NUL and `payload.len()` bytes, all borrowed for the length of the call.
    let key = unsafe {
        libc::syscall(
            libc::SYS_add_key,
            c"user".as_ptr(),
            desc.as_ptr(),
            payload.as_ptr(),
            payload.len(),
            THREAD_KEYRING,
        )
    };
    if key < 0 {
        return Err(io::Error::last_os_error());
    }
    i32::try_from(key).map(KeyId).map_err(|_| io::ErrorKind::InvalidData.into())
}

impl KeyError {
    fn of(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::ENOKEY) => KeyError::Missing,
            Some(libc::EKEYREVOKED) => KeyError::Revoked,
            Some(libc::EKEYEXPIRED) => KeyError::Expired,
            Some(libc::EACCES | libc::EPERM) => KeyError::Denied,
            _ => KeyError::Other(error),
        }
    }
}

fn key(id: KeyId) -> Key {
    Key::from_id(KeySerialId(id.0))
}

/// The session keyring of the calling thread.
fn session() -> Result<KeyRing, LibError> {
    KeyRing::from_special_id(KeyRingIdentifier::Session, false)
}

/// The errno that linux-keyutils made a word of.
fn errno(e: LibError) -> Option<i32> {
    Some(match e {
        LibError::AccessDenied => libc::EACCES,
        LibError::PermissionDenied => libc::EPERM,
        LibError::QuotaExceeded => libc::EDQUOT,
        LibError::BadAddress => libc::EFAULT,
        LibError::InvalidArguments => libc::EINVAL,
        LibError::KeyExpired => libc::EKEYEXPIRED,
        LibError::KeyRevoked => libc::EKEYREVOKED,
        LibError::KeyRejected => libc::EKEYREJECTED,
        LibError::KeyDoesNotExist => libc::ENOKEY,
        LibError::OutOfMemory => libc::ENOMEM,
        LibError::OperationNotSupported => libc::EOPNOTSUPP,
        LibError::MissingFileOrDirectory => libc::ENOENT,
        LibError::Unknown(errno) => errno,
        LibError::KeyringDoesNotExist
        | LibError::InvalidDescription
        | LibError::InvalidIdentifier
        | LibError::WriteError => return None,
    })
}

fn to_io(e: LibError) -> io::Error {
    errno(e).map_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, e.to_string()), io::Error::from_raw_os_error)
}

impl From<LibError> for KeyError {
    fn from(e: LibError) -> Self {
        match e {
            LibError::KeyDoesNotExist => KeyError::Missing,
            LibError::KeyRevoked => KeyError::Revoked,
            LibError::KeyExpired => KeyError::Expired,
            LibError::AccessDenied | LibError::PermissionDenied => KeyError::Denied,
            other => KeyError::Other(to_io(other)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    /// The permissions of a scope's entry (design, section 5).
    const ENTRY: u32 = 0x3f05_0000;

    /// A thread with a session keyring of its own, so that tests do not see each other's keys.
    fn in_own_session<T: Send>(f: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|s| {
            s.spawn(|| {
                join_anonymous_session().unwrap();
                f()
            })
            .join()
            .unwrap()
        })
    }

    fn entry() -> KeyId {
        let id = add_user_key_to_session("pinfold:test:entry", b"0123456789abcdef").unwrap();
        set_perm(id, ENTRY).unwrap();
        id
    }

    #[test]
    fn an_entry_is_read_by_its_possessor_and_its_length_checked() {
        in_own_session(|| {
            let id = entry();
            let mut buf = [0u8; 32];
            assert_eq!(read(id, &mut buf).unwrap(), 16);
            assert_eq!(&buf[..16], b"0123456789abcdef");
            assert!(matches!(read(id, &mut [0u8; 15]), Err(KeyError::Other(_))));
            assert_eq!(add_user_key_to_session("empty", b"").unwrap_err().raw_os_error(), Some(libc::EINVAL));
        });
    }

    #[test]
    fn another_session_of_root_may_revoke_it_but_not_read_it_nor_change_who_may() {
        in_own_session(|| {
            let id = entry();
            in_own_session(|| {
                assert!(matches!(read(id, &mut [0u8; 32]), Err(KeyError::Denied)));
                assert_eq!(set_perm(id, 0x3f3f_3f3f).unwrap_err().raw_os_error(), Some(libc::EACCES));
                revoke(id).unwrap();
            });
            assert!(matches!(read(id, &mut [0u8; 32]), Err(KeyError::Revoked)));
        });
    }

    #[test]
    fn a_description_is_told_whole_and_an_update_keeps_the_serial() {
        in_own_session(|| {
            let id = add_user_key_to_session("a;b; c", b"old").unwrap();
            set_perm(id, ENTRY).unwrap();
            let about = describe(id).unwrap();
            assert_eq!(
                (about.kind.as_str(), about.perm, about.description.as_slice()),
                ("user", ENTRY, &b"a;b; c"[..])
            );
            update(id, b"newer").unwrap();
            let mut buf = [0u8; 8];
            assert_eq!(read(id, &mut buf).unwrap(), 5);
            assert_eq!(&buf[..5], b"newer");
            let long = "x".repeat(DESCRIPTION_MAX);
            let id = add_user_key_to_session(&long, b"x").unwrap();
            assert_eq!(describe(id).unwrap().description, long.as_bytes());
            revoke(id).unwrap();
            assert!(matches!(describe(id), Err(KeyError::Revoked)));
            assert!(matches!(update(id, b"x"), Err(KeyError::Revoked)));
        });
    }

    #[test]
    fn what_became_of_a_key_is_told_apart() {
        in_own_session(|| {
            let (revoked, expired, unlinked) = (entry(), add("b"), add("c"));
            revoke(revoked).unwrap();
            assert!(matches!(read(revoked, &mut [0u8; 32]), Err(KeyError::Revoked)));
            unlink_from_session(unlinked).unwrap();
            assert!(matches!(read(unlinked, &mut [0u8; 32]), Err(KeyError::Missing | KeyError::Denied)));
            until(|| matches!(read(unlinked, &mut [0u8; 32]), Err(KeyError::Missing)));
            set_timeout(expired, 1).unwrap();
            until(|| matches!(read(expired, &mut [0u8; 32]), Err(KeyError::Expired)));
            assert!(unlink_from_session(unlinked).is_err());
        });
        /// The kernel tells nobody when a key is gone: ask until it is.
        fn until(happened: impl Fn() -> bool) {
            let end = Instant::now() + Duration::from_secs(10);
            while !happened() {
                assert!(Instant::now() < end, "not after ten seconds");
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        fn add(desc: &str) -> KeyId {
            add_user_key_to_session(desc, b"x").unwrap()
        }
    }
}

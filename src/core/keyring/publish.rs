//! Secrets as keys in the user keyring of whom they are for.
//!
//! Owns one published key: how it is made, updated, looked for and taken back. Who gets which is decided elsewhere: a
//! Grant is needed for every byte that goes in, and it must be one for reading.

use crate::access::{Grant, Operation};
use crate::model::FileId;
use crate::secret::Secret;
use crate::sys::keyctl::{self, KeyError, KeyId};
use crate::sys::keyring_child::{self, ErrandError, NewKey};
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

/// Who possesses it (through `@u`) may see, read and find it; its owner, root, everything but read it; others nothing.
const POSSESSOR_READS: u32 = 0x0b3d_0000;
/// The owner too: where he is the one it is for.
const OWNER_READS: u32 = 0x0002_0000;
/// The same and its group too: a service with a session keyring of its own does not possess what is in its `@u`.
const GROUP_READS: u32 = 0x0000_0b00;

/// Why a key was not published, updated or found.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The grant is not one for reading.
    #[error("not granted")]
    NotGranted,
    /// Keys have 1 to 32767 bytes.
    #[error("a key has 1 to 32767 bytes; the secret has {0}")]
    Size(usize),
    /// The description has a NUL; it was checked before.
    #[error("the description has a NUL")]
    Description,
    /// It is not what was published any more: gone, revoked, expired, or another key has the number.
    #[error("the key is not there any more")]
    Gone,
    /// The uid's keyring could not be reached.
    #[error(transparent)]
    Errand(#[from] ErrandError),
    /// The kernel refused.
    #[error("{0}")]
    Kernel(String),
}

/// A hold on another user namespace.
#[derive(Debug)]
pub struct Namespace {
    fd: OwnedFd,
    id: FileId,
}

impl Namespace {
    /// One more hold on the user namespace behind a descriptor.
    ///
    /// # Errors
    /// If there is no descriptor to be had.
    pub fn of(held: BorrowedFd<'_>) -> io::Result<Self> {
        let file = File::from(held.try_clone_to_owned()?);
        let found = file.metadata()?;
        Ok(Namespace { fd: file.into(), id: FileId { dev: found.dev(), ino: found.ino() } })
    }
}

/// Whose user keyring: a uid in a user namespace.
#[derive(Debug, Clone)]
pub struct KeyringOwner {
    /// `None` for the daemon's own.
    pub namespace: Option<Arc<Namespace>>,
    /// The uid, as that namespace counts.
    pub uid: u32,
}

impl KeyringOwner {
    /// Whether it is that of root itself.
    fn is_root(&self) -> bool {
        self.uid == 0 && self.namespace.is_none()
    }

    /// Whether both are one keyring.
    pub fn same(&self, other: &KeyringOwner) -> bool {
        let id = |place: &KeyringOwner| place.namespace.as_ref().map(|n| n.id);
        self.uid == other.uid && id(self) == id(other)
    }

    fn errand(&self) -> keyring_child::UserKeyring<'_> {
        keyring_child::UserKeyring { namespace: self.namespace.as_ref().map(|n| n.fd.as_fd()), uid: self.uid }
    }
}

/// A key to be published.
#[derive(Debug)]
pub struct Order<'a> {
    /// Where.
    pub place: &'a KeyringOwner,
    /// Its description, 1 to 4095 bytes without NUL.
    pub description: &'a str,
    /// The group that may read it, as this machine counts; it must be the uid's alone.
    pub group: Option<u32>,
    /// Seconds after which it expires.
    pub timeout: Option<u32>,
}

/// A published key. Dropping it changes nothing: what is published stays until it is withdrawn.
#[derive(Debug, Clone)]
pub struct PublishedKey {
    key: KeyId,
    place: KeyringOwner,
    description: CString,
}

impl PublishedKey {
    /// Makes the key and puts it into the uid's keyring, where it displaces one of that description.
    ///
    /// # Errors
    /// [`PublishError`]; then there is no key.
    pub fn publish(grant: &Grant, order: &Order<'_>, content: &Secret) -> Result<Self, PublishError> {
        check(grant, content)?;
        let description = CString::new(order.description).map_err(|_| PublishError::Description)?;
        let new = NewKey {
            description: &description,
            payload: content.expose(),
            gid: order.group,
            perm: POSSESSOR_READS
                | if order.group.is_some() { GROUP_READS } else { 0 }
                | if order.place.is_root() { OWNER_READS } else { 0 },
            timeout: order.timeout,
        };
        let key = keyring_child::give(order.place.errand(), &new)?;
        Ok(PublishedKey { key, place: order.place.clone(), description })
    }

    /// Replaces the content; the serial stays.
    ///
    /// # Errors
    /// [`PublishError::Gone`] if it must be published anew.
    pub fn update(&self, grant: &Grant, content: &Secret, timeout: Option<u32>) -> Result<(), PublishError> {
        check(grant, content)?;
        self.is_ours()?;
        keyctl::update(self.key, content.expose()).map_err(of_kernel)?;
        // The update took the timeout away (keyctl_update(3)).
        self.set_timeout(timeout)
    }

    /// Sets or clears the time after which it expires, in seconds.
    ///
    /// # Errors
    /// [`PublishError::Kernel`].
    pub fn set_timeout(&self, timeout: Option<u32>) -> Result<(), PublishError> {
        keyctl::set_timeout(self.key, timeout.unwrap_or(0)).map_err(|e| PublishError::Kernel(e.to_string()))
    }

    /// Makes it unreadable at once; it stays where it is linked until it is withdrawn or the kernel collects it.
    pub fn revoke(&self) {
        if self.is_ours().is_ok() {
            // It may be gone between the look and the call; that is what is wanted.
            let _ = keyctl::revoke(self.key);
        }
    }

    /// Makes it unreadable at once, and takes it out of the uid's keyring.
    pub fn withdraw(self) {
        self.revoke();
        // A revoked key that stays linked says EKEYREVOKED until the kernel collects it. One that is gone is not there.
        let _ = keyring_child::take(self.place.errand(), &[self.key]);
    }

    /// The key's serial number.
    pub fn serial(&self) -> i32 {
        self.key.0
    }

    /// Whose keyring it is in.
    pub fn place(&self) -> &KeyringOwner {
        &self.place
    }

    /// Serial numbers are given again: the key must be the one that was made.
    fn is_ours(&self) -> Result<(), PublishError> {
        match keyctl::describe(self.key) {
            Ok(about) if about.uid == 0 && about.description == self.description.as_bytes() => Ok(()),
            Ok(_) => Err(PublishError::Gone),
            Err(error) => Err(of_kernel(error)),
        }
    }
}

/// For each of `keys`, all in one place: whether a search by the uid finds it, and not another or none.
///
/// # Errors
/// [`PublishError::Errand`] if nobody could look.
pub fn found(place: &KeyringOwner, keys: &[&PublishedKey]) -> Result<Vec<bool>, PublishError> {
    let descriptions: Vec<_> = keys.iter().map(|k| k.description.as_c_str()).collect();
    let serials = keyring_child::look(place.errand(), &descriptions)?;
    Ok(serials.into_iter().zip(keys).map(|(found, key)| found == Some(key.key)).collect())
}

/// Takes back a key that a former daemon published and did not take back. Whether it was one: by its owner, its type and
/// its permissions, which nobody else gives to a key.
pub fn take_leftover(serial: i32) -> bool {
    let key = KeyId(serial);
    let is_like_ours = |perm: u32| perm & !(GROUP_READS | OWNER_READS) == POSSESSOR_READS;
    let is_ours = keyctl::describe(key).is_ok_and(|a| a.kind == "user" && a.uid == 0 && is_like_ours(a.perm));
    is_ours && keyctl::revoke(key).is_ok()
}

fn check(grant: &Grant, content: &Secret) -> Result<(), PublishError> {
    if grant.operation() != Operation::Read {
        return Err(PublishError::NotGranted);
    }
    if content.is_empty() || content.len() > keyctl::PAYLOAD_MAX {
        return Err(PublishError::Size(content.len()));
    }
    Ok(())
}

fn of_kernel(error: KeyError) -> PublishError {
    match error {
        KeyError::Missing | KeyError::Revoked | KeyError::Expired | KeyError::Denied => PublishError::Gone,
        KeyError::Other(e) => PublishError::Kernel(e.to_string()),
    }
}

//! The tree as a filesystem: handles, dirty copies, what is committed when, and the files of pinfold's own.
//!
//! Owns nothing that lasts: every decision and every byte that is kept is the vault's. Knows nothing of FUSE or errno;
//! `fs::fuse` is a thin adapter over it, and the tests drive it unmounted.

mod directory;
mod dirty;
pub mod fuse;
mod handle;
mod nodes;
mod orphan;
mod quota;
pub mod register;
mod replay;
mod status_files;
mod turns;
mod underway;
mod wait;

pub use directory::{DirHandle, Snapshot};
pub use handle::ReadHandle;
pub use nodes::Node;
pub use replay::Asked;
pub use status_files::OWN_NAME;

use crate::lock::{Mutex, rank};
use crate::model::{Ino, Kind, Name, PathError};
use crate::vault::{Attr, Caller, Look, NewNode, Opened as VaultOpened, Rename, SetAttr, Vault, VaultError};
use directory::Directories;
use dirty::Dirties;
use handle::Handles;
use nodes::Want;
use orphan::Orphans;
use quota::Held;
use register::Register;
use status_files::Own;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use underway::Underway;

/// Why an operation of the filesystem failed.
#[derive(Debug, Error)]
pub enum FsError {
    /// The vault said so.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// A handle of a daemon that is gone.
    #[error("the handle belongs to a daemon that is gone")]
    Stale,
    /// The handle was not opened for that.
    #[error("the handle was not opened for that")]
    WrongHandle,
    /// No flag or mode that is kept here.
    #[error("not supported")]
    Unsupported,
}

impl From<PathError> for FsError {
    fn from(error: PathError) -> Self {
        FsError::Vault(error.into())
    }
}

impl From<crate::meter::Exhausted> for FsError {
    fn from(exhausted: crate::meter::Exhausted) -> Self {
        FsError::Vault(exhausted.into())
    }
}

impl From<crate::sys::arena::ArenaFull> for FsError {
    fn from(full: crate::sys::arena::ArenaFull) -> Self {
        FsError::Vault(full.into())
    }
}

/// Attributes, and whether they may be kept: not while somebody writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// The attributes.
    pub attr: Attr,
    /// Whether the kernel may cache them.
    pub lasting: bool,
}

/// How a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OpenMode {
    /// For reading.
    pub read: bool,
    /// For writing.
    pub write: bool,
    /// Emptied first.
    pub truncate: bool,
}

/// A handle the kernel was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opened {
    /// On one version, whole.
    Reader(u64),
    /// On the dirty copy.
    Writer(u64),
}

impl Opened {
    /// Its number.
    pub fn number(self) -> u64 {
        match self {
            Opened::Reader(n) | Opened::Writer(n) => n,
        }
    }
}

/// The filesystem.
pub struct Fs {
    vault: Arc<Vault>,
    handles: Handles,
    directories: Directories,
    dirties: Dirties,
    held: Arc<Held>,
    orphans: Orphans,
    own: Own,
    /// Held while a name is taken away, so that whose name it is does not change meanwhile. Lock order: before a copy's.
    names: Mutex<(), { rank::NAMES }>,
    underway: Underway,
}

impl Fs {
    /// Over this vault, with what is open according to the daemon before this one, or an empty register.
    pub fn new(vault: Arc<Vault>, register: Register) -> Self {
        let held = Held::new(vault.meter());
        Fs {
            vault,
            handles: Handles::new(Arc::clone(&held), register),
            directories: Directories::default(),
            dirties: Dirties::default(),
            held,
            orphans: Orphans::default(),
            own: Own::default(),
            names: Mutex::default(),
            underway: Underway::default(),
        }
    }

    /// What is open, for the daemon after this one.
    pub fn register(&self) -> &Register {
        self.handles.register()
    }

    /// Lets nobody begin a change any more, and waits until what was begun is noted: for a daemon that the next one follows.
    /// Whether it is.
    pub fn freeze(&self, within: Duration) -> bool {
        self.underway.close(within)
    }

    /// As if this were the next one.
    #[cfg(test)]
    fn go_on(&self) {
        self.underway.open();
    }

    /// The vault below.
    pub fn vault(&self) -> &Arc<Vault> {
        &self.vault
    }

    /// The files of pinfold's own.
    pub(crate) fn own(&self) -> &Own {
        &self.own
    }

    /// Handles open on secrets.
    pub fn open_handles(&self) -> u64 {
        self.handles.count()
    }

    /// LOOKUP. The answer does not depend on who asks: the kernel shares it.
    ///
    /// # Errors
    /// [`FsError`].
    pub fn lookup(&self, parent: Ino, name: &[u8]) -> Result<Seen, FsError> {
        if let Some(attr) = self.own.lookup(parent, name) {
            return Ok(Seen { attr, lasting: true });
        }
        let name = Name::parse(name)?;
        let attr = self.vault.lookup(parent, name.as_str())?;
        Ok(self.seen(attr, 0))
    }

    /// GETATTR. `tid` is the asking thread's: a writer sees the size of what it has written so far.
    ///
    /// # Errors
    /// [`FsError`].
    pub fn attr(&self, ino: Ino, tid: u32) -> Result<Seen, FsError> {
        if let Some(attr) = self.own.attr(ino) {
            return Ok(Seen { attr, lasting: true });
        }
        match self.vault.attr(ino) {
            Ok(attr) => Ok(self.seen(attr, tid)),
            Err(VaultError::Locked) if ino == Ino::ROOT => {
                Ok(Seen { attr: status_files::locked_root(), lasting: false })
            }
            Err(VaultError::NotFound) => match self.orphans.get(ino) {
                Some(attr) => Ok(self.seen(attr, tid)),
                None => Err(VaultError::NotFound.into()),
            },
            Err(error) => Err(error.into()),
        }
    }

    fn seen(&self, mut attr: Attr, tid: u32) -> Seen {
        match self.dirties.seen_by(attr.ino, tid, || self.vault.current_version(attr.ino).unwrap_or(0) == 0) {
            None => Seen { attr, lasting: attr.nlink > 0 },
            Some(view) => {
                if let Some((size, mtime)) = view {
                    attr.size = size;
                    attr.mtime = mtime.unwrap_or(attr.mtime);
                }
                Seen { attr, lasting: false }
            }
        }
    }

    /// READLINK.
    ///
    /// # Errors
    /// [`FsError`].
    pub fn read_link(&self, caller: &impl Caller, ino: Ino) -> Result<String, FsError> {
        self.vault.may_look(caller, ino, Look::Target, || true)?;
        Ok(self.vault.read_link(ino)?)
    }

    /// MKDIR, SYMLINK, and MKNOD of a regular file.
    ///
    /// # Errors
    /// [`FsError`].
    pub fn make(&self, caller: &impl Caller, new: NewNode<'_>) -> Result<Attr, FsError> {
        self.own.refuse_name(new.parent, new.name)?;
        Ok(self.vault.create(caller, new)?)
    }

    /// CREATE: makes the file and opens it for writing, at once and whatever its mode.
    ///
    /// # Errors
    /// [`FsError`].
    pub fn create(
        &self,
        caller: &impl Caller,
        tid: u32,
        new: NewNode<'_>,
        mode: OpenMode,
    ) -> Result<(Attr, Opened), FsError> {
        let attr = self.make(caller, NewNode { kind: Kind::File, ..new })?;
        Ok((attr, self.open_made(caller, tid, attr.ino, mode)?))
    }

    /// The descriptor that comes with a new file.
    fn open_made(&self, caller: &impl Caller, tid: u32, ino: Ino, mode: OpenMode) -> Result<Opened, FsError> {
        let node = self.node(ino, tid);
        if !mode.write {
            let empty = VaultOpened::own(crate::secret::Secret::zeroed(0)?);
            return self.handles.keep(self.handles.seat(node, tid, Want::Show(None))?, empty, caller.uid());
        }
        let right = self.vault.open_new(caller, ino)?;
        let seat = self.handles.seat(node, tid, if mode.read { Want::Plain } else { Want::Write })?;
        self.open_writer(caller, (tid, seat), right, mode.read.then_some(None), false)
    }

    /// UNLINK. Which node had the name.
    ///
    /// # Errors
    /// [`FsError`].
    pub fn unlink(&self, caller: &impl Caller, parent: Ino, name: &Name) -> Result<Ino, FsError> {
        self.own.refuse_name(parent, name)?;
        let _names = self.names.lock();
        let attr = match self.vault.lookup(parent, name.as_str()) {
            Ok(attr) => self.keep_open(attr.ino, || self.vault.unlink(caller, parent, name))?,
            Err(_) => self.vault.unlink(caller, parent, name)?,
        };
        self.orphaned(attr);
        Ok(attr.ino)
    }

    /// RMDIR. Which node had the name.
    ///
    /// # Errors
    /// [`FsError`].
    pub fn rmdir(&self, caller: &impl Caller, parent: Ino, name: &Name) -> Result<Ino, FsError> {
        self.own.refuse_name(parent, name)?;
        Ok(self.vault.rmdir(caller, parent, name)?)
    }

    /// RENAME.
    ///
    /// # Errors
    /// [`FsError`].
    pub fn rename(&self, caller: &impl Caller, rename: Rename<'_>) -> Result<(), FsError> {
        self.own.refuse_name(rename.parent, rename.name)?;
        self.own.refuse_name(rename.new_parent, rename.new_name)?;
        let _names = self.names.lock();
        let noted = |result: Result<(), VaultError>| {
            if let Err(error @ VaultError::Invalid(_)) = &result {
                let path = self.vault.path_of(rename.new_parent, Some(rename.new_name.as_str()));
                self.own.note_error(caller.uid().0, &path, error);
            }
            result
        };
        let Ok(replaced) = self.vault.lookup(rename.new_parent, rename.new_name.as_str()) else {
            return Ok(noted(self.vault.rename(caller, rename))?);
        };
        self.keep_open(replaced.ino, || noted(self.vault.rename(caller, rename)))?;
        if self.vault.attr(replaced.ino).is_err() {
            self.orphaned(replaced);
        }
        Ok(())
    }

    fn orphaned(&self, attr: Attr) {
        self.orphans.add(attr, || {
            let mut held = self.handles.inodes();
            held.extend(self.dirties.inodes());
            held
        });
    }

    /// SETATTR but for the size.
    ///
    /// # Errors
    /// [`FsError`].
    pub fn set_attr(&self, caller: &impl Caller, tid: u32, ino: Ino, set: SetAttr) -> Result<Seen, FsError> {
        self.own.refuse(ino)?;
        let attr = match self.vault.set_attr(caller, ino, set) {
            Err(VaultError::NotFound) => self.orphans.get(ino).ok_or(VaultError::NotFound)?,
            Err(error @ VaultError::Invalid(_)) => {
                self.own.note_error(caller.uid().0, &self.vault.path_of(ino, None), &error);
                return Err(error.into());
            }
            other => other?,
        };
        if set.mtime.is_some() {
            self.dirties.mtime_was_set(ino);
        }
        if set.mode.is_some() {
            self.dirties.mode_was_set(ino, caller.uid());
        }
        Ok(self.seen(attr, tid))
    }

    /// FSYNCDIR, and what lies behind fsync of anything.
    ///
    /// # Errors
    /// [`FsError`].
    pub fn sync(&self) -> Result<(), FsError> {
        Ok(self.vault.sync()?)
    }

    /// The store was locked: no handle shows anything any more, and what was not committed is gone. The kernel's numbers of what it has
    /// pages of.
    pub fn forget_all(&self) -> Vec<Node> {
        let (writers, lost) = self.dirties.clear();
        self.handles.writers_released(writers);
        for (who, path) in lost {
            let reason = "the store was locked before it was committed";
            self.vault.record_refusal(crate::audit::Operation::Commit, &path, &who, reason);
        }
        self.orphans.clear();
        self.directories.clear();
        self.handles.clear()
    }
}

/// Extended attributes: the vault's, with pinfold's own files left alone.
impl Fs {
    /// GETXATTR. `asks` says whether it is the caller who asks, and not the kernel before it decides something of him.
    ///
    /// # Errors
    /// [`FsError`]; a refusal is in the log.
    pub fn get_xattr(
        &self,
        caller: &impl Caller,
        ino: Ino,
        name: &str,
        asks: impl FnOnce() -> bool,
    ) -> Result<Vec<u8>, FsError> {
        if self.own.attr(ino).is_some() {
            return Err(VaultError::NoAttribute.into());
        }
        let look = || self.vault.may_look(caller, ino, Look::Attribute(name), asks);
        match look().and_then(|()| self.vault.get_xattr(ino, name)) {
            // The kernel asks for the root's ACL at every walk; while locked there is none. Of another node it would
            // remember that there is none after the unlock.
            Err(VaultError::Locked) if ino == Ino::ROOT => Err(VaultError::NoAttribute.into()),
            Err(VaultError::NotFound) => Err(VaultError::NoAttribute.into()),
            other => Ok(other?),
        }
    }

    /// LISTXATTR.
    ///
    /// # Errors
    /// [`FsError`].
    pub fn list_xattr(&self, caller: &impl Caller, ino: Ino) -> Result<Vec<String>, FsError> {
        if self.own.attr(ino).is_some() {
            return Ok(Vec::new());
        }
        self.vault.may_look(caller, ino, Look::Attributes, || true)?;
        Ok(self.vault.list_xattr(ino)?)
    }

    /// SETXATTR.
    ///
    /// # Errors
    /// [`FsError`].
    pub fn set_xattr(
        &self,
        caller: &impl Caller,
        ino: Ino,
        name: &str,
        value: &[u8],
        mode: crate::vault::XattrMode,
    ) -> Result<(), FsError> {
        self.own.refuse(ino)?;
        self.vault.set_xattr(caller, ino, name, value, mode)?;
        self.list_was_set(caller, ino, name);
        Ok(())
    }

    /// REMOVEXATTR.
    ///
    /// # Errors
    /// [`FsError`].
    pub fn remove_xattr(&self, caller: &impl Caller, ino: Ino, name: &str) -> Result<(), FsError> {
        self.own.refuse(ino)?;
        self.vault.remove_xattr(caller, ino, name)?;
        self.list_was_set(caller, ino, name);
        Ok(())
    }

    fn list_was_set(&self, caller: &impl Caller, ino: Ino, name: &str) {
        if name.starts_with("system.") {
            self.dirties.mode_was_set(ino, caller.uid());
        }
    }
}

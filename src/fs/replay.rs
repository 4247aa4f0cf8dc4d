//! Requests that are sent again: what the daemon before this one did and could not answer any more is not done twice.
//!
//! Owns the order: note in the [register](super::register) what it is about to be done to, do it, answer; a commit is noted when it is on the
//! disk. A daemon that leaves the tree to the next one lets what it [has begun](super::underway) come to an end. What was noted is believed as far
//! as the tree agrees: as long as a request is not answered the kernel lets nobody else change that name, or that file's attributes, through the
//! mount. What is changed past it, by the control socket, is no outcome of a request: an entry made there has another owner, or is the caller's own.

use super::handle::is_writer;
use super::{Fs, FsError, OpenMode, Opened};
use crate::model::{Ino, Name};
use crate::vault::{Attr, Caller, NewNode, Rename, VaultError, XattrMode};

/// Noted where a name was free, and was about to be taken by what the request makes.
const TO_BE_MADE: Ino = Ino(u64::MAX);

/// A request, by the number the kernel gave it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// The same each time it is sent; never given twice on a connection.
    pub number: u64,
    /// Whether another daemon had it before.
    pub again: bool,
}

impl Fs {
    /// [`Fs::make`], once.
    ///
    /// # Errors
    /// [`FsError`].
    pub fn make_once(&self, asked: Asked, caller: &impl Caller, new: NewNode<'_>) -> Result<Attr, FsError> {
        let _going = self.underway.begin();
        if let Some(attr) = self.was_made(asked, caller, new) {
            return Ok(attr);
        }
        self.about_to_make(asked, new);
        done(self.make(caller, new)?)
    }

    /// [`Fs::create`], once: a file that was made is opened.
    ///
    /// # Errors
    /// [`FsError`].
    pub fn create_once(
        &self,
        asked: Asked,
        caller: &impl Caller,
        tid: u32,
        new: NewNode<'_>,
        mode: OpenMode,
    ) -> Result<(Attr, Opened), FsError> {
        let _going = self.underway.begin();
        if let Some(attr) = self.was_made(asked, caller, new) {
            return Ok((attr, self.open_made(caller, tid, attr.ino, mode)?));
        }
        self.about_to_make(asked, new);
        done(self.create(caller, tid, new, mode)?)
    }

    /// [`Fs::unlink`], once.
    ///
    /// # Errors
    /// [`FsError`].
    pub fn unlink_once(&self, asked: Asked, caller: &impl Caller, parent: Ino, name: &Name) -> Result<(), FsError> {
        self.removing_once(asked, parent, name, || self.unlink(caller, parent, name))
    }

    /// [`Fs::rmdir`], once.
    ///
    /// # Errors
    /// [`FsError`].
    pub fn rmdir_once(&self, asked: Asked, caller: &impl Caller, parent: Ino, name: &Name) -> Result<(), FsError> {
        self.removing_once(asked, parent, name, || self.rmdir(caller, parent, name))
    }

    fn removing_once(
        &self,
        asked: Asked,
        parent: Ino,
        name: &Name,
        remove: impl FnOnce() -> Result<Ino, FsError>,
    ) -> Result<(), FsError> {
        let _going = self.underway.begin();
        let there = self.vault.lookup(parent, name.as_str()).map(|attr| attr.ino);
        if self.has_left(asked, &there) {
            return Ok(());
        }
        self.about_to(asked, there.ok());
        remove()?;
        done(())
    }

    /// [`Fs::rename`], once.
    ///
    /// # Errors
    /// [`FsError`].
    pub fn rename_once(&self, asked: Asked, caller: &impl Caller, rename: Rename<'_>) -> Result<(), FsError> {
        let _going = self.underway.begin();
        let moved = self.vault.lookup(rename.parent, rename.name.as_str()).map(|attr| attr.ino);
        // Where it is now is the business of whoever came after.
        if self.has_left(asked, &moved) {
            return Ok(());
        }
        self.about_to(asked, moved.ok());
        done(self.rename(caller, rename)?)
    }

    /// [`Fs::set_xattr`], once: one that was to be new is there.
    ///
    /// # Errors
    /// [`FsError`].
    pub fn set_xattr_once(
        &self,
        asked: Asked,
        caller: &impl Caller,
        (ino, name): (Ino, &str),
        value: &[u8],
        mode: XattrMode,
    ) -> Result<(), FsError> {
        let _going = self.underway.begin();
        if self.outcome(asked) == Some(ino) && self.vault.get_xattr(ino, name).is_ok() {
            return self.set_xattr(caller, ino, name, value, XattrMode::Set);
        }
        if mode == XattrMode::Create && matches!(self.vault.get_xattr(ino, name), Err(VaultError::NoAttribute)) {
            self.about_to(asked, Some(ino));
        }
        done(self.set_xattr(caller, ino, name, value, mode)?)
    }

    /// [`Fs::remove_xattr`], once.
    ///
    /// # Errors
    /// [`FsError`].
    pub fn remove_xattr_once(&self, asked: Asked, caller: &impl Caller, ino: Ino, name: &str) -> Result<(), FsError> {
        let _going = self.underway.begin();
        let there = self.vault.get_xattr(ino, name);
        if self.outcome(asked) == Some(ino) && matches!(there, Err(VaultError::NoAttribute)) {
            return Ok(());
        }
        self.about_to(asked, there.ok().map(|_| ino));
        done(self.remove_xattr(caller, ino, name)?)
    }

    /// [`Fs::flush`], once: a commit is on the disk when it is noted.
    ///
    /// # Errors
    /// [`FsError`]; close(2) returns it.
    pub fn flush_once(&self, asked: Asked, ino: Ino, number: u64, owner: u64) -> Result<(), FsError> {
        // Of a reader nothing is changed.
        let _going = is_writer(number).then(|| self.underway.begin());
        self.committing_once(asked, ino, || self.flush(number, owner))
    }

    /// [`Fs::fsync`], once, as [`Fs::flush_once`].
    ///
    /// # Errors
    /// [`FsError`].
    pub fn fsync_once(&self, asked: Asked, ino: Ino, number: u64) -> Result<(), FsError> {
        let _going = self.underway.begin();
        self.committing_once(asked, ino, || self.fsync(number))
    }

    fn committing_once(
        &self,
        asked: Asked,
        ino: Ino,
        commit: impl FnOnce() -> Result<(), FsError>,
    ) -> Result<(), FsError> {
        if self.outcome(asked) == Some(ino) {
            return Ok(());
        }
        commit()?;
        self.register().executed(asked.number, ino.0);
        done(())
    }

    /// What was made for this request, if it is there.
    fn was_made(&self, asked: Asked, caller: &impl Caller, new: NewNode<'_>) -> Option<Attr> {
        let noted = self.outcome(asked).filter(|noted| *noted == TO_BE_MADE).is_some();
        let is_it = |attr: &Attr| noted && attr.kind == new.kind && attr.uid == caller.uid().0;
        self.vault.lookup(new.parent, new.name.as_str()).ok().filter(is_it)
    }

    /// The name is free, or nothing is noted: what is there then was not made by this request.
    fn about_to_make(&self, asked: Asked, new: NewNode<'_>) {
        if matches!(self.vault.lookup(new.parent, new.name.as_str()), Err(VaultError::NotFound)) {
            self.register().executed(asked.number, TO_BE_MADE.0);
        }
    }

    /// It is about to be done to this one, if there is one.
    fn about_to(&self, asked: Asked, ino: Option<Ino>) {
        if let Some(ino) = ino {
            self.register().executed(asked.number, ino.0);
        }
    }

    /// Whether this request took the name away from what had it: it may be another's by now.
    fn has_left(&self, asked: Asked, there: &Result<Ino, VaultError>) -> bool {
        match (self.outcome(asked), there) {
            (Some(noted), Ok(ino)) => *ino != noted,
            (Some(_), Err(error)) => matches!(error, VaultError::NotFound),
            (None, _) => false,
        }
    }

    /// The node that this request was about when another daemon had it.
    fn outcome(&self, asked: Asked) -> Option<Ino> {
        if asked.again { self.register().outcome(asked.number).map(Ino) } else { None }
    }
}

/// It is answered next.
fn done<R>(result: R) -> Result<R, FsError> {
    #[cfg(test)]
    super::fuse::done_and_not_answered();
    Ok(result)
}

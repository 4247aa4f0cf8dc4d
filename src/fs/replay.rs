//! Requests that are sent again: what the daemon before this one did and could not answer any more is not done twice.
//!
//! Owns the order: note in the [register](super::register) that it is about to be done, do it, note what came of it, answer; a daemon that
//! leaves the tree to the next one lets what it [has begun](super::underway) come to an end. What was noted is believed as far as the tree agrees:
//! as long as a request is not answered the kernel lets nobody else change that name, or that file's attributes.

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
        if let Some(attr) = self.was_made(asked, new) {
            return Ok(attr);
        }
        self.about_to_make(asked, new);
        let attr = self.make(caller, new)?;
        self.executed(asked, attr.ino);
        Ok(attr)
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
        if let Some(attr) = self.was_made(asked, new) {
            return Ok((attr, self.open_made(caller, tid, attr.ino, mode)?));
        }
        self.about_to_make(asked, new);
        let (attr, opened) = self.create(caller, tid, new, mode)?;
        self.executed(asked, attr.ino);
        Ok((attr, opened))
    }

    /// [`Fs::unlink`], once.
    ///
    /// # Errors
    /// [`FsError`].
    pub fn unlink_once(&self, asked: Asked, caller: &impl Caller, parent: Ino, name: &Name) -> Result<(), FsError> {
        let _going = self.underway.begin();
        if self.was_removed(asked, parent, name) {
            return Ok(());
        }
        self.about_to(asked, self.vault.lookup(parent, name.as_str()).map(|attr| attr.ino));
        let ino = self.unlink(caller, parent, name)?;
        self.executed(asked, ino);
        Ok(())
    }

    /// [`Fs::rmdir`], once.
    ///
    /// # Errors
    /// [`FsError`].
    pub fn rmdir_once(&self, asked: Asked, caller: &impl Caller, parent: Ino, name: &Name) -> Result<(), FsError> {
        let _going = self.underway.begin();
        if self.was_removed(asked, parent, name) {
            return Ok(());
        }
        self.about_to(asked, self.vault.lookup(parent, name.as_str()).map(|attr| attr.ino));
        let ino = self.rmdir(caller, parent, name)?;
        self.executed(asked, ino);
        Ok(())
    }

    /// [`Fs::rename`], once.
    ///
    /// # Errors
    /// [`FsError`].
    pub fn rename_once(&self, asked: Asked, caller: &impl Caller, rename: Rename<'_>) -> Result<(), FsError> {
        let _going = self.underway.begin();
        let moved = self.vault.lookup(rename.parent, rename.name.as_str()).map(|attr| attr.ino);
        match (self.outcome(asked), &moved) {
            // Where it is now is the business of whoever came after; it is not where it was.
            (Some(_), Err(VaultError::NotFound)) => return Ok(()),
            (Some(ino), Ok(there)) if *there != ino => return Ok(()),
            (Some(_) | None, _) => {}
        }
        if let Ok(ino) = moved {
            self.about_to(asked, Ok(ino));
        }
        self.rename(caller, rename)?;
        if let Ok(ino) = moved {
            self.executed(asked, ino);
        }
        Ok(())
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
            self.about_to(asked, Ok(ino));
        }
        self.set_xattr(caller, ino, name, value, mode)?;
        self.executed(asked, ino);
        Ok(())
    }

    /// [`Fs::remove_xattr`], once.
    ///
    /// # Errors
    /// [`FsError`].
    pub fn remove_xattr_once(&self, asked: Asked, caller: &impl Caller, ino: Ino, name: &str) -> Result<(), FsError> {
        let _going = self.underway.begin();
        let gone = || matches!(self.vault.get_xattr(ino, name), Err(VaultError::NoAttribute));
        if self.outcome(asked) == Some(ino) && gone() {
            return Ok(());
        }
        if self.vault.get_xattr(ino, name).is_ok() {
            self.about_to(asked, Ok(ino));
        }
        self.remove_xattr(caller, ino, name)?;
        self.executed(asked, ino);
        Ok(())
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
        self.executed(asked, ino);
        Ok(())
    }

    /// What was made for this request, if it is there.
    fn was_made(&self, asked: Asked, new: NewNode<'_>) -> Option<Attr> {
        let ino = self.outcome(asked)?;
        let is_it = |attr: &Attr| attr.ino == ino || ino == TO_BE_MADE && attr.kind == new.kind;
        self.vault.lookup(new.parent, new.name.as_str()).ok().filter(is_it)
    }

    /// The name is free, or nothing is noted: what is there then was not made by this request.
    fn about_to_make(&self, asked: Asked, new: NewNode<'_>) {
        if matches!(self.vault.lookup(new.parent, new.name.as_str()), Err(VaultError::NotFound)) {
            self.register().executed(asked.number, TO_BE_MADE.0);
        }
    }

    /// It is about to be done to this one, if there is one.
    fn about_to(&self, asked: Asked, ino: Result<Ino, VaultError>) {
        if let Ok(ino) = ino {
            self.register().executed(asked.number, ino.0);
        }
    }

    /// Whether this request took the name away: it may be another's by now.
    fn was_removed(&self, asked: Asked, parent: Ino, name: &Name) -> bool {
        let Some(ino) = self.outcome(asked) else { return false };
        match self.vault.lookup(parent, name.as_str()) {
            Ok(attr) => attr.ino != ino,
            Err(error) => matches!(error, VaultError::NotFound),
        }
    }

    /// The node that this request was about when it was done before.
    fn outcome(&self, asked: Asked) -> Option<Ino> {
        if asked.again { self.register().outcome(asked.number).map(Ino) } else { None }
    }

    /// It was done, and is answered next.
    fn executed(&self, asked: Asked, ino: Ino) {
        self.register().executed(asked.number, ino.0);
        #[cfg(test)]
        super::fuse::done_and_not_answered();
    }
}

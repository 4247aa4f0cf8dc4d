//! When a copy is committed: FLUSH, FSYNC, RELEASE.
//!
//! Owns what becomes of it, and whom a refusal is told.

use super::{Copy, Writer, lock, unload};
use crate::access::Denial;
use crate::fs::handle::is_writer;
use crate::fs::{Fs, FsError};
use crate::meter::Resource;
use crate::model::Ino;
use crate::vault::{Content, VaultError};
use std::sync::Arc;
use std::sync::atomic::Ordering;

impl Fs {
    /// Who pays for the commit that this request may become: one owner's FLUSH, or fsync and RELEASE. `None` if none is due.
    pub(in crate::fs) fn may_commit(&self, number: u64, owner: Option<u64>) -> Option<crate::meter::Payer> {
        if !is_writer(number) {
            return None;
        }
        let writer = self.dirties.get(number).ok()?;
        let due = match writer.copy.try_lock() {
            Some(copy) => copy.changed && owner.is_none_or(|owner| copy.owners.contains(&owner)),
            // Somebody commits it: whoever wants it waits for him.
            None => true,
        };
        due.then(|| writer.payer().0)
    }

    /// Who pays for waiting, if the copy that this handle is on is being committed.
    pub(in crate::fs) fn waits_for_commit(&self, number: u64) -> Option<crate::meter::Payer> {
        if !is_writer(number) {
            return None;
        }
        let writer = self.dirties.get(number).ok()?;
        let busy = writer.copy.try_lock().is_none();
        busy.then(|| writer.payer().0)
    }

    /// Whether somebody commits this secret right now.
    pub(in crate::fs) fn is_being_committed(&self, ino: u64) -> bool {
        self.dirties.of(Ino(ino)).is_some_and(|copy| copy.try_lock().is_none())
    }

    /// FLUSH: commits if this owner wrote since the last commit.
    ///
    /// # Errors
    /// [`FsError`]; close(2) returns it.
    pub fn flush(&self, number: u64, owner: u64) -> Result<(), FsError> {
        if !is_writer(number) {
            return Ok(());
        }
        let writer = self.dirties.get(number)?;
        let mut copy = lock(&writer.copy);
        self.tell_denied(&writer, &copy)?;
        if !copy.owners.contains(&owner) {
            return Ok(());
        }
        let result = self.commit(number, &writer, &mut copy);
        // Who was told is told once; who else wrote hears it at his own close.
        copy.owners.remove(&owner);
        result
    }

    /// FSYNC: commits what there is, and makes all metadata durable.
    ///
    /// # Errors
    /// [`FsError`].
    pub fn fsync(&self, number: u64) -> Result<(), FsError> {
        if is_writer(number) {
            let writer = self.dirties.get(number)?;
            let mut copy = lock(&writer.copy);
            self.tell_denied(&writer, &copy)?;
            if copy.changed {
                self.commit(number, &writer, &mut copy)?;
            }
        }
        self.sync()
    }

    /// RELEASE of a writer: commits what it changed and no FLUSH committed.
    ///
    /// # Errors
    /// [`FsError`]; nobody hears it but the log.
    pub fn release_writer(&self, number: u64) -> Result<(), FsError> {
        self.writer_released(number);
        let Some(writer) = self.dirties.writers.lock().remove(&number) else {
            return Ok(());
        };
        self.writer_gone();
        let ino = writer.right.ino();
        // Looked at under the copy's lock: whoever opens it meanwhile has not cut it yet, or is counted.
        let mut copy = lock(&writer.copy);
        let last = {
            let mut copies = self.dirties.copies.lock();
            match copies.get_mut(&ino) {
                // Another one, if the store was locked meanwhile.
                Some(open) if Arc::ptr_eq(&open.copy, &writer.copy) => {
                    open.handles -= 1;
                    if let Some(at) = open.tids.iter().position(|t| *t == writer.tid) {
                        open.tids.swap_remove(at);
                    }
                    open.handles == 0
                }
                Some(_) | None => true,
            }
        };
        let result = if copy.changed && !copy.refused && (last || copy.through.contains(&number)) {
            self.commit(number, &writer, &mut copy)
        } else {
            Ok(())
        };
        drop(copy);
        // Only now: a look at the attributes in between must not see the old ones as lasting.
        let mut copies = self.dirties.copies.lock();
        if copies.get(&ino).is_some_and(|open| open.handles == 0 && Arc::ptr_eq(&open.copy, &writer.copy)) {
            copies.remove(&ino);
        }
        result
    }

    /// Whether who opened it may write now.
    pub(super) fn still_may_write(&self, writer: &Writer, copy: &Copy) -> Result<(), FsError> {
        let result = self.vault.still_may_write(&writer.right, &writer.who, writer.mode_is(copy));
        if let Err(error) = &result {
            writer.denied.store(was_taken_away(error), Ordering::Relaxed);
            self.own.note_error(writer.who.uid, &self.vault.path_of(writer.right.ino(), None), error);
        }
        Ok(result?)
    }

    /// Who was refused once hears it at every close and fsync, while it is so.
    fn tell_denied(&self, writer: &Writer, copy: &Copy) -> Result<(), FsError> {
        if writer.denied.load(Ordering::Relaxed) { self.still_may_write(writer, copy) } else { Ok(()) }
    }

    fn commit(&self, number: u64, writer: &Writer, copy: &mut Copy) -> Result<(), FsError> {
        let mode = writer.mode_is(copy);
        let Some(content) = &copy.content else { return Ok(()) };
        let content = Content { bytes: content.expose(), mtime: copy.mtime };
        match self.vault.commit_as(&writer.right, &writer.who, content, mode) {
            Ok(version) => {
                let now = std::time::Instant::now();
                self.vault.meter().pace(Resource::CommitRate, writer.payer().0, 1, now);
                copy.changed = false;
                copy.owners.clear();
                copy.through.clear();
                match version {
                    Some(version) => {
                        copy.version = version.0;
                        unload(copy);
                    }
                    // Without a name there is nothing to begin a later change with but what is here, and whoever has it
                    // open sees it.
                    None => copy.changed = true,
                }
                Ok(())
            }
            Err(error) => {
                // RELEASE does not try it again, unless something is written after it; fsync does.
                copy.refused = true;
                if was_taken_away(&error) {
                    writer.denied.store(true, Ordering::Relaxed);
                    if !copy.through.is_empty() && copy.through.iter().all(|other| *other == number) {
                        // It is his alone, and not to come in by another writer's commit.
                        drop_changes(copy);
                    }
                }
                self.own.note_error(writer.who.uid, &self.vault.path_of(writer.right.ino(), None), &error);
                Err(error.into())
            }
        }
    }
}

/// What was written is gone; the next who writes begins with what was committed last.
fn drop_changes(copy: &mut Copy) {
    unload(copy);
    copy.changed = false;
    copy.through.clear();
    copy.author = None;
    copy.state += 1;
}

/// Whether it is the writer's right that ended, not the key's life.
fn was_taken_away(error: &VaultError) -> bool {
    match error {
        VaultError::Denied(denial) => !matches!(denial, Denial::NoKey | Denial::KeyRevoked | Denial::KeyExpired),
        _ => false,
    }
}

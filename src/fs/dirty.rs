//! Dirty copies: what is being written, one for each secret, shared by all who write it. Readers see the last commit.
//!
//! When it is committed: at a FLUSH, if its lock owner wrote since the last commit; what is left then, a bare
//! truncation included, at fsync or at the RELEASE of the handle that changed it. A shell's redirection closes a
//! duplicate before it writes, and a forked child's exit flushes in mid-content: neither publishes anything.

use super::handle::{is_writer, window};
use super::{Fs, FsError, OpenMode, Opened};
use crate::access::Grant;
use crate::audit;
use crate::model::{Ino, Timestamp, Who};
use crate::secret::Secret;
use crate::vault::{Caller, Content, VaultError};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A handle open for writing.
struct Writer {
    grant: Grant,
    /// Who opened it: at FLUSH and RELEASE nobody may be asked.
    who: Who,
    /// What it was called then: a lock forgets all names.
    path: String,
    tid: u32,
    readable: bool,
    copy: Arc<Mutex<Copy>>,
}

/// What is being written.
#[derive(Default)]
struct Copy {
    /// The content; `None` until somebody changes it.
    content: Option<Secret>,
    /// Whether it differs from what was committed last.
    changed: bool,
    /// Who wrote since the last commit.
    owners: HashSet<u64>,
    /// Through which handles it was changed since the last commit.
    through: HashSet<u64>,
    /// When it was last written; `None` if the time was set by hand since.
    mtime: Option<Timestamp>,
    /// Whether it was never committed: then everybody sees what there is.
    new: bool,
}

/// All of them. Lock order: `writers`, then `copies`, then a copy; the vault's locks after those.
#[derive(Default)]
pub(super) struct Dirties {
    writers: Mutex<HashMap<u64, Arc<Writer>>>,
    copies: Mutex<HashMap<Ino, Open>>,
}

struct Open {
    copy: Arc<Mutex<Copy>>,
    handles: usize,
    tids: Vec<u32>,
}

impl Dirties {
    /// `None` if nobody writes it; otherwise what this thread sees: size and time, if they are not the committed ones.
    pub fn seen_by(&self, ino: Ino, tid: u32) -> Option<Option<(u64, Option<Timestamp>)>> {
        let (copy, writes) = {
            let copies = self.copies.lock().unwrap_or_else(PoisonError::into_inner);
            let open = copies.get(&ino)?;
            (Arc::clone(&open.copy), open.tids.contains(&tid))
        };
        // Whoever commits holds it across the disk: then the committed attributes do, and nobody waits.
        let Ok(copy) = copy.try_lock() else { return Some(None) };
        let shown = copy.changed && (copy.new || writes);
        Some(copy.content.as_ref().filter(|_| shown).map(|c| (c.len() as u64, copy.mtime)))
    }

    /// Somebody set the time of change by hand: a commit leaves it.
    pub fn mtime_was_set(&self, ino: Ino) {
        if let Some(copy) = self.of(ino) {
            lock(&copy).mtime = None;
        }
    }

    /// Forgets all: how many handles there were, whose writing was lost by it, and the paths.
    pub fn clear(&self) -> (usize, Vec<(Who, String)>) {
        let writers = std::mem::take(&mut *self.writers.lock().unwrap_or_else(PoisonError::into_inner));
        self.copies.lock().unwrap_or_else(PoisonError::into_inner).clear();
        let lost = |(number, writer): (&u64, &Arc<Writer>)| {
            let changed = lock(&writer.copy).through.contains(number);
            changed.then(|| (writer.who.clone(), writer.path.clone()))
        };
        (writers.len(), writers.iter().filter_map(lost).collect())
    }

    fn get(&self, number: u64) -> Result<Arc<Writer>, FsError> {
        let writers = self.writers.lock().unwrap_or_else(PoisonError::into_inner);
        writers.get(&number).cloned().ok_or(FsError::Stale)
    }

    fn of(&self, ino: Ino) -> Option<Arc<Mutex<Copy>>> {
        let copies = self.copies.lock().unwrap_or_else(PoisonError::into_inner);
        copies.get(&ino).map(|open| Arc::clone(&open.copy))
    }
}

fn lock(copy: &Mutex<Copy>) -> MutexGuard<'_, Copy> {
    copy.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Fs {
    pub(super) fn open_writer(
        &self,
        caller: &impl Caller,
        tid: u32,
        grant: Grant,
        mode: OpenMode,
    ) -> Result<Opened, FsError> {
        let ino = grant.ino();
        let new = self.vault.is_new(ino);
        let number = self.new_writer();
        let copy = {
            let mut copies = self.dirties.copies.lock().unwrap_or_else(PoisonError::into_inner);
            let open = copies.entry(ino).or_insert_with(|| Open {
                copy: Arc::new(Mutex::new(Copy { new, ..Copy::default() })),
                handles: 0,
                tids: Vec::new(),
            });
            open.handles += 1;
            open.tids.push(tid);
            Arc::clone(&open.copy)
        };
        let path = self.vault.path_of(ino, None);
        let writer = Writer { grant, who: caller.who(), path, tid, readable: mode.read, copy };
        if mode.truncate {
            let mut copy = lock(&writer.copy);
            copy.content = Some(Secret::zeroed(0)?);
            copy.changed = true;
            copy.mtime = Some(Timestamp::now());
            copy.through.insert(number);
        }
        self.dirties.writers.lock().unwrap_or_else(PoisonError::into_inner).insert(number, Arc::new(writer));
        Ok(Opened::Writer(number))
    }

    /// WRITE. With `append` the offset is the end of the dirty copy, whatever the kernel thinks it is.
    ///
    /// # Errors
    /// [`FsError`]; [`VaultError::TooBig`] beyond the largest secret.
    pub fn write(&self, number: u64, offset: u64, data: &[u8], append: bool, owner: u64) -> Result<(), FsError> {
        if !is_writer(number) {
            return Err(FsError::WrongHandle);
        }
        let writer = self.dirties.get(number)?;
        let result = self.write_to(&writer, number, offset, data, append, owner);
        self.recording(audit::Operation::Commit, writer.grant.ino(), || writer.who.clone(), result)
    }

    fn write_to(
        &self,
        writer: &Writer,
        number: u64,
        offset: u64,
        data: &[u8],
        append: bool,
        owner: u64,
    ) -> Result<(), FsError> {
        let mut copy = lock(&writer.copy);
        self.load(&writer.grant, &mut copy)?;
        let max = self.vault.limits().max_secret_size;
        let content = copy.content.as_mut().ok_or(FsError::Stale)?;
        let offset = if append { content.len() as u64 } else { offset };
        let end = offset.checked_add(data.len() as u64).filter(|end| *end <= max).ok_or(VaultError::TooBig { max })?;
        let (from, to) = (offset as usize, end as usize);
        if to > content.len() {
            content.resize(to)?;
        }
        content.expose_mut()[from..to].copy_from_slice(data);
        copy.changed = true;
        copy.owners.insert(owner);
        copy.through.insert(number);
        copy.mtime = Some(Timestamp::now());
        Ok(())
    }

    /// SETATTR of the size. Through a handle it is a change like a WRITE; of a path it is a commit of its own, unless
    /// somebody is writing it.
    ///
    /// # Errors
    /// [`FsError`].
    pub fn truncate(&self, caller: &impl Caller, ino: Ino, handle: Option<u64>, size: u64) -> Result<(), FsError> {
        self.own.refuse(ino)?;
        let result = self.truncate_to(caller, ino, handle, size);
        self.recording(audit::Operation::Truncate, ino, || caller.who(), result)
    }

    fn truncate_to(&self, caller: &impl Caller, ino: Ino, handle: Option<u64>, size: u64) -> Result<(), FsError> {
        let max = self.vault.limits().max_secret_size;
        if size > max {
            return Err(VaultError::TooBig { max }.into());
        }
        if let Some(number) = handle.filter(|n| is_writer(*n)) {
            let writer = self.dirties.get(number)?;
            let mut copy = lock(&writer.copy);
            self.load(&writer.grant, &mut copy)?;
            resize(&mut copy, size, Some(number))?;
            return Ok(());
        }
        let grant = self.vault.open_write(caller, ino)?;
        if let Some(copy) = self.dirties.of(ino) {
            let mut copy = lock(&copy);
            self.load(&grant, &mut copy)?;
            return resize(&mut copy, size, None);
        }
        let mut content = self.vault.base(&grant)?;
        if content.len() as u64 != size {
            content.resize(size as usize)?;
            let mtime = Some(Timestamp::now());
            self.vault.commit(&grant, &caller.who(), Content { bytes: content.expose(), mtime })?;
        }
        Ok(())
    }

    /// Writes down a refusal that came before anything reached the vault, and tells whose it was.
    fn recording<R>(
        &self,
        op: audit::Operation,
        ino: Ino,
        who: impl FnOnce() -> Who,
        result: Result<R, FsError>,
    ) -> Result<R, FsError> {
        if let Err(FsError::Vault(error)) = &result
            && error.is_unrecorded_refusal()
        {
            let (who, path) = (who(), self.vault.path_of(ino, None));
            self.vault.record_refusal(op, &path, &who, &error.to_string());
            self.own.note_error(who.uid, &path, error);
        }
        result
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
        if !copy.owners.contains(&owner) {
            return Ok(());
        }
        self.commit(&writer, &mut copy)
    }

    /// FSYNC: commits what there is, and makes all metadata durable.
    ///
    /// # Errors
    /// [`FsError`].
    pub fn fsync(&self, number: u64) -> Result<(), FsError> {
        if is_writer(number) {
            let writer = self.dirties.get(number)?;
            let mut copy = lock(&writer.copy);
            if copy.changed {
                self.commit(&writer, &mut copy)?;
            }
        }
        self.sync()
    }

    /// RELEASE of a writer: commits what it changed and no FLUSH committed.
    ///
    /// # Errors
    /// [`FsError`]; nobody hears it but the log.
    pub fn release_writer(&self, number: u64) -> Result<(), FsError> {
        let Some(writer) = self.dirties.writers.lock().unwrap_or_else(PoisonError::into_inner).remove(&number) else {
            return Ok(());
        };
        self.writer_gone();
        let ino = writer.grant.ino();
        let last = {
            let mut copies = self.dirties.copies.lock().unwrap_or_else(PoisonError::into_inner);
            match copies.get_mut(&ino) {
                Some(open) => {
                    open.handles -= 1;
                    if let Some(at) = open.tids.iter().position(|t| *t == writer.tid) {
                        open.tids.swap_remove(at);
                    }
                    open.handles == 0
                }
                None => true,
            }
        };
        let mut copy = lock(&writer.copy);
        let result = if copy.changed && (last || copy.through.contains(&number)) {
            self.commit(&writer, &mut copy)
        } else {
            Ok(())
        };
        drop(copy);
        // Only now: a look at the attributes in between must not see the old ones as lasting.
        let mut copies = self.dirties.copies.lock().unwrap_or_else(PoisonError::into_inner);
        if copies.get(&ino).is_some_and(|open| open.handles == 0) {
            copies.remove(&ino);
        }
        result
    }

    /// READ through a handle that also writes: it sees the dirty copy.
    pub(super) fn read_dirty(
        &self,
        caller: &impl Caller,
        number: u64,
        (offset, size): (u64, u32),
        reply: impl FnOnce(&[u8]),
    ) -> Result<(), FsError> {
        let writer = self.dirties.get(number)?;
        if !writer.readable {
            return Err(FsError::WrongHandle);
        }
        let ino = writer.grant.ino();
        let alive = self.vault.is_readable(ino);
        self.recording_read(caller, ino, alive)?;
        let copy = lock(&writer.copy);
        match &copy.content {
            Some(content) => reply(window(content.expose(), offset, size)),
            None => reply(window(self.vault.base(&writer.grant)?.expose(), offset, size)),
        }
        Ok(())
    }

    /// Begins with what was committed last.
    fn load(&self, grant: &Grant, copy: &mut Copy) -> Result<(), FsError> {
        if copy.content.is_none() {
            copy.content = Some(match self.vault.base(grant) {
                Err(VaultError::NotFound) => Secret::zeroed(0)?,
                other => other?,
            });
        }
        Ok(())
    }

    fn commit(&self, writer: &Writer, copy: &mut Copy) -> Result<(), FsError> {
        let Some(content) = &copy.content else { return Ok(()) };
        let content = Content { bytes: content.expose(), mtime: copy.mtime };
        let result = self.vault.commit(&writer.grant, &writer.who, content);
        // Refused content is not tried again at the next close; what is written after it is.
        copy.changed = false;
        copy.owners.clear();
        copy.through.clear();
        match result {
            Ok(_) => {
                copy.new = false;
                // A later change begins with what is committed by then.
                copy.content = None;
                Ok(())
            }
            Err(error) => {
                self.own.note_error(writer.who.uid, &self.vault.path_of(writer.grant.ino(), None), &error);
                Err(error.into())
            }
        }
    }
}

fn resize(copy: &mut Copy, size: u64, through: Option<u64>) -> Result<(), FsError> {
    let content = copy.content.as_mut().ok_or(FsError::Stale)?;
    if content.len() as u64 == size && copy.changed {
        return Ok(());
    }
    content.resize(usize::try_from(size).map_err(|_| FsError::Unsupported)?)?;
    copy.changed = true;
    copy.mtime = Some(Timestamp::now());
    copy.through.extend(through);
    Ok(())
}

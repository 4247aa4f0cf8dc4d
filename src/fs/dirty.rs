//! Dirty copies: what is being written, one for each secret, shared by all who write it. Readers see the last commit.
//!
//! When it is committed: at a FLUSH, if its lock owner wrote since the last commit; what is left then, a bare
//! truncation included, at fsync or at the RELEASE of the handle that changed it. A shell's redirection closes a
//! duplicate before it writes, and a forked child's exit flushes in mid-content: neither publishes anything.

use super::handle::{Seat, is_writer, window};
use super::held::{Charge, Payer};
use super::{Fs, FsError, Opened};
use crate::access::Denial;
use crate::audit;
use crate::meter::Resource;
use crate::model::{Ino, Timestamp, Uid, VersionNo, Who};
use crate::secret::Secret;
use crate::vault::{Caller, Content, ModeIs, VaultError, WriteRight};
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A handle open for writing.
struct Writer {
    right: WriteRight,
    /// Who opened it: at FLUSH and RELEASE nobody may be asked.
    who: Who,
    /// What it was called then: a lock forgets all names.
    path: String,
    tid: u32,
    readable: bool,
    /// Whether something of it was refused because the right to write had gone: its close says so too.
    denied: AtomicBool,
    /// Up to which of the copy's states it may be shown without a new decision.
    seen: AtomicU64,
    copy: Arc<Mutex<Copy>>,
    /// Of the handle, for as long as it is open.
    _charge: crate::meter::Charge,
}

impl Writer {
    fn uid(&self) -> Uid {
        Uid(self.who.uid)
    }

    /// Whether nobody else has changed the mode since.
    fn mode_is(&self, copy: &Copy) -> ModeIs {
        if copy.mode_by == Some(self.uid()) { ModeIs::HisOwn } else { ModeIs::AsFound }
    }

    fn payer(&self) -> Payer {
        Payer::of(self.uid(), self.right.holder())
    }
}

/// What is being written.
#[derive(Default)]
struct Copy {
    /// The content; `None` until somebody changes it.
    content: Option<Secret>,
    /// What it takes of the locked memory, for whoever loaded it.
    charge: Option<Charge>,
    /// Counts up whenever somebody else's content comes in: a handle opened before shows it only by a new decision.
    state: u64,
    /// Whose writing the present state is; `None` for what was committed elsewhere.
    author: Option<Uid>,
    /// The version it was begun with or that was made of it, 0 for none.
    version: u64,
    /// Whether the last try to commit failed, and nothing was written since.
    refused: bool,
    /// Whether it differs from what was committed last.
    changed: bool,
    /// Who wrote since the last commit.
    owners: HashSet<u64>,
    /// Through which handles it was changed since the last commit.
    through: HashSet<u64>,
    /// When it was last written; `None` if the time was set by hand since.
    mtime: Option<Timestamp>,
    /// Who set mode or ACL last, if that was since it was first opened for writing.
    mode_by: Option<Uid>,
}

impl Copy {
    /// What was committed last is this version; another one than was known came from elsewhere.
    fn begins_with(&mut self, version: u64) {
        if version != self.version {
            self.version = version;
            self.state += 1;
            self.author = None;
        }
    }
}

/// All of them. Lock order: `writers`, then a copy, then `copies`; the vault's locks after a copy's.
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
    /// Of what was never committed, or has no name, everybody sees what there is.
    pub fn seen_by(
        &self,
        ino: Ino,
        tid: u32,
        uncommitted: impl FnOnce() -> bool,
    ) -> Option<Option<(u64, Option<Timestamp>)>> {
        let (copy, writes) = {
            let copies = self.copies.lock().unwrap_or_else(PoisonError::into_inner);
            let open = copies.get(&ino)?;
            (Arc::clone(&open.copy), open.tids.contains(&tid))
        };
        // Whoever commits holds it across the disk: then the committed attributes do, and nobody waits.
        let Ok(copy) = copy.try_lock() else { return Some(None) };
        let shown = copy.changed && (writes || uncommitted());
        Some(copy.content.as_ref().filter(|_| shown).map(|c| (c.len() as u64, copy.mtime)))
    }

    /// Somebody set the time of change by hand: a commit leaves it.
    pub fn mtime_was_set(&self, ino: Ino) {
        if let Some(copy) = self.of(ino) {
            lock(&copy).mtime = None;
        }
    }

    /// Somebody set the mode or the ACL.
    pub fn mode_was_set(&self, ino: Ino, by: Uid) {
        if let Some(copy) = self.of(ino) {
            lock(&copy).mode_by = Some(by);
        }
    }

    /// Forgets all: how many handles there were, whose writing was lost by it, and the path.
    pub fn clear(&self) -> (usize, Vec<(Who, String)>) {
        let writers = std::mem::take(&mut *self.writers.lock().unwrap_or_else(PoisonError::into_inner));
        self.copies.lock().unwrap_or_else(PoisonError::into_inner).clear();
        let lost = |(number, writer): (&u64, &Arc<Writer>)| {
            let changed = lock(&writer.copy).through.contains(number);
            changed.then(|| (writer.who.clone(), writer.path.clone()))
        };
        (writers.len(), writers.iter().filter_map(lost).collect())
    }

    /// The inodes that somebody writes.
    pub fn inodes(&self) -> Vec<Ino> {
        self.copies.lock().unwrap_or_else(PoisonError::into_inner).keys().copied().collect()
    }

    /// A handle on this copy.
    fn one_of(&self, copy: &Arc<Mutex<Copy>>) -> Option<Arc<Writer>> {
        let writers = self.writers.lock().unwrap_or_else(PoisonError::into_inner);
        writers.values().find(|w| Arc::ptr_eq(&w.copy, copy)).cloned()
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

impl Fs {
    /// Who pays for the commit that this request may become: one owner's FLUSH, or fsync and RELEASE. `None` if none is due.
    pub(super) fn may_commit(&self, number: u64, owner: Option<u64>) -> Option<crate::meter::Payer> {
        if !is_writer(number) {
            return None;
        }
        let writer = self.dirties.get(number).ok()?;
        let due = match writer.copy.try_lock() {
            Ok(copy) => copy.changed && owner.is_none_or(|owner| copy.owners.contains(&owner)),
            // Somebody commits it: whoever wants it waits for him.
            Err(_) => true,
        };
        due.then(|| writer.payer().0)
    }

    /// Who pays for waiting, if the copy that this handle is on is being committed.
    pub(super) fn waits_for_commit(&self, number: u64) -> Option<crate::meter::Payer> {
        if !is_writer(number) {
            return None;
        }
        let writer = self.dirties.get(number).ok()?;
        let busy = writer.copy.try_lock().is_err();
        busy.then(|| writer.payer().0)
    }

    /// Whether somebody commits this secret right now.
    pub(super) fn is_being_committed(&self, ino: u64) -> bool {
        self.dirties.of(Ino(ino)).is_some_and(|copy| copy.try_lock().is_err())
    }
}

fn lock(copy: &Mutex<Copy>) -> MutexGuard<'_, Copy> {
    copy.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Fs {
    pub(super) fn open_writer(
        &self,
        caller: &impl Caller,
        (tid, seat): (u32, Seat<'_>),
        right: WriteRight,
        read: Option<Option<VersionNo>>,
        truncate: bool,
    ) -> Result<Opened, FsError> {
        let ino = right.ino();
        let charge = self.held.handle(Payer::of(caller.uid(), right.holder()).0)?;
        let version = self.vault.current_version(ino)?;
        let empty = if truncate { Some(Secret::zeroed(0)?) } else { None };
        let empty =
            empty.map(|e| self.held.copy(Payer::of(caller.uid(), right.holder()), 0).map(|c| (e, c))).transpose()?;
        let number = self.new_writer(seat, right.holder().instance());
        let copy = {
            let mut copies = self.dirties.copies.lock().unwrap_or_else(PoisonError::into_inner);
            let open = copies.entry(ino).or_insert_with(|| Open {
                copy: Arc::new(Mutex::new(Copy { version, ..Copy::default() })),
                handles: 0,
                tids: Vec::new(),
            });
            open.handles += 1;
            open.tids.push(tid);
            Arc::clone(&open.copy)
        };
        let writer = Writer {
            right,
            who: caller.who(),
            path: self.vault.path_of(ino, None),
            tid,
            readable: read.is_some(),
            denied: AtomicBool::new(false),
            seen: AtomicU64::new(0),
            copy,
            _charge: charge,
        };
        let mut copy = lock(&writer.copy);
        if copy.content.is_none() {
            copy.begins_with(version);
        }
        // What it was allowed to read is what the copy begins with; otherwise the first read is decided anew.
        let known = read.is_some_and(|version| version.map_or(0, |v| v.0) == copy.version);
        writer.seen.store(if known { copy.state + 1 } else { 0 }, Ordering::Relaxed);
        if let Some((empty, charge)) = empty {
            written(&mut copy, &writer);
            copy.content = Some(empty);
            copy.charge.get_or_insert(charge);
            copy.changed = true;
            copy.mtime = Some(Timestamp::now());
            copy.through.insert(number);
        }
        drop(copy);
        self.dirties.writers.lock().unwrap_or_else(PoisonError::into_inner).insert(number, Arc::new(writer));
        // Whoever takes the name away from now on keeps the content for this handle; before, nobody did.
        if let Err(error) = self.vault.attr(ino) {
            let _ = self.release_writer(number);
            return Err(error.into());
        }
        Ok(Opened::Writer(number))
    }

    /// WRITE. With `append` the offset is the end of the dirty copy, whatever the kernel thinks it is.
    ///
    /// # Errors
    /// [`FsError`]; [`VaultError::TooBig`] beyond the largest secret.
    pub fn write(&self, number: u64, offset: u64, data: &[u8], append: bool, owner: u64) -> Result<(), FsError> {
        if !is_writer(number) {
            // The kernel lets nobody write through a descriptor that is for reading: it is a view's.
            return Err(VaultError::NotPermitted("a view is composed: change what it is composed from").into());
        }
        let writer = self.dirties.get(number)?;
        let result = self.write_to(&writer, number, offset, data, append, owner);
        self.recording(audit::Operation::Commit, writer.right.ino(), || writer.who.clone(), result)
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
        self.still_may_write(writer, &copy)?;
        self.load(&writer.right, writer.payer(), &mut copy)?;
        let max = self.vault.limits().max_secret_size;
        let len = copy.content.as_ref().ok_or(FsError::Stale)?.len();
        let offset = if append { len as u64 } else { offset };
        let end = offset.checked_add(data.len() as u64).filter(|end| *end <= max).ok_or(VaultError::TooBig { max })?;
        let (from, to) = (offset as usize, end as usize);
        if to > len {
            self.size_to(&mut copy, to, writer.payer())?;
        }
        written(&mut copy, writer);
        let content = copy.content.as_mut().ok_or(FsError::Stale)?;
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
            self.still_may_write(&writer, &copy)?;
            self.load(&writer.right, writer.payer(), &mut copy)?;
            return self.truncate_copy(&mut copy, size, writer.payer(), Some(number));
        }
        let right = self.vault.open_write(caller, ino)?;
        if let Some(copy) = self.dirties.of(ino) {
            let mut copy = lock(&copy);
            let payer = Payer::of(caller.uid(), right.holder());
            self.load(&right, payer, &mut copy)?;
            return self.truncate_copy(&mut copy, size, payer, None);
        }
        let (mut content, _) = self.vault.base(&right)?;
        if content.len() as u64 != size {
            content.resize(size as usize)?;
            let mtime = Some(Timestamp::now());
            self.vault.commit(&right, &caller.who(), Content { bytes: content.expose(), mtime })?;
            let payer = Payer::of(caller.uid(), right.holder()).0;
            self.vault.meter().pace(Resource::CommitRate, payer, 1, std::time::Instant::now());
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
        let Some(writer) = self.dirties.writers.lock().unwrap_or_else(PoisonError::into_inner).remove(&number) else {
            return Ok(());
        };
        self.writer_gone();
        let ino = writer.right.ino();
        // Looked at under the copy's lock: whoever opens it meanwhile has not cut it yet, or is counted.
        let mut copy = lock(&writer.copy);
        let last = {
            let mut copies = self.dirties.copies.lock().unwrap_or_else(PoisonError::into_inner);
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
        let mut copies = self.dirties.copies.lock().unwrap_or_else(PoisonError::into_inner);
        if copies.get(&ino).is_some_and(|open| open.handles == 0 && Arc::ptr_eq(&open.copy, &writer.copy)) {
            copies.remove(&ino);
        }
        result
    }

    /// READ through a handle that also writes: it sees the dirty copy. What came in by others since it was opened is
    /// shown only to who may open it now.
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
        let ino = writer.right.ino();
        self.recording_read(caller, ino, self.vault.still_alive(writer.right.holder()))?;
        let mut copy = lock(&writer.copy);
        let base = match &copy.content {
            Some(_) => None,
            None => Some(self.begin(&writer.right, &mut copy)?),
        };
        // One more than the state, so that 0 is a handle that has seen nothing.
        let state = copy.state + 1;
        if writer.seen.load(Ordering::Relaxed) < state {
            drop(self.vault.open_read(caller, ino)?);
            writer.seen.store(state, Ordering::Relaxed);
        }
        if let Some(content) = base.as_ref().or(copy.content.as_ref()) {
            reply(window(content.expose(), offset, size));
        }
        Ok(())
    }

    /// Whether who opened it may write now.
    fn still_may_write(&self, writer: &Writer, copy: &Copy) -> Result<(), FsError> {
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

    /// Takes a name away from a secret; who has it open reads and writes on.
    pub(super) fn keep_open<R>(
        &self,
        ino: Ino,
        take_away: impl FnOnce() -> Result<R, VaultError>,
    ) -> Result<R, FsError> {
        let copy = self.dirties.of(ino);
        let holder = copy.as_ref().and_then(|copy| self.dirties.one_of(copy));
        let (Some(copy), Some(holder)) = (copy, holder) else { return Ok(take_away()?) };
        let mut copy = lock(&copy);
        let loaded = copy.content.is_none() && self.load(&holder.right, holder.payer(), &mut copy).is_ok();
        let result = take_away();
        if loaded && self.vault.attr(ino).is_ok() {
            unload(&mut copy);
        }
        Ok(result?)
    }

    /// Begins with what was committed last.
    fn load(&self, right: &WriteRight, payer: Payer, copy: &mut Copy) -> Result<(), FsError> {
        if copy.content.is_none() {
            let content = match self.begin(right, copy) {
                Err(FsError::Vault(VaultError::NotFound)) => Secret::zeroed(0)?,
                other => other?,
            };
            copy.charge = Some(self.held.copy(payer, content.capacity())?);
            copy.content = Some(content);
        }
        Ok(())
    }

    fn begin(&self, right: &WriteRight, copy: &mut Copy) -> Result<Secret, FsError> {
        let (content, version) = self.vault.base(right)?;
        copy.begins_with(version);
        Ok(content)
    }

    fn truncate_copy(&self, copy: &mut Copy, size: u64, payer: Payer, through: Option<u64>) -> Result<(), FsError> {
        let len = copy.content.as_ref().ok_or(FsError::Stale)?.len() as u64;
        if len == size && copy.changed {
            return Ok(());
        }
        self.size_to(copy, usize::try_from(size).map_err(|_| FsError::Unsupported)?, payer)?;
        copy.changed = true;
        copy.refused = false;
        copy.mtime = Some(Timestamp::now());
        copy.through.extend(through);
        Ok(())
    }

    /// Resizes the content, at the cost of who loaded it, or of `payer`.
    fn size_to(&self, copy: &mut Copy, len: usize, payer: Payer) -> Result<(), FsError> {
        let content = copy.content.as_mut().ok_or(FsError::Stale)?;
        if len > content.capacity() {
            // As much as Secret::resize takes.
            let block = len.max(content.capacity().saturating_mul(2)).next_power_of_two();
            match &mut copy.charge {
                Some(charge) => charge.grow_to(block)?,
                None => copy.charge = Some(self.held.copy(payer, block)?),
            }
        }
        Ok(content.resize(len)?)
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

fn unload(copy: &mut Copy) {
    copy.content = None;
    copy.charge = None;
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

/// The copy is about to get what this handle's opener writes.
fn written(copy: &mut Copy, writer: &Writer) {
    copy.refused = false;
    if copy.author == Some(writer.uid()) {
        return;
    }
    copy.author = Some(writer.uid());
    copy.state += 1;
    // Who has seen all there was knows his own addition.
    let _ = writer.seen.compare_exchange(copy.state, copy.state + 1, Ordering::Relaxed, Ordering::Relaxed);
}

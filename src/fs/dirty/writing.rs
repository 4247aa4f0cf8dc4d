//! What is written, truncated and read while it is not committed.
//!
//! Owns how a copy begins and grows; when it is committed is for its neighbour.

use super::{Copy, Open, Writer, lock, unload, written};
use crate::audit;
use crate::fs::handle::{Seat, is_writer, window};
use crate::fs::quota::Payer;
use crate::fs::{Fs, FsError, Opened};
use crate::lock::Mutex;
use crate::meter::Resource;
use crate::model::{CallerInfo, Ino, Timestamp, VersionNo};
use crate::secret::Secret;
use crate::vault::{Caller, Content, VaultError, WriteRight};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

impl Fs {
    pub(in crate::fs) fn open_writer(
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
            let mut copies = self.dirties.copies.lock();
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
        self.dirties.writers.lock().insert(number, Arc::new(writer));
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
        who: impl FnOnce() -> CallerInfo,
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

    /// READ through a handle that also writes: it sees the dirty copy. What came in by others since it was opened is
    /// shown only to who may open it now.
    pub(in crate::fs) fn read_dirty(
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

    /// Takes a name away from a secret; who has it open reads and writes on.
    pub(in crate::fs) fn keep_open<R>(
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
}

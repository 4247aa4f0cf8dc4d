//! Handles: numbers that the kernel gives back with every READ, WRITE and RELEASE.
//!
//! A read handle's number is written down in the [register](super::register), so that a daemon which does not know it reads on:
//! as it was decided if this is another daemon, by a fresh decision if the store was locked meanwhile. A write handle of another daemon is
//! stale.
//!
//! Read:  0 ‖ the register's number. Write: 1 ‖ 31 bits of this daemon's start ‖ 32 bits of a counter.

use super::held::{Charge, Held, Payer};
use super::register::{Entry as Registered, Register};
use super::{Fs, FsError, OpenMode, Opened};
use crate::audit;
use crate::model::{Ino, Uid};
use crate::secret::Secret;
use crate::vault::{Caller, Holder, Opened as VaultOpened, VaultError};
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const WRITER: u64 = 1 << 63;
/// Read handles are spread over so many tables: opening one is the hot path.
const SHARDS: usize = 16;

/// A secret opened for reading: one version, whole, until it is released.
pub struct ReadHandle {
    ino: Ino,
    holder: Holder,
    content: Secret,
    _charge: Charge,
    /// Whether the kernel filled pages from it (a private mmap): they are dropped after the release.
    mapped: AtomicBool,
}

/// All handles.
pub(super) struct Handles {
    readers: [Mutex<HashMap<u64, Arc<ReadHandle>>>; SHARDS],
    next: AtomicU64,
    started: u64,
    count: AtomicU64,
    held: Arc<Held>,
    register: Register,
}

impl Handles {
    pub fn new(held: Arc<Held>, register: Register) -> Self {
        let mut started = [0; 4];
        getrandom::getrandom(&mut started).expect("getrandom(2) does not fail on a kernel that mounts FUSE");
        Handles {
            readers: std::array::from_fn(|_| Mutex::default()),
            next: AtomicU64::new(1),
            started: u64::from(u32::from_ne_bytes(started) >> 1),
            count: AtomicU64::new(0),
            held,
            register,
        }
    }

    pub fn register(&self) -> &Register {
        &self.register
    }

    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// A number for a handle on the dirty copy.
    pub fn writer(&self) -> u64 {
        self.count.fetch_add(1, Ordering::Relaxed);
        WRITER | self.started << 32 | (self.next.fetch_add(1, Ordering::Relaxed) & u64::from(u32::MAX))
    }

    pub fn writers_released(&self, how_many: usize) {
        self.count.fetch_sub(how_many as u64, Ordering::Relaxed);
    }

    /// Keeps content for a reader, under a new number.
    pub fn keep(&self, ino: Ino, opened: VaultOpened, uid: Uid) -> Result<Opened, FsError> {
        let charge = self.held.charge(Payer::of(uid, &opened.holder), opened.content.capacity())?;
        let entry = Registered { ino, blob: opened.blob, instance: opened.holder.instance(), locked_since: false };
        let number = self.register.add(entry);
        self.insert(number, ino, opened, charge);
        Ok(Opened::Reader(number))
    }

    /// The same under the number it has; another thread that reads through it may be first.
    fn keep_on(&self, number: u64, ino: Ino, opened: VaultOpened, uid: Uid) -> Result<Arc<ReadHandle>, FsError> {
        let charge = self.held.charge(Payer::of(uid, &opened.holder), opened.content.capacity())?;
        Ok(self.insert(number, ino, opened, charge))
    }

    fn insert(&self, number: u64, ino: Ino, opened: VaultOpened, charge: Charge) -> Arc<ReadHandle> {
        let VaultOpened { content, holder, .. } = opened;
        let mut shard = self.shard(number);
        let handle = shard.entry(number).or_insert_with(|| {
            self.count.fetch_add(1, Ordering::Relaxed);
            Arc::new(ReadHandle { ino, holder, content, _charge: charge, mapped: AtomicBool::new(false) })
        });
        Arc::clone(handle)
    }

    fn get(&self, number: u64) -> Option<Arc<ReadHandle>> {
        self.shard(number).get(&number).cloned()
    }

    /// Releases a reader. The inode, if the kernel filled pages from it.
    fn release(&self, number: u64) -> Option<Ino> {
        self.register.remove(number);
        let handle = self.shard(number).remove(&number)?;
        self.count.fetch_sub(1, Ordering::Relaxed);
        handle.mapped.load(Ordering::Relaxed).then_some(handle.ino)
    }

    /// The inodes that somebody reads.
    pub fn inodes(&self) -> HashSet<Ino> {
        let inodes = |shard: &Mutex<HashMap<u64, Arc<ReadHandle>>>| {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            shard.values().map(|handle| handle.ino).collect::<Vec<_>>()
        };
        self.readers.iter().flat_map(inodes).collect()
    }

    /// The inodes that the kernel filled pages from, for callers inside this instance.
    pub fn mapped_by(&self, instance: Ino) -> HashSet<Ino> {
        let mapped =
            |handle: &&Arc<ReadHandle>| handle.holder.is_instance(instance) && handle.mapped.load(Ordering::Relaxed);
        let inodes = |shard: &Mutex<HashMap<u64, Arc<ReadHandle>>>| {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            shard.values().filter(mapped).map(|handle| handle.ino).collect::<Vec<_>>()
        };
        self.readers.iter().flat_map(inodes).collect()
    }

    /// Drops them all. The inodes of those that the kernel filled pages from.
    pub fn clear(&self) -> Vec<Ino> {
        self.register.locked();
        let mut mapped = Vec::new();
        for shard in &self.readers {
            let dropped: Vec<_> = shard.lock().unwrap_or_else(PoisonError::into_inner).drain().collect();
            self.count.fetch_sub(dropped.len() as u64, Ordering::Relaxed);
            mapped.extend(dropped.iter().filter(|(_, h)| h.mapped.load(Ordering::Relaxed)).map(|(_, h)| h.ino));
        }
        mapped
    }

    fn shard(&self, number: u64) -> MutexGuard<'_, HashMap<u64, Arc<ReadHandle>>> {
        let shard = number as usize % SHARDS;
        self.readers[shard].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a number is a write handle's.
pub(super) fn is_writer(number: u64) -> bool {
    number & WRITER != 0
}

impl Fs {
    /// OPEN.
    ///
    /// # Errors
    /// [`FsError`]; the refusal is in the log.
    pub fn open(&self, caller: &impl Caller, tid: u32, ino: Ino, mode: OpenMode) -> Result<Opened, FsError> {
        if self.own.attr(ino).is_some() {
            self.own.refuse_writing(mode)?;
            let content = self.own.content(&self.vault, ino, caller.uid())?;
            return self.handles.keep(ino, VaultOpened::own(content), caller.uid());
        }
        if !mode.write && !mode.truncate {
            let opened = self.vault.open_there(caller, ino)?;
            return self.handles.keep(ino, opened, caller.uid());
        }
        if mode == (OpenMode { read: false, write: true, truncate: false }) && self.vault.may_be_poked(caller, ino) {
            // Whoever watches a view hears of it when it is opened and closed for writing; nothing is ever written.
            let nothing = VaultOpened::own(Secret::zeroed(0)?);
            return self.handles.keep(ino, nothing, caller.uid());
        }
        let right = self.vault.open_write(caller, ino)?;
        self.vault.may_reach_to_write(caller, &right)?;
        let read = if mode.read { Some(self.vault.open_there(caller, ino)?.version) } else { None };
        self.open_writer(caller, tid, right, read, mode.truncate)
    }

    /// READ: hands the bytes from `offset` on to `reply`, without a copy. `filling` says that the kernel fills its page
    /// cache with them.
    ///
    /// # Errors
    /// [`FsError`]: the scope's key may have been revoked since the open.
    pub fn read(
        &self,
        caller: &impl Caller,
        ino: Ino,
        number: u64,
        (offset, size): (u64, u32),
        filling: bool,
        reply: impl FnOnce(&[u8]),
    ) -> Result<(), FsError> {
        if is_writer(number) {
            return self.read_dirty(caller, number, (offset, size), reply);
        }
        let handle = match self.handles.get(number) {
            Some(handle) if handle.ino == ino => handle,
            Some(_) | None => self.reopen(caller, ino, number)?,
        };
        if !super::own::is_own(ino) {
            let alive = self.vault.still_alive(&handle.holder);
            self.recording_read(caller, ino, alive)?;
        }
        if filling {
            handle.mapped.store(true, Ordering::Relaxed);
        }
        reply(window(handle.content.expose(), offset, size));
        Ok(())
    }

    /// A read handle whose content this daemon does not have: it was opened by the one before, or the store was locked
    /// meanwhile. After a lock it is decided anew, for whoever reads now.
    fn reopen(&self, caller: &impl Caller, ino: Ino, number: u64) -> Result<Arc<ReadHandle>, FsError> {
        if super::own::is_own(ino) {
            let content = self.own.content(&self.vault, ino, caller.uid())?;
            return self.handles.keep_on(number, ino, VaultOpened::own(content), caller.uid());
        }
        let entry = self.handles.register.get(number).filter(|entry| entry.ino == ino).ok_or(FsError::Stale)?;
        let opened = match entry.locked_since {
            true => self.vault.open_blob(caller, ino, entry.blob),
            false => self.vault.resume(caller, ino, entry.blob, entry.instance),
        };
        let opened = match opened {
            // What was decided is recorded; while it is locked nothing is.
            Err(VaultError::Locked) => self.recording_read(caller, ino, Err(VaultError::Locked))?,
            // The version is not kept any more.
            Err(VaultError::NotFound) => {
                self.recording_read(caller, ino, Err(VaultError::NotFound)).map_err(|_| FsError::Stale)?
            }
            other => other?,
        };
        self.handles.register.decided(number, opened.holder.instance());
        self.handles.keep_on(number, ino, opened, caller.uid())
    }

    /// Writes down that a handle which was opened once is not read on.
    pub(super) fn recording_read<R>(
        &self,
        caller: &impl Caller,
        ino: Ino,
        result: Result<R, VaultError>,
    ) -> Result<R, VaultError> {
        if let Err(error) = &result {
            let path = self.vault.path_of(ino, None);
            self.vault.record_refusal(audit::Operation::Read, &path, &caller.who(), &error.to_string());
        }
        result
    }

    /// RELEASE of a reader. The inode, if its pages are to be dropped.
    pub fn release_reader(&self, number: u64) -> Option<Ino> {
        self.handles.release(number)
    }

    pub(super) fn new_writer(&self) -> u64 {
        self.handles.writer()
    }

    pub(super) fn writer_gone(&self) {
        self.handles.writers_released(1);
    }
}

/// The bytes from `offset` on, `size` at most.
pub(super) fn window(content: &[u8], offset: u64, size: u32) -> &[u8] {
    let from = usize::try_from(offset).unwrap_or(usize::MAX).min(content.len());
    let to = from.saturating_add(size as usize).min(content.len());
    &content[from..to]
}

//! Handles: numbers that the kernel gives back with every READ, WRITE and RELEASE.
//!
//! A read handle's number holds the version it reads, so that a daemon which does not know it (it was restarted, or
//! locked meanwhile) can open that version anew, by a fresh decision. A write handle of another daemon is stale.
//!
//! Read:  0 ‖ 23 bits of a counter ‖ 40 bits of the version.
//! Write: 1 ‖ 31 bits of this daemon's start ‖ 32 bits of a counter.

use super::held::{Charge, Held, Payer};
use super::{Fs, FsError, OpenMode, Opened};
use crate::audit;
use crate::model::{Ino, Kind, Name, Scope, Uid, VersionNo};
use crate::secret::Secret;
use crate::vault::{Caller, Holder, VaultError};
use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const WRITER: u64 = 1 << 63;
const VERSION_BITS: u32 = 40;
const COUNTER_MASK: u64 = (1 << 23) - 1;
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

/// A directory opened: its entries at that moment.
pub struct DirHandle {
    /// Inode, kind and name, `.` and `..` first.
    pub entries: Vec<(Ino, Kind, Box<str>)>,
}

/// All handles.
pub(super) struct Handles {
    readers: [Mutex<HashMap<u64, Arc<ReadHandle>>>; SHARDS],
    directories: Mutex<HashMap<u64, Arc<DirHandle>>>,
    next: AtomicU64,
    started: u64,
    count: AtomicU64,
    held: Arc<Held>,
}

impl Handles {
    pub fn new(held: Arc<Held>) -> Self {
        let mut started = [0; 4];
        getrandom::getrandom(&mut started).expect("getrandom(2) does not fail on a kernel that mounts FUSE");
        Handles {
            readers: std::array::from_fn(|_| Mutex::default()),
            directories: Mutex::default(),
            next: AtomicU64::new(1),
            started: u64::from(u32::from_ne_bytes(started) >> 1),
            count: AtomicU64::new(0),
            held,
        }
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

    /// Keeps content for a reader, under a number that is known already or a new one.
    pub fn keep(
        &self,
        number: Option<u64>,
        ino: Ino,
        version: Option<VersionNo>,
        content: Secret,
        uid: Uid,
        holder: Holder,
    ) -> Result<Opened, FsError> {
        let charge = self.held.charge(Payer::of(uid, &holder), content.capacity())?;
        let version = version.map_or(0, |v| v.0) & ((1 << VERSION_BITS) - 1);
        let handle = Arc::new(ReadHandle { ino, holder, content, _charge: charge, mapped: AtomicBool::new(false) });
        loop {
            let fresh = || (self.next.fetch_add(1, Ordering::Relaxed) & COUNTER_MASK) << VERSION_BITS | version;
            let chosen = number.unwrap_or_else(fresh);
            match self.shard(chosen).entry(chosen) {
                Entry::Vacant(place) => {
                    place.insert(handle);
                    self.count.fetch_add(1, Ordering::Relaxed);
                    return Ok(Opened::Reader(chosen));
                }
                // Another thread that reads through the same handle was first.
                Entry::Occupied(_) if number.is_some() => return Ok(Opened::Reader(chosen)),
                Entry::Occupied(_) => {}
            }
        }
    }

    fn get(&self, number: u64) -> Option<Arc<ReadHandle>> {
        self.shard(number).get(&number).cloned()
    }

    /// Releases a reader. The inode, if the kernel filled pages from it.
    fn release(&self, number: u64) -> Option<Ino> {
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
        let mut mapped = Vec::new();
        for shard in &self.readers {
            let dropped: Vec<_> = shard.lock().unwrap_or_else(PoisonError::into_inner).drain().collect();
            self.count.fetch_sub(dropped.len() as u64, Ordering::Relaxed);
            mapped.extend(dropped.iter().filter(|(_, h)| h.mapped.load(Ordering::Relaxed)).map(|(_, h)| h.ino));
        }
        self.directories.lock().unwrap_or_else(PoisonError::into_inner).clear();
        mapped
    }

    fn shard(&self, number: u64) -> MutexGuard<'_, HashMap<u64, Arc<ReadHandle>>> {
        let shard = (number >> VERSION_BITS) as usize % SHARDS;
        self.readers[shard].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn directories(&self) -> MutexGuard<'_, HashMap<u64, Arc<DirHandle>>> {
        self.directories.lock().unwrap_or_else(PoisonError::into_inner)
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
            return self.handles.keep(None, ino, None, content, caller.uid(), Holder::daemon(&Scope::Host));
        }
        if !mode.write && !mode.truncate {
            let opened = self.vault.open_read(caller, ino)?;
            return self.handles.keep(None, ino, opened.version, opened.content, caller.uid(), opened.holder);
        }
        let right = self.vault.open_write(caller, ino)?;
        let read = if mode.read { Some(self.vault.open_read(caller, ino)?.version) } else { None };
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

    /// A read handle this daemon does not know: it was locked meanwhile. Decided anew, for whoever reads now.
    fn reopen(&self, caller: &impl Caller, ino: Ino, number: u64) -> Result<Arc<ReadHandle>, FsError> {
        if super::own::is_own(ino) {
            let content = self.own.content(&self.vault, ino, caller.uid())?;
            self.handles.keep(Some(number), ino, None, content, caller.uid(), Holder::daemon(&Scope::Host))?;
            return self.handles.get(number).ok_or(FsError::Stale);
        }
        let version = number & ((1 << VERSION_BITS) - 1);
        let opened = match self.vault.open_version(caller, ino, version) {
            // What was decided is recorded; while it is locked nothing is.
            Err(VaultError::Locked) => self.recording_read(caller, ino, Err(VaultError::Locked))?,
            other => other?,
        };
        self.handles.keep(Some(number), ino, opened.version, opened.content, caller.uid(), opened.holder)?;
        self.handles.get(number).filter(|handle| handle.ino == ino).ok_or(FsError::Stale)
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

    /// OPENDIR: takes the entries as they are now, so that a listing is not disturbed by what is removed meanwhile.
    ///
    /// # Errors
    /// [`FsError`].
    pub fn open_dir(&self, ino: Ino) -> Result<u64, FsError> {
        let entries = self.list(ino)?;
        let number = self.handles.next.fetch_add(1, Ordering::Relaxed);
        self.handles.directories().insert(number, Arc::new(DirHandle { entries }));
        Ok(number)
    }

    /// The entries of an open directory; one that is not known is read anew.
    ///
    /// # Errors
    /// [`FsError`].
    pub fn dir(&self, ino: Ino, number: u64) -> Result<Arc<DirHandle>, FsError> {
        if let Some(handle) = self.handles.directories().get(&number) {
            return Ok(Arc::clone(handle));
        }
        Ok(Arc::new(DirHandle { entries: self.list(ino)? }))
    }

    /// RELEASEDIR.
    pub fn release_dir(&self, number: u64) {
        self.handles.directories().remove(&number);
    }

    fn list(&self, ino: Ino) -> Result<Vec<(Ino, Kind, Box<str>)>, FsError> {
        let dot = |name: &str, ino| (ino, Kind::Directory, name.into());
        if let Some(mut entries) = self.own.list(ino) {
            entries.splice(0..0, [dot(".", ino), dot("..", Ino::ROOT)]);
            return Ok(entries);
        }
        let entries = match self.vault.entries(ino) {
            Err(VaultError::NotFound) if self.vault.attr(ino).is_ok() => return Err(VaultError::NotADirectory.into()),
            other => other?,
        };
        let mut all = vec![dot(".", ino), dot("..", self.vault.parent(ino)?)];
        if ino == Ino::ROOT {
            all.push(self.own.entry());
        }
        let text = |name: Name| -> Box<str> { name.as_str().into() };
        all.extend(entries.into_iter().map(|(ino, kind, name)| (ino, kind, text(name))));
        Ok(all)
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

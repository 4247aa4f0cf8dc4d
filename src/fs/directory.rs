//! Directories held open: each shows its entries as they were when it was opened, and those that show the same share them.
//!
//! Owns the snapshots. A snapshot is one directory at one generation; whoever holds a handle on it is charged for it once, whoever
//! else holds it too. The last handle takes it along.

use super::{Fs, FsError};
use crate::lock::Mutex;
use crate::meter::{Charge, Payer};
use crate::model::{Ino, Kind, Name};
use crate::sys::pages::Pages;
use crate::vault::{Caller, Look, VaultError};
use std::collections::HashMap;
use std::collections::hash_map::Entry as MapEntry;
use std::mem::size_of;
use std::sync::{Arc, Weak};

/// From how many bytes on a snapshot has pages of its own, so that they go back to the kernel with it.
const OWN_PAGES: usize = 16 << 10;
/// Bytes of an entry before the names: inode, end of the name, kind.
const ENTRY: usize = 13;

/// The entries of a directory at one moment.
pub struct Snapshot {
    /// So many entries, then their names one after the other.
    bytes: Bytes,
    count: usize,
    generation: u64,
}

enum Bytes {
    Heap(Box<[u8]>),
    Pages(Pages),
}

/// A directory held open.
pub struct DirHandle {
    ino: Ino,
    /// What it shows.
    pub snapshot: Arc<Snapshot>,
    /// Of the handle itself, and of the snapshot: one for all handles of the same payer.
    _charges: Option<(Charge, Arc<Charge>)>,
}

/// All directories held open. Lock order: innermost but for the meter's.
#[derive(Default)]
pub(super) struct Directories(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    handles: HashMap<u64, Arc<DirHandle>>,
    next: u64,
    /// Of each directory the latest snapshot, while somebody holds it, and who is charged for which.
    latest: HashMap<Ino, Latest>,
}

#[derive(Default)]
struct Latest {
    snapshot: Weak<Snapshot>,
    paid: HashMap<Payer, Weak<Charge>>,
}

impl Snapshot {
    fn of(entries: &[(Ino, Kind, Box<str>)], generation: u64) -> Self {
        let mut bytes = Vec::with_capacity(entries.iter().map(|(.., name)| ENTRY + name.len()).sum());
        let mut end = 0u32;
        for (ino, kind, name) in entries {
            end = end.saturating_add(u32::try_from(name.len()).unwrap_or(u32::MAX));
            bytes.extend_from_slice(&ino.0.to_ne_bytes());
            bytes.extend_from_slice(&end.to_ne_bytes());
            bytes.push(match kind {
                Kind::Directory => 0,
                Kind::File => 1,
                Kind::Symlink => 2,
            });
        }
        entries.iter().for_each(|(.., name)| bytes.extend_from_slice(name.as_bytes()));
        let pages = if bytes.len() < OWN_PAGES { None } else { Pages::copy_of(&bytes).ok() };
        let bytes = pages.map_or_else(|| Bytes::Heap(bytes.into_boxed_slice()), Bytes::Pages);
        Snapshot { bytes, count: entries.len(), generation }
    }

    /// Inode, kind and name, `.` and `..` first, from the one with this index on.
    pub fn from(&self, index: usize) -> impl Iterator<Item = (Ino, Kind, &[u8])> {
        let (entries, names) = self.bytes().split_at(self.count * ENTRY);
        let entry = move |at: usize| {
            let (ino, rest) = entries.get(at * ENTRY..)?.split_first_chunk::<8>()?;
            let (end, rest) = rest.split_first_chunk::<4>()?;
            let kind = match rest.first()? {
                0 => Kind::Directory,
                1 => Kind::File,
                _ => Kind::Symlink,
            };
            Some((Ino(u64::from_ne_bytes(*ino)), kind, u32::from_ne_bytes(*end) as usize))
        };
        (index.min(self.count)..self.count).map_while(move |at| {
            let begin = if at == 0 { 0 } else { entry(at - 1)?.2 };
            let (ino, kind, end) = entry(at)?;
            Some((ino, kind, names.get(begin..end)?))
        })
    }

    fn bytes(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Heap(bytes) => bytes,
            Bytes::Pages(pages) => pages,
        }
    }

    /// What it takes of memory, in bytes.
    fn size(&self) -> usize {
        size_of::<Self>() + self.bytes().len().next_multiple_of(64)
    }
}

impl Directories {
    /// Drops them all.
    pub fn clear(&self) {
        let mut inner = self.0.lock();
        let next = inner.next;
        *inner = Inner { next, ..Inner::default() };
    }

    /// The latest snapshot of a directory, if it is of this generation, and the charge of whoever pays for it already.
    fn latest(&self, ino: Ino, generation: u64, payer: Payer) -> Option<(Arc<Snapshot>, Option<Arc<Charge>>)> {
        let inner = self.0.lock();
        let latest = inner.latest.get(&ino)?;
        let snapshot = latest.snapshot.upgrade().filter(|snapshot| snapshot.generation == generation)?;
        Some((snapshot, latest.paid.get(&payer).and_then(Weak::upgrade)))
    }

    fn insert(&self, handle: DirHandle, payer: Payer) -> u64 {
        let mut inner = self.0.lock();
        let latest = inner.latest.entry(handle.ino).or_default();
        let kept = latest.snapshot.upgrade();
        // One of a later generation may have come in between: that stays the one which is shared.
        if kept.as_ref().is_none_or(|kept| kept.generation <= handle.snapshot.generation) {
            if kept.is_none_or(|kept| !Arc::ptr_eq(&kept, &handle.snapshot)) {
                *latest = Latest { snapshot: Arc::downgrade(&handle.snapshot), paid: HashMap::new() };
            }
            if let Some((_, charge)) = &handle._charges {
                latest.paid.retain(|_, charge| charge.strong_count() > 0);
                latest.paid.insert(payer, Arc::downgrade(charge));
            }
        }
        inner.next += 1;
        let number = inner.next;
        inner.handles.insert(number, Arc::new(handle));
        number
    }

    fn remove(&self, number: u64) {
        let mut inner = self.0.lock();
        let handle = inner.handles.remove(&number);
        if let Some(handle) = handle {
            let ino = handle.ino;
            drop(handle);
            if let MapEntry::Occupied(latest) = inner.latest.entry(ino)
                && latest.get().snapshot.strong_count() == 0
            {
                latest.remove();
            }
            // A table that was large keeps its size until it is made anew.
            if inner.handles.is_empty() {
                *inner = Inner { next: inner.next, ..Inner::default() };
            }
        }
    }
}

impl Fs {
    /// OPENDIR: takes the entries as they are now, so that a listing is not disturbed by what is removed meanwhile.
    ///
    /// # Errors
    /// [`FsError`], a refusal of the judge's is in the log; [`VaultError::Exhausted`] if the caller holds as much as he may.
    pub fn open_dir(&self, caller: &impl Caller, ino: Ino) -> Result<u64, FsError> {
        if !super::status_files::is_own(ino) {
            self.vault.may_look(caller, ino, Look::Entries, || true)?;
        }
        let payer = self.vault.payer(caller);
        let handle = self.held.handle(payer)?;
        // Before the entries are looked at: what changes while they are is of a later generation.
        let generation = self.generation(ino);
        let known = generation.and_then(|generation| self.directories.latest(ino, generation, payer));
        let (snapshot, charge) = match known {
            Some(known) => known,
            None => (Arc::new(Snapshot::of(&self.list(ino)?, generation.unwrap_or(0))), None),
        };
        let charge = match charge {
            Some(charge) => charge,
            None => Arc::new(self.held.snapshot(payer, snapshot.size())?),
        };
        Ok(self.directories.insert(DirHandle { ino, snapshot, _charges: Some((handle, charge)) }, payer))
    }

    /// The entries of an open directory; one that is not known is read anew.
    ///
    /// # Errors
    /// [`FsError`].
    pub fn dir(&self, ino: Ino, number: u64) -> Result<Arc<DirHandle>, FsError> {
        // A number of the daemon before this one may be another directory's here.
        if let Some(handle) = self.directories.0.lock().handles.get(&number).filter(|handle| handle.ino == ino) {
            return Ok(Arc::clone(handle));
        }
        let snapshot = Arc::new(Snapshot::of(&self.list(ino)?, 0));
        Ok(Arc::new(DirHandle { ino, snapshot, _charges: None }))
    }

    /// RELEASEDIR.
    pub fn release_dir(&self, number: u64) {
        self.directories.remove(number);
    }

    /// Counts up whenever a directory's entries change.
    fn generation(&self, ino: Ino) -> Option<u64> {
        if super::status_files::is_own(ino) { Some(0) } else { self.vault.entries_generation(ino).ok() }
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
}

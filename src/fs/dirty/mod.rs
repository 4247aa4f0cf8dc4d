//! Dirty copies: what is being written, one for each secret, shared by all who write it. Readers see the last commit.
//!
//! When it is committed: at a FLUSH, if its lock owner wrote since the last commit; what is left then, a bare
//! truncation included, at fsync or at the RELEASE of the handle that changed it. A shell's redirection closes a
//! duplicate before it writes, and a forked child's exit flushes in mid-content: neither publishes anything.

mod commit;
mod writing;

use super::FsError;
use super::quota::{Charge, Payer};
use crate::lock::{Mutex, MutexGuard, rank};
use crate::model::{CallerInfo, Ino, Timestamp, Uid};
use crate::secret::Secret;
use crate::vault::{ModeIs, WriteRight};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// A handle open for writing.
struct Writer {
    right: WriteRight,
    /// Who opened it: at FLUSH and RELEASE nobody may be asked.
    who: CallerInfo,
    /// What it was called then: a lock forgets all names.
    path: String,
    tid: u32,
    readable: bool,
    /// Whether something of it was refused because the right to write had gone: its close says so too.
    denied: AtomicBool,
    /// Up to which of the copy's states it may be shown without a new decision.
    seen: AtomicU64,
    copy: Arc<CopyLock>,
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

/// A copy, with its lock.
type CopyLock = Mutex<Copy, { rank::COPY }>;

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
    writers: Mutex<HashMap<u64, Arc<Writer>>, { rank::WRITERS }>,
    copies: Mutex<HashMap<Ino, Open>, { rank::COPIES }>,
}

struct Open {
    copy: Arc<CopyLock>,
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
            let copies = self.copies.lock();
            let open = copies.get(&ino)?;
            (Arc::clone(&open.copy), open.tids.contains(&tid))
        };
        // Whoever commits holds it across the disk: then the committed attributes do, and nobody waits.
        let Some(copy) = copy.try_lock() else { return Some(None) };
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
    pub fn clear(&self) -> (usize, Vec<(CallerInfo, String)>) {
        let writers = std::mem::take(&mut *self.writers.lock());
        self.copies.lock().clear();
        let lost = |(number, writer): (&u64, &Arc<Writer>)| {
            let changed = lock(&writer.copy).through.contains(number);
            changed.then(|| (writer.who.clone(), writer.path.clone()))
        };
        (writers.len(), writers.iter().filter_map(lost).collect())
    }

    /// The inodes that somebody writes.
    pub fn inodes(&self) -> Vec<Ino> {
        self.copies.lock().keys().copied().collect()
    }

    /// A handle on this copy.
    fn one_of(&self, copy: &Arc<CopyLock>) -> Option<Arc<Writer>> {
        let writers = self.writers.lock();
        writers.values().find(|w| Arc::ptr_eq(&w.copy, copy)).cloned()
    }

    fn get(&self, number: u64) -> Result<Arc<Writer>, FsError> {
        let writers = self.writers.lock();
        writers.get(&number).cloned().ok_or(FsError::Stale)
    }

    fn of(&self, ino: Ino) -> Option<Arc<CopyLock>> {
        let copies = self.copies.lock();
        copies.get(&ino).map(|open| Arc::clone(&open.copy))
    }
}

fn lock(copy: &CopyLock) -> MutexGuard<'_, Copy, { rank::COPY }> {
    copy.lock()
}

fn unload(copy: &mut Copy) {
    copy.content = None;
    copy.charge = None;
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

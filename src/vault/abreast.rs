//! Commits that are under way side by side: journalled, and waiting for the disk together.
//!
//! Owns who may change something at a moment. A commit of one secret's content lets go of the writer's lock while it waits for the disk, and
//! others that have nothing to do with it go on; whoever changes anything else waits until none is under way. What is under way is not in the
//! tree yet: it is shown when it is on the disk.

use super::Vault;
use super::kept::Count;
use super::writer::Writer;
use crate::lock::{Condvar, Mutex, MutexGuard, rank};
use crate::model::Ino;
use std::collections::HashMap;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::Ordering;

/// The commits under way. Its lock is taken while the writer's is held, never the other way round.
#[derive(Default)]
pub(super) struct Abreast {
    inner: Mutex<Inner, { rank::ABREAST }>,
    changed: Condvar,
}

#[derive(Default)]
struct Inner {
    /// What each adds to what is kept.
    commits: HashMap<Ino, Count>,
    /// How many wait until there is none, or are about to look.
    alone: usize,
}

/// The writer's lock, held.
pub(super) struct Writing<'a> {
    // Dropped first: a half change is seen by nobody who waits for the lock.
    _whole: Whole,
    writer: MutexGuard<'a, Writer, { rank::WRITER }>,
}

impl Deref for Writing<'_> {
    type Target = Writer;

    fn deref(&self) -> &Writer {
        &self.writer
    }
}

impl DerefMut for Writing<'_> {
    fn deref_mut(&mut self) -> &mut Writer {
        &mut self.writer
    }
}

/// A change that panics has left the tree half changed, or behind the journal: nobody may be answered from it. The daemon ends, and the next
/// begins with what the journal says. A change that another panic's unwinding makes, such as the end of a vault, is none of these.
struct Whole {
    unwinding: bool,
}

impl Whole {
    fn begin() -> Self {
        Whole { unwinding: std::thread::panicking() }
    }
}

impl Drop for Whole {
    fn drop(&mut self) {
        if std::thread::panicking() && !self.unwinding {
            tracing::error!("a change failed inside; the daemon ends, so that nothing is answered from half of it");
            std::process::abort();
        }
    }
}

/// One of them; it is over when this is dropped.
pub(super) struct UnderWay<'a> {
    _whole: Whole,
    _noted: Noted<'a>,
}

/// What keeps others from the secret.
struct Noted<'a> {
    abreast: &'a Abreast,
    ino: Ino,
}

impl Abreast {
    fn lock(&self) -> MutexGuard<'_, Inner, { rank::ABREAST }> {
        self.inner.lock()
    }

    /// What those under way add.
    pub fn adds(&self) -> Count {
        self.lock().commits.values().fold(Count::default(), |sum, one| sum.plus(*one))
    }

    /// A commit to this secret begins. With the writer's lock held.
    pub fn begin(&self, ino: Ino, adds: Count) -> UnderWay<'_> {
        self.lock().commits.insert(ino, adds);
        UnderWay { _whole: Whole::begin(), _noted: Noted { abreast: self, ino } }
    }
}

impl Drop for Noted<'_> {
    fn drop(&mut self) {
        self.abreast.lock().commits.remove(&self.ino);
        self.abreast.changed.notify_all();
    }
}

impl Vault {
    /// For whoever changes anything: nobody else does meanwhile.
    pub(super) fn lock_writer(&self) -> Writing<'_> {
        self.abreast.lock().alone += 1;
        loop {
            let writer = self.lock_writer_only();
            let mut inner = self.abreast.lock();
            if inner.commits.is_empty() {
                inner.alone -= 1;
                if inner.alone == 0 {
                    self.abreast.changed.notify_all();
                }
                return writer;
            }
            drop(writer);
            let waited = self.abreast.changed.wait_while(inner, |inner| !inner.commits.is_empty());
            drop(waited);
        }
    }

    /// For a commit to this secret: others may be under way, none to it. Whoever wants to be alone goes first.
    pub(super) fn lock_writer_beside(&self, ino: Ino) -> Writing<'_> {
        loop {
            let writer = self.lock_writer_only();
            let inner = self.abreast.lock();
            let must_wait = |inner: &Inner| inner.alone > 0 || inner.commits.contains_key(&ino);
            if !must_wait(&inner) {
                return writer;
            }
            drop(writer);
            let waited = self.abreast.changed.wait_while(inner, |inner| must_wait(inner));
            drop(waited);
        }
    }

    fn lock_writer_only(&self) -> Writing<'_> {
        self.wanted_by.fetch_add(1, Ordering::Relaxed);
        let writer = self.writer.lock();
        self.wanted_by.fetch_sub(1, Ordering::Relaxed);
        Writing { _whole: Whole::begin(), writer }
    }
}

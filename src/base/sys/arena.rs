//! The locked arena: one mapping taken once, locked, left out of core dumps and of children, handed out in blocks.
//!
//! A buddy allocator over 64-byte units. Freed blocks are wiped before they can be handed out again, so a block is
//! always zero when it is given.

use std::collections::BTreeSet;
use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, OnceLock, PoisonError};
use thiserror::Error;
use zeroize::Zeroize;

/// The smallest block, in bytes; every block is this times a power of two.
const UNIT: usize = 64;
/// Blocks up to this order (16 KiB) are kept aside when freed, not merged at once: opening a small secret is the hot path.
const QUICK_ORDERS: usize = 9;
/// How many blocks of one order are kept aside.
const QUICK_BLOCKS: usize = 64;
/// What [`alloc`] takes when nobody called [`init`]: enough for a command.
const DEFAULT_BYTES: usize = 16 << 20;

/// The arena has no block of the size asked for.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
#[error("the locked memory is used up ({asked} bytes asked)")]
pub struct ArenaFull {
    /// Bytes asked for.
    pub asked: usize,
}

/// Why the arena could not be made.
#[derive(Debug, Error)]
pub enum ArenaError {
    /// It was made before, by [`init`] or by a first [`alloc`].
    #[error("the locked memory is already set up")]
    Twice,
    /// mmap(2), mlock2(2) or madvise(2) failed.
    #[error("cannot lock {bytes} bytes of memory: {source}")]
    Lock {
        /// Size asked for.
        bytes: usize,
        /// The system's reason.
        source: std::io::Error,
    },
}

/// Makes the arena of `bytes` (rounded up to a power of two). Pages are locked when first touched, so an unused arena
/// costs nothing.
///
/// # Errors
/// [`ArenaError`] if it exists already, or if the memory cannot be had and locked.
pub fn init(bytes: usize) -> Result<(), ArenaError> {
    let arena = Arena::map(bytes)?;
    ARENA.set(arena).map_err(|_| ArenaError::Twice)
}

/// A zeroed block of at least `len` bytes.
///
/// # Errors
/// [`ArenaFull`] if there is none.
pub fn alloc(len: usize) -> Result<LockedBuf, ArenaFull> {
    let arena = match ARENA.get() {
        Some(arena) => arena,
        None => {
            let arena = Arena::map(DEFAULT_BYTES).map_err(|_| ArenaFull { asked: len })?;
            ARENA.get_or_init(|| arena)
        }
    };
    arena.alloc(len)
}

/// Bytes handed out at this moment, and the size of the arena.
pub fn usage() -> (usize, usize) {
    ARENA.get().map_or((0, DEFAULT_BYTES), |a| (a.lock().used * UNIT, a.units * UNIT))
}

/// One block of the arena: zero when handed out, wiped when dropped.
pub struct LockedBuf {
    arena: &'static Arena,
    unit: usize,
    order: usize,
}

impl Deref for LockedBuf {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: the block [unit, unit + 2^order) lies inside the mapping, which lives for ever, and the allocator
        // gave it to this LockedBuf alone until its drop; the pages are initialised (zero from mmap or from a wipe).
        unsafe { std::slice::from_raw_parts(self.arena.base.0.add(self.unit * UNIT), UNIT << self.order) }
    }
}

impl DerefMut for LockedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in deref; the exclusive borrow of self is the exclusive borrow of the block.
        unsafe { std::slice::from_raw_parts_mut(self.arena.base.0.add(self.unit * UNIT), UNIT << self.order) }
    }
}

impl Drop for LockedBuf {
    fn drop(&mut self) {
        self.zeroize();
        self.arena.lock().free(self.unit, self.order);
    }
}

static ARENA: OnceLock<Arena> = OnceLock::new();

struct Arena {
    base: Base,
    units: usize,
    free: Mutex<FreeLists>,
}

/// The start of the mapping.
struct Base(*mut u8);
// SAFETY: the pointer is only used through LockedBuf, whose blocks never overlap.
unsafe impl Send for Base {}
// SAFETY: as above; reading the address itself is harmless.
unsafe impl Sync for Base {}

impl Arena {
    fn map(bytes: usize) -> Result<Self, ArenaError> {
        let bytes = bytes.max(1 << 16).next_power_of_two();
        let fail = || ArenaError::Lock { bytes, source: std::io::Error::last_os_error() };
        // SAFETY: an anonymous private mapping at an address of the kernel's choice touches no existing memory.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(fail());
        }
        // SAFETY: base and bytes are the mapping just made; none of the three calls changes its content.
        let ok = unsafe {
            libc::mlock2(base, bytes, libc::MLOCK_ONFAULT) == 0
                && libc::madvise(base, bytes, libc::MADV_DONTDUMP) == 0
                && libc::madvise(base, bytes, libc::MADV_DONTFORK) == 0
        };
        if !ok {
            let error = fail();
            // SAFETY: the mapping is ours and nothing refers to it yet.
            unsafe { libc::munmap(base, bytes) };
            return Err(error);
        }
        let units = bytes / UNIT;
        Ok(Arena { base: Base(base.cast()), units, free: Mutex::new(FreeLists::new(units)) })
    }

    fn alloc(&'static self, len: usize) -> Result<LockedBuf, ArenaFull> {
        let full = ArenaFull { asked: len };
        let units = len.div_ceil(UNIT).max(1).checked_next_power_of_two().ok_or(full)?;
        let order = units.trailing_zeros() as usize;
        let unit = self.lock().take(order).ok_or(full)?;
        Ok(LockedBuf { arena: self, unit, order })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, FreeLists> {
        // Lock order: innermost of all, nothing is called while it is held.
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Which blocks are free. Addresses are in units.
struct FreeLists {
    by_order: Vec<BTreeSet<usize>>,
    quick: [Vec<usize>; QUICK_ORDERS],
    used: usize,
}

impl FreeLists {
    fn new(units: usize) -> Self {
        let top = units.trailing_zeros() as usize;
        let mut by_order = vec![BTreeSet::new(); top + 1];
        by_order[top].insert(0);
        FreeLists { by_order, quick: std::array::from_fn(|_| Vec::with_capacity(QUICK_BLOCKS)), used: 0 }
    }

    fn take(&mut self, order: usize) -> Option<usize> {
        let unit = match self.quick.get_mut(order).and_then(Vec::pop) {
            Some(unit) => unit,
            None => self.split(order).or_else(|| {
                self.merge_quick();
                self.split(order)
            })?,
        };
        self.used += 1 << order;
        Some(unit)
    }

    fn split(&mut self, order: usize) -> Option<usize> {
        let found = (order..self.by_order.len()).find(|o| !self.by_order[*o].is_empty())?;
        let unit = self.by_order[found].pop_first()?;
        for o in (order..found).rev() {
            self.by_order[o].insert(unit + (1 << o));
        }
        Some(unit)
    }

    fn free(&mut self, unit: usize, order: usize) {
        self.used -= 1 << order;
        match self.quick.get_mut(order) {
            Some(quick) if quick.len() < QUICK_BLOCKS => quick.push(unit),
            _ => self.merge(unit, order),
        }
    }

    fn merge(&mut self, mut unit: usize, mut order: usize) {
        while order + 1 < self.by_order.len() && self.by_order[order].remove(&(unit ^ (1 << order))) {
            unit &= !(1 << order);
            order += 1;
        }
        self.by_order[order].insert(unit);
    }

    fn merge_quick(&mut self) {
        for order in 0..QUICK_ORDERS {
            while let Some(unit) = self.quick[order].pop() {
                self.merge(unit, order);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_do_not_overlap_and_come_back_zero() {
        let mut held = Vec::new();
        for round in 0..200usize {
            let len = (round * 977) % 9000 + 1;
            let mut block = alloc(len).unwrap();
            assert!(block.len() >= len);
            assert!(block.iter().all(|b| *b == 0), "a block must be zero when handed out");
            block.fill(round as u8 | 1);
            held.push((round as u8 | 1, block));
            if round % 3 == 0 {
                held.swap_remove(round % held.len());
            }
        }
        for (mark, block) in &held {
            assert!(block.iter().all(|b| b == mark), "blocks overlap");
        }
    }

    #[test]
    fn a_full_arena_says_so_and_recovers_whole() {
        let mut lists = FreeLists::new(1 << 10);
        let mut taken: Vec<usize> = Vec::new();
        while let Some(unit) = lists.take(0) {
            taken.push(unit);
        }
        assert_eq!(taken.len(), 1 << 10);
        for unit in taken {
            lists.free(unit, 0);
        }
        assert_eq!(lists.take(10), Some(0), "all blocks merge back into one");
    }

    #[test]
    fn more_than_the_arena_is_refused() {
        assert_eq!(alloc(usize::MAX).err(), Some(ArenaFull { asked: usize::MAX }));
    }
}

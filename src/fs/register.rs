//! Which handles are open for reading, and which requests were done last, written down where the next daemon finds it: in shared
//! memory that outlives this process.
//!
//! Owns the numbers of read handles. It holds no content and decides nothing: a handle in it was decided when it was opened.
//!
//! A number: 0 ‖ 47 bits of a counter that no daemon begins anew ‖ 16 bits of a slot. Words: format, counter, how many requests were
//! noted, then six for each slot: number, inode, the blob's inode and version, instance, whether it is to be decided anew; then two for
//! each of the last [`REQUESTS`] requests: the kernel's number, and an inode.

use crate::model::{Ino, VersionNo};
use crate::store::BlobKey;
use crate::sys::table::Table;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

const FORMAT: u64 = 0x7069_6e66_0000_0002;
const SLOT_BITS: u32 = 16;
/// Slots; the last number is for handles that found none.
const SLOTS: usize = (1 << SLOT_BITS) - 1;
const WORDS: usize = 6;
const HEAD: usize = 3;
/// Requests that are remembered. One is forgotten after so many others were done, by which time it was answered: only as many as there
/// are threads are between the two at once.
const REQUESTS: usize = 4096;
const REQUESTS_AT: usize = HEAD + SLOTS * WORDS;
const LEN: NonZeroUsize = NonZeroUsize::new(REQUESTS_AT + 2 * REQUESTS).expect("it is not 0");
const COUNTER_MASK: u64 = (1 << 47) - 1;
/// Handles beyond the slots: they work, but not over a lock or a restart.
const NO_SLOT: u64 = SLOTS as u64;

/// An open handle, as it is written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// The secret.
    pub ino: Ino,
    /// The content; `None` for a file that was never written.
    pub blob: Option<BlobKey>,
    /// The attached instance whose entry opened it.
    pub instance: Option<Ino>,
    /// Whether the store was locked since: then it is decided anew.
    pub locked_since: bool,
}

/// All of them.
pub struct Register {
    table: Table,
    /// Free slots, the lowest last. Innermost lock: nothing is called while it is held.
    free: Mutex<Vec<u16>>,
}

impl Register {
    /// An empty one.
    ///
    /// # Errors
    /// What memfd_create(2) or mmap(2) say.
    pub fn new() -> io::Result<Self> {
        let table = Table::new("pinfold-handles", LEN)?;
        table.words()[0].store(FORMAT, Ordering::Relaxed);
        table.words()[1].store(1, Ordering::Relaxed);
        Ok(Self::over(table))
    }

    /// That of the daemon before this one.
    ///
    /// # Errors
    /// `InvalidData` if it is of another format, EINVAL of another size.
    pub fn of(fd: OwnedFd) -> io::Result<Self> {
        let table = Table::of(fd, LEN)?;
        match table.words()[0].load(Ordering::Relaxed) {
            FORMAT => Ok(Self::over(table)),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    fn over(table: Table) -> Self {
        let register = Register { table, free: Mutex::default() };
        let free = |slot: &u16| register.slot(*slot)[0].load(Ordering::Relaxed) == 0;
        let slots = (0..SLOTS as u16).rev().filter(free).collect();
        *register.free() = slots;
        register
    }

    /// The descriptor, for the next daemon.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.table.fd().as_fd()
    }

    /// Writes a handle down; its number. Never given twice.
    pub fn add(&self, entry: Entry) -> u64 {
        let count = self.table.words()[1].fetch_add(1, Ordering::Relaxed) & COUNTER_MASK;
        let Some(slot) = self.free().pop() else { return count << SLOT_BITS | NO_SLOT };
        let number = count << SLOT_BITS | u64::from(slot);
        let words = self.slot(slot);
        let blob = entry.blob.map_or((0, 0), |b| (b.ino.0, b.version.0));
        for (word, value) in words[1..].iter().zip([
            entry.ino.0,
            blob.0,
            blob.1,
            entry.instance.map_or(0, |i| i.0),
            u64::from(entry.locked_since),
        ]) {
            word.store(value, Ordering::Relaxed);
        }
        // Last: a daemon that is killed in between leaves a free slot.
        words[0].store(number, Ordering::Release);
        number
    }

    /// What was written down of a handle.
    pub fn get(&self, number: u64) -> Option<Entry> {
        let words = self.slot_of(number)?;
        let [_, ino, blob_ino, blob_version, instance, locked] = words else { return None };
        let load = |word: &AtomicU64| word.load(Ordering::Relaxed);
        let blob = BlobKey { ino: Ino(load(blob_ino)), version: VersionNo(load(blob_version)) };
        Some(Entry {
            ino: Ino(load(ino)),
            blob: (blob.ino != Ino(0)).then_some(blob),
            instance: Some(Ino(load(instance))).filter(|i| *i != Ino(0)),
            locked_since: load(locked) != 0,
        })
    }

    /// It was released.
    pub fn remove(&self, number: u64) {
        let Some(words) = self.slot_of(number) else { return };
        // Whoever comes second does not free a slot that may be another's by then.
        if words[0].compare_exchange(number, 0, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            self.free().push((number & NO_SLOT) as u16);
        }
    }

    /// The store was locked: every handle is to be decided anew before it is read on.
    pub fn locked(&self) {
        for words in self.table.words()[HEAD..REQUESTS_AT].chunks_exact(WORDS) {
            if words[0].load(Ordering::Acquire) != 0 {
                words[5].store(1, Ordering::Relaxed);
            }
        }
    }

    /// It was decided anew.
    pub fn decided(&self, number: u64, instance: Option<Ino>) {
        if let Some(words) = self.slot_of(number) {
            words[4].store(instance.map_or(0, |i| i.0), Ordering::Relaxed);
            words[5].store(0, Ordering::Relaxed);
        }
    }

    /// A request was done, and is not answered yet. `outcome` is what whoever gets it again has to know.
    pub fn executed(&self, number: u64, outcome: u64) {
        let at = self.table.words()[2].fetch_add(1, Ordering::Relaxed) as usize % REQUESTS;
        let words = self.request(at);
        // A daemon that is killed in between leaves no wrong outcome.
        words[0].store(0, Ordering::Release);
        words[1].store(outcome, Ordering::Release);
        words[0].store(number, Ordering::Release);
    }

    /// What came of a request, if it was done.
    pub fn outcome(&self, number: u64) -> Option<u64> {
        let found = |at: &usize| number != 0 && self.request(*at)[0].load(Ordering::Acquire) == number;
        (0..REQUESTS).find(found).map(|at| self.request(at)[1].load(Ordering::Acquire))
    }

    fn request(&self, at: usize) -> &[AtomicU64] {
        &self.table.words()[REQUESTS_AT + 2 * at..][..2]
    }

    fn slot_of(&self, number: u64) -> Option<&[AtomicU64]> {
        let slot = number & NO_SLOT;
        if slot == NO_SLOT || number == 0 {
            return None;
        }
        let words = self.slot(slot as u16);
        (words[0].load(Ordering::Acquire) == number).then_some(words)
    }

    fn slot(&self, slot: u16) -> &[AtomicU64] {
        let at = HEAD + usize::from(slot) * WORDS;
        &self.table.words()[at..at + WORDS]
    }

    fn free(&self) -> MutexGuard<'_, Vec<u16>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(ino: u64) -> Entry {
        let blob = (ino.is_multiple_of(2)).then_some(BlobKey { ino: Ino(ino), version: VersionNo(3) });
        Entry {
            ino: Ino(ino),
            blob,
            instance: Some(Ino(ino + 7)).filter(|_| ino.is_multiple_of(3)),
            locked_since: false,
        }
    }

    #[test]
    fn the_next_daemon_finds_what_is_open_and_gives_no_number_twice() {
        let register = Register::new().unwrap();
        let numbers: Vec<u64> = (1..100).map(|ino| register.add(entry(ino))).collect();
        for number in &numbers[..50] {
            register.remove(*number);
        }
        let next = Register::of(register.fd().try_clone_to_owned().unwrap()).unwrap();
        drop(register);
        for (number, ino) in numbers.iter().zip(1..) {
            assert_eq!(next.get(*number), (ino > 50).then(|| entry(ino)));
        }
        for ino in 1..200 {
            let number = next.add(entry(ino));
            assert!(!numbers.contains(&number));
            assert_eq!(next.get(number), Some(entry(ino)));
        }
    }

    #[test]
    fn a_lock_is_remembered_until_the_handle_is_decided_anew() {
        let register = Register::new().unwrap();
        let number = register.add(entry(2));
        register.locked();
        assert!(register.get(number).unwrap().locked_since);
        register.decided(number, Some(Ino(9)));
        assert_eq!(register.get(number), Some(Entry { instance: Some(Ino(9)), ..entry(2) }));
    }

    #[test]
    fn more_handles_than_slots_have_numbers_all_the_same() {
        let register = Register::new().unwrap();
        let all: Vec<u64> = (0..SLOTS + 10).map(|_| register.add(entry(1))).collect();
        assert_eq!(all.iter().collect::<std::collections::HashSet<_>>().len(), SLOTS + 10);
        assert_eq!(all.iter().filter(|n| register.get(**n).is_none()).count(), 10);
        register.remove(all[SLOTS + 5]);
        register.remove(all[5]);
        assert!(register.get(register.add(entry(4))).is_some());
    }

    #[test]
    fn the_next_daemon_knows_what_was_done_last() {
        let register = Register::new().unwrap();
        let handle = register.add(entry(2));
        for number in 1..=REQUESTS as u64 + 10 {
            register.executed(number * 2, number + 7);
        }
        let next = Register::of(register.fd().try_clone_to_owned().unwrap()).unwrap();
        assert_eq!(next.outcome(2 * 11), Some(18));
        assert_eq!(next.outcome(2 * (REQUESTS as u64 + 10)), Some(REQUESTS as u64 + 17));
        for unknown in [0, 1, 2, 2 * 10, 2 * (REQUESTS as u64 + 11)] {
            assert_eq!(next.outcome(unknown), None);
        }
        next.executed(5, 6);
        assert_eq!((register.outcome(5), register.outcome(2 * 11)), (Some(6), None), "the oldest goes");
        register.locked();
        assert_eq!((next.outcome(5), next.get(handle).unwrap().locked_since), (Some(6), true));
    }

    #[test]
    fn something_else_is_no_register() {
        let other = Table::new("other", LEN).unwrap();
        assert!(Register::of(other.fd().try_clone().unwrap()).is_err());
        assert!(Register::of(std::fs::File::open("/proc/self/exe").unwrap().into()).is_err());
    }
}

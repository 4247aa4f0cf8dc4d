//! Which handles are open for reading, and which requests were done last, written down where the next daemon finds it: in shared
//! memory that outlives this process.
//!
//! Owns the numbers of read handles. It holds no content and decides nothing: a handle in it was decided when it was opened.
//!
//! A number: whether it writes ‖ 47 bits of a counter that no daemon begins anew ‖ 16 bits of a slot. Words: format, counter, how many requests
//! were noted, the highest counter of a node, the store's id (two) and its last generation, then six for each slot: number, node, the blob's inode and version, instance, flags; then two for
//! each of the last [`REQUESTS`] requests: the kernel's number, and an inode; then four for each of [`SPREADS`] secrets that the kernel knows by another
//! number than the first, or has pages of: node, blob, flags.

use super::nodes::Node;
use crate::lock::Mutex;
use crate::model::{Ino, VersionNo};
use crate::store::BlobKey;
use crate::sys::table::Table;
use std::collections::HashMap;
use std::collections::hash_map::Entry::{Occupied, Vacant};
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

const FORMAT: u64 = 0x7069_6e66_0000_0003;
const SLOT_BITS: u32 = 16;
/// Slots; the last number is for handles that found none.
const SLOTS: usize = (1 << SLOT_BITS) - 1;
const WORDS: usize = 6;
const HEAD: usize = 7;
/// Requests that are remembered. One is forgotten after so many others were done, by which time it was answered: only as many as there
/// are threads are between the two at once.
const REQUESTS: usize = 4096;
const REQUESTS_AT: usize = HEAD + SLOTS * WORDS;
/// Secrets whose number is remembered. Of more, the next daemon begins with numbers that were never given.
const SPREADS: usize = 8192;
const SPREAD_WORDS: usize = 4;
const SPREADS_AT: usize = REQUESTS_AT + 2 * REQUESTS;
const LEN: NonZeroUsize = NonZeroUsize::new(SPREADS_AT + SPREADS * SPREAD_WORDS).expect("it is not 0");
/// In a number: it is a write handle's.
pub(super) const WRITER: u64 = 1 << 63;
/// Flags of a handle: the store was locked since; nothing is ever mapped through it; the kernel has pages through it.
const LOCKED: u64 = 1;
const PLAIN: u64 = 2;
const FILLED: u64 = 4;
/// In the word of the highest counter: not all secrets found room.
const OVERFLOWED: u64 = 1 << 63;
const COUNTER_MASK: u64 = (1 << 47) - 1;
/// Handles beyond the slots: they work, but not over a lock or a restart.
const NO_SLOT: u64 = SLOTS as u64;

/// An open handle, as it is written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// The secret, and by which number the kernel knows it.
    pub node: Node,
    /// The content; `None` for a file that was never written.
    pub blob: Option<BlobKey>,
    /// The attached instance whose entry opened it.
    pub instance: Option<Ino>,
    /// Whether the store was locked since: then it is decided anew.
    pub locked_since: bool,
    /// Whether nothing is ever mapped through it.
    pub plain: bool,
    /// Whether the kernel was given pages through it.
    pub filled: bool,
}

/// Which store, and how far it has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Standing {
    /// Its id.
    pub store: Option<[u8; 16]>,
    /// Its last commit.
    pub generation: u64,
}

/// A secret that the kernel knows by another number than the first, or has pages of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spread {
    /// The number that whoever looks it up is given.
    pub node: Node,
    /// Whether the kernel was given pages.
    pub filled: bool,
    /// What the pages are of.
    pub shown: Option<BlobKey>,
    /// Which of the first numbers ever had pages, a bit each.
    pub had_pages: u8,
    /// The highest counter it ever had.
    pub last: u32,
}

/// All of them.
pub struct Register {
    table: Table,
    /// Free slots, the lowest last. Innermost lock: nothing is called while it is held.
    free: Mutex<Vec<u16>>,
    /// Where a secret's number is noted. Innermost too.
    noted: Mutex<HashMap<Ino, usize>>,
}

impl Register {
    /// An empty one.
    ///
    /// # Errors
    /// What memfd_create(2) or mmap(2) say.
    pub fn new() -> io::Result<Self> {
        let table = Table::new("pinfold-handles", LEN)?;
        table.words()[0].store(FORMAT, Ordering::Relaxed);
        // Not from the beginning: the kernel may have numbers of a register that was not taken over.
        let mut start = [0; 8];
        getrandom::getrandom(&mut start)?;
        table.words()[1].store(u64::from_ne_bytes(start) & (COUNTER_MASK >> 1) | 1, Ordering::Relaxed);
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
        let register = Register { table, free: Mutex::default(), noted: Mutex::default() };
        let at = |at: &usize| Node::of(register.spread_at(*at)[0].load(Ordering::Relaxed)).ino;
        *register.noted.lock() = (0..SPREADS).map(|i| (at(&i), i)).filter(|(ino, _)| *ino != Ino(0)).collect();
        let free = |slot: &u16| register.slot(*slot)[0].load(Ordering::Relaxed) == 0;
        let slots = (0..SLOTS as u16).rev().filter(free).collect();
        *register.free.lock() = slots;
        register
    }

    /// The descriptor, for the next daemon.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.table.fd().as_fd()
    }

    /// What store it is of, and the last of its commits that was told.
    pub fn standing(&self) -> Standing {
        let words = &self.table.words()[4..HEAD];
        let id = (u128::from(load(&words[0])) << 64 | u128::from(load(&words[1]))).to_be_bytes();
        Standing { store: (id != [0; 16]).then_some(id), generation: load(&words[2]) }
    }

    /// It is of this store from now on.
    pub fn stands(&self, standing: Standing) {
        let id = u128::from_be_bytes(standing.store.unwrap_or_default());
        let words = &self.table.words()[4..HEAD];
        words[0].store((id >> 64) as u64, Ordering::Relaxed);
        words[1].store(id as u64, Ordering::Relaxed);
        words[2].store(standing.generation, Ordering::Relaxed);
    }

    /// The store has committed this generation.
    pub fn committed(&self, generation: u64) {
        self.table.words()[6].fetch_max(generation, Ordering::Relaxed);
    }

    /// Writes a handle down; its number. Never given twice.
    pub fn add(&self, entry: Entry, writes: bool) -> u64 {
        let count = self.table.words()[1].fetch_add(1, Ordering::Relaxed) & COUNTER_MASK;
        let kind = if writes { WRITER } else { 0 };
        let Some(slot) = self.free.lock().pop() else { return kind | count << SLOT_BITS | NO_SLOT };
        let number = kind | count << SLOT_BITS | u64::from(slot);
        let words = self.slot(slot);
        let blob = entry.blob.map_or((0, 0), |b| (b.ino.0, b.version.0));
        for (word, value) in words[1..].iter().zip([
            entry.node.id(),
            blob.0,
            blob.1,
            entry.instance.map_or(0, |i| i.0),
            if entry.locked_since { LOCKED } else { 0 }
                | if entry.plain { PLAIN } else { 0 }
                | if entry.filled { FILLED } else { 0 },
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
        let [_, node, blob_ino, blob_version, instance, flags] = words else { return None };
        let flags = load(flags);
        Some(Entry {
            node: Node::of(load(node)),
            blob: blob(load(blob_ino), load(blob_version)),
            instance: Some(Ino(load(instance))).filter(|i| *i != Ino(0)),
            locked_since: flags & LOCKED != 0,
            plain: flags & PLAIN != 0,
            filled: flags & FILLED != 0,
        })
    }

    /// All handles, by their numbers.
    pub fn entries(&self) -> Vec<(u64, Entry)> {
        let number = |slot| load(&self.slot(slot)[0]);
        (0..SLOTS as u16).map(number).filter_map(|number| Some((number, self.get(number)?))).collect()
    }

    /// The kernel is given pages through it.
    pub fn filled(&self, number: u64) {
        if let Some(words) = self.slot_of(number) {
            words[5].fetch_or(FILLED, Ordering::Relaxed);
        }
    }

    /// Notes by which number a secret is known, and whether the kernel has pages under it.
    pub fn spread(&self, spread: Spread) {
        let mut noted = self.noted.lock();
        let highest = &self.table.words()[3];
        let counter = u64::from(spread.last);
        if load(highest) & !OVERFLOWED < counter {
            highest.store(load(highest) & OVERFLOWED | counter, Ordering::Relaxed);
        }
        let count = noted.len();
        let at = match noted.entry(spread.node.ino) {
            Occupied(at) => *at.get(),
            Vacant(_) if count == SPREADS => {
                highest.fetch_or(OVERFLOWED, Ordering::Relaxed);
                return;
            }
            Vacant(at) => *at.insert(count),
        };
        let words = self.spread_at(at);
        let blob = spread.shown.map_or((0, 0), |b| (b.ino.0, b.version.0));
        words[1].store(blob.0, Ordering::Relaxed);
        words[2].store(blob.1, Ordering::Relaxed);
        let flags = u64::from(spread.filled) | u64::from(spread.had_pages) << 8 | u64::from(spread.last) << 32;
        words[3].store(flags, Ordering::Relaxed);
        // Last: a daemon that is killed in between leaves none.
        words[0].store(spread.node.id(), Ordering::Release);
    }

    /// What was noted so.
    pub fn spreads(&self) -> Vec<Spread> {
        let spread = |at| {
            let [node, ino, version, flags] = self.spread_at(at) else { return None };
            let node = Node::of(node.load(Ordering::Acquire));
            let (shown, flags) = (blob(load(ino), load(version)), load(flags));
            let (filled, had_pages, last) = (flags & 1 != 0, (flags >> 8) as u8, (flags >> 32) as u32);
            (node.ino != Ino(0)).then_some(Spread { node, filled, shown, had_pages, last })
        };
        (0..SPREADS).filter_map(spread).collect()
    }

    /// With which counter a secret's number begins that nothing is noted of.
    pub fn first_counter(&self) -> u32 {
        match load(&self.table.words()[3]) {
            highest if highest & OVERFLOWED == 0 => 0,
            highest => u32::try_from(highest & !OVERFLOWED).unwrap_or(u32::MAX).saturating_add(1),
        }
    }

    /// It was released.
    pub fn remove(&self, number: u64) {
        let Some(words) = self.slot_of(number) else { return };
        // Whoever comes second does not free a slot that may be another's by then.
        if words[0].compare_exchange(number, 0, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            self.free.lock().push((number & NO_SLOT) as u16);
        }
    }

    /// The store was locked: every handle is to be decided anew before it is read on.
    pub fn locked(&self) {
        for words in self.table.words()[HEAD..REQUESTS_AT].chunks_exact(WORDS) {
            if words[0].load(Ordering::Acquire) != 0 {
                words[5].fetch_or(LOCKED, Ordering::Relaxed);
            }
        }
    }

    /// It was decided anew.
    pub fn decided(&self, number: u64, instance: Option<Ino>) {
        if let Some(words) = self.slot_of(number) {
            words[4].store(instance.map_or(0, |i| i.0), Ordering::Relaxed);
            words[5].fetch_and(!LOCKED, Ordering::Relaxed);
        }
    }

    /// A request is about to be done, or was, and is not answered yet. `outcome` is what whoever gets it again has to know.
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

    fn spread_at(&self, at: usize) -> &[AtomicU64] {
        &self.table.words()[SPREADS_AT + SPREAD_WORDS * at..][..SPREAD_WORDS]
    }
}

fn load(word: &AtomicU64) -> u64 {
    word.load(Ordering::Relaxed)
}

fn blob(ino: u64, version: u64) -> Option<BlobKey> {
    (ino != 0).then_some(BlobKey { ino: Ino(ino), version: VersionNo(version) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(ino: u64) -> Entry {
        let blob = (ino.is_multiple_of(2)).then_some(BlobKey { ino: Ino(ino), version: VersionNo(3) });
        Entry {
            node: Node { ino: Ino(ino), counter: u32::from(ino.is_multiple_of(5)) },
            blob,
            instance: Some(Ino(ino + 7)).filter(|_| ino.is_multiple_of(3)),
            locked_since: false,
            plain: ino.is_multiple_of(7),
            filled: false,
        }
    }

    #[test]
    fn the_next_daemon_finds_what_is_open_and_gives_no_number_twice() {
        let register = Register::new().unwrap();
        let numbers: Vec<u64> = (1..100).map(|ino| register.add(entry(ino), false)).collect();
        for number in &numbers[..50] {
            register.remove(*number);
        }
        let next = Register::of(register.fd().try_clone_to_owned().unwrap()).unwrap();
        drop(register);
        for (number, ino) in numbers.iter().zip(1..) {
            assert_eq!(next.get(*number), (ino > 50).then(|| entry(ino)));
        }
        for ino in 1..200 {
            let number = next.add(entry(ino), ino.is_multiple_of(2));
            assert!(!numbers.contains(&number));
            assert_eq!(next.get(number), Some(entry(ino)));
        }
    }

    #[test]
    fn a_lock_is_remembered_until_the_handle_is_decided_anew() {
        let register = Register::new().unwrap();
        let number = register.add(entry(2), false);
        register.locked();
        assert!(register.get(number).unwrap().locked_since);
        register.decided(number, Some(Ino(9)));
        assert_eq!(register.get(number), Some(Entry { instance: Some(Ino(9)), ..entry(2) }));
    }

    #[test]
    fn more_handles_than_slots_have_numbers_all_the_same() {
        let register = Register::new().unwrap();
        let all: Vec<u64> = (0..SLOTS + 10).map(|_| register.add(entry(1), false)).collect();
        assert_eq!(all.iter().collect::<std::collections::HashSet<_>>().len(), SLOTS + 10);
        assert_eq!(all.iter().filter(|n| register.get(**n).is_none()).count(), 10);
        register.remove(all[SLOTS + 5]);
        register.remove(all[5]);
        assert!(register.get(register.add(entry(4), false)).is_some());
    }

    #[test]
    fn the_next_daemon_knows_what_was_done_last() {
        let register = Register::new().unwrap();
        let handle = register.add(entry(2), false);
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
    fn the_next_daemon_knows_the_numbers_of_secrets_and_pages() {
        let register = Register::new().unwrap();
        let shown = Some(BlobKey { ino: Ino(2000), version: VersionNo(7) });
        let spread = |ino, counter, filled| Spread {
            node: Node { ino: Ino(ino), counter },
            filled,
            shown: shown.filter(|_| filled),
            had_pages: u8::from(filled),
            last: counter,
        };
        register.spread(spread(2000, 1, false));
        register.spread(spread(2001, 0, true));
        register.spread(spread(2000, 2, true));
        let number = register.add(entry(2), false);
        register.filled(number);
        let next = Register::of(register.fd().try_clone_to_owned().unwrap()).unwrap();
        assert_eq!(next.spreads(), [spread(2000, 2, true), spread(2001, 0, true)]);
        assert_eq!(next.entries(), [(number, Entry { filled: true, ..entry(2) })]);
        assert_eq!(next.first_counter(), 0);
        (0..SPREADS as u64).for_each(|i| next.spread(spread(3000 + i, 1, false)));
        assert_eq!(next.spreads().len(), SPREADS);
        assert_eq!(next.first_counter(), 3, "one that was never given");
    }

    #[test]
    fn something_else_is_no_register() {
        let other = Table::new("other", LEN).unwrap();
        assert!(Register::of(other.fd().try_clone().unwrap()).is_err());
        assert!(Register::of(std::fs::File::open("/proc/self/exe").unwrap().into()).is_err());
    }
}

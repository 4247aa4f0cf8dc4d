//! Commits that share a sync: who waits for the disk, and what each is told.
//!
//! Owns the tickets. A commit that is journalled takes one; whoever gets to the disk first takes there what all others have journalled by then.

use super::StoreError;
use std::collections::VecDeque;
use std::ops::RangeInclusive;

/// How many failed syncs are remembered for those who have not asked yet.
const MAX_LOST: usize = 1024;

/// A commit that is journalled. Whether it is so for good, [`Store::settle`](super::Store::settle) says: to be asked once, by whoever has it.
#[derive(Debug)]
#[must_use = "it is not known to be on the disk"]
pub struct Journalled(pub(super) u64);

/// Which tickets were given, and what became of them.
#[derive(Debug, Default)]
pub(super) struct Tickets {
    given: u64,
    settled: u64,
    /// Those that never happened, and why.
    lost: VecDeque<(RangeInclusive<u64>, String)>,
}

impl Tickets {
    /// The next one.
    pub(super) fn give(&mut self) -> Journalled {
        self.given += 1;
        Journalled(self.given)
    }

    /// The last that was given.
    pub(super) fn last(&self) -> u64 {
        self.given
    }

    /// One for what is on the disk already.
    pub(super) fn done() -> Journalled {
        Journalled(0)
    }

    /// What became of it; `None` as long as that is not known.
    pub(super) fn outcome(&self, of: &Journalled) -> Option<Result<(), StoreError>> {
        if of.0 > self.settled {
            return None;
        }
        let lost = self.lost.iter().find(|(range, _)| range.contains(&of.0));
        Some(lost.map_or(Ok(()), |(_, why)| Err(StoreError::Failed(why.clone()))))
    }

    /// All up to this one are on the disk.
    pub(super) fn settle(&mut self, last: u64) {
        self.settled = self.settled.max(last);
    }

    /// Whatever is not settled never happened.
    pub(super) fn lose(&mut self, why: &StoreError) {
        if self.settled < self.given {
            if self.lost.len() == MAX_LOST {
                self.lost.pop_front();
            }
            self.lost.push_back((self.settled + 1..=self.given, why.to_string()));
            self.settled = self.given;
        }
    }
}

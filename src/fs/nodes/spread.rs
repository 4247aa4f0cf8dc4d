//! What is open under the numbers of one secret.
//!
//! Owns which of them fits, and which is the next.

use super::{Node, Row, Want};
use crate::model::Ino;
use crate::store::BlobKey;
use std::collections::BTreeMap;

/// The highest counter.
pub(super) const LAST: u32 = (1 << 23) - 1;
/// Of so many of the first it is known whether they ever had pages: those that had none are used again.
pub(super) const FIRST: u32 = 8;

/// What is open under one number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Held {
    pub readers: u32,
    /// What readers are shown, or the pages are of.
    pub shown: Option<BlobKey>,
    /// Those that map nothing.
    pub plain: u32,
    /// Whether the kernel was given pages. They may outlive all handles: somebody may have one in a pipe.
    pub filled: bool,
    /// Its writers are those of a daemon that is gone: the kernel lets nobody in beside them.
    pub lost: bool,
}

impl Held {
    pub fn is_free(&self) -> bool {
        self.readers == 0 && self.plain == 0
    }

    pub fn shows(&self, what: Option<BlobKey>) -> bool {
        (self.readers == 0 && !self.filled) || self.shown == what
    }

    pub fn fits(&self, want: Want) -> bool {
        !self.lost
            && match want {
                Want::Show(what) | Want::Just(what) => self.plain == 0 && self.shows(what),
                Want::Plain => self.readers == 0 && !self.filled,
                Want::Write => true,
            }
    }

    /// Whether the same is open under it already.
    pub fn is_home(&self, want: Want) -> bool {
        !self.is_free() && want != Want::Write && self.fits(want)
    }
}

#[derive(Debug, Default)]
pub(super) struct Spread {
    /// The number that whoever looks the name up is given.
    pub current: u32,
    /// The highest there was.
    pub last: u32,
    /// Which of the first ever had pages, a bit each.
    pub had_pages: u8,
    pub nodes: BTreeMap<u32, Held>,
}

impl Spread {
    pub fn at(&self, counter: u32) -> Held {
        self.nodes.get(&counter).copied().unwrap_or_default()
    }

    /// One that nobody uses and that has no pages, not even in a pipe: it is the current one from now on.
    pub fn another(&mut self) -> u32 {
        let clean = |counter: &u32| self.had_pages & 1 << counter == 0 && self.at(*counter).is_free();
        self.current = match (0..FIRST).find(clean) {
            Some(counter) => counter,
            // After eight million others the kernel has forgotten what was under it, unless somebody holds it.
            None => {
                let mut next = self.last.max(FIRST - 1);
                loop {
                    next = if next >= LAST { FIRST } else { next + 1 };
                    if self.at(next).is_free() {
                        break next;
                    }
                }
            }
        };
        self.last = self.last.max(self.current);
        self.current
    }

    pub fn row(&self, ino: Ino) -> Row {
        let Held { filled, shown, .. } = self.at(self.current);
        let node = Node { ino, counter: self.current };
        Row { node, filled, shown: shown.filter(|_| filled), had_pages: self.had_pages, last: self.last }
    }

    pub fn home(&self, want: Want) -> Option<u32> {
        self.nodes.iter().find(|(_, held)| held.is_home(want)).map(|(counter, _)| *counter)
    }
}

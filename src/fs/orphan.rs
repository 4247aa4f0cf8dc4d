//! Removed while open: the attributes of nodes that have no name any more, for those who still hold them.

use crate::lock::Mutex;
use crate::model::Ino;
use crate::vault::Attr;
use std::collections::{HashMap, HashSet};

/// From how many on those that nobody holds are cleared away.
const MANY: usize = 1024;

/// The nodes that lost their name while somebody may have had them open.
pub(super) struct Orphans(Mutex<Inner>);

struct Inner {
    known: HashMap<Ino, Attr>,
    /// How many there may be before the next look at which are still held.
    enough: usize,
}

impl Default for Orphans {
    fn default() -> Self {
        Orphans(Mutex::new(Inner { known: HashMap::new(), enough: MANY }))
    }
}

impl Orphans {
    /// Remembers one. `held` says which inodes are open; it is asked now and then.
    pub fn add(&self, attr: Attr, held: impl FnOnce() -> HashSet<Ino>) {
        let mut inner = self.0.lock();
        inner.known.insert(attr.ino, Attr { nlink: 0, ..attr });
        if inner.known.len() > inner.enough {
            let held = held();
            inner.known.retain(|ino, _| *ino == attr.ino || held.contains(ino));
            // Twice what is held: so a look costs each removal the same, however many are held.
            inner.enough = MANY.max(inner.known.len() * 2);
        }
    }

    /// What it looked like.
    pub fn get(&self, ino: Ino) -> Option<Attr> {
        self.0.lock().known.get(&ino).copied()
    }

    /// The store was locked: what there was is not known any more.
    pub fn clear(&self) {
        self.0.lock().known.clear();
    }
}

//! Removed while open: the attributes of nodes that have no name any more, for those who still hold them.

use crate::model::Ino;
use crate::vault::Attr;
use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

/// How many are remembered; the oldest goes first.
const MAX: usize = 1024;

/// The last nodes that lost their name.
#[derive(Default)]
pub(super) struct Orphans(Mutex<(HashMap<Ino, Attr>, VecDeque<Ino>)>);

impl Orphans {
    /// Remembers one.
    pub fn add(&self, attr: Attr) {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (known, order) = &mut *inner;
        if known.insert(attr.ino, Attr { nlink: 0, ..attr }).is_none() {
            order.push_back(attr.ino);
        }
        if order.len() > MAX
            && let Some(oldest) = order.pop_front()
        {
            known.remove(&oldest);
        }
    }

    /// What it looked like.
    pub fn get(&self, ino: Ino) -> Option<Attr> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).0.get(&ino).copied()
    }
}

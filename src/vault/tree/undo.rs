//! What the tree was before a transaction, in case that fails.
//!
//! Owns the list of what was changed since it was begun. While there is none, nothing is noted.

use super::{Recount, RenamedAway, Tree};
use crate::model::Ino;
use crate::store::BlobKey;
use crate::vault::node::{Node, Tombstone};
use std::collections::VecDeque;
use std::sync::Arc;

/// One thing as it was.
#[derive(Clone)]
pub(super) enum Was {
    Node(Ino, Option<Arc<Node>>),
    Tombstone(String, Option<(Ino, Arc<Tombstone>)>),
    Shared(Vec<(BlobKey, Option<u32>)>),
    RenamedAway(VecDeque<RenamedAway>),
}

impl Tree {
    /// What is changed from now on can be taken back.
    pub fn begin(&mut self) {
        self.undo = Some(Vec::new());
    }

    /// What was changed stays.
    pub fn keep(&mut self) {
        self.undo = None;
    }

    /// Everything is as it was when it was begun.
    pub fn roll_back(&mut self) {
        for was in self.undo.take().into_iter().flatten().rev() {
            match was {
                Was::Node(ino, Some(node)) => self.put(ino, (*node).clone()),
                Was::Node(ino, None) => drop(self.remove(ino)),
                Was::Tombstone(_, Some((ino, tombstone))) => {
                    self.tombstones.insert(ino, (*tombstone).clone(), &mut self.kept)
                }
                Was::Tombstone(path, None) => drop(self.tombstones.remove(&path, &mut self.kept)),
                Was::Shared(counts) => counts.into_iter().for_each(|(blob, count)| {
                    match count {
                        Some(count) => self.shared.insert(blob, count),
                        None => self.shared.remove(&blob),
                    };
                }),
                Was::RenamedAway(left) => self.left = left,
            }
        }
    }

    pub(super) fn note_node(&mut self, ino: Ino) {
        if let Some(undo) = &mut self.undo {
            undo.push(Was::Node(ino, self.nodes.get(&ino).cloned()));
        }
    }

    pub(super) fn note_tombstone(&mut self, path: &str) {
        if let Some(undo) = &mut self.undo {
            undo.push(Was::Tombstone(path.to_owned(), self.tombstones.get(path).cloned()));
        }
    }

    /// These were taken out.
    pub(super) fn note_gone(&mut self, gone: &[(Ino, Arc<Tombstone>)]) {
        if let Some(undo) = &mut self.undo {
            undo.extend(gone.iter().map(|gone| Was::Tombstone(gone.1.path.clone(), Some(gone.clone()))));
        }
    }

    pub(super) fn note_shared(&mut self, recount: &Recount) {
        if let Some(undo) = &mut self.undo {
            let was = |blob: &BlobKey| (*blob, self.shared.get(blob).copied());
            undo.push(Was::Shared(recount.holders.keys().map(was).collect()));
        }
    }

    pub(super) fn note_left_ones(&mut self) {
        if let Some(undo) = &mut self.undo
            && !self.left.is_empty()
        {
            undo.push(Was::RenamedAway(self.left.clone()));
        }
    }
}

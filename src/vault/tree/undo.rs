//! What the tree was before a transaction, in case that fails.
//!
//! Owns the list of what was changed since it was begun. While there is none, nothing is noted.

use super::{Left, Recount, Tree};
use crate::model::Ino;
use crate::store::BlobKey;
use crate::vault::node::{Grave, Node};
use std::collections::VecDeque;
use std::sync::Arc;

/// One thing as it was.
#[derive(Clone)]
pub(super) enum Was {
    Node(Ino, Option<Arc<Node>>),
    Grave(String, Option<(Ino, Arc<Grave>)>),
    Shared(Vec<(BlobKey, Option<u32>)>),
    Left(VecDeque<Left>),
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
                Was::Grave(_, Some((ino, grave))) => self.graves.insert(ino, (*grave).clone(), &mut self.kept),
                Was::Grave(path, None) => drop(self.graves.remove(&path, &mut self.kept)),
                Was::Shared(counts) => counts.into_iter().for_each(|(blob, count)| {
                    match count {
                        Some(count) => self.shared.insert(blob, count),
                        None => self.shared.remove(&blob),
                    };
                }),
                Was::Left(left) => self.left = left,
            }
        }
    }

    pub(super) fn note_node(&mut self, ino: Ino) {
        if let Some(undo) = &mut self.undo {
            undo.push(Was::Node(ino, self.nodes.get(&ino).cloned()));
        }
    }

    pub(super) fn note_grave(&mut self, path: &str) {
        if let Some(undo) = &mut self.undo {
            undo.push(Was::Grave(path.to_owned(), self.graves.get(path).cloned()));
        }
    }

    /// These were taken out.
    pub(super) fn note_gone(&mut self, gone: &[(Ino, Arc<Grave>)]) {
        if let Some(undo) = &mut self.undo {
            undo.extend(gone.iter().map(|gone| Was::Grave(gone.1.path.clone(), Some(gone.clone()))));
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
            undo.push(Was::Left(self.left.clone()));
        }
    }
}

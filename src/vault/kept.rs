//! What each has in the store: entries, content, versions, and what is kept of removed secrets.
//!
//! Owns the counts and who they are for. Their bounds are the [`meter`](crate::meter)'s.

use super::node::{Node, Tombstone, Version};
use crate::meter::{Bounds, NONE, Payer, Resource};
use crate::model::{Ino, Kind, Scope, Timestamp, Uid};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Whose something in the store is: the owner's, or, inside a container's scope, the scope's.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Keeper {
    /// A uid of the host.
    Uid(Uid),
    /// A container's scope, whoever owns it there.
    Scope(Scope),
}

impl Keeper {
    /// Of what this uid owns in that scope.
    pub fn of(scope: &Scope, uid: Uid) -> Self {
        if *scope == Scope::Host { Keeper::Uid(uid) } else { Keeper::Scope(scope.clone()) }
    }

    /// Whose bound it is.
    pub fn payer(&self) -> Payer {
        match self {
            Keeper::Uid(uid) => Payer::Uid(uid.0),
            Keeper::Scope(_) => Payer::Instance(0),
        }
    }
}

/// How much somebody has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// Entries of all kinds.
    pub nodes: u64,
    /// Secrets.
    pub files: u64,
    /// Bytes of content, all versions.
    pub bytes: u64,
    /// Versions.
    pub versions: u64,
    /// Removed secrets whose history is kept.
    pub removed: u64,
}

impl Count {
    /// Of these versions.
    pub fn of(versions: &[Version]) -> Self {
        let bytes = versions.iter().map(|v| v.size).sum();
        Count { bytes, versions: versions.len() as u64, ..Count::default() }
    }

    /// The sum.
    pub fn plus(mut self, other: Count) -> Count {
        self.combine(other, u64::saturating_add);
        self
    }

    /// How much of a resource that is.
    pub fn get(&self, resource: Resource) -> u64 {
        match resource {
            Resource::Secrets => self.nodes,
            Resource::StoredBytes => self.bytes,
            Resource::Versions => self.versions,
            Resource::Removed => self.removed,
            _ => 0,
        }
    }

    fn combine(&mut self, other: Count, step: impl Fn(u64, u64) -> u64) {
        let Count { nodes, files, bytes, versions, removed } = other;
        *self = Count {
            nodes: step(self.nodes, nodes),
            files: step(self.files, files),
            bytes: step(self.bytes, bytes),
            versions: step(self.versions, versions),
            removed: step(self.removed, removed),
        };
    }
}

/// All counts.
#[derive(Default, Clone)]
pub struct Kept {
    by: HashMap<Keeper, Count>,
    all: Count,
}

impl Kept {
    /// A node came, or went.
    pub fn note(&mut self, node: &Node, more: bool) {
        let files = u64::from(node.kind == Kind::File);
        let count = Count { nodes: 1, files, ..Count::of(&node.versions) };
        self.change(Keeper::of(&node.scope, node.meta.uid), count, more);
    }

    fn note_tombstone(&mut self, tombstone: &Tombstone, more: bool) {
        let count = Count { removed: 1, ..Count::of(&tombstone.versions) };
        self.change(Keeper::of(&tombstone.scope, tombstone.meta.uid), count, more);
    }

    fn change(&mut self, keeper: Keeper, count: Count, more: bool) {
        let step = |a: u64, b: u64| if more { a.saturating_add(b) } else { a.saturating_sub(b) };
        self.all.combine(count, step);
        let own = self.by.entry(keeper.clone()).or_default();
        own.combine(count, step);
        if *own == Count::default() {
            self.by.remove(&keeper);
        }
    }

    /// What somebody has.
    pub fn of(&self, keeper: &Keeper) -> Count {
        self.by.get(keeper).copied().unwrap_or_default()
    }

    /// What all have.
    pub fn all(&self) -> Count {
        self.all
    }

    /// What the one has who has most of a resource.
    pub fn most(&self, resource: Resource) -> u64 {
        self.by.values().map(|count| count.get(resource)).max().unwrap_or(0)
    }
}

/// The removed secrets whose history is kept, by path.
#[derive(Default, Clone)]
pub struct Tombstones {
    by_path: HashMap<String, (Ino, Arc<Tombstone>)>,
    /// The same by whose they were, oldest first.
    of: HashMap<Keeper, BTreeMap<(Timestamp, Ino), String>>,
}

impl Tombstones {
    /// The one of this path.
    pub fn get(&self, path: &str) -> Option<&(Ino, Arc<Tombstone>)> {
        self.by_path.get(path)
    }

    /// All, in no order.
    pub fn all(&self) -> impl Iterator<Item = (Ino, &Arc<Tombstone>)> {
        self.by_path.values().map(|(ino, tombstone)| (*ino, tombstone))
    }

    /// Each, to be changed; neither whose it was nor when it went.
    pub fn each(&mut self) -> impl Iterator<Item = &mut Arc<Tombstone>> {
        self.by_path.values_mut().map(|(_, tombstone)| tombstone)
    }

    /// Puts one in, in the place of what there was.
    pub fn insert(&mut self, ino: Ino, tombstone: Tombstone, kept: &mut Kept) {
        self.remove(&tombstone.path.clone(), kept);
        kept.note_tombstone(&tombstone, true);
        let keeper = Keeper::of(&tombstone.scope, tombstone.meta.uid);
        self.of.entry(keeper).or_default().insert((tombstone.removed, ino), tombstone.path.clone());
        self.by_path.insert(tombstone.path.clone(), (ino, Arc::new(tombstone)));
    }

    /// Takes one out.
    pub fn remove(&mut self, path: &str, kept: &mut Kept) -> Option<(Ino, Arc<Tombstone>)> {
        let (ino, tombstone) = self.by_path.remove(path)?;
        kept.note_tombstone(&tombstone, false);
        let keeper = Keeper::of(&tombstone.scope, tombstone.meta.uid);
        if let Some(own) = self.of.get_mut(&keeper) {
            own.remove(&(tombstone.removed, ino));
            if own.is_empty() {
                self.of.remove(&keeper);
            }
        }
        Some((ino, tombstone))
    }

    /// Takes out what is too much after one was put in: the oldest of whoever has more than he may; and while all but root have
    /// more than they may together, the oldest of the one of them who has most.
    pub fn crowded_out(&mut self, bounds: &Bounds, kept: &mut Kept) -> Vec<(Ino, Arc<Tombstone>)> {
        let mut out = Vec::new();
        let root = Keeper::Uid(Uid::ROOT);
        let over = |of: &HashMap<Keeper, BTreeMap<_, _>>| {
            let too_many = |(keeper, own): &(&Keeper, &BTreeMap<_, _>)| own.len() as u64 > bounds.of(keeper.payer());
            of.iter().find(too_many).map(|(keeper, _)| keeper.clone())
        };
        let too_many_in_all = |of: &HashMap<Keeper, BTreeMap<_, _>>| {
            let others = || of.iter().filter(|(keeper, _)| **keeper != root);
            let all: usize = others().map(|(_, own)| own.len()).sum();
            let most = || others().max_by_key(|(_, own)| own.len()).map(|(keeper, _)| keeper.clone());
            if bounds.others != NONE && all as u64 > bounds.others { most() } else { None }
        };
        while let Some(keeper) = over(&self.of).or_else(|| too_many_in_all(&self.of)) {
            let oldest = self.of.get(&keeper).and_then(|own| own.values().next().cloned());
            match oldest.and_then(|path| self.remove(&path, kept)) {
                Some(gone) => out.push(gone),
                None => break,
            }
        }
        out
    }
}

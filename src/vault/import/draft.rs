//! A tree that is not in force yet: a copy of the one that is, changed step by step, and what the disk must hear of it.
//!
//! Owns the steps. Nobody sees any of them until the copy takes the place of the tree, as a whole. Decides nothing and
//! records nothing.

use crate::meter::Bounds;
use crate::model::{Ino, Kind, Timestamp, Uid, VersionNo};
use crate::seal::BlobDigest;
use crate::store::{Batch, BlobKey};
use crate::vault::node::{Node, Record, Tombstone, Version};
use crate::vault::on_change::{self, Touched};
use crate::vault::tree::Tree;
use crate::vault::version::prune;
use crate::vault::{Change, VaultError};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What is to be written of an inode.
enum Out {
    /// What the copy has for it, or nothing if it has none.
    Node,
    /// A removed secret.
    Tombstone(Arc<Tombstone>),
}

/// Content, sealed for where it goes.
pub(super) struct Sealed {
    pub blob: Vec<u8>,
    pub digest: BlobDigest,
    /// Bytes of the content itself.
    pub size: u64,
}

/// The copy, and what differs.
pub(super) struct Draft {
    pub tree: Tree,
    out: BTreeMap<Ino, Out>,
    blobs: BTreeMap<BlobKey, Option<Vec<u8>>>,
    changes: Vec<Change>,
    touched: Vec<Touched>,
    /// How many versions are kept.
    keep: usize,
    /// How many removed secrets are.
    removed: Bounds,
}

/// All that is left to do once a draft is whole.
pub(super) struct Finished {
    pub tree: Tree,
    pub batch: Batch,
    /// What stands in for the nodes of the tree in force.
    pub records: BTreeMap<Ino, Record>,
    /// What the kernel should hear of.
    pub changes: Vec<Change>,
    /// Whose units want to hear of it.
    pub touched: Vec<Touched>,
}

impl Draft {
    pub fn new(tree: Tree, keep: usize, removed: Bounds) -> Self {
        let (out, blobs) = (BTreeMap::new(), BTreeMap::new());
        Draft { tree, out, blobs, changes: Vec::new(), touched: Vec::new(), keep, removed }
    }

    /// Puts a new node in, or a changed one.
    pub fn put(&mut self, ino: Ino, node: Node) {
        let old = self.tree.get(ino).cloned();
        self.touched.extend(on_change::touched(ino, old.as_deref(), &node));
        match (&old, &node.name) {
            (None, Some(name)) => {
                self.changes.push(Change::Entry { parent: node.parent, name: name.clone() });
                self.stamp(node.parent);
            }
            _ => self.changes.push(Change::Node(ino)),
        }
        self.tree.put(ino, node);
        self.out.insert(ino, Out::Node);
    }

    /// Makes `node`, which is in the tree or is not, have this content as its next version. It takes over what is kept of
    /// the path's history.
    ///
    /// # Errors
    /// [`VaultError::NotFound`] if the node's directory is not there.
    pub fn commit(&mut self, ino: Ino, mut node: Node, content: Sealed, path: &str) -> Result<VersionNo, VaultError> {
        let own = node.versions.clone();
        let heritage = if node.last_number == 0 { self.tree.heritage(path, ino) } else { None };
        let mut buried = Vec::new();
        if let Some(heritage) = heritage {
            (node.versions, node.last_number) = (heritage.versions.clone(), heritage.last_number);
            if let Some(tombstone) = heritage.tombstone {
                buried = heritage.versions;
                self.tree.restore_name(path);
                self.out.insert(tombstone, Out::Node);
            }
            self.tree.forget_left(path);
        }
        let number = VersionNo(node.last_number + 1);
        let key = BlobKey { ino, version: number };
        let (time, size, digest) = (Timestamp::now(), content.size, content.digest);
        node.versions.push(Version { number, blob: key, digest, size, time, uid: Uid::ROOT });
        node.last_number = number.0;
        prune(&mut node, self.keep);
        self.recount(&[&own, &buried], &node.versions, Some(key));
        self.blobs.insert(key, Some(content.blob));
        self.put(ino, node);
        Ok(number)
    }

    /// Takes a node out. The history of a secret stays under its path.
    pub fn remove(&mut self, ino: Ino, path: &str) {
        let Some(node) = self.tree.remove(ino) else { return };
        self.out.insert(ino, Out::Node);
        if node.kind == Kind::File && node.last_number > 0 {
            self.bury(ino, &node, path);
        }
        if let Some(name) = &node.name {
            self.changes.push(Change::Entry { parent: node.parent, name: name.clone() });
        }
        self.stamp(node.parent);
    }

    fn bury(&mut self, ino: Ino, node: &Node, path: &str) {
        let tombstone = Tombstone::of(node, path);
        let older = self.tree.tombstone(path).cloned();
        let crowded_out = self.tree.bury(ino, tombstone.clone(), &self.removed);
        self.out.insert(ino, Out::Tombstone(Arc::new(tombstone)));
        for (old, tombstone) in older.into_iter().chain(crowded_out) {
            self.recount(&[&tombstone.versions], &[], None);
            self.out.insert(old, Out::Node);
        }
    }

    fn recount(&mut self, before: &[&[Version]], after: &[Version], fresh: Option<BlobKey>) {
        let recount = self.tree.recount(before, after, fresh);
        for blob in &recount.gone {
            self.blobs.insert(*blob, None);
        }
        self.tree.settle(recount);
    }

    /// A directory's entries changed, now.
    fn stamp(&mut self, directory: Ino) {
        let Some(node) = self.tree.get(directory) else { return };
        let mut node = (**node).clone();
        node.meta.mtime = Timestamp::now();
        node.meta.ctime = node.meta.mtime;
        self.tree.put(directory, node);
        self.out.insert(directory, Out::Node);
    }

    /// What is to be written, and shown.
    pub fn finish(self) -> Finished {
        let Draft { tree, out, blobs, changes, touched, .. } = self;
        let mut batch = Batch { blobs, ..Batch::default() };
        let mut records = BTreeMap::new();
        for (ino, out) in out {
            let record = match out {
                Out::Tombstone(tombstone) => Some(Record::Tombstone((*tombstone).clone())),
                Out::Node => tree.get(ino).map(|node| Record::Node((**node).clone())),
            };
            match record {
                Some(record) => drop(records.insert(ino, record)),
                None => drop(batch.nodes.insert(ino, None)),
            }
        }
        Finished { tree, batch, records, changes, touched }
    }
}

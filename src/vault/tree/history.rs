//! The histories of names: of removed secrets, of those that were renamed away, and who has which blob.
//!
//! Owns how many histories have a blob. What becomes of one that nobody has is the caller's business.

use super::Tree;
use crate::meter::Bounds;
use crate::model::{Ino, XattrName};
use crate::seal::BlobDigest;
use crate::store::BlobKey;
use crate::vault::node::{Node, Tombstone, Version};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Names given up by a rename that are remembered: an editor that renames the old file away and writes a new one
/// continues the history of the name.
const MAX_LEFT: usize = 64;

/// A secret that was renamed away from a path: what it was then. What is committed to it later is another name's.
#[derive(Clone)]
pub(super) struct RenamedAway {
    path: String,
    ino: Ino,
    versions: Vec<Version>,
    last_number: u64,
    ruled: BTreeMap<XattrName, Vec<u8>>,
}

/// The history that a name has, for the secret that takes it over.
#[derive(Debug, Clone)]
pub struct InheritedHistory {
    /// Its versions, oldest first.
    pub versions: Vec<Version>,
    /// The highest number that a version of the name had.
    pub last_number: u64,
    /// The conditions and publications it had.
    pub ruled: BTreeMap<XattrName, Vec<u8>>,
    /// The record of a removed secret that this was, which then goes.
    pub tombstone: Option<Ino>,
}

/// What becomes of blobs when histories change.
#[derive(Debug, Default)]
pub struct Recount {
    /// How many have it then.
    pub(super) holders: HashMap<BlobKey, u32>,
    /// Those that nobody has then.
    pub gone: Vec<BlobKey>,
}

impl Tree {
    /// The removed secret that had this path.
    pub fn tombstone(&self, path: &str) -> Option<&(Ino, Arc<Tombstone>)> {
        self.tombstones.get(path)
    }

    /// Buries a removed secret. Gives back those that are too many now, for the caller to clear away.
    pub fn bury(&mut self, ino: Ino, tombstone: Tombstone, bounds: &Bounds) -> Vec<(Ino, Arc<Tombstone>)> {
        self.note_tombstone(&tombstone.path);
        self.tombstones.insert(ino, tombstone, &mut self.kept);
        let gone = self.tombstones.crowded_out(bounds, &mut self.kept);
        self.note_gone(&gone);
        gone
    }

    /// The record of a removed secret changed, but for whose it was and when it went.
    pub fn put_tombstone(&mut self, ino: Ino, tombstone: Tombstone) {
        self.note_tombstone(&tombstone.path);
        self.tombstones.insert(ino, tombstone, &mut self.kept);
    }

    /// Takes a removed secret out again.
    pub fn restore_name(&mut self, path: &str) -> Option<(Ino, Arc<Tombstone>)> {
        self.note_tombstone(path);
        self.tombstones.remove(path, &mut self.kept)
    }

    /// Counts who has which blob when the histories `before` are replaced by `after`. Nothing is changed until
    /// [`Tree::settle`]. A blob may be in a history more than once; `fresh` is one that nobody had yet.
    pub fn recount(&self, before: &[&[Version]], after: &[Version], fresh: Option<BlobKey>) -> Recount {
        let mut recount = Recount::default();
        let holders = |blob| if fresh == Some(blob) { 0 } else { 1 + self.shared.get(&blob).copied().unwrap_or(0) };
        for version in after {
            *recount.holders.entry(version.blob).or_insert_with(|| holders(version.blob)) += 1;
        }
        for version in before.iter().copied().flatten() {
            let count = recount.holders.entry(version.blob).or_insert_with(|| holders(version.blob));
            *count = count.saturating_sub(1);
        }
        recount.gone = recount.holders.iter().filter(|(_, count)| **count == 0).map(|(blob, _)| *blob).collect();
        recount
    }

    /// The histories have changed as was counted.
    pub fn settle(&mut self, recount: Recount) {
        self.note_shared(&recount);
        for (blob, count) in recount.holders {
            match count {
                0 | 1 => drop(self.shared.remove(&blob)),
                more => drop(self.shared.insert(blob, more - 1)),
            }
        }
    }

    /// Whether several names have this blob.
    pub fn is_shared(&self, blob: BlobKey) -> bool {
        self.shared.contains_key(&blob)
    }

    /// Remembers that a secret is renamed away from a path.
    pub fn note_left(&mut self, path: String, ino: Ino, node: &Node) {
        self.forget_left(&path);
        if self.left.len() >= MAX_LEFT {
            self.left.pop_front();
        }
        let (versions, last_number) = (node.versions.clone(), node.last_number);
        self.left.push_back(RenamedAway { path, ino, versions, last_number, ruled: node.meta.ruled() });
    }

    /// The name has gone to another secret, or shall have no history.
    pub fn forget_left(&mut self, path: &str) {
        self.note_left_ones();
        self.left.retain(|left| left.path != path);
    }

    /// The same for all names below a path.
    pub fn forget_left_below(&mut self, path: &str) {
        self.note_left_ones();
        let below = |left: &RenamedAway| left.path.strip_prefix(path).is_some_and(|rest| rest.starts_with('/'));
        self.left.retain(|left| !below(left));
    }

    /// The history of a path that `heir` takes over: that of a secret which was removed there, or of another one that
    /// was renamed away, as far as that still has it.
    pub fn heritage(&self, path: &str, heir: Ino) -> Option<InheritedHistory> {
        let left = self.left.iter().find(|left| left.path == path && left.ino != heir);
        let last = left.map_or(0, |left| left.last_number);
        if let Some((ino, tombstone)) = self.tombstones.get(path) {
            let last_number = tombstone.last_number.max(last);
            let (versions, ruled) = (tombstone.versions.clone(), tombstone.meta.ruled());
            return Some(InheritedHistory { versions, last_number, ruled, tombstone: Some(*ino) });
        }
        let kept = left.and_then(|left| self.nodes.get(&left.ino)).map(|n| n.versions.as_slice()).unwrap_or_default();
        // The digest is the one of now: the blob may have been sealed anew.
        let alive = |old: &Version| {
            kept.iter().find(|v| v.blob == old.blob).map(|v| Version { digest: v.digest, ..old.clone() })
        };
        left.map(|left| {
            let versions = left.versions.iter().filter_map(alive).collect();
            InheritedHistory { versions, last_number: last, ruled: left.ruled.clone(), tombstone: None }
        })
    }

    /// Every blob of `replaced` has another name and another digest from now on.
    pub fn rename_blobs(&mut self, replaced: &HashMap<BlobKey, (BlobKey, BlobDigest)>) {
        let rename = |versions: &mut [Version]| {
            for version in versions {
                if let Some((blob, digest)) = replaced.get(&version.blob) {
                    (version.blob, version.digest) = (*blob, *digest);
                }
            }
        };
        self.nodes.values_mut().filter(|n| !n.versions.is_empty()).for_each(|n| rename(&mut Arc::make_mut(n).versions));
        self.tombstones.each().for_each(|tombstone| rename(&mut Arc::make_mut(tombstone).versions));
        self.left.iter_mut().for_each(|left| rename(&mut left.versions));
        let shared = std::mem::take(&mut self.shared);
        let now = |blob: BlobKey| replaced.get(&blob).map_or(blob, |(new, _)| *new);
        self.shared = shared.into_iter().map(|(blob, count)| (now(blob), count)).collect();
    }

    /// All removed secrets, in no order.
    pub fn tombstones(&self) -> impl Iterator<Item = (Ino, &Arc<Tombstone>)> {
        self.tombstones.all()
    }
}

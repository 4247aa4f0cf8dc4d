//! The next version of a secret: its number, the history it takes over, and how secrets with a changed history are written and shown.
//!
//! Whoever changes content comes here: a commit, several at once, a put, a rollback. What is to be written is made beside the tree; the tree
//! has it once it is journalled.

use super::abreast::Writing;
use super::node::{Node, Record, Version};
use super::on_change;
use super::tree::{InheritedHistory, Recount};
use super::unlock::Keys;
use super::writer::Writer;
use super::{Vault, VaultError};
use crate::model::{Ino, Timestamp, Uid, VersionNo};
use crate::seal::BlobDigest;
use crate::store::{Batch, BlobKey};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A secret on its way to the disk.
pub(super) struct Changed {
    pub ino: Ino,
    pub path: String,
    /// What it will be.
    pub next: Node,
    /// Its new content, sealed.
    pub blob: Option<(BlobKey, Vec<u8>)>,
    /// The history of its path, if it takes that over.
    pub takes: Option<InheritedHistory>,
}

impl Changed {
    /// The number of its newest version.
    pub fn number(&self) -> u64 {
        self.next.last_number
    }
}

impl Vault {
    /// What `seal` makes without the writer's lock, and that lock, had by `lock`. It is sealed anew if the keys or the recovery recipients
    /// changed meanwhile, as they do when a scope comes or goes.
    ///
    /// # Errors
    /// Those of `seal`; [`VaultError::Locked`].
    pub(super) fn sealed<'v, S>(
        &'v self,
        lock: impl Fn() -> Writing<'v>,
        seal: impl Fn(&Keys) -> Result<S, VaultError>,
    ) -> Result<(Writing<'v>, S), VaultError> {
        loop {
            let keys = self.keys()?;
            let sealed = seal(&keys)?;
            let writer = lock();
            if Arc::ptr_eq(&self.keys()?, &keys) {
                return Ok((writer, sealed));
            }
        }
    }

    /// Makes `next`, which is in the tree or will be, have sealed content of so many bytes as its next version, written by `uid`. What was
    /// kept under its path is its history from now on, and what an admin said of that path holds.
    ///
    /// # Errors
    /// [`VaultError::NotPermitted`] if what held for the path cannot hold for it.
    pub(super) fn next_version(
        &self,
        (ino, path): (Ino, &str),
        mut next: Node,
        (blob, digest): (Vec<u8>, BlobDigest),
        size: usize,
        uid: Uid,
    ) -> Result<Changed, VaultError> {
        let takes = match next.last_number {
            0 => self.with_tree(|tree| tree.heritage(path, ino))?,
            _ => None,
        };
        if let Some(heritage) = &takes {
            super::admin_xattrs::come_back(&mut next, &heritage.ruled)?;
            (next.versions, next.last_number) = (heritage.versions.clone(), heritage.last_number);
        }
        let number = VersionNo(next.last_number + 1);
        let (time, key) = (Timestamp::now(), BlobKey { ino, version: number });
        next.versions.push(Version { number, blob: key, digest, size: size as u64, time, uid });
        next.last_number = number.0;
        next.meta.ctime = time;
        prune(&mut next, self.limits.keep_versions);
        Ok(Changed { ino, path: path.to_owned(), next, blob: Some((key, blob)), takes })
    }

    /// Writes secrets with a changed history, and everything that waits, as one entry; then readers are shown all of it at once.
    pub(super) fn install(&self, writer: &mut Writer, changed: Vec<Changed>) -> Result<(), VaultError> {
        let mut batch = Batch::default();
        let mut records = BTreeMap::new();
        let mut shown = Vec::new();
        for one in changed {
            let (one, recount) = self.to_install(one, &mut batch, &mut records)?;
            shown.push((one, recount));
        }
        self.flush_with(writer, batch, &records)?;
        self.show(shown)
    }

    /// Adds what goes to the disk, and says what becomes of blobs.
    pub(super) fn to_install(
        &self,
        mut changed: Changed,
        batch: &mut Batch,
        records: &mut BTreeMap<Ino, Record>,
    ) -> Result<(Changed, Recount), VaultError> {
        let takes = changed.takes.as_ref();
        let tombstone = takes.and_then(|heritage| Some((heritage.tombstone?, heritage.versions.as_slice())));
        let fresh = changed.blob.as_ref().map(|(key, _)| *key);
        let recount = self.with_tree(|tree| {
            let own = tree.get(changed.ino).map(|node| node.versions.as_slice()).unwrap_or_default();
            let buried = tombstone.map(|(_, versions)| versions).unwrap_or_default();
            tree.recount(&[own, buried], &changed.next.versions, fresh)
        })?;
        batch.blobs.extend(recount.gone.iter().map(|blob| (*blob, None)));
        batch.nodes.extend(tombstone.map(|(tombstone, _)| (tombstone, None)));
        batch.blobs.extend(changed.blob.take().map(|(key, bytes)| (key, Some(bytes))));
        records.insert(changed.ino, Record::Node(changed.next.clone()));
        Ok((changed, recount))
    }

    /// Readers are shown all of it from now on: it is on the disk.
    pub(super) fn show(&self, changed: Vec<(Changed, Recount)>) -> Result<(), VaultError> {
        let touched = self.with_tree_mut(|tree| {
            let show = |(one, recount): (Changed, Recount)| {
                if one.takes.is_some() {
                    tree.restore_name(&one.path);
                    tree.forget_left(&one.path);
                }
                tree.settle(recount);
                let touched = on_change::touched(one.ino, tree.get(one.ino).map(|old| &**old), &one.next);
                tree.put(one.ino, one.next);
                touched
            };
            changed.into_iter().map(show).collect::<Vec<_>>()
        })?;
        touched.into_iter().for_each(|one| self.notify_unit(one));
        Ok(())
    }
}

/// Takes the oldest versions out, beyond what is kept.
pub(super) fn prune(node: &mut Node, keep: usize) {
    let excess = node.versions.len().saturating_sub(keep);
    node.versions.drain(..excess);
}

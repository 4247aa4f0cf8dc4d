//! Committing content: checked, sealed, recorded, and on disk when it returns.

use super::node::{Node, Version};
use super::tree::Tree;
use super::writer::Writer;
use super::{Vault, VaultError};
use crate::access::{Denial, Grant};
use crate::audit;
use crate::enrol;
use crate::model::{Ino, Timestamp, Uid, VersionNo, Who};
use crate::seal;
use crate::store::{Batch, BlobKey};
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

/// New content of a secret.
#[derive(Debug, Clone, Copy)]
pub struct Content<'a> {
    /// The bytes.
    pub bytes: &'a [u8],
    /// When it was written; `None` leaves the node's time of change as somebody set it.
    pub mtime: Option<Timestamp>,
}

impl Vault {
    /// Makes a new version. `None` if the secret has no name any more: then nobody could ever read it.
    ///
    /// # Errors
    /// [`VaultError::Invalid`] if the content is refused, [`VaultError::TooBig`], [`VaultError::NoSpace`],
    /// [`VaultError::Denied`] if the scope's key is gone; the old version is as it was.
    pub fn commit(&self, grant: &Grant, who: &Who, content: Content<'_>) -> Result<Option<VersionNo>, VaultError> {
        let ino = grant.ino();
        let (node, path) = match self.node_and_path(ino) {
            Err(VaultError::NotFound) => return Ok(None),
            found => found?,
        };
        let result = self.commit_to(grant, who, content, &node);
        if let Err(error) = &result {
            if !matches!(error, VaultError::NotRecorded(_)) {
                self.refuse(audit::Operation::Commit, &path, None, who, &error.to_string());
            }
            tracing::warn!(%path, %error, uid = who.uid, "a commit was refused; what was there stays");
        }
        result
    }

    fn commit_to(
        &self,
        grant: &Grant,
        who: &Who,
        content: Content<'_>,
        node: &Arc<Node>,
    ) -> Result<Option<VersionNo>, VaultError> {
        let ino = grant.ino();
        self.check_content(node, content.bytes)?;
        let keys = self.keys()?;
        let kek = keys.kek(&node.scope).map_err(|_| VaultError::Denied(Denial::NoKey))?;
        let (blob, digest) = seal::seal_blob(content.bytes, &kek, &keys.recovery);
        drop(kek);

        let mut writer = self.lock_writer();
        // The name may be another one by now, and with it its history and what the content must be.
        let (node, path) = match self.node_and_path(ino) {
            Err(VaultError::NotFound) => return Ok(None),
            found => found?,
        };
        let path = path.as_str();
        self.check_content(&node, content.bytes)?;
        if self.keys()?.recovery.len() != keys.recovery.len() {
            return Err(VaultError::Failed("the recovery recipients changed meanwhile; write it again".into()));
        }
        let mut next = self.with_history(&node, path)?;
        let number = VersionNo(next.last_number + 1);
        let now = Timestamp::now();
        let blob_key = BlobKey { ino, version: number };
        next.versions.push(Version {
            number,
            blob: blob_key,
            digest,
            size: content.bytes.len() as u64,
            time: now,
            uid: Uid(who.uid),
        });
        next.last_number = number.0;
        next.meta.ctime = now;
        if let Some(mtime) = content.mtime {
            next.meta.mtime = mtime;
        }
        let pruned = prune(&mut next, self.limits.keep_versions);
        self.record(audit::Operation::Commit, path, Some(number.0), who, &grant.rule().to_string())?;
        self.install(&mut writer, ino, next, Some((blob_key, blob)), &pruned, path)?;
        Ok(Some(number))
    }

    /// Writes a node with a changed history as one transaction, then shows it to readers.
    pub(super) fn install(
        &self,
        writer: &mut Writer,
        ino: Ino,
        next: Node,
        blob: Option<(BlobKey, Vec<u8>)>,
        pruned: &[BlobKey],
        path: &str,
    ) -> Result<(), VaultError> {
        let mut batch = Batch::default();
        let (adopted, pruned) = self.with_tree(|tree| {
            let first = tree.get(ino).is_some_and(|old| old.last_number == 0);
            let grave = tree.grave(path).filter(|_| first);
            // A history taken over from a secret that lives on under another name is still that secret's.
            let mut own: HashSet<BlobKey> =
                tree.get(ino).map(|old| old.versions.iter().map(|v| v.blob).collect()).unwrap_or_default();
            own.extend(grave.iter().flat_map(|(_, g)| g.versions.iter().map(|v| v.blob)));
            let pruned: Vec<BlobKey> = pruned.iter().copied().filter(|blob| own.contains(blob)).collect();
            for blob in &pruned {
                if tree.is_last(*blob) {
                    batch.blobs.insert(*blob, None);
                }
            }
            (grave.map(|(ino, _)| *ino), pruned)
        })?;
        if let Some(grave) = adopted {
            batch.nodes.insert(grave, None);
        }
        if let Some((key, bytes)) = blob {
            batch.blobs.insert(key, Some(bytes));
        }
        self.flush_with(writer, batch, &BTreeMap::from([(ino, next.clone())]))?;
        self.with_tree_mut(|tree| {
            if adopted.is_some() {
                tree.exhume(path);
            } else {
                share_foreign(tree, ino, &next);
            }
            for blob in &pruned {
                tree.release(*blob);
            }
            tree.put(ino, next);
        })
    }

    /// Checks size and, by the name, that it is whole.
    pub(super) fn check_content(&self, node: &Node, bytes: &[u8]) -> Result<(), VaultError> {
        if bytes.len() as u64 > self.limits.max_secret_size {
            return Err(VaultError::TooBig { max: self.limits.max_secret_size });
        }
        match &node.name {
            Some(name) => {
                enrol::check(name, bytes).map(|_| ()).map_err(|refusal| VaultError::Invalid(refusal.to_string()))
            }
            None => Ok(()),
        }
    }

    /// The node with the history of its name, if this is its first version: that of a secret removed under this path, or
    /// of one that an editor just renamed away.
    fn with_history(&self, node: &Arc<Node>, path: &str) -> Result<Node, VaultError> {
        let mut next = (**node).clone();
        if next.last_number > 0 {
            return Ok(next);
        }
        let found = self.with_tree(|tree| {
            let buried = tree.grave(path).map(|(_, grave)| (grave.versions.clone(), grave.last_number));
            buried.or_else(|| tree.left(path).map(|old| (old.versions.clone(), old.last_number)))
        })?;
        if let Some((versions, last)) = found {
            next.versions = versions;
            next.last_number = last;
        }
        Ok(next)
    }
}

/// Takes the oldest versions out, beyond what is kept.
pub(super) fn prune(node: &mut Node, keep: usize) -> Vec<BlobKey> {
    let excess = node.versions.len().saturating_sub(keep);
    node.versions.drain(..excess).map(|v| v.blob).collect()
}

/// Counts blobs that the node took over from a secret which still has them.
fn share_foreign(tree: &mut Tree, ino: Ino, next: &Node) {
    let old: Vec<BlobKey> = tree.get(ino).map(|n| n.versions.iter().map(|v| v.blob).collect()).unwrap_or_default();
    for version in &next.versions {
        if version.blob.ino != ino && !old.contains(&version.blob) {
            tree.share(version.blob);
        }
    }
}

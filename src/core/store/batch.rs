//! What is committed together: values by tree and key, and what they may be.

use super::{StoreError, folder};
use crate::model::{Ino, VersionNo};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The longest value a record or blob may have, in bytes.
pub const MAX_VALUE: usize = 64 << 20;
/// The longest key of a scope or meta record, in bytes.
pub const MAX_KEY: usize = 200;

/// Names one blob: a version of a secret's content. Sorted by inode, then version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BlobKey {
    /// The secret.
    pub ino: Ino,
    /// Its version.
    pub version: VersionNo,
}

impl BlobKey {
    /// 16 bytes: inode and version, big-endian, so that they sort as numbers.
    pub fn to_bytes(self) -> [u8; 16] {
        (u128::from(self.ino.0) << 64 | u128::from(self.version.0)).to_be_bytes()
    }

    /// The reverse of [`BlobKey::to_bytes`]; `None` for another length.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let both = u128::from_be_bytes(bytes.try_into().ok()?);
        Some(BlobKey { ino: Ino((both >> 64) as u64), version: VersionNo(both as u64) })
    }
}

/// What one commit changes: `Some` puts, `None` deletes. Deleting what is not there is no error.
#[derive(Debug, Default, Clone)]
pub struct Batch {
    /// Sealed records.
    pub nodes: BTreeMap<Ino, Option<Vec<u8>>>,
    /// age files.
    pub blobs: BTreeMap<BlobKey, Option<Vec<u8>>>,
    /// Sealed scope keys, by scope name.
    pub scopes: BTreeMap<String, Option<Vec<u8>>>,
    /// Facts about the store, by name. `format` is the store's own.
    pub meta: BTreeMap<String, Option<Vec<u8>>>,
}

impl Batch {
    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty() && self.blobs.is_empty() && self.scopes.is_empty() && self.meta.is_empty()
    }
}

/// Where the audit log was when a commit was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AuditAnchor {
    /// How many events it had.
    pub count: u64,
    /// The hash of the last of them.
    pub head: [u8; 32],
}

/// When a commit is on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Before its answer: it survives a power cut.
    Synced,
    /// It survives the end of this process at once, and a power cut after the next [`Store::sync`] or synced commit.
    Lazy,
}

/// The bounds of a batch. They are wide: whoever makes the batch has narrower ones.
pub(super) fn check(batch: &Batch) -> Result<(), StoreError> {
    let names = batch.scopes.keys().chain(batch.meta.keys());
    let values =
        batch.nodes.values().chain(batch.blobs.values()).chain(batch.scopes.values()).chain(batch.meta.values());
    if batch.meta.contains_key(folder::FORMAT_KEY) {
        return Err(StoreError::Failed("the store's format cannot be set".into()));
    }
    if names.into_iter().any(|n| n.is_empty() || n.len() > MAX_KEY) {
        return Err(StoreError::Failed(format!("a name has 1 to {MAX_KEY} bytes")));
    }
    if values.flatten().any(|v| v.len() > MAX_VALUE) {
        return Err(StoreError::Failed(format!("a value is longer than {MAX_VALUE} bytes")));
    }
    Ok(())
}

//! A key that is no secret of the tree: sealed like one, and kept inside a record of its owner.
//!
//! Owns the way in and out: opening is decided by `access` like every read, and reads the scope's key at that moment.

use super::node::Node;
use super::{Vault, VaultError};
use crate::access::{Denial, Operation, ScopeState};
use crate::caller::Daemon;
use crate::model::{Gid, Ino, Kind, Meta, Scope, Uid};
use crate::seal::{self, BlobDigest};
use crate::secret::{Kek, Secret};
use serde::{Deserialize, Serialize};

/// Sealed under the host's key alone. The recovery recipients have that key, so they need no stanza here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    blob: Vec<u8>,
    digest: BlobDigest,
}

impl Kept {
    fn seal(content: &Secret, kek: &Kek) -> Self {
        let (blob, digest) = seal::seal_blob(content.expose(), kek, &[]);
        Kept { blob, digest }
    }
}

impl Vault {
    /// Seals a key, to be kept in a record.
    pub(super) fn seal_kept(&self, content: &Secret) -> Result<Kept, VaultError> {
        Ok(Kept::seal(content, &self.host_kek()?))
    }

    /// Opens it, as the daemon's own work.
    pub(super) fn open_kept(&self, kept: &Kept) -> Result<Secret, VaultError> {
        self.open_kept_with(kept, &self.host_kek()?)
    }

    /// The same key under another one: for a rekeying.
    pub(super) fn reseal_kept(&self, kept: &Kept, old: &Kek, new: &Kek) -> Result<Kept, VaultError> {
        Ok(Kept::seal(&self.open_kept_with(kept, old)?, new))
    }

    fn open_kept_with(&self, kept: &Kept, kek: &Kek) -> Result<Secret, VaultError> {
        let node = Node {
            parent: Ino::ROOT,
            name: None,
            kind: Kind::File,
            scope: Scope::Host,
            meta: Meta::new(Uid::ROOT, Gid(0), 0),
            target: None,
            versions: Vec::new(),
            last_number: 0,
        };
        let grant = self.judge(&Daemon, Ino::ROOT, &node, ScopeState::Alive, Operation::Read)?;
        Ok(seal::open_blob(&grant, Ino::ROOT, kek, &kept.blob, &kept.digest)?)
    }

    fn host_kek(&self) -> Result<Kek, VaultError> {
        self.keys()?.kek(&Scope::Host).map_err(|_| VaultError::Denied(Denial::NoKey))
    }
}

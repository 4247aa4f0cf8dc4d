//! Recovery recipients: whose key opens every blob, whatever happens to pinfold.

use super::unlock::{INDEX_META, Keys};
use super::writer::Writer;
use super::{Caller, Vault, VaultError};
use crate::access::{Operation, ScopeState};
use crate::audit;
use crate::caller::Daemon;
use crate::model::Ino;
use crate::seal;
use crate::store::{Batch, BlobKey};
use std::collections::BTreeMap;
use std::sync::Arc;

/// How many blobs are sealed anew in one transaction.
const BATCH: usize = 64;
/// The most recovery recipients there may be.
const MAX_RECIPIENTS: usize = 16;

impl Vault {
    /// The recovery recipients, `age1…`.
    pub(super) fn recovery_recipients(&self) -> Result<Vec<String>, VaultError> {
        Ok(self.keys()?.recovery.iter().map(ToString::to_string).collect())
    }

    /// Adds or removes a recipient: first the store's keys and everything new, then every blob. How many blobs. What a
    /// crash interrupts goes on at the next unlock.
    pub(super) fn change_recovery(&self, caller: &impl Caller, text: &str, add: bool) -> Result<u64, VaultError> {
        let recipient = seal::parse_recipient(text).map_err(|e| VaultError::Invalid(e.to_string()))?.to_string();
        {
            let mut writer = self.lock_writer();
            let mut facts = writer.facts()?.clone();
            let there = facts.recovery.contains(&recipient);
            match (add, there) {
                (true, true) => return Err(VaultError::NothingToDo("it is a recovery recipient already")),
                (false, false) => return Err(VaultError::NotFound),
                (false, true) if facts.recovery.len() == 1 => {
                    return Err(VaultError::Invalid("it is the only recovery recipient; add another one first".into()));
                }
                (true, false) if facts.recovery.len() >= MAX_RECIPIENTS => {
                    return Err(VaultError::NoSpace("16 recovery recipients"));
                }
                (true, false) => facts.recovery.push(recipient.clone()),
                (false, true) => facts.recovery.retain(|r| *r != recipient),
            }
            let reason = format!("{} {recipient}", if add { "added" } else { "removed" });
            self.record(audit::Operation::Recovery, "", None, &caller.who(), &reason)?;
            facts.resealing = true;
            self.seal_keys_anew(&mut writer, facts)?;
        }
        self.reseal_blobs()
    }

    /// Goes on with what a crash interrupted; nothing to do otherwise.
    ///
    /// # Errors
    /// As [`Vault::sync`].
    pub fn finish_resealing(&self) -> Result<u64, VaultError> {
        let waiting = self.lock_writer().facts()?.resealing;
        if waiting { self.reseal_blobs() } else { Ok(0) }
    }

    fn seal_keys_anew(&self, writer: &mut Writer, facts: super::node::Facts) -> Result<(), VaultError> {
        let keys = self.keys()?;
        let recovery = facts.recovery.iter().map(|r| seal::parse_recipient(r)).collect::<Result<Vec<_>, _>>()?;
        let keys = Keys { recovery, ..(*keys).clone() };
        let recipients = keys.recipients();
        for (scope, entry) in keys.scopes.iter() {
            let kek = entry.read_secret().map_err(|_| VaultError::Denied(crate::access::Denial::NoKey))?;
            writer.put_scope(scope.as_str(), seal::seal_key(&kek, &recipients));
        }
        writer.put_meta(INDEX_META, seal::seal_key(&keys.index, &recipients));
        writer.set_facts(facts);
        self.flush(writer)?;
        self.set_keys(keys);
        Ok(())
    }

    /// Seals every blob anew, a batch at a time; between batches everything else goes on.
    fn reseal_blobs(&self) -> Result<u64, VaultError> {
        let all: Vec<Ino> =
            self.with_tree(|t| t.nodes().filter(|(_, n)| n.last_number > 0).map(|(i, _)| i).collect())?;
        let mut done: BTreeMap<BlobKey, seal::BlobDigest> = BTreeMap::new();
        for some in all.chunks(BATCH) {
            let mut writer = self.lock_writer();
            let mut batch = Batch::default();
            let mut nodes = BTreeMap::new();
            for ino in some {
                let Some(node) = self.with_tree(|t| t.get(*ino).cloned())? else { continue };
                let mut next = (*node).clone();
                for version in &mut next.versions {
                    version.digest = self.reseal(*ino, &node, version, &mut batch, &mut done)?;
                }
                nodes.insert(*ino, next);
            }
            self.flush_with(&mut writer, batch, &nodes)?;
            self.with_tree_mut(|tree| nodes.into_iter().for_each(|(ino, node)| tree.put(ino, node)))?;
        }
        self.reseal_graves(&mut done)?;
        let mut writer = self.lock_writer();
        let mut facts = writer.facts()?.clone();
        facts.resealing = false;
        writer.set_facts(facts);
        self.flush(&mut writer)?;
        Ok(done.len() as u64)
    }

    fn reseal_graves(&self, done: &mut BTreeMap<BlobKey, seal::BlobDigest>) -> Result<(), VaultError> {
        let mut writer = self.lock_writer();
        let graves: Vec<(Ino, Arc<super::node::Grave>)> =
            self.with_tree(|t| t.graves().map(|(i, g)| (i, Arc::clone(g))).collect())?;
        for (ino, grave) in graves {
            let mut batch = Batch::default();
            let mut next = (*grave).clone();
            let stand_in = super::node::Node {
                parent: Ino::ROOT,
                name: None,
                kind: crate::model::Kind::File,
                scope: grave.scope.clone(),
                meta: grave.meta.clone(),
                target: None,
                versions: Vec::new(),
                last_number: grave.last_number,
            };
            for version in &mut next.versions {
                version.digest = self.reseal(ino, &stand_in, version, &mut batch, done)?;
            }
            writer.bury(ino, Arc::new(next.clone()));
            self.flush_with(&mut writer, batch, &BTreeMap::new())?;
            self.with_tree_mut(|tree| tree.bury(ino, next))?;
        }
        Ok(())
    }

    fn reseal(
        &self,
        ino: Ino,
        node: &super::node::Node,
        version: &super::node::Version,
        batch: &mut Batch,
        done: &mut BTreeMap<BlobKey, seal::BlobDigest>,
    ) -> Result<seal::BlobDigest, VaultError> {
        if let Some(digest) = done.get(&version.blob) {
            return Ok(*digest);
        }
        let keys = self.keys()?;
        let grant = self.judge(&Daemon, ino, node, ScopeState::Alive, Operation::Read)?;
        let kek = keys.kek(&node.scope).map_err(|_| VaultError::Denied(crate::access::Denial::NoKey))?;
        let plain = match self.decrypt(&grant, &kek, Some(version)) {
            Ok(plain) => plain,
            Err(VaultError::Damaged(what)) => {
                // One bad secret harms itself alone: it stays as it is, and fsck names it.
                tracing::error!(%ino, version = version.number.0, %what, "a damaged blob cannot be sealed anew");
                return Ok(version.digest);
            }
            Err(error) => return Err(error),
        };
        let (blob, digest) = seal::seal_blob(plain.expose(), &kek, &keys.recovery);
        batch.blobs.insert(version.blob, Some(blob));
        done.insert(version.blob, digest);
        Ok(digest)
    }
}

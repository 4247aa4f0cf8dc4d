//! Recovery recipients: whose key opens every blob, whatever happens to pinfold.

use super::node::{Grave, Node, Version};
use super::unlock::{INDEX_META, Keys};
use super::writer::Writer;
use super::{Caller, Vault, VaultError};
use crate::access::{Operation, ScopeState};
use crate::audit;
use crate::caller::Daemon;
use crate::model::{Ino, Kind};
use crate::seal::{self, BlobDigest};
use crate::store::{Batch, BlobKey};
use std::collections::{BTreeMap, HashSet};
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
        let all: Vec<Ino> = self.with_tree(|t| {
            let nodes = t.nodes().filter(|(_, n)| n.last_number > 0).map(|(i, _)| i);
            nodes.chain(t.graves().map(|(i, _)| i)).collect()
        })?;
        let mut done = HashSet::new();
        for some in all.chunks(BATCH) {
            self.reseal_some(some, &mut done)?;
        }
        let mut writer = self.lock_writer();
        let mut facts = writer.facts()?.clone();
        facts.resealing = false;
        writer.set_facts(facts);
        self.flush(&mut writer)?;
        Ok(done.len() as u64)
    }

    /// Seals the blobs of these nodes and removed secrets anew. Whatever else has one of them in its history gets the new
    /// digest in the same transaction.
    fn reseal_some(&self, some: &[Ino], done: &mut HashSet<BlobKey>) -> Result<(), VaultError> {
        let mut writer = self.lock_writer();
        let mut batch = Batch::default();
        let mut digests: BTreeMap<BlobKey, BlobDigest> = BTreeMap::new();
        let (found, graves) = self.with_tree(|t| {
            let found: Vec<(Ino, Arc<Node>)> = some.iter().filter_map(|i| Some((*i, Arc::clone(t.get(*i)?)))).collect();
            let graves: Vec<(Ino, Arc<Grave>)> = t.graves().map(|(i, g)| (i, Arc::clone(g))).collect();
            (found, graves)
        })?;
        let buried = graves.iter().filter(|(ino, _)| some.contains(ino));
        let buried: Vec<_> = buried.map(|(ino, grave)| (*ino, Arc::new(stand_in(grave)))).collect();
        for (ino, node) in found.iter().chain(&buried) {
            for version in &node.versions {
                if done.insert(version.blob) {
                    self.reseal(*ino, node, version, &mut batch, &mut digests)?;
                }
            }
        }
        let has_new = |versions: &[Version]| versions.iter().any(|v| digests.contains_key(&v.blob));
        let shared = self.with_tree(|t| digests.keys().any(|blob| !t.is_last(*blob)))?;
        let nodes: BTreeMap<Ino, Node> = if shared {
            let all = |t: &super::tree::Tree| {
                t.nodes().filter(|(_, n)| has_new(&n.versions)).map(|(i, n)| (i, (**n).clone())).collect()
            };
            self.with_tree(all)?
        } else {
            found.iter().filter(|(_, n)| has_new(&n.versions)).map(|(i, n)| (*i, (**n).clone())).collect()
        };
        let nodes: BTreeMap<Ino, Node> = nodes
            .into_iter()
            .map(|(ino, mut node)| {
                renew(&mut node.versions, &digests);
                (ino, node)
            })
            .collect();
        let changed: Vec<_> = graves.into_iter().filter(|(_, g)| has_new(&g.versions)).collect();
        let renewed: Vec<(Ino, Grave)> = changed
            .iter()
            .map(|(ino, grave)| {
                let mut next = (**grave).clone();
                renew(&mut next.versions, &digests);
                (*ino, next)
            })
            .collect();
        for (ino, grave) in &renewed {
            writer.bury(*ino, Arc::new(grave.clone()));
        }
        if let Err(error) = self.flush_with(&mut writer, batch, &nodes) {
            // The blobs are as they were, and so must be what the next flush writes of them.
            for (ino, grave) in changed {
                writer.bury(ino, grave);
            }
            return Err(error);
        }
        self.with_tree_mut(|tree| {
            nodes.into_iter().for_each(|(ino, node)| tree.put(ino, node));
            for (ino, grave) in renewed {
                tree.bury(ino, grave);
            }
        })
    }

    fn reseal(
        &self,
        ino: Ino,
        node: &Node,
        version: &Version,
        batch: &mut Batch,
        digests: &mut BTreeMap<BlobKey, BlobDigest>,
    ) -> Result<(), VaultError> {
        let keys = self.keys()?;
        let grant = self.judge(&Daemon, ino, node, ScopeState::Alive, Operation::Read)?;
        let kek = keys.kek(&node.scope).map_err(|_| VaultError::Denied(crate::access::Denial::NoKey))?;
        let plain = match self.decrypt(&grant, &kek, Some(version)) {
            Ok(plain) => plain,
            Err(VaultError::Damaged(what)) => {
                // One bad secret harms itself alone: it stays as it is, and fsck names it.
                tracing::error!(%ino, version = version.number.0, %what, "a damaged blob cannot be sealed anew");
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let (blob, digest) = seal::seal_blob(plain.expose(), &kek, &keys.recovery);
        batch.blobs.insert(version.blob, Some(blob));
        digests.insert(version.blob, digest);
        Ok(())
    }
}

fn renew(versions: &mut [Version], digests: &BTreeMap<BlobKey, BlobDigest>) {
    for version in versions {
        if let Some(digest) = digests.get(&version.blob) {
            version.digest = *digest;
        }
    }
}

/// A removed secret as a node, to be judged and opened.
fn stand_in(grave: &Grave) -> Node {
    Node {
        parent: Ino::ROOT,
        name: None,
        kind: Kind::File,
        scope: grave.scope.clone(),
        meta: grave.meta.clone(),
        target: None,
        versions: grave.versions.clone(),
        last_number: grave.last_number,
    }
}

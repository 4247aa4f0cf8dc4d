//! Recovery recipients: whose key opens every blob, whatever happens to pinfold.
//!
//! The store's keys are sealed to them by way of the escrow identity: it is sealed to all of them, once, and made anew
//! whenever they change. So who has a recovery key of any kind opens one small file, with stock age too.

use super::node::{Node, Record, Version};
use super::unlock::{ESCROW_META, INDEX_META, Keys};
use super::writer::Writer;
use super::{Caller, Vault, VaultError};
use crate::access::{Operation, ScopeState};
use crate::audit;
use crate::caller::Daemon;
use crate::model::{Gid, Ino, Kind, Meta, Scope, Uid};
use crate::seal::{self, RecoverySet};
use crate::store::{Batch, BlobKey, Store};
use crate::stream::{Recipient, RecipientUse};
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};

/// How many blobs are sealed anew in one transaction.
const BATCH: usize = 64;
/// The most recovery recipients there may be.
const MAX_RECIPIENTS: usize = 16;

/// What is done to the recovery recipients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RecoveryChange {
    /// One more.
    Add,
    /// This one, and none of the others any more.
    Only,
    /// One less.
    Remove,
}

/// The escrow of a store that nobody serves, or that is locked: an age file that each recovery key opens.
///
/// # Errors
/// [`VaultError::Damaged`] if it has none.
pub fn escrow_of(store: &Store) -> Result<Vec<u8>, VaultError> {
    store.meta(ESCROW_META)?.ok_or_else(|| VaultError::Damaged("it has no escrow".into()))
}

impl Vault {
    /// The recovery recipients.
    pub(super) fn recovery_recipients(&self) -> Result<Vec<String>, VaultError> {
        Ok(self.keys()?.recovery.texts())
    }

    /// The escrow, taken out on record.
    pub(super) fn take_escrow(&self, caller: &impl Caller) -> Result<Vec<u8>, VaultError> {
        let escrow = escrow_of(&self.store)?;
        self.record(audit::Operation::Recovery, "", None, &caller.who(), "escrow")?;
        Ok(escrow)
    }

    /// Adds or removes a recipient: first the store's keys and everything new, then every blob. How many blobs. What a
    /// crash interrupts goes on at the next unlock.
    pub(super) fn change_recovery(
        &self,
        caller: &impl Caller,
        text: &str,
        change: RecoveryChange,
    ) -> Result<u64, VaultError> {
        let invalid = |e: crate::stream::RecipientError| VaultError::Invalid(e.to_string());
        let recipient = Recipient::parse(text, RecipientUse::Recovery).map_err(invalid)?.to_string();
        let _alone = self.sealing_anew();
        // One that was added and does not open everything yet must not be what is left.
        if change != RecoveryChange::Add && self.lock_writer().facts()?.resealing {
            self.reseal_blobs()?;
        }
        {
            let mut writer = self.lock_writer();
            let mut facts = writer.facts()?.clone();
            let there = facts.recovery.contains(&recipient);
            match (change, there) {
                (RecoveryChange::Only, true) if facts.recovery.len() == 1 => {
                    return Err(VaultError::NothingToDo("it is the only recovery recipient already"));
                }
                (RecoveryChange::Only, _) => facts.recovery = vec![recipient.clone()],
                (RecoveryChange::Add, true) => {
                    return Err(VaultError::NothingToDo("it is a recovery recipient already"));
                }
                (RecoveryChange::Remove, false) => return Err(VaultError::NotFound),
                (RecoveryChange::Remove, true) if facts.recovery.len() == 1 => {
                    return Err(VaultError::Invalid("it is the only recovery recipient; add another one first".into()));
                }
                (RecoveryChange::Add, false) if facts.recovery.len() >= MAX_RECIPIENTS => {
                    return Err(VaultError::NoSpace("16 recovery recipients"));
                }
                (RecoveryChange::Add, false) => facts.recovery.push(recipient.clone()),
                (RecoveryChange::Remove, true) => facts.recovery.retain(|r| *r != recipient),
            }
            RecoverySet::parse(&facts.recovery).map_err(invalid)?;
            let what = match change {
                RecoveryChange::Add => "added",
                RecoveryChange::Only => "only",
                RecoveryChange::Remove => "removed",
            };
            let reason = format!("{what} {recipient}");
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
        let _alone = self.sealing_anew();
        let waiting = self.lock_writer().facts()?.resealing;
        if waiting { self.reseal_blobs() } else { Ok(0) }
    }

    pub(super) fn seal_keys_anew(&self, writer: &mut Writer, facts: super::node::Facts) -> Result<(), VaultError> {
        let keys = self.keys()?;
        let recovery = RecoverySet::parse(&facts.recovery).map_err(|e| VaultError::Invalid(e.to_string()))?;
        let escrow = seal::make_identity();
        let facts = super::node::Facts { escrow: escrow.recipient().to_string(), ..facts };
        let keys = Keys { recovery, escrow: escrow.recipient(), ..(*keys).clone() };
        let recipients = keys.recipients();
        self.transact_with(writer, |writer| {
            writer.sync();
            for (scope, entry) in keys.scopes.iter() {
                let kek = entry.read_secret().map_err(|_| VaultError::Denied(crate::access::Denial::NoKey))?;
                writer.put_scope(scope.as_str(), seal::seal_key(&kek, &recipients));
            }
            writer.put_meta(INDEX_META, seal::seal_key(&keys.index, &recipients));
            writer.put_meta(ESCROW_META, seal::seal_escrow(&escrow, &keys.recovery)?);
            writer.set_facts(facts);
            // What the daemon was unlocked with may be the escrow that goes now; a daemon that takes over from here tries both.
            if let Some(keeper) = self.keeper.get() {
                keeper.keep_also(&escrow.text()?);
            }
            Ok(())
        })?;
        if let Some(keeper) = self.keeper.get() {
            keeper.keep(&escrow.text()?);
        }
        self.set_keys(keys);
        Ok(())
    }

    /// Seals every blob anew, a batch at a time; between batches everything else goes on.
    fn reseal_blobs(&self) -> Result<u64, VaultError> {
        let mut done = HashSet::new();
        loop {
            // Again until there is none: secrets come and go between batches.
            let waiting: Vec<Ino> = self.with_tree(|t| {
                let waits = |versions: &[Version]| versions.iter().any(|v| !done.contains(&v.blob));
                let nodes = t.nodes().filter(|(_, n)| waits(&n.versions)).map(|(ino, _)| ino);
                nodes.chain(t.tombstones().filter(|(_, g)| waits(&g.versions)).map(|(ino, _)| ino)).collect()
            })?;
            if waiting.is_empty() {
                break;
            }
            for some in waiting.chunks(BATCH) {
                self.reseal_some(some, &mut done)?;
                self.give_way();
            }
        }
        self.transact(|writer| {
            writer.sync();
            let facts = writer.facts()?.clone();
            writer.set_facts(super::node::Facts { resealing: false, ..facts });
            Ok(())
        })?;
        Ok(done.len() as u64)
    }

    /// One batch. Everybody who has a blob learns its new digest in the same transaction: after a crash in between, one
    /// who had the old digest would take the blob for a damaged one.
    fn reseal_some(&self, some: &[Ino], done: &mut HashSet<BlobKey>) -> Result<(), VaultError> {
        let mut writer = self.lock_writer();
        let mut batch = Batch::default();
        let mut digests: HashMap<BlobKey, seal::BlobDigest> = HashMap::new();
        let mut records: BTreeMap<Ino, Record> =
            self.with_tree(|t| some.iter().filter_map(|ino| Some((*ino, t.record(*ino)?))).collect())?;
        for (ino, record) in &records {
            for version in versions_of(record).iter().filter(|v| !done.contains(&v.blob)) {
                if let Entry::Vacant(place) = digests.entry(version.blob) {
                    place.insert(self.reseal(*ino, &stand_in(record), version, &mut batch)?);
                }
            }
        }
        self.with_tree(|t| {
            if !digests.keys().any(|blob| t.is_shared(*blob)) {
                return;
            }
            let has = |versions: &[Version]| versions.iter().any(|v| digests.contains_key(&v.blob));
            for (ino, node) in t.nodes().filter(|(_, n)| has(&n.versions)) {
                records.entry(ino).or_insert_with(|| Record::Node((**node).clone()));
            }
            for (ino, tombstone) in t.tombstones().filter(|(_, g)| has(&g.versions)) {
                records.entry(ino).or_insert_with(|| Record::Tombstone((**tombstone).clone()));
            }
        })?;
        for record in records.values_mut() {
            let versions: &mut [Version] = match record {
                Record::Node(node) => &mut node.versions,
                Record::Tombstone(tombstone) => &mut tombstone.versions,
                Record::Facts(_)
                | Record::Scope(_)
                | Record::Instance(_)
                | Record::Export(_)
                | Record::Console(_)
                | Record::Remembered(_)
                | Record::View(..) => &mut [],
            };
            for version in versions {
                version.digest = digests.get(&version.blob).copied().unwrap_or(version.digest);
            }
        }
        self.flush_with(&mut writer, batch, &records)?;
        done.extend(digests.into_keys());
        self.with_tree_mut(|tree| {
            for (ino, record) in records {
                match record {
                    Record::Node(node) => tree.put(ino, node),
                    Record::Tombstone(tombstone) => tree.put_tombstone(ino, tombstone),
                    Record::Facts(_)
                    | Record::Scope(_)
                    | Record::Instance(_)
                    | Record::Export(_)
                    | Record::Console(_)
                    | Record::Remembered(_)
                    | Record::View(..) => {}
                }
            }
        })
    }

    fn reseal(
        &self,
        ino: Ino,
        node: &Node,
        version: &Version,
        batch: &mut Batch,
    ) -> Result<seal::BlobDigest, VaultError> {
        let keys = self.keys()?;
        // As for a change: what has expired is sealed anew as well.
        let grant = self.judge(&Daemon, ino, node, ScopeState::Alive, Operation::Write)?;
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
        Ok(digest)
    }
}

fn versions_of(record: &Record) -> &[Version] {
    match record {
        Record::Node(node) => &node.versions,
        Record::Tombstone(tombstone) => &tombstone.versions,
        Record::Facts(_)
        | Record::Scope(_)
        | Record::Instance(_)
        | Record::Export(_)
        | Record::Console(_)
        | Record::Remembered(_)
        | Record::View(..) => &[],
    }
}

/// What the judge is asked about: the node, or what a removed secret would be.
fn stand_in(record: &Record) -> Node {
    let node = |scope: &Scope, meta: &Meta, last_number| Node {
        parent: Ino::ROOT,
        name: None,
        kind: Kind::File,
        scope: scope.clone(),
        meta: meta.clone(),
        target: None,
        versions: Vec::new(),
        last_number,
        view: None,
    };
    match record {
        Record::Node(found) => node(&found.scope, &found.meta, found.last_number),
        Record::Tombstone(tombstone) => node(&tombstone.scope, &tombstone.meta, tombstone.last_number),
        Record::Facts(_)
        | Record::Scope(_)
        | Record::Instance(_)
        | Record::Export(_)
        | Record::Console(_)
        | Record::Remembered(_)
        | Record::View(..) => node(&Scope::Host, &Meta::new(Uid::ROOT, Gid(0), 0), 0),
    }
}

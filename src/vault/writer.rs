//! A transaction: what is changed in memory and not yet journalled, and how it gets there, all of it or nothing.
//!
//! [`Vault::transact`] takes back what its changes did to the tree if they cannot be journalled, or fail half way. What it answered survives the
//! end of the daemon at once; content, and what takes a right away, also a power cut.

use super::node::{FACTS_INO, Facts, Record, Tombstone};
use super::{Vault, VaultError};
use crate::audit::Durable;
use crate::model::Ino;
use crate::store::{Batch, BlobKey, Durability, Journalled};
use std::collections::BTreeMap;
use std::sync::Arc;

/// How many inode numbers are taken from the store at a time.
const INO_BLOCK: u64 = 1024;

/// What is to be written of an inode.
#[derive(Clone)]
pub(super) enum Out {
    /// The node as the tree has it, or nothing if it has none.
    Node,
    /// A removed secret.
    Tombstone(Arc<Tombstone>),
    /// What has no place in the tree: a scope, an instance.
    Record(Box<Record>),
}

/// Changes on their way to the disk. Whoever holds its lock is the only one who changes anything.
#[derive(Default, Clone)]
pub(super) struct Writer {
    dirty: BTreeMap<Ino, Out>,
    gone: Vec<BlobKey>,
    facts: Option<Facts>,
    facts_dirty: bool,
    next_ino: u64,
    /// Whether it must be on the disk before it is answered.
    synced: bool,
    scopes: BTreeMap<String, Option<Vec<u8>>>,
    meta: BTreeMap<String, Vec<u8>>,
}

impl Writer {
    /// Starts with the store's facts.
    pub fn begin(&mut self, facts: Facts) {
        let limit = facts.ino_limit;
        *self = Writer { next_ino: limit, facts: Some(facts), ..Writer::default() };
    }

    /// The store's facts.
    pub fn facts(&self) -> Result<&Facts, VaultError> {
        self.facts.as_ref().ok_or(VaultError::Locked)
    }

    /// Changes them.
    pub fn set_facts(&mut self, facts: Facts) {
        self.facts = Some(facts);
        self.facts_dirty = true;
    }

    /// The facts are these on the disk already; nothing else waited.
    pub fn switched_keys(&mut self, facts: Facts) {
        self.facts = Some(facts);
    }

    /// The next number no inode ever had. Which may have been given goes with the node that gets it: another daemon must not give it to
    /// something else, since the kernel and open handles remember it.
    pub fn next_ino(&mut self) -> Result<Ino, VaultError> {
        let facts = self.facts.as_mut().ok_or(VaultError::Locked)?;
        if self.next_ino >= facts.ino_limit {
            facts.ino_limit = self.next_ino + INO_BLOCK;
            self.facts_dirty = true;
        }
        let ino = Ino(self.next_ino);
        self.next_ino += 1;
        Ok(ino)
    }

    /// It must survive a power cut once it is answered.
    pub fn sync(&mut self) {
        self.synced = true;
    }

    /// It never happened. Numbers that were given are given to nobody else.
    fn roll_back(&mut self, before: Writer) {
        *self = Writer { next_ino: self.next_ino, ..before };
    }

    /// The node changed, came or went.
    pub fn touch(&mut self, ino: Ino) {
        self.dirty.insert(ino, Out::Node);
    }

    /// As [`Writer::touch`], but what is to be kept of a removed secret stays.
    pub fn touch_unless_buried(&mut self, ino: Ino) {
        if !matches!(self.dirty.get(&ino), Some(Out::Tombstone(_))) {
            self.touch(ino);
        }
    }

    /// A removed secret is to be kept.
    pub fn bury(&mut self, ino: Ino, tombstone: Arc<Tombstone>) {
        self.dirty.insert(ino, Out::Tombstone(tombstone));
    }

    /// A record that is not of the tree changed. It goes with [`Writer::touch`].
    pub fn keep(&mut self, ino: Ino, record: Record) {
        self.dirty.insert(ino, Out::Record(Box::new(record)));
    }

    /// Nobody needs this blob any more.
    pub fn drop_blob(&mut self, blob: BlobKey) {
        self.gone.push(blob);
    }

    /// A scope's sealed key changed.
    pub fn put_scope(&mut self, name: &str, sealed: Vec<u8>) {
        self.scopes.insert(name.to_owned(), Some(sealed));
    }

    /// A scope's key is to be forgotten.
    pub fn drop_scope(&mut self, name: &str) {
        self.scopes.insert(name.to_owned(), None);
    }

    /// A fact outside the sealed records changed.
    pub fn put_meta(&mut self, key: &str, value: Vec<u8>) {
        self.meta.insert(key.to_owned(), value);
    }

    /// Whether nothing waits to be journalled.
    pub fn is_clean(&self) -> bool {
        self.dirty.is_empty()
            && self.gone.is_empty()
            && !self.facts_dirty
            && self.scopes.is_empty()
            && self.meta.is_empty()
    }

    fn clean(&mut self) {
        self.dirty.clear();
        self.gone.clear();
        self.synced = false;
        self.facts_dirty = false;
        self.scopes.clear();
        self.meta.clear();
    }
}

impl Vault {
    /// Makes every change so far durable.
    ///
    /// # Errors
    /// [`VaultError::Locked`]; the store's error.
    pub fn sync(&self) -> Result<(), VaultError> {
        let mut writer = self.lock_writer();
        self.flush(&mut writer)?;
        drop(writer);
        self.sync_and_note()
    }

    /// All that is journalled goes to the disk, and the log's lines say from now on that it is there.
    pub(super) fn sync_and_note(&self) -> Result<(), VaultError> {
        let reached = self.durable()?;
        self.store.sync()?;
        if let Some(reached) = reached {
            self.audit.note_durable(reached);
        }
        Ok(())
    }

    /// What a log line says the store has on the disk, once it has been synced; `None` while it is not verified.
    pub(super) fn durable(&self) -> Result<Option<Durable>, VaultError> {
        let Some(generation) = self.store.generation() else { return Ok(None) };
        Ok(self.store.id()?.map(|id| Durable::of(&id, generation)))
    }

    /// As [`Vault::sync`]; and what was journalled goes where it will lie, if there is much of it or it is old. To be called every second.
    ///
    /// # Errors
    /// As [`Vault::sync`].
    pub fn tick(&self) -> Result<(), VaultError> {
        self.sync()?;
        Ok(self.store.checkpoint_if_due()?)
    }

    /// Does `changes`, and journals what they changed, as one transaction. If that fails, or they do, nothing has changed.
    ///
    /// # Errors
    /// Those of `changes`; [`VaultError::Locked`]; the store's.
    pub(super) fn transact<R>(
        &self,
        changes: impl FnOnce(&mut Writer) -> Result<R, VaultError>,
    ) -> Result<R, VaultError> {
        self.transact_with(&mut self.lock_writer(), changes)
    }

    /// As [`Vault::transact`], with the lock held.
    pub(super) fn transact_with<R>(
        &self,
        writer: &mut Writer,
        changes: impl FnOnce(&mut Writer) -> Result<R, VaultError>,
    ) -> Result<R, VaultError> {
        self.begin_undo()?;
        let before = writer.clone();
        let done = changes(writer).and_then(|result| {
            let durability = if writer.synced { Durability::Synced } else { Durability::Lazy };
            self.flush_as(writer, durability)?;
            Ok(result)
        });
        if done.is_err() {
            writer.roll_back(before);
        }
        self.end_undo(done.is_ok());
        done
    }

    /// Makes every change so far durable, and lets nobody make another: for the end of a daemon whose tree the next one takes over.
    /// Whoever wants to change something is answered by that one.
    ///
    /// # Errors
    /// As [`Vault::sync`].
    pub fn freeze(&self) -> Result<(), VaultError> {
        // It may end at any moment from now on, and opens are answered until then.
        self.audit.sum_up_for_good();
        let mut writer = self.lock_writer();
        let done = self.flush(&mut writer).and_then(|()| Ok(self.store.checkpoint()?));
        // Never unlocked again: what was changed after this would be lost with its answer given.
        std::mem::forget(writer);
        done
    }

    /// Journals what waits; it is on the disk when this returns.
    pub(super) fn flush(&self, writer: &mut Writer) -> Result<(), VaultError> {
        self.flush_as(writer, Durability::Synced)
    }

    fn flush_as(&self, writer: &mut Writer, durability: Durability) -> Result<(), VaultError> {
        if writer.is_clean() {
            return Ok(());
        }
        self.journal(writer, Batch::default(), &BTreeMap::new(), durability)
    }

    /// Journals `batch` and everything that waits, in one entry; it is on the disk when this returns. `records` stand in for what the tree has.
    pub(super) fn flush_with(
        &self,
        writer: &mut Writer,
        batch: Batch,
        records: &BTreeMap<Ino, Record>,
    ) -> Result<(), VaultError> {
        self.journal(writer, batch, records, Durability::Synced)
    }

    pub(super) fn journal(
        &self,
        writer: &mut Writer,
        batch: Batch,
        records: &BTreeMap<Ino, Record>,
        durability: Durability,
    ) -> Result<(), VaultError> {
        let batch = self.with_what_waits(writer, batch, records)?;
        self.store.append(&batch, &self.anchor(), durability)?;
        writer.clean();
        Ok(())
    }

    /// Journals `batch` and `records` alone, without waiting for the disk: it happened once [`Store::settle`](crate::store::Store::settle) says so.
    pub(super) fn journal_beside(
        &self,
        writer: &Writer,
        batch: Batch,
        records: &BTreeMap<Ino, Record>,
    ) -> Result<Journalled, VaultError> {
        let batch = self.with_what_waits(writer, batch, records)?;
        Ok(self.store.journal(&batch, &self.anchor())?)
    }

    fn with_what_waits(
        &self,
        writer: &Writer,
        mut batch: Batch,
        records: &BTreeMap<Ino, Record>,
    ) -> Result<Batch, VaultError> {
        let keys = self.keys()?;
        let seal = |ino, record: &Record| Some(keys.record.seal(ino, &record.encode()));
        for (ino, record) in records {
            batch.nodes.insert(*ino, seal(*ino, record));
        }
        for (ino, out) in &writer.dirty {
            if batch.nodes.contains_key(ino) {
                continue;
            }
            let sealed = match out {
                Out::Tombstone(tombstone) => seal(*ino, &Record::Tombstone((**tombstone).clone())),
                Out::Record(record) => seal(*ino, record),
                Out::Node => {
                    let node = self.with_tree(|tree| tree.get(*ino).cloned())?;
                    node.and_then(|node| seal(*ino, &Record::Node((*node).clone())))
                }
            };
            batch.nodes.insert(*ino, sealed);
        }
        if writer.facts_dirty {
            let facts = writer.facts()?.clone();
            batch.nodes.insert(FACTS_INO, seal(FACTS_INO, &Record::Facts(facts)));
        }
        batch.blobs.extend(writer.gone.iter().map(|blob| (*blob, None)));
        batch.scopes.extend(writer.scopes.iter().map(|(k, v)| (k.clone(), v.clone())));
        batch.meta.extend(writer.meta.iter().map(|(k, v)| (k.clone(), Some(v.clone()))));
        Ok(batch)
    }
}

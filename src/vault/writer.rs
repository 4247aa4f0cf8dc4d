//! What is changed in memory and not yet on disk, and how it gets there: one transaction for all of it.
//!
//! A commit of content carries along every change of metadata before it, so that the disk always shows a state that
//! once was. Metadata alone is written by [`Vault::sync`]: at fsync, at the end of a command, and every second.

use super::node::{FACTS_INO, Facts, Grave, Record};
use super::{Vault, VaultError};
use crate::model::Ino;
use crate::store::{Batch, BlobKey};
use std::collections::BTreeMap;
use std::sync::Arc;

/// How many inode numbers are taken from the store at a time.
const INO_BLOCK: u64 = 1024;

/// What is to be written of an inode.
pub(super) enum Out {
    /// The node as the tree has it, or nothing if it has none.
    Node,
    /// A removed secret.
    Grave(Arc<Grave>),
    /// What has no place in the tree: a scope, an instance.
    Record(Box<Record>),
}

/// Changes on their way to the disk. Whoever holds its lock is the only one who changes anything.
#[derive(Default)]
pub(super) struct Writer {
    dirty: BTreeMap<Ino, Out>,
    gone: Vec<BlobKey>,
    facts: Option<Facts>,
    facts_dirty: bool,
    next_ino: u64,
    /// What the disk has for `ino_limit`.
    durable_limit: u64,
    scopes: BTreeMap<String, Option<Vec<u8>>>,
    meta: BTreeMap<String, Vec<u8>>,
}

impl Writer {
    /// Starts with the store's facts.
    pub fn begin(&mut self, facts: Facts) {
        let limit = facts.ino_limit;
        *self = Writer { next_ino: limit, durable_limit: limit, facts: Some(facts), ..Writer::default() };
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
    pub fn turned_over(&mut self, facts: Facts) {
        self.facts = Some(facts);
    }

    /// The next number no inode ever had, if the disk knows that it may be given: another daemon must not give it to
    /// something else, since the kernel and open handles remember it.
    fn next_ino(&mut self) -> Result<Option<Ino>, VaultError> {
        let facts = self.facts.as_mut().ok_or(VaultError::Locked)?;
        // Well before the end, so that the next sync has it on disk in time.
        if self.next_ino + INO_BLOCK / 2 >= facts.ino_limit {
            facts.ino_limit += INO_BLOCK;
            self.facts_dirty = true;
        }
        if self.next_ino >= self.durable_limit {
            return Ok(None);
        }
        let ino = Ino(self.next_ino);
        self.next_ino += 1;
        Ok(Some(ino))
    }

    /// The node changed, came or went.
    pub fn touch(&mut self, ino: Ino) {
        self.dirty.insert(ino, Out::Node);
    }

    /// As [`Writer::touch`], but what is to be kept of a removed secret stays.
    pub fn touch_unless_buried(&mut self, ino: Ino) {
        if !matches!(self.dirty.get(&ino), Some(Out::Grave(_))) {
            self.touch(ino);
        }
    }

    /// A removed secret is to be kept.
    pub fn bury(&mut self, ino: Ino, grave: Arc<Grave>) {
        self.dirty.insert(ino, Out::Grave(grave));
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

    fn is_clean(&self) -> bool {
        self.dirty.is_empty()
            && self.gone.is_empty()
            && !self.facts_dirty
            && self.scopes.is_empty()
            && self.meta.is_empty()
    }

    fn clean(&mut self) {
        self.dirty.clear();
        self.gone.clear();
        self.durable_limit = self.facts.as_ref().map_or(0, |facts| facts.ino_limit);
        self.facts_dirty = false;
        self.scopes.clear();
        self.meta.clear();
    }
}

impl Vault {
    /// Makes every change so far durable.
    ///
    /// # Errors
    /// [`VaultError::Locked`]; the store's error, and then the changes wait for the next try.
    pub fn sync(&self) -> Result<(), VaultError> {
        let mut writer = self.lock_writer();
        self.flush(&mut writer)
    }

    /// Makes every change so far durable, and lets nobody make another: for the end of a daemon whose tree the next one takes over.
    /// Whoever wants to change something is answered by that one.
    ///
    /// # Errors
    /// As [`Vault::sync`].
    pub fn hold_still(&self) -> Result<(), VaultError> {
        // It may end at any moment from now on, and opens are answered until then.
        self.audit.sum_up_for_good();
        let mut writer = self.lock_writer();
        let done = self.flush(&mut writer);
        // Never unlocked again: what was changed after this would be lost with its answer given.
        std::mem::forget(writer);
        done
    }

    /// A number no inode ever had. Waits for the disk once in a while.
    pub(super) fn new_ino(&self, writer: &mut Writer) -> Result<Ino, VaultError> {
        if let Some(ino) = writer.next_ino()? {
            return Ok(ino);
        }
        self.flush(writer)?;
        writer.next_ino()?.ok_or_else(|| VaultError::Failed("no inode number is left".into()))
    }

    /// As [`Vault::sync`], with the lock held.
    pub(super) fn flush(&self, writer: &mut Writer) -> Result<(), VaultError> {
        if writer.is_clean() {
            return Ok(());
        }
        self.flush_with(writer, Batch::default(), &BTreeMap::new())
    }

    /// Commits `batch` and everything that waits, in one transaction. `records` stand in for what the tree has.
    pub(super) fn flush_with(
        &self,
        writer: &mut Writer,
        mut batch: Batch,
        records: &BTreeMap<Ino, Record>,
    ) -> Result<(), VaultError> {
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
                Out::Grave(grave) => seal(*ino, &Record::Grave((**grave).clone())),
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
        self.store.apply(&batch, &self.anchor())?;
        writer.clean();
        Ok(())
    }
}

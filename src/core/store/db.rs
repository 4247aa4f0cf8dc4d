//! sled, and what must be known of it to keep data there: no value is so large that sled would put it into a file of its
//! own. Never lets a type of sled out.
//!
//! sled 0.34 writes a page that outgrows a quarter of a segment (131,052 bytes) into a file under `blobs/` which it never
//! syncs, and a leaf has up to 16 values and some in passing. So a value is stored in parts of at most [`PART`] bytes: then
//! everything is in the one file `db`, and one fdatasync(2) makes a commit durable.

use super::guard::guarded;
use super::{Batch, MAX_VALUE, StoreError};
use std::fs::File;
use std::io;
use std::ops::{Bound, Deref};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use sled::IVec;
use sled::transaction::TransactionError;

/// The most bytes of a value in one sled record: 20 of them make less than 131,052.
const PART: usize = 6000;
/// What sled may keep of pages in memory. Small: the kernel caches the file as well, and a read from there takes
/// microseconds.
const CACHE_BYTES: u64 = 16 << 20;
/// How long readers may hold on to a database that is to be opened again, or the kernel to its lock.
const PATIENCE: Duration = Duration::from_secs(5);

/// A value in whole, the first byte of what sled holds.
const WHOLE: u8 = 0;
/// A value in parts: the first byte, and its length (u32, big-endian).
const PARTED: u8 = 1;

/// Done, or why not.
pub(super) type StoreResult = Result<(), StoreError>;

/// The trees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Tree {
    /// Facts about the store.
    Meta = 0,
    /// Sealed scope keys.
    Scopes = 1,
    /// Sealed records.
    Nodes = 2,
    /// age files.
    Blobs = 3,
}

impl Tree {
    /// In the order of a backup.
    pub(super) const ALL: [Tree; 4] = [Tree::Meta, Tree::Scopes, Tree::Nodes, Tree::Blobs];
    /// Those that the manifest sums up.
    pub(super) const SUMMED: [Tree; 3] = [Tree::Meta, Tree::Scopes, Tree::Nodes];

    /// Its name in sled and in the sums.
    pub(super) fn name(self) -> &'static str {
        match self {
            Tree::Meta => "meta",
            Tree::Scopes => "scopes",
            Tree::Nodes => "nodes",
            Tree::Blobs => "blobs",
        }
    }
}

/// Where the further parts of long values are: tree, length of the key, key, number of the part (u32, big-endian).
const PARTS: usize = 4;

/// One change of one sled record.
#[derive(Debug, Clone)]
pub(super) struct Change {
    tree: usize,
    key: IVec,
    value: Option<IVec>,
}

impl Change {
    /// Bytes of key and value.
    pub(super) fn len(&self) -> u64 {
        (self.key.len() + self.value.as_ref().map_or(0, |v| v.len())) as u64
    }
}

/// One change of one record, as a batch has it.
pub(super) struct Put<'a> {
    pub(super) tree: Tree,
    pub(super) key: Vec<u8>,
    pub(super) value: Option<&'a [u8]>,
}

/// The batch, record by record.
pub(super) fn puts(batch: &Batch) -> impl Iterator<Item = Put<'_>> + Clone {
    let meta = batch.meta.iter().map(|(k, v)| (Tree::Meta, k.as_bytes().to_vec(), v));
    let scopes = batch.scopes.iter().map(|(k, v)| (Tree::Scopes, k.as_bytes().to_vec(), v));
    let nodes = batch.nodes.iter().map(|(k, v)| (Tree::Nodes, k.0.to_be_bytes().to_vec(), v));
    let blobs = batch.blobs.iter().map(|(k, v)| (Tree::Blobs, k.to_bytes().to_vec(), v));
    meta.chain(scopes).chain(nodes).chain(blobs).map(|(tree, key, v)| Put { tree, key, value: v.as_deref() })
}

/// A stored value. Derefs to its bytes; costs no copy unless it was in parts.
#[derive(Debug, Clone)]
pub struct Blob(Bytes);

#[derive(Debug, Clone)]
enum Bytes {
    /// As sled holds it: the bytes after the first.
    Sled(IVec),
    /// Put together from parts.
    Joined(Vec<u8>),
    /// As the journal has it.
    Journalled(Arc<[u8]>),
}

impl Blob {
    /// A value that is not in the database yet.
    pub(super) fn journalled(value: Arc<[u8]>) -> Self {
        Blob(Bytes::Journalled(value))
    }
}

impl Deref for Blob {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match &self.0 {
            Bytes::Sled(v) => &v[1..],
            Bytes::Joined(v) => v,
            Bytes::Journalled(v) => v,
        }
    }
}

impl AsRef<[u8]> for Blob {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

/// An open database.
pub(super) struct Db {
    sled: Option<Handles>,
    log: File,
    dir: PathBuf,
    overflow: Option<SystemTime>,
}

struct Handles {
    db: sled::Db,
    trees: [sled::Tree; 5],
}

impl Db {
    /// A new database in a folder that does not exist yet.
    pub(super) fn create(dir: &Path) -> Result<Self, StoreError> {
        std::fs::create_dir(dir)?;
        Self::start(dir)
    }

    /// An existing database. What a kill in the middle of an earlier start left behind, and sled would stumble over, is
    /// removed first.
    pub(super) fn open(dir: &Path) -> Result<Self, StoreError> {
        let log = dir.join("db");
        match std::fs::metadata(&log) {
            Ok(meta) if meta.len() > 0 => {}
            Ok(_) => return Err(StoreError::Damaged(format!("{} is empty", log.display()))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(StoreError::Damaged(format!("{} is missing", log.display())));
            }
            Err(e) => return Err(e.into()),
        }
        for entry in std::fs::read_dir(dir)? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.starts_with("snap.") && name.ends_with(".generating") {
                std::fs::remove_file(entry.path())?;
            }
        }
        Self::start(dir)
    }

    fn start(dir: &Path) -> Result<Self, StoreError> {
        let config = sled::Config::new().path(dir).cache_capacity(CACHE_BYTES).flush_every_ms(None);
        let deadline = Instant::now() + PATIENCE;
        let handles = guarded("opening the database", || {
            loop {
                match config.open() {
                    // We hold the store's own lock: this one belongs to threads of a database we just closed, or to a
                    // child between fork and exec.
                    Err(sled::Error::Io(e)) if e.to_string().contains("acquire lock") && Instant::now() < deadline => {
                        std::thread::sleep(Duration::from_millis(5));
                    }
                    Err(e) => return Err(e.into()),
                    Ok(db) => {
                        let tree = |name: &str| db.open_tree(name);
                        let trees = [
                            tree(Tree::Meta.name())?,
                            tree(Tree::Scopes.name())?,
                            tree(Tree::Nodes.name())?,
                            tree(Tree::Blobs.name())?,
                            tree("parts")?,
                        ];
                        db.flush()?;
                        return Ok(Handles { db, trees });
                    }
                }
            }
        })?;
        let log = File::open(dir.join("db"))?;
        log.sync_all()?;
        File::open(dir)?.sync_all()?;
        let mut db = Db { sled: Some(handles), log, dir: dir.to_owned(), overflow: None };
        db.overflow = db.overflow_changed()?;
        Ok(db)
    }

    /// The value of a record.
    pub(super) fn get(&self, tree: Tree, key: &[u8]) -> Result<Option<Blob>, StoreError> {
        guarded("reading", || match self.tree(tree as usize).get(key)? {
            None => Ok(None),
            Some(head) => self.whole(tree, key, head).map(Some),
        })
    }

    /// Calls `f` with every record of a tree, in the order of keys.
    pub(super) fn each(&self, tree: Tree, f: &mut dyn FnMut(&[u8], &[u8]) -> StoreResult) -> StoreResult {
        self.each_of(tree, self.tree(tree as usize).iter(), f)
    }

    /// The same, from one key on and before another, or to the end.
    pub(super) fn each_between(
        &self,
        tree: Tree,
        (from, to): (&[u8], Option<&[u8]>),
        f: &mut dyn FnMut(&[u8], &[u8]) -> StoreResult,
    ) -> StoreResult {
        let to = to.map_or(Bound::Unbounded, Bound::Excluded);
        self.each_of(tree, self.tree(tree as usize).range::<&[u8], _>((Bound::Included(from), to)), f)
    }

    fn each_of(
        &self,
        tree: Tree,
        mut records: sled::Iter,
        f: &mut dyn FnMut(&[u8], &[u8]) -> StoreResult,
    ) -> StoreResult {
        while let Some((key, head)) = guarded("reading", || records.next().transpose().map_err(StoreError::from))? {
            let value = guarded("reading", || self.whole(tree, &key, head))?;
            f(&key, &value)?;
        }
        Ok(())
    }

    /// The last key of a tree.
    pub(super) fn last_key(&self, tree: Tree) -> Result<Option<IVec>, StoreError> {
        guarded("reading", || Ok(self.tree(tree as usize).last()?.map(|(key, _)| key)))
    }

    /// Calls `f` with every key of a tree, in order.
    pub(super) fn each_key(&self, tree: Tree, f: &mut dyn FnMut(&[u8]) -> StoreResult) -> StoreResult {
        let mut keys = self.tree(tree as usize).iter().keys();
        while let Some(key) = guarded("reading", || keys.next().transpose().map_err(StoreError::from))? {
            f(&key)?;
        }
        Ok(())
    }

    /// The changes that put a value, or delete it, whatever is stored under that key now.
    pub(super) fn plan(&self, put: &Put<'_>, changes: &mut Vec<Change>) -> Result<(), StoreError> {
        let old_parts =
            guarded("reading", || self.tree(put.tree as usize).get(&put.key)?.map_or(Ok(0), |head| parts_of(&head)))?;
        let (head, parts) = match put.value {
            None => (None, Vec::new()),
            Some(v) if v.len() < PART => (Some([&[WHOLE], v].concat()), Vec::new()),
            Some(v) => {
                let len = u32::try_from(v.len()).map_err(|_| StoreError::Failed("a value is too long".into()))?;
                (Some([&[PARTED][..], &len.to_be_bytes()].concat()), v.chunks(PART).collect())
            }
        };
        changes.push(Change { tree: put.tree as usize, key: put.key.as_slice().into(), value: head.map(IVec::from) });
        for number in 0..parts.len().max(old_parts) {
            let value = parts.get(number).map(|p| IVec::from(*p));
            changes.push(Change { tree: PARTS, key: part_key(put.tree, &put.key, number).into(), value });
        }
        Ok(())
    }

    /// The changes that undo `changes`, as things stand now.
    pub(super) fn reverse(&self, changes: &[Change]) -> Result<Vec<Change>, StoreError> {
        guarded("reading", || {
            let old = |c: &Change| Ok(Change { value: self.tree(c.tree).get(&c.key)?, ..c.clone() });
            changes.iter().map(old).collect()
        })
    }

    /// Makes the changes as one transaction and writes it out. Not yet durable: see [`Db::sync`].
    pub(super) fn transact(&self, changes: &[Change]) -> Result<(), StoreError> {
        use sled::Transactional;
        guarded("writing", || {
            let handles = self.handles();
            let done = handles.trees[..].transaction(|trees| {
                for change in changes {
                    match &change.value {
                        Some(value) => trees[change.tree].insert(change.key.clone(), value.clone())?,
                        None => trees[change.tree].remove(change.key.clone())?,
                    };
                }
                Ok(())
            });
            match done {
                Ok(()) => {}
                Err(TransactionError::Storage(e)) => return Err(e.into()),
                Err(TransactionError::Abort(())) => return Err(StoreError::Failed("a transaction was aborted".into())),
            }
            handles.db.flush()?;
            Ok(())
        })
    }

    /// Puts one record outside any transaction: only for a database that nobody uses yet.
    pub(super) fn fill(&self, put: &Put<'_>) -> Result<(), StoreError> {
        let mut changes = Vec::new();
        self.plan(put, &mut changes)?;
        guarded("writing", || {
            for change in changes {
                match change.value {
                    Some(value) => self.tree(change.tree).insert(change.key, value)?,
                    None => self.tree(change.tree).remove(change.key)?,
                };
            }
            Ok(())
        })
    }

    /// Writes out what [`Db::fill`] put.
    pub(super) fn flush(&self) -> Result<(), StoreError> {
        guarded("writing", || self.handles().db.flush().map(drop).map_err(StoreError::from))
    }

    /// Makes what was written survive a power cut.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        // By PART this does not happen. If it does all the same, its unsynced files are seen to.
        if self.overflow_changed()? != self.overflow {
            nix::unistd::syncfs(&self.log).map_err(io::Error::from)?;
            return Ok(());
        }
        Ok(self.log.sync_data()?)
    }

    /// How many parts of long values there are.
    #[cfg(test)]
    pub(super) fn parts(&self) -> usize {
        self.tree(PARTS).len()
    }

    /// Bytes that its files have.
    pub(super) fn size_on_disk(&self) -> Result<u64, StoreError> {
        guarded("reading", || self.handles().db.size_on_disk().map_err(StoreError::from))
    }

    fn overflow_changed(&self) -> Result<Option<SystemTime>, StoreError> {
        match std::fs::metadata(self.dir.join("blobs")) {
            Ok(meta) => Ok(Some(meta.modified()?)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    fn whole(&self, tree: Tree, key: &[u8], head: IVec) -> Result<Blob, StoreError> {
        let damaged = || StoreError::Damaged(format!("a value of '{}' is cut or garbled", tree.name()));
        if head.first() == Some(&WHOLE) {
            return Ok(Blob(Bytes::Sled(head)));
        }
        let len = parted_len(&head).ok_or_else(damaged)?;
        let mut joined = Vec::with_capacity(len);
        for number in 0..len.div_ceil(PART) {
            joined.extend_from_slice(&self.tree(PARTS).get(part_key(tree, key, number))?.ok_or_else(damaged)?);
        }
        if joined.len() == len { Ok(Blob(Bytes::Joined(joined))) } else { Err(damaged()) }
    }

    fn handles(&self) -> &Handles {
        self.sled.as_ref().expect("only drop takes the handles")
    }

    fn tree(&self, index: usize) -> &sled::Tree {
        &self.handles().trees[index]
    }
}

impl Drop for Db {
    fn drop(&mut self) {
        let handles = self.sled.take();
        // sled flushes when it is dropped, and panics if that fails.
        let _ = guarded("closing the database", || {
            drop(handles);
            Ok(())
        });
    }
}

/// Waits until nobody else holds the database.
pub(super) fn sole(mut shared: Arc<Db>) -> Result<Db, Arc<Db>> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        shared = match Arc::try_unwrap(shared) {
            Ok(db) => return Ok(db),
            Err(still) if Instant::now() > deadline => return Err(still),
            Err(still) => still,
        };
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn part_key(tree: Tree, key: &[u8], number: usize) -> Vec<u8> {
    let len = u8::try_from(key.len()).expect("keys are at most MAX_KEY bytes");
    let number = u32::try_from(number).expect("a value has at most MAX_VALUE / PART parts");
    [&[tree as u8, len], key, &number.to_be_bytes()].concat()
}

fn parted_len(head: &[u8]) -> Option<usize> {
    let (tag, len) = head.split_first()?;
    let len = u32::from_be_bytes(len.try_into().ok()?) as usize;
    (*tag == PARTED && len <= MAX_VALUE).then_some(len)
}

fn parts_of(head: &[u8]) -> Result<usize, StoreError> {
    match head.first() {
        Some(&WHOLE) => Ok(0),
        _ => parted_len(head).map(|l| l.div_ceil(PART)).ok_or_else(|| StoreError::Damaged("a value is garbled".into())),
    }
}

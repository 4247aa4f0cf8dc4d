//! The durable store: sealed records and blobs in sled, a manifest beside it, one transaction per commit.
//!
//! Owns the store's folder and everything in it. It handles opaque bytes only: it never sees plaintext, and of all keys
//! only the index key, for the manifest's sums. It never decides what a record means.

mod append;
mod backup;
mod batch;
mod checkpoint;
mod db;
mod error;
mod folder;
mod group;
mod guard;
mod head;
mod journal;
mod ledger;
mod manifest;
mod reading;
mod twin;

#[cfg(test)]
mod tests;

#[cfg(any(test, feature = "faults"))]
pub use ledger::{FaultPoint, NEXT_FAULT};

pub use backup::{Existing, Restored, Written, backup, restore, restore_checked};
pub use batch::{AuditAnchor, Batch, BlobKey, Durability, MAX_KEY, MAX_VALUE};
pub use db::Blob;
pub use error::StoreError;
pub use folder::Space;
pub use group::Journalled;

use crate::lock::{Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};
use crate::model::{Generation, Ino};
use crate::secret::Secret;
use batch::check;
use db::{Db, Tree};
use folder::Folder;
use group::Tickets;
use head::{Head, Overlay};
use journal::Journal;
use ledger::Ledger;
use std::collections::HashSet;
use std::path::Path;
use std::sync::{Arc, OnceLock};

/// The fact that tells one store from another: [`Store::id`].
pub const ID_META: &str = "id";

/// What [`Store::verify`] found to be true.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verified {
    /// The last commit.
    pub generation: Generation,
    /// Records in `nodes`, `scopes` and `meta`.
    pub records: u64,
    /// Where the audit log was at that commit.
    pub audit: AuditAnchor,
}

/// An open store, locked against every other process.
///
/// Lock order: `ledger`, `syncing`, `head`, `tickets`, `overlay`, `db`. `ledger` is held for a whole checkpoint, verification, or commit that is
/// not journalled; `syncing` for a sync of the journal; `head` for an append; `overlay` for a look-up; `db` only to take a reference,
/// or, exclusively, while a failed database is opened again. Reads of blobs take no lock but the last two.
pub struct Store {
    ledger: Mutex<Ledger>,
    syncing: Mutex<()>,
    head: Mutex<Option<Head>>,
    tickets: Mutex<Tickets>,
    overlay: RwLock<Overlay>,
    db: RwLock<Option<Arc<Db>>>,
    folder: Folder,
    told: OnceLock<Box<dyn Fn(Generation) + Send + Sync>>,
}

impl Store {
    /// Makes a store in an empty or missing folder (which becomes 0700) with its first records and small extra `files`
    /// (0600). Durable when it returns; what was written is removed again if it fails.
    ///
    /// # Errors
    /// [`StoreError::Exists`] if the folder is not empty, [`StoreError::NoSpace`], [`StoreError::Io`].
    pub fn create(dir: &Path, index_key: &Secret, first: Batch, files: &[(&str, &[u8])]) -> Result<(), StoreError> {
        check(&first)?;
        folder::create(dir, files, |folder| {
            let db = Db::create(&folder.db_dir())?;
            let keys = manifest::Keys::derive(index_key);
            let state = ledger::first_commit(&db, folder, &keys, &first)?;
            drop(db);
            folder.manifest_slots().write_both(&keys, &state)
        })
    }

    /// Opens a store and locks it. Nothing is verified yet: until [`Store::verify`] says so, what it reads may have been
    /// altered.
    ///
    /// # Errors
    /// [`StoreError::NotAStore`], [`StoreError::InUse`], [`StoreError::UnknownFormat`], [`StoreError::Damaged`],
    /// [`StoreError::Io`].
    pub fn open(dir: &Path) -> Result<Store, StoreError> {
        let folder = Folder::open(dir)?;
        twin::bring_back(&folder)?;
        let db = open_db(&folder)?;
        folder.keep_spare();
        let store = Store {
            ledger: Mutex::default(),
            syncing: Mutex::default(),
            head: Mutex::default(),
            tickets: Mutex::default(),
            overlay: RwLock::default(),
            db: RwLock::new(Some(Arc::new(db))),
            folder,
            told: OnceLock::new(),
        };
        match store.meta(folder::FORMAT_KEY)? {
            Some(format) if format == folder::FORMAT => Ok(store),
            Some(format) => Err(StoreError::UnknownFormat(String::from_utf8_lossy(&format).trim_end().into())),
            None => Err(StoreError::Damaged("its database does not say its format".into())),
        }
    }

    /// The folder it lives in.
    pub fn dir(&self) -> &Path {
        self.folder.path()
    }

    /// Which store it is, and whichever folder it lies in; `None` if it does not say. A copy is the same store.
    ///
    /// # Errors
    /// [`StoreError::Damaged`], [`StoreError::Io`].
    pub fn id(&self) -> Result<Option<[u8; 16]>, StoreError> {
        Ok(self.meta(ID_META)?.and_then(|id| id.try_into().ok()))
    }

    /// What its manifest and its journal say of the last commit, believed without their key.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn claimed_generation(&self) -> Result<Generation, StoreError> {
        let manifest = manifest::claimed_generation(&self.folder.read_manifest()?);
        Ok(Generation(manifest.max(journal::claimed_generation(self.folder.path())?)))
    }

    /// Each commit is told from now on, and what is found when the store is verified. Never blocks. The first who asks is told.
    pub fn on_generation(&self, told: Box<dyn Fn(Generation) + Send + Sync>) {
        let _ = self.told.set(told);
    }

    fn at(&self, generation: Generation) {
        self.told.get().inspect(|told| told(generation));
    }

    /// A fact about the store.
    ///
    /// # Errors
    /// [`StoreError::Damaged`], [`StoreError::Io`].
    pub fn meta(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.db()?.get(Tree::Meta, key.as_bytes())?.map(|v| v.to_vec()))
    }

    /// The sealed key of a scope.
    ///
    /// # Errors
    /// [`StoreError::Damaged`], [`StoreError::Io`].
    pub fn scope(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.db()?.get(Tree::Scopes, name.as_bytes())?.map(|v| v.to_vec()))
    }

    /// All scopes: name, sealed key.
    ///
    /// # Errors
    /// [`StoreError::Damaged`], [`StoreError::Io`].
    pub fn scopes(&self) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        let mut all = Vec::new();
        self.db()?.each(Tree::Scopes, &mut |key, value| {
            let name = std::str::from_utf8(key).map_err(|_| StoreError::Damaged("a scope's name".into()))?;
            all.push((name.to_owned(), value.to_vec()));
            Ok(())
        })?;
        Ok(all)
    }

    /// The age file of one version of a secret. May be called from any number of threads.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if this blob cannot be read whole (others may still), [`StoreError::Io`].
    pub fn blob(&self, key: BlobKey) -> Result<Option<Blob>, StoreError> {
        if let Some(journalled) = self.read_overlay().get(Tree::Blobs, &key.to_bytes()) {
            return Ok(journalled);
        }
        match self.db()?.get(Tree::Blobs, &key.to_bytes()) {
            // After one failed write sled fails reads as well, though nothing is wrong with what they read.
            Err(StoreError::NoSpace | StoreError::Io(_)) if self.heal() => self.db()?.get(Tree::Blobs, &key.to_bytes()),
            other => other,
        }
    }

    /// The names of all blobs, sorted.
    ///
    /// # Errors
    /// [`StoreError::Damaged`], [`StoreError::Io`].
    pub fn blob_keys(&self) -> Result<Vec<BlobKey>, StoreError> {
        self.checkpoint()?;
        let mut all = Vec::new();
        self.db()?.each_key(Tree::Blobs, &mut |key| {
            all.push(BlobKey::from_bytes(key).ok_or_else(|| StoreError::Damaged("a blob's name".into()))?);
            Ok(())
        })?;
        Ok(all)
    }

    /// Compares `nodes`, `scopes` and `meta` with the manifest and calls `open` for every node record on the way, so that each is read
    /// once: on several threads, in no order. What it made of them is handed out only when all of it is what it should be.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if they agree with neither slot of the manifest, or if this is another store's key;
    /// whatever `open` returns.
    pub fn verify<T: Send>(
        &self,
        index_key: &Secret,
        open: impl Fn(Ino, &[u8]) -> Result<T, StoreError> + Sync,
    ) -> Result<(Verified, Vec<T>), StoreError> {
        let mut ledger = self.ledger();
        ledger.forget();
        self.settle_under(&self.syncing(), &mut self.head());
        *self.head() = None;
        if ledger.needs_reopening() {
            self.reopen(&mut ledger)?;
        }
        let db = self.db()?;
        let keys = || manifest::Keys::derive(index_key);
        let (mut journal, entries) = Journal::read(self.folder.path(), index_key)?;
        let journalled: HashSet<Ino> = entries.iter().flat_map(|entry| entry.nodes()).collect();
        let unless = |ino, value: &[u8]| if journalled.contains(&ino) { Ok(None) } else { open(ino, value).map(Some) };
        let (base, opened) = ledger.verify(&db, &self.folder, keys(), &unless)?;
        let mut overlay = Overlay::default();
        let state = head::replay(&db, &keys(), base, entries, &mut overlay)?;
        let mut opened: Vec<T> = opened.into_iter().flatten().collect();
        for ino in journalled {
            let key = ino.0.to_be_bytes();
            let value = overlay.get(Tree::Nodes, &key).map_or_else(|| db.get(Tree::Nodes, &key), Ok)?;
            opened.extend(value.map(|value| open(ino, &value)).transpose()?);
        }
        drop(db);
        ledger.given(state.generation);
        journal.is_at(state.generation);
        *self.write_overlay() = overlay;
        *self.head() = Some(Head::new(keys(), journal, state, base.generation));
        // What a process before this one left in the journal may be in the page cache alone: it is in the database before it is shown.
        match self.checkpoint_under(&mut ledger) {
            Err(StoreError::NoSpace) => self.open_on_a_full_disk(&mut ledger)?,
            done => done?,
        }
        self.at(state.generation);
        Ok((Verified { generation: state.generation, records: state.contents.records, audit: state.audit }, opened))
    }

    /// The journal's own files have all the room they need: what is in them can be read from there.
    fn open_on_a_full_disk(&self, ledger: &mut Ledger) -> Result<(), StoreError> {
        if self.folder.spend_spare() && self.checkpoint_under(ledger).is_ok() {
            return Ok(());
        }
        tracing::warn!("the disk of the store is full: nothing is committed until there is room");
        journal::sync(self.folder.path())
    }

    /// Calls `f` with every node record as it is stored.
    ///
    /// # Errors
    /// [`StoreError::Damaged`], [`StoreError::Io`]; whatever `f` returns.
    pub fn each_node(&self, f: &mut dyn FnMut(Ino, &[u8]) -> db::StoreResult) -> Result<(), StoreError> {
        self.checkpoint()?;
        self.db()?.each(Tree::Nodes, &mut |key, value| f(ledger::ino_of(key)?, value))
    }

    /// Commits a batch as [`Store::apply`] does, and from then on the manifest is under another index key: the batch holds
    /// whatever else is. After an error the old key is forgotten, and either the old one or the new one verifies.
    ///
    /// # Errors
    /// As [`Store::apply`].
    pub fn rekey(&self, batch: &Batch, anchor: &AuditAnchor, index_key: &Secret) -> Result<Generation, StoreError> {
        check(batch)?;
        let keys = manifest::Keys::derive(index_key);
        let mut ledger = self.ledger();
        let syncing = self.syncing();
        let mut locked = self.head();
        self.checkpoint_with(&mut ledger, &syncing, &mut locked)?;
        let mut head = locked.take().ok_or_else(ledger::unverified)?;
        // The database has all of it: what would be left is under a key that goes.
        head.journal.wipe()?;
        let generation = ledger.rekey(&*self.db()?, &self.folder, batch, anchor, keys)?;
        let (mut journal, _) = Journal::read(self.folder.path(), index_key)?;
        journal.is_at(generation);
        let state = ledger.state().ok_or_else(ledger::unverified)?;
        let keys = manifest::Keys::derive(index_key);
        *locked = Some(Head::new(keys, journal, state, generation));
        drop(locked);
        self.at(generation);
        Ok(generation)
    }

    /// The last commit, which may be under way still; `None` before [`Store::verify`].
    pub fn generation(&self) -> Option<Generation> {
        self.head().as_ref().map(|head| head.state.generation)
    }

    /// Drops the copy of the index key. [`Store::verify`] must be called again before [`Store::apply`].
    pub fn forget_key(&self) {
        let mut ledger = self.ledger();
        let syncing = self.syncing();
        let mut head = self.head();
        if let Err(error) = self.checkpoint_with(&mut ledger, &syncing, &mut head) {
            tracing::warn!(%error, "what is in the journal alone stays there until the store is unlocked");
        }
        *head = None;
        *self.write_overlay() = Overlay::default();
        ledger.forget();
    }

    /// Room on its filesystem.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn free_space(&self) -> Result<Space, StoreError> {
        self.folder.space()
    }

    /// Reads one of the small extra files.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn read_file(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.folder.read_file(name)
    }

    /// Replaces one of the small extra files whole, durably, 0600.
    ///
    /// # Errors
    /// [`StoreError::NoSpace`], [`StoreError::Io`]; the old file is then as it was.
    pub fn write_file(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        self.folder.write_file(name, bytes)
    }

    /// The names of the small extra files, sorted.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn file_names(&self) -> Result<Vec<String>, StoreError> {
        self.folder.file_names()
    }

    /// Removes one of the small extra files, durably; one that is not there is no error.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn remove_file(&self, name: &str) -> Result<(), StoreError> {
        self.folder.remove_file(name)
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock()
    }

    fn syncing(&self) -> MutexGuard<'_, ()> {
        self.syncing.lock()
    }

    fn tickets(&self) -> MutexGuard<'_, Tickets> {
        self.tickets.lock()
    }

    fn head(&self) -> MutexGuard<'_, Option<Head>> {
        self.head.lock()
    }

    fn read_overlay(&self) -> RwLockReadGuard<'_, Overlay> {
        self.overlay.read()
    }

    fn write_overlay(&self) -> RwLockWriteGuard<'_, Overlay> {
        self.overlay.write()
    }

    fn db(&self) -> Result<Arc<Db>, StoreError> {
        if let Some(db) = self.current() {
            return Ok(db);
        }
        self.heal();
        self.current().ok_or_else(|| StoreError::Failed("the database failed and could not be opened again".into()))
    }

    fn current(&self) -> Option<Arc<Db>> {
        self.db.read().clone()
    }
}

/// Opens the database, on a full disk with the room that was kept for it.
fn open_db(folder: &Folder) -> Result<Db, StoreError> {
    match Db::open(&folder.db_dir()) {
        Err(StoreError::NoSpace) if folder.spend_spare() => Db::open(&folder.db_dir()),
        other => other,
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Store({})", self.folder.path().display())
    }
}

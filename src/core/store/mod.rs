//! The durable store: sealed records and blobs in sled, a manifest beside it, one transaction per commit.
//!
//! Owns the store's folder and everything in it. It handles opaque bytes only: it never sees plaintext, and of all keys
//! only the index key, for the manifest's sums. It never decides what a record means.

mod backup;
mod db;
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
pub use db::Blob;
pub use folder::Space;
pub use group::Journalled;

use crate::model::{Generation, Ino, VersionNo};
use crate::secret::Secret;
use db::{Db, Put, Tree};
use folder::Folder;
use group::Tickets;
use head::{Head, Overlay};
use journal::{Appended, Journal};
use ledger::{Ledger, fault};
use manifest::State;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use thiserror::Error;

/// The longest value a record or blob may have, in bytes.
pub const MAX_VALUE: usize = 64 << 20;
/// The fact that tells one store from another: [`Store::id`].
pub const ID_META: &str = "id";
/// The longest key of a scope or meta record, in bytes.
pub const MAX_KEY: usize = 200;

/// Why the store did not do what was asked.
#[derive(Debug, Error)]
pub enum StoreError {
    /// There is no store in that folder.
    #[error("{} is not a pinfold store", .0.display())]
    NotAStore(PathBuf),
    /// A store, or something else, is in that folder already.
    #[error("{} exists and is not empty", .0.display())]
    Exists(PathBuf),
    /// Somebody else could have put it there, or could change it.
    #[error("the store {} is not root's alone: {why}", .store.display())]
    Unsafe {
        /// The store's folder.
        store: PathBuf,
        /// Who could, and where.
        why: String,
    },
    /// Another process has it open.
    #[error("the store {} is in use{}", .store.display(), .pid.map(|p| format!(" by process {p}")).unwrap_or_default())]
    InUse {
        /// The store's folder.
        store: PathBuf,
        /// Who, if it says so.
        pid: Option<u32>,
    },
    /// Its format is of a version that this pinfold does not know.
    #[error("the store has format {0:?}, which this pinfold does not know")]
    UnknownFormat(String),
    /// Something was altered, lost or rolled back.
    #[error("damaged store: {0}")]
    Damaged(String),
    /// The disk is full, or so nearly full that a commit might not end well. Nothing was changed.
    #[error("no space left for the store")]
    NoSpace,
    /// A backup that is cut short, altered, or none at all. Nothing was restored.
    #[error("not a whole backup: {0}")]
    BadBackup(String),
    /// The disk or the filesystem failed.
    #[error("the store cannot be read or written: {0}")]
    Io(#[from] io::Error),
    /// Asked at the wrong time, or the database gave up; says what and what helps.
    #[error("{0}")]
    Failed(String),
}

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

/// When a commit is on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Before its answer: it survives a power cut.
    Synced,
    /// It survives the end of this process at once, and a power cut after the next [`Store::sync`] or synced commit.
    Lazy,
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
    pub fn tell_generations(&self, told: Box<dyn Fn(Generation) + Send + Sync>) {
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

    /// Commits a batch as one transaction, and where the audit log is: in the journal if it fits there, else as [`Store::apply`] does.
    ///
    /// # Errors
    /// As [`Store::apply`].
    pub fn append(&self, batch: &Batch, anchor: &AuditAnchor, durability: Durability) -> Result<(), StoreError> {
        match durability {
            Durability::Synced => self.settle(self.journal(batch, anchor)?),
            Durability::Lazy => {
                // What is answered at once may not stand behind what may have to be taken back.
                if self.head().as_ref().is_some_and(Head::is_unsettled) {
                    self.sync()?;
                }
                self.append_as(batch, anchor, durability).map(drop)
            }
        }
    }

    /// Begins a commit: as [`Store::append`], and nothing that follows can come before it. It happened once [`Store::settle`] says so; meanwhile
    /// others may be begun, and all are on the disk at once. Whoever builds on it must wait.
    ///
    /// # Errors
    /// As [`Store::apply`]: then it never happened.
    pub fn journal(&self, batch: &Batch, anchor: &AuditAnchor) -> Result<Journalled, StoreError> {
        self.append_as(batch, anchor, Durability::Synced)
    }

    /// Waits until it is on the disk.
    ///
    /// # Errors
    /// [`StoreError::Io`], [`StoreError::Failed`]: then neither it nor what was begun after it ever happened.
    pub fn settle(&self, journalled: Journalled) -> Result<(), StoreError> {
        let syncing = self.syncing();
        let outcome = self.tickets().outcome(&journalled);
        let settled = outcome.unwrap_or_else(|| self.sync_under(&syncing));
        drop(syncing);
        // No later daemon may find what is answered so: whoever asks waits until that is sure.
        settled.map_err(|error| self.give_up(error))
    }

    fn append_as(&self, batch: &Batch, anchor: &AuditAnchor, durability: Durability) -> Result<Journalled, StoreError> {
        check(batch)?;
        // At most one checkpoint makes room, and one opens a database that failed.
        for _ in 0..3 {
            let mut locked = self.head();
            let head = head::known(&mut locked)?;
            if !head::is_journalled(batch) || head.uncertain || head.journal.has_failed() {
                break;
            }
            // In a statement of its own: whoever opens the database anew waits until nobody has it.
            let after = head.after(&*self.db()?, &self.read_overlay(), batch, *anchor);
            let (state, replaced) = match after {
                // As it does in sled after a failed write.
                Err(StoreError::NoSpace | StoreError::Io(_)) => {
                    drop(locked);
                    self.heal();
                    continue;
                }
                other => other?,
            };
            if fault::at(fault::Point::Room).is_ok()
                && let Err(error) = self.folder.room_for(head::written(batch), replaced, head.pending)
            {
                // What waits for the next checkpoint may be what takes up the room.
                if head.pending == 0 {
                    return Err(error);
                }
                drop(locked);
                self.checkpoint()?;
                continue;
            }
            match head.journal.append(head.checkpointed, &state, db::puts(batch)) {
                Ok(Appended::Done) => {}
                Ok(Appended::Full) => {
                    drop(locked);
                    self.checkpoint()?;
                    continue;
                }
                // For a segment, that is: what is left of the disk is for the database.
                Err(StoreError::NoSpace) => break,
                Err(error) => return Err(error),
            }
            if durability == Durability::Lazy {
                head.take(&mut self.write_overlay(), batch, state, None);
                drop(locked);
                self.at(state.generation);
                return Ok(Tickets::done());
            }
            let journalled = self.tickets().give();
            head.take(&mut self.write_overlay(), batch, state, Some(journalled.0));
            return Ok(journalled);
        }
        self.apply(batch, anchor).map(|_| Tickets::done())
    }

    /// Takes to the disk what is journalled by now; others append meanwhile.
    fn sync_under(&self, syncing: &MutexGuard<'_, ()>) -> Result<(), StoreError> {
        let unsynced = match &*self.head() {
            Some(head) => head.journal.unsynced().map(|unsynced| (unsynced, self.tickets().last())),
            None => return Ok(()),
        };
        let outcome = match &unsynced {
            Ok((Some(unsynced), _)) => unsynced.sync(),
            Ok((None, _)) | Err(_) => Ok(()),
        };
        let mut locked = self.head();
        // Whoever takes the head away has settled it.
        let Some(head) = &mut *locked else { return Ok(()) };
        let (reached, last) = match unsynced {
            Ok((unsynced, last)) => (unsynced.map(|unsynced| unsynced.generation), last),
            Err(error) => return self.settled(syncing, head, None, Err(error)),
        };
        let outcome = match reached {
            Some(generation) => head.journal.synced(generation, outcome),
            None => outcome,
        };
        self.settled(syncing, head, Some(last), outcome)
    }

    /// Settles whatever is journalled, while nobody appends.
    fn settle_under(&self, syncing: &MutexGuard<'_, ()>, head: &mut Option<Head>) {
        if let Some(head) = head
            && head.is_unsettled()
        {
            let (last, outcome) = (self.tickets().last(), head.journal.sync());
            // Whoever waits for it is told.
            let _ = self.settled(syncing, head, Some(last), outcome);
        }
    }

    fn settled(
        &self,
        _: &MutexGuard<'_, ()>,
        head: &mut Head,
        last: Option<u64>,
        outcome: Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        match (&outcome, last) {
            (Ok(()), Some(last)) => {
                head.settle(last);
                self.tickets().settle(last);
                self.at(head.settled());
            }
            (Ok(()), None) => {}
            (Err(error), _) => {
                head.lose(&mut self.write_overlay());
                self.tickets().lose(error);
            }
        }
        outcome
    }

    /// Makes every commit so far survive a power cut.
    ///
    /// # Errors
    /// [`StoreError::Io`], [`StoreError::Failed`].
    pub fn sync(&self) -> Result<(), StoreError> {
        let synced = self.sync_under(&self.syncing());
        // All that was answered is in memory: the database can have it.
        synced.or_else(|_| self.checkpoint())
    }

    /// Puts into the database what only the journal has.
    ///
    /// # Errors
    /// [`StoreError::NoSpace`], [`StoreError::Io`], [`StoreError::Failed`]; the journal has it all still.
    pub fn checkpoint(&self) -> Result<(), StoreError> {
        let mut ledger = self.ledger();
        self.checkpoint_under(&mut ledger)
    }

    /// As [`Store::checkpoint`], and nothing is left in the journal's files: for what was deleted for good.
    ///
    /// # Errors
    /// As [`Store::checkpoint`].
    pub fn scrub(&self) -> Result<(), StoreError> {
        let mut ledger = self.ledger();
        let syncing = self.syncing();
        let mut head = self.head();
        self.checkpoint_with(&mut ledger, &syncing, &mut head)?;
        head::known(&mut head)?.journal.wipe()
    }

    /// A checkpoint, if there is much in the journal, or something that is old.
    ///
    /// # Errors
    /// As [`Store::checkpoint`].
    pub fn checkpoint_if_due(&self) -> Result<(), StoreError> {
        let due = self.head().as_ref().is_some_and(|head| head.is_ahead() && head.is_due());
        if due { self.checkpoint() } else { Ok(()) }
    }

    /// What is journalled meanwhile waits for the next one.
    fn checkpoint_under(&self, ledger: &mut Ledger) -> Result<(), StoreError> {
        let (state, values) = {
            let syncing = self.syncing();
            let mut head = self.head();
            self.settle_under(&syncing, &mut head);
            self.mend(ledger, &mut head)?;
            match &mut *head {
                Some(head) if head.is_ahead() => (head.state, self.read_overlay().all()),
                // It has all of it, but what the journal has beyond it may have to be given up.
                Some(head) => return self.was_checkpointed(head, head.state.generation),
                None => return Ok(()),
            }
        };
        self.put_checkpoint(ledger, state, &values)?;
        match &mut *self.head() {
            Some(head) => self.was_checkpointed(head, state.generation),
            None => Ok(()),
        }
    }

    /// Nothing is journalled meanwhile.
    fn checkpoint_with(
        &self,
        ledger: &mut Ledger,
        syncing: &MutexGuard<'_, ()>,
        head: &mut Option<Head>,
    ) -> Result<(), StoreError> {
        self.settle_under(syncing, head);
        self.mend(ledger, head)?;
        let Some(head) = head else { return Ok(()) };
        if head.is_ahead() {
            self.put_checkpoint(ledger, head.state, &self.read_overlay().all())?;
        }
        self.was_checkpointed(head, head.state.generation)
    }

    fn put_checkpoint(&self, ledger: &mut Ledger, state: State, values: &[head::Value]) -> Result<(), StoreError> {
        let puts =
            values.iter().map(|(tree, key, value)| Put { tree: *tree, key: key.clone(), value: value.as_deref() });
        let db = self.db()?;
        let done = ledger.checkpoint(&db, &self.folder, puts, state);
        drop(db);
        self.reopen_if_needed(ledger);
        done
    }

    /// The database has it for good; if the journal did not reach the disk before that, a new segment says from where it goes on.
    fn was_checkpointed(&self, head: &mut Head, generation: Generation) -> Result<(), StoreError> {
        head.checkpointed(&mut self.write_overlay(), generation);
        match head.journal.has_failed() {
            true if !head.is_ahead() => head.journal.give_up(generation),
            _ => Ok(()),
        }
    }

    /// After a failed sync of the journal: what had been answered goes into the database, and what had not never happened.
    fn give_up(&self, error: StoreError) -> StoreError {
        match self.checkpoint() {
            Ok(()) => error,
            Err(worse) => StoreError::Failed(format!(
                "{error}; nor could the database be written ({worse}): check the disk, then restart"
            )),
        }
    }

    /// Brings the database back from a transaction that failed.
    fn mend(&self, ledger: &mut Ledger, head: &mut Option<Head>) -> Result<(), StoreError> {
        if !ledger.has_failed() {
            return Ok(());
        }
        ledger.may_repair(&self.folder)?;
        if ledger.needs_reopening() {
            self.reopen(ledger)?;
        }
        ledger.repair(&*self.db()?, &self.folder)?;
        if let (Some(head), Some(found)) = (head, ledger.state()) {
            head.mended(found);
            self.at(head.state.generation);
        }
        Ok(())
    }

    fn reopen_if_needed(&self, ledger: &mut Ledger) {
        if ledger.needs_reopening()
            && let Err(error) = self.reopen(ledger)
        {
            tracing::error!(%error, "the database failed and could not be opened again");
        }
    }

    /// Commits a batch as one transaction, and where the audit log is, past the journal. All of it is on disk when this returns; after an
    /// error none of it is in effect.
    ///
    /// # Errors
    /// [`StoreError::Failed`] before [`Store::verify`], or when the disk refused to sync; [`StoreError::NoSpace`];
    /// [`StoreError::Io`]; [`StoreError::Damaged`] if the database lost what it had.
    pub fn apply(&self, batch: &Batch, anchor: &AuditAnchor) -> Result<Generation, StoreError> {
        check(batch)?;
        let mut ledger = self.ledger();
        let syncing = self.syncing();
        let mut locked = self.head();
        self.checkpoint_with(&mut ledger, &syncing, &mut locked)?;
        let head = head::known(&mut locked)?;
        let db = self.db()?;
        let done = ledger.commit(&db, &self.folder, batch, anchor);
        drop(db);
        self.reopen_if_needed(&mut ledger);
        match done {
            Ok(state) => {
                head.state = state;
                head.journal.is_at(state.generation);
                head.checkpointed = state.generation;
                drop(locked);
                self.at(state.generation);
                Ok(state.generation)
            }
            Err(error) => {
                // The database may have it, and what is journalled next would be reckoned from that.
                head.uncertain = ledger.has_failed() || ledger.may_write().is_err();
                Err(error)
            }
        }
    }

    /// Calls `f` with every node record as it is stored.
    ///
    /// # Errors
    /// [`StoreError::Damaged`], [`StoreError::Io`]; whatever `f` returns.
    pub fn each_node(&self, f: &mut dyn FnMut(Ino, &[u8]) -> db::Outcome) -> Result<(), StoreError> {
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
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn syncing(&self) -> MutexGuard<'_, ()> {
        self.syncing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tickets(&self) -> MutexGuard<'_, Tickets> {
        self.tickets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn head(&self) -> MutexGuard<'_, Option<Head>> {
        self.head.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read_overlay(&self) -> RwLockReadGuard<'_, Overlay> {
        self.overlay.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_overlay(&self) -> RwLockWriteGuard<'_, Overlay> {
        self.overlay.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn db(&self) -> Result<Arc<Db>, StoreError> {
        if let Some(db) = self.current() {
            return Ok(db);
        }
        self.heal();
        self.current().ok_or_else(|| StoreError::Failed("the database failed and could not be opened again".into()))
    }

    fn current(&self) -> Option<Arc<Db>> {
        self.db.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Opens the database anew for a reader that found it failed, unless somebody is at work on it or did so just now.
    /// Between commits all of it is on disk, so this loses nothing.
    fn heal(&self) -> bool {
        let Ok(mut ledger) = self.ledger.try_lock() else { return false };
        ledger.may_heal() && self.reopen(&mut ledger).is_ok()
    }

    /// Drops the database and opens it anew. Readers wait meanwhile.
    fn reopen(&self, ledger: &mut Ledger) -> Result<(), StoreError> {
        let mut db = self.db.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(old) = db.take() {
            match db::sole(old) {
                Ok(alone) => drop(alone),
                Err(shared) => {
                    *db = Some(shared);
                    return Err(StoreError::Failed("the database is busy and cannot be opened again".into()));
                }
            }
        }
        *db = Some(Arc::new(open_db(&self.folder)?));
        ledger.reopened();
        Ok(())
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

/// The bounds of a batch. They are wide: whoever makes the batch has narrower ones.
fn check(batch: &Batch) -> Result<(), StoreError> {
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

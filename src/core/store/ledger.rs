//! What the database is known to hold, and the order of steps that keeps database and manifest together.
//!
//! A commit: write the next state into the manifest slot that does not hold the present one, sync it, make the
//! transaction, sync it, overwrite the other slot too, sync it, and only then let the twin follow. So at every moment one slot says what the database,
//! or its twin, holds, and between commits only that: the commit before the last is not accepted either. Owns no file and no lock.

use super::db::{self, Change, Db, Put, Tree};
use super::folder::{self, Folder};
use super::manifest::{Contents, Keys, State};
use super::reading::{self, Opener};
use super::twin::Twin;
use super::{AuditAnchor, Batch, StoreError};
use crate::model::{Generation, Ino};
use std::collections::HashSet;
use std::time::{Duration, Instant};

/// What the store knows of itself. Default: nothing, it is not verified.
#[derive(Default)]
pub(super) struct Ledger {
    verified: Option<Known>,
    failure: Option<Failure>,
    /// Whether the database was opened again since that failure.
    reopened: bool,
    healed: Option<Instant>,
    twin: Twin,
}

/// How long a database that was opened again for a reader must stand before that is done once more.
const HEAL_EVERY: Duration = Duration::from_secs(10);

struct Known {
    keys: Keys,
    state: State,
    /// The slot that durably says `state`.
    slot: usize,
    /// The highest generation ever written to a slot: none is given twice.
    highest: u64,
}

/// What a batch comes to.
struct Planned {
    changes: Vec<Change>,
    undo: Vec<Change>,
    contents: Contents,
}

impl Known {
    fn plan(&self, db: &Db, batch: &Batch) -> Result<Planned, StoreError> {
        let mut contents = self.state.contents;
        let mut changes = Vec::new();
        for put in db::puts(batch) {
            if Tree::SUMMED.contains(&put.tree) {
                if let Some(old) = db.get(put.tree, &put.key)? {
                    contents.subtract(&self.keys, put.tree, &put.key, &old);
                }
                if let Some(new) = put.value {
                    contents.add(&self.keys, put.tree, &put.key, new);
                }
            }
            db.plan(&put, &mut changes)?;
        }
        let undo = db.reverse(&changes)?;
        Ok(Planned { changes, undo, contents })
    }
}

/// Why nothing can be committed as things are.
enum Failure {
    /// A transaction failed: the database is before or after it. `undo` brings it before it in any case.
    Uncertain { undo: Vec<Change>, before: State },
    /// The same, and the key was dropped since: the next verification finds out.
    Stale,
    /// A checkpoint failed: the database is before or after it. The journal has all of it still.
    Between,
    /// A sync failed. The kernel has forgotten which pages did not reach the disk, so trying again proves nothing.
    NoSync(String),
}

/// Makes the first commit of a new database; the caller writes the manifest.
pub(super) fn first_commit(db: &Db, folder: &Folder, keys: &Keys, batch: &Batch) -> Result<State, StoreError> {
    let mut contents = Contents::default();
    let mut changes = Vec::new();
    let format = Put { tree: Tree::Meta, key: folder::FORMAT_KEY.into(), value: Some(folder::FORMAT) };
    for put in std::iter::once(format).chain(db::puts(batch)) {
        if let (Some(value), true) = (put.value, Tree::SUMMED.contains(&put.tree)) {
            contents.add(keys, put.tree, &put.key, value);
        }
        db.plan(&put, &mut changes)?;
    }
    folder.room_for(bytes(&changes), 0, 0)?;
    db.transact(&changes)?;
    db.sync()?;
    Ok(State { generation: Generation(1), contents, audit: AuditAnchor::default() })
}

impl Ledger {
    /// Whether the database must be opened again before it is used.
    pub(super) fn needs_reopening(&self) -> bool {
        self.has_failed() && !self.reopened
    }

    /// Whether a transaction failed and was not undone yet.
    pub(super) fn has_failed(&self) -> bool {
        matches!(self.failure, Some(Failure::Uncertain { .. } | Failure::Stale | Failure::Between))
    }

    /// The database was opened again.
    pub(super) fn reopened(&mut self) {
        self.reopened = true;
    }

    /// Whether the database may be opened again for a reader.
    pub(super) fn may_heal(&mut self) -> bool {
        let may = self.healed.is_none_or(|at| at.elapsed() > HEAL_EVERY);
        if may {
            self.healed = Some(Instant::now());
        }
        may
    }

    /// Drops the keys and all that was known.
    pub(super) fn forget(&mut self) {
        self.verified = None;
        if let Some(Failure::Uncertain { .. } | Failure::Between) = self.failure {
            self.failure = Some(Failure::Stale);
        }
    }

    /// What the database and its manifest hold for good.
    pub(super) fn state(&self) -> Option<State> {
        self.verified.as_ref().map(|known| known.state)
    }

    /// Reads every summed record and accepts what a slot says of them, or nothing. What `open` made of the node records, in no
    /// order.
    pub(super) fn verify<T: Send>(
        &mut self,
        db: &Db,
        folder: &Folder,
        keys: Keys,
        open: &Opener<'_, T>,
    ) -> Result<(State, Vec<T>), StoreError> {
        let (contents, opened) = reading::open_all(db, &keys, open)?;
        self.twin.doubt();
        let known = accept(folder, keys, contents)?;
        let state = known.state;
        self.verified = Some(known);
        if self.has_failed() {
            self.failure = None;
        }
        Ok((state, opened))
    }

    /// This generation was given by the journal.
    pub(super) fn given(&mut self, generation: Generation) {
        if let Some(known) = &mut self.verified {
            known.highest = known.highest.max(generation.0);
        }
    }

    /// Whether a repair may be tried: it needs some room, and the key.
    pub(super) fn may_repair(&self, folder: &Folder) -> Result<(), StoreError> {
        match self.failure {
            Some(Failure::Stale) => Err(unverified()),
            _ => folder.room_for(0, 1, 0),
        }
    }

    /// After the database was opened again: finds out where it is and undoes the transaction that failed, whether it
    /// took effect or not.
    pub(super) fn repair(&mut self, db: &Db, folder: &Folder) -> Result<(), StoreError> {
        if let Some(Failure::Between) = self.failure {
            let keys = self.verified.take().ok_or_else(unverified)?.keys;
            let (contents, _) = reading::open_all(db, &keys, &|_, _| Ok(()))?;
            self.twin.doubt();
            self.verified = Some(accept(folder, keys, contents)?);
            self.failure = None;
            return Ok(());
        }
        let Some(Failure::Uncertain { undo, before }) = &self.failure else { return Ok(()) };
        let (undo, before) = (undo.clone(), *before);
        let keys = self.verified.take().ok_or_else(unverified)?.keys;
        // From here on an error leaves the store unverified; whoever unlocks it again verifies it.
        let (contents, _) = reading::open_all(db, &keys, &|_, _| Ok(()))?;
        self.twin.doubt();
        self.verified = Some(accept(folder, keys, contents)?);
        let next = self.next()?;
        let state = State { generation: next, ..before };
        self.step(db, folder, &undo, state, |before| Failure::Uncertain { undo: Vec::new(), before }).inspect_err(
            |_| {
                // The undo is the same whether this try took effect or not.
                if let Some(Failure::Uncertain { .. }) = self.failure {
                    self.failure = Some(Failure::Uncertain { undo: undo.clone(), before });
                }
            },
        )?;
        self.failure = None;
        Ok(())
    }

    /// A generation that none had.
    fn next(&self) -> Result<Generation, StoreError> {
        Ok(Generation(self.verified.as_ref().ok_or_else(unverified)?.highest + 1))
    }

    /// Whether the disk can be trusted with anything more.
    pub(super) fn may_write(&self) -> Result<(), StoreError> {
        match &self.failure {
            Some(Failure::NoSync(why)) => {
                Err(StoreError::Failed(format!("the disk did not sync ({why}): check it, then restart")))
            }
            _ => Ok(()),
        }
    }

    /// Puts into the database what was journalled: it holds `state` then, for good.
    pub(super) fn checkpoint<'a>(
        &mut self,
        db: &Db,
        folder: &Folder,
        mut puts: impl Iterator<Item = Put<'a>>,
        state: State,
    ) -> Result<(), StoreError> {
        self.may_write()?;
        let mut changes = Vec::new();
        let planned = puts.try_for_each(|put| db.plan(&put, &mut changes));
        if let Err(error) = planned {
            if let StoreError::Io(_) | StoreError::NoSpace = error {
                (self.failure, self.reopened) = (Some(Failure::Between), false);
            }
            return Err(error);
        }
        self.step(db, folder, &changes, state, |_| Failure::Between)
    }

    /// Makes one commit that is not journalled; what was is in the database by now.
    pub(super) fn commit(
        &mut self,
        db: &Db,
        folder: &Folder,
        batch: &Batch,
        audit: &AuditAnchor,
    ) -> Result<State, StoreError> {
        self.may_write()?;
        let known = self.verified.as_ref().ok_or_else(unverified)?;
        let before = known.state;
        let planned = known.plan(db, batch).inspect_err(|error| {
            // Reading failed, as it does in sled after a failed write: open it again, with nothing to undo.
            if let StoreError::Io(_) | StoreError::NoSpace = error {
                (self.failure, self.reopened) = (Some(Failure::Uncertain { undo: Vec::new(), before }), false);
            }
        })?;
        if fault::at(fault::Point::Room).is_ok() {
            folder.room_for(bytes(&planned.changes), bytes(&planned.undo), 0)?;
        }
        let state = State { generation: self.next()?, contents: planned.contents, audit: *audit };
        let undo = planned.undo;
        self.step(db, folder, &planned.changes, state, |before| Failure::Uncertain { undo, before })?;
        Ok(state)
    }

    /// Makes one commit after which the manifest is under other keys. Until the slot of the new keys is written, only the old
    /// ones fit; then the other slot is the one that fits the old keys, until the transaction; from then on only the new fit.
    pub(super) fn rekey(
        &mut self,
        db: &Db,
        folder: &Folder,
        batch: &Batch,
        audit: &AuditAnchor,
        keys: Keys,
    ) -> Result<Generation, StoreError> {
        if self.failure.is_some() {
            return Err(StoreError::Failed("a commit failed before: lock the store and unlock it again".into()));
        }
        let known = self.verified.as_ref().ok_or_else(unverified)?;
        let (slot, next) = (1 - known.slot, known.highest + 1);
        let mut changes = Vec::new();
        for put in db::puts(batch) {
            db.plan(&put, &mut changes)?;
        }
        folder.room_for(bytes(&changes), bytes(&changes), 0)?;
        let state = State { generation: Generation(next), contents: after(db, batch, &keys)?, audit: *audit };
        self.twin.prepare(folder)?;
        // From here on an error leaves the store unverified; whoever unlocks it again verifies it.
        self.verified = None;
        self.failure = Some(Failure::Stale);
        self.reopened = false;
        let slots = folder.manifest_slots();
        fault::at(fault::Point::Slot)?;
        slots.write(slot, &keys, &state)?;
        slots.sync()?;
        fault::at(fault::Point::Transaction)?;
        db.transact(&changes)?;
        fault::at(fault::Point::AfterTransaction)?;
        if let Err(error) = fault::at(fault::Point::Sync).and_then(|()| db.sync()) {
            self.failure = Some(Failure::NoSync(error.to_string()));
            return Err(error);
        }
        // As after every commit; what the other slot says is of keys that are gone.
        slots.write(1 - slot, &keys, &state)?;
        slots.sync()?;
        self.twin.follow(folder);
        self.verified = Some(Known { keys, state, slot, highest: next });
        self.failure = None;
        Ok(state.generation)
    }

    /// One transaction with its slot before it and the other slot after it.
    fn step(
        &mut self,
        db: &Db,
        folder: &Folder,
        changes: &[Change],
        state: State,
        uncertain: impl FnOnce(State) -> Failure,
    ) -> Result<(), StoreError> {
        let known = self.verified.as_mut().ok_or_else(unverified)?;
        let slots = folder.manifest_slots();
        let slot = 1 - known.slot;
        fault::at(fault::Point::Slot)?;
        self.twin.prepare(folder)?;
        known.highest = known.highest.max(state.generation.0);
        slots.write(slot, &known.keys, &state)?;
        slots.sync()?;
        let before = known.state;
        let done = fault::at(fault::Point::Transaction)
            .and_then(|()| db.transact(changes))
            .and_then(|()| fault::at(fault::Point::AfterTransaction));
        if let Err(error) = done {
            (self.failure, self.reopened) = (Some(uncertain(before)), false);
            return Err(error);
        }
        let synced = fault::at(fault::Point::Sync).and_then(|()| db.sync());
        // Until both slots say it, the twin is what counts.
        let synced = synced.and_then(|()| fault::at(fault::Point::OtherSlot));
        if let Err(error) = synced.and_then(|()| slots.write(1 - slot, &known.keys, &state)).and_then(|()| slots.sync())
        {
            self.failure = Some(Failure::NoSync(error.to_string()));
            return Err(error);
        }
        (known.state, known.slot) = (state, slot);
        self.twin.follow(folder);
        Ok(())
    }
}

/// What all summed records come to, under `keys`, once a batch is in.
fn after(db: &Db, batch: &Batch, keys: &Keys) -> Result<Contents, StoreError> {
    let mut contents = Contents::default();
    let puts = || db::puts(batch).filter(|put| Tree::SUMMED.contains(&put.tree));
    let changed: HashSet<(&'static str, Vec<u8>)> = puts().map(|put| (put.tree.name(), put.key)).collect();
    for tree in Tree::SUMMED {
        db.each(tree, &mut |key, value| {
            if !changed.contains(&(tree.name(), key.to_vec())) {
                contents.add(keys, tree, key, value);
            }
            Ok(())
        })?;
    }
    for put in puts() {
        if let Some(value) = put.value {
            contents.add(keys, put.tree, &put.key, value);
        }
    }
    Ok(contents)
}

/// The number in a record's key.
pub(super) fn ino_of(key: &[u8]) -> Result<Ino, StoreError> {
    let ino = key.try_into().map_err(|_| StoreError::Damaged("the number of a record".into()))?;
    Ok(Ino(u64::from_be_bytes(ino)))
}

/// Counts and adds up all summed records, and shows each to `f`.
/// Finds the slot that says what the database holds, and makes the other say the same.
fn accept(folder: &Folder, keys: Keys, contents: Contents) -> Result<Known, StoreError> {
    let slots = folder.manifest_slots();
    let states = slots.read(&keys)?;
    if states == [None, None] {
        return Err(StoreError::Damaged("the manifest is garbled, or of another store".into()));
    }
    let fits = |slot: &usize| states[*slot].is_some_and(|s| s.contents == contents);
    let newest = [0, 1].into_iter().filter(fits).max_by_key(|slot| states[*slot].map(|s| s.generation));
    let Some((slot, state)) = newest.and_then(|slot| Some((slot, states[slot]?))) else {
        return Err(StoreError::Damaged("records were altered, lost or rolled back".into()));
    };
    if states[1 - slot] != Some(state) {
        // What the database holds was synced when it was opened; now the slot that says so, and then the other.
        slots.sync()?;
        slots.write(1 - slot, &keys, &state)?;
        slots.sync()?;
    }
    let highest = states.iter().flatten().map(|s| s.generation.0).max().unwrap_or(state.generation.0);
    Ok(Known { keys, state, slot, highest })
}

fn bytes(changes: &[Change]) -> u64 {
    changes.iter().map(Change::len).sum()
}

pub(super) fn unverified() -> StoreError {
    StoreError::Failed("the store must be verified before anything is committed".into())
}

/// Places where a test makes a commit fail.
pub(super) mod fault {
    use super::StoreError;

    /// Which place.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub enum Point {
        /// The room is not looked at, as if somebody took it just afterwards.
        Room,
        /// A manifest is not written.
        Slot,
        /// The database takes nothing.
        Transaction,
        /// It has taken it, and that is not known.
        AfterTransaction,
        /// The database does not reach the disk.
        Sync,
        /// A segment of the journal is not begun.
        Header,
        /// An entry is not written.
        Append,
        /// It is, and the call says that it was not.
        Appended,
        /// The journal does not reach the disk.
        JournalSync,
        /// The manifest's other slot does not.
        OtherSlot,
        /// The database's twin does not.
        Twin,
    }

    #[cfg(any(test, feature = "faults"))]
    impl Point {
        /// Whether it stands for a sync.
        fn is_sync(self) -> bool {
            use Point::{Header, JournalSync, OtherSlot, Slot, Sync, Twin};
            matches!(self, Slot | Sync | Header | JournalSync | OtherSlot | Twin)
        }
    }

    #[cfg(not(any(test, feature = "faults")))]
    pub(in crate::store) fn at(_: Point) -> Result<(), StoreError> {
        Ok(())
    }

    #[cfg(any(test, feature = "faults"))]
    thread_local! {
        /// What fails next in this thread.
        pub static NEXT: std::cell::Cell<Option<Point>> = const { std::cell::Cell::new(None) };
        /// What fails after that.
        pub(in crate::store) static THEN: std::cell::Cell<Option<Point>> = const { std::cell::Cell::new(None) };
        /// How many syncs go well before one fails.
        pub(in crate::store) static SYNCS: std::cell::Cell<Option<u32>> = const { std::cell::Cell::new(None) };
    }

    #[cfg(any(test, feature = "faults"))]
    pub(in crate::store) fn at(point: Point) -> Result<(), StoreError> {
        if point.is_sync()
            && let Some(left) = SYNCS.get()
        {
            SYNCS.set(left.checked_sub(1));
            if left == 0 {
                return Err(StoreError::Io(std::io::Error::from_raw_os_error(libc::EIO)));
            }
        }
        if NEXT.get() != Some(point) {
            return Ok(());
        }
        NEXT.set(THEN.take());
        Err(StoreError::Io(std::io::Error::from_raw_os_error(libc::EIO)))
    }
}

#[cfg(any(test, feature = "faults"))]
pub use fault::{NEXT as NEXT_FAULT, Point as FaultPoint};

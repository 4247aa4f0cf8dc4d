//! What the store holds at this moment: the database, with what the journal has and the database does not yet.
//!
//! Owns the last state, the journal, and the values that only the journal has. Whoever wants a value asks [`Overlay`] first.

use super::db::{self, Blob, Db, Put, Tree};
use super::journal::{Change, Entry, Journal};
use super::ledger::unverified;
use super::manifest::{Contents, Keys, State};
use super::{AuditAnchor, Batch, StoreError};
use crate::model::Generation;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// One of them: tree, key, value.
pub(super) type Value = (Tree, Vec<u8>, Option<Arc<[u8]>>);

/// Values that are journalled and not in the database, for each tree by key; `None` is one that was deleted.
#[derive(Default)]
pub(super) struct Overlay {
    values: [BTreeMap<Vec<u8>, Latest>; Tree::ALL.len()],
}

struct Latest {
    generation: Generation,
    value: Option<Arc<[u8]>>,
}

/// What the overlay had of a record before a commit.
type Before = (Tree, Vec<u8>, Option<Latest>);

/// A commit that was journalled and not answered: what was before it, should it not reach the disk.
struct Unsettled {
    state: State,
    pending: u64,
    ahead_since: Option<Instant>,
    values: Vec<Before>,
    ticket: u64,
}

impl Overlay {
    /// What the journal has of a record; `None` if nothing.
    pub(super) fn get(&self, tree: Tree, key: &[u8]) -> Option<Option<Blob>> {
        let latest = self.values[tree as usize].get(key)?;
        Some(latest.value.as_ref().map(|value| Blob::journalled(Arc::clone(value))))
    }

    fn put(&mut self, generation: Generation, tree: Tree, key: Vec<u8>, value: Option<Arc<[u8]>>) -> Option<Latest> {
        self.values[tree as usize].insert(key, Latest { generation, value })
    }

    /// As it was before a commit.
    fn put_back(&mut self, (tree, key, before): Before) {
        let own = &mut self.values[tree as usize];
        match before {
            Some(latest) => own.insert(key, latest),
            None => own.remove(&key),
        };
    }

    fn take(&mut self, generation: Generation, change: Change) {
        self.put(generation, change.tree, change.key, change.value.map(Arc::from));
    }

    /// All of it, to be put into the database.
    pub(super) fn all(&self) -> Vec<Value> {
        let of = |tree: Tree| {
            let own = self.values[tree as usize].iter();
            own.map(move |(key, latest)| (tree, key.clone(), latest.value.clone()))
        };
        Tree::ALL.into_iter().flat_map(of).collect()
    }

    /// Forgets what the database has by now.
    pub(super) fn drop_up_to(&mut self, generation: Generation) {
        self.values.iter_mut().for_each(|own| own.retain(|_, latest| latest.generation > generation));
    }

    /// How many bytes it has.
    fn bytes(&self) -> u64 {
        let values = self.values.iter().flat_map(BTreeMap::values);
        values.map(|latest| latest.value.as_ref().map_or(0, |value| value.len() as u64)).sum()
    }
}

/// What is known of the store while its key is.
pub(super) struct Head {
    pub(super) keys: Keys,
    pub(super) journal: Journal,
    /// The last commit.
    pub(super) state: State,
    /// The last commit that the database and its manifest have for good.
    pub(super) checkpointed: Generation,
    /// Whether a commit that was not journalled failed, and the database may have it or not.
    pub(super) uncertain: bool,
    /// Bytes that the next checkpoint will put into the database.
    pub(super) pending: u64,
    /// Since when the journal has something that the database has not.
    pub(super) ahead_since: Option<Instant>,
    /// Nothing that was answered stands behind the first of them.
    unsettled: Vec<Unsettled>,
}

/// For how long, at most, something is in the journal alone.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(5);
/// And so many entries.
const CHECKPOINT_ENTRIES: u64 = 4096;

/// Journalled up to so many bytes; more is faster put where it will lie.
pub(super) const LARGE: usize = 512 << 10;

/// Whether a batch may be journalled: it is not large, and nothing of it is read before the journal can be.
pub(super) fn is_journalled(batch: &Batch) -> bool {
    batch.meta.is_empty() && batch.scopes.is_empty() && written(batch) <= LARGE as u64
}

/// Bytes that a batch puts.
pub(super) fn written(batch: &Batch) -> u64 {
    db::puts(batch).map(|put| put.value.map_or(0, <[u8]>::len) as u64).sum()
}

impl Head {
    /// That of a store whose database holds what was committed up to `checkpointed`.
    pub(super) fn new(keys: Keys, journal: Journal, state: State, checkpointed: Generation) -> Self {
        Head {
            keys,
            journal,
            state,
            checkpointed,
            uncertain: false,
            pending: 0,
            ahead_since: None,
            unsettled: Vec::new(),
        }
    }

    /// The state after a batch, and how many bytes it takes the place of.
    pub(super) fn after(
        &self,
        db: &Db,
        overlay: &Overlay,
        batch: &Batch,
        audit: AuditAnchor,
    ) -> Result<(State, u64), StoreError> {
        let replaced = Cell::new(0);
        let old = |tree, key: &[u8]| {
            let old = overlay.get(tree, key).map_or_else(|| db.get(tree, key), Ok)?;
            replaced.set(replaced.get() + old.as_ref().map_or(0, |old| old.len() as u64));
            Ok(old)
        };
        let contents = with(self.state.contents, &self.keys, db::puts(batch), old)?;
        for put in db::puts(batch).filter(|put| put.tree == Tree::Blobs) {
            old(put.tree, &put.key)?;
        }
        let generation = Generation(self.state.generation.0 + 1);
        Ok((State { generation, contents, audit }, replaced.get()))
    }

    /// The batch was journalled, and is what the store holds from now on; with a ticket, unless it does not reach the disk.
    pub(super) fn take(&mut self, overlay: &mut Overlay, batch: &Batch, state: State, ticket: Option<u64>) {
        let (before, pending, ahead_since) = (self.state, self.pending, self.ahead_since);
        let mut values = Vec::new();
        for put in db::puts(batch) {
            let was = overlay.put(state.generation, put.tree, put.key.clone(), put.value.map(Arc::from));
            if ticket.is_some() {
                values.push((put.tree, put.key, was));
            }
        }
        self.state = state;
        self.pending += written(batch);
        self.ahead_since.get_or_insert_with(Instant::now);
        if let Some(ticket) = ticket {
            self.unsettled.push(Unsettled { state: before, pending, ahead_since, values, ticket });
        }
    }

    /// Whether something is journalled that was not answered.
    pub(super) fn is_unsettled(&self) -> bool {
        !self.unsettled.is_empty()
    }

    /// The last commit that was, or may be, answered.
    pub(super) fn settled(&self) -> Generation {
        self.unsettled.first().map_or(self.state, |first| first.state).generation
    }

    /// All up to this ticket is on the disk.
    pub(super) fn settle(&mut self, last: u64) {
        self.unsettled.retain(|one| one.ticket > last);
    }

    /// What was not answered never happened.
    pub(super) fn lose(&mut self, overlay: &mut Overlay) {
        for one in std::mem::take(&mut self.unsettled).into_iter().rev() {
            one.values.into_iter().rev().for_each(|value| overlay.put_back(value));
            (self.state, self.pending, self.ahead_since) = (one.state, one.pending, one.ahead_since);
        }
    }

    /// Whether a checkpoint should not wait any longer.
    pub(super) fn is_due(&self) -> bool {
        self.journal.is_half_full()
            || self.state.generation.0 - self.checkpointed.0 > CHECKPOINT_ENTRIES
            || self.ahead_since.is_some_and(|since| since.elapsed() > CHECKPOINT_EVERY)
    }

    /// The database has everything up to this generation for good.
    pub(super) fn checkpointed(&mut self, overlay: &mut Overlay, generation: Generation) {
        overlay.drop_up_to(generation);
        self.checkpointed = self.checkpointed.max(generation);
        self.pending = overlay.bytes();
        self.ahead_since = if self.is_ahead() { Some(Instant::now()) } else { None };
    }

    /// Whether the journal has anything that the database has not.
    pub(super) fn is_ahead(&self) -> bool {
        self.state.generation > self.checkpointed
    }

    /// What the ledger found, when it mended what had failed.
    pub(super) fn mended(&mut self, found: State) {
        // A commit that was not journalled was undone, by another one.
        if found.generation > self.state.generation {
            self.state = found;
            self.journal.is_at(found.generation);
        }
        self.checkpointed = found.generation;
        self.uncertain = false;
    }
}

/// What the sum is when these are put in place of what `old` says is there.
fn with<'a>(
    mut contents: Contents,
    keys: &Keys,
    puts: impl Iterator<Item = Put<'a>>,
    old: impl Fn(Tree, &[u8]) -> Result<Option<Blob>, StoreError>,
) -> Result<Contents, StoreError> {
    for put in puts.filter(|put| Tree::SUMMED.contains(&put.tree)) {
        if let Some(old) = old(put.tree, &put.key)? {
            contents.subtract(keys, put.tree, &put.key, &old);
        }
        if let Some(new) = put.value {
            contents.add(keys, put.tree, &put.key, new);
        }
    }
    Ok(contents)
}

/// What the journal adds to a database that holds `base`.
pub(super) fn replay(
    db: &Db,
    keys: &Keys,
    base: State,
    entries: Vec<Entry>,
    overlay: &mut Overlay,
) -> Result<State, StoreError> {
    let mut state = base;
    for entry in entries.into_iter().filter(|entry| entry.state.generation > base.generation) {
        if entry.after != state.generation {
            return Err(StoreError::Damaged("the journal does not follow what the database holds".into()));
        }
        let puts = entry.changes.iter().map(|change| Put {
            tree: change.tree,
            key: change.key.clone(),
            value: change.value.as_deref(),
        });
        let contents = with(state.contents, keys, puts, |tree, key| match overlay.get(tree, key) {
            Some(journalled) => Ok(journalled),
            None => db.get(tree, key),
        })?;
        if contents != entry.state.contents {
            return Err(StoreError::Damaged("the journal is of other records than the database holds".into()));
        }
        state = entry.state;
        entry.changes.into_iter().for_each(|change| overlay.take(state.generation, change));
    }
    Ok(state)
}

/// The head of a store, or why there is none.
pub(super) fn known(head: &mut Option<Head>) -> Result<&mut Head, StoreError> {
    head.as_mut().ok_or_else(unverified)
}

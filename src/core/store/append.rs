//! Commits: begun in the journal, and on the disk together, or past it where they are large.

use super::batch::check;
use super::db;
use super::group::Tickets;
use super::head::{self, Head};
use super::journal::Appended;
use super::ledger::fault;
use super::{AuditAnchor, Batch, Durability, Journalled, Store, StoreError};
use crate::lock::MutexGuard;
use crate::model::Generation;

impl Store {
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
    pub(super) fn sync_under(&self, syncing: &MutexGuard<'_, ()>) -> Result<(), StoreError> {
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
    pub(super) fn settle_under(&self, syncing: &MutexGuard<'_, ()>, head: &mut Option<Head>) {
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
}

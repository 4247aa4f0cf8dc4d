//! What is in the journal alone goes into the database; and a database that failed is opened again.

use super::db::{self, Put};
use super::head::{self, Head};
use super::ledger::Ledger;
use super::manifest::State;
use super::{Store, StoreError, open_db};
use crate::lock::MutexGuard;
use crate::model::Generation;
use std::sync::Arc;

impl Store {
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
    pub(super) fn checkpoint_under(&self, ledger: &mut Ledger) -> Result<(), StoreError> {
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
    pub(super) fn checkpoint_with(
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
    pub(super) fn give_up(&self, error: StoreError) -> StoreError {
        match self.checkpoint() {
            Ok(()) => error,
            Err(worse) => StoreError::Failed(format!(
                "{error}; nor could the database be written ({worse}): check the disk, then restart"
            )),
        }
    }

    /// Brings the database back from a transaction that failed.
    pub(super) fn mend(&self, ledger: &mut Ledger, head: &mut Option<Head>) -> Result<(), StoreError> {
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

    pub(super) fn reopen_if_needed(&self, ledger: &mut Ledger) {
        if ledger.needs_reopening()
            && let Err(error) = self.reopen(ledger)
        {
            tracing::error!(%error, "the database failed and could not be opened again");
        }
    }

    /// Opens the database anew for a reader that found it failed, unless somebody is at work on it or did so just now.
    /// Between commits all of it is on disk, so this loses nothing.
    pub(super) fn heal(&self) -> bool {
        let Some(mut ledger) = self.ledger.try_lock() else { return false };
        ledger.may_heal() && self.reopen(&mut ledger).is_ok()
    }

    /// Drops the database and opens it anew. Readers wait meanwhile.
    pub(super) fn reopen(&self, ledger: &mut Ledger) -> Result<(), StoreError> {
        let mut db = self.db.write();
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

//! How much of the locked memory each uid has in use, so that none takes all of it.
//!
//! Owns the count alone: whoever keeps content keeps a [`Charge`] beside it.

use super::FsError;
use crate::model::Uid;
use crate::sys::arena::ArenaFull;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// All uids' use, and what one may have.
pub(super) struct Held {
    bytes: Mutex<HashMap<Uid, u64>>,
    budget: u64,
}

impl Held {
    /// With what one uid may have, in bytes.
    pub fn new(budget: u64) -> Arc<Self> {
        Arc::new(Held { bytes: Mutex::default(), budget })
    }

    /// Charges a uid for `bytes`. What is charged alone always fits.
    ///
    /// # Errors
    /// The arena is full, for this uid.
    pub fn charge(self: &Arc<Self>, uid: Uid, bytes: usize) -> Result<Charge, FsError> {
        let mut charge = Charge { held: Arc::clone(self), uid, bytes: 0 };
        charge.grow_to(bytes)?;
        Ok(charge)
    }

    // Lock order: innermost of the filesystem's, nothing is called while it is held.
    fn lock(&self) -> MutexGuard<'_, HashMap<Uid, u64>> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one handle or dirty copy has; given back when dropped.
pub(super) struct Charge {
    held: Arc<Held>,
    uid: Uid,
    bytes: u64,
}

impl Charge {
    /// Charges what is missing to `bytes`; never less than before.
    ///
    /// # Errors
    /// As [`Held::charge`]; then nothing has changed.
    pub fn grow_to(&mut self, bytes: usize) -> Result<(), FsError> {
        let more = (bytes as u64).saturating_sub(self.bytes);
        if more == 0 {
            return Ok(());
        }
        let mut held = self.held.lock();
        let own = held.get(&self.uid).copied().unwrap_or(0);
        if own + more > self.held.budget && own > self.bytes {
            return Err(ArenaFull { asked: bytes }.into());
        }
        held.insert(self.uid, own + more);
        self.bytes += more;
        Ok(())
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        let mut held = self.held.lock();
        if let Some(own) = held.get_mut(&self.uid) {
            *own = own.saturating_sub(self.bytes);
            if *own == 0 {
                held.remove(&self.uid);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_uid_has_its_own_budget_and_gets_it_back() {
        let held = Held::new(100);
        let first = held.charge(Uid(1), 60).unwrap();
        assert!(held.charge(Uid(1), 60).is_err());
        let mut other = held.charge(Uid(2), 90).unwrap();
        assert!(held.charge(Uid(2), 20).is_err());
        drop(first);
        assert!(held.charge(Uid(1), 60).is_ok());
        other.grow_to(200).unwrap();
        drop(other);
        assert!(held.lock().is_empty());
    }
}

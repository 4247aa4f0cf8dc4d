//! How much of the locked memory each uid has in use, so that none takes all of it. Callers inside a container count for
//! its instance instead: its uids may be the host's, and are nothing it is short of.
//!
//! Owns the count alone: whoever keeps content keeps a [`Charge`] beside it.

use super::FsError;
use crate::model::{Ino, Uid};
use crate::sys::arena::ArenaFull;
use crate::vault::Holder;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Who pays for what is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Payer {
    /// A uid of the host.
    Uid(Uid),
    /// All those inside an instance.
    Instance(Ino),
}

impl Payer {
    /// Whoever of this uid opened something by that entry.
    pub fn of(uid: Uid, holder: &Holder) -> Self {
        holder.instance().map_or(Payer::Uid(uid), Payer::Instance)
    }
}

/// All payers' use, and what one may have.
pub(super) struct Held {
    used: Mutex<Used>,
    budget: u64,
}

#[derive(Default)]
struct Used {
    by: HashMap<Payer, u64>,
    /// By all instances together.
    inside: u64,
}

impl Held {
    /// With what one payer may have, in bytes. All instances together may have twice as much.
    pub fn new(budget: u64) -> Arc<Self> {
        Arc::new(Held { used: Mutex::default(), budget })
    }

    /// Charges somebody for `bytes`. What is charged alone always fits.
    ///
    /// # Errors
    /// The arena is full, for him.
    pub fn charge(self: &Arc<Self>, payer: Payer, bytes: usize) -> Result<Charge, FsError> {
        let mut charge = Charge { held: Arc::clone(self), payer, bytes: 0 };
        charge.grow_to(bytes)?;
        Ok(charge)
    }

    // Lock order: innermost of the filesystem's, nothing is called while it is held.
    fn lock(&self) -> MutexGuard<'_, Used> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one handle or dirty copy has; given back when dropped.
pub(super) struct Charge {
    held: Arc<Held>,
    payer: Payer,
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
        let mut used = self.held.lock();
        let own = used.by.get(&self.payer).copied().unwrap_or(0);
        let inside = matches!(self.payer, Payer::Instance(_));
        let too_much = own + more > self.held.budget || inside && used.inside + more > self.held.budget * 2;
        if too_much && own > self.bytes {
            return Err(ArenaFull { asked: bytes }.into());
        }
        used.by.insert(self.payer, own + more);
        if inside {
            used.inside += more;
        }
        self.bytes += more;
        Ok(())
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        let mut used = self.held.lock();
        if matches!(self.payer, Payer::Instance(_)) {
            used.inside = used.inside.saturating_sub(self.bytes);
        }
        if let Some(own) = used.by.get_mut(&self.payer) {
            *own = own.saturating_sub(self.bytes);
            if *own == 0 {
                used.by.remove(&self.payer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_uid_has_its_own_budget_and_gets_it_back() {
        let (one, two) = (Payer::Uid(Uid(1)), Payer::Uid(Uid(2)));
        let held = Held::new(100);
        let first = held.charge(one, 60).unwrap();
        assert!(held.charge(one, 60).is_err());
        let mut other = held.charge(two, 90).unwrap();
        assert!(held.charge(two, 20).is_err());
        drop(first);
        assert!(held.charge(one, 60).is_ok());
        other.grow_to(200).unwrap();
        drop(other);
        assert!(held.lock().by.is_empty());
    }

    #[test]
    fn containers_pay_for_themselves_and_leave_half_to_the_host() {
        let held = Held::new(100);
        let inside = |n| Payer::Instance(Ino(n));
        let _host = held.charge(Payer::Uid(Uid(0)), 90).unwrap();
        let first = held.charge(inside(1), 90).unwrap();
        assert!(held.charge(inside(1), 20).is_err());
        let _second = held.charge(inside(2), 90).unwrap();
        let _third = held.charge(inside(3), 10).unwrap();
        assert!(held.charge(inside(3), 20).is_err(), "together they have what they may");
        drop(first);
        assert!(held.charge(inside(3), 20).is_ok());
    }
}

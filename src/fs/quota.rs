//! What each has open, and how much of the locked memory it takes: so that none takes all of it.
//!
//! Owns who pays. The counts and bounds are the [`meter`](crate::meter)'s; whoever keeps content keeps a [`Charge`] beside it.

use super::FsError;
use crate::meter::{self, Exhausted, Meter, Resource};
use crate::model::Uid;
use crate::vault::Holder;
use std::sync::Arc;

/// Who pays for what is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Payer(pub meter::Payer);

impl Payer {
    /// Whoever of this uid opened something by that entry.
    pub fn of(uid: Uid, holder: &Holder) -> Self {
        Payer(meter::Payer::of(uid, holder.instance()))
    }
}

/// Charges for what the filesystem holds.
pub(super) struct Held(Arc<Meter>);

/// What one handle or dirty copy has; given back when dropped.
pub(super) struct Charge {
    bytes: meter::Charge,
    _one: meter::Charge,
}

impl Held {
    /// By this meter.
    pub fn new(meter: &Arc<Meter>) -> Arc<Self> {
        Arc::new(Held(Arc::clone(meter)))
    }

    /// Charges somebody for a handle and the content that it holds.
    ///
    /// # Errors
    /// He has as many as he may, or as much memory.
    pub fn charge(&self, payer: Payer, bytes: usize) -> Result<Charge, FsError> {
        self.with(Resource::Handles, payer, bytes)
    }

    /// Charges somebody for a handle on one of pinfold's own files, which is no secret and takes no locked memory.
    ///
    /// # Errors
    /// He has as many as he may, or as much memory for what is no secret.
    pub fn own(&self, payer: Payer, bytes: usize) -> Result<Charge, FsError> {
        let one = self.0.charge(Resource::Handles, payer.0, 1)?;
        Ok(Charge { bytes: self.snapshot(payer.0, bytes)?, _one: one })
    }

    /// Charges somebody for a dirty copy.
    ///
    /// # Errors
    /// As [`Held::charge`].
    pub fn copy(&self, payer: Payer, bytes: usize) -> Result<Charge, FsError> {
        self.with(Resource::DirtyCopies, payer, bytes)
    }

    /// Charges somebody for a handle without content of its own.
    ///
    /// # Errors
    /// He has as many as he may.
    pub fn handle(&self, payer: meter::Payer) -> Result<meter::Charge, Exhausted> {
        self.0.charge(Resource::Handles, payer, 1)
    }

    /// Charges somebody for a listing of this size, in bytes.
    ///
    /// # Errors
    /// He has as much memory for listings as he may.
    pub fn snapshot(&self, payer: meter::Payer, bytes: usize) -> Result<meter::Charge, Exhausted> {
        self.0.charge(Resource::Snapshots, payer, bytes as u64)
    }

    fn with(&self, one: Resource, payer: Payer, bytes: usize) -> Result<Charge, FsError> {
        let one = self.0.charge(one, payer.0, 1)?;
        let bytes = self.0.charge(Resource::HandleBytes, payer.0, bytes as u64)?;
        Ok(Charge { bytes, _one: one })
    }
}

impl Charge {
    /// Charges what is missing to `bytes`; never less than before.
    ///
    /// # Errors
    /// As [`Held::charge`]; then nothing has changed.
    pub fn grow_to(&mut self, bytes: usize) -> Result<(), FsError> {
        Ok(self.bytes.grow_to(bytes as u64)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meter::Shares;
    use crate::model::Ino;

    fn held() -> Arc<Held> {
        // Of 400 bytes each may have 100.
        Held::new(&Meter::new(&Shares::default(), 400, 100))
    }

    fn one() -> Payer {
        Payer(meter::Payer::Uid(1))
    }

    fn inside(n: u64) -> Payer {
        Payer(meter::Payer::of(Uid(0), Some(Ino(n))))
    }

    #[test]
    fn each_uid_has_its_own_budget_and_gets_it_back() {
        let two = Payer(meter::Payer::Uid(2));
        let held = held();
        let first = held.charge(one(), 60).unwrap();
        assert!(held.charge(one(), 60).is_err());
        let mut other = held.charge(two, 90).unwrap();
        assert!(held.charge(two, 20).is_err());
        drop(first);
        assert!(held.charge(one(), 60).is_ok());
        other.grow_to(200).unwrap();
    }

    #[test]
    fn containers_pay_for_themselves_and_leave_half_to_the_host() {
        let held = held();
        let _host = held.charge(Payer(meter::Payer::Uid(0)), 90).unwrap();
        let first = held.charge(inside(1), 90).unwrap();
        assert!(held.charge(inside(1), 20).is_err());
        let _second = held.charge(inside(2), 90).unwrap();
        let _third = held.charge(inside(3), 10).unwrap();
        assert!(held.charge(inside(3), 20).is_err(), "together they have what they may");
        drop(first);
        assert!(held.charge(inside(3), 20).is_ok());
    }
}

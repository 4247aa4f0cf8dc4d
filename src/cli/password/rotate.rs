//! `pinfold password rotate`: what is done in which order, and what is known after each step.
//!
//! Owns the order: the store is told before the far side is, and what may have failed is found out by a login. It speaks
//! to both through [`Ledger`] and [`FarSide`], so that a test may end it between any two steps.

mod report;

pub use report::command;

use super::remote::{Accepted, Changed, FarSide};
use crate::model::PasswordName;
use crate::secret::Secret;
use crate::wire::{Fault, Keep, RotationOpened, RotationState};

/// Where a rotation's state is kept: durable when a call returns.
pub trait Ledger {
    /// Stores the next password, pending.
    fn begin(&mut self, name: &PasswordName, next: Secret) -> Result<(), Fault>;
    /// State and both passwords.
    fn open(&mut self, name: &PasswordName) -> Result<RotationOpened, Fault>;
    /// From one state to another.
    fn mark(&mut self, name: &PasswordName, from: RotationState, to: RotationState) -> Result<(), Fault>;
    /// One of the two is the password.
    fn end(&mut self, name: &PasswordName, keep: Keep, verified: bool) -> Result<(), Fault>;
}

/// What came of one rotation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RotationOutcome {
    /// The far side takes the new password, and it is the one that is stored.
    Rotated,
    /// It goes on with the old one; the next is kept, pending.
    StillOld(String),
    /// Nobody could say which of the two it takes; both are kept.
    Undecided(RotationState, String),
    /// The store could not be told: the state is the last one that it was told.
    NotStored(Fault),
}

impl From<Fault> for RotationOutcome {
    fn from(fault: Fault) -> Self {
        RotationOutcome::NotStored(fault)
    }
}

/// Rotates a password to `next`.
pub fn rotate(ledger: &mut dyn Ledger, far: &dyn FarSide, name: &PasswordName, next: Secret) -> RotationOutcome {
    let begun = ledger.begin(name, next).and_then(|()| ledger.open(name));
    begun
        .map_err(RotationOutcome::from)
        .and_then(|opened| change(ledger, far, name, &opened))
        .unwrap_or_else(|outcome| outcome)
}

/// Goes on with one that was begun, from wherever it was left.
pub fn resume(ledger: &mut dyn Ledger, far: &dyn FarSide, name: &PasswordName) -> RotationOutcome {
    let go_on = |ledger: &mut dyn Ledger| {
        let opened = ledger.open(name)?;
        if opened.state == RotationState::Pending {
            return change(ledger, far, name, &opened);
        }
        match settle(ledger, far, name, &opened, opened.state, "the last attempt did not say how it ended")? {
            // The far side was not changed after all: it is told again, once.
            RotationOutcome::StillOld(_) => change(ledger, far, name, &opened),
            other => Ok(other),
        }
    };
    go_on(ledger).unwrap_or_else(|outcome| outcome)
}

/// From `pending`: tells the far side.
fn change(
    ledger: &mut dyn Ledger,
    far: &dyn FarSide,
    name: &PasswordName,
    both: &RotationOpened,
) -> Result<RotationOutcome, RotationOutcome> {
    // Before it is touched: whatever ends this process now, it is on disk that either may be valid.
    ledger.mark(name, RotationState::Pending, RotationState::Changing)?;
    match far.change(name, &both.old, &both.new) {
        Changed::Yes => {
            ledger.mark(name, RotationState::Changing, RotationState::ChangedUnverified)?;
            settle(ledger, far, name, both, RotationState::ChangedUnverified, "it said that it had changed")
        }
        Changed::No(why) => {
            ledger.mark(name, RotationState::Changing, RotationState::Pending)?;
            Ok(RotationOutcome::StillOld(why))
        }
        Changed::Unknown(why) => settle(ledger, far, name, both, RotationState::Changing, &why),
    }
}

/// Finds out which of the two the far side takes. The new one is tried first; a login that could not be tried says nothing.
fn settle(
    ledger: &mut dyn Ledger,
    far: &dyn FarSide,
    name: &PasswordName,
    both: &RotationOpened,
    state: RotationState,
    before: &str,
) -> Result<RotationOutcome, RotationOutcome> {
    match far.verify(name, &both.new) {
        Accepted::Yes => {
            ledger.end(name, Keep::New, true)?;
            Ok(RotationOutcome::Rotated)
        }
        Accepted::No(why) => match far.verify(name, &both.old) {
            Accepted::Yes => {
                ledger.mark(name, state, RotationState::Pending)?;
                Ok(RotationOutcome::StillOld(format!("{before}; it takes the old password")))
            }
            Accepted::No(_) => {
                Ok(RotationOutcome::Undecided(state, format!("{before}; it refuses both passwords: {why}")))
            }
            Accepted::Unknown(why) => Ok(RotationOutcome::Undecided(state, format!("{before}; {why}"))),
        },
        Accepted::Unknown(why) => {
            Ok(RotationOutcome::Undecided(state, format!("{before}; it could not be verified: {why}")))
        }
    }
}

#[cfg(test)]
mod tests;

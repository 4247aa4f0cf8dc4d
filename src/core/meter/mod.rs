//! How much each uses of what can be used up, and the one place where a bound is asked for.
//!
//! Owns the counts of what is held and how fast it comes. Whoever holds something keeps a [`Charge`] beside it, which gives it back
//! when it is dropped, also by a thread that panics. What is kept on disk is counted where it is kept; its bound is asked for here
//! all the same. Never waits: whoever is told to come later arranges that himself.

mod shares;
mod table;
#[cfg(test)]
mod tests;

pub use shares::Shares;
pub use table::{Bounds, Counted, NONE, Resource, Row, Share, Unit};

use crate::lock::{Mutex, MutexGuard, rank};
use crate::model::{Ino, Uid};
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How many payers of a rate are remembered before those that used nothing lately are forgotten.
const MANY: usize = 4096;
/// The longest delay, in nanoseconds.
const LONGEST: u64 = 60_000_000_000;
const NANOS: u128 = 1_000_000_000;
const DAY: u128 = 86_400 * NANOS;

/// Who pays for what is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Payer {
    /// A uid of the host.
    Uid(u32),
    /// All those inside one instance, or, for what is kept on disk, inside one scope: their uids may be the host's, and are
    /// nothing they are short of.
    Instance(u64),
}

impl Payer {
    /// A caller of this uid, inside that instance or none.
    pub fn of(uid: Uid, instance: Option<Ino>) -> Self {
        instance.map_or(Payer::Uid(uid.0), |ino| Payer::Instance(ino.0))
    }
}

/// Whose bound was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// The payer's own.
    Own(Payer),
    /// That of all instances together.
    Instances,
    /// That of everybody but root.
    Others,
    /// That of all.
    All,
}

/// A bound was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub struct Exhausted {
    /// Of what.
    pub resource: Resource,
    /// Whose.
    pub whose: Whose,
    /// The bound.
    pub bound: u64,
}

impl fmt::Display for Exhausted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let row = self.resource.row();
        let whose = match self.whose {
            Whose::Own(Payer::Uid(0)) => "for root",
            Whose::Own(Payer::Uid(_)) => "for one user",
            Whose::Own(Payer::Instance(_)) => "for one container",
            Whose::Instances => "for all containers together",
            Whose::Others => "for all but root together",
            Whose::All => "in all",
        };
        let key = if row.share == Share::OfSecrets { ", by max_secrets" } else { "" };
        write!(f, "the limit of {} is reached ({}: {} {whose}{key})", row.what, row.name, self.bound)
    }
}

/// What is used of a resource, without who uses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// What.
    pub resource: Resource,
    /// By all together. Of a rate: what is not given back yet.
    pub used: u64,
    /// By the one who uses most.
    pub most: u64,
    /// What one uid may have.
    pub share: u64,
    /// How often the bound was met since the start.
    pub refused: u64,
}

/// All counts.
pub struct Meter {
    bounds: [Bounds; Resource::COUNT],
    /// Innermost of all locks: nothing is called while one is held.
    used: [Mutex<Used, { rank::METER }>; Resource::COUNT],
    refused: [AtomicU64; Resource::COUNT],
    started: Instant,
}

#[derive(Default)]
struct Used {
    /// What each has, or until when his rate is used up, in nanoseconds from the start.
    by: HashMap<Payer, u64>,
    inside: u64,
    others: u64,
    all: u64,
    /// How many may be remembered before the next look at who used nothing lately.
    enough: usize,
}

impl Meter {
    /// With these shares, where there is so much locked memory, in bytes, and room for so many secrets.
    pub fn new(shares: &Shares, memory: u64, secrets: u64) -> Arc<Self> {
        Arc::new(Meter {
            bounds: Resource::TABLE.map(|row| {
                let bounds = row.bounds(shares.share(row.resource, memory, secrets));
                match row.share {
                    Share::OfSecrets => Bounds { root: secrets, others: secrets, all: secrets, ..bounds },
                    Share::Number(_) | Share::Fixed(_) | Share::OfMemory => bounds,
                }
            }),
            used: std::array::from_fn(|_| Mutex::default()),
            refused: std::array::from_fn(|_| AtomicU64::new(0)),
            started: Instant::now(),
        })
    }

    /// The bounds of a resource.
    pub fn bounds(&self, resource: Resource) -> &Bounds {
        &self.bounds[resource as usize]
    }

    /// Charges somebody for as long as the charge is kept. For [`Counted::Held`].
    ///
    /// # Errors
    /// [`Exhausted`]; then nothing has changed.
    pub fn charge(self: &Arc<Self>, resource: Resource, payer: Payer, amount: u64) -> Result<Charge, Exhausted> {
        debug_assert_eq!(resource.row().counted, Counted::Held);
        let mut charge = Charge { meter: Arc::clone(self), resource, payer, amount: 0 };
        charge.grow_to(amount)?;
        Ok(charge)
    }

    /// Whether somebody could not be charged for one more. Counts as no refusal.
    pub fn is_full(&self, resource: Resource, payer: Payer) -> bool {
        self.used(resource).over(self.bounds(resource), payer, 1, false).is_some()
    }

    /// Takes a turn, and says how long it is to be waited for; never refuses. For [`Counted::Paced`].
    pub fn pace(&self, resource: Resource, payer: Payer, amount: u64, now: Instant) -> Duration {
        debug_assert_eq!(resource.row().counted, Counted::Paced);
        let rate = self.bounds(resource).of(payer);
        if rate == NONE {
            return Duration::ZERO;
        }
        let cost = clamp(u128::from(amount) * NANOS / u128::from(rate.max(1)));
        let burst = clamp(u128::from(resource.row().burst) * NANOS);
        let now = self.nanos(now);
        let mut used = self.used(resource);
        used.forget_idle(now);
        let until = used.by.entry(payer).or_insert(0);
        // Who asks on and on while there is no room to wait does not wait for hours afterwards.
        *until = (*until).max(now).saturating_add(cost).min(now.saturating_add(burst).saturating_add(LONGEST));
        let delay = Duration::from_nanos((*until - now).saturating_sub(burst));
        drop(used);
        if !delay.is_zero() {
            self.note_refused(resource);
        }
        delay
    }

    /// Spends an amount of what there is for a day. For [`Counted::Spent`].
    ///
    /// # Errors
    /// [`Exhausted`]; then nothing has changed.
    pub fn spend(&self, resource: Resource, payer: Payer, amount: u64, now: Instant) -> Result<(), Exhausted> {
        debug_assert_eq!(resource.row().counted, Counted::Spent);
        let bound = self.bounds(resource).of(payer);
        if bound == NONE {
            return Ok(());
        }
        let cost = clamp(u128::from(amount) * DAY / u128::from(bound.max(1)));
        let now = self.nanos(now);
        let mut used = self.used(resource);
        used.forget_idle(now);
        let until = used.by.entry(payer).or_insert(0);
        let next = (*until).max(now).saturating_add(cost);
        if u128::from(next - now) > DAY {
            drop(used);
            return Err(self.refuse(resource, Whose::Own(payer), bound));
        }
        *until = next;
        Ok(())
    }

    /// Whether somebody who has `own` of what is kept may have `more`, where all together have `all`. For [`Counted::Kept`].
    ///
    /// # Errors
    /// [`Exhausted`].
    pub fn admit(&self, resource: Resource, payer: Payer, own: u64, all: u64, more: u64) -> Result<(), Exhausted> {
        debug_assert_eq!(resource.row().counted, Counted::Kept);
        let bounds = self.bounds(resource);
        for (used, bound, whose) in [(all, bounds.all, Whose::All), (own, bounds.of(payer), Whose::Own(payer))] {
            if used.saturating_add(more) > bound {
                return Err(self.refuse(resource, whose, bound));
            }
        }
        Ok(())
    }

    /// What is used of everything. Of what is kept on disk, `kept` says how much all have, and the one who has most.
    pub fn usage(&self, kept: impl Fn(Resource) -> (u64, u64)) -> Vec<Usage> {
        let now = self.nanos(Instant::now());
        let of = |resource: Resource| {
            let (row, bounds) = (resource.row(), self.bounds(resource));
            let (used, most) = match row.counted {
                Counted::Kept => kept(resource),
                Counted::Held => {
                    let used = self.used(resource);
                    (used.all, used.by.values().copied().max().unwrap_or(0))
                }
                Counted::Paced => self.rated(resource, now, NANOS),
                Counted::Spent => self.rated(resource, now, DAY),
            };
            let refused = self.refused[resource as usize].load(Ordering::Relaxed);
            Usage { resource, used, most, share: bounds.uid, refused }
        };
        Resource::all().map(of).collect()
    }

    /// What is not given back yet of a rate.
    fn rated(&self, resource: Resource, now: u64, window: u128) -> (u64, u64) {
        let used = self.used(resource);
        let bounds = self.bounds(resource);
        let each = |(payer, until): (&Payer, &u64)| {
            clamp(u128::from(until.saturating_sub(now)) * u128::from(bounds.of(*payer)) / window)
        };
        let all = used.by.iter().map(each);
        (all.clone().fold(0, u64::saturating_add), all.max().unwrap_or(0))
    }

    /// Counts that a bound was met, which somebody else asked for.
    fn note_refused(&self, resource: Resource) {
        self.refused[resource as usize].fetch_add(1, Ordering::Relaxed);
    }

    fn refuse(&self, resource: Resource, whose: Whose, bound: u64) -> Exhausted {
        self.note_refused(resource);
        Exhausted { resource, whose, bound }
    }

    fn nanos(&self, at: Instant) -> u64 {
        clamp(at.saturating_duration_since(self.started).as_nanos())
    }

    fn used(&self, resource: Resource) -> MutexGuard<'_, Used, { rank::METER }> {
        self.used[resource as usize].lock()
    }
}

impl Used {
    /// Whose bound is passed by so much more for somebody; what is `alone` passes its own.
    fn over(&self, bounds: &Bounds, payer: Payer, more: u64, alone: bool) -> Option<(Whose, u64)> {
        let own = self.by.get(&payer).copied().unwrap_or(0);
        let (inside, other) = (matches!(payer, Payer::Instance(_)), payer != Payer::Uid(0));
        let too_much = |used: u64, bound: u64| used.saturating_add(more) > bound;
        if !alone && too_much(own, bounds.of(payer)) {
            Some((Whose::Own(payer), bounds.of(payer)))
        } else if inside && too_much(self.inside, bounds.instances) {
            Some((Whose::Instances, bounds.instances))
        } else if other && too_much(self.others, bounds.others) {
            Some((Whose::Others, bounds.others))
        } else if too_much(self.all, bounds.all) {
            Some((Whose::All, bounds.all))
        } else {
            None
        }
    }

    /// Forgets who has his whole rate again, once there are many.
    fn forget_idle(&mut self, now: u64) {
        if self.by.len() > self.enough.max(MANY) {
            self.by.retain(|_, until| *until > now);
            // Twice what is busy: so a look costs each the same, however many are.
            self.enough = self.by.len() * 2;
        }
    }
}

/// What somebody has of a resource; given back when dropped.
pub struct Charge {
    meter: Arc<Meter>,
    resource: Resource,
    payer: Payer,
    amount: u64,
}

impl Charge {
    /// Who pays.
    pub fn payer(&self) -> Payer {
        self.payer
    }

    /// Charges what is missing to `amount`; never less than before.
    ///
    /// # Errors
    /// [`Exhausted`]; then nothing has changed.
    pub fn grow_to(&mut self, amount: u64) -> Result<(), Exhausted> {
        let more = amount.saturating_sub(self.amount);
        if more == 0 {
            return Ok(());
        }
        let mut used = self.meter.used(self.resource);
        let bounds = self.meter.bounds(self.resource);
        let own = used.by.get(&self.payer).copied().unwrap_or(0);
        let (inside, other) = (matches!(self.payer, Payer::Instance(_)), self.payer != Payer::Uid(0));
        let alone = self.resource.row().alone && own == self.amount;
        let whose = used.over(bounds, self.payer, more, alone);
        if let Some((whose, bound)) = whose {
            drop(used);
            return Err(self.meter.refuse(self.resource, whose, bound));
        }
        used.by.insert(self.payer, own + more);
        used.inside += if inside { more } else { 0 };
        used.others += if other { more } else { 0 };
        used.all += more;
        self.amount += more;
        Ok(())
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        if self.amount == 0 {
            return;
        }
        let mut used = self.meter.used(self.resource);
        used.all = used.all.saturating_sub(self.amount);
        if matches!(self.payer, Payer::Instance(_)) {
            used.inside = used.inside.saturating_sub(self.amount);
        }
        if self.payer != Payer::Uid(0) {
            used.others = used.others.saturating_sub(self.amount);
        }
        if let Some(own) = used.by.get_mut(&self.payer) {
            *own = own.saturating_sub(self.amount);
            if *own == 0 {
                used.by.remove(&self.payer);
            }
        }
    }
}

impl fmt::Debug for Charge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} for {:?}", self.amount, self.resource.row().name, self.payer)
    }
}

fn clamp(nanos: u128) -> u64 {
    u64::try_from(nanos).unwrap_or(u64::MAX)
}

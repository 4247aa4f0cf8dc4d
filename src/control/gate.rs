//! How many at once: connections, and large messages.
//!
//! Owns whose turn it is for a large message and for reading the log. The counts and bounds are the [`meter`](crate::meter)'s; a place is given back when its
//! guard is dropped, also by a thread that panics.

use crate::lock::{Condvar, Mutex};
use crate::meter::{Charge, Exhausted, Meter, Payer, Resource, Whose};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How many times his patience somebody waits at most.
const ROUNDS: u32 = 6;

/// Who may come in.
pub struct Gate {
    meter: Arc<Meter>,
    /// Counts the places that were waited for and given back.
    freed: Mutex<u64>,
    changed: Condvar,
}

/// A connection's place.
pub struct Slot {
    _charge: Charge,
}

/// The place of a large message, or of who reads the log.
pub struct Turn<'g> {
    gate: &'g Gate,
    charge: Option<Charge>,
}

impl Gate {
    /// By this meter.
    pub fn new(meter: &Arc<Meter>) -> Arc<Self> {
        Arc::new(Gate { meter: Arc::clone(meter), freed: Mutex::default(), changed: Condvar::new() })
    }

    /// A place for a connection of this user, or why there is none.
    pub fn enter(&self, uid: u32) -> Result<Slot, &'static str> {
        match self.meter.charge(Resource::Control, Payer::Uid(uid), 1) {
            Ok(charge) => Ok(Slot { _charge: charge }),
            Err(Exhausted { whose: Whose::Own(Payer::Uid(1..)), .. }) => Err("you have too many connections open"),
            Err(_) => Err("too many connections are open"),
        }
    }

    /// A place for a large message of this user; waits for one, `patience` at most since the last was given back, and [`ROUNDS`] times that in all.
    pub fn large(&self, uid: u32, patience: Duration) -> Option<Turn<'_>> {
        self.turn(Resource::ControlLarge, uid, patience)
    }

    /// A place for reading the log; waits as [`Gate::large`] does.
    pub fn log(&self, uid: u32, patience: Duration) -> Option<Turn<'_>> {
        self.turn(Resource::ControlLog, uid, patience)
    }

    fn turn(&self, resource: Resource, uid: u32, patience: Duration) -> Option<Turn<'_>> {
        let begun = Instant::now();
        let mut deadline = begun + patience;
        let mut freed = self.freed.lock();
        loop {
            if let Ok(charge) = self.meter.charge(resource, Payer::Uid(uid), 1) {
                return Some(Turn { gate: self, charge: Some(charge) });
            }
            let (left, seen) = (deadline.checked_duration_since(Instant::now())?, *freed);
            freed = self.changed.wait_timeout(freed, left).0;
            // As long as places come back, one of the next is his.
            if *freed != seen {
                deadline = (Instant::now() + patience).min(begun + patience * ROUNDS);
            }
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut freed = self.gate.freed.lock();
        drop(self.charge.take());
        *freed += 1;
        self.gate.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meter::{Bounds, Shares};

    fn gate() -> Arc<Gate> {
        Gate::new(&Meter::new(&Shares::default(), 1 << 20, 100))
    }

    #[test]
    fn one_user_cannot_keep_the_others_out() {
        let gate = gate();
        let Bounds { uid: per_uid, others, all, .. } = *gate.meter.bounds(Resource::Control);
        let mut held: Vec<Slot> = (0..per_uid).map(|_| gate.enter(1000).unwrap()).collect();
        assert!(gate.enter(1000).is_err());
        for uid in 1001..1003 {
            held.extend((0..per_uid).map(|_| gate.enter(uid).unwrap()));
        }
        assert!(gate.enter(1003).is_err(), "what is left is root's");
        held.extend((0..all - others).map(|_| gate.enter(0).unwrap()));
        assert!(gate.enter(0).is_err());
        held.clear();
        assert!(gate.enter(1000).is_ok(), "places come back");
    }

    #[test]
    fn patience_begins_anew_with_each_place_that_comes_back_and_ends_all_the_same() {
        let (gate, patience) = (gate(), Duration::from_secs(2));
        let freed = || {
            std::thread::sleep(patience * 2 / 3);
            *gate.freed.lock() += 1;
            gate.changed.notify_all();
        };
        let first = gate.large(1000, Duration::ZERO).unwrap();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| gate.large(1000, patience).is_some());
            (0..2).for_each(|_| freed());
            drop(first);
            assert!(waiting.join().unwrap(), "longer than its patience, and others had their turns");
        });
        let _first = gate.large(1000, Duration::ZERO).unwrap();
        assert!(gate.large(1000, Duration::from_millis(1)).is_none());
    }

    #[test]
    fn large_messages_wait_for_their_turn() {
        let gate = gate();
        let at_once = gate.meter.bounds(Resource::ControlLarge).all as u32;
        let first = gate.large(1000, Duration::ZERO).unwrap();
        assert!(gate.large(1000, Duration::ZERO).is_none(), "one for each user");
        let others: Vec<_> = (1..at_once).map(|n| gate.large(n, Duration::ZERO).unwrap()).collect();
        assert!(gate.large(0, Duration::ZERO).is_none());
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| gate.large(1000, Duration::from_secs(60)).is_some());
            drop(first);
            assert!(waiting.join().unwrap());
        });
        drop(others);
        assert!(gate.large(0, Duration::ZERO).is_some());
    }
}

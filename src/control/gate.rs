//! How many at once: connections, and large messages, in all and for each user.
//!
//! Owns the counts. A place is given back when its guard is dropped, also by a thread that panics.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Connections in all.
pub const TOTAL: usize = 32;
/// Connections of users other than root; the rest is kept for root.
const OTHERS: usize = 24;
/// Connections of one user other than root.
const PER_UID: usize = 8;
/// Large messages in memory at once; one for each user.
pub const LARGE_AT_ONCE: usize = 4;

/// The counts.
#[derive(Default)]
pub struct Gate {
    /// Innermost: nothing is called while it is held.
    counts: Mutex<Counts>,
    freed: Condvar,
}

#[derive(Default)]
struct Counts {
    by_uid: HashMap<u32, usize>,
    large: BTreeSet<u32>,
}

/// A connection's place.
pub struct Slot {
    gate: Arc<Gate>,
    uid: u32,
}

/// A large message's place.
pub struct Large<'g> {
    gate: &'g Gate,
    uid: u32,
}

impl Gate {
    /// A place for a connection of this user, or why there is none.
    pub fn enter(self: &Arc<Self>, uid: u32) -> Result<Slot, &'static str> {
        let mut counts = self.counts();
        let total: usize = counts.by_uid.values().sum();
        let others = total - counts.by_uid.get(&0).copied().unwrap_or(0);
        let own = counts.by_uid.get(&uid).copied().unwrap_or(0);
        if total >= TOTAL || (uid != 0 && others >= OTHERS) {
            return Err("too many connections are open");
        }
        if uid != 0 && own >= PER_UID {
            return Err("you have too many connections open");
        }
        counts.by_uid.insert(uid, own + 1);
        Ok(Slot { gate: self.clone(), uid })
    }

    /// A place for a large message of this user; waits for one, `patience` at most.
    pub fn large(&self, uid: u32, patience: Duration) -> Option<Large<'_>> {
        let deadline = Instant::now() + patience;
        let mut counts = self.counts();
        while counts.large.contains(&uid) || counts.large.len() >= LARGE_AT_ONCE {
            let left = deadline.checked_duration_since(Instant::now())?;
            counts = self.freed.wait_timeout(counts, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        counts.large.insert(uid);
        Some(Large { gate: self, uid })
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut counts = self.gate.counts();
        match counts.by_uid.get(&self.uid).copied() {
            Some(n) if n > 1 => counts.by_uid.insert(self.uid, n - 1),
            _ => counts.by_uid.remove(&self.uid),
        };
    }
}

impl Drop for Large<'_> {
    fn drop(&mut self) {
        self.gate.counts().large.remove(&self.uid);
        self.gate.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_user_cannot_keep_the_others_out() {
        let gate = Arc::new(Gate::default());
        let mut held: Vec<Slot> = (0..PER_UID).map(|_| gate.enter(1000).unwrap()).collect();
        assert!(gate.enter(1000).is_err());
        for uid in 1001..1003 {
            held.extend((0..PER_UID).map(|_| gate.enter(uid).unwrap()));
        }
        assert!(gate.enter(1003).is_err(), "what is left is root's");
        held.extend((0..TOTAL - OTHERS).map(|_| gate.enter(0).unwrap()));
        assert!(gate.enter(0).is_err());
        held.clear();
        assert!(gate.enter(1000).is_ok(), "places come back");
        assert!(gate.counts().by_uid.is_empty());
    }

    #[test]
    fn large_messages_wait_for_their_turn() {
        let gate = Arc::new(Gate::default());
        let first = gate.large(1000, Duration::ZERO).unwrap();
        assert!(gate.large(1000, Duration::ZERO).is_none(), "one for each user");
        let others: Vec<_> = (1..LARGE_AT_ONCE as u32).map(|n| gate.large(n, Duration::ZERO).unwrap()).collect();
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

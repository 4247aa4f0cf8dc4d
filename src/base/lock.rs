//! Locks that know their place: whoever takes one that stands before one it holds is stopped, in a debug build, by a panic that names both.
//!
//! The order is [`rank`]'s. Nobody is told of a panic under a lock: what is half done must be whole again without it, or end the process (see
//! `vault::abreast`).

use std::ops::{Deref, DerefMut};
use std::sync::PoisonError;
use std::time::Duration;

/// The order in which locks are taken, outer first. Two of one rank are never held together.
pub mod rank {
    /// In no order: whoever holds one calls nothing that takes a lock of a rank.
    pub const NONE: u8 = 0;
    /// A name is being taken away.
    pub const NAMES: u8 = 10;
    /// The writers of the dirty copies.
    pub const WRITERS: u8 = 20;
    /// One dirty copy.
    pub const COPY: u8 = 21;
    /// The dirty copies.
    pub const COPIES: u8 = 22;
    /// One of a kind at a time: a step of a rotation, a signature by an own authority, a round of bundles.
    pub const ALONE: u8 = 30;
    /// Every blob is sealed anew.
    pub const SEALING: u8 = 31;
    /// The board of published keys.
    pub const BOARD: u8 = 40;
    /// Whoever changes the tree.
    pub const WRITER: u8 = 50;
    /// Which commits are under way.
    pub const ABREAST: u8 = 60;
    /// The tree and the keys.
    pub const STATE: u8 = 70;
    /// The meter: innermost of all.
    pub const METER: u8 = 250;
}

/// Mutual exclusion.
#[derive(Debug, Default)]
pub struct Mutex<T, const RANK: u8 = { rank::NONE }>(std::sync::Mutex<T>);

/// A [`Mutex`], held.
#[derive(Debug)]
pub struct MutexGuard<'a, T, const RANK: u8 = { rank::NONE }> {
    guard: std::sync::MutexGuard<'a, T>,
    held: Held<RANK>,
}

/// Many who look, or one who changes.
#[derive(Debug, Default)]
pub struct RwLock<T, const RANK: u8 = { rank::NONE }>(std::sync::RwLock<T>);

/// A [`RwLock`], held to look.
#[derive(Debug)]
pub struct RwLockReadGuard<'a, T, const RANK: u8 = { rank::NONE }> {
    guard: std::sync::RwLockReadGuard<'a, T>,
    _held: Held<RANK>,
}

/// A [`RwLock`], held to change.
#[derive(Debug)]
pub struct RwLockWriteGuard<'a, T, const RANK: u8 = { rank::NONE }> {
    guard: std::sync::RwLockWriteGuard<'a, T>,
    _held: Held<RANK>,
}

/// Waits for a change of what a [`Mutex`] guards.
#[derive(Debug, Default)]
pub struct Condvar(std::sync::Condvar);

impl<T, const RANK: u8> Mutex<T, RANK> {
    /// Around a value.
    pub const fn new(value: T) -> Self {
        Mutex(std::sync::Mutex::new(value))
    }

    /// Waits for it.
    pub fn lock(&self) -> MutexGuard<'_, T, RANK> {
        let held = Held::take();
        MutexGuard { guard: self.0.lock().unwrap_or_else(PoisonError::into_inner), held }
    }

    /// Takes it if nobody has it. In any order: who does not wait does not hang.
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T, RANK>> {
        let guard = match self.0.try_lock() {
            Ok(guard) => guard,
            Err(std::sync::TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(std::sync::TryLockError::WouldBlock) => return None,
        };
        Some(MutexGuard { guard, held: Held::took() })
    }

    /// The value.
    pub fn into_inner(self) -> T {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T, const RANK: u8> RwLock<T, RANK> {
    /// Around a value.
    pub const fn new(value: T) -> Self {
        RwLock(std::sync::RwLock::new(value))
    }

    /// Waits until nobody changes it.
    pub fn read(&self) -> RwLockReadGuard<'_, T, RANK> {
        let held = Held::take();
        RwLockReadGuard { guard: self.0.read().unwrap_or_else(PoisonError::into_inner), _held: held }
    }

    /// Waits until nobody has it.
    pub fn write(&self) -> RwLockWriteGuard<'_, T, RANK> {
        let held = Held::take();
        RwLockWriteGuard { guard: self.0.write().unwrap_or_else(PoisonError::into_inner), _held: held }
    }
}

impl Condvar {
    /// For no mutex yet.
    pub const fn new() -> Self {
        Condvar(std::sync::Condvar::new())
    }

    /// Wakes one who waits.
    pub fn notify_one(&self) {
        self.0.notify_one();
    }

    /// Wakes all who wait.
    pub fn notify_all(&self) {
        self.0.notify_all();
    }

    /// Waits to be woken; perhaps for nothing.
    pub fn wait<'a, T, const RANK: u8>(&self, held: MutexGuard<'a, T, RANK>) -> MutexGuard<'a, T, RANK> {
        let MutexGuard { guard, held } = held;
        MutexGuard { guard: self.0.wait(guard).unwrap_or_else(PoisonError::into_inner), held }
    }

    /// As [`Condvar::wait`], and not longer than this; whether the time was up.
    pub fn wait_timeout<'a, T, const RANK: u8>(
        &self,
        held: MutexGuard<'a, T, RANK>,
        patience: Duration,
    ) -> (MutexGuard<'a, T, RANK>, bool) {
        let MutexGuard { guard, held } = held;
        let (guard, woken) = self.0.wait_timeout(guard, patience).unwrap_or_else(PoisonError::into_inner);
        (MutexGuard { guard, held }, woken.timed_out())
    }

    /// Waits for as long as the condition holds.
    pub fn wait_while<'a, T, const RANK: u8>(
        &self,
        held: MutexGuard<'a, T, RANK>,
        condition: impl FnMut(&mut T) -> bool,
    ) -> MutexGuard<'a, T, RANK> {
        let MutexGuard { guard, held } = held;
        MutexGuard { guard: self.0.wait_while(guard, condition).unwrap_or_else(PoisonError::into_inner), held }
    }

    /// As [`Condvar::wait_while`], and not longer than this; whether the time was up.
    pub fn wait_timeout_while<'a, T, const RANK: u8>(
        &self,
        held: MutexGuard<'a, T, RANK>,
        patience: Duration,
        condition: impl FnMut(&mut T) -> bool,
    ) -> (MutexGuard<'a, T, RANK>, bool) {
        let MutexGuard { guard, held } = held;
        let waited = self.0.wait_timeout_while(guard, patience, condition);
        let (guard, woken) = waited.unwrap_or_else(PoisonError::into_inner);
        (MutexGuard { guard, held }, woken.timed_out())
    }
}

impl<T, const RANK: u8> Deref for MutexGuard<'_, T, RANK> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.guard
    }
}

impl<T, const RANK: u8> DerefMut for MutexGuard<'_, T, RANK> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.guard
    }
}

impl<T, const RANK: u8> Deref for RwLockReadGuard<'_, T, RANK> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.guard
    }
}

impl<T, const RANK: u8> Deref for RwLockWriteGuard<'_, T, RANK> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.guard
    }
}

impl<T, const RANK: u8> DerefMut for RwLockWriteGuard<'_, T, RANK> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.guard
    }
}

/// That this thread has a lock of that rank, or is about to.
#[derive(Debug)]
struct Held<const RANK: u8>;

#[cfg(debug_assertions)]
mod order {
    use super::{Held, rank};
    use std::cell::RefCell;

    thread_local! {
        static HELD: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }

    impl<const RANK: u8> Held<RANK> {
        /// Before it is waited for.
        pub fn take() -> Self {
            if RANK != rank::NONE {
                // A thread that ends has no list any more, and takes what it takes.
                let most = HELD.try_with(|held| held.borrow().iter().max().copied()).ok().flatten();
                if let Some(most) = most.filter(|most| *most >= RANK && !std::thread::panicking()) {
                    panic!("a lock of rank {RANK} is waited for while one of rank {most} is held");
                }
            }
            Held::took()
        }

        /// It is there.
        pub fn took() -> Self {
            if RANK != rank::NONE {
                let _ = HELD.try_with(|held| held.borrow_mut().push(RANK));
            }
            Held
        }
    }

    impl<const RANK: u8> Drop for Held<RANK> {
        fn drop(&mut self) {
            if RANK != rank::NONE {
                let _ = HELD.try_with(|held| {
                    let mut held = held.borrow_mut();
                    if let Some(at) = held.iter().rposition(|rank| *rank == RANK) {
                        held.remove(at);
                    }
                });
            }
        }
    }
}

#[cfg(not(debug_assertions))]
impl<const RANK: u8> Held<RANK> {
    fn take() -> Self {
        Held
    }

    fn took() -> Self {
        Held
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    type Outer = Mutex<u32, { rank::WRITER }>;
    type Inner = Mutex<u32, { rank::STATE }>;

    fn panics(f: impl FnOnce() + Send) -> bool {
        std::thread::scope(|threads| threads.spawn(f).join().is_err())
    }

    #[test]
    fn the_order_holds_and_the_other_way_round_is_found() {
        let (outer, inner) = (Outer::default(), Inner::default());
        assert!(!panics(|| {
            let _outer = outer.lock();
            drop(inner.lock());
            drop(inner.lock());
        }));
        assert!(panics(|| {
            let _inner = inner.lock();
            let _outer = outer.lock();
        }));
        let another = Inner::default();
        assert!(panics(|| {
            let _twice = (inner.lock(), another.lock());
        }));
        // Looking twice hangs if somebody waits to change it in between.
        let looked: RwLock<u32, { rank::STATE }> = RwLock::default();
        assert!(panics(|| {
            let _twice = (looked.read(), looked.read());
        }));
    }

    #[test]
    fn what_is_given_back_or_not_waited_for_or_of_no_rank_is_in_no_ones_way() {
        let (outer, inner, any) = (Outer::default(), Inner::default(), Mutex::<u32>::default());
        assert!(!panics(|| {
            drop(inner.lock());
            let first = outer.lock();
            let _second = inner.lock();
            let _any = any.lock();
            // Not in the order of their taking.
            drop(first);
            assert!(outer.try_lock().is_some());
        }));
    }

    #[test]
    fn a_panic_under_a_lock_leaves_it_to_be_had_and_a_wait_keeps_its_rank() {
        let outer = Arc::new((Outer::default(), Condvar::new()));
        let theirs = Arc::clone(&outer);
        assert!(panics(move || {
            let _held = theirs.0.lock();
            panic!("with it");
        }));
        let (held, timed_out) = outer.1.wait_timeout(outer.0.lock(), Duration::from_millis(1));
        assert!(timed_out);
        let before = Mutex::<u32, { rank::BOARD }>::default();
        let waited_for = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(before.lock())));
        assert!(waited_for.is_err(), "it is held again after the wait");
        drop(held);
        drop(before.lock());
        let woken = outer.1.wait_timeout_while(outer.0.lock(), Duration::from_secs(5), |n| *n > 0);
        assert!(!woken.1);
    }
}

//! Requests that wait for their turn: for the disk, or because they came too fast. None of them holds a thread that answers others.
//!
//! Owns the queue and the one thread that works it off: whoever has waited is served in turn with all who wait, one request at
//! a time for each payer. How many may be under way elsewhere, and how many may wait, the [`meter`](crate::meter) says.

use crate::meter::{Charge, Meter, Payer, Resource};
use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What is done when the turn has come: `true` to do it, `false` to say that there is no room to wait.
pub(super) type Job = Box<dyn FnOnce(bool) + Send>;

/// Whether a request may be told that there is no room to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusable {
    /// It may.
    Yes,
    /// Nobody would hear it, or what was written would be lost: it waits beyond every bound. There is one for each handle at most.
    No,
}

struct Waiting {
    job: Job,
    _charge: Option<Charge>,
}

#[derive(Default)]
struct Queue {
    /// Those whose time has come, by payer; who was served goes to the end.
    ready: VecDeque<(Payer, VecDeque<Waiting>)>,
    /// Those whose time has not; the second number keeps those of one moment apart.
    later: BTreeMap<(Instant, u64), (Payer, Waiting)>,
    count: u64,
    stop: bool,
}

/// The queue and its thread.
pub(super) struct Turns {
    meter: Arc<Meter>,
    /// Innermost but for the meter's: nothing is called while it is held.
    queue: Mutex<Queue>,
    changed: Condvar,
}

impl Turns {
    /// Starts the thread; `enter` is the first that it does.
    pub fn start(meter: &Arc<Meter>, enter: fn()) -> std::io::Result<Arc<Self>> {
        let turns = Arc::new(Turns { meter: Arc::clone(meter), queue: Mutex::default(), changed: Condvar::new() });
        let own = Arc::clone(&turns);
        std::thread::Builder::new().name("turns".into()).spawn(move || {
            enter();
            own.run();
        })?;
        Ok(turns)
    }

    /// Does a change now, on this thread, if its payer has fewer under way than he may and need not wait; otherwise in its turn.
    pub fn change(&self, payer: Payer, delay: Duration, refusable: Refusable, job: impl FnOnce(bool) + Send + 'static) {
        if delay.is_zero()
            && let Ok(_under_way) = self.meter.charge(Resource::Commits, payer, 1)
        {
            return job(true);
        }
        self.later(payer, delay, refusable, Box::new(job));
    }

    /// Does it after that delay, in its turn.
    pub fn later(&self, payer: Payer, delay: Duration, refusable: Refusable, job: Job) {
        let charge = match (self.meter.charge(Resource::Delayed, payer, 1), refusable) {
            (Ok(charge), _) => Some(charge),
            (Err(_), Refusable::No) => None,
            (Err(_), Refusable::Yes) => return job(false),
        };
        let waiting = Waiting { job, _charge: charge };
        let mut queue = self.queue();
        if queue.stop {
            drop(queue);
            return (waiting.job)(true);
        }
        match delay.is_zero() {
            true => queue.add(payer, waiting),
            false => {
                queue.count += 1;
                let at = (Instant::now() + delay, queue.count);
                queue.later.insert(at, (payer, waiting));
            }
        }
        drop(queue);
        self.changed.notify_one();
    }

    /// Does at once what waits, and what comes from now on; then the thread ends.
    pub fn hurry(&self) {
        self.queue().stop = true;
        self.changed.notify_one();
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        let mut queue = self.queue();
        loop {
            queue.come(Instant::now());
            if let Some(waiting) = queue.next() {
                drop(queue);
                // A handler that fails inside has answered, or its reply was dropped.
                let _ = catch_unwind(AssertUnwindSafe(|| (waiting.job)(true)));
                drop(waiting._charge);
                queue = self.queue();
                continue;
            }
            if queue.stop {
                return;
            }
            queue = match queue.later.keys().next() {
                None => self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner),
                Some((at, _)) => {
                    let patience = at.saturating_duration_since(Instant::now());
                    self.changed.wait_timeout(queue, patience).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }
}

impl Queue {
    fn add(&mut self, payer: Payer, waiting: Waiting) {
        match self.ready.iter_mut().find(|(of, _)| *of == payer) {
            Some((_, own)) => own.push_back(waiting),
            None => self.ready.push_back((payer, VecDeque::from([waiting]))),
        }
    }

    /// Those whose time has come are ready.
    fn come(&mut self, now: Instant) {
        while let Some(first) = self.later.first_entry().filter(|first| self.stop || first.key().0 <= now) {
            let (payer, waiting) = first.remove();
            self.add(payer, waiting);
        }
    }

    /// The next one: who was served goes to the end.
    fn next(&mut self) -> Option<Waiting> {
        let (payer, mut own) = self.ready.pop_front()?;
        let next = own.pop_front();
        if !own.is_empty() {
            self.ready.push_back((payer, own));
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meter::Shares;
    use std::sync::mpsc::{Receiver, channel};

    const ONE: Payer = Payer::Uid(1);
    const TWO: Payer = Payer::Uid(2);
    const PATIENCE: Duration = Duration::from_secs(10);

    fn turns(commits: u64, delayed: u64) -> Arc<Turns> {
        let shares = Shares::default().with(Resource::Commits, commits).with(Resource::Delayed, delayed);
        Turns::start(&Meter::new(&shares, 1 << 20, 100), || {}).unwrap()
    }

    /// A thread whose change is under way until the sender is dropped.
    fn under_way(turns: &Arc<Turns>, payer: Payer) -> std::sync::mpsc::Sender<()> {
        let ((begun, begins), (end, ends)) = (channel(), channel::<()>());
        let own = Arc::clone(turns);
        std::thread::spawn(move || {
            own.change(payer, Duration::ZERO, Refusable::Yes, move |_| {
                begun.send(()).unwrap();
                let _ = ends.recv();
            });
        });
        begins.recv_timeout(PATIENCE).unwrap();
        end
    }

    fn told(told: &Receiver<(u32, bool)>) -> (u32, bool) {
        told.recv_timeout(PATIENCE).unwrap()
    }

    #[test]
    fn beyond_its_bound_a_payer_waits_without_a_thread_and_others_do_not() {
        let turns = turns(1, 10);
        let _first = under_way(&turns, ONE);
        let (tell, hear) = channel();
        // The thread of the queue is kept busy, so that what has to wait does.
        let (release, released) = channel::<()>();
        turns.later(ONE, Duration::ZERO, Refusable::Yes, Box::new(move |_| _ = released.recv()));
        let here = std::thread::current().id();
        let second = tell.clone();
        turns.change(ONE, Duration::ZERO, Refusable::Yes, move |go| {
            assert_ne!(std::thread::current().id(), here);
            second.send((1, go)).unwrap();
        });
        turns.change(TWO, Duration::ZERO, Refusable::Yes, move |go| {
            assert_eq!(std::thread::current().id(), here);
            tell.send((2, go)).unwrap();
        });
        assert_eq!(told(&hear), (2, true));
        drop(release);
        assert_eq!(told(&hear), (1, true));
    }

    #[test]
    fn who_waits_is_served_in_turn_and_no_more_than_its_bound_wait() {
        let turns = turns(1, 3);
        let (tell, hear) = channel();
        let (release, released) = channel::<()>();
        turns.later(Payer::Uid(9), Duration::ZERO, Refusable::Yes, Box::new(move |_| _ = released.recv()));
        let wait = |payer: Payer, number, refusable| {
            let tell = tell.clone();
            turns.later(payer, Duration::ZERO, refusable, Box::new(move |go| tell.send((number, go)).unwrap()));
        };
        (10..13).for_each(|number| wait(ONE, number, Refusable::Yes));
        wait(TWO, 20, Refusable::Yes);
        wait(ONE, 13, Refusable::Yes);
        assert_eq!(told(&hear), (13, false));
        wait(ONE, 14, Refusable::No);
        drop(release);
        let order: Vec<_> = (0..5).map(|_| told(&hear)).collect();
        assert_eq!(order, [(10, true), (20, true), (11, true), (12, true), (14, true)]);
    }

    #[test]
    fn a_delay_passes_and_a_hurry_ends_it() {
        let turns = turns(1, 10);
        let (tell, hear) = channel();
        let wait = |delay, number| {
            let tell = tell.clone();
            turns.later(ONE, delay, Refusable::Yes, Box::new(move |go| tell.send((number, go)).unwrap()));
        };
        wait(Duration::from_secs(3600), 1);
        wait(Duration::from_millis(1), 2);
        assert_eq!(told(&hear), (2, true));
        turns.hurry();
        assert_eq!(told(&hear), (1, true));
        wait(Duration::from_secs(3600), 3);
        assert_eq!(told(&hear), (3, true));
    }
}

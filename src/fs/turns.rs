//! Requests that change something, and those that came too fast: each waits for its turn, and none of them holds a thread that answers others.
//!
//! Owns the queue and the threads that work it off: whoever waits is served in turn with all who wait. How many each may have under way, and how many
//! may wait, the [`meter`](crate::meter) says.

use crate::lock::{Condvar, Mutex};
use crate::meter::{Charge, Meter, Payer, Resource};
use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
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

/// The most threads.
const MAX_THREADS: u64 = 64;

struct Waiting {
    job: Job,
    charge: Option<Charge>,
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

/// The queue and its threads.
pub(super) struct Turns {
    meter: Arc<Meter>,
    /// Innermost but for the meter's: nothing is called while it is held.
    queue: Mutex<Queue>,
    changed: Condvar,
}

impl Turns {
    /// Starts as many threads as changes may be under way; `enter` is the first that each does.
    pub fn start(meter: &Arc<Meter>, enter: fn()) -> std::io::Result<Arc<Self>> {
        let turns = Arc::new(Turns { meter: Arc::clone(meter), queue: Mutex::default(), changed: Condvar::new() });
        let threads = meter.bounds(Resource::Commits).all.clamp(1, MAX_THREADS);
        for _ in 0..threads {
            let own = Arc::clone(&turns);
            let begun = std::thread::Builder::new().name("turns".into()).spawn(move || {
                enter();
                own.run();
            });
            if let Err(error) = begun {
                turns.hurry();
                return Err(error);
            }
        }
        Ok(turns)
    }

    /// Does it after that delay, in its turn.
    pub fn later(&self, payer: Payer, delay: Duration, refusable: Refusable, job: Job) {
        let charge = match (self.meter.charge(Resource::Delayed, payer, 1), refusable) {
            (Ok(charge), _) => Some(charge),
            (Err(_), Refusable::No) => None,
            (Err(_), Refusable::Yes) => return job(false),
        };
        let waiting = Waiting { job, charge };
        let mut queue = self.queue.lock();
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

    /// Does at once what waits, and what comes from now on; then the threads end.
    pub fn hurry(&self) {
        self.queue.lock().stop = true;
        self.changed.notify_all();
    }

    fn run(&self) {
        let mut queue = self.queue.lock();
        loop {
            queue.come(Instant::now());
            if let Some((waiting, under_way)) = queue.next(&self.meter) {
                // Whoever has a turn takes the place of one who waits.
                let Waiting { job, charge } = waiting;
                drop((queue, charge));
                // A handler that fails inside has answered, or its reply was dropped.
                let _ = catch_unwind(AssertUnwindSafe(|| job(true)));
                drop(under_way);
                queue = self.queue.lock();
                // Another of the same payer may go on now.
                if !queue.ready.is_empty() {
                    self.changed.notify_one();
                }
                continue;
            }
            if queue.stop && queue.ready.is_empty() {
                return;
            }
            queue = match queue.later.keys().next() {
                None => self.changed.wait(queue),
                Some((at, _)) => {
                    let patience = at.saturating_duration_since(Instant::now());
                    self.changed.wait_timeout(queue, patience).0
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

    /// The next one whose payer may have another under way: who was served goes to the end.
    fn next(&mut self, meter: &Arc<Meter>) -> Option<(Waiting, Option<Charge>)> {
        for at in 0..self.ready.len() {
            let (payer, _) = self.ready.get(at)?;
            let under_way = meter.charge(Resource::Commits, *payer, 1).ok();
            if under_way.is_none() && !self.stop {
                continue;
            }
            let (payer, mut own) = self.ready.remove(at)?;
            let next = own.pop_front()?;
            if !own.is_empty() {
                self.ready.push_back((payer, own));
            }
            return Some((next, under_way));
        }
        None
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

    /// A change that is under way until the sender is dropped.
    fn under_way(turns: &Arc<Turns>, payer: Payer) -> std::sync::mpsc::Sender<()> {
        let ((begun, begins), (end, ends)) = (channel(), channel::<()>());
        let job = move |_| {
            begun.send(()).unwrap();
            let _ = ends.recv();
        };
        turns.later(payer, Duration::ZERO, Refusable::Yes, Box::new(job));
        begins.recv_timeout(PATIENCE).unwrap();
        end
    }

    fn told(told: &Receiver<(u32, bool)>) -> (u32, bool) {
        told.recv_timeout(PATIENCE).unwrap()
    }

    #[test]
    fn beyond_its_bound_a_payer_waits_and_others_do_not_and_nobody_on_the_thread_that_asks() {
        let turns = turns(1, 10);
        let first = under_way(&turns, ONE);
        let (tell, hear) = channel();
        let here = std::thread::current().id();
        let wait = |payer, number| {
            let tell = tell.clone();
            let job = move |go| {
                assert_ne!(std::thread::current().id(), here);
                tell.send((number, go)).unwrap();
            };
            turns.later(payer, Duration::ZERO, Refusable::Yes, Box::new(job));
        };
        wait(ONE, 1);
        wait(TWO, 2);
        assert_eq!(told(&hear), (2, true));
        drop(first);
        assert_eq!(told(&hear), (1, true));
    }

    #[test]
    fn as_many_are_under_way_at_once_as_may_be() {
        let turns = turns(2, 10);
        let (_one, _two, _other) = (under_way(&turns, ONE), under_way(&turns, ONE), under_way(&turns, TWO));
        let used = turns.meter.usage(|_| (0, 0));
        let commits = used.iter().find(|usage| usage.resource == Resource::Commits).unwrap();
        assert_eq!((commits.used, commits.most), (3, 2));
    }

    #[test]
    fn who_waits_is_served_in_turn_and_no_more_than_its_bound_wait() {
        let turns = turns(1, 3);
        let (tell, hear) = channel();
        // Every thread has something to do, so that what has to wait does: those of one bound, and root's.
        let [one, _others @ ..] = [Payer::Uid(8), Payer::Uid(9), Payer::Uid(0)].map(|payer| under_way(&turns, payer));
        let wait = |payer: Payer, number, refusable| {
            let tell = tell.clone();
            turns.later(payer, Duration::ZERO, refusable, Box::new(move |go| tell.send((number, go)).unwrap()));
        };
        (10..13).for_each(|number| wait(ONE, number, Refusable::Yes));
        wait(TWO, 20, Refusable::Yes);
        wait(ONE, 13, Refusable::Yes);
        assert_eq!(told(&hear), (13, false));
        wait(ONE, 14, Refusable::No);
        // One thread has time for all of them: of two, one could be served first and tell of it last.
        drop(one);
        let order: Vec<_> = (0..5).map(|_| told(&hear)).collect();
        let of = |payer: u32| order.iter().map(|(number, _)| *number).filter(|n| n / 10 == payer).collect::<Vec<_>>();
        assert_eq!((of(1), of(2)), (vec![10, 11, 12, 14], vec![20]));
        assert!(
            order.iter().position(|(number, _)| *number == 20) < Some(3),
            "not behind all of the other's: {order:?}"
        );
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

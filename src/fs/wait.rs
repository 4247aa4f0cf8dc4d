//! Callers that wait for an unlock: bounded in number and in time, and none of them holds a thread.
//!
//! How many the [`meter`](crate::meter) says; the deadline is counted from when the store was locked, not from the call, so
//! that a machine without its key does not keep anybody for longer than it is told to.

use crate::lock::{Condvar, Mutex};
use crate::meter::{Charge, Meter, Payer, Resource};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What a waiter is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WaitEnd {
    /// The store is unlocked: try again.
    Unlocked,
    /// It was not unlocked in time, or there is no place to wait.
    GiveUp,
}

/// What is done when the waiting ends.
pub(super) type Job = Box<dyn FnOnce(WaitEnd) + Send>;

struct Waiter {
    _charge: Charge,
    deadline: Instant,
    job: Job,
}

#[derive(Default)]
struct Queue {
    waiters: VecDeque<Waiter>,
    unlocked: bool,
    stop: bool,
}

/// The queue and its thread.
pub(super) struct Waiting {
    meter: Arc<Meter>,
    /// Innermost: nothing is called while it is held.
    queue: Mutex<Queue>,
    changed: Condvar,
}

impl Waiting {
    /// Starts the thread.
    pub fn start(meter: &Arc<Meter>) -> std::io::Result<Arc<Self>> {
        let waiting = Arc::new(Self::new(meter));
        let own = Arc::clone(&waiting);
        std::thread::Builder::new().name("waiting".into()).spawn(move || own.run())?;
        Ok(waiting)
    }

    fn new(meter: &Arc<Meter>) -> Self {
        Waiting { meter: Arc::clone(meter), queue: Mutex::default(), changed: Condvar::new() }
    }

    /// Waits for the unlock or for `patience` after `since`; the job is done in either case, perhaps at once.
    pub fn park(&self, uid: u32, since: Instant, patience: Duration, job: Job) {
        let deadline = since + patience;
        let Ok(charge) = self.meter.charge(Resource::Waiters, Payer::Uid(uid), 1) else { return job(WaitEnd::GiveUp) };
        let mut queue = self.queue.lock();
        if deadline <= Instant::now() || queue.stop {
            drop((queue, charge));
            return job(WaitEnd::GiveUp);
        }
        queue.waiters.push_back(Waiter { _charge: charge, deadline, job });
        drop(queue);
        self.changed.notify_one();
    }

    /// The store was unlocked.
    pub fn unlocked(&self) {
        self.queue.lock().unlocked = true;
        self.changed.notify_one();
    }

    /// How many wait.
    pub fn count(&self) -> u64 {
        self.queue.lock().waiters.len() as u64
    }

    /// Gives everybody up and ends the thread.
    pub fn stop(&self) {
        self.queue.lock().stop = true;
        self.changed.notify_one();
    }

    fn run(&self) {
        let mut queue = self.queue.lock();
        loop {
            if queue.unlocked || queue.stop {
                let outcome = if queue.stop { WaitEnd::GiveUp } else { WaitEnd::Unlocked };
                queue.unlocked = false;
                let all = std::mem::take(&mut queue.waiters);
                let stop = queue.stop;
                drop(queue);
                all.into_iter().for_each(|w| (w.job)(outcome));
                if stop {
                    return;
                }
                queue = self.queue.lock();
                continue;
            }
            let now = Instant::now();
            if let Some(at) = queue.waiters.iter().position(|w| w.deadline <= now) {
                let late = queue.waiters.remove(at);
                drop(queue);
                if let Some(late) = late {
                    (late.job)(WaitEnd::GiveUp);
                }
                queue = self.queue.lock();
                continue;
            }
            queue = match queue.waiters.iter().map(|w| w.deadline).min() {
                None => self.changed.wait(queue),
                Some(next) => {
                    let patience = next.saturating_duration_since(now);
                    self.changed.wait_timeout(queue, patience).0
                }
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meter::Shares;
    use std::sync::mpsc;

    fn meter() -> Arc<Meter> {
        Meter::new(&Shares::default(), 1 << 20, 100)
    }

    #[test]
    fn waiters_are_told_of_the_unlock_in_order_and_the_late_give_up() {
        let waiting = Waiting::start(&meter()).unwrap();
        let (tell, told) = mpsc::channel();
        let park = |uid, patience| {
            let tell = tell.clone();
            waiting.park(uid, Instant::now(), patience, Box::new(move |o| tell.send((uid, o)).unwrap()));
        };
        park(1, Duration::from_millis(20));
        assert_eq!(told.recv_timeout(Duration::from_secs(5)).unwrap(), (1, WaitEnd::GiveUp));
        park(2, Duration::from_secs(60));
        park(3, Duration::from_secs(60));
        waiting.unlocked();
        assert_eq!(told.recv_timeout(Duration::from_secs(5)).unwrap(), (2, WaitEnd::Unlocked));
        assert_eq!(told.recv_timeout(Duration::from_secs(5)).unwrap(), (3, WaitEnd::Unlocked));
        waiting.stop();
    }

    #[test]
    fn one_user_has_sixteen_places_and_all_have_256() {
        let waiting = Waiting::new(&meter());
        let (tell, told) = mpsc::channel();
        let park = |uid| {
            let tell = tell.clone();
            waiting.park(uid, Instant::now(), Duration::from_secs(60), Box::new(move |o| tell.send(o).unwrap()));
        };
        (0..17).for_each(|_| park(7));
        assert_eq!(told.try_iter().collect::<Vec<_>>(), [WaitEnd::GiveUp]);
        (100..340).for_each(park);
        assert!(told.try_iter().next().is_none());
        park(9999);
        assert_eq!(told.try_iter().collect::<Vec<_>>(), [WaitEnd::GiveUp]);
    }
}

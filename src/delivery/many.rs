//! Many deliveries, some at once.
//!
//! Owns the counting. One that hangs keeps one thread, until its deadline.

use super::error::DeliveryError;
use super::{Cancel, Delivered, Job, Settings, deliver};
use crate::lock::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How far it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// How many there are in all.
    pub total: usize,
    /// How many were delivered.
    pub delivered: usize,
    /// How many were not.
    pub failed: usize,
}

/// What became of a job.
pub type DeliveryResult = Result<Delivered, DeliveryError>;

/// Tries each job once, `parallel` at a time (one at least); what became of each, in the jobs' order. `each` hears of every
/// one as it ends, with the counts after it, one call at a time.
pub fn deliver_all(
    jobs: &[Job],
    parallel: usize,
    settings: &Settings,
    cancel: &Cancel,
    each: &(dyn Fn(Counts, &Job, &DeliveryResult) + Sync),
) -> Vec<DeliveryResult> {
    let next = AtomicUsize::new(0);
    let counts: Mutex<Counts> = Mutex::new(Counts { total: jobs.len(), ..Counts::default() });
    let work = || {
        let mut done = Vec::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(job) = jobs.get(at) else { return done };
            let outcome = if cancel.is_told() { Err(DeliveryError::Cancelled) } else { deliver(job, settings, cancel) };
            let mut counts = counts.lock();
            match &outcome {
                Ok(_) => counts.delivered += 1,
                Err(_) => counts.failed += 1,
            }
            each(*counts, job, &outcome);
            drop(counts);
            done.push((at, outcome));
        }
    };
    let mut all: Vec<(usize, DeliveryResult)> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..parallel.clamp(1, jobs.len().max(1))).map(|_| scope.spawn(work)).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("a delivery does not panic")).collect()
    });
    all.sort_by_key(|(at, _)| *at);
    all.into_iter().map(|(_, outcome)| outcome).collect()
}

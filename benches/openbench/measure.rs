//! Measuring several targets so that they can be compared: interleaved, paired by round, with their spread.
//!
//! Every round visits every target in another order. Quantiles are over all samples of all rounds; a ratio is the median
//! of the rounds' ratios, so that what disturbs a round disturbs both sides of it.

use crate::Result;
use crate::guard::Interrupt;
use crate::worker::{Act, Done, Job, Worker};

/// A prime: the next file is never near the one before.
const STRIDE: usize = 7919;

/// What is visited, and how often.
pub struct Plan<'a> {
    pub act: Act,
    pub targets: &'a [(&'a str, String)],
    pub rounds: usize,
    pub samples: usize,
    pub warm: usize,
    pub threads: usize,
    pub size: usize,
    /// For paths with `{k}`: how many files each target has.
    pub many: &'a [usize],
    /// Whose act is another: an `Enrol` that has to be synced.
    pub synced: &'a [&'a str],
}

/// A target's samples.
pub struct Series {
    pub name: String,
    /// Nanoseconds, sorted.
    all: Vec<u32>,
    /// Median of each round, in µs.
    rounds: Vec<f64>,
    /// Operations a second of each round, over all threads.
    rates: Vec<f64>,
}

impl Series {
    /// Without a sample yet.
    pub fn new(name: &str) -> Self {
        Series { name: name.into(), all: vec![], rounds: vec![], rates: vec![] }
    }

    /// Takes a round in.
    pub fn add(&mut self, mut done: Done) {
        done.nanos.sort_unstable();
        self.rates.push(done.nanos.len() as f64 / (done.wall_nanos as f64 / 1e9));
        self.rounds.push(f64::from(done.nanos[done.nanos.len() / 2]) / 1000.0);
        self.all.extend(done.nanos);
        self.all.sort_unstable();
    }

    /// A quantile in µs.
    pub fn quantile(&self, q: f64) -> f64 {
        let at = ((self.all.len().saturating_sub(1)) as f64 * q).round() as usize;
        self.all.get(at).map_or(f64::NAN, |n| f64::from(*n) / 1000.0)
    }

    pub fn p50(&self) -> f64 {
        self.quantile(0.5)
    }

    /// The least and the greatest median of a round, in µs.
    pub fn spread(&self) -> (f64, f64) {
        let fold = |start: f64, pick: fn(f64, f64) -> f64| self.rounds.iter().copied().fold(start, pick);
        (fold(f64::INFINITY, f64::min), fold(0.0, f64::max))
    }

    /// Operations a second, the median of the rounds.
    pub fn rate(&self) -> f64 {
        median(self.rates.clone())
    }

    /// How many times as slow as `base`: the median of the rounds' ratios, the least and the greatest.
    pub fn ratio(&self, base: &Series) -> (f64, f64, f64) {
        let ratios: Vec<f64> = self.rounds.iter().zip(&base.rounds).map(|(a, b)| a / b).collect();
        let least = ratios.iter().copied().fold(f64::INFINITY, f64::min);
        let greatest = ratios.iter().copied().fold(0.0, f64::max);
        (median(ratios), least, greatest)
    }

    /// How many µs slower than `base`: the median of the rounds' differences.
    pub fn over(&self, base: &Series) -> f64 {
        median(self.rounds.iter().zip(&base.rounds).map(|(a, b)| a - b).collect())
    }
}

/// All series of a plan.
pub struct Results(pub Vec<Series>);

impl Results {
    /// The one of that name, if it was measured.
    pub fn get(&self, name: &str) -> Option<&Series> {
        self.0.iter().find(|s| s.name == name)
    }
}

/// Carries a plan out.
pub fn interleaved(plan: &Plan<'_>, worker: &mut Worker, interrupt: &Interrupt) -> Result<Results> {
    let mut series: Vec<Series> = plan.targets.iter().map(|(name, _)| Series::new(name)).collect();
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    for round in 0..plan.rounds {
        let mut order: Vec<usize> = (0..plan.targets.len()).collect();
        for i in (1..order.len()).rev() {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            order.swap(i, (random % (i as u64 + 1)) as usize);
        }
        for i in order {
            interrupt.check()?;
            let (name, path) = &plan.targets[i];
            let act = if plan.synced.contains(name) { Act::EnrolSynced } else { plan.act };
            let done = worker.run(&Job {
                act,
                path: path.clone(),
                threads: plan.threads,
                samples: plan.samples,
                warm: plan.warm,
                size: plan.size,
                first: round * plan.samples,
                many: plan.many.get(i).copied().unwrap_or(1),
                stride: STRIDE,
            })?;
            series[i].add(done);
        }
    }
    Ok(Results(series))
}

/// The middle of them.
pub fn median(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    of.get(of.len() / 2).copied().unwrap_or(f64::NAN)
}

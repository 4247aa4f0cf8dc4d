//! How many passwords one admin is shown within a minute.
//!
//! Owns the counting, and nothing of what is shown. A restart of the daemon begins anew.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

const MINUTE: Duration = Duration::from_secs(60);

/// The times of the last shows, by uid.
pub struct Bound {
    most: usize,
    /// No more uids than were shown one within the last minute.
    shown: HashMap<u32, VecDeque<Instant>>,
}

impl Bound {
    /// So many within any minute.
    pub fn new(most: u32) -> Self {
        Bound { most: most as usize, shown: HashMap::new() }
    }

    /// Counts one.
    ///
    /// # Errors
    /// How long until the next one, if there were too many: then it counts for nothing.
    pub fn take(&mut self, uid: u32, now: Instant) -> Result<(), Duration> {
        self.shown.retain(|_, times| {
            while times.front().is_some_and(|at| now.saturating_duration_since(*at) >= MINUTE) {
                times.pop_front();
            }
            !times.is_empty()
        });
        let times = self.shown.entry(uid).or_default();
        match times.front() {
            Some(first) if times.len() >= self.most => Err(MINUTE - now.saturating_duration_since(*first)),
            _ => {
                times.push_back(now);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_minute_has_more_than_the_bound() {
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let mut bound = Bound::new(3);
        for second in [0, 10, 59] {
            assert_eq!(bound.take(0, at(second)), Ok(()));
        }
        assert_eq!(bound.take(0, at(59)), Err(Duration::from_secs(1)));
        assert_eq!(bound.take(1000, at(59)), Ok(()), "another admin has his own");
        assert_eq!(bound.take(0, at(60)), Ok(()), "the first is a minute ago");
        assert_eq!(bound.take(0, at(61)), Err(Duration::from_secs(9)));
        assert_eq!(bound.take(0, at(1000)), Ok(()));
        assert_eq!(bound.shown.len(), 1, "who was shown nothing for a minute is forgotten");
    }
}

//! The time by which a secret's end is judged.
//!
//! It is the system's, and never behind what it was plus what has passed since, by the clock that nobody sets: whoever turns the
//! system's clock back, a forged answer of a time server say, brings nothing back that has ended.

use crate::lock::Mutex;
use crate::model::Timestamp;
use nix::time::{ClockId, clock_gettime};
use std::time::Duration;

/// How long the system's clock must have been ahead until it is believed: one that is ahead for a moment ends nothing for good.
const SETTLED: Duration = Duration::from_secs(600);
/// How far ahead it is no news: a clock that is slewed.
const SLEWED: Duration = Duration::from_secs(1);

/// A clock that no step of the system's takes back.
#[derive(Debug, Default)]
pub struct Clock(Mutex<Option<Known>>);

#[derive(Debug, Clone, Copy)]
struct Known {
    /// The real time at `since`.
    at: Timestamp,
    /// Since boot, suspends included.
    since: Duration,
    /// Since when the system's has been ahead of that.
    ahead: Option<Duration>,
}

impl Clock {
    /// The time now.
    pub fn now(&self) -> Timestamp {
        let real = Timestamp::now();
        // It is there on every kernel; without it, the system's is all there is.
        let Ok(boot) = clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from) else { return real };
        let mut known = self.0.lock();
        let known = known.get_or_insert(Known { at: real, since: boot, ahead: None });
        known.judge(real, boot)
    }
}

impl Known {
    fn judge(&mut self, real: Timestamp, boot: Duration) -> Timestamp {
        let least = later(self.at, boot.saturating_sub(self.since));
        if real <= later(least, SLEWED) {
            self.ahead = None;
        } else if boot.saturating_sub(*self.ahead.get_or_insert(boot)) >= SETTLED {
            *self = Known { at: real, since: boot, ahead: None };
        }
        real.max(least)
    }
}

fn later(at: Timestamp, by: Duration) -> Timestamp {
    let nanos = at.nanos + by.subsec_nanos();
    let secs = at.secs.saturating_add_unsigned(by.as_secs()).saturating_add(i64::from(nanos / 1_000_000_000));
    Timestamp { secs, nanos: nanos % 1_000_000_000 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: i64) -> Timestamp {
        Timestamp { secs, nanos: 0 }
    }

    const fn s(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[test]
    fn it_is_the_system_s_until_that_goes_back() {
        let mut known = Known { at: at(1_000), since: s(10), ahead: None };
        assert_eq!(known.judge(at(1_005), s(15)), at(1_005));
        assert_eq!(known.judge(at(5), s(20)), at(1_010), "set back");
        assert_eq!(known.judge(at(-5), s(3_610)), at(4_600), "and time passes all the same");
        assert_eq!(known.judge(at(4_601), s(3_611)), at(4_601), "set right");
    }

    #[test]
    fn a_clock_that_is_ahead_for_a_moment_is_forgotten_and_one_that_stays_so_is_believed() {
        let mut known = Known { at: at(0), since: s(0), ahead: None };
        assert_eq!(known.judge(at(9_000_000), s(10)), at(9_000_000), "meanwhile it is so late");
        assert_eq!(known.judge(at(500), s(500)), at(500));
        // From boot without a clock: the time server's first answer.
        assert_eq!(known.judge(at(9_000_000), s(1_000)), at(9_000_000));
        assert_eq!(known.judge(at(9_000_700), s(1_700)), at(9_000_700));
        assert_eq!(known.judge(at(20), s(1_800)), at(9_000_800), "it was believed by then");
    }

    #[test]
    fn parts_of_a_second_count() {
        let half = Timestamp { secs: 1, nanos: 600_000_000 };
        assert_eq!(later(half, Duration::from_millis(1_500)), Timestamp { secs: 3, nanos: 100_000_000 });
    }
}

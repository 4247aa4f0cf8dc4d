//! When a delivery that failed is tried again.

use std::time::Duration;

/// The first wait, and the longest.
const FIRST: Duration = Duration::from_secs(5);
const MOST: Duration = Duration::from_secs(3600);

/// How long to wait after so many tries in vain (one at least): 5 s, 10 s, 20 s … an hour.
pub fn backoff(tries: u32) -> Duration {
    FIRST.saturating_mul(1u32.checked_shl(tries.saturating_sub(1)).unwrap_or(u32::MAX)).min(MOST)
}

/// The same with a number of retries that is enough; without one there is always a next, since a host that was down for a
/// month is to catch up.
pub fn next_try(tries: u32, retries: Option<u32>) -> Option<Duration> {
    retries.is_none_or(|most| tries <= most).then(|| backoff(tries))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_an_hour() {
        let seconds: Vec<u64> = (0..=12).map(|tries| backoff(tries).as_secs()).collect();
        assert_eq!(seconds, [5, 5, 10, 20, 40, 80, 160, 320, 640, 1280, 2560, 3600, 3600]);
        assert_eq!((backoff(33), backoff(u32::MAX)), (MOST, MOST));
    }

    #[test]
    fn retries_are_counted() {
        assert_eq!(next_try(1, Some(0)), None);
        assert_eq!(next_try(1, Some(1)), Some(FIRST));
        assert_eq!(next_try(2, Some(1)), None);
        assert_eq!(next_try(1_000_000, None), Some(MOST));
    }
}

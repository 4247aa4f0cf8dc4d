//! When something is renewed, and when it is tried again. The clock is an argument.

use serde::{Deserialize, Serialize};

/// Of a certificate that lasts no longer than the configured time before its end, the last third counts.
const SHORT_LIVED: i64 = 3;
/// The first wait after a failure, and the longest, in seconds.
const WAIT: (i64, i64) = (3_600, 86_400);

/// Whether a certificate is to be renewed now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// Not before this second.
    Later(i64),
    /// It is time.
    Now,
    /// It is time, and the last try failed: not before this second.
    Waiting(i64),
}

/// How trying went so far. What is stored of it is this, as JSON, in version 1.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tried {
    /// Failures, one after the other.
    pub failures: u32,
    /// When it was tried last, in seconds since the epoch.
    pub last: i64,
    /// When it may be tried again, in seconds since the epoch.
    pub next: i64,
    /// Why it failed; `None` while an answer is waited for.
    pub reason: Option<String>,
    /// When the request was handed out that is waited for.
    pub asked: Option<i64>,
}

impl Tried {
    /// After one more failure at `now`.
    pub fn failed(mut self, now: i64, reason: &str) -> Self {
        self.failures = self.failures.saturating_add(1);
        self.last = now;
        self.next = now.saturating_add(retry_after(self.failures));
        self.reason = Some(reason.chars().filter(|c| !c.is_control()).take(500).collect());
        self
    }

    /// After the request was handed to somebody who answers later.
    pub fn handed_out(now: i64) -> Self {
        Tried { last: now, asked: Some(now), next: now.saturating_add(WAIT.1 * 7), ..Tried::default() }
    }
}

/// Whether it is time, at `now`. All are seconds, those of time since the epoch.
pub fn due(not_before: i64, not_after: i64, before: i64, tried: Option<&Tried>, now: i64) -> Due {
    let lifetime = not_after.saturating_sub(not_before).max(0);
    let from = if lifetime <= before { not_after - lifetime / SHORT_LIVED } else { not_after - before };
    match tried {
        _ if now < from => Due::Later(from),
        // A try that lies ahead was noted by a clock that was: it says nothing about when the next one is.
        Some(tried) if tried.last <= now && now < tried.next => Due::Waiting(tried.next),
        _ => Due::Now,
    }
}

/// Seconds from one failure to the next try: an hour, then twice as long each time, a day at most.
pub fn retry_after(failures: u32) -> i64 {
    let doubled = WAIT.0.checked_shl(failures.saturating_sub(1).min(10)).unwrap_or(WAIT.1);
    doubled.min(WAIT.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400;

    #[test]
    fn it_is_time_a_while_before_the_end_or_in_the_last_third() {
        assert_eq!(due(0, 90 * DAY, 30 * DAY, None, 60 * DAY - 1), Due::Later(60 * DAY));
        assert_eq!(due(0, 90 * DAY, 30 * DAY, None, 60 * DAY), Due::Now);
        assert_eq!(due(0, 6 * DAY, 30 * DAY, None, DAY), Due::Later(4 * DAY));
        assert_eq!(due(0, 6 * DAY, 30 * DAY, None, 4 * DAY), Due::Now);
        assert_eq!(due(0, DAY, 30 * DAY, None, 9 * DAY), Due::Now, "what has expired is renewed too");
        assert_eq!(due(10, 0, 30 * DAY, None, 0), Due::Now, "a certificate that makes no sense");
    }

    #[test]
    fn a_try_that_a_clock_ahead_noted_is_none() {
        let ahead = 4_000 * DAY;
        for tried in [Tried::default().failed(ahead, "no answer"), Tried::handed_out(ahead)] {
            assert_eq!(due(0, 1_000, 2 * DAY, Some(&tried), 700), Due::Now, "{tried:?}");
            assert_eq!(due(0, 1_000, 2 * DAY, Some(&tried), ahead), Due::Waiting(tried.next), "{tried:?}");
        }
    }

    #[test]
    fn a_failure_is_tried_again_ever_later_and_once_a_day_at_last() {
        let waits: Vec<i64> = (1..9).map(retry_after).collect();
        assert_eq!(waits, [3_600, 7_200, 14_400, 28_800, 57_600, DAY, DAY, DAY]);
        assert_eq!(retry_after(u32::MAX), DAY);
        let tried = Tried::default().failed(100, "no\nanswer").failed(200, "no answer");
        assert_eq!((tried.failures, tried.last, tried.next), (2, 200, 7_400));
        assert_eq!(tried.reason.as_deref(), Some("no answer"));
        assert_eq!(due(0, DAY, 2 * DAY, Some(&tried), 7_000), Due::Later(57_600));
        assert_eq!(due(0, 1_000, 2 * DAY, Some(&tried), 7_000), Due::Waiting(7_400));
        assert_eq!(due(0, 1_000, 2 * DAY, Some(&tried), 7_400), Due::Now);
    }

    #[test]
    fn who_answers_by_hand_is_asked_once_a_week() {
        let tried = Tried::handed_out(1_000);
        assert_eq!(due(0, 10, 2 * DAY, Some(&tried), 1_000 + DAY), Due::Waiting(1_000 + 7 * DAY));
    }
}

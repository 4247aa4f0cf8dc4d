//! A moment, and how it is written: RFC 3339 in UTC, as the audit log, the listings and the messages have it.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The last second that RFC 3339 can write.
const LAST_SECOND: u64 = 253_402_300_799;

/// A point in time, as a filesystem keeps it: seconds since the epoch, and nanoseconds below 10^9.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Timestamp {
    /// Seconds since 1970-01-01T00:00:00Z, negative before.
    pub secs: i64,
    /// Nanoseconds of that second.
    pub nanos: u32,
}

impl Timestamp {
    /// The clock.
    pub fn now() -> Self {
        SystemTime::now().into()
    }

    /// The beginning of a second since 1970.
    pub const fn of_secs(secs: i64) -> Self {
        Timestamp { secs, nanos: 0 }
    }

    /// What RFC 3339 in UTC says: `2030-01-02T03:04:05Z`, with a fraction or without; `None` if it is anything else, or
    /// before 1970.
    pub fn parse(text: &str) -> Option<Self> {
        humantime::parse_rfc3339(text).ok().map(Timestamp::from)
    }

    /// RFC 3339 in UTC, to the second; a time before 1970 shows as 1970, and one after 9999 as the end of that year.
    pub fn to_second(self) -> String {
        let secs = u64::try_from(self.secs).unwrap_or(0).min(LAST_SECOND);
        humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(secs)).to_string()
    }

    /// So much later; the end of time rather than beyond it.
    pub fn after(self, later: Duration) -> Self {
        let nanos = self.nanos + later.subsec_nanos();
        let secs = i64::try_from(later.as_secs()).unwrap_or(i64::MAX);
        let carried = i64::from(nanos / 1_000_000_000);
        Timestamp { secs: self.secs.saturating_add(secs).saturating_add(carried), nanos: nanos % 1_000_000_000 }
    }

    /// Milliseconds since 1970; 0 before that.
    pub fn millis(self) -> u64 {
        u64::try_from(self.secs).unwrap_or(0).saturating_mul(1000).saturating_add(u64::from(self.nanos / 1_000_000))
    }
}

impl From<SystemTime> for Timestamp {
    fn from(t: SystemTime) -> Self {
        match t.duration_since(UNIX_EPOCH) {
            Ok(d) => Timestamp { secs: i64::try_from(d.as_secs()).unwrap_or(i64::MAX), nanos: d.subsec_nanos() },
            Err(before) => {
                let d = before.duration();
                let whole = -i64::try_from(d.as_secs()).unwrap_or(i64::MAX);
                match d.subsec_nanos() {
                    0 => Timestamp { secs: whole, nanos: 0 },
                    n => Timestamp { secs: whole - 1, nanos: 1_000_000_000 - n },
                }
            }
        }
    }
}

impl From<Timestamp> for SystemTime {
    fn from(t: Timestamp) -> Self {
        let nanos = Duration::from_nanos(u64::from(t.nanos));
        let whole = Duration::from_secs(t.secs.unsigned_abs());
        let base = if t.secs >= 0 { UNIX_EPOCH.checked_add(whole) } else { UNIX_EPOCH.checked_sub(whole) };
        base.and_then(|b| b.checked_add(nanos)).unwrap_or(UNIX_EPOCH)
    }
}

/// RFC 3339 in UTC with microseconds; a time before 1970 shows as 1970.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_rfc3339_micros(SystemTime::from(*self).max(UNIX_EPOCH)).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_the_epoch_survive_the_round_trip() {
        for t in
            [Timestamp { secs: -5, nanos: 250 }, Timestamp { secs: 0, nanos: 0 }, Timestamp { secs: 1 << 33, nanos: 9 }]
        {
            assert_eq!(Timestamp::from(SystemTime::from(t)), t);
        }
    }

    #[test]
    fn what_is_written_is_read_and_nothing_else() {
        let t = Timestamp { secs: 1_893_553_445, nanos: 250_000 };
        assert_eq!(Timestamp::parse(&t.to_string()), Some(t));
        assert_eq!(t.to_second(), "2030-01-02T03:04:05Z");
        assert_eq!(Timestamp::parse(&t.to_second()), Some(Timestamp::of_secs(t.secs)));
        for bad in ["", "2030-01-02", "2030-01-02 03:04:05", "2030-01-02T03:04:05+01:00", "1969-12-31T23:59:59Z"] {
            assert_eq!(Timestamp::parse(bad), None, "{bad}");
        }
        assert_eq!(Timestamp::of_secs(-1).to_second(), "1970-01-01T00:00:00Z");
        assert_eq!(Timestamp::of_secs(i64::MAX).to_second(), "9999-12-31T23:59:59Z");
    }

    #[test]
    fn later_carries_and_ends_with_time() {
        let t = Timestamp { secs: 1, nanos: 999_999_999 };
        assert_eq!(t.after(Duration::from_nanos(2)), Timestamp { secs: 2, nanos: 1 });
        assert_eq!(Timestamp { secs: -5, nanos: 250 }.after(Duration::ZERO), Timestamp { secs: -5, nanos: 250 });
        assert_eq!(t.after(Duration::MAX).secs, i64::MAX);
    }
}

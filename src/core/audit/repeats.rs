//! Allowed opens that are made again and again: the first has a line of its own, those like it within a second are a sum.
//!
//! Pure data, given the time: how long a second is, the monotonic clock says; the wall clock is only shown. "Like it" means that the
//! line would be the same to the byte: secret, version, process, program, rule. Bounded: what finds no room here has a line of its own, so
//! that nothing is ever counted that no line stands for.

use super::line;
use super::queue::{Hashers, WINDOW};
use super::writer::Batch;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::time::{Instant, SystemTime};

/// Lines that are remembered at a time, in all and of one uid.
const LINES: usize = 16_384;
const LINES_PER_UID: usize = 4_096;
/// Bytes of those that were repeated, in all and of one uid.
const BYTES: usize = 8 << 20;
const BYTES_PER_UID: usize = 1 << 20;

/// See the module.
#[derive(Default)]
pub(super) struct Repeats {
    hashers: Hashers,
    windows: HashMap<u128, Window>,
    /// The windows by their end, which is the order in which they began.
    ends: VecDeque<(Instant, u128)>,
    /// Those that have something to sum up.
    due: BinaryHeap<Reverse<(Instant, u128)>>,
    uids: HashMap<u32, Share>,
    bytes: usize,
    /// Nothing is counted any more: each has its own line.
    off: bool,
}

/// What was recorded less than a second ago.
struct Window {
    uid: u32,
    ends: Instant,
    /// The line's body, once it was repeated.
    body: Box<[u8]>,
    repeats: u64,
    since: SystemTime,
}

#[derive(Default)]
struct Share {
    lines: usize,
    bytes: usize,
}

/// What is to be done about an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    /// It needs a line. When that is written: [`Repeats::begin`].
    New(u128),
    /// It is counted.
    Counted,
    /// It is counted, as the first: somebody must look at [`Repeats::due`] anew.
    CountedFirst,
}

impl Repeats {
    /// Whether such a line was written within the last second; then the event is counted. A sum whose second is over, and that is to be
    /// written before this event, goes into `out`.
    pub fn again(&mut self, uid: u32, body: &[u8], now: Instant, at: SystemTime, out: &mut Batch) -> Seen {
        let key = self.hashers.of(body);
        if self.windows.get(&key).is_some_and(|window| window.ends <= now) {
            self.end(key, out);
        }
        let Some(window) = self.windows.get_mut(&key) else { return Seen::New(key) };
        if window.repeats > 0 {
            window.repeats += 1;
            return Seen::Counted;
        }
        let share = self.uids.entry(uid).or_default();
        if self.off || self.bytes + body.len() > BYTES || share.bytes + body.len() > BYTES_PER_UID {
            return Seen::New(key);
        }
        self.bytes += body.len();
        share.bytes += body.len();
        (window.body, window.since, window.repeats) = (body.into(), at, 1);
        self.due.push(Reverse((window.ends, key)));
        Seen::CountedFirst
    }

    /// The line is in the file: those like it are counted from now on.
    pub fn begin(&mut self, uid: u32, key: u128, now: Instant) {
        while self.ends.front().is_some_and(|(ends, _)| *ends <= now) {
            let Some((ends, key)) = self.ends.pop_front() else { break };
            if self.windows.get(&key).is_some_and(|w| w.ends == ends && w.repeats == 0) {
                self.forget(key);
            }
        }
        let share = self.uids.entry(uid).or_default();
        let full = self.windows.len() >= LINES || share.lines >= LINES_PER_UID;
        // One that is there was begun by another thread at the same time.
        if self.off || full || self.windows.contains_key(&key) {
            return self.forget_idle(uid);
        }
        share.lines += 1;
        let window =
            Window { uid, ends: now + WINDOW, body: Box::default(), repeats: 0, since: SystemTime::UNIX_EPOCH };
        self.ends.push_back((window.ends, key));
        self.windows.insert(key, window);
    }

    /// When the next sum is to be written.
    pub fn due(&self) -> Option<Instant> {
        self.due.peek().map(|Reverse((due, _))| *due)
    }

    /// Moves the sums that are due into `out`. With `all`, those that are not due yet as well.
    pub fn drain(&mut self, now: Instant, all: bool, out: &mut Batch) {
        while self.due.peek().is_some_and(|Reverse((due, _))| all || *due <= now) {
            let Some(Reverse((due, key))) = self.due.pop() else { break };
            if self.windows.get(&key).is_some_and(|window| window.ends == due) {
                self.end(key, out);
            }
        }
    }

    fn end(&mut self, key: u128, out: &mut Batch) {
        let Some(window) = self.forget(key).filter(|window| window.repeats > 0) else { return };
        let mut body = window.body.into_vec();
        line::push_summed(&mut body, window.repeats, window.since);
        out.push(&body);
        out.unrecorded += window.repeats;
    }

    /// From now on each event has a line of its own.
    pub fn turn_off(&mut self) {
        self.off = true;
    }

    fn forget(&mut self, key: u128) -> Option<Window> {
        let window = self.windows.remove(&key)?;
        self.bytes -= window.body.len();
        if let Some(share) = self.uids.get_mut(&window.uid) {
            share.lines -= 1;
            share.bytes -= window.body.len();
        }
        self.forget_idle(window.uid);
        Some(window)
    }

    fn forget_idle(&mut self, uid: u32) {
        if self.uids.get(&uid).is_some_and(|share| share.lines == 0) {
            self.uids.remove(&uid);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    struct Bench {
        repeats: Repeats,
        now: Instant,
        /// What the wall clock says.
        wall: SystemTime,
        /// How many lines were written at once.
        lines: usize,
        /// Of how many events sums were written by who came after them.
        late: u64,
    }

    impl Bench {
        fn new() -> Self {
            let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
            Bench { repeats: Repeats::default(), now: Instant::now(), wall, lines: 0, late: 0 }
        }
        fn open(&mut self, uid: u32, body: &str) {
            let mut late = Batch::default();
            let seen = self.repeats.again(uid, body.as_bytes(), self.now, self.wall, &mut late);
            self.late += late.unrecorded;
            if let Seen::New(key) = seen {
                self.lines += 1;
                self.repeats.begin(uid, key, self.now);
            }
        }
        /// The sums: how many there are, and of how many events.
        fn sums(&mut self, all: bool) -> (usize, u64) {
            let mut out = Batch::default();
            self.repeats.drain(self.now, all, &mut out);
            (out.bodies().count(), out.unrecorded)
        }
    }

    #[test]
    fn the_first_of_each_second_has_a_line_and_the_others_are_a_sum() {
        let mut bench = Bench::new();
        for second in 1..4 {
            (0..1000).for_each(|_| bench.open(33, "\"op\":\"open\""));
            assert_eq!((bench.lines, bench.sums(false)), (second, (0, 0)));
            bench.now = bench.repeats.due().unwrap();
            assert_eq!(bench.sums(false), (1, 999));
            assert_eq!(bench.repeats.due(), None);
        }
        // Once a second is no repetition.
        for n in 4..8 {
            bench.now += WINDOW;
            bench.open(33, "\"op\":\"open\"");
            assert_eq!((bench.lines, bench.repeats.due()), (n, None));
        }
        // What differs in a byte is another.
        bench.open(33, "\"op\":\"Open\"");
        assert_eq!(bench.lines, 8);
    }

    #[test]
    fn who_comes_after_the_second_writes_the_sum_that_nobody_wrote_yet() {
        let mut bench = Bench::new();
        (0..10).for_each(|_| bench.open(33, "a"));
        bench.now += WINDOW;
        (0..10).for_each(|_| bench.open(33, "a"));
        assert_eq!((bench.lines, bench.late), (2, 9));
        assert_eq!(bench.sums(false), (0, 0), "the second is not over");
        bench.now += WINDOW;
        assert_eq!(bench.sums(false), (1, 9));
        assert_eq!((bench.repeats.due(), bench.repeats.bytes), (None, 0));
    }

    #[test]
    fn a_clock_that_jumps_neither_makes_a_second_longer_nor_shorter() {
        for jump in [-1_000_000_000, 1_000_000_000] {
            let mut bench = Bench::new();
            bench.open(33, "a");
            let seconds = Duration::from_secs(i64::unsigned_abs(jump));
            bench.wall = if jump < 0 { bench.wall - seconds } else { bench.wall + seconds };
            bench.now += WINDOW - Duration::from_nanos(1);
            bench.open(33, "a");
            assert_eq!((bench.lines, bench.sums(false)), (1, (0, 0)));
            bench.now += Duration::from_nanos(1);
            assert_eq!(bench.sums(false), (1, 1));
            bench.open(33, "a");
            assert_eq!(bench.lines, 2);
        }
    }

    #[test]
    fn the_table_is_bounded_each_uid_has_its_share_and_what_finds_no_room_has_a_line() {
        let mut bench = Bench::new();
        let mut opens = 0;
        for uid in 0..6 {
            for n in 0..5000 {
                bench.open(uid, &format!("{uid} {n}"));
                bench.open(uid, &format!("{uid} {n}"));
                opens += 2;
            }
        }
        assert_eq!(bench.repeats.windows.len(), LINES);
        assert!(bench.repeats.uids.values().all(|share| share.lines <= LINES_PER_UID));
        let (sums, events) = bench.sums(true);
        assert_eq!(sums, LINES);
        assert_eq!(bench.lines as u64 + events, opens);
        assert!(bench.repeats.windows.is_empty() && bench.repeats.uids.is_empty() && bench.repeats.bytes == 0);
    }

    #[test]
    fn long_lines_are_bounded_in_bytes_too() {
        let mut bench = Bench::new();
        let long = "x".repeat(64 << 10);
        for n in 0..40 {
            bench.open(33, &format!("{n}{long}"));
            bench.open(33, &format!("{n}{long}"));
        }
        assert!(bench.repeats.bytes <= BYTES_PER_UID);
        let (_, events) = bench.sums(true);
        assert_eq!(bench.lines as u64 + events, 80);
        assert_eq!(bench.repeats.bytes, 0);
    }

    #[test]
    fn when_it_is_turned_off_each_has_its_own_line() {
        let mut bench = Bench::new();
        (0..3).for_each(|_| bench.open(33, "a"));
        bench.repeats.turn_off();
        assert_eq!(bench.sums(true), (1, 2));
        (0..3).for_each(|_| bench.open(33, "a"));
        assert_eq!((bench.lines, bench.sums(true)), (4, (0, 0)));
    }
}

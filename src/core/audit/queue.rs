//! The refusals that wait to be written: bounded, summed up, fair to every uid.
//!
//! Pure data, given the time. The first refusal of its kind (uid, container, path, operation, reason, errno) is ready at
//! once; those like it within a second become one line that says how many. A uid has a share of the room, 1,000 kinds a second
//! as long as few others are refused: what it has over that is counted, and one line a second tells how many were not
//! listed, and of how many paths. No refusal is forgotten in the sum.

use super::event::Event;
use super::line::{self, own};
use super::writer::Batch;
use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{BuildHasher, Hash, RandomState};
use std::time::{Duration, Instant, SystemTime};

/// How long refusals of a kind are summed up.
pub(super) const WINDOW: Duration = Duration::from_secs(1);
/// Kinds of one uid that are kept apart at a time, while there is room.
const KINDS_PER_UID: usize = 1000;
/// Kinds that are kept apart at a time.
const KINDS: usize = 9000;
/// Uids whose overflow is counted apart; those beyond share one counter.
const UIDS: usize = 8192;
/// Bytes of text that are ready and not yet taken to be written, of one uid, and of all.
const READY_PER_UID: usize = 16 << 20;
const READY: usize = 64 << 20;
/// Bytes of text kept for sums, of one uid, and of all. What is beyond has its first line, and is then counted as unlisted.
const KEPT_PER_UID: usize = 4 << 20;
const KEPT: usize = 32 << 20;
/// Paths that are told apart among what one uid has unlisted, and all have.
const HIDDEN_PER_UID: usize = 16_384;
const HIDDEN: usize = 65_536;

/// See the module.
#[derive(Default)]
pub(super) struct Refusals {
    hashers: Hashers,
    kinds: HashMap<u128, Seen>,
    /// The kinds by the end of their window, which is the order in which they came.
    kinds_due: VecDeque<(Instant, u128)>,
    uids: HashMap<u32, Share>,
    unlisted_due: VecDeque<(Instant, Option<u32>)>,
    /// Of uids beyond [`UIDS`].
    others: Unlisted,
    ready: Batch,
    /// Bytes in `ready`; how often it was taken.
    ready_bytes: usize,
    taken: u64,
    /// Bytes kept for sums.
    kept: usize,
    /// Paths told apart among what is unlisted.
    hidden: usize,
    /// Whether something is ready.
    pub urgent: bool,
    /// How many were not listed one by one, since the start.
    beyond: u64,
}

/// How much of the room for refusals is used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Waiting {
    /// Kinds that are kept apart now.
    pub kinds: u64,
    /// Those of the uid that has most.
    pub most: u64,
    /// Refusals that were not listed one by one, since the start.
    pub beyond: u64,
}

/// A kind of refusal that was seen within the window.
struct Seen {
    uid: u32,
    /// Of the first that was repeated, for the sum; `None` if there was no room to keep it.
    body: Option<Box<[u8]>>,
    repeats: u64,
    since: SystemTime,
}

/// What a uid has of the room.
#[derive(Default)]
struct Share {
    kinds: usize,
    /// Bytes that are ready, as of the `taken` it was counted at.
    ready: (u64, usize),
    kept: usize,
    unlisted: Unlisted,
}

/// Refusals that are not listed one by one.
#[derive(Default)]
struct Unlisted {
    count: u64,
    since: Option<SystemTime>,
    /// Hashes of their paths.
    paths: HashSet<u128>,
    /// Whether there may be more paths than that.
    more: bool,
}

impl Refusals {
    /// Takes a refusal in. Never fails, never grows beyond its bounds.
    pub fn add(&mut self, event: &Event<'_>, now: Instant, at: SystemTime) {
        let uid = event.who.uid;
        let kind = self.kind(event);
        if let Some(seen) = self.kinds.get_mut(&kind) {
            seen.repeats += 1;
            if seen.repeats == 1 {
                seen.since = at;
                self.keep_body(kind, event);
            }
            return;
        }
        let room = room_per_uid(self.kinds.len());
        if self.uids.len() >= UIDS && !self.uids.contains_key(&uid) {
            return self.unlisted(None, event.path, now, at);
        }
        let share = self.uids.entry(uid).or_default();
        if share.ready.0 != self.taken {
            share.ready = (self.taken, 0);
        }
        if share.kinds >= room || share.ready.1 >= READY_PER_UID || self.ready_bytes >= READY {
            return self.unlisted(Some(uid), event.path, now, at);
        }
        let body = body_of(event);
        share.kinds += 1;
        share.ready.1 += body.len();
        self.ready_bytes += body.len();
        self.ready.push(&body);
        self.ready.unrecorded += 1;
        self.urgent = true;
        self.kinds.insert(kind, Seen { uid, body: None, repeats: 0, since: at });
        self.kinds_due.push_back((now + WINDOW, kind));
    }

    /// How much of the room is used.
    pub fn waiting(&self) -> Waiting {
        let most = self.uids.values().map(|share| share.kinds).max().unwrap_or(0);
        Waiting { kinds: self.kinds.len() as u64, most: most as u64, beyond: self.beyond }
    }

    /// When the next sum is to be written.
    pub fn due(&self) -> Option<Instant> {
        let fronts = [self.kinds_due.front().map(|k| k.0), self.unlisted_due.front().map(|u| u.0)];
        fronts.into_iter().flatten().min()
    }

    /// Moves what is ready or due into `out`. With `all`, what is not due yet as well.
    pub fn drain(&mut self, now: Instant, all: bool, out: &mut Batch) {
        out.refusals = true;
        out.append(&self.ready);
        self.ready.clear();
        self.ready_bytes = 0;
        self.taken += 1;
        self.urgent = false;
        while self.kinds_due.front().is_some_and(|(due, _)| all || *due <= now) {
            let Some((_, kind)) = self.kinds_due.pop_front() else { break };
            self.end_window(kind, now, all, out);
        }
        while self.unlisted_due.front().is_some_and(|(due, _)| all || *due <= now) {
            let Some((_, uid)) = self.unlisted_due.pop_front() else { break };
            let unlisted = match uid {
                Some(uid) => self.uids.get_mut(&uid).map(|share| std::mem::take(&mut share.unlisted)),
                None => Some(std::mem::take(&mut self.others)),
            };
            if let Some(unlisted) = unlisted {
                self.hidden -= unlisted.paths.len();
                push_unlisted(out, uid, &unlisted);
            }
            if let Some(uid) = uid {
                self.forget_idle(uid);
            }
        }
    }

    /// A kind that was repeated is summed up and watched on; one that was not is forgotten.
    fn end_window(&mut self, kind: u128, now: Instant, all: bool, out: &mut Batch) {
        let Some(seen) = self.kinds.get_mut(&kind) else { return };
        let (uid, repeats) = (seen.uid, std::mem::take(&mut seen.repeats));
        let share = self.uids.entry(uid).or_default();
        if let Some(body) = seen.body.take() {
            share.kept -= body.len();
            self.kept -= body.len();
            let mut body = body.into_vec();
            line::push_summed(&mut body, repeats, seen.since);
            out.push(&body);
            out.unrecorded += repeats;
        } else if repeats > 0 {
            // Its path has a line.
            share.unlisted.add(repeats, seen.since, &mut self.unlisted_due, Some(uid), now);
        }
        if repeats > 0 && !all {
            return self.kinds_due.push_back((now + WINDOW, kind));
        }
        share.kinds -= 1;
        self.kinds.remove(&kind);
        self.forget_idle(uid);
    }

    /// Keeps what the sum of a repeated kind is to say, if there is room.
    fn keep_body(&mut self, kind: u128, event: &Event<'_>) {
        let body = body_of(event);
        let (Some(seen), Some(share)) = (self.kinds.get_mut(&kind), self.uids.get_mut(&event.who.uid)) else { return };
        if share.kept + body.len() <= KEPT_PER_UID && self.kept + body.len() <= KEPT {
            share.kept += body.len();
            self.kept += body.len();
            seen.body = Some(body.into());
        }
    }

    fn forget_idle(&mut self, uid: u32) {
        if self.uids.get(&uid).is_some_and(|share| share.kinds == 0 && share.unlisted.count == 0) {
            self.uids.remove(&uid);
        }
    }

    fn unlisted(&mut self, uid: Option<u32>, path: &str, now: Instant, at: SystemTime) {
        self.beyond += 1;
        let path = self.hashers.of(path);
        let unlisted = match uid {
            Some(uid) => &mut self.uids.entry(uid).or_default().unlisted,
            None => &mut self.others,
        };
        if !unlisted.paths.contains(&path) {
            if unlisted.paths.len() < HIDDEN_PER_UID && self.hidden < HIDDEN {
                unlisted.paths.insert(path);
                self.hidden += 1;
            } else {
                unlisted.more = true;
            }
        }
        unlisted.add(1, at, &mut self.unlisted_due, uid, now);
    }

    fn kind(&self, event: &Event<'_>) -> u128 {
        let container = event.who.container.as_deref();
        self.hashers.of((event.who.uid, container, event.path, event.op, event.reason, event.errno))
    }
}

/// 128 bits under keys nobody outside knows: nobody can make two things count as one.
#[derive(Default)]
pub(super) struct Hashers([RandomState; 2]);

impl Hashers {
    pub fn of(&self, what: impl Hash) -> u128 {
        self.0.iter().fold(0, |sum, hasher| sum << 64 | u128::from(hasher.hash_one(&what)))
    }
}

impl Unlisted {
    fn add(
        &mut self,
        count: u64,
        since: SystemTime,
        due: &mut VecDeque<(Instant, Option<u32>)>,
        uid: Option<u32>,
        now: Instant,
    ) {
        if self.count == 0 {
            self.since = Some(since);
            due.push_back((now + WINDOW, uid));
        }
        self.count += count;
    }
}

fn body_of(event: &Event<'_>) -> Vec<u8> {
    let mut body = Vec::with_capacity(512);
    line::push_event(&mut body, event);
    body
}

/// How many kinds one uid may have when there are so many in all: the fuller, the fewer, and room for one each is kept.
fn room_per_uid(kinds: usize) -> usize {
    match kinds {
        n if n < KINDS / 2 => KINDS_PER_UID,
        n if n < KINDS * 3 / 4 => KINDS_PER_UID / 16,
        n if n < KINDS => 1,
        _ => 0,
    }
}

fn push_unlisted(out: &mut Batch, uid: Option<u32>, unlisted: &Unlisted) {
    let (count, Some(since)) = (unlisted.count, unlisted.since) else { return };
    let mut body = format!("\"op\":\"{}\"", own::UNLISTED).into_bytes();
    if let Some(uid) = uid {
        line::push_count(&mut body, "uid", uid.into());
    }
    line::push_text(&mut body, "decision", "denied", 16);
    let paths = unlisted.paths.len() as u64;
    let least = if unlisted.more { "at least " } else { "" };
    line::push_text(
        &mut body,
        "reason",
        &format!("{count} refusals not listed one by one, of {least}{paths} paths"),
        128,
    );
    line::push_count(&mut body, "paths", paths);
    line::push_summed(&mut body, count, since);
    out.push(&body);
    out.unrecorded += count;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::{Decision, Operation, Record};
    use crate::model::CallerInfo;

    struct Bench {
        refusals: Refusals,
        now: Instant,
    }

    impl Bench {
        fn new() -> Self {
            Bench { refusals: Refusals::default(), now: Instant::now() }
        }
        fn add(&mut self, uid: u32, path: &str) {
            let who = CallerInfo { uid, ..CallerInfo::default() };
            let event = Event {
                op: Operation::Open,
                path,
                version: None,
                who: &who,
                decision: Decision::Denied,
                reason: "no rule",
                errno: Some("EACCES"),
            };
            self.refusals.add(&event, self.now, SystemTime::UNIX_EPOCH);
        }
        fn drain(&mut self, all: bool) -> Vec<Record> {
            let mut out = Batch::default();
            self.refusals.drain(self.now, all, &mut out);
            let records: Vec<_> = out.bodies().map(record).collect();
            assert_eq!(out.unrecorded, sum(&records));
            records
        }
    }

    fn record(body: &[u8]) -> Record {
        let mut line = b"{\"time\":\"\",\"seq\":0,".to_vec();
        line.extend_from_slice(body);
        line.extend_from_slice(b",\"hash\":\"\"}");
        Record::parse(&line).unwrap()
    }

    fn sum(records: &[Record]) -> u64 {
        records.iter().map(|r| r.count.unwrap_or(1)).sum()
    }

    #[test]
    fn the_first_is_ready_at_once_and_repeats_are_summed_each_second() {
        let mut bench = Bench::new();
        bench.add(33, "a");
        assert!(bench.refusals.urgent);
        assert_eq!(bench.drain(false).len(), 1);
        for _ in 0..10 {
            bench.add(33, "a");
        }
        assert!(!bench.refusals.urgent);
        assert_eq!(bench.drain(false), []);
        bench.now = bench.refusals.due().unwrap();
        let summed = bench.drain(false);
        assert_eq!((summed.len(), summed[0].count, summed[0].uid), (1, Some(10), Some(33)));
        // Still watched for a second, then forgotten: the next is a first again.
        bench.now = bench.refusals.due().unwrap();
        assert_eq!(bench.drain(false), []);
        assert_eq!(bench.refusals.due(), None);
        bench.add(33, "a");
        assert_eq!(bench.drain(false)[0].count, None);
    }

    #[test]
    fn a_uid_that_asks_for_everything_takes_no_other_uids_place() {
        let mut bench = Bench::new();
        for i in 0..100_000 {
            bench.add(1000, &format!("guess/{i}"));
        }
        bench.add(33, "a");
        let records = bench.drain(true);
        assert!(records.len() <= KINDS_PER_UID + 2, "{}", records.len());
        assert_eq!(records.iter().filter(|r| r.uid == Some(33)).count(), 1);
        assert_eq!(sum(&records), 100_001);
        let unlisted = records.iter().find(|r| r.op == own::UNLISTED).unwrap();
        assert_eq!((unlisted.uid, unlisted.count), (Some(1000), Some(99_000)));
        assert_eq!(
            unlisted.reason.as_deref(),
            Some("99000 refusals not listed one by one, of at least 16384 paths"),
            "more than are told apart"
        );
    }

    #[test]
    fn a_thousand_uids_that_ask_for_everything_leave_room_for_one_more() {
        let mut bench = Bench::new();
        for uid in 100_000..101_000 {
            for i in 0..200 {
                bench.add(uid, &format!("guess/{i}"));
            }
        }
        bench.add(33, "a");
        let records = bench.drain(true);
        assert!(records.len() <= KINDS + 1001);
        assert!(records.iter().any(|r| r.uid == Some(33) && r.op == "open"));
        assert_eq!(sum(&records), 200_001);
    }

    #[test]
    fn more_uids_than_are_counted_are_in_the_sum_and_the_memory_is_given_back() {
        let mut bench = Bench::new();
        for uid in 0..20_000 {
            bench.add(uid, "a");
        }
        assert!(bench.refusals.uids.len() <= UIDS);
        let records = bench.drain(true);
        assert_eq!(sum(&records), 20_000);
        assert!(records.iter().any(|r| r.op == own::UNLISTED && r.uid.is_none()));
        assert!(bench.refusals.uids.is_empty() && bench.refusals.kinds.is_empty());
        assert_eq!(bench.refusals.due(), None);
    }

    #[test]
    fn a_thousand_paths_have_a_line_each_and_of_the_rest_it_is_said_how_many() {
        let mut bench = Bench::new();
        for i in 0..KINDS_PER_UID {
            bench.add(1000, &format!("decoy/{i}"));
        }
        for i in 0..250 {
            bench.add(1000, &format!("target/{}", i % 50));
        }
        let most = KINDS_PER_UID as u64;
        assert_eq!(bench.refusals.waiting(), Waiting { kinds: most, most, beyond: 250 });
        let records = bench.drain(true);
        let listed = records.iter().filter(|r| r.path.as_deref().is_some_and(|p| p.starts_with("decoy/"))).count();
        assert_eq!((listed, sum(&records)), (KINDS_PER_UID, KINDS_PER_UID as u64 + 250));
        let unlisted = records.iter().find(|r| r.op == own::UNLISTED).unwrap();
        assert_eq!(unlisted.reason.as_deref(), Some("250 refusals not listed one by one, of 50 paths"));
        // A second later there is room again.
        bench.now += WINDOW;
        bench.add(1000, "target/0");
        assert_eq!(bench.drain(true)[0].path.as_deref(), Some("target/0"));
        assert_eq!((bench.refusals.hidden, bench.refusals.kept, bench.refusals.ready_bytes), (0, 0, 0));
    }

    #[test]
    fn long_paths_take_nobodys_line_and_their_sums_are_bounded() {
        let mut bench = Bench::new();
        let long = |i: usize| format!("{i}{}", "\u{1}".repeat(4000));
        let mut all = 0;
        for round in 0..3 {
            for i in 0..500 {
                bench.add(1000, &long(i));
                all += 1;
            }
            let lines = bench.drain(false);
            assert_eq!(lines.len(), if round == 0 { 500 } else { 0 }, "each its own");
        }
        assert!(bench.refusals.kept <= KEPT_PER_UID);
        bench.add(1000, "target");
        let records = bench.drain(true);
        assert_eq!(sum(&records), all - 500 + 1);
        assert!(records.iter().any(|r| r.path.as_deref() == Some("target")));
        assert!(records.iter().any(|r| r.op == own::UNLISTED && r.count.is_some_and(|c| c > 0)));
        assert!(bench.refusals.uids.is_empty() && bench.refusals.kept == 0);
    }

    #[test]
    fn what_waits_to_be_written_is_bounded_in_bytes() {
        let mut bench = Bench::new();
        for i in 0..KINDS_PER_UID {
            bench.add(1000, &format!("{i}{}", "\u{1}".repeat(4000)));
        }
        assert!(bench.refusals.ready_bytes < READY_PER_UID + (32 << 10));
        assert_eq!(sum(&bench.drain(true)), KINDS_PER_UID as u64);
    }
}

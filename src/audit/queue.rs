//! The refusals that wait to be written: bounded, summed up, fair to every uid.
//!
//! Pure data, given the time. The first refusal of its kind (uid, container, path, operation, reason, errno) is ready at
//! once; those like it within a second become one line that says how many. A uid has a share of the room: what it has over
//! that is counted, and one line a second tells how many were not listed. No refusal is forgotten in the sum.

use super::event::Event;
use super::line::{self, own};
use super::writer::Batch;
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, Hash, RandomState};
use std::time::{Duration, Instant, SystemTime};

/// How long refusals of a kind are summed up.
pub(super) const WINDOW: Duration = Duration::from_secs(1);
/// Kinds that are kept apart at a time.
const KINDS: usize = 4096;
/// Uids whose overflow is counted apart; those beyond share one counter.
const UIDS: usize = 8192;
/// Bytes of text kept for a kind, on average over a uid's share.
const KIND_BYTES: usize = 4096;

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
    /// Whether something is ready.
    pub urgent: bool,
}

/// A kind of refusal that was seen within the window.
struct Seen {
    uid: u32,
    body: Box<[u8]>,
    repeats: u64,
    since: SystemTime,
}

/// What a uid has of the room.
#[derive(Default)]
struct Share {
    kinds: usize,
    bytes: usize,
    unlisted: Unlisted,
}

#[derive(Default)]
struct Unlisted {
    count: u64,
    since: Option<SystemTime>,
}

impl Refusals {
    /// Takes a refusal in. Never fails, never grows beyond its bounds.
    pub fn add(&mut self, event: &Event<'_>, now: Instant, at: SystemTime) {
        let uid = event.who.uid;
        let kind = self.kind(event);
        if let Some(seen) = self.kinds.get_mut(&kind) {
            if seen.repeats == 0 {
                seen.since = at;
            }
            seen.repeats += 1;
            return;
        }
        let room = room_per_uid(self.kinds.len());
        if self.uids.len() >= UIDS && !self.uids.contains_key(&uid) {
            return Self::unlisted(&mut self.others, &mut self.unlisted_due, None, now, at);
        }
        let share = self.uids.entry(uid).or_default();
        if share.kinds >= room || share.bytes >= room * KIND_BYTES {
            return Self::unlisted(&mut share.unlisted, &mut self.unlisted_due, Some(uid), now, at);
        }
        let mut body = Vec::with_capacity(512);
        line::push_event(&mut body, event);
        share.kinds += 1;
        share.bytes += body.len();
        self.ready.push(&body);
        self.ready.unrecorded += 1;
        self.urgent = true;
        self.kinds.insert(kind, Seen { uid, body: body.into(), repeats: 0, since: at });
        self.kinds_due.push_back((now + WINDOW, kind));
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
            if let Some(Unlisted { count, since: Some(since) }) = unlisted {
                push_unlisted(out, uid, count, since);
            }
            if let Some(uid) = uid {
                self.forget_idle(uid);
            }
        }
    }

    /// A kind that was repeated is summed up and watched on; one that was not is forgotten.
    fn end_window(&mut self, kind: u128, now: Instant, all: bool, out: &mut Batch) {
        let Some(seen) = self.kinds.get_mut(&kind) else { return };
        if seen.repeats > 0 {
            let mut body = seen.body.to_vec();
            line::push_summed(&mut body, seen.repeats, seen.since);
            out.push(&body);
            out.unrecorded += seen.repeats;
            seen.repeats = 0;
            if !all {
                return self.kinds_due.push_back((now + WINDOW, kind));
            }
        }
        let (uid, bytes) = (seen.uid, seen.body.len());
        self.kinds.remove(&kind);
        if let Some(share) = self.uids.get_mut(&uid) {
            share.kinds -= 1;
            share.bytes -= bytes;
        }
        self.forget_idle(uid);
    }

    fn forget_idle(&mut self, uid: u32) {
        if self.uids.get(&uid).is_some_and(|share| share.kinds == 0 && share.unlisted.count == 0) {
            self.uids.remove(&uid);
        }
    }

    fn unlisted(
        unlisted: &mut Unlisted,
        due: &mut VecDeque<(Instant, Option<u32>)>,
        uid: Option<u32>,
        now: Instant,
        at: SystemTime,
    ) {
        if unlisted.count == 0 {
            unlisted.since = Some(at);
            due.push_back((now + WINDOW, uid));
        }
        unlisted.count += 1;
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

/// How many kinds one uid may have when there are so many in all: the fuller, the fewer, and room for one each is kept.
fn room_per_uid(kinds: usize) -> usize {
    match kinds {
        n if n < KINDS / 2 => 64,
        n if n < KINDS * 3 / 4 => 8,
        n if n < KINDS => 1,
        _ => 0,
    }
}

fn push_unlisted(out: &mut Batch, uid: Option<u32>, count: u64, since: SystemTime) {
    let mut body = format!("\"op\":\"{}\"", own::UNLISTED).into_bytes();
    if let Some(uid) = uid {
        line::push_count(&mut body, "uid", uid.into());
    }
    line::push_text(&mut body, "decision", "denied", 16);
    line::push_text(&mut body, "reason", &format!("{count} refusals not listed one by one"), 64);
    line::push_summed(&mut body, count, since);
    out.push(&body);
    out.unrecorded += count;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::{Decision, Operation, Record};
    use crate::model::Who;

    struct Bench {
        refusals: Refusals,
        now: Instant,
    }

    impl Bench {
        fn new() -> Self {
            Bench { refusals: Refusals::default(), now: Instant::now() }
        }
        fn add(&mut self, uid: u32, path: &str) {
            let who = Who { uid, ..Who::default() };
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
        assert!(records.len() < 100);
        assert_eq!(records.iter().filter(|r| r.uid == Some(33)).count(), 1);
        assert_eq!(sum(&records), 100_001);
        let unlisted = records.iter().find(|r| r.op == own::UNLISTED).unwrap();
        assert_eq!((unlisted.uid, unlisted.count), (Some(1000), Some(100_000 - 64)));
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
    fn long_paths_fill_a_share_sooner() {
        let mut bench = Bench::new();
        for i in 0..64 {
            bench.add(1000, &format!("{i}{}", "\u{1}".repeat(4000)));
        }
        let bytes: usize = bench.refusals.kinds.values().map(|s| s.body.len()).sum();
        assert!(bytes < 64 * KIND_BYTES + 6 * 4096);
        assert_eq!(sum(&bench.drain(true)), 64);
    }
}

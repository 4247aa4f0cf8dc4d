//! The log as a whole: written, damaged, read again.

use super::*;
use crate::model::Who;
use crate::wire::LogProblemKind::{self as ProblemKind, *};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;

pub(super) fn settings(dir: &Path) -> Settings {
    Settings { path: dir.join("audit.log"), max_size: 1 << 30, when_full: WhenFull::Refuse, space: None }
}

pub(super) fn open(dir: &TempDir) -> Arc<Log> {
    Log::open(settings(dir.path()), None).unwrap()
}

pub(super) fn event<'a>(who: &'a Who, path: &'a str, decision: Decision) -> Event<'a> {
    Event { op: Operation::Open, path, version: Some(1), who, decision, reason: "owner", errno: None }
}

pub(super) fn allow(log: &Log, path: &str) -> Result<(), AuditError> {
    log.allowed(&event(&Who { uid: 33, ..Who::default() }, path, Decision::Allowed))
}

fn refuse(log: &Log, uid: u32, path: &str) {
    let who = Who { uid, ..Who::default() };
    log.refused(Event { errno: Some("EACCES"), ..event(&who, path, Decision::Denied) });
}

/// A closed log of a header and `n` events, and its lines.
fn written(n: usize) -> (TempDir, Anchor, Vec<Vec<u8>>) {
    let dir = TempDir::new().unwrap();
    let log = open(&dir);
    for i in 0..n {
        allow(&log, &format!("svc/{i}")).unwrap();
    }
    log.shutdown();
    let lines = lines(&dir.path().join("audit.log"));
    (dir, log.synced(), lines)
}

fn lines(file: &Path) -> Vec<Vec<u8>> {
    fs::read(file).unwrap().split_inclusive(|b| *b == b'\n').map(<[u8]>::to_vec).collect()
}

pub(super) fn records(file: &Path) -> Vec<Record> {
    lines(file).iter().map(|line| Record::parse(line).unwrap()).collect()
}

pub(super) fn problems(dir: &TempDir, anchor: Option<Anchor>) -> Vec<(u64, ProblemKind)> {
    let report = verify(&dir.path().join("audit.log"), anchor).unwrap();
    report.problems.into_iter().map(|p| (p.line, p.kind)).collect()
}

/// What verify says when the lines are changed so.
fn after(change: impl FnOnce(&mut Vec<Vec<u8>>)) -> Vec<(u64, ProblemKind)> {
    let (dir, anchor, mut lines) = written(9);
    assert_eq!(problems(&dir, Some(anchor)), [], "the untouched log is whole");
    change(&mut lines);
    fs::write(dir.path().join("audit.log"), lines.concat()).unwrap();
    problems(&dir, Some(anchor))
}

/// Allows so many events from each of eight threads, and does something `beside` them.
pub(super) fn from_eight_threads(
    log: &Log,
    events: usize,
    path: impl Fn(usize, usize) -> String + Sync,
    beside: impl FnOnce(),
) {
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let path = &path;
            scope.spawn(move || (0..events).for_each(|i| allow(log, &path(thread, i)).unwrap()));
        }
        beside();
    });
}

pub(super) fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::yield_now();
    }
}

#[test]
fn a_log_is_private_whole_and_goes_on_after_a_restart() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("deep/er/audit.log");
    let settings = Settings { path: path.clone(), ..settings(dir.path()) };
    let first = {
        let log = Log::open(settings.clone(), None).unwrap();
        allow(&log, "a").unwrap();
        assert_eq!(log.head().count, 2);
        log.head()
    };
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let log = Log::open(settings, Some(first)).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
    assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().mode() & 0o7777, 0o700);
    assert_eq!(log.head(), first);
    allow(&log, "b").unwrap();
    let report = verify(&path, Some(log.head())).unwrap();
    assert_eq!((report.lines, report.problems, report.notes), (3, vec![], vec![]));
    assert_eq!((report.first.unwrap().seq, report.last.unwrap().seq), (1, 3));
    let ops: Vec<_> = records(&path).into_iter().map(|r| r.op).collect();
    assert_eq!(ops, ["audit_begin", "open", "open"]);
}

#[test]
fn every_change_to_a_line_is_found_at_its_place() {
    assert_eq!(after(|lines| drop(lines.remove(4))), [(5, Removed { from: 5, to: 5 })]);
    assert_eq!(after(|lines| drop(lines.drain(3..6))), [(4, Removed { from: 4, to: 6 })]);
    assert_eq!(after(|lines| lines.swap(4, 5)), [(6, Reordered { seq: 5 })]);
    assert_eq!(after(|lines| lines.insert(5, lines[4].clone())), [(6, Repeated { seq: 5 })]);
    let change = |line: &mut Vec<u8>, from: &str, to: &str| {
        let text = String::from_utf8(line.clone()).unwrap();
        assert!(text.contains(from));
        *line = text.replace(from, to).into_bytes();
    };
    assert_eq!(after(|lines| change(&mut lines[4], "svc/3", "svc/4")), [(5, Altered { seq: 5 })]);
    assert_eq!(after(|lines| change(&mut lines[4], "\"uid\":33", "\"uid\":34")), [(5, Altered { seq: 5 })]);
    assert_eq!(after(|lines| change(&mut lines[4], "\"seq\":5", "\"seq\":9")), [(5, Altered { seq: 5 })]);
    assert_eq!(
        after(|lines| change(&mut lines[4], "\"op\"", "\"Op\"")),
        [(5, NotALine { bytes: lines_len(5) }), (6, Removed { from: 5, to: 5 })]
    );
    assert_eq!(after(|lines| lines.insert(4, b"hello\n".to_vec())), [(5, NotALine { bytes: 5 })]);
}

/// Bytes of line `n` of [`written`], without its newline.
fn lines_len(n: usize) -> u64 {
    written(9).2[n - 1].len() as u64 - 1
}

#[test]
fn each_single_bit_is_covered() {
    let (dir, anchor, lines) = written(2);
    let whole = lines.concat();
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        fs::write(dir.path().join("audit.log"), &bytes).unwrap();
        let report = verify(&dir.path().join("audit.log"), Some(anchor));
        assert!(report.is_err() || !report.unwrap().is_whole(), "byte {at}");
    }
}

#[test]
fn a_line_altered_together_with_its_hash_shows_in_the_next_and_a_new_chain_in_the_anchor() {
    let (dir, anchor, mut lines) = written(4);
    let mut head = line::Parts::of(lines[1].trim_ascii_end()).unwrap().hash;
    for n in 2..lines.len() {
        let text = String::from_utf8(lines[n].clone()).unwrap().replace("svc/1", "svc/x");
        let sealed = &text.as_bytes()[..text.len() - 76];
        head = line::chain(&head, sealed);
        let hex = Anchor { count: 0, head }.head_hex();
        lines[n] = [sealed, b",\"hash\":\"", hex.as_bytes(), b"\"}\n"].concat();
        if n == 2 {
            fs::write(dir.path().join("audit.log"), lines.concat()).unwrap();
            assert_eq!(problems(&dir, Some(anchor)), [(4, Altered { seq: 4 })]);
        }
    }
    fs::write(dir.path().join("audit.log"), lines.concat()).unwrap();
    assert_eq!(problems(&dir, None), [], "a chain has no key: only the anchor tells");
    assert_eq!(problems(&dir, Some(anchor)), [(5, NotAnchored { seq: 5 })]);
}

#[test]
fn a_cut_tail_shows_against_the_anchor_and_for_ever_once_the_daemon_saw_it() {
    assert_eq!(after(|lines| drop(lines.drain(7..))), [(8, CutTail { missing: 3 })]);
    let (dir, anchor, lines) = written(9);
    fs::write(dir.path().join("audit.log"), lines[..7].concat()).unwrap();
    let log = Log::open(settings(dir.path()), Some(anchor)).unwrap();
    for i in 0..9 {
        allow(&log, &format!("later/{i}")).unwrap();
    }
    let [(8, FoundCut { reason })] = &problems(&dir, Some(log.head()))[..] else { panic!() };
    assert_eq!(reason, "3 lines are missing at the end");
    // All of it gone, and begun anew.
    drop(log);
    fs::remove_file(dir.path().join("audit.log")).unwrap();
    let log = Log::open(settings(dir.path()), Some(anchor)).unwrap();
    assert!(matches!(&problems(&dir, Some(log.head()))[..], [(2, FoundCut { .. })]));
    assert!(!log.compare(anchor).unwrap() && log.compare(Anchor::default()).unwrap());
}

#[test]
fn half_a_line_after_a_power_cut_is_noted_and_told_from_tampering() {
    for torn in [&b"{\"time\":\"2026-"[..], b"\0\0\0\0", b"junk\n", b"a\nb\n\nc", b"\n"] {
        let (dir, anchor, lines) = written(3);
        let path = dir.path().join("audit.log");
        fs::write(&path, [&lines.concat(), torn].concat()).unwrap();
        let log = Log::open(settings(dir.path()), Some(anchor)).unwrap();
        allow(&log, "after").unwrap();
        let report = verify(&path, Some(log.head())).unwrap();
        assert_eq!(report.problems, [], "{torn:?}");
        assert_eq!((report.notes.len(), report.notes[0].line), (1, 5), "{torn:?}");
        log.shutdown();
        // The same bytes elsewhere are no power cut, nor are others in their place.
        let text = fs::read(&path).unwrap();
        let start = lines.concat().len();
        let mut other = text.clone();
        other[start] ^= 1;
        fs::write(&path, &other).unwrap();
        assert!(!problems(&dir, None).is_empty(), "{torn:?}");
        fs::write(&path, [&lines[..2].concat(), torn, b"\n", &lines[2..].concat()].concat()).unwrap();
        assert!(matches!(problems(&dir, None)[..], [(3, NotALine { .. })]), "{torn:?}");
    }
}

#[test]
fn half_a_line_at_the_very_end_is_no_problem_while_the_log_is_written() {
    let (dir, anchor, lines) = written(3);
    let path = dir.path().join("audit.log");
    fs::write(&path, [&lines.concat()[..], b"{\"time\":\"20"].concat()).unwrap();
    let report = verify(&path, Some(anchor)).unwrap();
    assert_eq!((report.problems.len(), report.notes.len()), (0, 1));
}

#[test]
fn a_first_line_that_never_came_is_begun_anew_and_foreign_files_are_left_alone() {
    for unborn in [&b""[..], b"\0\0\0", b"{\"time\":\"2026"] {
        let dir = TempDir::new().unwrap();
        fs::write(dir.path().join("audit.log"), unborn).unwrap();
        allow(&open(&dir), "a").unwrap();
        assert_eq!(problems(&dir, None), []);
    }
    for foreign in [&b"Jul 22 10:00:00 host sshd: hello\n"[..], b"hello", &[b'x'; 300_000]] {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("audit.log");
        fs::write(&path, foreign).unwrap();
        assert!(matches!(Log::open(settings(dir.path()), None), Err(AuditError::NotALog { .. })));
        assert_eq!(fs::read(&path).unwrap(), foreign);
        assert!(matches!(verify(&path, None), Err(AuditError::NotALog { .. })));
    }
    let (dir, _, mut lines) = written(1);
    lines[0] = String::from_utf8(lines[0].clone()).unwrap().replace(FORMAT, "pinfold-audit/9").into_bytes();
    fs::write(dir.path().join("audit.log"), lines.concat()).unwrap();
    assert!(matches!(Log::open(settings(dir.path()), None), Err(AuditError::UnknownFormat { .. })));
}

#[test]
fn one_writer_at_a_time() {
    let dir = TempDir::new().unwrap();
    let log = open(&dir);
    assert!(matches!(Log::open(settings(dir.path()), None), Err(AuditError::InUse { .. })));
    log.rotate().unwrap();
    assert!(matches!(Log::open(settings(dir.path()), None), Err(AuditError::InUse { .. })));
    drop(log);
    open(&dir);
}

#[test]
fn rotation_carries_the_head_over_and_a_missing_or_changed_file_shows() {
    let dir = TempDir::new().unwrap();
    let log = open(&dir);
    let mut old = vec![];
    for file in 0..3 {
        for i in 0..5 {
            allow(&log, &format!("{file}/{i}")).unwrap();
        }
        old.push(log.rotate().unwrap());
    }
    allow(&log, "last").unwrap();
    log.shutdown();
    assert_eq!(old[1], dir.path().join("audit.log.000000000007"));
    let path = dir.path().join("audit.log");
    let report = verify(&path, Some(log.synced())).unwrap();
    assert_eq!((report.lines, report.files.len(), report.problems), (20, 4, vec![]));
    assert_eq!(log.synced(), log.head());

    let damage = |file: &Path, change: &dyn Fn(&mut Vec<Vec<u8>>)| {
        let saved = fs::read(file).unwrap();
        let mut changed = lines(file);
        change(&mut changed);
        fs::write(file, changed.concat()).unwrap();
        let found: Vec<_> = verify(&path, Some(log.synced())).unwrap().problems;
        fs::write(file, saved).unwrap();
        found.into_iter().map(|p| (p.file, p.line, p.kind)).collect::<Vec<_>>()
    };
    let cut = damage(&old[1], &|lines| drop(lines.pop()));
    assert_eq!(cut, [(old[2].clone(), 1, CarryOver { ends: 11, follows: 12 })]);
    let altered = damage(&old[0], &|lines| lines[2][20] ^= 1);
    assert_eq!(altered, [(old[0].clone(), 3, Altered { seq: 3 })]);
    let saved = fs::read(&old[1]).unwrap();
    fs::remove_file(&old[1]).unwrap();
    assert_eq!(problems(&dir, None), [(1, CarryOver { ends: 6, follows: 12 })]);
    fs::write(&old[1], saved).unwrap();
    fs::remove_file(&old[0]).unwrap();
    assert_eq!(problems(&dir, None), [(1, FilesMissing { from: 1, to: 6 })]);
}

#[test]
fn a_crash_within_a_rotation_is_mended() {
    let (dir, anchor, _) = written(3);
    let path = dir.path().join("audit.log");
    // Both names are the same file.
    fs::hard_link(&path, file::rotated_name(&path, 1)).unwrap();
    assert_eq!(problems(&dir, Some(anchor)), []);
    let log = Log::open(settings(dir.path()), Some(anchor)).unwrap();
    allow(&log, "a").unwrap();
    let old = log.rotate().unwrap();
    assert_eq!(problems(&dir, Some(log.head())), []);
    drop(log);
    // The new file's first line did not reach the disk.
    fs::write(&path, b"\0\0\0\0").unwrap();
    let log = open(&dir);
    allow(&log, "b").unwrap();
    assert_eq!(problems(&dir, Some(log.head())), []);
    assert_eq!(records(&path)[0].seq, records(&old).last().unwrap().seq + 1);
}

#[test]
fn many_threads_keep_the_order_and_lose_none() {
    let dir = TempDir::new().unwrap();
    let log = open(&dir);
    let rotate = || (0..3).for_each(|_| drop(log.rotate().unwrap()));
    from_eight_threads(&log, 2000, |thread, i| format!("{thread}/{i}"), rotate);
    log.shutdown();
    let path = dir.path().join("audit.log");
    let report = verify(&path, Some(log.synced())).unwrap();
    assert_eq!((report.lines, report.problems), (16_000 + 4, vec![]));
    let mut next = [0; 8];
    let mut times = vec![];
    for file in &report.files {
        for record in records(file) {
            times.push(record.time);
            let Some((thread, i)) = record.path.as_deref().and_then(|p| p.split_once('/')) else { continue };
            let (thread, i): (usize, usize) = (thread.parse().unwrap(), i.parse().unwrap());
            assert_eq!(i, next[thread], "each caller's lines are in its order");
            next[thread] += 1;
        }
    }
    assert_eq!(next, [2000; 8]);
    assert!(times.is_sorted());
}

#[test]
fn an_allowed_line_is_in_the_file_when_the_call_returns() {
    let dir = TempDir::new().unwrap();
    let log = open(&dir);
    for i in 0..50 {
        allow(&log, &format!("svc/{i}")).unwrap();
        let last = records(log.path()).pop().unwrap();
        assert_eq!(last.path, Some(format!("svc/{i}")));
        assert_eq!(last.hash, log.head().head_hex());
    }
}

#[test]
fn what_is_written_is_synced_within_seconds() {
    let dir = TempDir::new().unwrap();
    let log = open(&dir);
    assert_eq!(log.synced(), log.head());
    allow(&log, "a").unwrap();
    wait_until("it is synced", || log.synced() == log.head());
    allow(&log, "b").unwrap();
    wait_until("it is synced again", || log.synced() == log.head());
}

#[test]
fn a_flood_of_refusals_blocks_nobody_and_hides_nobody() {
    let dir = TempDir::new().unwrap();
    let log = open(&dir);
    let mut slowest = Duration::ZERO;
    let begun = Instant::now();
    for i in 0..100_000 {
        let one = Instant::now();
        refuse(&log, 1000, &format!("guess/{}", i % 5000));
        slowest = slowest.max(one.elapsed());
        if i == 50_000 {
            refuse(&log, 33, "nut/upsd.pem");
        }
    }
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert!(slowest < Duration::from_millis(500), "{slowest:?}");
    log.shutdown();
    let denied: Vec<_> = records(log.path()).into_iter().filter(|r| r.decision == Some(Decision::Denied)).collect();
    // A thousand kinds, each with its first line, and a sum for each second.
    let most = 1000 * (2 + begun.elapsed().as_secs() as usize) + 100;
    assert!(denied.len() < most, "{} of {most}", denied.len());
    let of = |uid| denied.iter().filter(|r| r.uid == Some(uid)).map(|r| r.count.unwrap_or(1)).sum::<u64>();
    assert_eq!((of(1000), of(33)), (100_000, 1));
    assert!(denied.iter().any(|r| r.uid == Some(33) && r.path.as_deref() == Some("nut/upsd.pem")));
    assert_eq!(problems(&dir, Some(log.synced())), []);
}

#[test]
fn a_single_refusal_is_listed_promptly_and_one_after_the_end_too() {
    let dir = TempDir::new().unwrap();
    let log = open(&dir);
    refuse(&log, 33, "a\n\"b\"\u{2028}");
    wait_until("the refusal is in the file", || lines(log.path()).len() == 2);
    let listed = records(log.path()).pop().unwrap();
    assert_eq!((listed.path.as_deref(), listed.errno.as_deref()), (Some("a\n\"b\"\u{2028}"), Some("EACCES")));
    log.shutdown();
    refuse(&log, 33, "late");
    assert_eq!(records(log.path()).pop().unwrap().path.as_deref(), Some("late"));
}

/// A tmpfs of a few pages, filled up, with room for nothing; unmounted when dropped.
pub(super) struct FullDisk(pub TempDir);

impl FullDisk {
    pub fn new() -> Self {
        let dir = TempDir::new().unwrap();
        mount(Some("tmpfs"), dir.path(), Some("tmpfs"), MsFlags::empty(), Some("size=64k"))
            .expect("a tmpfs can be mounted: this test needs root");
        FullDisk(dir)
    }
    /// Half of it, as long as there is no log that reserves it.
    pub fn fill_half(&self) {
        fs::write(self.0.path().join("ballast"), [0; 32 << 10]).unwrap();
    }
    pub fn fill(&self) {
        let mut ballast = fs::OpenOptions::new().append(true).open(self.0.path().join("ballast")).unwrap();
        while ballast.write(&[0; 4096]).is_ok_and(|n| n > 0) {}
    }
    pub fn make_room(&self) {
        fs::remove_file(self.0.path().join("ballast")).unwrap();
    }
}

impl Drop for FullDisk {
    fn drop(&mut self) {
        let _ = umount2(self.0.path(), MntFlags::MNT_DETACH);
    }
}

/// Fills the disk, records 300 allowed events and 5 refusals, makes room, records one more.
fn on_a_full_disk(when_full: WhenFull) -> (usize, Vec<Record>) {
    let disk = FullDisk::new();
    disk.fill_half();
    let log = Log::open(Settings { when_full, ..settings(disk.0.path()) }, None).unwrap();
    disk.fill();
    // A long path: what is reserved for the file has room for a few lines, and a line that fits only in part is cut off again.
    let refused =
        (0..300).filter(|i| allow(&log, &format!("{i}/{}", "x".repeat(700))).is_err_and(|e| e.is_full())).count();
    for uid in 1..=5 {
        refuse(&log, uid, &"x".repeat(3000));
    }
    wait_until("the refusals were tried", || log.unrecorded() >= 5);
    // While the keeper tries again, half a line can be there for a moment. The line about the gap is short, and may have fitted.
    let whole = || {
        verify(log.path(), Some(log.head()))
            .is_ok_and(|r| r.problems.is_empty() && r.notes.iter().all(|note| note.text.contains("are not in the log")))
    };
    wait_until("no half line stays", whole);
    disk.make_room();
    // Read while it is written: the last line may be there in part.
    let told = || lines(log.path()).iter().filter_map(|l| Record::parse(l)).any(|r| r.op == "audit_gap");
    wait_until("the gap is told", told);
    allow(&log, "later").unwrap();
    log.shutdown();
    assert!(verify(log.path(), Some(log.synced())).unwrap().is_whole());
    (refused, records(log.path()))
}

#[test]
fn a_full_disk_refuses_what_it_cannot_record_and_counts_the_refusals() {
    let (refused, records) = on_a_full_disk(WhenFull::Refuse);
    let opens = records.iter().filter(|r| r.op == "open").count();
    assert!(refused > 200, "{refused}");
    assert_eq!(opens, 300 - refused + 1, "what was not refused is there");
    let missing: u64 = records.iter().filter(|r| r.op == "audit_gap").filter_map(|r| r.count).sum();
    assert_eq!(missing, 5);
    assert!(records.iter().any(|r| r.op == "audit_gap" && r.reason.as_deref().unwrap().contains("No space")));
}

#[test]
fn a_full_disk_stops_nobody_if_so_configured_and_the_gap_is_counted() {
    let (refused, records) = on_a_full_disk(WhenFull::Continue);
    assert_eq!(refused, 0);
    let opens = records.iter().filter(|r| r.op == "open").count() as u64;
    let missing: u64 = records.iter().filter(|r| r.op == "audit_gap").filter_map(|r| r.count).sum();
    assert_eq!(opens + missing, 300 + 5 + 1);
}

#[test]
fn a_file_moved_away_or_cut_under_the_daemon_is_begun_anew_and_says_so() {
    for cut in [false, true] {
        let dir = TempDir::new().unwrap();
        let log = open(&dir);
        allow(&log, "a").unwrap();
        if cut {
            fs::OpenOptions::new().write(true).open(log.path()).unwrap().set_len(0).unwrap();
        } else {
            fs::rename(log.path(), dir.path().join("elsewhere")).unwrap();
        }
        allow(&log, "b").unwrap();
        wait_until("a new file is begun", || {
            fs::read_to_string(log.path()).is_ok_and(|text| text.contains("audit_cut"))
        });
        allow(&log, "c").unwrap();
        let found = problems(&dir, Some(log.head()));
        assert!(found.iter().any(|(_, kind)| matches!(kind, FoundCut { .. })), "{found:?}");
        assert!(found.iter().any(|(_, kind)| matches!(kind, FilesMissing { from: 1, to: 3 })), "{found:?}");
        log.shutdown();
        drop(log);
        open(&dir);
    }
}

#[test]
fn the_last_events_of_a_path_newest_first_over_files() {
    let dir = TempDir::new().unwrap();
    let log = open(&dir);
    for i in 0..30 {
        let who = Who::default();
        let path = if i % 3 == 0 { "svc/pin" } else { "svc/pin2" };
        log.allowed(&Event { version: Some(i), ..event(&who, path, Decision::Allowed) }).unwrap();
        if i == 15 {
            log.rotate().unwrap();
        }
    }
    refuse(&log, 99, "svc/\"pin\"");
    wait_until("the refusal is in the file", || log.recent("svc/\"pin\"", 5).unwrap().len() == 1);
    let seen = log.recent("svc/pin", 8).unwrap();
    assert_eq!(seen.len(), 8);
    assert!(seen.iter().all(|r| r.path.as_deref() == Some("svc/pin")));
    assert!(seen.windows(2).all(|pair| pair[0].seq > pair[1].seq));
    assert_eq!(log.recent("svc/pin", 100).unwrap().len(), 10);
    assert_eq!(log.recent("svc", 100).unwrap(), []);
}

#[test]
fn following_sees_every_line_once_over_rotations() {
    let dir = TempDir::new().unwrap();
    let log = open(&dir);
    for i in 0..5 {
        allow(&log, &format!("old/{i}")).unwrap();
    }
    let mut follow = Follow::open(log.path(), 2).unwrap();
    let mut seen = follow.read().unwrap();
    for i in 0..40 {
        allow(&log, &format!("new/{i}")).unwrap();
        if i % 7 == 0 {
            log.rotate().unwrap();
        }
        if i % 10 == 0 {
            seen.extend(follow.read().unwrap());
        }
    }
    seen.extend(follow.by_ref().take_while_inclusive_of("new/39"));
    let paths: Vec<_> = seen.iter().filter_map(|l| Record::parse(l.as_bytes()).unwrap().path).collect();
    let expected: Vec<_> =
        ["old/3", "old/4"].map(String::from).into_iter().chain((0..40).map(|i| format!("new/{i}"))).collect();
    assert_eq!(paths, expected);
}

trait TakeInclusive {
    fn take_while_inclusive_of(self, path: &str) -> Vec<String>;
}

impl<I: Iterator<Item = Result<String, AuditError>>> TakeInclusive for I {
    fn take_while_inclusive_of(self, path: &str) -> Vec<String> {
        let mut out = vec![];
        for line in self {
            out.push(line.unwrap());
            if out.last().unwrap().contains(&format!("\"{path}\"")) {
                break;
            }
        }
        out
    }
}

#[test]
fn the_definition_in_the_documentation_is_the_one_that_is_written() {
    // The Python of docs/audit.md, word by word.
    use sha2::{Digest, Sha256};
    let (_dir, anchor, lines) = written(5);
    let mut head = [0; 32];
    for line in &lines {
        let line = line.trim_ascii_end();
        let (body, tail) = line.split_at(line.len() - 75);
        head = Sha256::digest([&head[..], body].concat()).into();
        let hex: String = head.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(tail, format!(",\"hash\":\"{hex}\"}}").as_bytes());
    }
    assert_eq!((anchor.head, anchor.count), (head, 6));
}

fn durable(store: u8, generation: u64) -> Durable {
    Durable::of(&[store; 16], crate::model::Generation(generation))
}

#[test]
fn lines_say_what_the_store_has_on_the_disk_and_the_next_log_goes_on_from_there() {
    let dir = TempDir::new().unwrap();
    let log = open(&dir);
    allow(&log, "before").unwrap();
    log.note_durable(durable(7, 41));
    // Two who sync at the same moment may come in another order.
    log.note_durable(durable(7, 40));
    allow(&log, "after").unwrap();
    let rotated = log.rotate().unwrap();
    let said = |record: &Record| (record.store.clone(), record.durable);
    let known = (Some("07".repeat(8)), Some(41));
    let all = records(&rotated);
    assert_eq!(all.iter().map(said).collect::<Vec<_>>(), [(None, None), (None, None), known.clone()]);
    let begin = records(log.path());
    assert_eq!((begin.len(), said(&begin[0])), (1, known.clone()), "the first line of a file says it too");
    log.shutdown();
    drop(log);

    let log = open(&dir);
    allow(&log, "of the next").unwrap();
    assert_eq!(said(records(log.path()).last().unwrap()), known, "while nothing else is known");
    log.shutdown();
    assert_eq!(problems(&dir, Some(log.head())), []);
}

#[test]
fn a_store_that_is_older_than_its_log_is_noted_once() {
    let dir = TempDir::new().unwrap();
    let log = open(&dir);
    log.note_durable(durable(7, 41));
    assert!(log.compare_store(durable(7, 41)).unwrap());
    assert!(log.compare_store(durable(7, 42)).unwrap(), "a line that a power cut took");
    assert!(log.compare_store(durable(8, 1)).unwrap(), "another store");
    assert!(!log.compare_store(durable(7, 38)).unwrap());
    assert!(log.compare_store(durable(7, 38)).unwrap(), "the lines know");
    log.shutdown();
    let line = records(log.path()).pop().unwrap();
    assert_eq!((line.op.as_str(), line.durable), ("store_behind", Some(38)));
    assert_eq!(line.reason.as_deref(), Some("3 commits that were on the disk are missing"));
    assert_eq!(problems(&dir, Some(log.head())), []);
}

//! The log as a whole: written, damaged, read again.

mod chain;
mod files;
mod load;

use super::*;
use crate::model::CallerInfo;
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

pub(super) fn event<'a>(who: &'a CallerInfo, path: &'a str, decision: Decision) -> Event<'a> {
    Event { op: Operation::Open, path, version: Some(1), who, decision, reason: "owner", errno: None }
}

pub(super) fn allow(log: &Log, path: &str) -> Result<(), AuditError> {
    log.allowed(&event(&CallerInfo { uid: 33, ..CallerInfo::default() }, path, Decision::Allowed))
}

fn refuse(log: &Log, uid: u32, path: &str) {
    let who = CallerInfo { uid, ..CallerInfo::default() };
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

//! The log as a whole, over time: compressed, removed by rule, on a disk that fills up, and with opens that repeat.

use super::rotated::Rotated;
use super::tests::{FullDisk, allow, event, from_eight_threads, open, problems, records, settings, wait_until};
use super::*;
use crate::model::CallerInfo;
use crate::wire::LogProblemKind::*;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use tempfile::TempDir;

const MAX_SIZE: u64 = 4096;
/// So much for all files that three pages are left for old ones.
const LITTLE: u64 = 6 * MAX_SIZE;

/// Files of one page, and room for so many bytes of them.
fn bounded(dir: &TempDir, space: u64) -> Arc<Log> {
    Log::open(Settings { max_size: MAX_SIZE, space: Some(space), ..settings(dir.path()) }, None).unwrap()
}

fn rotated(dir: &TempDir) -> Vec<Rotated> {
    file::rotated(&dir.path().join("audit.log")).unwrap()
}

/// Rotates with a few lines in each file, and waits until only the newest is not compressed.
fn write_files(dir: &TempDir, log: &Log, files: std::ops::Range<usize>) {
    for file in files {
        for line in 0..10 {
            allow(log, &format!("{file}/{line}")).unwrap();
        }
        log.rotate().unwrap();
    }
    wait_until("old files are compressed", || rotated(dir).iter().filter(|r| !r.is_compressed()).count() <= 1);
}

fn anchors(dir: &TempDir) -> std::path::PathBuf {
    dir.path().join("audit.log.anchors")
}

#[test]
fn old_files_are_compressed_and_read_like_the_others() {
    let dir = TempDir::new().unwrap();
    let log = bounded(&dir, 1 << 20);
    let mut follow = Follow::open(log.path(), 0).unwrap();
    write_files(&dir, &log, 0..5);
    allow(&log, "last").unwrap();
    let files = rotated(&dir);
    assert_eq!(files.iter().map(Rotated::is_compressed).collect::<Vec<_>>(), [true, true, true, true, false]);
    assert!(files.iter().all(|r| fs::metadata(r.path()).unwrap().mode() & 0o7777 == 0o600));
    // Each five begun with its own line, and the last one.
    let report = verify(log.path(), Some(log.head())).unwrap();
    assert_eq!((report.lines, report.problems, report.notes), (6 + 50 + 1, vec![], vec![]));
    let of = |lines: Vec<String>| -> Vec<String> {
        lines.iter().filter_map(|l| Record::parse(l.as_bytes()).unwrap().path).collect()
    };
    let all: Vec<String> =
        (0..5).flat_map(|f| (0..10).map(move |l| format!("{f}/{l}"))).chain(["last".to_owned()]).collect();
    assert_eq!(of(follow.read().unwrap()), all, "who follows misses nothing");
    assert_eq!(of(Follow::open(log.path(), 1000).unwrap().read().unwrap()), all);
    assert_eq!(Follow::open(log.path(), 30).unwrap().read().unwrap().len(), 30);
    assert_eq!(log.recent("1/7", 5).unwrap().len(), 1);
}

#[test]
fn what_is_removed_by_rule_is_told_from_what_is_removed_by_hand() {
    let dir = TempDir::new().unwrap();
    let log = bounded(&dir, LITTLE);
    write_files(&dir, &log, 0..30);
    // One that goes just now has no size any more.
    let total = || rotated(&dir).iter().filter_map(|r| Some(fs::metadata(r.path()).ok()?.len())).sum::<u64>();
    wait_until("old files are removed", || {
        let removed = fs::read_to_string(anchors(&dir)).is_ok_and(|text| text.lines().count() > 5);
        removed && total() <= LITTLE - 3 * MAX_SIZE
    });
    log.shutdown();
    assert!(total() <= LITTLE - 3 * MAX_SIZE, "{}", total());
    let report = verify(log.path(), Some(log.head())).unwrap();
    assert_eq!(report.problems, []);
    assert!(report.notes.iter().any(|n| n.text.contains("were removed by rule")), "{:?}", report.notes);
    // By another hand it is not by rule, whether the file is the oldest or between others.
    let files = rotated(&dir);
    for (file, next) in [(0, 1), (1, 2)] {
        let (path, saved) = (files[file].path(), fs::read(files[file].path()).unwrap());
        fs::remove_file(path).unwrap();
        let (first, after) = (files[file].number(), files[next].number());
        let expected = match file {
            0 => FilesMissing { from: 1, to: after - 1 },
            _ => CarryOver { ends: first - 1, follows: after - 1 },
        };
        assert_eq!(problems(&dir, None), [(1, expected)]);
        fs::write(path, saved).unwrap();
    }
    assert_eq!(problems(&dir, None), []);
}

#[test]
fn a_file_removed_by_hand_stays_missed_when_the_rule_removes_those_after_it() {
    let dir = TempDir::new().unwrap();
    let log = bounded(&dir, LITTLE);
    write_files(&dir, &log, 0..3);
    let gone = rotated(&dir)[1].clone();
    fs::remove_file(gone.path()).unwrap();
    write_files(&dir, &log, 3..30);
    wait_until("that place is passed", || rotated(&dir)[0].number() > gone.number() + 20);
    log.shutdown();
    let found = problems(&dir, None);
    assert_eq!(found, [(1, FilesMissing { from: gone.number(), to: gone.number() + 10 })]);
}

#[test]
fn anchors_that_were_changed_vouch_for_nothing() {
    let dir = TempDir::new().unwrap();
    let log = bounded(&dir, LITTLE);
    write_files(&dir, &log, 0..30);
    wait_until("old files are removed", || anchors(&dir).exists());
    log.shutdown();
    let whole = fs::read_to_string(anchors(&dir)).unwrap();
    for forged in [whole.replacen("\"first\":1,", "\"first\":2,", 1), String::new()] {
        fs::write(anchors(&dir), forged).unwrap();
        let found = problems(&dir, None);
        assert!(found.iter().any(|(_, kind)| *kind == AnchorsAltered), "{found:?}");
        assert!(found.iter().any(|(_, kind)| matches!(kind, FilesMissing { from: 1, .. })), "{found:?}");
    }
    // More entries than the log vouches for are worth nothing: the file they name is missed.
    let oldest = rotated(&dir)[0].clone();
    let last = oldest.last().unwrap().unwrap();
    let more = super::anchors::Removed::of(oldest.path(), oldest.number(), last);
    fs::write(anchors(&dir), format!("{whole}{}\n", serde_json::to_string(&more).unwrap())).unwrap();
    assert_eq!(problems(&dir, None), []);
    fs::remove_file(oldest.path()).unwrap();
    assert!(matches!(problems(&dir, None)[..], [(1, FilesMissing { from: 1, .. })]));
}

#[test]
fn a_removal_that_a_crash_interrupted_is_gone_on_with() {
    let dir = TempDir::new().unwrap();
    let log = bounded(&dir, 1 << 20);
    write_files(&dir, &log, 0..4);
    log.shutdown();
    drop(log);
    // The note is there, the line in the log is not, nor is the file removed.
    let oldest = rotated(&dir)[0].clone();
    let note = super::anchors::Removed::of(oldest.path(), oldest.number(), oldest.last().unwrap().unwrap());
    fs::write(anchors(&dir), serde_json::to_string(&note).unwrap() + "\n").unwrap();
    assert_eq!(problems(&dir, None), []);
    // Compressed, and the plain one is there still.
    let second = rotated(&dir)[1].clone();
    let plain = second.path().with_extension("");
    let mut text = vec![];
    std::io::Read::read_to_end(&mut second.read(&second.open().unwrap()).unwrap(), &mut text).unwrap();
    fs::write(&plain, text).unwrap();
    assert_eq!(problems(&dir, None), []);
    let log = bounded(&dir, LITTLE);
    write_files(&dir, &log, 4..30);
    log.shutdown();
    assert!(!plain.exists());
    assert_eq!(problems(&dir, Some(log.head())), []);
    let noted = fs::read_to_string(anchors(&dir)).unwrap();
    assert_eq!(noted.matches(&format!("\"first\":{},", oldest.number())).count(), 1);
}

#[test]
fn a_compressed_file_that_was_tampered_with_is_found() {
    let dir = TempDir::new().unwrap();
    let log = bounded(&dir, 1 << 20);
    write_files(&dir, &log, 0..5);
    log.shutdown();
    let victim = rotated(&dir)[1].clone();
    let whole = fs::read(victim.path()).unwrap();
    let said = zstd::stream::decode_all(&whole[..]).unwrap();
    let mut harmless = 0;
    for at in (0..whole.len()).step_by(whole.len() / 40 + 1) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x40;
        fs::write(victim.path(), &bytes).unwrap();
        // A few bits of the encoding say nothing: what is read is to the byte what was written, its checksum too.
        let same = zstd::stream::decode_all(&bytes[..]).is_ok_and(|text| text == said);
        assert!(same || !problems(&dir, None).is_empty(), "byte {at}");
        harmless += usize::from(same);
    }
    assert!(harmless <= 2, "{harmless} of 40 flips changed nothing");
    for cut in [0, 1, whole.len() / 2, whole.len() - 1] {
        fs::write(victim.path(), &whole[..cut]).unwrap();
        assert!(!problems(&dir, None).is_empty(), "cut at {cut}");
    }
    // Other lines, compressed well.
    let other = zstd::stream::encode_all(&b"{\"time\":\"none\"}\n"[..], 3).unwrap();
    fs::write(victim.path(), other).unwrap();
    assert!(!problems(&dir, None).is_empty());
}

#[test]
fn a_full_disk_is_announced_while_there_is_still_room_for_lines() {
    let disk = FullDisk::new();
    disk.fill_half();
    let log = Log::open(Settings { max_size: 16 << 10, ..settings(disk.0.path()) }, None).unwrap();
    let room = log.room();
    assert!(!room.full && room.left >= 16 << 10, "{room:?}");
    disk.fill();
    let (mut lines, mut announced) = (0, None);
    while allow(&log, &format!("{lines}/{}", "x".repeat(200))).is_ok() {
        lines += 1;
        if log.room().full {
            announced.get_or_insert((lines, log.room().left));
        }
    }
    let (at, left) = announced.expect("it was announced before nothing could be recorded");
    assert!(left >= 4096 && lines - at >= 10, "announced at line {at} of {lines} with {left} bytes left");
    // With room again, it is over within a second or two, and the reserve is there again.
    disk.make_room();
    wait_until("there is room", || !log.room().full && log.room().left >= 8 << 10);
    allow(&log, "later").unwrap();
    log.shutdown();
    assert_eq!(problems(&disk.0, Some(log.head())), []);
}

#[test]
fn what_was_reserved_for_a_rotated_file_is_given_back() {
    let dir = TempDir::new().unwrap();
    let log = Log::open(Settings { max_size: 1 << 20, ..settings(dir.path()) }, None).unwrap();
    allow(&log, "a").unwrap();
    let reserved = |path: &std::path::Path| fs::metadata(path).unwrap().blocks() * 512;
    assert!(reserved(log.path()) >= 1 << 20, "{}", reserved(log.path()));
    let old = log.rotate().unwrap();
    assert!(reserved(&old) <= 64 << 10, "{}", reserved(&old));
    assert!(reserved(log.path()) >= 1 << 20);
}

#[test]
fn the_first_of_repeated_opens_has_a_line_before_the_answer_and_the_sum_follows() {
    let dir = TempDir::new().unwrap();
    let log = open(&dir);
    for _ in 0..1000 {
        allow(&log, "svc/pin").unwrap();
        let seen = records(log.path());
        assert!(
            seen.iter().any(|r| r.path.as_deref() == Some("svc/pin") && r.count.is_none()),
            "nothing without a line"
        );
    }
    let opens = || -> (usize, u64) {
        let lines: Vec<u64> = log.recent("svc/pin", 1000).unwrap().iter().map(|r| r.count.unwrap_or(1)).collect();
        (lines.len(), lines.iter().sum())
    };
    wait_until("the sum is written", || opens().1 == 1000);
    assert!(opens().0 < 100, "{:?}", opens());
    assert_eq!(problems(&dir, Some(log.head())), []);
    // Other work is never summed up.
    for _ in 0..3 {
        let who = CallerInfo { uid: 33, ..CallerInfo::default() };
        log.allowed(&Event { op: Operation::Commit, ..event(&who, "svc/other", Decision::Allowed) }).unwrap();
    }
    assert_eq!(log.recent("svc/other", 10).unwrap().len(), 3);
}

#[test]
fn sums_are_written_before_a_lock_at_the_end_and_for_who_takes_over() {
    let count = |log: &Log| log.recent("svc/pin", 100).unwrap().iter().map(|r| r.count.unwrap_or(1)).sum::<u64>();
    let dir = TempDir::new().unwrap();
    let log = open(&dir);
    let mut opens = 0;
    let mut thrice = |log: &Log| {
        (0..3).for_each(|_| allow(log, "svc/pin").unwrap());
        opens += 3;
        opens
    };
    let so_far = thrice(&log);
    log.sum_up();
    assert_eq!(count(&log), so_far);
    let so_far = thrice(&log);
    log.shutdown();
    assert_eq!(count(&log), so_far);
    // After the end each has its own line, and so it has with one who may end at any moment.
    let so_far = thrice(&log);
    assert_eq!(count(&log), so_far);
    drop(log);
    let log = open(&dir);
    thrice(&log);
    log.sum_up_for_good();
    let so_far = thrice(&log);
    assert_eq!(count(&log), so_far);
    assert_eq!(problems(&dir, Some(log.head())), []);
}

#[test]
fn many_threads_that_repeat_are_counted_each_and_none_twice() {
    let dir = TempDir::new().unwrap();
    let log = open(&dir);
    from_eight_threads(&log, 4000, |thread, i| format!("svc/{}", (i + thread) % 3), || {});
    log.shutdown();
    let lines: Vec<Record> = records(log.path()).into_iter().filter(|r| r.op == "open").collect();
    assert_eq!(lines.iter().map(|r| r.count.unwrap_or(1)).sum::<u64>(), 32_000);
    assert!(lines.len() < 1000, "{}", lines.len());
}

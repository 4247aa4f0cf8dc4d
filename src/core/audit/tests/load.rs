//! Many at once, floods, and a full disk.

use super::*;

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

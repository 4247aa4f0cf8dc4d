//! One writer, its files and their rotation; who reads along.

use super::*;

#[test]
fn one_writer_at_a_time() {
    let dir = TempDir::new().unwrap();
    let log = open(&dir);
    assert!(matches!(Log::open(settings(dir.path()), None), Err(AuditError::InUse { .. })));
    log.rotate().unwrap();
    assert!(matches!(Log::open(settings(dir.path()), None), Err(AuditError::InUse { .. })));
    let closed = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(20));
        log.rotate().unwrap();
        std::thread::sleep(Duration::from_millis(20));
        drop(log);
    });
    // What a writer that was killed leaves of its lock is gone a moment later. The file that is waited for may not be the log by then.
    let log = open(&dir);
    closed.join().unwrap();
    allow(&log, "after it").unwrap();
    log.shutdown();
    let path = dir.path().join("audit.log");
    let report = verify(&path, Some(log.synced())).unwrap();
    assert_eq!((report.files.len(), report.problems), (3, vec![]));
    assert!(fs::read_to_string(&path).unwrap().contains("after it"));
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
        let who = CallerInfo::default();
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

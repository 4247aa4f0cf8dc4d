//! Every change shows: to a line, at the end, of a file.

use super::*;

/// What verify says when the lines are changed so.
fn after(change: impl FnOnce(&mut Vec<Vec<u8>>)) -> Vec<(u64, ProblemKind)> {
    let (dir, anchor, mut lines) = written(9);
    assert_eq!(problems(&dir, Some(anchor)), [], "the untouched log is whole");
    change(&mut lines);
    fs::write(dir.path().join("audit.log"), lines.concat()).unwrap();
    problems(&dir, Some(anchor))
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

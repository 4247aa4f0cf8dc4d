//! A part of the log for somebody who may not open its files: the lines from a place to the end as it is now.
//!
//! Reads while the log is written, rotated, compressed and removed, a line at a time: whatever is asked for, it takes the memory of one
//! line and of one decompressor. What goes meanwhile is passed over: these are looks, the check is [`verify`](super::verify)'s.

use super::AuditError;
use super::file::{self, First};
use super::line::LINE_MAX;
use super::rotated;
use crate::wire::LogPlace;
use std::fs::File;
use std::io::{self, BufRead, Read};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// How often a rotated file is looked for that is being compressed.
const TRIES: u32 = 3;
/// How much is read between two looks at whether anybody still wants it, in pieces of the reader.
const LOOK_EVERY: u32 = 16;

/// Why a part was not read to its end.
#[derive(Debug, Error)]
pub enum Reading {
    /// The log cannot be read.
    #[error(transparent)]
    Log(#[from] AuditError),
    /// Whoever wanted it is gone.
    #[error("nobody reads it: {0}")]
    Gone(#[from] io::Error),
}

/// A file of the log, opened.
struct Piece {
    name: PathBuf,
    file: File,
    compressed: bool,
    number: u64,
}

impl Piece {
    fn lines(&self) -> Result<Box<dyn BufRead + '_>, AuditError> {
        rotated::reader(&self.file, self.compressed).map_err(|e| AuditError::open(&self.name, e))
    }

    /// How many newlines it has before the damage, if there is any.
    fn count(&self, wanted: &mut dyn FnMut() -> bool) -> Result<u64, Reading> {
        let (mut lines, mut reader, mut looks) = (0, self.lines()?, 0);
        while let Ok(bytes @ [_, ..]) = reader.fill_buf() {
            lines += bytes.iter().filter(|b| **b == b'\n').count() as u64;
            let n = bytes.len();
            reader.consume(n);
            still(&mut looks, wanted)?;
        }
        Ok(lines)
    }

    /// How many bytes so many lines at its beginning take.
    fn skip(&self, mut lines: u64, wanted: &mut dyn FnMut() -> bool) -> Result<u64, Reading> {
        let (mut offset, mut reader, mut looks) = (0, self.lines()?, 0);
        while lines > 0
            && let Ok(bytes @ [_, ..]) = reader.fill_buf()
        {
            let n = match bytes.iter().position(|b| *b == b'\n') {
                Some(newline) => {
                    lines -= 1;
                    newline + 1
                }
                None => bytes.len(),
            };
            offset += n as u64;
            reader.consume(n);
            still(&mut looks, wanted)?;
        }
        Ok(offset)
    }
}

fn still(looks: &mut u32, wanted: &mut dyn FnMut() -> bool) -> Result<(), Reading> {
    *looks = looks.wrapping_add(1);
    if looks.is_multiple_of(LOOK_EVERY) && !wanted() {
        return Err(Reading::Gone(io::ErrorKind::BrokenPipe.into()));
    }
    Ok(())
}

/// Where the last lines begin, as many as `last`, of older files too.
///
/// # Errors
/// [`Reading::Gone`] when `wanted` says so.
pub fn begin(log: &Path, last: u64, wanted: &mut dyn FnMut() -> bool) -> Result<LogPlace, Reading> {
    let mut missing = last;
    let mut place = LogPlace::default();
    let Some(current) = current(log)? else { return Ok(place) };
    let mut older = numbers(log, 0..current.number)?;
    let mut next = Some(current);
    while let Some(piece) = next {
        let lines = piece.count(wanted)?;
        place = LogPlace { file: piece.number, offset: piece.skip(lines.saturating_sub(missing), wanted)? };
        missing = missing.saturating_sub(lines);
        next = None;
        while missing > 0
            && next.is_none()
            && let Some(number) = older.pop()
        {
            next = rotated_piece(log, number)?;
        }
    }
    Ok(place)
}

/// Hands the lines from a place to the end to `each`, without their newlines, and says where the next will begin.
///
/// # Errors
/// [`Reading`]; what `each` says is [`Reading::Gone`].
pub fn read_from(
    log: &Path,
    from: LogPlace,
    each: &mut dyn FnMut(&str) -> io::Result<()>,
) -> Result<LogPlace, Reading> {
    // Opened before the others are listed: one that is rotated meanwhile is still this one.
    let Some(current) = current(log)? else { return Ok(from) };
    for number in numbers(log, from.file..current.number)? {
        if let Some(piece) = rotated_piece(log, number)? {
            hand_out(&piece, if number == from.file { from.offset } else { 0 }, true, each)?;
        }
    }
    let len = current.file.metadata().map_err(|e| AuditError::open(log, e))?.len();
    // A file that is shorter than it was has been cut.
    let begun = if current.number == from.file && len >= from.offset { from.offset } else { 0 };
    let offset = hand_out(&current, begun, false, each)?;
    Ok(LogPlace { file: current.number, offset })
}

/// Every line from an offset; half a line at the end only if the file is `finished`. Where it ended.
fn hand_out(
    piece: &Piece,
    from: u64,
    finished: bool,
    each: &mut dyn FnMut(&str) -> io::Result<()>,
) -> Result<u64, Reading> {
    let mut reader = piece.lines()?;
    let skipped = io::copy(&mut reader.by_ref().take(from), &mut io::sink());
    let (mut offset, mut line) = (from, vec![]);
    if skipped.is_err() {
        return Ok(offset);
    }
    while reader.by_ref().take(LINE_MAX as u64).read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
        if !finished && line.last() != Some(&b'\n') && line.len() < LINE_MAX {
            break;
        }
        offset += line.len() as u64;
        each(&String::from_utf8_lossy(line.trim_ascii_end()))?;
        line.clear();
    }
    Ok(offset)
}

/// The file that is being written; `None` if there is none.
fn current(log: &Path) -> Result<Option<Piece>, AuditError> {
    let io = |e| AuditError::open(log, e);
    let file = match File::open(log) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(io)?,
    };
    let number = match file::first(&file).map_err(io)? {
        First::Header(header) => header.seq,
        First::Unborn | First::Foreign => 0,
    };
    Ok(Some(Piece { name: log.into(), file, compressed: false, number }))
}

/// The numbers of the rotated files in this range, in their order.
fn numbers(log: &Path, range: std::ops::Range<u64>) -> Result<Vec<u64>, AuditError> {
    let all = file::rotated(log)?;
    Ok(all.iter().map(rotated::Rotated::number).filter(|number| range.contains(number)).collect())
}

/// A rotated file by its number; `None` if it is there no more.
fn rotated_piece(log: &Path, number: u64) -> Result<Option<Piece>, AuditError> {
    for _ in 0..TRIES {
        let Some(rotated) = file::rotated(log)?.into_iter().find(|rotated| rotated.number() == number) else {
            return Ok(None);
        };
        let (name, compressed) = (rotated.path().to_owned(), rotated.is_compressed());
        match rotated.open() {
            // Compressed just now, or removed.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(AuditError::open(&name, e)),
            Ok(file) => return Ok(Some(Piece { name, file, compressed, number })),
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{allow, settings};
    use super::super::{Log, Record, Settings, verify, verify_for};
    use super::*;
    use std::sync::Arc;

    fn rotating(dir: &tempfile::TempDir) -> Arc<Log> {
        Log::open(Settings { max_size: 4096, space: Some(1 << 20), ..settings(dir.path()) }, None).unwrap()
    }

    fn paths(log: &Path, from: LogPlace) -> (Vec<String>, LogPlace) {
        let mut paths = vec![];
        let next = read_from(log, from, &mut |line| {
            paths.extend(Record::parse(line.as_bytes()).unwrap().path);
            Ok(())
        });
        (paths, next.unwrap())
    }

    fn last(log: &Path, lines: u64) -> (Vec<String>, LogPlace) {
        paths(log, begin(log, lines, &mut || true).unwrap())
    }

    #[test]
    fn the_last_lines_and_what_comes_after_them_come_over_all_files() {
        let dir = tempfile::tempdir().unwrap();
        let log = rotating(&dir);
        for n in 0..60 {
            allow(&log, &n.to_string()).unwrap();
            if n % 10 == 9 {
                log.rotate().unwrap();
            }
        }
        let numbers = |range: std::ops::Range<u32>| range.map(|n| n.to_string()).collect::<Vec<_>>();
        let (all, end) = last(log.path(), u64::MAX);
        assert_eq!(all, numbers(0..60));
        // Each file begins with a line of its own.
        assert_eq!(last(log.path(), 12).0, numbers(50..60));
        assert_eq!(last(log.path(), 15).0, numbers(47..60));
        assert_eq!(last(log.path(), 0), (vec![], end));
        // Over a rotation and the compression of the file it stood in.
        for n in 60..80 {
            allow(&log, &n.to_string()).unwrap();
            if n % 10 == 4 {
                log.rotate().unwrap();
            }
        }
        let (news, end) = paths(log.path(), end);
        assert_eq!(news, numbers(60..80));
        log.shutdown();
        assert_eq!(paths(log.path(), end).0, [""; 0]);
        // A place in a file that is there no more, or never was.
        assert_eq!(paths(log.path(), LogPlace { file: 0, offset: 9999 }).0.len(), 80);
        assert_eq!(paths(log.path(), LogPlace { file: u64::MAX, offset: 1 }).0, numbers(75..80));
        assert_eq!(paths(log.path(), LogPlace { offset: u64::MAX, ..end }).0, numbers(75..80), "as if it had been cut");
    }

    #[test]
    fn half_a_line_is_not_handed_out_and_bytes_that_are_none_are() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.log");
        std::fs::write(&path, b"one\n\xfftwo\nthr").unwrap();
        let mut lines = vec![];
        let next = read_from(&path, LogPlace::default(), &mut |line| {
            lines.push(line.to_owned());
            Ok(())
        });
        assert_eq!((lines, next.unwrap().offset), (vec!["one".to_owned(), "\u{fffd}two".to_owned()], 9));
    }

    #[test]
    fn nothing_is_read_or_checked_for_somebody_who_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let log = rotating(&dir);
        for n in 0..100 {
            allow(&log, &n.to_string()).unwrap();
        }
        let gone = read_from(log.path(), LogPlace::default(), &mut |_| Err(io::ErrorKind::BrokenPipe.into()));
        assert!(matches!(gone, Err(Reading::Gone(_))));
        assert_eq!(verify_for(log.path(), None, &mut || false).unwrap(), None);
        assert!(verify_for(log.path(), None, &mut || true).unwrap().unwrap().is_whole());
    }

    #[test]
    fn a_check_for_somebody_else_lists_so_many_and_counts_the_rest() {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::open(settings(dir.path()), None).unwrap();
        for n in 0..1500 {
            allow(&log, &n.to_string()).unwrap();
        }
        log.shutdown();
        let text = std::fs::read_to_string(log.path()).unwrap();
        std::fs::write(log.path(), text.replace("\"uid\":33", "\"uid\":34")).unwrap();
        let listed = verify_for(log.path(), None, &mut || true).unwrap().unwrap().problems;
        assert_eq!(listed.len(), 1001);
        assert_eq!(listed[1000].to_string().rsplit(": ").next(), Some("and 500 problems more"));
        assert_eq!(verify(log.path(), None).unwrap().problems.len(), 1500);
    }
}

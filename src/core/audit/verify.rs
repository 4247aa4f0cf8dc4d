//! Checks the chain over all files of a log, from the oldest to the end, and says file and line of what is wrong.
//!
//! One finding does not hide the next: after a line that does not fit, the check goes on from that line. It changes
//! nothing, and may run while the log is written.

use super::AuditError;
use super::anchors::{Anchors, Removed};
use super::file::{self, Header};
use super::line::{self, Anchor, LINE_MAX, Parts, own};
use super::rotated;
use crate::wire::{
    LogMark as Mark, LogNote as Note, LogProblem as Problem, LogProblemKind as ProblemKind, LogReport as Report,
};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{self, BufRead, Read};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

/// How often the files are listed anew because one went while they were being opened.
const LISTS: u32 = 20;
/// How many problems, and how many notes, a check for somebody else lists.
const LISTED: usize = 1000;
/// How many lines are checked between two looks at whether anybody still wants to know.
const LOOK_EVERY: u64 = 1024;

/// Checks the log and all its rotated files; with an `anchor`, that it is a beginning of this log and not less.
///
/// # Errors
/// [`AuditError::Open`] if a file cannot be read; [`AuditError::NotALog`], [`AuditError::UnknownFormat`] for a file
/// that is something else. What is wrong with the lines is no error but in the report.
pub fn verify(log: &Path, anchor: Option<Anchor>) -> Result<Report, AuditError> {
    let report = check(Check::new(anchor, usize::MAX), log, &mut || true)?;
    Ok(report.expect("nothing ends it early"))
}

/// The same for somebody else: what is wrong is listed up to [`LISTED`] and counted beyond, and it ends, with `None`, when
/// `wanted` says so.
///
/// # Errors
/// As [`verify`].
pub fn verify_for(
    log: &Path,
    anchor: Option<Anchor>,
    wanted: &mut dyn FnMut() -> bool,
) -> Result<Option<Report>, AuditError> {
    check(Check::new(anchor, LISTED), log, wanted)
}

fn check(mut check: Check, log: &Path, wanted: &mut dyn FnMut() -> bool) -> Result<Option<Report>, AuditError> {
    for piece in pieces(log)? {
        if !check.file(&piece, wanted)? {
            return Ok(None);
        }
    }
    // After the files: what they vouch for is then there.
    check.judge_gaps(&Anchors::read(log)?);
    Ok(Some(check.finish()))
}

/// A file of the log, opened.
struct Piece {
    name: PathBuf,
    file: File,
    compressed: bool,
}

/// The files, opened, oldest first. The current one is opened first, so that a rotation meanwhile hides none.
fn pieces(log: &Path) -> Result<Vec<Piece>, AuditError> {
    let mut tries = 0;
    'anew: loop {
        tries += 1;
        let current = File::open(log).map_err(|e| AuditError::open(log, e))?;
        let meta = |name: &Path, file: &File| file.metadata().map_err(|e| AuditError::open(name, e));
        let this = meta(log, &current)?;
        let mut pieces = vec![];
        for rotated in file::rotated(log)? {
            let (name, compressed) = (rotated.path().to_owned(), rotated.is_compressed());
            let file = match rotated.open() {
                // Compressed or removed by rule just now.
                Err(e) if e.kind() == io::ErrorKind::NotFound && tries < LISTS => continue 'anew,
                other => other.map_err(|e| AuditError::open(&name, e))?,
            };
            if file::same(&meta(&name, &file)?, &this) {
                break;
            }
            pieces.push(Piece { name, file, compressed });
        }
        pieces.push(Piece { name: log.to_owned(), file: current, compressed: false });
        return Ok(pieces);
    }
}

struct Check {
    report: Report,
    anchor: Option<Anchor>,
    /// The last line that counts.
    at: Anchor,
    /// Lines that were not there when they should have been, and where that showed.
    missing: Vec<(RangeInclusive<u64>, usize, u64)>,
    /// The last line jumped ahead: where the chain stood before it.
    jump: Option<u64>,
    odd: Option<Odd>,
    /// Where a file does not follow the one before it, or no file is before it.
    gaps: Vec<Gap>,
    /// The newest line about a file removed by rule: where it is, and what it vouches for.
    vouches: Option<(usize, u64, [u8; 32])>,
    file: usize,
    line: u64,
    /// For sorting: a removed line is only known as removed at the end.
    found: Vec<(usize, u64, ProblemKind)>,
    /// How much is listed, and what of it was only counted.
    most: usize,
    more: u64,
}

/// What is not there between two files.
struct Gap {
    /// The file after it.
    file: usize,
    ends: Anchor,
    follows: Anchor,
}

/// Bytes that are no line, until the next line tells what they are.
struct Odd {
    line: u64,
    bytes: u64,
    digest: Sha256,
    newline: bool,
}

impl Check {
    fn new(anchor: Option<Anchor>, most: usize) -> Self {
        let report = Report { files: vec![], lines: 0, first: None, last: None, problems: vec![], notes: vec![] };
        Check {
            report,
            anchor,
            at: Anchor::default(),
            missing: vec![],
            jump: None,
            odd: None,
            gaps: vec![],
            vouches: None,
            file: 0,
            line: 0,
            found: vec![],
            most,
            more: 0,
        }
    }

    /// `false` if nobody wants to know any more.
    fn file(&mut self, piece: &Piece, wanted: &mut dyn FnMut() -> bool) -> Result<bool, AuditError> {
        let name = &piece.name;
        let io = |e| AuditError::open(name, e);
        self.end_of_file(false);
        self.file = self.report.files.len();
        self.report.files.push(name.to_owned());
        self.line = 0;
        let mut from_start = rotated::reader(&piece.file, piece.compressed).map_err(io)?;
        let mut bytes = vec![];
        loop {
            bytes.clear();
            if self.line.is_multiple_of(LOOK_EVERY) && !wanted() {
                return Ok(false);
            }
            match from_start.by_ref().take(LINE_MAX as u64).read_until(b'\n', &mut bytes) {
                Ok(0) => return Ok(true),
                Err(error) if piece.compressed => {
                    self.line += 1;
                    self.problem(ProblemKind::Damaged { reason: error.to_string() });
                    return Ok(true);
                }
                Err(error) => return Err(io(error)),
                Ok(_) => {}
            }
            let whole = bytes.pop_if(|b| *b == b'\n').is_some();
            self.line += 1;
            if self.line == 1 {
                self.header(&piece.name, &bytes)?;
            }
            match Parts::of(&bytes) {
                Some(parts) if whole => self.line(&parts),
                _ => self.odd(&bytes, whole),
            }
        }
    }

    /// The carry-over: does the file follow the one before?
    fn header(&mut self, name: &Path, bytes: &[u8]) -> Result<(), AuditError> {
        let Some(header) = Header::parse(bytes) else {
            // Of a first file that is no log nothing can be said; a later one is a gap in this log.
            if self.file == 0 {
                return Err(AuditError::NotALog { path: name.into() });
            }
            return Ok(());
        };
        if header.format != line::FORMAT {
            return Err(AuditError::UnknownFormat { path: name.into(), format: header.format });
        }
        let Some(previous) = header.previous() else { return Ok(()) };
        if previous != self.at {
            self.gaps.push(Gap { file: self.file, ends: self.at, follows: previous });
            self.at = previous;
            self.compare_anchor();
        }
        self.jump = None;
        Ok(())
    }

    fn line(&mut self, parts: &Parts<'_>) {
        self.report.lines += 1;
        self.explain_odd(Some(parts));
        let mark = Mark { seq: parts.seq, time: parts.time().to_owned() };
        self.report.first.get_or_insert_with(|| mark.clone());
        self.report.last = Some(mark);
        let here = Anchor { count: parts.seq, head: parts.hash };

        // The line before had a number too high, and this one has the number it should have: it was that line's
        // number that was altered.
        if let Some(before) = self.jump.take().filter(|before| parts.seq == before + 2 && parts.follows(&self.at.head))
        {
            if let Some((_, file, line)) = self.missing.pop() {
                self.found.push((file, line, ProblemKind::Altered { seq: before + 1 }));
            }
            self.at.count = before + 1;
        }

        let expected = self.at.count + 1;
        if parts.seq == expected {
            if !parts.follows(&self.at.head) {
                self.problem(ProblemKind::Altered { seq: parts.seq });
            }
        } else if parts.seq > expected {
            if self.has_room() {
                self.missing.push((expected..=parts.seq - 1, self.file, self.line));
                self.jump = Some(self.at.count);
            }
        } else {
            let kind = match self.take_missing(parts.seq) {
                true => ProblemKind::Reordered { seq: parts.seq },
                false => ProblemKind::Repeated { seq: parts.seq },
            };
            return self.problem(kind);
        }
        self.at = here;
        self.compare_anchor();
        self.own_line(parts);
    }

    /// What the log says of itself.
    fn own_line(&mut self, parts: &Parts<'_>) {
        #[derive(Deserialize)]
        struct Own {
            #[serde(default)]
            reason: String,
            #[serde(default)]
            count: u64,
            #[serde(default)]
            anchors: String,
        }
        let op = std::str::from_utf8(parts.op()).unwrap_or_default();
        if !matches!(op, own::CUT | own::GAP | own::PRUNE) {
            return;
        }
        let whole = [parts.sealed, b"}"].concat();
        let Ok(said) = serde_json::from_slice::<Own>(&whole) else { return };
        match op {
            own::CUT => self.problem(ProblemKind::FoundCut { reason: said.reason }),
            own::GAP => self.note(format!("{} events are not in the log: {}", said.count, said.reason)),
            _ => {
                let digest = crate::hex::decode_exact(said.anchors.as_bytes()).unwrap_or_default();
                self.vouches = Some((self.file, self.line, digest));
            }
        }
    }

    /// What is not there: removed by rule, as far as the log vouches for it, or by somebody else.
    fn judge_gaps(&mut self, anchors: &Anchors) {
        let mut by_rule: &[Removed] = &[];
        if let Some((file, line, digest)) = self.vouches {
            match anchors.vouched(&digest) {
                Some(vouched) => by_rule = vouched,
                None => self.found.push((file, line, ProblemKind::AnchorsAltered)),
            }
        }
        for gap in std::mem::take(&mut self.gaps) {
            let Some(ruled) = Ruled::between(by_rule, &gap) else {
                let (ends, follows) = (gap.ends.count, gap.follows.count);
                let kind = match gap.file {
                    0 => ProblemKind::FilesMissing { from: 1, to: follows },
                    _ => ProblemKind::CarryOver { ends, follows },
                };
                self.found.push((gap.file, 1, kind));
                continue;
            };
            let text = format!("{} files up to line {} were removed by rule", ruled.files, gap.follows.count);
            self.report.notes.push(Note { file: self.report.files[gap.file].clone(), line: 1, text });
            let missing =
                |hole: RangeInclusive<u64>| ProblemKind::FilesMissing { from: *hole.start(), to: *hole.end() };
            self.found.extend(ruled.holes.into_iter().rev().map(|hole| (gap.file, 1, missing(hole))));
        }
    }

    fn compare_anchor(&mut self) {
        if self.anchor.is_some_and(|a| a.count == self.at.count && a.head != self.at.head) {
            self.problem(ProblemKind::NotAnchored { seq: self.at.count });
        }
    }

    fn odd(&mut self, bytes: &[u8], whole: bool) {
        let line = self.line;
        let odd = self.odd.get_or_insert_with(|| Odd { line, bytes: 0, digest: Sha256::new(), newline: false });
        if odd.newline {
            odd.digest.update(b"\n");
            odd.bytes += 1;
        }
        odd.digest.update(bytes);
        odd.bytes += bytes.len() as u64;
        odd.newline = whole;
    }

    /// Bytes that are no line are explained by a line that follows them, if it names their length and digest.
    fn explain_odd(&mut self, next: Option<&Parts<'_>>) {
        #[derive(Deserialize)]
        struct Torn {
            bytes: u64,
            digest: String,
        }
        let Some(odd) = self.odd.take() else { return };
        let torn = next
            .filter(|parts| parts.op() == own::TORN.as_bytes() && parts.follows(&self.at.head))
            .and_then(|parts| serde_json::from_slice::<Torn>(&[parts.sealed, b"}"].concat()).ok());
        let digest: [u8; 32] = odd.digest.finalize().into();
        match torn {
            Some(torn)
                if torn.bytes == odd.bytes && crate::hex::decode_exact(torn.digest.as_bytes()) == Some(digest) =>
            {
                let text = format!(
                    "half a line of {} bytes, as a power cut leaves it, closed off at the next start",
                    odd.bytes
                );
                self.report.notes.push(Note { file: self.name(), line: odd.line, text });
            }
            _ if self.has_room() => self.found.push((self.file, odd.line, ProblemKind::NotALine { bytes: odd.bytes })),
            _ => {}
        }
    }

    fn end_of_file(&mut self, last: bool) {
        if last && self.odd.as_ref().is_some_and(|odd| !odd.newline) {
            let odd = self.odd.take().expect("it is there");
            let text = format!("half a line of {} bytes at the end: being written, or a power cut", odd.bytes);
            self.report.notes.push(Note { file: self.name(), line: odd.line, text });
        } else {
            self.explain_odd(None);
        }
    }

    fn finish(mut self) -> Report {
        self.end_of_file(true);
        if let Some(missing) = self.anchor.and_then(|a| a.count.checked_sub(self.at.count)).filter(|n| *n > 0) {
            self.line += 1;
            self.problem(ProblemKind::CutTail { missing });
        }
        for (lines, file, line) in std::mem::take(&mut self.missing) {
            self.found.push((file, line, ProblemKind::Removed { from: *lines.start(), to: *lines.end() }));
        }
        self.found.sort_by_key(|(file, line, _)| (*file, *line));
        if self.more > 0 {
            self.found.push((self.file, self.line, ProblemKind::More { problems: self.more }));
        }
        for (file, line, kind) in self.found {
            self.report.problems.push(Problem { file: self.report.files[file].clone(), line, kind });
        }
        self.report
    }

    /// Whether the line was missed before; then it no longer is.
    fn take_missing(&mut self, seq: u64) -> bool {
        let Some(at) = self.missing.iter().position(|(lines, ..)| lines.contains(&seq)) else { return false };
        let (lines, file, line) = self.missing.swap_remove(at);
        for rest in [*lines.start()..=seq - 1, seq + 1..=*lines.end()] {
            if !rest.is_empty() {
                self.missing.push((rest, file, line));
            }
        }
        true
    }

    fn problem(&mut self, kind: ProblemKind) {
        if self.has_room() {
            self.found.push((self.file, self.line, kind));
        }
    }

    /// Whether one more problem is listed; it is counted if not.
    fn has_room(&mut self) -> bool {
        let room = self.found.len() + self.missing.len() < self.most;
        self.more += u64::from(!room);
        room
    }

    fn note(&mut self, text: String) {
        if self.report.notes.len() < self.most {
            self.report.notes.push(Note { file: self.name(), line: self.line, text });
        }
    }

    fn name(&self) -> PathBuf {
        self.report.files.get(self.file).cloned().unwrap_or_default()
    }
}

/// What of a gap was removed by rule.
struct Ruled {
    files: u64,
    /// The lines that were not, the last first.
    holes: Vec<RangeInclusive<u64>>,
}

impl Ruled {
    /// `None` if not even its end was.
    fn between(by_rule: &[Removed], gap: &Gap) -> Option<Self> {
        let at = by_rule.iter().rposition(|removed| removed.end() == Some(gap.follows))?;
        let mut ruled = Ruled { files: 0, holes: vec![] };
        let mut from = gap.follows.count + 1;
        for removed in by_rule[..=at].iter().rev().take_while(|removed| removed.last > gap.ends.count) {
            if removed.last >= from {
                // Of another log that once had this name.
                break;
            }
            ruled.hole(removed.last + 1..=from - 1);
            from = removed.first;
            ruled.files += removed.files;
        }
        ruled.hole(gap.ends.count + 1..=from - 1);
        Some(ruled)
    }

    fn hole(&mut self, lines: RangeInclusive<u64>) {
        if !lines.is_empty() {
            self.holes.push(lines);
        }
    }
}

/// The last line of a log, without checking what is before it.
///
/// # Errors
/// [`AuditError::Open`] if it cannot be read.
pub fn last(log: &Path) -> Result<Anchor, AuditError> {
    let io = |e: io::Error| AuditError::open(log, e);
    Ok(file::tail(&File::open(log).map_err(io)?).map_err(io)?.last.unwrap_or_default())
}

//! Checks the chain over all files of a log, from the oldest to the end, and says file and line of what is wrong.
//!
//! One finding does not hide the next: after a line that does not fit, the check goes on from that line. It changes
//! nothing, and may run while the log is written.

use super::AuditError;
use super::file::{self, At, Header};
use super::line::{self, Anchor, LINE_MAX, Parts, own};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The files, oldest first.
    pub files: Vec<PathBuf>,
    /// Lines read.
    pub lines: u64,
    /// The first line.
    pub first: Option<Mark>,
    /// The last line.
    pub last: Option<Mark>,
    /// What is wrong, in the order of the files. Empty: the log is whole.
    pub problems: Vec<Problem>,
    /// What is worth knowing and is not wrong.
    pub notes: Vec<Note>,
}

impl Report {
    /// Whether nothing is wrong.
    pub fn is_whole(&self) -> bool {
        self.problems.is_empty()
    }
}

/// A line by its number and time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Mark {
    /// Its `seq`.
    pub seq: u64,
    /// Its `time`.
    pub time: String,
}

/// Something wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The file.
    pub file: PathBuf,
    /// The line in it, from 1: the first at which it shows.
    pub line: u64,
    /// What.
    #[serde(flatten)]
    pub kind: ProblemKind,
}

/// What can be wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ProblemKind {
    /// The line, or its hash, or the hash of the line before was changed.
    Altered {
        /// Its number.
        seq: u64,
    },
    /// Lines before this one are not there.
    Removed {
        /// The first that is missing.
        from: u64,
        /// The last that is missing.
        to: u64,
    },
    /// The line stood elsewhere.
    Reordered {
        /// Its number.
        seq: u64,
    },
    /// A line of that number was there before.
    Repeated {
        /// Its number.
        seq: u64,
    },
    /// Bytes that are no line and that no power cut explains.
    NotALine {
        /// How many.
        bytes: u64,
    },
    /// The file does not begin where the one before it ends.
    CarryOver {
        /// The last line of the file before.
        ends: u64,
        /// The line this file says it follows.
        follows: u64,
    },
    /// The first files are missing, and no line says that they were removed.
    FilesMissing {
        /// The last line that is missing.
        to: u64,
    },
    /// The end is missing: the anchor knows of later lines.
    CutTail {
        /// How many lines.
        missing: u64,
    },
    /// The line is not the one the anchor vouches for: the chain was written anew.
    NotAnchored {
        /// Its number.
        seq: u64,
    },
    /// The daemon itself found the log cut when it started or while it ran.
    FoundCut {
        /// What it says of it.
        reason: String,
    },
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: ", self.file.display(), self.line)?;
        match &self.kind {
            ProblemKind::Altered { seq } => write!(f, "line {seq} or the hash before it was altered"),
            ProblemKind::Removed { from, to } if from == to => write!(f, "line {from} was removed before this one"),
            ProblemKind::Removed { from, to } => write!(f, "lines {from} to {to} were removed before this one"),
            ProblemKind::Reordered { seq } => write!(f, "line {seq} is out of order"),
            ProblemKind::Repeated { seq } => write!(f, "there was a line {seq} before"),
            ProblemKind::NotALine { bytes } => write!(f, "{bytes} bytes that are no line"),
            ProblemKind::CarryOver { ends, follows } => {
                write!(f, "the file says it follows line {follows}, the one before it ends with another line {ends}")
            }
            ProblemKind::FilesMissing { to } => write!(f, "the files with the lines up to {to} are missing"),
            ProblemKind::CutTail { missing } => write!(f, "the end was cut: {missing} lines are missing"),
            ProblemKind::NotAnchored { seq } => write!(f, "line {seq} is not the one that was anchored"),
            ProblemKind::FoundCut { reason } => write!(f, "the log had been cut: {reason}"),
        }
    }
}

/// Something worth knowing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Note {
    /// The file.
    pub file: PathBuf,
    /// The line in it, from 1.
    pub line: u64,
    /// What.
    pub text: String,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file.display(), self.line, self.text)
    }
}

/// Checks the log and all its rotated files; with an `anchor`, that it is a beginning of this log and not less.
///
/// # Errors
/// [`AuditError::Open`] if a file cannot be read; [`AuditError::NotALog`], [`AuditError::UnknownFormat`] for a file
/// that is something else. What is wrong with the lines is no error but in the report.
pub fn verify(log: &Path, anchor: Option<Anchor>) -> Result<Report, AuditError> {
    let mut check = Check::new(anchor);
    for (name, file) in pieces(log)? {
        check.file(&name, &file)?;
    }
    Ok(check.finish())
}

/// The files, opened, oldest first. The current one is opened first, so that a rotation meanwhile hides none.
fn pieces(log: &Path) -> Result<Vec<(PathBuf, File)>, AuditError> {
    let open = |name: &Path| File::open(name).map_err(|e| AuditError::open(name, e));
    let current = open(log)?;
    let meta = |name: &Path, file: &File| file.metadata().map_err(|e| AuditError::open(name, e));
    let this = meta(log, &current)?;
    let mut pieces = vec![];
    for (_, name) in file::rotated(log)? {
        let file = open(&name)?;
        if file::same(&meta(&name, &file)?, &this) {
            break;
        }
        pieces.push((name, file));
    }
    pieces.push((log.to_owned(), current));
    Ok(pieces)
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
    /// Where a file said it began, when no file was before it, until a line says why.
    unexplained: Option<Anchor>,
    file: usize,
    line: u64,
    /// For sorting: a removed line is only known as removed at the end.
    found: Vec<(usize, u64, ProblemKind)>,
}

/// Bytes that are no line, until the next line tells what they are.
struct Odd {
    line: u64,
    bytes: u64,
    digest: Sha256,
    newline: bool,
}

impl Check {
    fn new(anchor: Option<Anchor>) -> Self {
        let report = Report { files: vec![], lines: 0, first: None, last: None, problems: vec![], notes: vec![] };
        Check {
            report,
            anchor,
            at: Anchor::default(),
            missing: vec![],
            jump: None,
            odd: None,
            unexplained: None,
            file: 0,
            line: 0,
            found: vec![],
        }
    }

    fn file(&mut self, name: &Path, file: &File) -> Result<(), AuditError> {
        let io = |e| AuditError::open(name, e);
        self.end_of_file(false);
        self.file = self.report.files.len();
        self.report.files.push(name.to_owned());
        self.line = 0;
        let mut from_start = BufReader::with_capacity(1 << 18, At { file, offset: 0 });
        let mut bytes = vec![];
        loop {
            bytes.clear();
            if from_start.by_ref().take(LINE_MAX as u64).read_until(b'\n', &mut bytes).map_err(io)? == 0 {
                return Ok(());
            }
            let whole = bytes.pop_if(|b| *b == b'\n').is_some();
            self.line += 1;
            if self.line == 1 {
                self.header(name, &bytes)?;
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
        if self.file == 0 {
            self.at = previous;
            self.unexplained = (previous.count > 0).then_some(previous);
            self.compare_anchor();
        } else if previous != self.at {
            self.problem(ProblemKind::CarryOver { ends: self.at.count, follows: previous.count });
            self.at = previous;
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
            self.missing.push((expected..=parts.seq - 1, self.file, self.line));
            self.jump = Some(self.at.count);
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
            file: String,
            #[serde(default)]
            last_count: u64,
            #[serde(default)]
            last_head: String,
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
                self.note(format!("{} was removed as configured, up to line {}", said.file, said.last_count));
                let head = line::parse_hex(said.last_head.as_bytes()).unwrap_or_default();
                if self.unexplained == Some(Anchor { count: said.last_count, head }) {
                    self.unexplained = None;
                }
            }
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
            Some(torn) if torn.bytes == odd.bytes && line::parse_hex(torn.digest.as_bytes()) == Some(digest) => {
                let text = format!(
                    "half a line of {} bytes, as a power cut leaves it, closed off at the next start",
                    odd.bytes
                );
                self.report.notes.push(Note { file: self.name(), line: odd.line, text });
            }
            _ => self.found.push((self.file, odd.line, ProblemKind::NotALine { bytes: odd.bytes })),
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
        if let Some(before) = self.unexplained {
            self.found.push((0, 1, ProblemKind::FilesMissing { to: before.count }));
        }
        self.found.sort_by_key(|(file, line, _)| (*file, *line));
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
        self.found.push((self.file, self.line, kind));
    }

    fn note(&mut self, text: String) {
        self.report.notes.push(Note { file: self.name(), line: self.line, text });
    }

    fn name(&self) -> PathBuf {
        self.report.files.get(self.file).cloned().unwrap_or_default()
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

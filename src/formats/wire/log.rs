//! The audit log over the control socket: a part of its lines, and what a check of it found.
//!
//! Owns the types. The lines travel as they are in the files.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::PathBuf;

/// The lines of the log, from a place to its end, in parts: to be called with `more`. Exactly one of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogRead {
    /// The last lines, as many as this, of older files too.
    #[serde(default)]
    pub last: Option<u64>,
    /// From where an earlier answer ended.
    #[serde(default)]
    pub from: Option<LogPlace>,
}

/// A place between two lines of the log. What it names may be gone; then the next that is there is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogPlace {
    /// The number of the first line of a file.
    pub file: u64,
    /// Bytes of that file, uncompressed.
    pub offset: u64,
}

/// Some of the lines, and where the next are.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LogLines {
    /// The lines, without their newlines. What is no line is here too, with its odd bytes replaced.
    pub lines: Vec<String>,
    /// Where the next one begins; in the last part alone.
    #[serde(default)]
    pub next: Option<LogPlace>,
}

/// Checks the chain over all files, and its end against what the store vouches for.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogVerify {}

/// What a check found, and how much of the log was vouched for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogVerified {
    /// How many lines the daemon vouches for.
    pub anchored: u64,
    /// What it found.
    pub report: LogReport,
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogReport {
    /// The files, oldest first.
    pub files: Vec<PathBuf>,
    /// Lines read.
    pub lines: u64,
    /// The first line.
    pub first: Option<LogMark>,
    /// The last line.
    pub last: Option<LogMark>,
    /// What is wrong, in the order of the files. Empty: the log is whole.
    pub problems: Vec<LogProblem>,
    /// What is worth knowing and is not wrong.
    pub notes: Vec<LogNote>,
}

impl LogReport {
    /// Whether nothing is wrong.
    pub fn is_whole(&self) -> bool {
        self.problems.is_empty()
    }
}

/// A line by its number and time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogMark {
    /// Its `seq`.
    pub seq: u64,
    /// Its `time`.
    pub time: String,
}

/// Something wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogProblem {
    /// The file.
    pub file: PathBuf,
    /// The line in it, from 1: the first at which it shows.
    pub line: u64,
    /// What.
    #[serde(flatten)]
    pub kind: LogProblemKind,
}

/// What can be wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum LogProblemKind {
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
    /// Files are missing, and nothing says that they were removed by rule.
    FilesMissing {
        /// The first line that is missing.
        from: u64,
        /// The last line that is missing.
        to: u64,
    },
    /// What is noted of files that were removed by rule is not what the log vouches for.
    AnchorsAltered,
    /// A compressed file that does not unpack.
    Damaged {
        /// Why.
        reason: String,
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
    /// The check counted no more than so many, and goes on: where it ran for somebody else.
    More {
        /// How many more there were.
        problems: u64,
    },
    /// The daemon itself found the log cut when it started or while it ran.
    FoundCut {
        /// What it says of it.
        reason: String,
    },
}

impl fmt::Display for LogProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: ", self.file.display(), self.line)?;
        match &self.kind {
            LogProblemKind::Altered { seq } => write!(f, "line {seq} or the hash before it was altered"),
            LogProblemKind::Removed { from, to } if from == to => write!(f, "line {from} was removed before this one"),
            LogProblemKind::Removed { from, to } => write!(f, "lines {from} to {to} were removed before this one"),
            LogProblemKind::Reordered { seq } => write!(f, "line {seq} is out of order"),
            LogProblemKind::Repeated { seq } => write!(f, "there was a line {seq} before"),
            LogProblemKind::NotALine { bytes } => write!(f, "{bytes} bytes that are no line"),
            LogProblemKind::CarryOver { ends, follows } => {
                write!(f, "the file says it follows line {follows}, the one before it ends with another line {ends}")
            }
            LogProblemKind::FilesMissing { from, to } => {
                write!(f, "the files with the lines {from} to {to} are missing, and were not removed by rule")
            }
            LogProblemKind::AnchorsAltered => f.write_str(
                "the file of anchors is not what this line vouches for: what was removed by rule is not known",
            ),
            LogProblemKind::Damaged { reason } => write!(f, "the file does not unpack from here on: {reason}"),
            LogProblemKind::CutTail { missing } => write!(f, "the end was cut: {missing} lines are missing"),
            LogProblemKind::NotAnchored { seq } => write!(f, "line {seq} is not the one that was anchored"),
            LogProblemKind::More { problems } => write!(f, "and {problems} problems more"),
            LogProblemKind::FoundCut { reason } => write!(f, "the log had been cut: {reason}"),
        }
    }
}

/// Something worth knowing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogNote {
    /// The file.
    pub file: PathBuf,
    /// The line in it, from 1.
    pub line: u64,
    /// What.
    pub text: String,
}

impl fmt::Display for LogNote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file.display(), self.line, self.text)
    }
}

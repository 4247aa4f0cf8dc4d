//! The audit log's reading side. A placeholder with the signatures that the command line uses.

use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Why the log cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("the audit log is not built in")]
pub struct AuditError;

/// How far the chain goes.
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs)]
pub struct Anchor {
    pub count: u64,
    pub head: [u8; 32],
}

/// What a check found.
#[derive(Debug, Clone, Serialize)]
#[allow(missing_docs)]
pub struct Report {
    pub files: Vec<PathBuf>,
    pub lines: u64,
    pub first: Option<Mark>,
    pub last: Option<Mark>,
    pub problems: Vec<String>,
    pub notes: Vec<String>,
}

/// A line by its number and time.
#[derive(Debug, Clone, Serialize)]
#[allow(missing_docs)]
pub struct Mark {
    pub seq: u64,
    pub time: String,
}

/// Whether it was allowed.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Decision {
    Allowed,
    Denied,
}

#[allow(missing_docs)]
impl Decision {
    pub fn as_str(self) -> &'static str {
        match self {
            Decision::Allowed => "allowed",
            Decision::Denied => "denied",
        }
    }
}

/// A line.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Record {
    pub time: String,
    pub seq: u64,
    pub op: String,
    pub path: Option<String>,
    pub version: Option<u64>,
    pub uid: Option<u32>,
    pub pid: Option<u32>,
    pub exe: Option<String>,
    pub unit: Option<String>,
    pub container: Option<String>,
    pub decision: Option<Decision>,
    pub reason: Option<String>,
    pub errno: Option<String>,
    pub count: Option<u64>,
}

#[allow(missing_docs)]
impl Record {
    pub fn parse(line: &[u8]) -> Option<Self> {
        serde_json::from_slice(line).ok()
    }
}

#[allow(missing_docs, clippy::missing_errors_doc)]
pub fn verify(_: &Path, _: Option<Anchor>) -> Result<Report, AuditError> {
    Err(AuditError)
}

/// The lines as they are written.
pub struct Follow;

#[allow(missing_docs, clippy::missing_errors_doc)]
impl Follow {
    pub fn open(_: &Path, _last: usize) -> Result<Self, AuditError> {
        Err(AuditError)
    }
    pub fn read(&mut self) -> Result<Vec<String>, AuditError> {
        Err(AuditError)
    }
}

impl Iterator for Follow {
    type Item = Result<String, AuditError>;
    fn next(&mut self) -> Option<Self::Item> {
        None
    }
}

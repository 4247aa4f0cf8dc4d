//! The audit log: one hash-chained JSON Lines file that says who was let in, who was not, and who changed what.
//!
//! Owns the file, its rotation, the chain, the queue of refusals, and what checks them. It never holds content of a
//! secret and decides nothing; what happens when the file cannot be written is its caller's setting. `docs/audit.md`
//! defines the format.

mod anchors;
mod bell;
mod chain;
mod event;
mod file;
mod keeper;
mod line;
mod log;
mod part;
mod queue;
mod read;
mod repeats;
mod reserve;
mod rotated;
mod space;
#[cfg(test)]
mod space_test;
mod tell;
#[cfg(test)]
mod tests;
mod verify;
mod writer;

pub use event::{Decision, Event, Operation};
pub use line::{Anchor, Durable, FORMAT, Record};
pub use log::{Log, Settings, WhenFull};
pub use part::{Reading, begin, read_from};
pub use queue::Waiting;
pub use read::{Follow, recent};
pub use reserve::Room;
pub use verify::{last, verify, verify_for};

use std::io;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Why the audit log could not be opened, written or read.
#[derive(Debug, Error)]
pub enum AuditError {
    /// It could not be opened, made, listed or read.
    #[error("the audit log '{}': {source}", path.display())]
    Open {
        /// The file or its folder.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A line could not be written: what was to be recorded is not. With [`WhenFull::Refuse`] what was to be allowed
    /// must be refused.
    #[error("cannot write to the audit log '{}': {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's reason, often ENOSPC.
        source: io::Error,
    },
    /// Another process writes to it.
    #[error("the audit log '{}' is in use by another process", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// There is a file of that name that pinfold did not write, or whose first line is damaged. It is left alone.
    #[error("'{}' is not an audit log of pinfold: move it away, a new one is begun", path.display())]
    NotALog {
        /// The file.
        path: PathBuf,
    },
    /// Its format is of another version.
    #[error("the audit log '{}' has the format '{format}', which this version does not know", path.display())]
    UnknownFormat {
        /// The file.
        path: PathBuf,
        /// What its first line says.
        format: String,
    },
}

impl AuditError {
    fn open(path: &Path, source: io::Error) -> Self {
        AuditError::Open { path: path.into(), source }
    }

    /// Whether the disk, or a quota on it, is full.
    pub fn is_full(&self) -> bool {
        use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
        matches!(self, AuditError::Write { source, .. }
            if matches!(source.kind(), StorageFull | QuotaExceeded | FileTooLarge))
    }
}

//! Why the store did not do what was asked.

use std::io;
use std::path::PathBuf;
use thiserror::Error;

/// Why the store did not do what was asked.
#[derive(Debug, Error)]
pub enum StoreError {
    /// There is no store in that folder.
    #[error("{} is not a pinfold store", .0.display())]
    NotAStore(PathBuf),
    /// A store, or something else, is in that folder already.
    #[error("{} exists and is not empty", .0.display())]
    Exists(PathBuf),
    /// Somebody else could have put it there, or could change it.
    #[error("the store {} is not root's alone: {why}", .store.display())]
    Unsafe {
        /// The store's folder.
        store: PathBuf,
        /// Who could, and where.
        why: String,
    },
    /// Another process has it open.
    #[error("the store {} is in use{}", .store.display(), .pid.map(|p| format!(" by process {p}")).unwrap_or_default())]
    InUse {
        /// The store's folder.
        store: PathBuf,
        /// Who, if it says so.
        pid: Option<u32>,
    },
    /// Its format is of a version that this pinfold does not know.
    #[error("the store has format {0:?}, which this pinfold does not know")]
    UnknownFormat(String),
    /// Something was altered, lost or rolled back.
    #[error("damaged store: {0}")]
    Damaged(String),
    /// The disk is full, or so nearly full that a commit might not end well. Nothing was changed.
    #[error("no space left for the store")]
    NoSpace,
    /// A backup that is cut short, altered, or none at all. Nothing was restored.
    #[error("not a whole backup: {0}")]
    BadBackup(String),
    /// The disk or the filesystem failed.
    #[error("the store cannot be read or written: {0}")]
    Io(#[from] io::Error),
    /// Asked at the wrong time, or the database gave up; says what and what helps.
    #[error("{0}")]
    Failed(String),
}

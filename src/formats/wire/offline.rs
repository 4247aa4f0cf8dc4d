//! Words of the commands that work without a daemon: init and restore.
//!
//! Owns the types only. They are here, not in `daemon`, because the command line fills and prints them.

use crate::secret::Secret;
use serde::Serialize;
use std::path::PathBuf;

/// How `init` protects the store's identity.
#[derive(Debug)]
pub enum Protection {
    /// `identity.age` in the store, encrypted with this.
    Passphrase(Secret),
    /// An unencrypted identity file, 0600, made at this path.
    Keyfile(PathBuf),
}

/// Who will be able to bring the store back.
#[derive(Debug)]
pub enum NewRecovery {
    /// This age recipient; its identity is somewhere else already.
    Recipient(String),
    /// A new identity, written to this path, 0600.
    Out(PathBuf),
}

/// What `init` made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct InitReport {
    /// The store's folder.
    pub store: String,
    /// The identity file that opens it.
    pub identity: String,
    /// The recovery recipient.
    pub recovery: String,
    /// Where the recovery identity was written, if it was made.
    pub recovery_file: Option<String>,
}

/// What `restore` brought back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RestoreReport {
    /// The store's folder.
    pub store: String,
    /// The generation that was in the backup.
    pub generation: u64,
    /// Nodes in it.
    pub nodes: u64,
    /// Blobs in it.
    pub blobs: u64,
}

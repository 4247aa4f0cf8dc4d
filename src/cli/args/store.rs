//! The grammar of the commands about a whole store: init, recovery, fsck, backup, restore.
//!
//! Owns names, flags and their help.

use super::Json;
use super::Key;
use clap::{Args, Subcommand};
use std::path::PathBuf;

/// `init`
#[derive(Debug, Args)]
pub struct Init {
    /// Encrypt the identity with the passphrase in FILE, less one newline at its end; - is stdin
    #[arg(long, value_name = "FILE", conflicts_with = "keyfile")]
    pub passphrase_file: Option<PathBuf>,
    /// Make the identity an unencrypted FILE, 0600
    #[arg(long, value_name = "FILE")]
    pub keyfile: Option<PathBuf>,
    /// Let the owner of this recipient (age1…, age1tag1…, age1tagpq1…, ssh-ed25519) bring the store back
    #[arg(long, value_name = "RECIPIENT", required_unless_present = "recovery_out", conflicts_with = "recovery_out")]
    pub recovery: Option<String>,
    /// Make a recovery key and write it to FILE, 0600
    #[arg(long, value_name = "FILE")]
    pub recovery_out: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `recovery`
#[derive(Debug, Args)]
pub struct Recovery {
    /// What to do
    #[command(subcommand)]
    pub action: RecoveryAction,
}

/// What can be done with recipients.
#[derive(Debug, Subcommand)]
pub enum RecoveryAction {
    /// Seal everything to one more recipient (age1…, age1tag1…, age1tagpq1…, ssh-ed25519)
    Add {
        /// Who
        recipient: String,
        /// Have no other any more
        #[arg(long)]
        only: bool,
        /// What opens the store, as proof
        #[command(flatten)]
        key: Key,
    },
    /// Seal everything anew without a recipient
    Rm {
        /// Who
        recipient: String,
        /// What opens the store, as proof
        #[command(flatten)]
        key: Key,
    },
    /// List them
    Ls(Json),
    /// Write the escrow to stdout: `age -d` opens it with a recovery key, and what that prints opens the store
    Escrow,
}

/// `fsck`
#[derive(Debug, Args)]
pub struct Fsck {
    /// Open each sealed file too, not only compare its digest
    #[arg(long, conflicts_with = "extract")]
    pub deep: bool,
    /// Write the sealed file of a secret to stdout: `age -d -i recovery.key` opens it
    #[arg(long, value_name = "PATH")]
    pub extract: Option<String>,
    /// Which version of it [default: the current one]
    #[arg(long, value_name = "N", requires = "extract")]
    pub version: Option<u64>,
    /// What opens the store when no daemon runs; with --extract also when one does, as proof.
    #[command(flatten)]
    pub key: Key,
    /// Print JSON
    #[arg(long, conflicts_with = "extract")]
    pub json: bool,
}

/// `backup`
#[derive(Debug, Args)]
pub struct Backup {
    /// Where to; - is stdout
    pub file: PathBuf,
    /// Replace the file if there is one
    #[arg(long)]
    pub force: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `restore`
#[derive(Debug, Args)]
pub struct Restore {
    /// Where from; - is stdin
    pub file: PathBuf,
    /// What opens it, to check it before it counts.
    #[command(flatten)]
    pub key: Key,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

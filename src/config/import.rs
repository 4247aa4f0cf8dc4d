//! What a host takes from consoles: `[import]` and `[accounts]`.
//!
//! Owns these two tables and their bounds.

use super::units;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::Duration;

/// The `[import]` table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ImportFrom {
    /// The largest bundle, in bytes.
    #[serde(deserialize_with = "units::max_bundle_size")]
    pub max_size: u64,
    /// The most entries of one bundle.
    #[serde(deserialize_with = "units::max_secrets")]
    pub max_entries: u64,
    /// How far the clocks of console and host may differ.
    #[serde(deserialize_with = "units::unlock_timeout", serialize_with = "units::write_duration")]
    pub skew: Duration,
    /// Whether the rest is applied if some entries are refused.
    pub partial: bool,
    /// Whether a bundle may say which units are told of a change.
    pub on_change: bool,
    /// The SSH host key that bundles are sealed to, in the place of a key of pinfold's own.
    #[serde(deserialize_with = "units::maybe_path")]
    pub identity: Option<PathBuf>,
    /// The account that uploads into the inbox.
    #[serde(deserialize_with = "units::user")]
    pub upload_user: Option<String>,
    /// A folder that gets a copy of each acknowledgement, for the console to fetch.
    #[serde(deserialize_with = "units::maybe_path")]
    pub ack_dir: Option<PathBuf>,
}

impl Default for ImportFrom {
    fn default() -> Self {
        ImportFrom {
            max_size: 256 << 20,
            max_entries: 100_000,
            skew: Duration::from_secs(300),
            partial: false,
            on_change: false,
            identity: None,
            upload_user: None,
            ack_dir: None,
        }
    }
}

/// The `[accounts]` table. Without a group there are no accounts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AccountsOf {
    /// The group of the admins of bundles.
    #[serde(deserialize_with = "units::group")]
    pub group: Option<String>,
    /// The folder of their homes, or the home that they share; without it they have `/nonexistent`.
    #[serde(deserialize_with = "units::maybe_path")]
    pub home: Option<PathBuf>,
    /// Which of the two.
    pub homes: Homes,
    /// The first uid that an account may get.
    #[serde(deserialize_with = "units::first_uid")]
    pub first_uid: u32,
    /// Their shell; `/bin/sh` without one.
    #[serde(deserialize_with = "units::maybe_path")]
    pub shell: Option<PathBuf>,
    /// Whether the sessions of an admin who is gone are ended.
    pub end_sessions: bool,
}

/// What homes the accounts of admins have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Homes {
    /// Each has its own, 0700, below a folder of root's.
    #[default]
    Own,
    /// All share one of root's, 0750: nobody writes there.
    Shared,
    /// All share one that all of them write, 2770. What one leaves there runs, and logs in, as the others.
    Writable,
}

impl Default for AccountsOf {
    fn default() -> Self {
        AccountsOf { group: None, home: None, homes: Homes::Own, first_uid: 70_000, shell: None, end_sessions: false }
    }
}

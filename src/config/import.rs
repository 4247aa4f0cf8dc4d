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
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AccountsOf {
    /// The group of the admins of bundles.
    #[serde(deserialize_with = "units::group")]
    pub group: Option<String>,
    /// Their home, which they share; `/nonexistent` without one.
    #[serde(deserialize_with = "units::maybe_path")]
    pub home: Option<PathBuf>,
    /// Their shell; `/bin/sh` without one.
    #[serde(deserialize_with = "units::maybe_path")]
    pub shell: Option<PathBuf>,
    /// Whether the sessions of an admin who is gone are ended.
    pub end_sessions: bool,
}

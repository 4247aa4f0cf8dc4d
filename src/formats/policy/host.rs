//! A `host` line: a name, a recipient, and what is special about delivering to it.
//!
//! Owns the keys and what their values may look like. Whether an address or a key is good is for those who use it.

use super::Because;
use crate::model::{HostName, parse_duration};
use std::collections::BTreeMap;
use std::time::Duration;

/// Whether a value is one.
type Good = fn(&str) -> bool;

/// The keys, each with what its value is.
const KEYS: &[(&str, &str, Good)] = &[
    ("ack", "the host's key for acknowledgements, as ssh-ed25519:AAAA…", |v| {
        v.strip_prefix("ssh-ed25519:").is_some_and(|key| !key.is_empty())
    }),
    ("ack-from", "where acknowledgements are fetched from: dir:/… , sftp://… or exec:/…", is_address),
    ("after", "the absolute path of a program", is_program),
    ("before", "the absolute path of a program", is_program),
    ("deliver", "dir:/… , sftp://user@host[:port]/… or exec:/…", is_address),
    ("expires", "a duration from 1m to 3650d", |v| expiry(v).is_some()),
    ("on-change", "yes or no", |v| matches!(v, "yes" | "no")),
    ("retries", "a number from 0 to 100", |v| retries(v).is_some()),
    ("user-prefix", "the beginning of a user's name, of 1 to 16 characters", |v| {
        super::parse::is_user(v) && v.len() <= 16
    }),
];

fn is_address(value: &str) -> bool {
    ["dir:/", "sftp://", "exec:/"].iter().any(|scheme| value.len() > scheme.len() && value.starts_with(scheme))
}

fn is_program(value: &str) -> bool {
    value.len() > 1 && value.starts_with('/') && !value.split('/').any(|name| name == "..")
}

fn expiry(value: &str) -> Option<Duration> {
    parse_duration(value).filter(|d| (60..=3650 * 86_400).contains(&d.as_secs()))
}

fn retries(value: &str) -> Option<u32> {
    value.parse().ok().filter(|n| *n <= 100 && !value.starts_with('+'))
}

/// A host that gets bundles.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Its name.
    pub name: HostName,
    /// To whom its bundles are encrypted, as it is written: `age1…` or `ssh-ed25519 AAAA…`.
    pub recipient: String,
    /// How its bundles are delivered, as it is written.
    pub deliver: Option<String>,
    /// What is put before the names of its admins.
    pub user_prefix: Option<String>,
    /// The key that signs its acknowledgements, as it is written.
    pub ack: Option<String>,
    /// All that is said of it, `deliver`, `user-prefix` and `ack` too, by key. Known keys only.
    pub options: BTreeMap<String, String>,
    /// The line, and what stands behind its `#`.
    pub because: Because,
    /// Where in the line things are: `name`, `recipient`, and the values of options.
    pub(super) columns: BTreeMap<String, u32>,
}

impl Host {
    /// Where acknowledgements are fetched from.
    pub fn ack_from(&self) -> Option<&str> {
        self.option("ack-from")
    }

    /// The program that is run before each delivery.
    pub fn before(&self) -> Option<&str> {
        self.option("before")
    }

    /// The program that is run after each delivery.
    pub fn after(&self) -> Option<&str> {
        self.option("after")
    }

    /// Whether its secrets take `user.pinfold.on-change` along.
    pub fn on_change(&self) -> bool {
        self.option("on-change") == Some("yes")
    }

    /// For how long its bundles are good, if not for as long as is configured.
    pub fn expires(&self) -> Option<Duration> {
        self.option("expires").and_then(expiry)
    }

    /// How often a delivery that failed is tried again, if not as often as is usual.
    pub fn retries(&self) -> Option<u32> {
        self.option("retries").and_then(retries)
    }

    /// The column of an option's value, or of what is no option: `name`, `recipient`. For an error about it.
    pub fn column(&self, key: &str) -> u32 {
        self.columns.get(key).copied().unwrap_or(1)
    }

    fn option(&self, key: &str) -> Option<&str> {
        self.options.get(key).map(String::as_str)
    }
}

/// Whether this can be said of a host; if not, why.
pub(super) fn check(key: &str, value: &str) -> Result<(), String> {
    match KEYS.iter().find(|(known, ..)| *known == key) {
        None => {
            let known: Vec<&str> = KEYS.iter().map(|(known, ..)| *known).collect();
            Err(format!("unknown key '{key}'; known are {}", known.join(", ")))
        }
        Some((_, what, good)) if !good(value) => Err(format!("'{key}' is {what}")),
        Some(_) => Ok(()),
    }
}

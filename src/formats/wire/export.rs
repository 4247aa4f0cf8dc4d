//! Bundles for other hosts: the requests of a console's admin, and what the daemon answers.
//!
//! Owns the types; their names on the wire are in `methods`.

use super::base64;
use crate::model::Timestamp;
use crate::secret::Secret;
use crate::times;
use serde::{Deserialize, Serialize};

/// Makes the bundles of these hosts, or of all, as far as their content is not what was sent last.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Export {
    /// Which; all if null or empty.
    #[serde(default)]
    pub hosts: Option<Vec<String>>,
    /// Whether one is made though its content is what was sent last.
    #[serde(default)]
    pub again: Option<bool>,
}

/// What would change for these hosts, or all. With `more` the answer comes in parts, a host each.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExportPreview {
    /// Which; all if null or empty.
    #[serde(default)]
    pub hosts: Option<Vec<String>>,
}

/// As [`Export`], signed with the key under this passphrase.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExportSign {
    /// Which; all if null or empty.
    #[serde(default)]
    pub hosts: Option<Vec<String>>,
    /// The passphrase of the signing key, base64 on the wire.
    #[serde(with = "base64::maybe_secret", default, skip_serializing_if = "Option::is_none")]
    pub passphrase: Option<Secret>,
}

/// What became of each host.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Exported {
    /// In the policy's order.
    pub hosts: Vec<ExportedHost>,
}

/// What became of one host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportedHost {
    /// Which.
    pub host: String,
    /// What became of it.
    pub state: ExportState,
    /// The serial number of its newest bundle.
    pub serial: Option<u64>,
    /// Why there is none.
    pub error: Option<String>,
}

/// What became of a host's bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExportState {
    /// A new one was made.
    Made,
    /// Its content is what was sent last.
    Unchanged,
    /// It waits for `pinfold export sign`.
    Unsigned,
    /// It could not be made.
    Failed,
}

/// What would change.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Previews {
    /// In the policy's order.
    pub hosts: Vec<PreviewHost>,
}

/// What would change for one host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreviewHost {
    /// Which.
    pub host: String,
    /// How many entries its bundle would have.
    pub entries: u64,
    /// Why none can be made.
    pub error: Option<String>,
    /// Against the last bundle; sorted by path.
    pub changes: Vec<PreviewChange>,
}

/// One entry that would change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreviewChange {
    /// What becomes of it.
    pub change: Difference,
    /// A path of the tree; null for an admin.
    pub path: Option<String>,
    /// An admin whose keys or rights change.
    pub admin: Option<String>,
    /// The line of the policy that says so; null for what goes, and for directories on the way.
    pub line: Option<u32>,
    /// The pattern on that line, or what is written behind its `#`.
    pub rule: Option<String>,
}

/// What becomes of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Difference {
    /// It is new there.
    Added,
    /// It is another one.
    Changed,
    /// It goes.
    Removed,
}

/// The hosts of the policy. With `more` the answer comes in parts.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GetHosts {}

/// The hosts, in the policy's order.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct HostListing {
    /// One for each.
    pub hosts: Vec<HostInfo>,
}

/// A host, and how far its bundles got.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct HostInfo {
    /// Its name.
    pub host: String,
    /// The serial number of its newest bundle; null for none.
    pub serial: Option<u64>,
    /// When that was made.
    #[serde(with = "times::maybe", default)]
    pub made: Option<Timestamp>,
    /// How bundles get there: `dir:…`, `sftp:…`, `exec:…`; null if nobody brings them.
    pub deliver: Option<String>,
    /// The last one that was delivered.
    pub delivered: Option<u64>,
    /// When that was.
    #[serde(with = "times::maybe", default)]
    pub delivered_at: Option<Timestamp>,
    /// The last one it acknowledged.
    pub acknowledged: Option<u64>,
    /// When it was applied there.
    #[serde(with = "times::maybe", default)]
    pub acknowledged_at: Option<Timestamp>,
    /// What it said: `applied`, `partial: …`, `refused: …`.
    pub outcome: Option<String>,
    /// The fingerprint of the signing key of what it acknowledged: it trusts that one, or a later one.
    pub trusts: Option<String>,
    /// Whether that is the key that signs now; null if nothing was acknowledged.
    pub trusts_current: Option<bool>,
    /// Whether a bundle waits for a signature.
    pub unsigned: bool,
    /// Tries to deliver the newest one that failed.
    pub tries: u32,
    /// When it is tried again.
    #[serde(with = "times::maybe", default)]
    pub next_try: Option<Timestamp>,
    /// What is wrong.
    pub error: Option<String>,
    /// What is to be known besides: secrets that were left out.
    pub notes: Vec<String>,
}

/// The signing keys.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignerList {}

/// Makes the first signing key, or takes the configured agent's.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignerInit {
    /// The passphrase it is to be kept under, where the configuration says `manual`; base64 on the wire.
    #[serde(with = "base64::maybe_secret", default, skip_serializing_if = "Option::is_none")]
    pub passphrase: Option<Secret>,
}

/// Makes the next signing key, vouched for by the one before.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignerRotate {
    /// The passphrase of the key that signs now, if it has one; base64 on the wire.
    #[serde(with = "base64::maybe_secret", default, skip_serializing_if = "Option::is_none")]
    pub old_passphrase: Option<Secret>,
    /// The passphrase of the next, where the configuration says `manual`; base64 on the wire.
    #[serde(with = "base64::maybe_secret", default, skip_serializing_if = "Option::is_none")]
    pub passphrase: Option<Secret>,
}

/// Tells every host to trust a former key no longer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignerRevoke {
    /// Which: `SHA256:…`.
    pub fingerprint: String,
}

/// The signing keys, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SignerListing {
    /// What this console is called in its bundles.
    pub console: String,
    /// One for each.
    pub signers: Vec<SignerInfo>,
}

/// A signing key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignerInfo {
    /// Its place in the chain, from 0.
    pub number: u64,
    /// `SHA256:…`.
    pub fingerprint: String,
    /// `ssh-ed25519 AAAA…`, for `pinfold join` and for `ssh-keygen -Y verify`.
    pub key: String,
    /// Where the private key is: `store`, `agent`, `passphrase`.
    pub kept: String,
    /// Whether it is the one that signs now.
    pub current: bool,
    /// When it was made.
    #[serde(with = "times::text")]
    pub made: Timestamp,
    /// Since when hosts are told to trust it no longer.
    #[serde(with = "times::maybe", default)]
    pub revoked: Option<Timestamp>,
}

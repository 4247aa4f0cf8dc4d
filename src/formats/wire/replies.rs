//! What the daemon answers: plain data, no secrets but in [`Revealed`].
//!
//! Field names are interface: they are what `--json` prints. Absent values are null, or left out where noted.

use super::base64;
use crate::model::{Kind, SecretPath, Timestamp};
use crate::secret::Secret;
use crate::times;
use serde::{Deserialize, Serialize};

/// No more than "done".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Done {}

/// How the daemon is. What only an unlocked store knows is null while it is locked.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Status {
    /// The daemon's version.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// Seconds since it started.
    pub uptime: u64,
    /// Whether the store's identity is not in memory.
    pub locked: bool,
    /// Since when it is locked.
    #[serde(with = "times::maybe", default)]
    pub locked_since: Option<Timestamp>,
    /// The store's folder.
    pub store: String,
    /// Where the tree is mounted.
    pub mountpoint: String,
    /// How many transactions the store has seen.
    pub generation: Option<u64>,
    /// How many secrets there are.
    pub secrets: Option<u64>,
    /// How many versions of them are kept.
    pub versions: Option<u64>,
    /// How many secrets there may be.
    pub max_secrets: u64,
    /// Whom secrets are sealed to.
    pub scopes: Vec<ScopeStatus>,
    /// Whether what is copied today can be opened by tomorrow's quantum computer, in a sentence; null while locked.
    #[serde(default)]
    pub quantum: Option<String>,
    /// Handles open on secrets at this moment.
    pub open_handles: u64,
    /// Callers that wait for an unlock.
    pub waiting: u64,
    /// Bytes of locked memory in use.
    pub arena_used: u64,
    /// Bytes of locked memory in all.
    pub arena_size: u64,
    /// The hash of the last line of the audit log, in hexadecimal.
    pub audit_head: String,
    /// How many lines the audit log has seen since the store was made.
    pub audit_count: u64,
    /// Whether the audit log's disk is full: what is reserved is all that is left.
    #[serde(default)]
    pub audit_full: bool,
    /// Bytes that are reserved for the audit log's next lines.
    #[serde(default)]
    pub audit_reserve: u64,
    /// Events that could not be recorded, and that no line tells of yet.
    #[serde(default)]
    pub audit_unrecorded: u64,
    /// Hosts that this machine is the console of; 0 while locked.
    #[serde(default)]
    pub hosts: u64,
    /// Those for which a bundle waits to be delivered or signed.
    #[serde(default)]
    pub hosts_waiting: u64,
    /// Those with something wrong.
    #[serde(default)]
    pub hosts_failing: u64,
    /// What the last look at the certificates found; null if nobody looked since the store was unlocked.
    #[serde(default)]
    pub certificates: Option<super::CertStatus>,
    /// What is used of everything that has a bound.
    #[serde(default)]
    pub limits: Vec<LimitStatus>,
}

/// What is used of one resource that has a bound, without who uses it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LimitStatus {
    /// Its name in the table of limits.
    pub name: String,
    /// What all use. Of a rate: what is not given back yet. Of what the store keeps: 0 while it is locked.
    pub used: u64,
    /// What the one uses who uses most.
    pub most: u64,
    /// What one uid may use.
    pub limit: u64,
    /// How often a bound was met since the daemon started.
    pub refused: u64,
}

/// One scope and its entry in the kernel keyring.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScopeStatus {
    /// `host`, or the container's name.
    pub name: String,
    /// The state of its entry in the kernel keyring: `alive`, `revoked`, `expired`, `missing`.
    pub key: String,
    /// The entry's serial number, for keyctl(1): root revokes it by that.
    pub serial: i32,
    /// Instances that are attached to it and may open its secrets.
    #[serde(default)]
    pub instances: u64,
}

/// What a node is, as JSON says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeKind {
    /// A directory.
    Directory,
    /// A secret.
    File,
    /// A symbolic link.
    Symlink,
}

impl From<Kind> for NodeKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Directory => NodeKind::Directory,
            Kind::File => NodeKind::File,
            Kind::Symlink => NodeKind::Symlink,
        }
    }
}

/// One line of `ls -l`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Path within the tree.
    pub path: SecretPath,
    /// What it is.
    pub kind: NodeKind,
    /// Bytes of content; the length of a symlink's target.
    pub size: u64,
    /// Permission bits, 0o1777 at most.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last change of content.
    #[serde(with = "times::text")]
    pub mtime: Timestamp,
    /// The current version of a secret; null for anything else, and for one never committed.
    pub version: Option<u64>,
    /// Whether it has an ACL that says more than the mode.
    pub acl: bool,
    /// Whether `user.pinfold.*` conditions restrict it further.
    pub conditions: bool,
    /// Where a symlink points.
    pub target: Option<String>,
    /// Whom it is sealed to: `host`, or a container's name; then owner and group are as seen inside.
    pub scope: String,
}

/// A part of a listing. Without `more` there is one part.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Listing {
    /// Sorted by path, a directory before what is in it.
    pub entries: Vec<Entry>,
}

/// A version was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Committed {
    /// Its number.
    pub version: u64,
}

/// A secret's content. The one reply that holds plaintext.
#[derive(Debug, Serialize, Deserialize)]
pub struct Revealed {
    /// The bytes, base64 on the wire.
    #[serde(with = "base64::secret")]
    pub content: Secret,
}

/// What was removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Removed {
    /// Nodes: secrets, directories, symlinks.
    pub nodes: u64,
    /// Versions that are gone for good (with `purge`).
    pub purged: u64,
}

/// The versions of one name.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct History {
    /// Newest first.
    pub versions: Vec<VersionInfo>,
}

/// One version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionInfo {
    /// Its number, from 1.
    pub number: u64,
    /// When it was committed.
    #[serde(with = "times::text")]
    pub time: Timestamp,
    /// Bytes of content.
    pub size: u64,
    /// SHA-256 of the sealed blob, in hexadecimal; says nothing of the content.
    pub digest: String,
    /// Who committed it; null if that was not recorded.
    pub uid: Option<u32>,
    /// Whether readers get this one.
    pub current: bool,
}

/// Who could open a secret, and who did.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct WhoReply {
    /// In the order in which they are judged.
    pub rules: Vec<Rule>,
    /// The last decisions about it, newest first.
    pub recent: Vec<Happened>,
}

/// One principal and the rule that decides about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// `uid 33`, `gid 3001`, `everybody else`, `root`.
    pub who: String,
    /// `owner`, `named user entry`, `only the unit nginx.service`.
    pub rule: String,
    /// Whether it may read.
    pub allowed: bool,
}

/// One decision from the audit log, as far as `who` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Happened {
    /// When.
    #[serde(with = "times::text")]
    pub time: Timestamp,
    /// What was wanted: `open`, `commit`, `remove`.
    pub operation: String,
    /// By whom.
    pub uid: u32,
    /// By which process.
    pub pid: u32,
    /// Which program, if known.
    pub exe: Option<String>,
    /// Which systemd unit, if any.
    pub unit: Option<String>,
    /// Inside which container instance, if any.
    #[serde(default)]
    pub container: Option<String>,
    /// `allowed` or `denied`.
    pub decision: String,
    /// Why not, or by which rule.
    pub reason: Option<String>,
    /// Which version.
    pub version: Option<u64>,
    /// How many such events it stands for, if not one.
    #[serde(default)]
    pub count: Option<u64>,
}

/// A point in the audit log.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LogPosition {
    /// The hash of the last line, in hexadecimal.
    pub head: String,
    /// How many lines since the store was made, rotated ones included.
    pub count: u64,
}

/// The audit log was rotated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rotated {
    /// Where the old file is now.
    pub rotated: String,
}

/// The store's keys were sealed anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resealed {
    /// How many blobs are sealed to the changed recipients.
    pub blobs: u64,
}

/// Who can bring the store back.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Recipients {
    /// Recipients: `age1…`, `age1tag1…`, `age1tagpq1…`, `ssh-ed25519 AAAA…`.
    pub recipients: Vec<String>,
}

/// What `fsck` found.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct FsckReport {
    /// How many transactions the store has seen.
    pub generation: u64,
    /// Nodes checked.
    pub nodes: u64,
    /// Blobs checked.
    pub blobs: u64,
    /// Whether blobs were opened too, not only compared with their digests.
    pub opened: bool,
    /// What is wrong; empty for a whole store.
    pub problems: Vec<Problem>,
}

/// One thing that is wrong with the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// A path, an inode, or a part of the store.
    pub what: String,
    /// What is wrong with it.
    pub problem: String,
}

/// What each recovery key opens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Escrowed {
    /// An age file with the text of an identity that opens the store, base64 on the wire.
    #[serde(with = "base64::plain")]
    pub escrow: Vec<u8>,
}

/// A blob as it lies in the store: an age file, sealed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extracted {
    /// The age file, base64 on the wire.
    #[serde(with = "base64::plain")]
    pub blob: Vec<u8>,
}

/// A part of a backup, or its end. Needs `more`: parts come with `continues`, the last one has the report and no data.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct BackupPart {
    /// Bytes of the tar, base64 on the wire.
    #[serde(with = "base64::plain", default)]
    pub data: Vec<u8>,
    /// Only in the last part.
    #[serde(default)]
    pub report: Option<BackupReport>,
}

/// A backup was written whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupReport {
    /// The generation of the store that is in it.
    pub generation: u64,
    /// Nodes in it.
    pub nodes: u64,
    /// Blobs in it.
    pub blobs: u64,
    /// Its length.
    pub bytes: u64,
}

/// The protectors of the store's identity.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Identities {
    /// Any one of them opens it.
    pub protectors: Vec<ProtectorInfo>,
}

/// One file that holds the identity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProtectorInfo {
    /// Its name.
    pub name: String,
    /// What opens it: `passphrase`, `recipient`, `token` or `unknown`.
    pub opened_by: String,
}

/// The store has a new identity.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Rekeyed {
    /// How many blobs were sealed anew.
    pub blobs: u64,
    /// The new identity's public half.
    pub recipient: String,
    /// Protectors that are gone.
    pub dropped: Vec<String>,
}

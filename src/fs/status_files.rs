//! `.pinfold`: the files in which pinfold says how it is. Made when they are opened; nobody can change them.

use super::{FsError, OpenMode};
use crate::lock::Mutex;
use crate::model::{Ino, Kind, Name, Timestamp, Uid};
use crate::vault::{Attr, Vault, VaultError};
use crate::wire::LimitStatus;
use std::collections::{HashMap, VecDeque};
use std::fmt::Write;

/// The directory's name.
pub const OWN_NAME: &str = ".pinfold";
const OWN_INO: Ino = Ino(2);
/// The files, by inode from 3 on.
const FILES: [&str; 5] = ["status", "version", "ready", "last-error", "metrics"];
/// How many users' last errors are kept.
const MAX_ERRORS: usize = 1024;

/// The directory and what it remembers.
#[derive(Default)]
pub struct Own {
    /// Each user's last error. The oldest goes first.
    errors: Mutex<(HashMap<u32, String>, VecDeque<u32>)>,
}

/// Whether the inode is one of pinfold's own.
pub(super) fn is_own(ino: Ino) -> bool {
    (OWN_INO.0..OWN_INO.0 + 1 + FILES.len() as u64).contains(&ino.0)
}

/// The root while its real attributes are unknown.
pub(super) fn locked_root() -> Attr {
    let start = Timestamp::default();
    Attr { mode: 0o705, ..directory(Ino::ROOT, start) }
}

impl Own {
    /// The node of this name.
    pub fn lookup(&self, parent: Ino, name: &[u8]) -> Option<Attr> {
        if parent == Ino::ROOT && name == OWN_NAME.as_bytes() {
            return self.attr(OWN_INO);
        }
        let at = FILES.iter().position(|file| file.as_bytes() == name).filter(|_| parent == OWN_INO)?;
        self.attr(Ino(OWN_INO.0 + 1 + at as u64))
    }

    /// The attributes, if the inode is one of ours.
    pub fn attr(&self, ino: Ino) -> Option<Attr> {
        if !is_own(ino) {
            return None;
        }
        let dir = directory(ino, Timestamp::default());
        Some(if ino == OWN_INO { dir } else { Attr { kind: Kind::File, mode: 0o444, ..dir } })
    }

    /// Its entry in the root.
    pub fn entry(&self) -> (Ino, Kind, Box<str>) {
        (OWN_INO, Kind::Directory, OWN_NAME.into())
    }

    /// The entries, if the inode is the directory.
    pub fn list(&self, ino: Ino) -> Option<Vec<(Ino, Kind, Box<str>)>> {
        let file = |(i, name): (usize, &&str)| (Ino(OWN_INO.0 + 1 + i as u64), Kind::File, (*name).into());
        (ino == OWN_INO).then(|| FILES.iter().enumerate().map(file).collect())
    }

    /// What a file says to this user, now.
    pub fn content(&self, vault: &Vault, ino: Ino, uid: Uid) -> Result<Box<[u8]>, FsError> {
        let file = ino.0.checked_sub(OWN_INO.0 + 1).and_then(|i| FILES.get(i as usize));
        let text = match *file.ok_or(VaultError::IsADirectory)? {
            "version" => format!("{}\n", env!("CARGO_PKG_VERSION")),
            "ready" => format!("{}\n", if vault.locked_since().is_none() { "yes" } else { "no" }),
            "last-error" => self.last_error(uid.0),
            "status" => status(vault),
            _ => metrics(vault),
        };
        Ok(text.into_bytes().into())
    }

    /// Keeps why something of this user's was refused.
    pub fn note_error(&self, uid: u32, path: &str, error: &dyn std::fmt::Display) {
        let mut inner = self.errors.lock();
        let (known, order) = &mut *inner;
        let text = format!("{} {path}: {error}\n", Timestamp::now());
        if known.insert(uid, text).is_none() {
            order.push_back(uid);
        }
        if order.len() > MAX_ERRORS
            && let Some(oldest) = order.pop_front()
        {
            known.remove(&oldest);
        }
    }

    fn last_error(&self, uid: u32) -> String {
        self.errors.lock().0.get(&uid).cloned().unwrap_or_default()
    }

    /// Nobody makes, removes or renames what is ours.
    pub fn refuse_name(&self, parent: Ino, name: &Name) -> Result<(), FsError> {
        if is_own(parent) || (parent == Ino::ROOT && name.as_str() == OWN_NAME) { self.no() } else { Ok(()) }
    }

    /// Nobody changes what is ours.
    pub fn refuse(&self, ino: Ino) -> Result<(), FsError> {
        if is_own(ino) { self.no() } else { Ok(()) }
    }

    /// Nobody writes what is ours.
    pub fn refuse_writing(&self, mode: OpenMode) -> Result<(), FsError> {
        if mode.write || mode.truncate { self.no() } else { Ok(()) }
    }

    fn no(&self) -> Result<(), FsError> {
        Err(VaultError::NotPermitted("these files are pinfold's own").into())
    }
}

fn directory(ino: Ino, time: Timestamp) -> Attr {
    Attr {
        ino,
        kind: Kind::Directory,
        size: 0,
        mode: 0o555,
        uid: 0,
        gid: 0,
        nlink: 1,
        atime: time,
        mtime: time,
        ctime: time,
        btime: time,
    }
}

fn status(vault: &Vault) -> String {
    match vault.locked_since() {
        Some(_) => "locked\n".into(),
        None => "unlocked\n".into(),
    }
}

/// In the text format of Prometheus. Numbers only: anybody may read it.
fn metrics(vault: &Vault) -> String {
    let status = vault.present();
    let mut out = String::new();
    for (name, help, value) in [
        ("locked", "Whether the store is locked.", u64::from(status.locked)),
        ("secrets", "Secrets in the tree; 0 while locked.", status.secrets.unwrap_or(0)),
        ("open_handles", "Handles open on secrets.", status.open_handles),
        ("waiting", "Callers that wait for an unlock.", status.waiting),
        (
            "instances",
            "Instances of containers that may open secrets.",
            status.scopes.iter().map(|s| s.instances).sum(),
        ),
        ("arena_used_bytes", "Locked memory in use.", status.arena_used),
        ("arena_size_bytes", "Locked memory in all.", status.arena_size),
        ("hosts", "Hosts that this machine is the console of; 0 while locked.", status.hosts),
        ("hosts_waiting", "Hosts whose bundle waits to be delivered or signed.", status.hosts_waiting),
        ("hosts_failing", "Hosts with something wrong: no bundle, or no delivery.", status.hosts_failing),
        (
            "audit_full",
            "Whether the audit log's disk is full: what is reserved is all that is left.",
            u64::from(status.audit_full),
        ),
        ("audit_reserve_bytes", "Reserved for the audit log's next lines.", status.audit_reserve),
        (
            "audit_unrecorded",
            "Events that could not be recorded, and that no line tells of yet.",
            status.audit_unrecorded,
        ),
        ("audit_lines", "Lines the audit log has seen.", status.audit_count),
        ("uptime_seconds", "Since the daemon started.", status.uptime),
    ] {
        let _ = writeln!(out, "# HELP pinfold_{name} {help}\n# TYPE pinfold_{name} gauge\npinfold_{name} {value}");
    }
    type Of = fn(&LimitStatus) -> u64;
    let limits: [(&str, &str, &str, Of); 4] = [
        ("limit_used", "gauge", "What all use of what has a limit.", |l| l.used),
        ("limit_most", "gauge", "What the one uses who uses most.", |l| l.most),
        ("limit_share", "gauge", "What one uid may use.", |l| l.limit),
        ("limit_met_total", "counter", "How often the limit was met.", |l| l.refused),
    ];
    for (name, kind, help, of) in limits {
        let _ = writeln!(out, "# HELP pinfold_{name} {help}\n# TYPE pinfold_{name} {kind}");
        for limit in &status.limits {
            let _ = writeln!(out, "pinfold_{name}{{limit=\"{}\"}} {}", limit.name, of(limit));
        }
    }
    out
}

//! What a node is and who owns it: mode, ACLs, extended attributes, and the conditions among them.

use super::{Acl, Gid, Timestamp, Uid};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Extended attributes that only an admin sets or removes begin with this.
pub const CONDITION_PREFIX: &str = "user.pinfold.";

/// The condition of time.
pub const EXPIRES_XATTR: &str = "user.pinfold.expires";

/// Whether an attribute is a condition: it narrows who may read, and nothing ever widens that by it.
pub fn is_condition(name: &str) -> bool {
    let short = name.strip_prefix(CONDITION_PREFIX);
    short.is_some_and(|short| ["unit", "exe", "label", "expires"].contains(&short))
}

/// The name of an extended attribute, `user.*` as stored.
pub type XattrName = String;

/// What a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A secret.
    File,
    /// A symbolic link.
    Symlink,
}

/// Everything chmod, chown, setfacl, setfattr and touch can change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// Owner.
    pub uid: Uid,
    /// Group.
    pub gid: Gid,
    /// The nine permission bits and, on a directory, the sticky bit (0o1777). suid and sgid are never stored.
    pub mode: u16,
    /// The access ACL, if it says more than the mode; its mode() is then the nine bits.
    pub acl: Option<Acl>,
    /// The default ACL of a directory.
    pub default_acl: Option<Acl>,
    /// `user.*` attributes.
    pub xattrs: BTreeMap<XattrName, Vec<u8>>,
    /// Last access, as set by utimensat(2); reading does not change it.
    pub atime: Timestamp,
    /// Last change of content.
    pub mtime: Timestamp,
    /// Last change of anything.
    pub ctime: Timestamp,
    /// When it was made.
    pub btime: Timestamp,
}

impl Meta {
    /// A new node of this owner, all times now.
    pub fn new(uid: Uid, gid: Gid, mode: u16) -> Self {
        let now = Timestamp::now();
        Meta {
            uid,
            gid,
            mode: mode & 0o1777,
            acl: None,
            default_acl: None,
            xattrs: BTreeMap::new(),
            atime: now,
            mtime: now,
            ctime: now,
            btime: now,
        }
    }

    /// The attributes that only an admin sets: conditions and publications.
    pub fn ruled(&self) -> BTreeMap<XattrName, Vec<u8>> {
        let ruled = self.xattrs.iter().filter(|(name, _)| name.starts_with(CONDITION_PREFIX));
        ruled.map(|(name, value)| (name.clone(), value.clone())).collect()
    }

    /// The conditions written among the attributes.
    pub fn conditions(&self) -> Conditions<'_> {
        let get = |key: &str| self.xattrs.get(key).map(|v| std::str::from_utf8(v).map(str::trim).unwrap_or("\u{fffd}"));
        if self.xattrs.is_empty() {
            return Conditions::default();
        }
        Conditions {
            unit: get("user.pinfold.unit"),
            exe: get("user.pinfold.exe"),
            label: get("user.pinfold.label"),
            expires: get(EXPIRES_XATTR),
        }
    }
}

/// What must hold besides the mode and the ACL. A value that is not UTF-8 is given as U+FFFD, which matches nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Conditions<'a> {
    /// The systemd unit that the caller's cgroup must name.
    pub unit: Option<&'a str>,
    /// The absolute path of the executable that the caller must run, compared by device and inode.
    pub exe: Option<&'a str>,
    /// The label that the kernel's security module must give the caller, `*` for any text.
    pub label: Option<&'a str>,
    /// RFC 3339, UTC; from then on the secret does not open.
    pub expires: Option<&'a str>,
}

impl Conditions<'_> {
    /// Whether there is any.
    pub fn any(&self) -> bool {
        self.of_a_process() || self.expires.is_some()
    }

    /// Whether one asks what the caller runs as: nothing that a key, read by any program of a uid, can answer.
    pub fn of_a_process(&self) -> bool {
        self.unit.is_some() || self.exe.is_some() || self.label.is_some()
    }
}

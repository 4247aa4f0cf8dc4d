//! What can be recorded: the operation, the decision, and the event that joins them to somebody.

use crate::model::CallerInfo;
use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! operations {
    ($($(#[$doc:meta])* $variant:ident = $word:literal,)*) => {
        /// What was done or asked for. In the file it is the word in snake_case.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Operation {
            $($(#[$doc])* $variant,)*
        }

        impl Operation {
            /// Every operation, in the order of the documentation.
            pub const ALL: &[Operation] = &[$(Operation::$variant,)*];

            /// The word in the file.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Operation::$variant => $word,)*
                }
            }
        }
    };
}

operations! {
    /// A secret was opened for reading.
    Open = "open",
    /// An open handle was read after its right to do so had ended.
    Read = "read",
    /// A directory was to be listed.
    List = "list",
    /// A symlink was to be read.
    ReadLink = "read_link",
    /// An extended attribute, or an ACL, was to be read.
    GetXattr = "get_xattr",
    /// The names of a node's extended attributes were to be read.
    ListXattr = "list_xattr",
    /// A new version was written.
    Commit = "commit",
    /// A file was made.
    Create = "create",
    /// A file or symlink was removed.
    Remove = "remove",
    /// A name was changed.
    Rename = "rename",
    /// The mode was set.
    SetMode = "set_mode",
    /// The owner or group was set.
    SetOwner = "set_owner",
    /// An access or default ACL was set or removed.
    SetAcl = "set_acl",
    /// An extended attribute was set or removed, conditions among them.
    SetXattr = "set_xattr",
    /// The times were set.
    SetTimes = "set_times",
    /// The size was set.
    Truncate = "truncate",
    /// A directory was made.
    Mkdir = "mkdir",
    /// A directory was removed.
    Rmdir = "rmdir",
    /// A symlink was made.
    Symlink = "symlink",
    /// A hard link was asked for.
    Link = "link",
    /// A device, FIFO or socket was asked for.
    Mknod = "mknod",
    /// The kernel asked for attributes before it refused an open or the like.
    Probe = "probe",
    /// The store was unlocked, or an unlock failed.
    Unlock = "unlock",
    /// The store was locked.
    Lock = "lock",
    /// Content was shown through the control socket.
    Reveal = "reveal",
    /// An older version was made current.
    Rollback = "rollback",
    /// A secret was removed with its history.
    Purge = "purge",
    /// A recovery recipient was added or removed.
    Recovery = "recovery",
    /// A backup was taken.
    Backup = "backup",
    /// A backup was brought back.
    Restore = "restore",
    /// A sealed blob was taken out of the store.
    Extract = "extract",
    /// The log was rotated by command, or a key or a password was.
    Rotate = "rotate",
    /// A container's scope was declared.
    ScopeAdd = "scope_add",
    /// A container's scope was taken back.
    ScopeRemove = "scope_remove",
    /// A container instance was attached.
    Attach = "attach",
    /// A container instance was detached.
    Detach = "detach",
    /// A secret was put into a keyring.
    Publish = "publish",
    /// A secret was taken out of a keyring.
    Unpublish = "unpublish",
    /// A scope's key was revoked, or found revoked.
    Revoke = "revoke",
    /// A certificate was renewed.
    Renew = "renew",
    /// A bundle was made for a host, or a secret was opened for one.
    Export = "export",
    /// A signing key was made, or was used by its passphrase.
    Sign = "sign",
    /// A bundle of a console was taken in.
    Import = "import",
    /// The policy was changed.
    Policy = "policy",
    /// A view was defined.
    View = "view",
    /// The configuration was read.
    Config = "config",
    /// Somebody was turned away at the control socket, or gave proof there, right or wrong.
    Control = "control",
    /// The daemon began to serve.
    Start = "start",
    /// What the daemon before this one left was not taken over.
    HandOver = "hand_over",
    /// The daemon ended.
    Stop = "stop",
    /// What opens the store's identity was changed, or the identity itself.
    Identity = "identity",
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What was decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// It was done, or will be once the line is written.
    Allowed,
    /// It was refused.
    Denied,
}

impl Decision {
    /// The word in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Decision::Allowed => "allowed",
            Decision::Denied => "denied",
        }
    }
}

/// One decision, to be recorded. The time is taken by the log. Texts over 4096 bytes (512 for unit, container and
/// errno) are cut and end in `…`.
#[derive(Debug, Clone, Copy)]
pub struct Event<'a> {
    /// What was asked for.
    pub op: Operation,
    /// The path within the tree, without a leading slash; of a directory for what names only that; empty if none.
    pub path: &'a str,
    /// The version that was opened or made.
    pub version: Option<u64>,
    /// Who asked.
    pub who: &'a CallerInfo,
    /// What was decided.
    pub decision: Decision,
    /// By which rule.
    pub reason: &'a str,
    /// The name of the errno the caller got: `EACCES`.
    pub errno: Option<&'a str>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_are_those_serde_writes() {
        for op in Operation::ALL {
            assert_eq!(serde_json::to_value(op).unwrap(), op.as_str());
        }
        for decision in [Decision::Allowed, Decision::Denied] {
            assert_eq!(serde_json::to_value(decision).unwrap(), decision.as_str());
        }
    }
}

//! What a caller may ask of the daemon: the methods of `org.pinfold`, each with its parameters and its reply.
//!
//! Owns the names. `org.pinfold.varlink` beside this file says the same to other Varlink clients.

use super::admin::Actor;
use super::base64;
use super::certs::*;
use super::conditions::*;
use super::containers::*;
use super::export::*;
use super::fault::Fault;
use super::import::*;
use super::log::{LogLines, LogRead, LogVerified, LogVerify};
use super::passwords::*;
use super::publish::*;
use super::replies::*;
use super::rights::Right;
use super::views::*;
use crate::model::{SecretPath, Timestamp};
use crate::secret::Secret;
use crate::times;
use serde::{Deserialize, Serialize};

/// The interface's description, in Varlink's own language.
pub const INTERFACE: &str = include_str!("org.pinfold.varlink");

/// A method: its parameters are the type itself.
pub trait Method: Serialize + for<'de> Deserialize<'de> {
    /// The full name, `org.pinfold.Put`.
    const NAME: &'static str;
    /// What a successful call answers.
    type Reply: Serialize + for<'de> Deserialize<'de>;
}

/// The table of the whole interface, handed to the macro `$with` after `$about`: parameters, name, who may call it, how it is answered, reply. A
/// method without a right is none. It is answered with `one` reply, with a `secret` one, in `parts` if the caller takes parts, or in a
/// way of its own, as a `stream` or by what it does to the connection.
#[macro_export]
macro_rules! for_each_method {
    ($with:ident $($about:tt)*) => {
        $with! { $($about)*
            GetStatus => "Status", Operator, one Status;
            Prove => "Prove", Operator, stream Done;
            Unlock => "Unlock", Carried, one Done;
            Lock => "Lock", Operator, one Done;
            List => "List", Operator, parts Listing;
            Put => "Put", Part, one Committed;
            Reveal => "Reveal", Root, secret Revealed;
            Remove => "Remove", Part, one Removed;
            GetHistory => "History", Operator, one History;
            Rollback => "Rollback", Part, one Committed;
            Who => "Who", Operator, one WhoReply;
            LogHead => "LogHead", Operator, one LogPosition;
            LogAnchor => "LogAnchor", Operator, one LogPosition;
            LogRotate => "LogRotate", Operator, one Rotated;
            LogRead => "LogRead", Operator, stream LogLines;
            LogVerify => "LogVerify", Operator, stream LogVerified;
            RecoveryAdd => "RecoveryAdd", Proof, one Resealed;
            RecoveryRemove => "RecoveryRemove", Proof, one Resealed;
            RecoveryList => "RecoveryList", Operator, one Recipients;
            RecoveryEscrow => "RecoveryEscrow", Root, one Escrowed;
            Fsck => "Fsck", Operator, one FsckReport;
            Extract => "Extract", Proof, one Extracted;
            Backup => "Backup", Root, stream BackupPart;
            ScopeAdd => "ScopeAdd", Root, one Done;
            ScopeList => "ScopeList", Operator, one ScopeListing;
            ScopeRemove => "ScopeRemove", Root, one Removed;
            Attach => "Attach", Root, one Attached;
            Detach => "Detach", Operator, one Done;
            Instances => "Instances", Operator, one InstanceListing;
            Publish => "Publish", Root, one Published;
            Unpublish => "Unpublish", Operator, one Unpublished;
            GetPublished => "Published", Operator, one Publications;
            KeyringList => "KeyringList", Operator, one HeldKeys;
            KeyRequest => "KeyRequest", Kernel, secret RequestedKey;
            IdentityAdd => "IdentityAdd", Carried, one Done;
            IdentityRemove => "IdentityRemove", Root, one Done;
            IdentityList => "IdentityList", Operator, one Identities;
            Rekey => "Rekey", Carried, one Rekeyed;
            Export => "Export", Part, one Exported;
            ExportPreview => "ExportPreview", Operator, parts Previews;
            ExportSign => "ExportSign", Root, one Exported;
            GetHosts => "Hosts", Operator, parts HostListing;
            SignerList => "SignerList", Operator, one SignerListing;
            SignerInit => "SignerInit", Root, one SignerListing;
            SignerRotate => "SignerRotate", Root, one SignerListing;
            SignerRevoke => "SignerRevoke", Root, one SignerListing;
            Join => "Join", Root, one Joined;
            GetConsoles => "Consoles", Operator, one Consoles;
            Leave => "Leave", Root, one Left;
            Import => "Import", Root, one ImportReport;
            GetAccounts => "Accounts", Operator, one Accounts;
            NoteAccount => "NoteAccount", Root, one Done;
            CertRequest => "CertRequest", Root, one CertRequested;
            CertAccept => "CertAccept", Root, one CertStored;
            CertStore => "CertStore", Root, one CertStored;
            CertList => "CertList", Operator, parts CertListing;
            CertShow => "CertShow", Operator, one CertShown;
            CertSelfsign => "CertSelfsign", Root, one CertStored;
            CertNote => "CertNote", Root, one Done;
            CaInit => "CaInit", Root, one CertStored;
            CaSign => "CaSign", Root, one CaMade;
            CaCrl => "CaCrl", Root, one CaMade;
            PasswordList => "PasswordList", Operator, one PasswordListing;
            PasswordPut => "PasswordPut", Operator, one Committed;
            PasswordShow => "PasswordShow", Root, secret ShownPassword;
            PasswordRemove => "PasswordRemove", Part, one Removed;
            RotationBegin => "RotationBegin", Root, one Done;
            RotationOpen => "RotationOpen", Root, secret RotationOpened;
            RotationMark => "RotationMark", Root, one Done;
            RotationEnd => "RotationEnd", Root, one Done;
            ViewAdd => "ViewAdd", Root, one ViewAdded;
            ViewList => "ViewList", Operator, one ViewListing;
            ViewRemove => "ViewRemove", Operator, one Done;
            Condition => "Condition", Part, one Conditions;
        }
    };
}

macro_rules! declare {
    ($($params:ident => $name:literal, $right:ident, $answer:ident $reply:ty;)*) => {
        /// Each method, by its full name, and who may call it.
        pub const METHODS: &[(&str, Right)] = &[$((concat!("org.pinfold.", $name), Right::$right)),*];
        $(impl Method for $params {
            const NAME: &'static str = concat!("org.pinfold.", $name);
            type Reply = $reply;
        })*
    };
}

for_each_method!(declare);

/// Who may call a method, by its full name; `None` for one that there is not.
pub fn right_of(method: &str) -> Option<Right> {
    METHODS.iter().find(|(name, _)| *name == method).map(|(_, right)| *right)
}

/// What serves a method: for a caller who has the right of the table, which whoever calls this has asked for ([`Admin::permit`](super::Admin::permit)). It
/// asks where he really is (namespaces), and what a [`Right::Part`] leaves open; does it, and replies. Each records what it does.
pub trait Serve<M: Method> {
    /// Serves one call.
    ///
    /// # Errors
    /// What the caller is told; its reason names no content.
    fn serve(&self, actor: &Actor, asked: M) -> Result<M::Reply, Fault>;
}

/// How the daemon is.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GetStatus {}

/// Proves, for the next call on this connection and for no other, that the caller can open the store. Exactly one of them.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prove {
    /// The passphrase of `identity.age`, verbatim, base64 on the wire.
    #[serde(with = "base64::maybe_secret", default, skip_serializing_if = "Option::is_none")]
    pub passphrase: Option<Secret>,
    /// The text of an unencrypted identity file, base64 on the wire.
    #[serde(with = "base64::maybe_secret", default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<Secret>,
    /// The text of the recovery identity, base64 on the wire.
    #[serde(with = "base64::maybe_secret", default, skip_serializing_if = "Option::is_none")]
    pub recovery: Option<Secret>,
}

/// Gives the daemon what opens the store. Exactly one of the first three.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unlock {
    /// The passphrase of `identity.age`, verbatim, base64 on the wire.
    #[serde(with = "base64::maybe_secret", default, skip_serializing_if = "Option::is_none")]
    pub passphrase: Option<Secret>,
    /// The text of an unencrypted identity file, base64 on the wire.
    #[serde(with = "base64::maybe_secret", default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<Secret>,
    /// The text of the recovery identity, base64 on the wire.
    #[serde(with = "base64::maybe_secret", default, skip_serializing_if = "Option::is_none")]
    pub recovery: Option<Secret>,
    /// How the caller came by it, for the log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
}

/// Forgets the store's identity; names become unknown, nothing opens.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lock {}

/// What is in the tree. With `more` the answer comes in parts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct List {
    /// A directory, or one node.
    #[serde(default, deserialize_with = "or_default")]
    pub path: SecretPath,
    /// With everything below it.
    #[serde(default, deserialize_with = "or_default")]
    pub recursive: bool,
    /// The node itself, not what is in it (`ls -d`).
    #[serde(default, deserialize_with = "or_default")]
    pub itself: bool,
}

/// Enrols a secret, or a new version of one. What is null stays as it was; a new one is 0600 of root, or as it was before where an operator puts it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Put {
    /// Where. Its directory must be there, unless `parents`.
    pub path: SecretPath,
    /// Owner.
    #[serde(default)]
    pub uid: Option<u32>,
    /// Group.
    #[serde(default)]
    pub gid: Option<u32>,
    /// Permission bits, 0o777 at most.
    #[serde(default)]
    pub mode: Option<u16>,
    /// Makes missing directories, 0755 of root.
    #[serde(default, deserialize_with = "or_default")]
    pub parents: bool,
    /// The bytes, base64 on the wire.
    #[serde(with = "base64::secret")]
    pub content: Secret,
}

/// The content of a secret. Refused unless `allow_reveal`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reveal {
    /// Which.
    pub path: SecretPath,
    /// Which version; the current one if null.
    #[serde(default)]
    pub version: Option<u64>,
}

/// Removes a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Remove {
    /// Which.
    pub path: SecretPath,
    /// Keeps no version either. A name that is gone already may still be purged.
    #[serde(default, deserialize_with = "or_default")]
    pub purge: bool,
    /// With everything below it.
    #[serde(default, deserialize_with = "or_default")]
    pub recursive: bool,
}

/// The versions that are kept of a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GetHistory {
    /// Which.
    pub path: SecretPath,
}

/// Makes a kept version the current one, as a new version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rollback {
    /// Which secret.
    pub path: SecretPath,
    /// To which version.
    pub version: u64,
}

/// Who could open it, and who did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Who {
    /// Which.
    pub path: SecretPath,
    /// How many past decisions at most.
    #[serde(default)]
    pub recent: Option<u32>,
    /// Only decisions after this time.
    #[serde(with = "times::maybe", default)]
    pub since: Option<Timestamp>,
}

/// Where the audit log is now.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogHead {}

/// Where the audit log was at the last commit: what the store vouches for.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogAnchor {}

/// Begins a new file of the audit log.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogRotate {}

/// Seals everything to one more recovery recipient.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecoveryAdd {
    /// An age recipient, `age1…`, `age1tag1…`, `age1tagpq1…` or `ssh-ed25519 AAAA…`.
    pub recipient: String,
    /// Whether it is the only one from then on.
    #[serde(default, deserialize_with = "or_default")]
    pub only: bool,
}

/// Seals everything anew without this recovery recipient. Not the last one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecoveryRemove {
    /// The recipient, as `RecoveryList` tells it.
    pub recipient: String,
}

/// The recovery recipients.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecoveryList {}

/// The store's escrow: an age file that each recovery key opens, and that has the text of an identity that opens the store. Also while locked.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecoveryEscrow {}

/// Checks the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fsck {
    /// Opens each blob too, not only compares its digest.
    #[serde(default, deserialize_with = "or_default")]
    pub open: bool,
}

/// A blob as it lies in the store, an age file that stock tools open with the recovery identity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Extract {
    /// Which secret.
    pub path: SecretPath,
    /// Which version; the current one if null.
    #[serde(default)]
    pub version: Option<u64>,
}

/// A copy of the store at one moment, sealed as it is, as a tar. Needs `more`.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Backup {}

/// Adds a protector of the store's identity. Of the first two, and of the next two, exactly one.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdentityAdd {
    /// A passphrase that opens the identity now, base64 on the wire.
    #[serde(with = "base64::maybe_secret", default, skip_serializing_if = "Option::is_none")]
    pub old_passphrase: Option<Secret>,
    /// The text of the identity, or of one that opens it now, base64 on the wire.
    #[serde(with = "base64::maybe_secret", default, skip_serializing_if = "Option::is_none")]
    pub old_identity: Option<Secret>,
    /// The passphrase that is to open it too, base64 on the wire.
    #[serde(with = "base64::maybe_secret", default, skip_serializing_if = "Option::is_none")]
    pub passphrase: Option<Secret>,
    /// The age recipient (`age1…`, `age1tag1…`, `age1tagpq1…`, `ssh-ed25519 AAAA…`) whose identity is to open it too.
    #[serde(default)]
    pub recipient: Option<String>,
    /// What it is called; `main` if null.
    #[serde(default)]
    pub name: Option<String>,
    /// Whether one of that name is replaced.
    #[serde(default, deserialize_with = "or_default")]
    pub replace: bool,
}

/// Removes a protector. Not the last one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdentityRemove {
    /// Which.
    pub name: String,
}

/// The protectors of the identity.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdentityList {}

/// Gives the store a new identity, a new index key, new keys for all scopes, and every blob a new file key. Of the first
/// two, and of the next two, exactly one.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rekey {
    /// A passphrase that opens the identity now, base64 on the wire.
    #[serde(with = "base64::maybe_secret", default, skip_serializing_if = "Option::is_none")]
    pub old_passphrase: Option<Secret>,
    /// The text of the identity, or of one that opens it now, base64 on the wire.
    #[serde(with = "base64::maybe_secret", default, skip_serializing_if = "Option::is_none")]
    pub old_identity: Option<Secret>,
    /// The passphrase that the new identity is encrypted with, base64 on the wire.
    #[serde(with = "base64::maybe_secret", default, skip_serializing_if = "Option::is_none")]
    pub passphrase: Option<Secret>,
    /// The text of the new identity, which the caller keeps himself, base64 on the wire.
    #[serde(with = "base64::maybe_secret", default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<Secret>,
    /// Whether protectors are given up that cannot be made for the new identity; refused otherwise if there are any.
    #[serde(default, deserialize_with = "or_default")]
    pub drop_others: bool,
}

/// Null is as good as absent: clients with typed optional parameters send it.
pub(super) fn or_default<'de, D: serde::Deserializer<'de>, T: Deserialize<'de> + Default>(
    from: D,
) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(from)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_description_lists_each_method_and_no_other() {
        let described: Vec<String> = INTERFACE
            .lines()
            .filter_map(|l| l.strip_prefix("method "))
            .map(|l| format!("org.pinfold.{}", l.split('(').next().unwrap()))
            .collect();
        assert_eq!(described, METHODS.iter().map(|(name, _)| *name).collect::<Vec<_>>());
        assert!(INTERFACE.lines().any(|l| l == "interface org.pinfold"));
    }

    #[test]
    fn the_table_in_the_documents_is_the_one_that_is_asked() {
        let documented: Vec<(String, &str)> = include_str!("../../../docs/control.md")
            .lines()
            .filter_map(|line| {
                let (method, rest) = line.strip_prefix("| `")?.split_once("` | ")?;
                let right = rest.split(" |").next()?;
                Right::ALL.iter().find(|r| r.as_str() == right).map(|_| (format!("org.pinfold.{method}"), right))
            })
            .collect();
        let asked: Vec<_> = METHODS.iter().map(|(name, right)| ((*name).to_owned(), right.as_str())).collect();
        for row in &asked {
            assert!(documented.contains(row), "docs/control.md has no row | `{}` | {} |", &row.0[12..], row.1);
        }
        assert_eq!(documented.len(), asked.len(), "docs/control.md has a row of a method that there is not");
    }

    #[test]
    fn the_description_lists_each_error() {
        for error in ["Usage", "Refused", "Unproven", "Locked", "NotFound", "Damaged", "NothingToDo", "Failed"] {
            assert!(INTERFACE.contains(&format!("\nerror {error} (reason: string)\n")), "{error}");
        }
    }
}

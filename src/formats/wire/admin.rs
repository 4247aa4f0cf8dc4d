//! What the control socket wants from the core: one method for each request.
//!
//! Owns the trait only; `vault` is behind it in the daemon, a fake in tests.

use super::Right;
use super::{AccountInfo, ConsoleInfo, Import, ImportReport, Join, Joined, Leave, Left, NoteAccount};
use super::{Attach, Fsck, InstanceEntry, Remove, Removed, Rollback, ScopeAdd, ScopeEntry, ScopeRemove};
use super::{
    BackupReport, Entry, Extract, Fault, FsckReport, List, LogPosition, Put, Reveal, Rotated, Status, VersionInfo, Who,
    WhoReply,
};
use super::{Condition, Conditions};
use super::{
    Export, ExportPreview, ExportSign, Exported, HostInfo, PreviewHost, SignerInit, SignerListing, SignerRevoke,
    SignerRotate,
};
use super::{HeldKey, KeyRequest, PublicationInfo, Publish, Unpublish};
use super::{IdentityAdd, ProtectorInfo, Rekey, Rekeyed};
use super::{LogPlace, LogRead, LogVerified};
use super::{
    PasswordEntry, PasswordList, PasswordPut, PasswordRemove, PasswordShow, RotationBegin, RotationEnd, RotationMark,
    RotationOpen, RotationOpened, ShownPassword,
};
use super::{ViewAdd, ViewAdded, ViewInfo};
use crate::model::SecretPath;
use crate::secret::Secret;
use std::io::{self, Write};

/// Who is at the other end of the socket, from SO_PEERCRED: as it was when it connected, in the namespaces of the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Actor {
    /// Effective user id.
    pub uid: u32,
    /// Effective group id.
    pub gid: u32,
    /// Process id; it was still running when the request came in.
    pub pid: i32,
    /// Whether it proved, for this one call, that it can open the store.
    pub proven: bool,
}

impl Actor {
    /// Somebody who proved nothing.
    pub fn new(uid: u32, gid: u32, pid: i32) -> Self {
        Actor { uid, gid, pid, proven: false }
    }

    /// The same, with proof.
    pub fn with_proof(self) -> Self {
        Actor { proven: true, ..self }
    }

    /// Whether he may do what widens who may read what is there: root, or an operator with proof.
    pub fn may_widen(&self) -> bool {
        self.uid == 0 || self.proven
    }
}

/// What opens the store.
#[derive(Debug)]
pub enum UnlockWith {
    /// The passphrase of `identity.age`, verbatim.
    Passphrase(Secret),
    /// The text of an unencrypted identity file.
    Identity(Secret),
    /// The text of a recovery identity.
    Recovery(Secret),
}

/// The use cases of an admin. Each call was let in by the socket (uid 0, or a member of `operator_group`, with the right that
/// the method wants); where he really is (namespaces) is for the implementation to ask, through the actor's pid. What a
/// method of [`Right::Part`] allows to an operator, it asks itself. Each audits itself.
///
/// # Errors
/// A [`Fault`] is what the caller is told; its reason names no content.
pub trait Admin: Send + Sync {
    /// Whether he may be answered at all: uid 0 or an operator, and where that counts. A refusal is recorded.
    fn enter(&self, actor: &Actor) -> Result<(), Fault>;
    /// Whether the caller has the right that this method needs. A refusal is recorded, with the method.
    fn permit(&self, actor: &Actor, right: Right, method: &str) -> Result<(), Fault>;
    /// Whether that opens the store; [`Fault::Refused`] if not. Either is recorded.
    fn prove(&self, actor: &Actor, with: UnlockWith) -> Result<(), Fault>;
    /// How the daemon is; works while locked.
    fn status(&self, actor: &Actor) -> Result<Status, Fault>;
    /// Unlocks; [`Fault::NothingToDo`] if it is unlocked, [`Fault::Refused`] if that does not open it.
    /// `method` is how the caller says he came by it.
    fn unlock(&self, actor: &Actor, with: UnlockWith, method: Option<&str>) -> Result<(), Fault>;
    /// Locks; [`Fault::NothingToDo`] if it is locked.
    fn lock(&self, actor: &Actor) -> Result<(), Fault>;
    /// Nodes, sorted by path, a directory before what is in it.
    fn list(&self, actor: &Actor, list: List) -> Result<Vec<Entry>, Fault>;
    /// Commits content; the number of the new version.
    fn put(&self, actor: &Actor, put: Put) -> Result<u64, Fault>;
    /// Content; [`Fault::Refused`] unless `allow_reveal`.
    fn reveal(&self, actor: &Actor, reveal: Reveal) -> Result<Secret, Fault>;
    /// Removes.
    fn remove(&self, actor: &Actor, remove: Remove) -> Result<Removed, Fault>;
    /// Versions, newest first.
    fn history(&self, actor: &Actor, path: SecretPath) -> Result<Vec<VersionInfo>, Fault>;
    /// Makes an old version current again; the number of the new version, [`Fault::NothingToDo`] if it is current.
    fn rollback(&self, actor: &Actor, rollback: Rollback) -> Result<u64, Fault>;
    /// Who could open it, and who did.
    fn who(&self, actor: &Actor, who: Who) -> Result<WhoReply, Fault>;
    /// Where the audit log is now.
    fn log_head(&self, actor: &Actor) -> Result<LogPosition, Fault>;
    /// What the store vouches for.
    fn log_anchor(&self, actor: &Actor) -> Result<LogPosition, Fault>;
    /// Begins a new file.
    fn log_rotate(&self, actor: &Actor) -> Result<Rotated, Fault>;
    /// Hands the log's lines to `each` and says where the next will begin. `each` blocks for as long as its reader takes; an error of
    /// it, or `wanted` that says no, ends the reading.
    fn log_read(
        &self,
        _: &Actor,
        _: LogRead,
        _wanted: &mut dyn FnMut() -> bool,
        _each: &mut dyn FnMut(&str) -> io::Result<()>,
    ) -> Result<LogPlace, Fault> {
        Err(no_log())
    }
    /// Checks the log; what is wrong is in the report, not a fault. It ends when `wanted` says no.
    fn log_verify(&self, _: &Actor, _wanted: &mut dyn FnMut() -> bool) -> Result<LogVerified, Fault> {
        Err(no_log())
    }
    /// Adds a recovery recipient, as the only one or not; how many blobs were sealed anew.
    fn recovery_add(&self, actor: &Actor, recipient: &str, only: bool) -> Result<u64, Fault>;
    /// Removes a recovery recipient; how many blobs were sealed anew.
    fn recovery_remove(&self, actor: &Actor, recipient: &str) -> Result<u64, Fault>;
    /// The recovery recipients.
    fn recovery_list(&self, actor: &Actor) -> Result<Vec<String>, Fault>;
    /// What each recovery key opens, also while locked.
    fn recovery_escrow(&self, actor: &Actor) -> Result<Vec<u8>, Fault>;
    /// Checks the store; what is wrong is in the report, not a fault.
    fn fsck(&self, actor: &Actor, fsck: Fsck) -> Result<FsckReport, Fault>;
    /// The sealed blob of a secret.
    fn extract(&self, actor: &Actor, extract: Extract) -> Result<Vec<u8>, Fault>;
    /// Writes a backup. `out` blocks for as long as its reader takes, up to half a minute for each write: hold no lock
    /// that others wait for.
    fn backup(&self, actor: &Actor, out: &mut dyn Write) -> Result<BackupReport, Fault>;
    /// Declares a scope; [`Fault::Refused`] if it is there.
    fn scope_add(&self, actor: &Actor, add: ScopeAdd) -> Result<(), Fault>;
    /// The declared scopes, by name.
    fn scope_list(&self, actor: &Actor) -> Result<Vec<ScopeEntry>, Fault>;
    /// Takes a scope back; what went with it.
    fn scope_remove(&self, actor: &Actor, remove: ScopeRemove) -> Result<Removed, Fault>;
    /// Attaches an instance; its id. [`Fault::Locked`] while locked.
    fn attach(&self, actor: &Actor, attach: Attach) -> Result<String, Fault>;
    /// Detaches an instance; [`Fault::NotFound`] if there is none, [`Fault::NothingToDo`] if that was done before.
    fn detach(&self, actor: &Actor, id: &str) -> Result<(), Fault>;
    /// The instances, by scope and id.
    fn instances(&self, actor: &Actor) -> Result<Vec<InstanceEntry>, Fault>;
    /// Publishes a secret; the publication as it is then, once for each instance.
    fn publish(&self, _: &Actor, _: Publish) -> Result<Vec<PublicationInfo>, Fault> {
        Err(not_here())
    }
    /// Takes publications back; how many. [`Fault::NothingToDo`] if there was none.
    fn unpublish(&self, _: &Actor, _: Unpublish) -> Result<u64, Fault> {
        Err(not_here())
    }
    /// All publications, sorted by path.
    fn published(&self, _: &Actor) -> Result<Vec<PublicationInfo>, Fault> {
        Err(not_here())
    }
    /// All keys that pinfold has in the kernel.
    fn keyring_list(&self, _: &Actor) -> Result<Vec<HeldKey>, Fault> {
        Err(not_here())
    }
    /// The content for a key that somebody waits for, and how many seconds the key may live. For `pinfold upcall` alone.
    fn key_request(&self, _: &Actor, _: KeyRequest) -> Result<(Secret, u32), Fault> {
        Err(not_here())
    }
    /// Makes bundles; what became of each host.
    fn export(&self, _: &Actor, _: Export) -> Result<Exported, Fault> {
        Err(no_console())
    }
    /// What would change.
    fn export_preview(&self, _: &Actor, _: ExportPreview) -> Result<Vec<PreviewHost>, Fault> {
        Err(no_console())
    }
    /// Makes bundles, signed with a key under a passphrase.
    fn export_sign(&self, _: &Actor, _: ExportSign) -> Result<Exported, Fault> {
        Err(no_console())
    }
    /// The hosts.
    fn hosts(&self, _: &Actor) -> Result<Vec<HostInfo>, Fault> {
        Err(no_console())
    }
    /// The signing keys.
    fn signers(&self, _: &Actor) -> Result<SignerListing, Fault> {
        Err(no_console())
    }
    /// Makes the first signing key.
    fn signer_init(&self, _: &Actor, _: SignerInit) -> Result<SignerListing, Fault> {
        Err(no_console())
    }
    /// Makes the next one.
    fn signer_rotate(&self, _: &Actor, _: SignerRotate) -> Result<SignerListing, Fault> {
        Err(no_console())
    }
    /// Revokes a former one.
    fn signer_revoke(&self, _: &Actor, _: SignerRevoke) -> Result<SignerListing, Fault> {
        Err(no_console())
    }
    /// Adds a protector of the identity, or replaces one.
    fn identity_add(&self, actor: &Actor, add: IdentityAdd) -> Result<(), Fault>;
    /// Removes a protector.
    fn identity_remove(&self, actor: &Actor, name: &str) -> Result<(), Fault>;
    /// The protectors.
    fn identity_list(&self, actor: &Actor) -> Result<Vec<ProtectorInfo>, Fault>;
    /// A new identity and new keys.
    fn rekey(&self, actor: &Actor, rekey: Rekey) -> Result<Rekeyed, Fault>;
    /// Trusts a console.
    fn join(&self, _: &Actor, _: Join) -> Result<Joined, Fault> {
        Err(no_consoles())
    }
    /// The joined consoles, by name.
    fn consoles(&self, _: &Actor) -> Result<Vec<ConsoleInfo>, Fault> {
        Err(no_consoles())
    }
    /// Trusts a console no more.
    fn leave(&self, _: &Actor, _: Leave) -> Result<Left, Fault> {
        Err(no_consoles())
    }
    /// Imports a bundle; that it is refused is in the report, not a fault.
    fn import(&self, _: &Actor, _: Import) -> Result<ImportReport, Fault> {
        Err(no_consoles())
    }
    /// The accounts of admins, by name.
    fn accounts(&self, _: &Actor) -> Result<Vec<AccountInfo>, Fault> {
        Err(no_consoles())
    }
    /// Notes what becomes of an account.
    fn note_account(&self, _: &Actor, _: NoteAccount) -> Result<(), Fault> {
        Err(no_consoles())
    }
    /// What is asked about certificates.
    fn certs(&self) -> Option<&dyn super::CertAdmin> {
        None
    }
    /// Passwords, without content.
    fn password_list(&self, _: &Actor, _: PasswordList) -> Result<Vec<PasswordEntry>, Fault> {
        Err(no_passwords())
    }
    /// Stores a password; the number of its version. [`Fault::Refused`] if it is there, unless replaced.
    fn password_put(&self, _: &Actor, _: PasswordPut) -> Result<u64, Fault> {
        Err(no_passwords())
    }
    /// Shows a password; [`Fault::Refused`] once too many have been shown to this admin within a minute.
    fn password_show(&self, _: &Actor, _: PasswordShow) -> Result<ShownPassword, Fault> {
        Err(no_passwords())
    }
    /// Removes a password.
    fn password_remove(&self, _: &Actor, _: PasswordRemove) -> Result<Removed, Fault> {
        Err(no_passwords())
    }
    /// Stores the next password; [`Fault::Refused`] if a rotation is under way.
    fn rotation_begin(&self, _: &Actor, _: RotationBegin) -> Result<(), Fault> {
        Err(no_passwords())
    }
    /// Both passwords; [`Fault::NotFound`] if none is under way, [`Fault::Refused`] once this admin was handed those of too
    /// many within a minute.
    fn rotation_open(&self, _: &Actor, _: RotationOpen) -> Result<RotationOpened, Fault> {
        Err(no_passwords())
    }
    /// Notes how far it is; on disk when it returns.
    fn rotation_mark(&self, _: &Actor, _: RotationMark) -> Result<(), Fault> {
        Err(no_passwords())
    }
    /// Ends it; on disk when it returns.
    fn rotation_end(&self, _: &Actor, _: RotationEnd) -> Result<(), Fault> {
        Err(no_passwords())
    }
    /// Defines a view, or says what it would be.
    fn view_add(&self, _: &Actor, _: ViewAdd) -> Result<ViewAdded, Fault> {
        Err(no_views())
    }
    /// The views, by path.
    fn view_list(&self, _: &Actor) -> Result<Vec<ViewInfo>, Fault> {
        Err(no_views())
    }
    /// Removes a view.
    fn view_remove(&self, _: &Actor, _: SecretPath) -> Result<(), Fault> {
        Err(no_views())
    }
    /// Sets, clears and tells the conditions of a secret.
    fn condition(&self, _: &Actor, _: Condition) -> Result<Conditions, Fault> {
        Err(Fault::Failed("no conditions are kept here".into()))
    }
    /// Somebody was turned away at the socket. Never blocks.
    fn denied(&self, actor: &Actor, reason: &str);
}

/// For a core that keeps none.
fn no_log() -> Fault {
    Fault::Failed("no audit log is kept here".into())
}

/// For a core that is nobody's console.
fn no_console() -> Fault {
    Fault::Failed("nothing is exported here".into())
}

/// For a core without consoles.
fn no_consoles() -> Fault {
    Fault::Failed("nothing is imported here".into())
}

/// For a core that has no views.
fn no_views() -> Fault {
    Fault::Failed("there are no views here".into())
}

/// For a core that publishes nothing.
fn not_here() -> Fault {
    Fault::Failed("nothing is published here".into())
}

/// For a core that keeps none.
fn no_passwords() -> Fault {
    Fault::Failed("no passwords are kept here".into())
}

//! What an admin asks for through the control socket, in the words of `wire`.

use super::authority::Owner;
use super::containers::word;
use super::node::Node;
use super::open::Wanted;
use super::recovery::RecoveryChange;
use super::rekey::NextIdentity;
use super::unlock::UnlockBy;
use super::view::View;
use super::{Caller, Change, Content, NewNode, SetAttr, State, Vault, VaultError};
use crate::access::Denial;
use crate::audit;
use crate::caller::Control;
use crate::meter::Resource;
use crate::model::{Gid, Ino, Kind, Name, PasswordPattern, Scope, SecretPath, Timestamp, Uid};
use crate::seal::{OpenedBy, Protection};
use crate::secret::Secret;
use crate::store;
use crate::stream::{Place, Recipient};
use crate::wire::{
    self, Actor, Admin, BackupReport, Entry, Extract, Fault, Fsck, FsckReport, Happened, LimitStatus, List,
    LogPosition, Problem, Put, Remove, Removed, Reveal, Rollback, Rotated, ScopeStatus, Status, UnlockWith,
    VersionInfo, WhoReply,
};
use std::io::{self, Write};
use std::sync::Arc;

/// The most entries one listing has.
const MAX_LISTED: usize = 200_000;
/// Decisions shown by `who` if nothing else is asked for, and at most.
const RECENT: (usize, usize) = (20, 1000);

/// How often a `put` begins again because somebody else was faster.
const PUT_TRIES: usize = 10;

impl Admin for Vault {
    fn enter(&self, actor: &Actor) -> Result<(), Fault> {
        self.admin(actor).map(|_| ())
    }

    fn permit(&self, actor: &Actor, right: wire::Right, method: &str) -> Result<(), Fault> {
        Vault::permit(self, actor, right, method)
    }

    fn prove(&self, actor: &Actor, with: UnlockWith) -> Result<(), Fault> {
        self.proves(actor, &with)
    }

    fn status(&self, actor: &Actor) -> Result<Status, Fault> {
        self.admin(actor)?;
        Ok(self.present())
    }

    fn unlock(&self, actor: &Actor, with: UnlockWith, method: Option<&str>) -> Result<(), Fault> {
        let by = UnlockBy::from(&with);
        let caller = self.admin(actor)?;
        match method {
            Some(method) => self.unlock_with(&caller, &by, method)?,
            None => Vault::unlock(self, &caller, &by)?,
        }
        Ok(())
    }

    fn lock(&self, actor: &Actor) -> Result<(), Fault> {
        Ok(Vault::lock(self, &self.admin(actor)?)?)
    }

    fn list(&self, actor: &Actor, list: List) -> Result<Vec<Entry>, Fault> {
        self.admin(actor)?;
        let mut out = Vec::new();
        self.with_tree(|tree| {
            let ino = tree.find(&list.path).ok_or(VaultError::NotFound)?;
            let node = tree.get(ino).ok_or(VaultError::NotFound)?;
            if list.itself || node.kind != Kind::Directory {
                out.push(entry(list.path.clone(), node));
                return Ok(());
            }
            let mut waiting = vec![(list.path.clone(), ino)];
            while let Some((path, ino)) = waiting.pop() {
                let at = out.len();
                for (name, child) in tree.children(ino).into_iter().flatten() {
                    let (Ok(path), Some(node)) = (path.join(name), tree.get(*child)) else { continue };
                    if out.len() >= MAX_LISTED {
                        return Err(VaultError::NoSpace("the listing is too long; name a folder"));
                    }
                    out.push(entry(path.clone(), node));
                    if list.recursive && node.kind == Kind::Directory {
                        waiting.push((path, *child));
                    }
                }
                out[at..].sort_by(|a, b| a.path.cmp(&b.path));
            }
            out.sort_by(|a, b| a.path.cmp(&b.path));
            Ok(())
        })??;
        // What has no version may be a view: its size is that of what it is composed from.
        for entry in out.iter_mut().filter(|entry| entry.kind == wire::NodeKind::File && entry.version.is_none()) {
            if let Some(attr) = self.find(&entry.path).ok().and_then(|ino| self.attr(ino).ok()) {
                (entry.size, entry.mtime) = (attr.size, attr.mtime);
            }
        }
        Ok(out)
    }

    fn put(&self, actor: &Actor, put: Put) -> Result<u64, Fault> {
        let caller = self.admin(actor)?;
        let (directory, name) = put.path.split_last().ok_or_else(|| Fault::Usage("the root is not a secret".into()))?;
        self.may_put(actor, &put.path)?;
        let parent = self.directory(actor.may_widen(), &caller, &directory, put.parents)?;
        for _ in 1..PUT_TRIES {
            match self.put_at(actor, &caller, parent, name, &put) {
                // Made, removed or renamed over by somebody else between the look and the commit.
                Err(VaultError::Exists | VaultError::NotFound) => {}
                done => return Ok(done?),
            }
        }
        Ok(self.put_at(actor, &caller, parent, name, &put)?)
    }

    fn reveal(&self, actor: &Actor, reveal: Reveal) -> Result<Secret, Fault> {
        let caller = self.admin(actor)?;
        let ino = self.with_tree(|t| t.find(&reveal.path))?.ok_or(VaultError::NotFound)?;
        if !self.limits.allow_reveal {
            let path = reveal.path.to_string();
            self.refuse(audit::Operation::Reveal, &path, reveal.version, &caller.who(), "allow_reveal is not set");
            return Err(Fault::Refused(
                "content is shown only where the configuration says allow_reveal = true".into(),
            ));
        }
        let wanted = reveal.version.map_or(Wanted::Current, Wanted::Number);
        Ok(self.open_as(&caller, ino, wanted, audit::Operation::Reveal)?.content)
    }

    fn remove(&self, actor: &Actor, remove: Remove) -> Result<Removed, Fault> {
        let caller = self.admin(actor)?;
        self.may_remove(actor, &remove.path, remove.purge)?;
        let (directory, name) =
            remove.path.split_last().ok_or_else(|| Fault::Usage("the root cannot be removed".into()))?;
        let Some(ino) = self.with_tree(|t| t.find(&remove.path))? else {
            if !remove.purge {
                return Err(VaultError::NotFound.into());
            }
            let purged = self.purge_tombstone(&caller, &remove.path.to_string())?;
            self.scrub()?;
            return Ok(Removed { nodes: 0, purged });
        };
        let parent = self.with_tree(|t| t.find(&directory))?.ok_or(VaultError::NotFound)?;
        if removed_by_scope(&remove.path) {
            let reason = "a container's folder goes with its scope: pinfold scope rm";
            self.refuse(audit::Operation::Remove, &remove.path.to_string(), None, &caller.who(), reason);
            return Err(Fault::Refused(reason.into()));
        }
        let mut removed = Removed::default();
        let event = if remove.purge { audit::Operation::Purge } else { audit::Operation::Remove };
        self.remove_tree(&caller, parent, name, ino, remove.recursive, event, &mut removed)?;
        if remove.purge {
            self.scrub()?;
        }
        self.sync()?;
        Ok(removed)
    }

    fn history(&self, actor: &Actor, path: SecretPath) -> Result<Vec<VersionInfo>, Fault> {
        self.admin(actor)?;
        let (versions, live) = self.versions(&path)?;
        let last = versions.len().saturating_sub(1);
        let info = |(i, v): (usize, &super::node::Version)| VersionInfo {
            number: v.number.0,
            time: v.time,
            size: v.size,
            digest: crate::hex::encode(&v.digest),
            uid: Some(v.uid.0),
            current: live && i == last,
        };
        Ok(versions.iter().enumerate().map(info).rev().collect())
    }

    fn rollback(&self, actor: &Actor, rollback: Rollback) -> Result<u64, Fault> {
        let caller = self.admin(actor)?;
        self.may_roll_back(actor, &rollback.path, rollback.version)?;
        Ok(self.rollback_to(&caller, &rollback.path, rollback.version)?)
    }

    fn who(&self, actor: &Actor, who: wire::Who) -> Result<WhoReply, Fault> {
        self.admin(actor)?;
        let node = self.with_tree(|t| t.find(&who.path).and_then(|ino| t.get(ino).cloned()))?;
        let rules = node.map(|node| self.rules(&node)).transpose()?;
        let limit = who.recent.map_or(RECENT.0, |n| (n as usize).min(RECENT.1));
        let found = self.audit.recent(&who.path.to_string(), limit).map_err(|e| Fault::Failed(e.to_string()))?;
        let recent = found.into_iter().filter_map(happened).filter(|h| who.since.is_none_or(|s| h.time >= s)).collect();
        let rules = match rules {
            Some(rules) => rules,
            None if self.with_tree(|t| t.tombstone(&who.path.to_string()).is_some())? => Vec::new(),
            None => return Err(VaultError::NotFound.into()),
        };
        Ok(WhoReply { rules, recent })
    }

    fn log_head(&self, actor: &Actor) -> Result<LogPosition, Fault> {
        self.admin(actor)?;
        let head = self.audit.head();
        Ok(LogPosition { head: head.head_hex(), count: head.count })
    }

    fn log_anchor(&self, actor: &Actor) -> Result<LogPosition, Fault> {
        self.admin(actor)?;
        let synced = self.audit.synced();
        Ok(LogPosition { head: synced.head_hex(), count: synced.count })
    }

    fn log_rotate(&self, actor: &Actor) -> Result<Rotated, Fault> {
        let caller = self.admin(actor)?;
        self.record(audit::Operation::Rotate, "", None, &caller.who(), "admin")?;
        let rotated = self.audit.rotate().map_err(|e| Fault::Failed(e.to_string()))?;
        Ok(Rotated { rotated: rotated.display().to_string() })
    }

    fn log_read(
        &self,
        actor: &Actor,
        read: wire::LogRead,
        wanted: &mut dyn FnMut() -> bool,
        each: &mut dyn FnMut(&str) -> io::Result<()>,
    ) -> Result<wire::LogPlace, Fault> {
        self.admin(actor)?;
        self.read_log(read, wanted, each)
    }

    fn log_verify(&self, actor: &Actor, wanted: &mut dyn FnMut() -> bool) -> Result<wire::LogVerified, Fault> {
        self.admin(actor)?;
        self.verify_log(wanted)
    }

    fn recovery_add(&self, actor: &Actor, recipient: &str, only: bool) -> Result<u64, Fault> {
        let change = if only { RecoveryChange::Only } else { RecoveryChange::Add };
        Ok(self.change_recovery(&self.admin(actor)?, recipient, change)?)
    }

    fn recovery_remove(&self, actor: &Actor, recipient: &str) -> Result<u64, Fault> {
        Ok(self.change_recovery(&self.admin(actor)?, recipient, RecoveryChange::Remove)?)
    }

    fn recovery_list(&self, actor: &Actor) -> Result<Vec<String>, Fault> {
        self.admin(actor)?;
        Ok(self.recovery_recipients()?)
    }

    fn recovery_escrow(&self, actor: &Actor) -> Result<Vec<u8>, Fault> {
        Ok(self.take_escrow(&self.admin(actor)?)?)
    }

    fn fsck(&self, actor: &Actor, fsck: Fsck) -> Result<FsckReport, Fault> {
        self.admin(actor)?;
        self.sync()?;
        Ok(self.fsck_report(fsck)?)
    }

    fn extract(&self, actor: &Actor, extract: Extract) -> Result<Vec<u8>, Fault> {
        Ok(self.extract_blob(&self.admin(actor)?, &extract)?)
    }

    fn backup(&self, actor: &Actor, out: &mut dyn Write) -> Result<BackupReport, Fault> {
        let caller = self.admin(actor)?;
        if self.locked_since().is_none() {
            self.sync()?;
        }
        self.record(audit::Operation::Backup, "", None, &caller.who(), "admin")?;
        backup_report(&self.store, out)
    }

    fn scope_add(&self, actor: &Actor, add: wire::ScopeAdd) -> Result<(), Fault> {
        self.wire_scope_add(&self.admin(actor)?, &add)
    }

    fn scope_list(&self, actor: &Actor) -> Result<Vec<wire::ScopeEntry>, Fault> {
        self.admin(actor)?;
        self.wire_scope_list()
    }

    fn scope_remove(&self, actor: &Actor, remove: wire::ScopeRemove) -> Result<Removed, Fault> {
        self.wire_scope_remove(&self.admin(actor)?, &remove)
    }

    fn attach(&self, actor: &Actor, attach: wire::Attach) -> Result<String, Fault> {
        self.wire_attach(&self.admin(actor)?, &attach)
    }

    fn detach(&self, actor: &Actor, id: &str) -> Result<(), Fault> {
        self.wire_detach(&self.admin(actor)?, id)
    }

    fn instances(&self, actor: &Actor) -> Result<Vec<wire::InstanceEntry>, Fault> {
        self.admin(actor)?;
        self.wire_instances()
    }

    fn publish(&self, actor: &Actor, publish: wire::Publish) -> Result<Vec<wire::PublicationInfo>, Fault> {
        self.publish_secret(&self.admin(actor)?, publish)
    }

    fn unpublish(&self, actor: &Actor, unpublish: wire::Unpublish) -> Result<u64, Fault> {
        self.unpublish_secret(&self.admin(actor)?, unpublish)
    }

    fn published(&self, actor: &Actor) -> Result<Vec<wire::PublicationInfo>, Fault> {
        self.admin(actor)?;
        Ok(self.publications())
    }

    fn keyring_list(&self, actor: &Actor) -> Result<Vec<wire::HeldKey>, Fault> {
        self.admin(actor)?;
        Ok(self.held_keys()?)
    }

    fn key_request(&self, actor: &Actor, request: wire::KeyRequest) -> Result<(Secret, u32), Fault> {
        self.request_key(actor, &request)
    }

    fn identity_add(&self, actor: &Actor, add: wire::IdentityAdd) -> Result<(), Fault> {
        let caller = self.admin(actor)?;
        let current = current(&add.old_passphrase, &add.old_identity)?;
        let name = add.name.as_deref().unwrap_or(super::protectors::MAIN);
        let recipient = add.recipient.as_deref().map(|text| Recipient::parse(text, Place::Identity)).transpose();
        let recipient = recipient.map_err(|e| Fault::Usage(e.to_string()))?;
        let with = match (&add.passphrase, &recipient) {
            (Some(passphrase), None) => Protection::Passphrase(passphrase),
            (None, Some(recipient)) => Protection::Recipient(recipient),
            _ => return Err(Fault::Usage("give exactly one of passphrase and recipient".into())),
        };
        Ok(self.protect(&caller, &current, name, &with, add.replace)?)
    }

    fn identity_remove(&self, actor: &Actor, name: &str) -> Result<(), Fault> {
        Ok(self.unprotect(&self.admin(actor)?, name)?)
    }

    fn identity_list(&self, actor: &Actor) -> Result<Vec<wire::ProtectorInfo>, Fault> {
        self.admin(actor)?;
        let info = |(name, opened_by)| wire::ProtectorInfo {
            name,
            opened_by: match opened_by {
                OpenedBy::Passphrase => "passphrase",
                OpenedBy::Recipient => "recipient",
                OpenedBy::Token => "token",
                OpenedBy::Nothing => "nothing",
                OpenedBy::Unknown => "unknown",
            }
            .into(),
        };
        Ok(self.protectors()?.into_iter().map(info).collect())
    }

    fn rekey(&self, actor: &Actor, rekey: wire::Rekey) -> Result<wire::Rekeyed, Fault> {
        let caller = self.admin(actor)?;
        let current = current(&rekey.old_passphrase, &rekey.old_identity)?;
        let next = match (&rekey.passphrase, &rekey.identity) {
            (Some(passphrase), None) => NextIdentity::Passphrase(passphrase),
            (None, Some(text)) => NextIdentity::KeptByCaller(text),
            _ => return Err(Fault::Usage("give exactly one of passphrase and identity".into())),
        };
        let done = self.rekey(&caller, &current, &next, rekey.drop_others);
        if done.is_err() {
            // What is left of it takes room; if that fails too, the next unlock sees to it.
            let _ = self.finish_rekey();
        }
        let done = done?;
        Ok(wire::Rekeyed { blobs: done.blobs, recipient: done.recipient, dropped: done.dropped })
    }

    fn export(&self, actor: &Actor, export: wire::Export) -> Result<wire::Exported, Fault> {
        self.request_export(actor, &export)
    }

    fn export_preview(&self, actor: &Actor, asked: wire::ExportPreview) -> Result<Vec<wire::PreviewHost>, Fault> {
        self.admin(actor)?;
        Ok(self.preview(asked.hosts.as_deref())?)
    }

    fn export_sign(&self, actor: &Actor, sign: wire::ExportSign) -> Result<wire::Exported, Fault> {
        self.request_sign(&self.admin(actor)?, &sign)
    }

    fn hosts(&self, actor: &Actor) -> Result<Vec<wire::HostInfo>, Fault> {
        self.admin(actor)?;
        self.request_hosts()
    }

    fn signers(&self, actor: &Actor) -> Result<wire::SignerListing, Fault> {
        self.admin(actor)?;
        Ok(self.signer_listing()?)
    }

    fn signer_init(&self, actor: &Actor, init: wire::SignerInit) -> Result<wire::SignerListing, Fault> {
        let made = self.signer_first(&self.admin(actor)?, init.passphrase.as_ref());
        self.signers_after(actor, audit::Operation::Sign, made)
    }

    fn signer_rotate(&self, actor: &Actor, rotate: wire::SignerRotate) -> Result<wire::SignerListing, Fault> {
        let (old, new) = (rotate.old_passphrase.as_ref(), rotate.passphrase.as_ref());
        let made = self.rotate_signer(&self.admin(actor)?, old, new);
        self.signers_after(actor, audit::Operation::Rotate, made)
    }

    fn signer_revoke(&self, actor: &Actor, revoke: wire::SignerRevoke) -> Result<wire::SignerListing, Fault> {
        let made = self.revoke_signer(&self.admin(actor)?, &revoke.fingerprint);
        self.signers_after(actor, audit::Operation::Revoke, made)
    }

    fn join(&self, actor: &Actor, join: wire::Join) -> Result<wire::Joined, Fault> {
        Ok(self.join_console(&self.admin(actor)?, &join)?)
    }

    fn consoles(&self, actor: &Actor) -> Result<Vec<wire::ConsoleInfo>, Fault> {
        self.admin(actor)?;
        Ok(Vault::consoles(self)?)
    }

    fn leave(&self, actor: &Actor, leave: wire::Leave) -> Result<wire::Left, Fault> {
        Ok(self.leave_console(&self.admin(actor)?, &leave.console, leave.keep)?)
    }

    fn import(&self, actor: &Actor, import: wire::Import) -> Result<wire::ImportReport, Fault> {
        Ok(self.import_file(&self.admin(actor)?, &import)?)
    }

    fn accounts(&self, actor: &Actor) -> Result<Vec<wire::AccountInfo>, Fault> {
        self.admin(actor)?;
        Ok(Vault::accounts(self)?)
    }

    fn note_account(&self, actor: &Actor, note: wire::NoteAccount) -> Result<(), Fault> {
        Ok(Vault::note_account(self, &self.admin(actor)?, &note)?)
    }

    fn certs(&self) -> Option<&dyn wire::CertAdmin> {
        Some(self)
    }

    fn condition(&self, actor: &Actor, asked: wire::Condition) -> Result<wire::Conditions, Fault> {
        let caller = self.admin(actor)?;
        if !asked.only_tells() {
            self.only_with_proof(actor, audit::Operation::SetXattr, &asked.path)?;
        }
        Ok(self.change_conditions(&caller, &asked)?)
    }

    fn password_list(&self, actor: &Actor, list: wire::PasswordList) -> Result<Vec<wire::PasswordEntry>, Fault> {
        self.admin(actor)?;
        Ok(self.passwords(&list.pattern.unwrap_or_else(PasswordPattern::all))?)
    }

    fn password_put(&self, actor: &Actor, put: wire::PasswordPut) -> Result<u64, Fault> {
        self.put_password(actor, &put)
    }

    fn password_show(&self, actor: &Actor, show: wire::PasswordShow) -> Result<wire::ShownPassword, Fault> {
        self.show_password(actor, &show)
    }

    fn password_remove(&self, actor: &Actor, remove: wire::PasswordRemove) -> Result<Removed, Fault> {
        self.remove_password(actor, &remove)
    }

    fn rotation_begin(&self, actor: &Actor, begin: wire::RotationBegin) -> Result<(), Fault> {
        self.begin_rotation(actor, &begin)
    }

    fn rotation_open(&self, actor: &Actor, open: wire::RotationOpen) -> Result<wire::RotationOpened, Fault> {
        self.open_rotation(actor, &open)
    }

    fn rotation_mark(&self, actor: &Actor, mark: wire::RotationMark) -> Result<(), Fault> {
        self.mark_rotation(actor, &mark)
    }

    fn rotation_end(&self, actor: &Actor, end: wire::RotationEnd) -> Result<(), Fault> {
        self.end_rotation(actor, &end)
    }

    fn view_add(&self, actor: &Actor, add: wire::ViewAdd) -> Result<wire::ViewAdded, Fault> {
        self.add_view(&self.admin(actor)?, &add)
    }

    fn view_list(&self, actor: &Actor) -> Result<Vec<wire::ViewInfo>, Fault> {
        self.admin(actor)?;
        Ok(self.list_views()?)
    }

    fn view_remove(&self, actor: &Actor, path: SecretPath) -> Result<(), Fault> {
        self.remove_view(&self.admin(actor)?, &path)
    }

    fn denied(&self, actor: &Actor, reason: &str) {
        self.refuse(audit::Operation::Control, "", None, &self.control(actor).who(), reason);
    }
}

/// Writes a backup and says what is in it.
///
/// # Errors
/// What the store or the reader of the backup says.
pub(crate) fn backup_report(store: &store::Store, out: &mut dyn Write) -> Result<BackupReport, Fault> {
    let mut counted = Counted { out, bytes: 0 };
    let done = store::backup(store, &mut counted).map_err(VaultError::from)?;
    Ok(BackupReport { generation: done.generation, nodes: done.nodes, blobs: done.blobs, bytes: counted.bytes })
}

impl Vault {
    /// How the daemon is. Asked by itself, for `.pinfold`, and by whoever may.
    pub(crate) fn present(&self) -> Status {
        let observer = self.observer.get();
        let (arena_used, arena_size) = crate::sys::arena::usage();
        let (head, room) = (self.audit.head(), self.audit.room());
        let mut status = Status {
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            uptime: self.started.elapsed().as_secs(),
            store: self.store.dir().display().to_string(),
            mountpoint: self.limits.mountpoint.display().to_string(),
            max_secrets: self.limits.max_secrets,
            open_handles: observer.map_or(0, |o| o.open_handles()),
            waiting: observer.map_or(0, |o| o.waiting()),
            arena_used: arena_used as u64,
            arena_size: arena_size as u64,
            audit_head: head.head_hex(),
            audit_count: head.count,
            audit_full: room.full,
            audit_reserve: room.left,
            audit_unrecorded: self.audit.unrecorded(),
            ..Status::default()
        };
        status.limits = self.limits_used();
        (status.hosts, status.hosts_waiting, status.hosts_failing) = self.export_counts();
        match &*self.read_state() {
            State::Locked { at, .. } => {
                status.locked = true;
                status.locked_since = Some(*at);
            }
            State::Unlocked(open) => {
                status.generation = self.store.generation().map(|g| g.0);
                status.secrets = Some(open.tree.files());
                status.versions = Some(open.tree.nodes().map(|(_, n)| n.versions.len() as u64).sum());
                let alive = open.scopes.count_alive();
                let scope = |scope: &Scope, serial| ScopeStatus {
                    name: scope.to_string(),
                    key: word(open.keys.state(scope)).into(),
                    serial,
                    instances: alive.get(scope).copied().unwrap_or(0),
                };
                status.scopes = open.keys.scopes.iter().map(|(name, entry)| scope(name, entry.serial())).collect();
                status.quantum = Some(open.keys.recovery.quantum().into());
                status.certificates = self.certificate_status();
                status.scopes.sort_by(|a, b| a.name.cmp(&b.name));
            }
        }
        status
    }

    pub(super) fn directory(&self, wide: bool, caller: &Control, path: &SecretPath, make: bool) -> Result<Ino, Fault> {
        let mut at = Ino::ROOT;
        for name in path.names() {
            at = match self.with_tree(|t| t.child(at, name.as_str()))? {
                Some(ino) => ino,
                None if make => {
                    let made = self.make_directory(wide, caller, at, name)?;
                    self.tell(Change::Entry { parent: at, name: name.clone() });
                    made
                }
                None => return Err(Fault::NotFound(format!("the folder {path} is not there (put -p makes it)"))),
            };
        }
        Ok(at)
    }

    fn put_at(&self, actor: &Actor, caller: &Control, parent: Ino, name: &Name, put: &Put) -> Result<u64, VaultError> {
        let owner = self.owner_after(actor, put, parent, name)?;
        let (ino, made) = match (self.with_tree(|t| t.child(parent, name.as_str()))?, &owner) {
            (Some(ino), Owner::Kept) => (ino, false),
            (Some(ino), _) if actor.may_widen() => (ino, false),
            // Between the two looks it came or went: once more.
            (Some(_), _) => return Err(VaultError::Exists),
            (None, Owner::Kept) => return Err(VaultError::NotFound),
            (None, _) => {
                // Checked before anything is made: a refusal leaves nothing behind.
                crate::enrol::check(name, put.content.expose()).map_err(|r| VaultError::Invalid(r.to_string()))?;
                let new = NewNode { parent, name, kind: Kind::File, mode: 0o600, umask: 0, target: None };
                (self.create(caller, new)?.ino, true)
            }
        };
        let result = match owner {
            Owner::AsBefore(meta) => {
                let (uid, gid) = (Some(meta.uid), Some(meta.gid));
                // The list does not come back, so its mask must not become the right of the group.
                let mode = meta.acl.as_ref().map_or(meta.mode, |acl| meta.mode & !0o777 | acl.mode_alone());
                let set = SetAttr { mode: Some(mode), uid, gid, ..SetAttr::default() };
                self.set_attr(caller, ino, set).and_then(|_| self.put_content(caller, ino, put))
            }
            Owner::Kept | Owner::Asked => self.put_content(caller, ino, put),
        };
        if made && result.is_err() && self.with_tree(|t| t.child(parent, name.as_str()))? == Some(ino) {
            let _ = self.unlink(caller, parent, name);
        }
        let version = result?;
        self.tell(if made { Change::Entry { parent, name: name.clone() } } else { Change::Node(ino) });
        Ok(version)
    }

    fn put_content(&self, caller: &Control, ino: Ino, put: &Put) -> Result<u64, VaultError> {
        let mut grant = self.open_write(caller, ino)?;
        if put.uid.is_some() || put.gid.is_some() || put.mode.is_some() {
            // Owner and mode first: the content must never be open to more than will have it in the end.
            let set = SetAttr { mode: put.mode, uid: put.uid.map(Uid), gid: put.gid.map(Gid), ..SetAttr::default() };
            self.set_attr(caller, ino, set)?;
            grant = self.open_write(caller, ino)?;
        }
        let content = Content { bytes: put.content.expose(), mtime: Some(Timestamp::now()) };
        let version = self.commit(&grant, &caller.who(), content)?;
        self.sync()?;
        version.map(|v| v.0).ok_or(VaultError::NotFound)
    }

    #[allow(clippy::too_many_arguments, reason = "a walk that carries its way and its count")]
    fn remove_tree(
        &self,
        caller: &Control,
        parent: Ino,
        name: &Name,
        ino: Ino,
        recursive: bool,
        event: audit::Operation,
        removed: &mut Removed,
    ) -> Result<(), VaultError> {
        let node = self.node(ino)?;
        if node.kind == Kind::Directory {
            let entries = if node.is_view() { Vec::new() } else { self.entries(ino)? };
            for (child, _, child_name) in entries {
                if !recursive {
                    return Err(VaultError::NotEmpty);
                }
                self.remove_tree(caller, ino, &child_name, child, true, event, removed)?;
            }
            self.rmdir(caller, parent, name)?;
        } else {
            self.transact(|writer| self.unlink_locked(writer, caller, parent, name, event))?;
            if event == audit::Operation::Purge {
                removed.purged += node.versions.len() as u64;
            }
        }
        removed.nodes += 1;
        self.tell(Change::Entry { parent, name: name.clone() });
        Ok(())
    }

    /// What was removed for good is in the journal's files no longer either.
    fn scrub(&self) -> Result<(), VaultError> {
        let not_wiped =
            |error| VaultError::Failed(format!("it is removed, but the journal could not be wiped: {error}"));
        self.store.scrub().map_err(not_wiped)
    }

    pub(crate) fn fsck_report(&self, fsck: Fsck) -> Result<FsckReport, VaultError> {
        let checked = self.check(fsck.open)?;
        let problem = |(what, problem)| Problem { what, problem };
        Ok(FsckReport {
            generation: self.store.generation().map_or(0, |g| g.0),
            nodes: checked.nodes,
            blobs: checked.blobs,
            opened: fsck.open,
            problems: checked.problems.into_iter().map(problem).collect(),
        })
    }

    /// What is used of everything that has a bound.
    fn limits_used(&self) -> Vec<LimitStatus> {
        let kept = |resource| {
            let of = |tree: &super::tree::Tree| (tree.kept().all().get(resource), tree.kept().most(resource));
            self.with_tree(of).unwrap_or_default()
        };
        let refusals = self.audit.waiting();
        let kept = |resource| match resource {
            // Counted by the log's own queue.
            Resource::Refusals => (refusals.kinds, refusals.most),
            _ => kept(resource),
        };
        let status = |usage: crate::meter::Usage| LimitStatus {
            name: usage.resource.row().name.into(),
            used: usage.used,
            most: usage.most,
            limit: usage.share,
            refused: if usage.resource == Resource::Refusals { refusals.beyond } else { usage.refused },
        };
        self.meter.usage(kept).into_iter().map(status).collect()
    }

    /// The sealed blob of a secret, recorded.
    pub(crate) fn extract_blob(&self, caller: &impl Caller, extract: &Extract) -> Result<Vec<u8>, VaultError> {
        let blob = self.sealed_blob(&extract.path, extract.version)?;
        let path = extract.path.to_string();
        self.record(audit::Operation::Extract, &path, extract.version, &caller.who(), "admin")?;
        Ok(blob)
    }
}

impl From<VaultError> for Fault {
    fn from(error: VaultError) -> Self {
        let text = error.to_string();
        match error {
            VaultError::Denied(Denial::NoKey) | VaultError::Locked => Fault::Locked(text),
            VaultError::Unproven(reason) => Fault::Unproven(reason),
            VaultError::Denied(_)
            | VaultError::Exists
            | VaultError::NotADirectory
            | VaultError::IsADirectory
            | VaultError::NotEmpty
            | VaultError::CrossScope
            | VaultError::NotPermitted(_)
            | VaultError::Invalid(_)
            | VaultError::UnknownAttribute
            | VaultError::TooBig { .. }
            | VaultError::Exhausted(_)
            | VaultError::WrongKey(_) => Fault::Refused(text),
            VaultError::NotFound | VaultError::NoAttribute | VaultError::NotComposed(_) => Fault::NotFound(text),
            VaultError::BadName(_) | VaultError::BadAcl(_) => Fault::Usage(text),
            VaultError::Damaged(_) => Fault::Damaged(text),
            VaultError::NothingToDo(_) => Fault::NothingToDo(text),
            VaultError::NoSpace(_)
            | VaultError::ArenaFull(_)
            | VaultError::NotRecorded(_)
            | VaultError::LockedUnrecorded(_)
            | VaultError::Failed(_) => Fault::Failed(text),
        }
    }
}

/// The containers' folder, or one in it.
fn removed_by_scope(path: &SecretPath) -> bool {
    matches!(path.names(), [first] | [first, _] if first.as_str() == crate::model::CONTAINERS)
}

/// What opens the identity now.
fn current<'a>(passphrase: &'a Option<Secret>, identity: &'a Option<Secret>) -> Result<UnlockBy<'a>, Fault> {
    match (passphrase, identity) {
        (Some(passphrase), None) => Ok(UnlockBy::Passphrase(passphrase)),
        (None, Some(text)) => Ok(UnlockBy::Identity(text)),
        _ => Err(Fault::Usage("give exactly one of old_passphrase and old_identity".into())),
    }
}

fn entry(path: SecretPath, node: &Arc<Node>) -> Entry {
    // As seen inside: that is what is kept, with and without an instance.
    let attr = node.attr(Ino::ROOT, &View::plain());
    Entry {
        path,
        kind: node.kind.into(),
        size: attr.size,
        mode: attr.mode,
        uid: attr.uid,
        gid: attr.gid,
        mtime: attr.mtime,
        version: node.current().map(|v| v.number.0),
        acl: node.meta.acl.is_some() || node.meta.default_acl.is_some(),
        conditions: node.meta.conditions().any(),
        target: node.target.as_ref().map(|t| t.to_string()),
        scope: node.scope.to_string(),
    }
}

fn happened(record: audit::Record) -> Option<Happened> {
    let time = humantime::parse_rfc3339(&record.time).ok()?;
    Some(Happened {
        time: time.into(),
        operation: record.op,
        uid: record.uid?,
        pid: record.pid.unwrap_or(0),
        exe: record.exe,
        unit: record.unit,
        container: record.container,
        decision: record.decision.map(|d| d.as_str().to_owned()).unwrap_or_default(),
        reason: record.reason,
        version: record.version,
        count: record.count,
    })
}

struct Counted<'a> {
    out: &'a mut dyn Write,
    bytes: u64,
}

impl Write for Counted<'_> {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        let n = self.out.write(buf)?;
        self.bytes += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }
}

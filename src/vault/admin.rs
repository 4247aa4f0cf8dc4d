//! What an admin asks for through the control socket, in the words of `wire`.

use super::backup::backup_report;
use super::listed::{entry, happened};
use super::open::Wanted;
use super::recovery::RecoveryChange;
use super::rekey::NextIdentity;
use super::remove::removed_by_scope;
use super::unlock::UnlockBy;
use super::{Vault, VaultError};
use crate::audit;
use crate::model::{Kind, PasswordPattern, SecretPath};
use crate::seal::{OpenedBy, Protection};
use crate::secret::Secret;
use crate::stream::{Place, Recipient};
use crate::wire::{
    self, Actor, Admin, BackupReport, Entry, Extract, Fault, Fsck, FsckReport, List, LogPosition, Put, Remove, Removed,
    Reveal, Rollback, Rotated, Status, UnlockWith, VersionInfo, WhoReply,
};
use std::io::{self, Write};

/// The most entries one listing has.
const MAX_LISTED: usize = 200_000;
/// Decisions shown by `who` if nothing else is asked for, and at most.
const RECENT: (usize, usize) = (20, 1000);

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
        let (directory, _) = put.path.split_last().ok_or_else(|| Fault::Usage("the root is not a secret".into()))?;
        self.may_put(actor, &put.path)?;
        if !put.parents {
            self.folder_there(&directory)?;
        }
        Ok(self.put_whole(actor, &caller, &put)?)
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

/// What opens the identity now.
fn current<'a>(passphrase: &'a Option<Secret>, identity: &'a Option<Secret>) -> Result<UnlockBy<'a>, Fault> {
    match (passphrase, identity) {
        (Some(passphrase), None) => Ok(UnlockBy::Passphrase(passphrase)),
        (None, Some(text)) => Ok(UnlockBy::Identity(text)),
        _ => Err(Fault::Usage("give exactly one of old_passphrase and old_identity".into())),
    }
}

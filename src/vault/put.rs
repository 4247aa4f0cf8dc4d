//! What an admin puts or removes by path. A put is one transaction: the folders it lacks, the file, its owner and mode, and the content.

use super::authority::Owner;
use super::node::Node;
use super::open::denial_of;
use super::scopes::Holder;
use super::write_right::WriteRight;
use super::writer::Writer;
use super::{Change, NewNode, SetAttr, Vault, VaultError};
use crate::access::{Operation, ScopeState};
use crate::audit;
use crate::caller::Control;
use crate::meter::{Payer, Resource};
use crate::model::{Gid, Ino, Kind, Name, Scope, SecretPath, Subject, Uid};
use crate::seal::{self, BlobDigest};
use crate::wire::{Actor, Fault, Put, Removed};
use std::sync::Arc;
use std::time::Instant;

impl Vault {
    /// The folder at a path that is there.
    pub(super) fn folder_there(&self, path: &SecretPath) -> Result<Ino, Fault> {
        let missing = || Fault::NotFound(format!("the folder {path} is not there (put -p makes it)"));
        self.with_tree(|tree| tree.find(path))?.ok_or_else(missing)
    }

    /// The folder at a path, made with those above it if they are not there.
    pub(super) fn folder_made(&self, caller: &Control, path: &SecretPath) -> Result<Ino, VaultError> {
        let mut changes = Vec::new();
        let made = self.transact(|writer| self.folder_in(writer, true, caller, path, &mut changes))?;
        changes.into_iter().for_each(|change| self.notify(change));
        Ok(made)
    }

    fn folder_in(
        &self,
        writer: &mut Writer,
        wide: bool,
        caller: &Control,
        path: &SecretPath,
        changes: &mut Vec<Change>,
    ) -> Result<Ino, VaultError> {
        let mut at = Ino::ROOT;
        for name in path.names() {
            at = match self.with_tree(|t| t.child(at, name.as_str()))? {
                Some(ino) => ino,
                None => {
                    let made = self.make_directory(writer, wide, caller, at, name)?;
                    changes.push(Change::Entry { parent: at, name: name.clone() });
                    made
                }
            };
        }
        Ok(at)
    }

    /// Puts content at a path: all that it takes, or nothing. The number of the version.
    pub(super) fn put_whole(&self, actor: &Actor, caller: &Control, put: &Put) -> Result<u64, VaultError> {
        let (folder, name) = put.path.split_last().ok_or(VaultError::IsADirectory)?;
        let (path, bytes) = (put.path.to_string(), put.content.expose());
        self.recording(audit::Operation::Commit, &path, || caller.who(), self.check_named(Some(name), bytes))?;
        let (mut writer, (scope, sealed)) = self.sealed(
            || self.lock_writer(),
            |keys| {
                let scope = self.node(self.nearest(&folder)?)?.scope.clone();
                let kek = keys.kek(&scope).map_err(|state| self.without_key(caller, &path, &scope, state))?;
                Ok((scope, seal::seal_blob(bytes, &kek, &keys.recovery)))
            },
        )?;
        let mut changes = Vec::new();
        let done =
            self.transact_with(&mut writer, |writer| self.put_in(writer, (actor, caller), put, sealed, &mut changes));
        drop(writer);
        if let Err(VaultError::Denied(denial)) = &done {
            self.follow_revocation(&Holder::daemon(&scope), denial);
        }
        let version = done?;
        changes.into_iter().for_each(|change| self.notify(change));
        Ok(version)
    }

    fn put_in(
        &self,
        writer: &mut Writer,
        (actor, caller): (&Actor, &Control),
        put: &Put,
        sealed: (Vec<u8>, BlobDigest),
        changes: &mut Vec<Change>,
    ) -> Result<u64, VaultError> {
        let (folder, name) = put.path.split_last().ok_or(VaultError::IsADirectory)?;
        let (path, bytes) = (put.path.to_string(), put.content.expose());
        let parent = match put.parents {
            true => self.folder_in(writer, actor.may_widen(), caller, &folder, changes)?,
            false => self.find(&folder)?,
        };
        let (directory, _) = self.place(parent, name)?;
        let owner = self.owner_after(actor, put, parent, name)?;
        let there = self.with_tree(|t| t.child(parent, name.as_str()))?;
        let (ino, before) = match there {
            Some(ino) => (ino, self.node(ino)?),
            None => {
                let new = NewNode { parent, name, kind: Kind::File, mode: 0o600, umask: 0, target: None };
                let (ino, node) = self.new_node(writer, caller, new, &directory, &path)?;
                (ino, Arc::new(node))
            }
        };
        // As it is now, and as it will be: the content is never open to more than will have it in the end.
        let mut right = self.right_to_change(caller, (ino, &before), &path, Operation::Write)?;
        let mut next = (*before).clone();
        for set in attributes(owner, put).into_iter().flatten() {
            next = self.with_attributes(caller, (ino, &next), &path, set)?;
            right = self.right_to_change(caller, (ino, &next), &path, Operation::Write)?;
        }
        changes.push(match there {
            Some(ino) => Change::Node(ino),
            None => Change::Entry { parent, name: name.clone() },
        });
        let made = there.is_none().then_some(parent);
        let done = self.commit_put(writer, caller, &right, (&before, next), &path, (bytes, sealed), made);
        self.recording(audit::Operation::Commit, &path, || caller.who(), done)
    }

    /// Commits its content, with all that waits.
    #[allow(clippy::too_many_arguments, reason = "what was decided of it, and what is to be written")]
    fn commit_put(
        &self,
        writer: &mut Writer,
        caller: &Control,
        right: &WriteRight,
        (before, next): (&Node, Node),
        path: &str,
        (bytes, sealed): (&[u8], (Vec<u8>, BlobDigest)),
        made_in: Option<Ino>,
    ) -> Result<u64, VaultError> {
        let ino = right.ino();
        self.check_pair(path, Some((ino, &next)), next.meta.mode, bytes)?;
        let payer = Payer::of(caller.uid(), right.holder.instance());
        self.meter.spend(Resource::CommitBytes, payer, bytes.len() as u64, Instant::now())?;
        let mut changed = self.next_version((ino, path), next, sealed, bytes.len(), caller.uid())?;
        changed.next.meta.mtime = changed.next.meta.ctime;
        self.check_share(before, &changed, self.abreast.adds())?;
        let (number, rule) = (changed.number(), right.grant.rule().to_string());
        self.record(audit::Operation::Commit, path, Some(number), &caller.who(), &rule)?;
        if let Some(parent) = made_in {
            self.stamp(writer, parent)?;
        }
        self.install(writer, vec![changed])?;
        Ok(number)
    }

    fn without_key(&self, caller: &Control, path: &str, scope: &Scope, state: ScopeState) -> VaultError {
        let denial = denial_of(state);
        self.refuse(audit::Operation::Commit, path, None, &caller.who(), &denial.to_string());
        self.follow_revocation(&Holder::daemon(scope), &denial);
        VaultError::Denied(denial)
    }

    #[allow(clippy::too_many_arguments, reason = "a walk that carries its way and its count")]
    pub(super) fn remove_tree(
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
        self.notify(Change::Entry { parent, name: name.clone() });
        Ok(())
    }
}

/// What is set before the content, in this order.
fn attributes(owner: Owner, put: &Put) -> [Option<SetAttr>; 2] {
    let before = match owner {
        Owner::AsBefore(meta) => {
            // The list does not come back, so its mask must not become the right of the group.
            let mode = meta.acl.as_ref().map_or(meta.mode, |acl| meta.mode & !0o777 | acl.mode_alone());
            Some(SetAttr { mode: Some(mode), uid: Some(meta.uid), gid: Some(meta.gid), ..SetAttr::default() })
        }
        Owner::Kept | Owner::Asked => None,
    };
    let asks = put.uid.is_some() || put.gid.is_some() || put.mode.is_some();
    let asked = SetAttr { mode: put.mode, uid: put.uid.map(Uid), gid: put.gid.map(Gid), ..SetAttr::default() };
    [before, asks.then_some(asked)]
}

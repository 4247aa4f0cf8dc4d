//! What an admin puts or removes by path, as several steps of what the filesystem would do.

use super::authority::Owner;
use super::{Change, Content, NewNode, SetAttr, Vault, VaultError};
use crate::audit;
use crate::caller::Control;
use crate::model::{Gid, Ino, Kind, Name, SecretPath, Timestamp, Uid};
use crate::wire::{Actor, Fault, Put, Removed};

impl Vault {
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

    pub(super) fn put_at(
        &self,
        actor: &Actor,
        caller: &Control,
        parent: Ino,
        name: &Name,
        put: &Put,
    ) -> Result<u64, VaultError> {
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
        self.tell(Change::Entry { parent, name: name.clone() });
        Ok(())
    }
}

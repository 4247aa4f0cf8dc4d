//! Passwords of people's accounts elsewhere: `passwords/HOST/SERVICE/USER`, shown to admins one at a time.
//!
//! Owns who may see one: nobody in the tree (a new one is 0000 of root), an admin through the control socket, bounded
//! for each and recorded; and the order in which a rotation becomes durable. It speaks to no other machine.

mod bound;
mod rotation;

use super::open::{Opened, WhichVersion};
use super::{Change, Content, NewNode, SetAttr, Vault, VaultError};
use crate::access::Operation;
use crate::audit;
use crate::caller::Control;
use crate::lock::{Mutex, MutexGuard, rank};
use crate::model::{
    AclTag, Gid, Ino, Kind, PASSWORDS, PasswordName, PasswordPattern, SecretPath, Timestamp, Uid, check_password,
};
use crate::wire::{
    Actor, Committed, Fault, PasswordEntry, PasswordList, PasswordListing, PasswordPut, PasswordRemove, PasswordShow,
    Removed, RotationState, Serve, ShownPassword, too_many_passwords,
};
use bound::Bound;
use std::time::Instant;

/// What the vault remembers of passwords from one request to the next.
pub(super) struct Passwords {
    /// Innermost: nothing is called while it is held.
    shown: Mutex<Bound>,
    /// Innermost, as well.
    opened: Mutex<Bound>,
    /// One change of a rotation at a time. Taken before every other lock of the vault.
    rotating: Mutex<(), { rank::ALONE }>,
}

impl Default for Passwords {
    fn default() -> Self {
        let bounds = crate::config::Passwords::default();
        Passwords {
            shown: Mutex::new(Bound::new(bounds.show_per_minute)),
            opened: Mutex::new(Bound::new(bounds.rotate_per_minute)),
            rotating: Mutex::default(),
        }
    }
}

impl Vault {
    /// With another bound for passwords shown to one admin within a minute.
    pub fn with_shows_per_minute(self, most: u32) -> Self {
        *self.passwords.shown.lock() = Bound::new(most);
        self
    }

    /// With another bound for rotations whose passwords one admin is handed within a minute.
    pub fn with_rotations_per_minute(self, most: u32) -> Self {
        *self.passwords.opened.lock() = Bound::new(most);
        self
    }

    fn rotating(&self) -> MutexGuard<'_, (), { rank::ALONE }> {
        self.passwords.rotating.lock()
    }

    /// The passwords that a pattern selects, by host, service and user.
    pub(super) fn passwords(&self, pattern: &PasswordPattern) -> Result<Vec<PasswordEntry>, VaultError> {
        let Some(top) = self.found(&SecretPath::parse(PASSWORDS)?)? else { return Ok(Vec::new()) };
        let mut all = Vec::new();
        for (host_ino, host) in self.folders(top, |host| pattern.matches_host(host))? {
            for (service_ino, service) in self.folders(host_ino, |service| pattern.matches_service(service))? {
                for (ino, kind, user) in self.entries(service_ino)? {
                    let Ok(name) = PasswordName::of(user.as_str(), &host, &service) else { continue };
                    if kind == Kind::File && pattern.matches(&name) {
                        all.extend(self.entry(ino, name)?);
                    }
                }
            }
        }
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(all)
    }

    /// What a listing says of one; `None` for a file that was never written, or has gone meanwhile.
    fn entry(&self, ino: Ino, name: PasswordName) -> Result<Option<PasswordEntry>, VaultError> {
        let Some(node) = self.with_tree(|tree| tree.get(ino).cloned())? else { return Ok(None) };
        let Some(version) = node.current() else { return Ok(None) };
        let by_acl = node.meta.acl.as_ref().is_some_and(|acl| {
            acl.entries().iter().any(|e| matches!(e.tag, AclTag::User(_) | AclTag::Group(_)) && e.perm & 4 != 0)
        });
        Ok(Some(PasswordEntry {
            version: version.number.0,
            changed: version.time,
            open: by_acl || node.meta.mode & 0o444 != 0,
            rotation: self.rotation(&name)?.map(|(_, state)| state),
            name,
        }))
    }

    fn folders(&self, parent: Ino, wanted: impl Fn(&str) -> bool) -> Result<Vec<(Ino, String)>, VaultError> {
        let entries = self.entries(parent)?.into_iter();
        let folders = entries.filter(|(_, kind, name)| *kind == Kind::Directory && wanted(name.as_str()));
        Ok(folders.map(|(ino, _, name)| (ino, name.as_str().to_owned())).collect())
    }

    fn found(&self, path: &SecretPath) -> Result<Option<Ino>, VaultError> {
        self.with_tree(|tree| tree.find(path))
    }

    /// A password that was written.
    fn password(&self, name: &PasswordName) -> Result<Ino, Fault> {
        let missing = || Fault::NotFound(format!("there is no password {name}"));
        let ino = self.found(&name.path())?.ok_or_else(missing)?;
        let node = self.node(ino)?;
        if node.kind == Kind::File && node.current().is_some() { Ok(ino) } else { Err(missing()) }
    }

    /// Counts what an admin is handed, and refuses what is too much within a minute, on record.
    fn bounded(&self, bound: &Mutex<Bound>, actor: &Actor, caller: &Control, ino: Ino) -> Result<(), Fault> {
        let taken = bound.lock().take(actor.uid, Instant::now());
        let Err(wait) = taken else { return Ok(()) };
        let fault = too_many_passwords(wait);
        self.refuse(audit::Operation::Reveal, &self.path_of(ino, None), None, &caller.who(), fault.reason());
        Err(fault)
    }

    /// Opens a password for the admin who asked; on record before it returns.
    fn open_for_admin(&self, caller: &Control, ino: Ino) -> Result<Opened, VaultError> {
        self.open_granted(caller, ino, WhichVersion::Current, audit::Operation::Reveal, |node| {
            self.grant(caller, ino, node, Operation::ShowPassword)
        })
    }

    /// Writes content that nobody may read in the tree; what is there already keeps its mode. `mark` is written with it,
    /// in the same transaction.
    fn write_hidden(
        &self,
        caller: &Control,
        path: &SecretPath,
        content: &[u8],
        mark: Option<RotationState>,
    ) -> Result<u64, VaultError> {
        let (directory, name) = path.split_last().ok_or(VaultError::NotFound)?;
        let mut parent = Ino::ROOT;
        for folder in directory.names() {
            parent = match self.with_tree(|t| t.child(parent, folder.as_str()))? {
                Some(ino) => ino,
                None => {
                    let ino = self.make_hidden(caller, parent, folder, Kind::Directory)?;
                    self.notify(Change::Entry { parent, name: folder.clone() });
                    ino
                }
            };
        }
        let (ino, made) = match self.with_tree(|t| t.child(parent, name.as_str()))? {
            Some(ino) => (ino, false),
            None => {
                // Checked before anything is made: a refusal leaves nothing behind.
                crate::enrol::check(name, content).map_err(|r| VaultError::Invalid(r.to_string()))?;
                (self.make_hidden(caller, parent, name, Kind::File)?, true)
            }
        };
        if let Some(state) = mark {
            self.set_mark(caller, ino, state)?;
        }
        let right = self.open_write(caller, ino)?;
        let content = Content { bytes: content, mtime: Some(Timestamp::now()) };
        let version = self.commit(&right, &caller.who(), content)?.ok_or(VaultError::NotFound)?;
        self.notify(if made { Change::Entry { parent, name: name.clone() } } else { Change::Node(ino) });
        Ok(version.0)
    }

    /// A node of root's that is closed to all others, and a file to root too.
    fn make_hidden(
        &self,
        caller: &Control,
        parent: Ino,
        name: &crate::model::Name,
        kind: Kind,
    ) -> Result<Ino, VaultError> {
        let mode = if kind == Kind::Directory { 0o700 } else { 0 };
        let ino = self.create(caller, NewNode { parent, name, kind, mode, umask: 0, target: None })?.ino;
        if caller.who().uid != 0 {
            let set = SetAttr { uid: Some(Uid::ROOT), gid: Some(Gid(0)), ..SetAttr::default() };
            self.set_attr(caller, ino, set)?;
        }
        Ok(ino)
    }

    /// Removes a file.
    fn take_away(&self, caller: &Control, path: &SecretPath, event: audit::Operation) -> Result<(), VaultError> {
        let (directory, name) = path.split_last().ok_or(VaultError::NotFound)?;
        let parent = self.found(&directory)?.ok_or(VaultError::NotFound)?;
        self.transact(|writer| self.unlink_locked(writer, caller, parent, name, event))?;
        self.notify(Change::Entry { parent, name: name.clone() });
        Ok(())
    }
}

impl Serve<PasswordPut> for Vault {
    fn serve(&self, actor: &Actor, put: PasswordPut) -> Result<Committed, Fault> {
        let caller = self.admin(actor)?;
        let path = put.name.path();
        if let Err(error) = check_password(put.content.expose()) {
            let reason = error.to_string();
            self.refuse(audit::Operation::Commit, &path.to_string(), None, &caller.who(), &reason);
            return Err(Fault::Refused(reason));
        }
        let _one = self.rotating();
        if let Some((_, state)) = self.rotation(&put.name)? {
            return Err(under_way(&put.name, state));
        }
        if put.replace != Some(true) && self.password(&put.name).is_ok() {
            return Err(Fault::Refused(format!("the password {} is there", put.name)));
        }
        let version = self.write_hidden(&caller, &path, put.content.expose(), None)?;
        self.sync()?;
        Ok(Committed { version })
    }
}

impl Serve<PasswordShow> for Vault {
    fn serve(&self, actor: &Actor, show: PasswordShow) -> Result<ShownPassword, Fault> {
        let caller = self.admin(actor)?;
        let rotation = self.rotation(&show.name)?;
        let ino = match (show.next, rotation) {
            (Some(true), Some((next, _))) => next,
            (Some(true), None) => return Err(none_under_way(&show.name)),
            _ => self.password(&show.name)?,
        };
        self.bounded(&self.passwords.shown, actor, &caller, ino)?;
        let opened = self.open_for_admin(&caller, ino)?;
        let version = opened.version.map_or(0, |v| v.0);
        Ok(ShownPassword { version, rotation: rotation.map(|(_, state)| state), content: opened.content })
    }
}

impl Serve<PasswordRemove> for Vault {
    fn serve(&self, actor: &Actor, remove: PasswordRemove) -> Result<Removed, Fault> {
        let caller = self.admin(actor)?;
        if remove.purge == Some(true) {
            self.only_with_proof(actor, audit::Operation::Purge, &remove.name.path())?;
        }
        let _one = self.rotating();
        if let Some((_, state)) = self.rotation(&remove.name)? {
            return Err(under_way(&remove.name, state));
        }
        let ino = self.password(&remove.name)?;
        let path = remove.name.path();
        let versions = self.node(ino)?.versions.len() as u64;
        let purge = remove.purge == Some(true);
        self.take_away(&caller, &path, if purge { audit::Operation::Purge } else { audit::Operation::Remove })?;
        let mut removed = Removed { nodes: 1, purged: if purge { versions } else { 0 } };
        // What is left empty would only show that there once was something.
        let (mut folder, _) = path.split_last().expect("it has four names");
        while let Some((above, name)) = folder.split_last() {
            let parent = self.found(&above)?.ok_or(VaultError::NotFound)?;
            match self.rmdir(&caller, parent, name) {
                Ok(_) => removed.nodes += 1,
                Err(VaultError::NotEmpty | VaultError::NotFound) => break,
                Err(error) => return Err(error.into()),
            }
            self.notify(Change::Entry { parent, name: name.clone() });
            folder = above;
        }
        self.sync()?;
        Ok(removed)
    }
}

impl Serve<PasswordList> for Vault {
    fn serve(&self, actor: &Actor, asked: PasswordList) -> Result<PasswordListing, Fault> {
        self.admin(actor)?;
        let pattern = asked.pattern.unwrap_or_else(PasswordPattern::all);
        Ok(PasswordListing { passwords: self.passwords(&pattern)? })
    }
}

fn under_way(name: &PasswordName, state: RotationState) -> Fault {
    Fault::Refused(format!("{name} is being rotated: {}, the {} one is valid", state.as_str(), state.valid()))
}

fn none_under_way(name: &PasswordName) -> Fault {
    Fault::NotFound(format!("no rotation of {name} is under way"))
}

#[cfg(test)]
mod tests;

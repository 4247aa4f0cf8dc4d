//! Several secrets committed as one: readers, a crash and a backup see all of them as they were or as they are.
//!
//! For what belongs together, key and certificate; a single secret is `commit`'s.

use super::node::{Node, Record, Version};
use super::on_change;
use super::tree::{InheritedHistory, Recount};
use super::writer::Writer;
use super::{Caller, Change, Vault, VaultError};
use crate::access::{Operation, ScopeState};
use crate::audit;
use crate::caller::Daemon;
use crate::model::{Gid, Ino, Kind, Meta, SecretPath, Timestamp, Uid, VersionNo};
use crate::seal;
use crate::store::{Batch, BlobKey};
use std::collections::BTreeMap;

/// One of several secrets.
pub(super) struct Part<'a> {
    /// Its path; the folder is there.
    pub path: SecretPath,
    /// Its content.
    pub content: &'a [u8],
    /// The mode it is made with, of root's, if it is not there yet.
    pub mode: u16,
}

/// One of them, on its way.
struct Ready {
    path: String,
    ino: Ino,
    parent: Ino,
    next: Node,
    made: bool,
    blob: (BlobKey, Vec<u8>),
    takes: Option<InheritedHistory>,
}

impl Vault {
    /// Commits all `parts`, and removes what is `gone` (for good, if the operation is [`audit::Operation::Purge`]), in one transaction. What kind of content it is was checked
    /// before; pairs are not looked at: together they are one. The versions' numbers.
    ///
    /// # Errors
    /// [`VaultError::Denied`], [`VaultError::TooBig`], [`VaultError::NoSpace`]; nothing was changed then.
    pub(super) fn commit_together(
        &self,
        caller: &impl Caller,
        parts: &[Part<'_>],
        gone: &[(SecretPath, audit::Operation)],
        event: audit::Operation,
    ) -> Result<Vec<u64>, VaultError> {
        for part in parts {
            let (_, name) = part.path.split_last().ok_or(VaultError::IsADirectory)?;
            if part.content.len() as u64 > self.limits.max_secret_size {
                return Err(VaultError::TooBig { max: self.limits.max_secret_size });
            }
            crate::enrol::check(name, part.content).map_err(|r| VaultError::Invalid(format!("{}: {r}", part.path)))?;
        }
        // Sealed without the lock; anew, if the keys or the recovery recipients changed meanwhile.
        let (mut writer, sealed) = loop {
            let keys = self.keys()?;
            let seal = |part: &Part<'_>| -> Result<_, VaultError> {
                let parent = part.path.split_last().map(|(p, _)| p).unwrap_or_else(SecretPath::root);
                let parent = self.node(self.find(&parent)?)?;
                let kek = keys.kek(&parent.scope).map_err(|s| VaultError::Denied(super::open::denial_of(s)))?;
                Ok(seal::seal_blob(part.content, &kek, &keys.recovery))
            };
            let sealed = parts.iter().map(seal).collect::<Result<Vec<_>, _>>()?;
            let writer = self.lock_writer();
            if std::sync::Arc::ptr_eq(&self.keys()?, &keys) {
                break (writer, sealed);
            }
        };
        let (numbers, changes) =
            self.transact_with(&mut writer, |writer| self.together_in(writer, caller, (parts, sealed), gone, event))?;
        drop(writer);
        changes.into_iter().for_each(|change| self.tell(change));
        Ok(numbers)
    }

    fn together_in(
        &self,
        writer: &mut Writer,
        caller: &impl Caller,
        (parts, sealed): (&[Part<'_>], Vec<(Vec<u8>, seal::BlobDigest)>),
        gone: &[(SecretPath, audit::Operation)],
        event: audit::Operation,
    ) -> Result<(Vec<u64>, Vec<Change>), VaultError> {
        let mut ready = Vec::new();
        for (part, (blob, digest)) in parts.iter().zip(sealed) {
            let path = part.path.to_string();
            let (folder, name) = part.path.split_last().ok_or(VaultError::IsADirectory)?;
            let parent = self.find(&folder)?;
            let directory = self.node(parent)?;
            let there = self.with_tree(|t| t.child(parent, name.as_str()))?;
            let (ino, mut next) = match there {
                Some(ino) => {
                    let node = self.node(ino)?;
                    if node.kind != Kind::File {
                        return Err(VaultError::Invalid(format!("{path} is no file")));
                    }
                    self.allow(caller, ino, &node, Operation::Write, event, &path)?;
                    (ino, (*node).clone())
                }
                None => {
                    let grant = self.allow(caller, parent, &directory, Operation::ChangeEntries, event, &path)?;
                    self.check_room(caller, grant.rule(), &directory.scope)?;
                    let node = Node {
                        parent,
                        name: Some(name.clone()),
                        kind: Kind::File,
                        scope: directory.scope.clone(),
                        meta: Meta::new(Uid::ROOT, Gid(0), part.mode),
                        target: None,
                        versions: Vec::new(),
                        last_number: 0,
                        view: None,
                    };
                    (writer.next_ino()?, node)
                }
            };
            let takes = match next.last_number {
                0 => self.with_tree(|tree| tree.heritage(&path, ino))?,
                _ => None,
            };
            if let Some(heritage) = &takes {
                super::admin_xattrs::come_back(&mut next, &heritage.ruled)?;
                (next.versions, next.last_number) = (heritage.versions.clone(), heritage.last_number);
            }
            let number = VersionNo(next.last_number + 1);
            let (now, key) = (Timestamp::now(), BlobKey { ino, version: number });
            let size = part.content.len() as u64;
            next.versions.push(Version { number, blob: key, digest, size, time: now, uid: Uid(caller.who().uid) });
            next.last_number = number.0;
            (next.meta.ctime, next.meta.mtime) = (now, now);
            super::commit::prune(&mut next, self.limits.keep_versions);
            ready.push(Ready { path, ino, parent, next, made: there.is_none(), blob: (key, blob), takes });
        }
        for one in &ready {
            self.record(event, &one.path, Some(one.next.last_number), &caller.who(), "together")?;
        }
        let mut changes = Vec::new();
        for (path, how) in gone {
            let Some((folder, name)) = path.split_last() else { continue };
            let Ok(parent) = self.find(&folder) else { continue };
            match self.unlink_locked(writer, caller, parent, name, *how) {
                Ok(_) => changes.push(Change::Entry { parent, name: name.clone() }),
                Err(VaultError::NotFound) => {}
                Err(error) => return Err(error),
            }
        }
        let numbers = ready.iter().map(|one| one.next.last_number).collect();
        changes.extend(ready.iter().map(|one| match (one.made, &one.next.name) {
            (true, Some(name)) => Change::Entry { parent: one.parent, name: name.clone() },
            _ => Change::Node(one.ino),
        }));
        self.install_together(writer, ready)?;
        Ok((numbers, changes))
    }

    fn install_together(&self, writer: &mut Writer, ready: Vec<Ready>) -> Result<(), VaultError> {
        let mut batch = Batch::default();
        let mut records = BTreeMap::new();
        let mut recounts: Vec<Recount> = Vec::new();
        let folders: Vec<Ino> = ready.iter().filter(|one| one.made).map(|one| one.parent).collect();
        for one in &ready {
            let tombstone = one.takes.as_ref().and_then(|h| Some((h.tombstone?, h.versions.as_slice())));
            let recount = self.with_tree(|tree| {
                let own = tree.get(one.ino).map(|node| node.versions.as_slice()).unwrap_or_default();
                let buried = tombstone.map(|(_, versions)| versions).unwrap_or_default();
                tree.recount(&[own, buried], &one.next.versions, Some(one.blob.0))
            })?;
            batch.blobs.extend(recount.gone.iter().map(|blob| (*blob, None)));
            batch.nodes.extend(tombstone.map(|(tombstone, _)| (tombstone, None)));
            records.insert(one.ino, Record::Node(one.next.clone()));
            recounts.push(recount);
        }
        batch.blobs.extend(ready.iter().map(|one| (one.blob.0, Some(one.blob.1.clone()))));
        folders.into_iter().try_for_each(|folder| self.stamp(writer, folder))?;
        self.flush_with(writer, batch, &records)?;
        let touched = self.with_tree_mut(|tree| {
            let mut touched = Vec::new();
            for (one, recount) in ready.into_iter().zip(recounts) {
                if one.takes.is_some() {
                    tree.restore_name(&one.path);
                    tree.forget_left(&one.path);
                }
                tree.settle(recount);
                touched.push(on_change::touched(one.ino, tree.get(one.ino).map(|old| &**old), &one.next));
                tree.put(one.ino, one.next);
            }
            touched
        })?;
        touched.into_iter().for_each(|one| self.tell_unit(one));
        Ok(())
    }

    /// The current content of a secret, looked at as the daemon's own work: what is compared here is shown to nobody.
    pub(super) fn look_at(&self, ino: Ino, node: &Node) -> Result<crate::secret::Secret, VaultError> {
        let grant = self.judge(&Daemon, ino, node, ScopeState::Alive, Operation::Read)?;
        let kek = self.keys()?.kek(&node.scope).map_err(|s| VaultError::Denied(super::open::denial_of(s)))?;
        self.decrypt(&grant, &kek, node.current())
    }
}

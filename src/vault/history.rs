//! Versions: what there was, and making an older one current again.

use super::node::{Node, Tombstone, Version};
use super::version::Changed;
use super::writer::Writer;
use super::{Caller, Change, Vault, VaultError};
use crate::access::Operation;
use crate::audit;
use crate::model::{Ino, Kind, Name, SecretPath, Timestamp, Uid, VersionNo};
use std::sync::Arc;

impl Vault {
    /// The versions kept of a path, oldest first, also of a secret that was removed; and whether it has the name now.
    pub(super) fn versions(&self, path: &SecretPath) -> Result<(Vec<Version>, bool), VaultError> {
        let found = self.with_tree(|tree| match tree.find(path).and_then(|ino| tree.get(ino)) {
            Some(node) if node.kind == Kind::File && node.last_number > 0 => Some((node.versions.clone(), true)),
            Some(node) if node.kind != Kind::File => None,
            Some(_) | None => tree.tombstone(&path.to_string()).map(|(_, g)| (g.versions.clone(), false)),
        })?;
        found.ok_or(VaultError::NotFound)
    }

    /// Makes an older version current again, as a new version with the same content. A removed secret comes back with
    /// the owner and mode it had.
    pub(super) fn rollback_to(&self, caller: &impl Caller, path: &SecretPath, number: u64) -> Result<u64, VaultError> {
        let mut writer = self.lock_writer();
        let text = path.to_string();
        let event = audit::Operation::Rollback;
        let live = self.with_tree(|t| t.find(path))?.map(|ino| self.node(ino).map(|n| (ino, n))).transpose()?;
        let (ino, node) = match live {
            Some((_, node)) if node.kind != Kind::File => return Err(VaultError::IsADirectory),
            Some((_, node)) if node.is_view() => {
                return Err(VaultError::NotPermitted("a view has no versions: roll back what it is composed from"));
            }
            Some(live) if live.1.last_number > 0 => live,
            Some(_) | None => {
                return self.transact_with(&mut writer, |writer| self.bring_back(writer, caller, path, &text, number));
            }
        };
        let old = node.versions.iter().find(|v| v.number.0 == number).cloned().ok_or(VaultError::NotFound)?;
        if node.current() == Some(&old) {
            return Err(VaultError::NothingToDo("that version is current"));
        }
        let grant = self.allow(caller, ino, &node, Operation::Write, event, &text)?;
        let mut next = (*node).clone();
        next.last_number += 1;
        let new =
            Version { number: VersionNo(next.last_number), time: Timestamp::now(), uid: caller.uid(), ..old.clone() };
        next.versions.push(new.clone());
        next.meta.mtime = new.time;
        next.meta.ctime = new.time;
        self.record(
            event,
            &text,
            Some(new.number.0),
            &caller.who(),
            &format!("{}: from version {number}", grant.rule()),
        )?;
        super::version::prune(&mut next, self.limits.keep_versions);
        let changed = Changed { ino, path: text, next, blob: None, takes: None };
        self.install(&mut writer, vec![changed])?;
        drop(writer);
        self.notify(Change::Node(ino));
        Ok(new.number.0)
    }

    fn bring_back(
        &self,
        writer: &mut Writer,
        caller: &impl Caller,
        path: &SecretPath,
        text: &str,
        number: u64,
    ) -> Result<u64, VaultError> {
        let (_, tombstone) = self.with_tree(|t| t.tombstone(text).cloned())?.ok_or(VaultError::NotFound)?;
        let old = tombstone.versions.iter().find(|v| v.number.0 == number).cloned().ok_or(VaultError::NotFound)?;
        let (directory, name) = path.split_last().ok_or(VaultError::NotFound)?;
        let parent = self.with_tree(|t| t.find(&directory))?.ok_or(VaultError::NotFound)?;
        let (parent_node, _) = self.place(parent, name)?;
        let event = audit::Operation::Rollback;
        let grant = self.allow(caller, parent, &parent_node, Operation::ChangeEntries, event, text)?;
        let ino = match self.with_tree(|t| t.child(parent, name.as_str()))? {
            // An empty file of that name, never written: its content comes back.
            Some(ino) => ino,
            None => {
                self.check_room(caller, grant.rule(), &parent_node.scope)?;
                writer.next_ino()?
            }
        };
        let mut next = revived(&tombstone, parent, name, &old, caller.uid());
        let version = next.last_number;
        super::version::prune(&mut next, self.limits.keep_versions);
        self.record(event, text, Some(version), &caller.who(), &format!("{}: removed before", grant.rule()))?;
        let (grave_ino, _) = self.with_tree_mut(|t| t.restore_name(text))?.ok_or(VaultError::NotFound)?;
        self.change_history(writer, &[&tombstone.versions], &next.versions)?;
        writer.touch(grave_ino);
        self.put(writer, ino, next)?;
        self.stamp(writer, parent)?;
        self.flush(writer)?;
        self.notify(Change::Entry { parent, name: name.clone() });
        Ok(version)
    }
}

fn revived(tombstone: &Arc<Tombstone>, parent: Ino, name: &Name, old: &Version, uid: Uid) -> Node {
    let mut versions = tombstone.versions.clone();
    let mut last_number = tombstone.last_number;
    if versions.last() != Some(old) {
        last_number += 1;
        versions.push(Version { number: VersionNo(last_number), time: Timestamp::now(), uid, ..old.clone() });
    }
    let mut meta = tombstone.meta.clone();
    meta.ctime = Timestamp::now();
    Node {
        parent,
        name: Some(name.clone()),
        kind: Kind::File,
        scope: tombstone.scope.clone(),
        meta,
        target: None,
        versions,
        last_number,
        view: None,
    }
}

//! Removing: the name goes, the history stays under it, unless it is purged.

use super::change::CONTAINERS;
use super::node::{Grave, Node};
use super::writer::Writer;
use super::{Caller, Vault, VaultError};
use crate::access::Operation;
use crate::audit;
use crate::model::{Ino, Kind, Name, Timestamp};
use crate::store::BlobKey;
use std::sync::Arc;

impl Vault {
    /// unlink(2): a file or symlink. Gives back what it was, for handles that are still open.
    ///
    /// # Errors
    /// [`VaultError::Denied`], [`VaultError::NotFound`], [`VaultError::IsADirectory`].
    pub fn unlink(&self, caller: &impl Caller, parent: Ino, name: &Name) -> Result<super::Attr, VaultError> {
        let mut writer = self.lock_writer();
        self.unlink_locked(&mut writer, caller, parent, name, audit::Operation::Remove)
    }

    pub(super) fn unlink_locked(
        &self,
        writer: &mut Writer,
        caller: &impl Caller,
        parent: Ino,
        name: &Name,
        event: audit::Operation,
    ) -> Result<super::Attr, VaultError> {
        let (directory, path) = self.place(parent, name)?;
        let ino = self.with_tree(|t| t.child(parent, name.as_str()))?.ok_or(VaultError::NotFound)?;
        let node = self.node(ino)?;
        if node.kind == Kind::Directory {
            return Err(VaultError::IsADirectory);
        }
        let grant = self.allow(caller, parent, &directory, Operation::ChangeEntries, event, &path)?;
        self.check_sticky(caller, &directory, ino, &node, event, &path)?;
        self.record(event, &path, node.current().map(|v| v.number.0), &caller.who(), &grant.rule().to_string())?;
        if event == audit::Operation::Purge {
            self.purge_versions(writer, &node)?;
        } else if node.last_number > 0 {
            self.bury(writer, ino, &node, &path)?;
        }
        self.with_tree_mut(|tree| tree.remove(ino))?;
        writer.touch_unless_buried(ino);
        self.stamp(writer, parent)?;
        let mut attr = node.attr(ino);
        attr.nlink = 0;
        Ok(attr)
    }

    /// rmdir(2).
    ///
    /// # Errors
    /// [`VaultError::Denied`], [`VaultError::NotEmpty`], [`VaultError::NotADirectory`].
    pub fn rmdir(&self, caller: &impl Caller, parent: Ino, name: &Name) -> Result<Ino, VaultError> {
        let mut writer = self.lock_writer();
        let event = audit::Operation::Rmdir;
        let (directory, path) = self.place(parent, name)?;
        let ino = self.with_tree(|t| t.child(parent, name.as_str()))?.ok_or(VaultError::NotFound)?;
        let node = self.node(ino)?;
        if node.kind != Kind::Directory {
            return Err(VaultError::NotADirectory);
        }
        let grant = self.allow(caller, parent, &directory, Operation::ChangeEntries, event, &path)?;
        self.check_sticky(caller, &directory, ino, &node, event, &path)?;
        if self.with_tree(|t| t.children(ino).is_some_and(|c| !c.is_empty()))? {
            return Err(VaultError::NotEmpty);
        }
        if path == CONTAINERS {
            return Err(VaultError::NotPermitted("the containers' folder stays"));
        }
        self.record(event, &path, None, &caller.who(), &grant.rule().to_string())?;
        self.with_tree_mut(|tree| tree.remove(ino))?;
        writer.touch(ino);
        self.stamp(&mut writer, parent)?;
        Ok(ino)
    }

    /// Purges what is kept of a secret removed before. How many versions went.
    pub(super) fn purge_grave(&self, caller: &impl Caller, path: &str) -> Result<u64, VaultError> {
        let mut writer = self.lock_writer();
        let Some((ino, grave)) = self.with_tree(|t| t.grave(path).cloned())? else { return Err(VaultError::NotFound) };
        self.record(audit::Operation::Purge, path, None, &caller.who(), "removed before")?;
        self.with_tree_mut(|tree| tree.exhume(path))?;
        for version in &grave.versions {
            self.release(&mut writer, version.blob)?;
        }
        writer.touch(ino);
        Ok(grave.versions.len() as u64)
    }

    fn purge_versions(&self, writer: &mut Writer, node: &Arc<Node>) -> Result<(), VaultError> {
        for version in &node.versions {
            self.release(writer, version.blob)?;
        }
        Ok(())
    }

    /// Keeps a secret's history under the path it had.
    pub(super) fn bury(&self, writer: &mut Writer, ino: Ino, node: &Arc<Node>, path: &str) -> Result<(), VaultError> {
        let grave = Grave {
            path: path.to_owned(),
            scope: node.scope.clone(),
            meta: node.meta.clone(),
            versions: node.versions.clone(),
            last_number: node.last_number,
            removed: Timestamp::now(),
        };
        let older = self.with_tree(|t| t.grave(path).cloned())?;
        let crowded_out = self.with_tree_mut(|tree| tree.bury(ino, grave.clone()))?;
        for (old, grave) in older.into_iter().chain(crowded_out) {
            for version in &grave.versions {
                self.release(writer, version.blob)?;
            }
            writer.touch(old);
        }
        writer.bury(ino, Arc::new(grave));
        Ok(())
    }

    /// One name fewer has this blob; the last one takes it along.
    pub(super) fn release(&self, writer: &mut Writer, blob: BlobKey) -> Result<(), VaultError> {
        if self.with_tree_mut(|tree| tree.release(blob))? {
            writer.drop_blob(blob);
        }
        Ok(())
    }
}

//! Removing: the name goes, the history stays under it, unless it is purged.

use super::node::{Node, Tombstone, Version};
use super::writer::Writer;
use super::{Caller, Vault, VaultError};
use crate::access::Operation;
use crate::audit;
use crate::meter::Resource;
use crate::model::{CONTAINERS, Ino, Kind, Name, SecretPath};
use std::sync::Arc;

impl Vault {
    /// unlink(2): a file or symlink. Gives back what it was, for handles that are still open.
    ///
    /// # Errors
    /// [`VaultError::Denied`], [`VaultError::NotFound`], [`VaultError::IsADirectory`].
    pub fn unlink(&self, caller: &impl Caller, parent: Ino, name: &Name) -> Result<super::Attr, VaultError> {
        self.transact(|writer| self.unlink_locked(writer, caller, parent, name, audit::Operation::Remove))
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
        let composed = super::change::refuse_composed(&directory);
        self.recording(event, &path, || caller.who(), composed)?;
        self.record(event, &path, node.current().map(|v| v.number.0), &caller.who(), &grant.rule().to_string())?;
        writer.sync();
        if event == audit::Operation::Purge {
            self.change_history(writer, &[&node.versions], &[])?;
            self.clear_tombstone(writer, &path)?;
        } else if node.last_number > 0 {
            self.bury(writer, ino, &node, &path)?;
        }
        self.with_tree_mut(|tree| tree.remove(ino))?;
        writer.touch_unless_buried(ino);
        self.stamp(writer, parent)?;
        let mut attr = node.attr(ino, &self.view(&node.scope));
        attr.nlink = 0;
        Ok(attr)
    }

    /// rmdir(2).
    ///
    /// # Errors
    /// [`VaultError::Denied`], [`VaultError::NotEmpty`], [`VaultError::NotADirectory`].
    pub fn rmdir(&self, caller: &impl Caller, parent: Ino, name: &Name) -> Result<Ino, VaultError> {
        self.transact(|writer| self.rmdir_in(writer, caller, parent, name))
    }

    fn rmdir_in(&self, writer: &mut Writer, caller: &impl Caller, parent: Ino, name: &Name) -> Result<Ino, VaultError> {
        let event = audit::Operation::Rmdir;
        let (directory, path) = self.place(parent, name)?;
        let ino = self.with_tree(|t| t.child(parent, name.as_str()))?.ok_or(VaultError::NotFound)?;
        let node = self.node(ino)?;
        if node.kind != Kind::Directory {
            return Err(VaultError::NotADirectory);
        }
        let grant = self.allow(caller, parent, &directory, Operation::ChangeEntries, event, &path)?;
        self.check_sticky(caller, &directory, ino, &node, event, &path)?;
        if self.is_scope_folder(ino, &node) {
            return Err(VaultError::NotPermitted("a container's folder goes with its scope: pinfold scope rm"));
        }
        // The entries of a view are nobody's but its own.
        let entries: Vec<Ino> = self.with_tree(|t| t.children(ino).into_iter().flatten().map(|(_, i)| *i).collect())?;
        if !entries.is_empty() && !node.is_view() {
            return Err(VaultError::NotEmpty);
        }
        if path == CONTAINERS {
            return Err(VaultError::NotPermitted("the containers' folder stays"));
        }
        self.record(event, &path, None, &caller.who(), &grant.rule().to_string())?;
        self.with_tree_mut(|tree| {
            entries.iter().chain([&ino]).for_each(|ino| drop(tree.remove(*ino)));
        })?;
        entries.into_iter().chain([ino]).for_each(|ino| writer.touch(ino));
        writer.sync();
        self.stamp(writer, parent)?;
        Ok(ino)
    }

    /// Purges what is kept of a secret removed before. How many versions went.
    pub(super) fn purge_tombstone(&self, caller: &impl Caller, path: &str) -> Result<u64, VaultError> {
        self.transact(|writer| {
            let tombstone = self.with_tree(|t| t.tombstone(path).cloned())?;
            let Some((_, tombstone)) = tombstone else { return Err(VaultError::NotFound) };
            self.record(audit::Operation::Purge, path, None, &caller.who(), "removed before")?;
            writer.sync();
            self.clear_tombstone(writer, path)?;
            Ok(tombstone.versions.len() as u64)
        })
    }

    /// Nothing of what was removed under this path is kept.
    fn clear_tombstone(&self, writer: &mut Writer, path: &str) -> Result<(), VaultError> {
        let tombstone = self.with_tree_mut(|tree| {
            tree.forget_left(path);
            tree.restore_name(path)
        })?;
        if let Some((ino, tombstone)) = tombstone {
            self.change_history(writer, &[&tombstone.versions], &[])?;
            writer.touch(ino);
        }
        Ok(())
    }

    /// Keeps a secret's history under the path it had.
    pub(super) fn bury(&self, writer: &mut Writer, ino: Ino, node: &Arc<Node>, path: &str) -> Result<(), VaultError> {
        let tombstone = Tombstone::of(node, path);
        let older = self.with_tree(|t| t.tombstone(path).cloned())?;
        let crowded_out =
            self.with_tree_mut(|tree| tree.bury(ino, tombstone.clone(), self.meter.bounds(Resource::Removed)))?;
        for (old, tombstone) in older.into_iter().chain(crowded_out) {
            self.change_history(writer, &[&tombstone.versions], &[])?;
            writer.touch(old);
        }
        writer.bury(ino, Arc::new(tombstone));
        Ok(())
    }

    /// The histories `before` become `after`; blobs that nobody has then go with the next transaction.
    pub(super) fn change_history(
        &self,
        writer: &mut Writer,
        before: &[&[Version]],
        after: &[Version],
    ) -> Result<(), VaultError> {
        let gone = self.with_tree_mut(|tree| {
            let recount = tree.recount(before, after, None);
            let gone = recount.gone.clone();
            tree.settle(recount);
            gone
        })?;
        gone.into_iter().for_each(|blob| writer.drop_blob(blob));
        Ok(())
    }
}

/// The containers' folder, or one in it.
pub(super) fn removed_by_scope(path: &SecretPath) -> bool {
    matches!(path.names(), [first] | [first, _] if first.as_str() == CONTAINERS)
}

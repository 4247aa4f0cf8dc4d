//! Renames: a name goes elsewhere, and with it its history, or that of the name it takes.

use super::change::{refuse_composed, refuse_undeclared};
use super::node::Node;
use super::on_change;
use super::tree::InheritedHistory;
use super::writer::Writer;
use super::{Caller, Vault, VaultError, admin_xattrs};
use crate::access::{Denial, Operation};
use crate::audit;
use crate::model::{CONTAINERS, Ino, Kind, Name, Timestamp, VersionNo};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A rename.
#[derive(Debug, Clone, Copy)]
pub struct Rename<'a> {
    /// The directory it is in.
    pub parent: Ino,
    /// Its name.
    pub name: &'a Name,
    /// The directory it goes to.
    pub new_parent: Ino,
    /// Its name there.
    pub new_name: &'a Name,
    /// Whether what has that name already may be replaced.
    pub replace: bool,
}

impl Vault {
    /// Renames. A secret that replaces another one continues the history of the name, and its conditions and publications.
    ///
    /// # Errors
    /// [`VaultError::Denied`], [`VaultError::NotPermitted`] if that would drop a condition and who does it is no admin,
    /// [`VaultError::CrossScope`], [`VaultError::Invalid`] if its content is not what its new
    /// name says; then nothing was changed.
    pub fn rename(&self, caller: &impl Caller, rename: Rename<'_>) -> Result<(), VaultError> {
        let event = audit::Operation::Rename;
        self.transact(|writer| {
            let (old_parent, old_path) = self.place(rename.parent, rename.name)?;
            let (new_parent, new_path) = self.place(rename.new_parent, rename.new_name)?;
            let renamed = self.rename_in(writer, caller, rename, (&old_parent, &new_parent), (&old_path, &new_path));
            self.recording(event, &new_path, || caller.who(), renamed)
        })
    }

    fn rename_in(
        &self,
        writer: &mut Writer,
        caller: &impl Caller,
        rename: Rename<'_>,
        (old_parent, new_parent): (&Arc<Node>, &Arc<Node>),
        (old_path, new_path): (&str, &str),
    ) -> Result<(), VaultError> {
        let event = audit::Operation::Rename;
        let ino = self.with_tree(|t| t.child(rename.parent, rename.name.as_str()))?.ok_or(VaultError::NotFound)?;
        let node = self.node(ino)?;
        let target = self.with_tree(|t| t.child(rename.new_parent, rename.new_name.as_str()))?;
        if target == Some(ino) {
            return Ok(());
        }
        let target = target.map(|ino| self.node(ino).map(|node| (ino, node))).transpose()?;
        if target.is_some() && !rename.replace {
            return Err(VaultError::Exists);
        }
        let mut rule = None;
        for (directory, node, path) in
            [(rename.parent, old_parent, old_path), (rename.new_parent, new_parent, new_path)]
        {
            rule = Some(self.allow(caller, directory, node, Operation::ChangeEntries, event, path)?.rule());
        }
        self.check_sticky(caller, old_parent, ino, &node, event, old_path)?;
        if let Some((target_ino, target)) = &target {
            self.check_sticky(caller, new_parent, *target_ino, target, event, new_path)?;
        }
        if self.is_scope_folder(ino, &node) {
            return Err(VaultError::NotPermitted("a container's folder stays where it is"));
        }
        if node.scope != new_parent.scope {
            return Err(VaultError::CrossScope);
        }
        if [old_path, new_path].contains(&CONTAINERS) {
            return Err(VaultError::NotPermitted("the containers' folder stays where it is"));
        }
        refuse_undeclared(new_parent)?;
        refuse_composed(old_parent)?;
        refuse_composed(new_parent)?;
        if let Some((_, target)) = &target
            && (node.is_view() || target.is_view())
        {
            return Err(VaultError::NotPermitted("a view replaces nothing and nothing replaces it: remove it first"));
        }
        self.check_shape(ino, &node, (rename.new_parent, rename.new_name), target.as_ref())?;
        if let Some(rule) = rule {
            self.confine_moved(ino, rule, rename)?;
        }
        let ruled = match &target {
            Some((_, target)) => admin_xattrs::of_renamed(&node, target, rule)?,
            None => node.meta.ruled(),
        };
        if node.kind == Kind::File && rename.new_name != rename.name {
            self.check_under_new_name(ino, &node, rename.new_name)?;
        }
        let mut next = (*node).clone();
        admin_xattrs::set(&mut next, ruled);
        if node.last_number > 0 && target.as_ref().is_none_or(|(_, target)| target.last_number == 0) {
            let heritage = self.with_tree(|t| t.heritage(new_path, ino))?;
            admin_xattrs::come_back(&mut next, &heritage.map(|h| h.ruled).unwrap_or_default())?;
        }
        self.check_pair_moved(new_path, (ino, &node), target.as_ref().map(|(ino, node)| (*ino, &**node)))?;
        let reason = format!("to {new_path}");
        self.record(event, old_path, None, &caller.who(), &reason)?;
        self.move_node(writer, ino, (&node, next), rename, target, (old_path, new_path))
    }

    fn move_node(
        &self,
        writer: &mut Writer,
        ino: Ino,
        (node, mut next): (&Arc<Node>, Node),
        rename: Rename<'_>,
        target: Option<(Ino, Arc<Node>)>,
        (old_path, new_path): (&str, &str),
    ) -> Result<(), VaultError> {
        next.parent = rename.new_parent;
        next.name = Some(rename.new_name.clone());
        next.meta.ctime = Timestamp::now();
        let displaced = target.as_ref().map(|(ino, _)| *ino);
        // What it replaces is gone; what leaves its folder may be shown to fewer.
        if displaced.is_some() || rename.parent != rename.new_parent {
            writer.sync();
        }
        let replaced = target.filter(|(_, t)| t.last_number > 0);
        if node.last_number > 0 {
            let heritage = match &replaced {
                Some((_, t)) => {
                    let (versions, ruled) = (t.versions.clone(), BTreeMap::new());
                    Some(InheritedHistory { versions, last_number: t.last_number, ruled, tombstone: None })
                }
                None => self.with_tree(|t| t.heritage(new_path, ino))?,
            };
            if let Some(heritage) = heritage {
                let held = heritage.versions.clone();
                // Those of one renamed away are still that one's.
                let taken = if replaced.is_some() || heritage.tombstone.is_some() { held.as_slice() } else { &[] };
                if let Some(tombstone) = heritage.tombstone {
                    self.with_tree_mut(|t| t.restore_name(new_path))?;
                    writer.touch(tombstone);
                }
                continue_history(&mut next, heritage);
                super::version::prune(&mut next, self.limits.keep_versions);
                self.change_history(writer, &[&node.versions, taken], &next.versions)?;
            }
        } else if let Some((target_ino, target)) = &replaced {
            // An empty file or a symlink takes the name: what was there is removed, and its history kept.
            self.bury(writer, *target_ino, target, new_path)?;
        }
        let merged = replaced.is_some();
        let touched = self.with_tree_mut(|tree| {
            if let Some(displaced) = displaced {
                tree.remove(displaced);
                tree.published().succeed(displaced, ino);
            }
            let touched = on_change::touched(ino, tree.get(ino).map(|old| &**old), &next);
            tree.put(ino, next);
            if node.last_number > 0 {
                if !merged {
                    tree.forget_left(new_path);
                }
                tree.note_left(old_path.to_owned(), ino, node);
            }
            touched
        })?;
        self.notify_unit(touched);
        if let Some(displaced) = displaced {
            writer.touch_unless_buried(displaced);
        }
        writer.touch(ino);
        self.stamp(writer, rename.parent)?;
        if rename.parent != rename.new_parent {
            self.stamp(writer, rename.new_parent)?;
        }
        Ok(())
    }

    /// A directory may not move below itself; files replace files, directories replace empty ones.
    fn check_shape(
        &self,
        ino: Ino,
        node: &Node,
        (new_parent, new_name): (Ino, &Name),
        target: Option<&(Ino, Arc<Node>)>,
    ) -> Result<(), VaultError> {
        if node.kind == Kind::Directory {
            if self.with_tree(|t| t.is_below(new_parent, ino))? {
                return Err(VaultError::Invalid("a directory cannot be moved below itself".into()));
            }
            // What is in it must still have a path.
            let (path, extremes) = self.with_tree(|t| (t.path(new_parent), t.extremes(ino)))?;
            let path = path.ok_or(VaultError::NotFound)?.join(new_name)?;
            for names in &extremes {
                names.iter().try_fold(path.clone(), |path, name| path.join(name))?;
            }
        }
        match target {
            Some((_, t)) if t.kind != Kind::Directory && node.kind == Kind::Directory => Err(VaultError::NotADirectory),
            Some((_, t)) if t.kind == Kind::Directory && node.kind != Kind::Directory => Err(VaultError::IsADirectory),
            Some((i, t)) if t.kind == Kind::Directory => {
                match self.with_tree(|t| t.children(*i).is_none_or(|c| c.is_empty()))? {
                    true => Ok(()),
                    false => Err(VaultError::NotEmpty),
                }
            }
            Some(_) | None => Ok(()),
        }
    }

    /// A temporary name is renamed into place: what no rule applied to may not be whole.
    fn check_under_new_name(&self, ino: Ino, node: &Node, name: &Name) -> Result<(), VaultError> {
        if node.current().is_none() || !crate::enrol::applies(name) {
            return Ok(());
        }
        let grant =
            self.judge(&crate::caller::Daemon, ino, node, crate::access::ScopeState::Alive, Operation::Write)?;
        let kek = self.keys()?.kek(&node.scope).map_err(|_| VaultError::Denied(Denial::NoKey))?;
        let content = self.decrypt(&grant, &kek, node.current())?;
        let checked = crate::enrol::check(name, content.expose());
        checked.map(|_| ()).map_err(|refusal| VaultError::Invalid(refusal.to_string()))
    }
}

/// Puts the history of the name before a secret's own. What the name had already is not had twice, unless it is what it
/// has now.
fn continue_history(node: &mut Node, heritage: InheritedHistory) {
    let InheritedHistory { mut versions, last_number: mut last, .. } = heritage;
    let own = std::mem::take(&mut node.versions);
    let current = own.len().saturating_sub(1);
    for (i, mut version) in own.into_iter().enumerate() {
        if i == current || versions.iter().all(|v| v.blob != version.blob) {
            last += 1;
            version.number = VersionNo(last);
            versions.push(version);
        }
    }
    node.versions = versions;
    // Never lower than it was: the blobs of this inode are numbered by it.
    node.last_number = node.last_number.max(last);
}

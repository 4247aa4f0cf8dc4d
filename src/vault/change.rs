//! Changes of the tree: new nodes, owners, modes, times, names.
//!
//! Each is decided, recorded, done in memory and journalled, as one transaction. What takes a right away is on the disk before it is answered; the
//! rest survives the daemon at once, and a power cut within a second.

use super::kept::Keeper;
use super::links::{confine, depth_in};
use super::node::{Attr, Node};
use super::on_change;
use super::tree::InheritedHistory;
use super::writer::Writer;
use super::{Caller, Vault, VaultError, admin_xattrs};
use crate::access::{Denial, Operation, Rule};
use crate::audit;
use crate::meter::{Payer, Resource};
use crate::model::{CONTAINERS, Gid, Ino, Kind, Meta, Name, Scope, Timestamp, Uid, VersionNo};
use crate::view::Definition;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The longest target of a symlink, in bytes.
const TARGET_MAX: usize = 4095;

/// A node to be made.
#[derive(Debug, Clone, Copy)]
pub struct NewNode<'a> {
    /// The directory.
    pub parent: Ino,
    /// Its name there.
    pub name: &'a Name,
    /// What it is.
    pub kind: Kind,
    /// The mode as asked for, before the umask.
    pub mode: u16,
    /// The creator's umask.
    pub umask: u16,
    /// Where a symlink points.
    pub target: Option<&'a str>,
}

/// A time to be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeChange {
    /// The clock's.
    Now,
    /// This one.
    At(Timestamp),
}

/// What chmod, chown and touch change. Size is content, and not here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SetAttr {
    /// Permission bits; suid and sgid are dropped.
    pub mode: Option<u16>,
    /// Owner.
    pub uid: Option<Uid>,
    /// Group.
    pub gid: Option<Gid>,
    /// Last access.
    pub atime: Option<TimeChange>,
    /// Last change of content.
    pub mtime: Option<TimeChange>,
}

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
    /// Makes a file, directory or symlink of the caller's. A file gets no bits for group and others from a mode alone.
    ///
    /// # Errors
    /// [`VaultError::Denied`], [`VaultError::Exists`], [`VaultError::Exhausted`].
    pub fn create(&self, caller: &impl Caller, new: NewNode<'_>) -> Result<Attr, VaultError> {
        let event = match new.kind {
            Kind::File => audit::Operation::Create,
            Kind::Directory => audit::Operation::Mkdir,
            Kind::Symlink => audit::Operation::Symlink,
        };
        self.transact(|writer| {
            let (parent, path) = self.place(new.parent, new.name)?;
            let made = self.create_in(writer, caller, new, &parent, event, &path);
            self.recording(event, &path, || caller.who(), made)
        })
    }

    fn create_in(
        &self,
        writer: &mut Writer,
        caller: &impl Caller,
        new: NewNode<'_>,
        parent: &Arc<Node>,
        event: audit::Operation,
        path: &str,
    ) -> Result<Attr, VaultError> {
        if self.with_tree(|t| t.child(new.parent, new.name.as_str()))?.is_some() {
            return Err(VaultError::Exists);
        }
        let grant = self.allow(caller, new.parent, parent, Operation::ChangeEntries, event, path)?;
        refuse_undeclared(parent)?;
        refuse_composed(parent)?;
        if new.target.is_some_and(|t| t.len() > TARGET_MAX || t.is_empty() || t.contains('\0')) {
            return Err(VaultError::Invalid("a symlink's target has 1 to 4095 bytes".into()));
        }
        if let Some(target) = new.target {
            let depth = self.with_tree(|t| t.path(new.parent))?.map_or(0, |path| depth_in(&parent.scope, &path));
            confine(&parent.scope, grant.rule(), target, depth)?;
        }
        self.check_room(caller, grant.rule(), &parent.scope)?;
        self.record(event, path, None, &caller.who(), &grant.rule().to_string())?;
        let view = self.view(&parent.scope);
        let ino = writer.next_ino()?;
        let node = Node {
            parent: new.parent,
            name: Some(new.name.clone()),
            kind: new.kind,
            scope: parent.scope.clone(),
            meta: new_meta((view.kept_uid(caller.uid()), view.kept_gid(caller.gid())), &parent.meta, &new),
            target: new.target.map(Into::into),
            versions: Vec::new(),
            last_number: 0,
            view: None,
        };
        let attr = node.attr(ino, &view);
        self.put(writer, ino, node)?;
        self.stamp(writer, new.parent)?;
        Ok(attr)
    }

    /// chmod, chown, utimensat.
    ///
    /// # Errors
    /// [`VaultError::Denied`]; then nothing was changed.
    pub fn set_attr(&self, caller: &impl Caller, ino: Ino, set: SetAttr) -> Result<Attr, VaultError> {
        let (attr, is_view) = self.transact(|writer| self.set_attr_in(writer, caller, ino, set))?;
        Ok(if is_view { self.with_composed_size(attr) } else { attr })
    }

    fn set_attr_in(
        &self,
        writer: &mut Writer,
        caller: &impl Caller,
        ino: Ino,
        set: SetAttr,
    ) -> Result<(Attr, bool), VaultError> {
        let (node, path) = self.node_and_path(ino)?;
        self.recording(audit::Operation::SetMode, &path, || caller.who(), refuse_entry(&node))?;
        let steps = [
            set.mode.map(|_| (Operation::ChangeMeta, audit::Operation::SetMode)),
            (set.uid.is_some() || set.gid.is_some())
                .then_some((Operation::ChangeOwner { uid: set.uid, gid: set.gid }, audit::Operation::SetOwner)),
            times_operation(&set).map(|op| (op, audit::Operation::SetTimes)),
        ];
        let mut rules = Vec::new();
        for (operation, event) in steps.into_iter().flatten() {
            rules.push((event, self.allow(caller, ino, &node, operation, event, &path)?.rule()));
        }
        if let Some(mode) = set.mode {
            let fits = self.check_key_mode(&path, &node, mode);
            self.recording(audit::Operation::SetMode, &path, || caller.who(), fits)?;
        }
        for (event, rule) in rules {
            self.record(event, &path, None, &caller.who(), &describe(event, &set, rule))?;
        }
        let view = self.view(&node.scope);
        let kept = SetAttr { uid: set.uid.map(|u| view.kept_uid(u)), gid: set.gid.map(|g| view.kept_gid(g)), ..set };
        let mut next = (*node).clone();
        apply(&mut next, kept);
        let attr = next.attr(ino, &view);
        let is_view = next.is_view();
        self.put_changed(writer, ino, &node, next)?;
        Ok((attr, is_view))
    }

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
                super::commit::prune(&mut next, self.limits.keep_versions);
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
        self.tell_unit(touched);
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

    /// The directory, and the path that a name has or will have in it.
    pub(super) fn place(&self, directory: Ino, name: &Name) -> Result<(Arc<Node>, String), VaultError> {
        let (node, path) = self
            .with_tree(|t| t.get(directory).cloned().and_then(|n| t.path(directory).map(|p| (n, p))))?
            .ok_or(VaultError::NotFound)?;
        if node.kind != Kind::Directory {
            return Err(VaultError::NotADirectory);
        }
        Ok((node, path.join(name)?.to_string()))
    }

    pub(super) fn check_sticky(
        &self,
        caller: &impl Caller,
        directory: &Node,
        ino: Ino,
        node: &Node,
        event: audit::Operation,
        path: &str,
    ) -> Result<(), VaultError> {
        if directory.meta.mode & 0o1000 == 0 {
            return Ok(());
        }
        let operation = Operation::RemoveFromSticky { directory: directory.meta.uid };
        self.allow(caller, ino, node, operation, event, path).map(|_| ())
    }

    pub(super) fn check_room(&self, caller: &impl Caller, rule: Rule, scope: &Scope) -> Result<(), VaultError> {
        // An admin, and root, take of what there is in all, and fill nobody's share.
        let exempt = match scope {
            Scope::Host => caller.uid() == Uid::ROOT,
            Scope::Container(_) => matches!(rule, Rule::Admin | Rule::Daemon),
        };
        let keeper = Keeper::of(scope, caller.uid());
        let (own, all) = self.with_tree(|t| (t.kept().of(&keeper).nodes, t.len()))?;
        let (payer, own) = if exempt { (Payer::Uid(0), all) } else { (keeper.payer(), own) };
        Ok(self.meter.admit(Resource::Secrets, payer, own, all, 1)?)
    }

    /// Whether the tree has room for so many more entries, of nobody's share.
    pub(super) fn check_room_for(&self, more: u64) -> Result<(), VaultError> {
        let all = self.with_tree(|tree| tree.len())?;
        Ok(self.meter.admit(Resource::Secrets, Payer::Uid(0), all, all, more)?)
    }

    /// Puts a node into the tree and marks it to be written.
    pub(super) fn put(&self, writer: &mut Writer, ino: Ino, node: Node) -> Result<(), VaultError> {
        let touched = self.with_tree_mut(|tree| {
            let touched = on_change::touched(ino, tree.get(ino).map(|old| &**old), &node);
            tree.put(ino, node);
            touched
        })?;
        self.tell_unit(touched);
        writer.touch(ino);
        Ok(())
    }

    /// As [`Vault::put`], for what only differs in its metadata: if somebody may do less then, that is on the disk before it is answered.
    pub(super) fn put_changed(
        &self,
        writer: &mut Writer,
        ino: Ino,
        before: &Node,
        next: Node,
    ) -> Result<(), VaultError> {
        if narrows(before, &next) {
            writer.sync();
        }
        self.put(writer, ino, next)
    }

    /// A directory's entries changed, now.
    pub(super) fn stamp(&self, writer: &mut Writer, directory: Ino) -> Result<(), VaultError> {
        let node = self.stamped(directory)?;
        self.put(writer, directory, node)
    }

    /// What a directory is once its entries have changed, now.
    pub(super) fn stamped(&self, directory: Ino) -> Result<Node, VaultError> {
        let mut node = (*self.node(directory)?).clone();
        node.meta.mtime = Timestamp::now();
        node.meta.ctime = node.meta.mtime;
        Ok(node)
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

/// Whether somebody may do less then. Of what was never written there is nothing to be read.
fn narrows(before: &Node, after: &Node) -> bool {
    let (old, new) = (&before.meta, &after.meta);
    let is_empty = before.kind == Kind::File && before.last_number == 0;
    let same = (old.uid, old.gid, &old.acl, &old.default_acl, &old.xattrs)
        == (new.uid, new.gid, &new.acl, &new.default_acl, &new.xattrs);
    let bits_are_added = old.mode & !new.mode & 0o777 == 0 && old.mode & 0o1000 == new.mode & 0o1000;
    !is_empty && !(same && (bits_are_added && new.acl.is_none() || old.mode == new.mode))
}

/// What is in a composed directory comes and goes with its sources.
pub(super) fn refuse_composed(directory: &Node) -> Result<(), VaultError> {
    match directory.is_view() {
        true => Err(VaultError::NotPermitted("the directory is a view: its entries come and go with its sources")),
        false => Ok(()),
    }
}

/// An entry of a composed directory is as its directory is.
pub(super) fn refuse_entry(node: &Node) -> Result<(), VaultError> {
    match node.view.as_deref() {
        Some(Definition::Hashed { .. }) => {
            Err(VaultError::NotPermitted("it is an entry of a view: it is as its directory is"))
        }
        Some(_) | None => Ok(()),
    }
}

/// Nothing is made in, or moved into, the containers' folder by hand.
pub(super) fn refuse_undeclared(directory: &Node) -> Result<(), VaultError> {
    if directory.parent == Ino::ROOT && directory.name.as_ref().is_some_and(|n| n.as_str() == CONTAINERS) {
        return Err(VaultError::NotPermitted("a container's folder is made by declaring its scope"));
    }
    Ok(())
}

fn new_meta((uid, gid): (Uid, Gid), parent: &Meta, new: &NewNode<'_>) -> Meta {
    let asked = match (new.kind, &parent.default_acl) {
        (Kind::Symlink, _) => 0o777,
        (_, Some(_)) => new.mode & 0o777,
        // Whatever the umask leaves for group and others has to be asked for explicitly.
        (Kind::File, None) => new.mode & !new.umask & 0o700,
        (Kind::Directory, None) => new.mode & !new.umask & 0o1777,
    };
    let mut meta = Meta::new(uid, gid, asked);
    if let (Some(default), Kind::File | Kind::Directory) = (&parent.default_acl, new.kind) {
        let acl = default.inherit(asked);
        meta.mode = acl.mode();
        meta.acl = (!acl.is_minimal()).then_some(acl);
        if new.kind == Kind::Directory {
            meta.default_acl = Some(default.clone());
        }
    }
    meta
}

fn times_operation(set: &SetAttr) -> Option<Operation> {
    let changes = [set.atime, set.mtime];
    if changes.iter().flatten().any(|t| matches!(t, TimeChange::At(_))) {
        Some(Operation::ChangeMeta)
    } else {
        changes.iter().flatten().next().map(|_| Operation::Touch)
    }
}

fn apply(node: &mut Node, set: SetAttr) {
    let now = Timestamp::now();
    let time = |change: TimeChange| match change {
        TimeChange::Now => now,
        TimeChange::At(at) => at,
    };
    if let Some(mode) = set.mode {
        let sticky = if node.kind == Kind::Directory { 0o1000 } else { 0 };
        node.meta.mode = mode & (0o777 | sticky);
        node.meta.acl = node.meta.acl.take().map(|acl| acl.chmod(mode));
    }
    node.meta.uid = set.uid.unwrap_or(node.meta.uid);
    node.meta.gid = set.gid.unwrap_or(node.meta.gid);
    node.meta.atime = set.atime.map_or(node.meta.atime, time);
    node.meta.mtime = set.mtime.map_or(node.meta.mtime, time);
    node.meta.ctime = now;
}

fn describe(event: audit::Operation, set: &SetAttr, rule: crate::access::Rule) -> String {
    match (event, set.mode) {
        (audit::Operation::SetMode, Some(mode)) => format!("{rule}: mode {:04o}", mode & 0o1777),
        (audit::Operation::SetOwner, _) => {
            let id = |n: Option<u32>| n.map_or_else(|| "-".to_owned(), |n| n.to_string());
            format!("{rule}: owner {}:{}", id(set.uid.map(|u| u.0)), id(set.gid.map(|g| g.0)))
        }
        _ => rule.to_string(),
    }
}

//! Changes of the tree: new nodes, owners, modes, times, names.
//!
//! Each is decided, recorded, done in memory and journalled, as one transaction. What takes a right away is on the disk before it is answered; the
//! rest survives the daemon at once, and a power cut within a second.

use super::kept::Keeper;
use super::links::{confine, depth_in};
use super::node::{Attr, Node};
use super::on_change;
use super::writer::Writer;
use super::{Caller, Vault, VaultError};
use crate::access::{Operation, Rule};
use crate::audit;
use crate::meter::{Payer, Resource};
use crate::model::{CONTAINERS, Gid, Ino, Kind, Meta, Name, Scope, Timestamp, Uid};
use crate::view::Definition;
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

impl Vault {
    /// Makes a file, directory or symlink of the caller's. A file gets no bits for group and others from a mode alone.
    ///
    /// # Errors
    /// [`VaultError::Denied`], [`VaultError::Exists`], [`VaultError::Exhausted`].
    pub fn create(&self, caller: &impl Caller, new: NewNode<'_>) -> Result<Attr, VaultError> {
        self.transact(|writer| self.create_in(writer, caller, new))
    }

    /// As [`Vault::create`], in a transaction.
    pub(super) fn create_in(
        &self,
        writer: &mut Writer,
        caller: &impl Caller,
        new: NewNode<'_>,
    ) -> Result<Attr, VaultError> {
        let (parent, path) = self.place(new.parent, new.name)?;
        let (ino, node) = self.new_node(writer, caller, new, &parent, &path)?;
        let attr = node.attr(ino, &self.view(&node.scope));
        self.put(writer, ino, node)?;
        self.stamp(writer, new.parent)?;
        Ok(attr)
    }

    /// What a new node will be, decided and recorded. The tree does not have it yet.
    pub(super) fn new_node(
        &self,
        writer: &mut Writer,
        caller: &impl Caller,
        new: NewNode<'_>,
        parent: &Node,
        path: &str,
    ) -> Result<(Ino, Node), VaultError> {
        let event = match new.kind {
            Kind::File => audit::Operation::Create,
            Kind::Directory => audit::Operation::Mkdir,
            Kind::Symlink => audit::Operation::Symlink,
        };
        let made = self.judged_new_node(writer, caller, new, parent, event, path);
        self.recording(event, path, || caller.who(), made)
    }

    fn judged_new_node(
        &self,
        writer: &mut Writer,
        caller: &impl Caller,
        new: NewNode<'_>,
        parent: &Node,
        event: audit::Operation,
        path: &str,
    ) -> Result<(Ino, Node), VaultError> {
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
        Ok((ino, node))
    }

    /// chmod, chown, utimensat.
    ///
    /// # Errors
    /// [`VaultError::Denied`]; then nothing was changed.
    pub fn set_attr(&self, caller: &impl Caller, ino: Ino, set: SetAttr) -> Result<Attr, VaultError> {
        let (attr, is_view) = self.transact(|writer| self.set_attr_in(writer, caller, ino, set))?;
        Ok(if is_view { self.with_composed_size(attr) } else { attr })
    }

    pub(super) fn set_attr_in(
        &self,
        writer: &mut Writer,
        caller: &impl Caller,
        ino: Ino,
        set: SetAttr,
    ) -> Result<(Attr, bool), VaultError> {
        let (node, path) = self.node_and_path(ino)?;
        let next = self.with_attributes(caller, (ino, &node), &path, set)?;
        let (attr, is_view) = (next.attr(ino, &self.view(&node.scope)), next.is_view());
        self.put_changed(writer, ino, &node, next)?;
        Ok((attr, is_view))
    }

    /// What a node is with other attributes, decided and recorded. The tree may not have it yet.
    pub(super) fn with_attributes(
        &self,
        caller: &impl Caller,
        (ino, node): (Ino, &Node),
        path: &str,
        set: SetAttr,
    ) -> Result<Node, VaultError> {
        self.recording(audit::Operation::SetMode, path, || caller.who(), refuse_entry(node))?;
        let steps = [
            set.mode.map(|_| (Operation::ChangeMeta, audit::Operation::SetMode)),
            (set.uid.is_some() || set.gid.is_some())
                .then_some((Operation::ChangeOwner { uid: set.uid, gid: set.gid }, audit::Operation::SetOwner)),
            times_operation(&set).map(|op| (op, audit::Operation::SetTimes)),
        ];
        let mut rules = Vec::new();
        for (operation, event) in steps.into_iter().flatten() {
            rules.push((event, self.allow(caller, ino, node, operation, event, path)?.rule()));
        }
        if let Some(mode) = set.mode {
            let fits = self.check_key_mode(path, node, mode);
            self.recording(audit::Operation::SetMode, path, || caller.who(), fits)?;
        }
        for (event, rule) in rules {
            self.record(event, path, None, &caller.who(), &describe(event, &set, rule))?;
        }
        let view = self.view(&node.scope);
        let kept = SetAttr { uid: set.uid.map(|u| view.kept_uid(u)), gid: set.gid.map(|g| view.kept_gid(g)), ..set };
        let mut next = node.clone();
        apply(&mut next, kept);
        Ok(next)
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
        self.notify_unit(touched);
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

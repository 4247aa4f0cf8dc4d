//! From what was prepared to a whole draft: what goes, what comes, what changes, and what is refused after all.
//!
//! Owns the order of the steps and what each of them is judged by. It changes the draft alone; the writer's lock is held, so that
//! the tree that the draft was made of stays as it is.

use super::draft::Draft;
use super::place::{self, Lies, Occupant};
use super::prepare::{Content, Prepared, WantedMeta, What};
use super::record::{ConsoleRecord, Consoles};
use crate::access::{Operation, ScopeState};
use crate::audit;
use crate::caller::Daemon;
use crate::cert::PublicKey;
use crate::meter::{Payer, Resource};
use crate::model::{Ino, Kind, Meta, SecretPath, Timestamp};
use crate::vault::node::Node;
use crate::vault::on_change::ON_CHANGE;
use crate::vault::{Vault, VaultError};
use crate::wire::{Listed, RefusedEntry};
use std::collections::{BTreeSet, HashMap, HashSet};

/// What a draft does, for the report, the log and the console's record.
#[derive(Default)]
pub(super) struct Plan {
    pub added: Listed,
    pub changed: Listed,
    pub removed: Listed,
    pub unchanged: u64,
    pub refused: Vec<RefusedEntry>,
    /// The paths that are the console's afterwards.
    pub owned: BTreeSet<SecretPath>,
    /// Everything that is done: operation, path, version.
    pub events: Vec<(audit::Operation, String, Option<u64>)>,
}

/// What became of an entry.
enum Done {
    Added,
    Changed,
    Unchanged,
    /// It is somebody else's directory.
    Nobodys,
}

/// What a draft is made for.
pub(super) struct Applying<'a> {
    pub vault: &'a Vault,
    pub consoles: &'a Consoles,
    pub ours: &'a ConsoleRecord,
    pub draft: Draft,
    /// A number no inode ever had.
    pub new_ino: &'a mut dyn FnMut() -> Result<Ino, VaultError>,
    pub plan: Plan,
}

impl Applying<'_> {
    /// Takes out what the console owns and no longer lists, and puts in what was prepared.
    ///
    /// # Errors
    /// What is no fault of an entry.
    pub fn all(&mut self, listed: &[SecretPath], prepared: Vec<Prepared>) -> Result<(), VaultError> {
        let listed: HashSet<&SecretPath> = listed.iter().collect();
        let kept: HashSet<SecretPath> = prepared.iter().filter(|e| e.is_kept()).map(|e| e.path.clone()).collect();
        // What is in a directory before the directory.
        for path in self.ours.owned.iter().rev() {
            if kept.contains(path) {
                // It is no console's.
            } else if listed.contains(path) {
                self.plan.owned.insert(path.clone());
            } else {
                self.remove(path)?;
            }
        }
        let mut refused_folders: Vec<SecretPath> = Vec::new();
        let halves = halves(&prepared);
        for entry in prepared {
            let (path, kind) = (entry.path.clone(), entry.kind());
            if refused_folders.iter().any(|folder| place::is_below(&path, folder)) {
                self.refuse(&path, "its folder is refused".into());
                continue;
            }
            let fits = self.fits(&entry, &halves);
            match fits.and_then(|()| self.one(entry)) {
                Ok(Done::Added) => self.owns(path, |plan| &mut plan.added),
                Ok(Done::Changed) => self.owns(path, |plan| &mut plan.changed),
                Ok(Done::Unchanged) => self.plan.unchanged += 1,
                Ok(Done::Nobodys) => {}
                Err(Why::Entry(reason)) => {
                    if kind == Kind::Directory {
                        refused_folders.push(path.clone());
                    }
                    self.refuse(&path, reason);
                }
                Err(Why::Vault(error)) => return Err(error),
            }
        }
        Ok(())
    }

    /// Whether half of a pair fits the other one, of the bundle, or of this host where the bundle has none.
    fn fits(&self, entry: &Prepared, halves: &HashMap<SecretPath, PublicKey>) -> Result<(), Why> {
        let Some(half) = &entry.half else { return Ok(()) };
        if let Some(theirs) = halves.get(&half.other) {
            return if *theirs == half.key { Ok(()) } else { Err(half.mismatch().into()) };
        }
        let (other, own) = (self.at(&half.other), self.at(&entry.path));
        let other = other.as_ref().map(|(ino, node)| (*ino, node));
        let own = own.as_ref().map(|(ino, node)| (*ino, node));
        Ok(self.vault.check_half(&entry.path.to_string(), half, other, own)?)
    }

    fn owns(&mut self, path: SecretPath, list: impl FnOnce(&mut Plan) -> &mut Listed) {
        list(&mut self.plan).push(path.to_string());
        self.plan.owned.insert(path);
    }

    fn refuse(&mut self, path: &SecretPath, reason: String) {
        self.plan.refused.push(RefusedEntry { path: path.to_string(), reason });
    }

    fn event(&mut self, op: audit::Operation, path: &SecretPath, version: Option<u64>) {
        self.plan.events.push((op, path.to_string(), version));
    }

    /// Takes a path out. A directory in which others have something stays, as theirs.
    fn remove(&mut self, path: &SecretPath) -> Result<(), VaultError> {
        let Some((ino, node)) = self.at(path) else { return Ok(()) };
        let is_directory = node.kind == Kind::Directory;
        if is_directory && self.draft.tree.children(ino).is_some_and(|c| !c.is_empty()) {
            return Ok(());
        }
        let Some((parent, folder)) = path.split_last().and_then(|(folder, _)| self.at(&folder)) else { return Ok(()) };
        self.vault.judge(&Daemon, parent, &folder, ScopeState::Alive, Operation::ChangeEntries)?;
        let op = if is_directory { audit::Operation::Rmdir } else { audit::Operation::Remove };
        self.event(op, path, node.current().map(|v| v.number.0));
        self.draft.remove(ino, &path.to_string());
        self.plan.removed.push(path.to_string());
        Ok(())
    }

    fn at(&self, path: &SecretPath) -> Option<(Ino, Node)> {
        let ino = self.draft.tree.find(path)?;
        Some((ino, (**self.draft.tree.get(ino)?).clone()))
    }

    fn one(&mut self, entry: Prepared) -> Result<Done, Why> {
        if entry.is_kept() {
            return self.keep(entry);
        }
        let kind = entry.kind();
        match place::place(&self.draft.tree, self.consoles, self.ours, &entry.path, kind).map_err(Why::Entry)? {
            Occupant::Shared(_) => Ok(Done::Nobodys),
            Occupant::Free => self.make(entry),
            Occupant::Ours(ino) => {
                let node = self.draft.tree.get(ino).cloned().ok_or(VaultError::NotFound)?;
                if node.kind == kind {
                    return self.change(ino, (*node).clone(), entry);
                }
                if self.draft.tree.children(ino).is_some_and(|c| !c.is_empty()) {
                    return Err(Why::Entry("a directory is there in which this host has something of its own".into()));
                }
                let path = entry.path.clone();
                self.event(audit::Operation::Remove, &path, node.current().map(|v| v.number.0));
                self.draft.remove(ino, &path.to_string());
                self.make(entry).map(|_| Done::Changed)
            }
        }
    }

    /// Sees to a folder of this machine's: a directory, root's, and no console's. One that this machine made is left as it is,
    /// unless pinfold serves from it now.
    fn keep(&mut self, entry: Prepared) -> Result<Done, Why> {
        let (path, lies) = (entry.path.clone(), entry.lies);
        let ours = self.ours.owned.contains(&path);
        match self.at(&path) {
            None => {}
            Some((_, node)) if node.kind == Kind::Directory && !ours && lies == Lies::Kept => return Ok(Done::Nobodys),
            Some((ino, node)) if node.kind == Kind::Directory => {
                let mut next = node.clone();
                let WantedMeta { uid, gid, mode, acl, default_acl, .. } = entry.meta;
                let meta = &mut next.meta;
                (meta.uid, meta.gid, meta.mode, meta.acl, meta.default_acl) = (uid, gid, mode, acl, default_acl);
                if next != node {
                    self.judge_meta(ino, &node, &next)?;
                    next.meta.ctime = Timestamp::now();
                    self.event(audit::Operation::Import, &path, None);
                    self.draft.put(ino, next);
                    self.plan.changed.push(path.to_string());
                }
                return Ok(Done::Nobodys);
            }
            Some((ino, node)) if ours => {
                self.event(audit::Operation::Remove, &path, node.current().map(|v| v.number.0));
                self.draft.remove(ino, &path.to_string());
            }
            Some(_) => return Err(Why::Entry("something else is where pinfold keeps a directory".into())),
        }
        self.make(entry)?;
        self.plan.added.push(path.to_string());
        Ok(Done::Nobodys)
    }

    fn make(&mut self, entry: Prepared) -> Result<Done, Why> {
        let Prepared { path, lies, what, meta, .. } = entry;
        let (folder, name) = path.split_last().ok_or(VaultError::NotFound)?;
        let Some((parent, directory)) = self.at(&folder).filter(|(_, node)| node.kind == Kind::Directory) else {
            return Err(Why::Entry("its folder is not there, or is no directory".into()));
        };
        if place::scope_of(&path).is_ok_and(|scope| scope != directory.scope) {
            return Err(Why::Entry("its folder belongs to another scope".into()));
        }
        self.vault.judge(&Daemon, parent, &directory, ScopeState::Alive, Operation::ChangeEntries)?;
        let all = self.draft.tree.len();
        let room = self.vault.meter.admit(Resource::Secrets, Payer::Uid(0), all, all, 1);
        room.map_err(|error| Why::Entry(error.to_string()))?;
        let ino = (self.new_ino)()?;
        let kind = match &what {
            What::Directory => Kind::Directory,
            What::Symlink(_) => Kind::Symlink,
            What::File(_) => Kind::File,
        };
        let mut node = Node {
            parent,
            name: Some(name.clone()),
            kind,
            scope: directory.scope,
            meta: Meta::new(meta.uid, meta.gid, meta.mode),
            target: None,
            versions: Vec::new(),
            last_number: 0,
            view: None,
        };
        match lies {
            // On the way to the folder that the console is confined to: as this host makes folders.
            Lies::Above => node.meta.mode = 0o755,
            Lies::Within | Lies::Kept | Lies::Served => set(&mut node, meta),
        }
        match what {
            What::Directory => {
                self.event(audit::Operation::Mkdir, &path, None);
                self.draft.put(ino, node);
            }
            What::Symlink(target) => {
                node.target = Some(target);
                self.event(audit::Operation::Symlink, &path, None);
                self.draft.put(ino, node);
            }
            What::File(Content::New(sealed)) => {
                let number = self.draft.commit(ino, node, sealed, &path.to_string())?;
                self.event(audit::Operation::Commit, &path, Some(number.0));
            }
            What::File(Content::Same(_)) => return Err(changed_meanwhile(&path)),
        }
        Ok(Done::Added)
    }

    fn change(&mut self, ino: Ino, node: Node, entry: Prepared) -> Result<Done, Why> {
        let Prepared { path, lies, what, meta, .. } = entry;
        let mut next = node.clone();
        if lies == Lies::Within {
            set(&mut next, meta);
            self.judge_meta(ino, &node, &next)?;
        }
        match what {
            What::Directory => {
                // Its own time is of what is in it.
                (next.meta.mtime, next.meta.atime) = (node.meta.mtime, node.meta.atime);
            }
            What::Symlink(target) => next.target = Some(target),
            What::File(Content::Same(version)) if node.current() != Some(&version) => {
                return Err(changed_meanwhile(&path));
            }
            What::File(Content::Same(_)) => {}
            What::File(Content::New(sealed)) => {
                self.vault.judge(&Daemon, ino, &node, ScopeState::Alive, Operation::Write)?;
                next.meta.ctime = Timestamp::now();
                let number = self.draft.commit(ino, next, sealed, &path.to_string())?;
                self.event(audit::Operation::Commit, &path, Some(number.0));
                return Ok(Done::Changed);
            }
        }
        if next == node {
            return Ok(Done::Unchanged);
        }
        next.meta.ctime = Timestamp::now();
        self.event(audit::Operation::Import, &path, None);
        self.draft.put(ino, next);
        Ok(Done::Changed)
    }

    fn judge_meta(&self, ino: Ino, node: &Node, next: &Node) -> Result<(), VaultError> {
        let judge = |operation| self.vault.judge(&Daemon, ino, node, ScopeState::Alive, operation).map(drop);
        let (old, new) = (&node.meta, &next.meta);
        if (old.uid, old.gid) != (new.uid, new.gid) {
            judge(Operation::ChangeOwner { uid: Some(new.uid), gid: Some(new.gid) })?;
        }
        if old.ruled() != new.ruled() {
            judge(Operation::ChangeConditions)?;
        }
        Ok(judge(Operation::ChangeMeta)?)
    }
}

/// The public keys of all halves of pairs, by their paths.
fn halves(prepared: &[Prepared]) -> HashMap<SecretPath, PublicKey> {
    prepared.iter().filter_map(|entry| Some((entry.path.clone(), entry.half.as_ref()?.key.clone()))).collect()
}

/// Owner, mode and the rest as they are to be. Symlinks have a mode that means nothing.
fn set(node: &mut Node, wanted: WantedMeta) {
    let meta = &mut node.meta;
    let told = meta.xattrs.remove(ON_CHANGE).filter(|_| wanted.keep_on_change);
    meta.uid = wanted.uid;
    meta.gid = wanted.gid;
    meta.mode = if node.kind == Kind::Symlink { 0o777 } else { wanted.mode };
    meta.acl = wanted.acl;
    meta.default_acl = wanted.default_acl;
    meta.xattrs = wanted.xattrs;
    meta.xattrs.extend(told.map(|value| (ON_CHANGE.to_owned(), value)));
    if meta.mtime != wanted.mtime {
        (meta.mtime, meta.atime) = (wanted.mtime, wanted.mtime);
    }
}

fn changed_meanwhile(path: &SecretPath) -> Why {
    Why::Vault(VaultError::Failed(format!("{path} was changed while it was being imported; import the bundle again")))
}

/// Whose fault it is.
enum Why {
    /// The entry's, and this is wrong with it.
    Entry(String),
    /// Not the entry's.
    Vault(VaultError),
}

impl From<VaultError> for Why {
    fn from(error: VaultError) -> Self {
        match error {
            VaultError::Denied(_) | VaultError::Invalid(_) | VaultError::NotFound => Why::Entry(error.to_string()),
            other => Why::Vault(other),
        }
    }
}

impl From<crate::access::Denial> for Why {
    fn from(denial: crate::access::Denial) -> Self {
        Why::Entry(denial.to_string())
    }
}

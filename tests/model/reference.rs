//! The reference: a tree of nodes with versions in plain memory, which knows nothing of how pinfold keeps it.
//!
//! Each question gives the failures that would be right; none means that it must succeed. Each effect is applied only
//! then.

use super::rig::{Failure, Person};
use pinfold::model::{Name, Timestamp};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

pub const ROOT_INO: u64 = 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Directory,
    File,
    Symlink,
}

/// A time: known, or some moment since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stamp {
    At(Timestamp),
    Since(Timestamp),
}

impl Stamp {
    /// Whether it may be what was found; then it is known.
    pub fn settle(&mut self, found: Timestamp) -> bool {
        match *self {
            Stamp::At(at) => at == found,
            Stamp::Since(from) if from <= found && found <= Timestamp::now() => {
                *self = Stamp::At(found);
                true
            }
            Stamp::Since(_) => false,
        }
    }
}

/// An ACL: what the nine bits do not say. Perms as rwx.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct List {
    pub owner: u8,
    pub users: BTreeMap<u32, u8>,
    pub group: u8,
    pub groups: BTreeMap<u32, u8>,
    pub mask: Option<u8>,
    pub other: u8,
}

impl List {
    fn mode(&self) -> u16 {
        u16::from(self.owner) << 6 | u16::from(self.mask.unwrap_or(self.group)) << 3 | u16::from(self.other)
    }

    fn is_minimal(&self) -> bool {
        self.users.is_empty() && self.groups.is_empty() && self.mask.is_none()
    }

    /// linux/posix_acl_xattr.h, version 2.
    pub fn to_xattr(&self) -> Vec<u8> {
        let mut out = 2u32.to_le_bytes().to_vec();
        let mut entry = |tag: u16, perm: u8, id: u32| {
            out.extend(tag.to_le_bytes());
            out.extend(u16::from(perm).to_le_bytes());
            out.extend(id.to_le_bytes());
        };
        entry(0x01, self.owner, u32::MAX);
        self.users.iter().for_each(|(uid, perm)| entry(0x02, *perm, *uid));
        entry(0x04, self.group, u32::MAX);
        self.groups.iter().for_each(|(gid, perm)| entry(0x08, *perm, *gid));
        if let Some(mask) = self.mask {
            entry(0x10, mask, u32::MAX);
        }
        entry(0x20, self.other, u32::MAX);
        out
    }
}

/// A committed content. `id` is that of the commit: a rollback has it again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    pub number: u64,
    pub id: u64,
    pub content: Rc<[u8]>,
    pub uid: u32,
}

#[derive(Debug, Clone)]
pub struct Node {
    pub parent: u64,
    pub name: String,
    pub kind: Kind,
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub acl: Option<List>,
    pub default_acl: Option<List>,
    pub xattrs: BTreeMap<String, Vec<u8>>,
    pub atime: Stamp,
    pub mtime: Stamp,
    pub ctime: Stamp,
    pub btime: Stamp,
    pub target: String,
    pub versions: Vec<Version>,
    pub last: u64,
}

/// The attributes that only an admin sets.
pub type Ruled = BTreeMap<String, Vec<u8>>;

impl Node {
    pub fn ruled(&self) -> Ruled {
        let ruled = self.xattrs.iter().filter(|(name, _)| name.starts_with("user.pinfold."));
        ruled.map(|(name, value)| (name.clone(), value.clone())).collect()
    }

    /// What held for the name holds for it, unless something does already.
    fn take_over(&mut self, ruled: Ruled) {
        if self.kind == Kind::File && self.ruled().is_empty() {
            self.xattrs.extend(ruled);
        }
    }

    pub fn content(&self) -> Rc<[u8]> {
        self.versions.last().map_or_else(|| Rc::from([]), |v| Rc::clone(&v.content))
    }

    pub fn has_expired(&self) -> bool {
        self.xattrs.get("user.pinfold.expires").is_some_and(|v| v.starts_with(b"20"))
    }

    pub fn size(&self) -> u64 {
        match self.kind {
            Kind::Directory => 0,
            Kind::File => self.content().len() as u64,
            Kind::Symlink => self.target.len() as u64,
        }
    }
}

/// A name that was renamed away: what it was the name of then.
#[derive(Debug, Clone)]
pub struct Left {
    pub ino: u64,
    pub versions: Vec<Version>,
    pub last: u64,
    pub ruled: Ruled,
}

/// What is written and not committed.
#[derive(Debug, Clone, Default)]
pub struct Dirty {
    pub content: Option<Vec<u8>>,
    pub changed: bool,
    /// The last try to commit was refused, and nothing was written since.
    pub refused: bool,
    pub owners: BTreeSet<u64>,
    pub through: BTreeSet<u64>,
    pub mtime: Option<Stamp>,
    /// Who set mode or ACL last since it was opened for writing.
    pub mode_by: Option<u32>,
    /// Open handles and the threads that opened them.
    pub handles: Vec<(u64, u32)>,
}

#[derive(Debug, Clone)]
pub struct Reference {
    pub nodes: BTreeMap<u64, Node>,
    pub tombstones: BTreeMap<String, Node>,
    pub left: BTreeMap<String, Left>,
    pub dirty: BTreeMap<u64, Dirty>,
    /// Removed while somebody writes: the content it had, and its size. A purge leaves the size alone.
    pub orphans: BTreeMap<u64, (Rc<[u8]>, u64)>,
    pub ever: BTreeSet<u64>,
    /// Whether the last effect was acknowledged as durable, and all before it with it.
    pub durable: bool,
    /// When the present operation began.
    pub now: Timestamp,
    pub keep: usize,
    pub max_nodes: u64,
    pub max_size: u64,
    next_id: u64,
}

/// What a file brings, beside the condition of the name it comes to; `None` if that would let it end later.
fn joined(own: &Ruled, old: &Ruled) -> Option<Ruled> {
    let mut all = own.clone();
    for (name, value) in old {
        match own.get(name) {
            Some(new) if new > value => return None,
            Some(_) => {}
            None => drop(all.insert(name.clone(), value.clone())),
        }
    }
    Some(all)
}

const R: u8 = 4;
const W: u8 = 2;
const X: u8 = 1;

impl Reference {
    pub fn new(keep: usize, max_nodes: u64, max_size: u64) -> Reference {
        Reference {
            nodes: BTreeMap::new(),
            tombstones: BTreeMap::new(),
            left: BTreeMap::new(),
            dirty: BTreeMap::new(),
            orphans: BTreeMap::new(),
            ever: BTreeSet::new(),
            durable: false,
            now: Timestamp::now(),
            keep,
            max_nodes,
            max_size,
            next_id: 1,
        }
    }

    // ---- looking ----

    pub fn child(&self, parent: u64, name: &str) -> Option<u64> {
        self.nodes.iter().find(|(i, n)| n.parent == parent && n.name == name && **i != ROOT_INO).map(|(i, _)| *i)
    }

    pub fn children(&self, parent: u64) -> Vec<(String, u64)> {
        let mut all: Vec<_> = self
            .nodes
            .iter()
            .filter(|(i, n)| n.parent == parent && **i != ROOT_INO)
            .map(|(i, n)| (n.name.clone(), *i))
            .collect();
        all.sort();
        all
    }

    pub fn path(&self, ino: u64) -> String {
        if ino == ROOT_INO {
            return String::new();
        }
        let node = &self.nodes[&ino];
        self.path_in(node.parent, &node.name)
    }

    pub fn path_in(&self, parent: u64, name: &str) -> String {
        match self.path(parent) {
            p if p.is_empty() => name.to_owned(),
            p => format!("{p}/{name}"),
        }
    }

    fn is_below(&self, mut ino: u64, above: u64) -> bool {
        while ino != above {
            if ino == ROOT_INO {
                return false;
            }
            ino = self.nodes[&ino].parent;
        }
        true
    }

    /// What a writer of this thread sees, if it differs from what was committed.
    pub fn seen(&self, ino: u64, tid: u32) -> Option<(u64, Option<Stamp>)> {
        let dirty = self.dirty.get(&ino)?;
        let new = self.nodes.get(&ino).is_none_or(|n| n.last == 0);
        let writes = dirty.handles.iter().any(|(_, t)| *t == tid);
        let content = dirty.content.as_ref().filter(|_| dirty.changed && (new || writes))?;
        Some((content.len() as u64, dirty.mtime))
    }

    /// What is committed, or was when the name went.
    pub fn base(&self, ino: u64) -> Rc<[u8]> {
        match self.nodes.get(&ino) {
            Some(node) => node.content(),
            None => Rc::clone(&self.orphans[&ino].0),
        }
    }

    // ---- who may ----

    fn posix(&self, who: Person, ino: u64, wanted: u8) -> bool {
        let node = &self.nodes[&ino];
        let bits = |shift: u16| ((node.mode >> shift) & 7) as u8;
        let has = |perm: u8| perm & wanted == wanted;
        if who.uid == node.uid {
            return has(bits(6));
        }
        let Some(acl) = &node.acl else {
            return has(bits(if who.groups.contains(&node.gid) { 3 } else { 0 }));
        };
        let mask = acl.mask.unwrap_or(7);
        if let Some(perm) = acl.users.get(&who.uid) {
            return has(perm & mask);
        }
        let mut perms = Vec::new();
        if who.groups.contains(&node.gid) {
            perms.push(acl.group);
        }
        perms.extend(acl.groups.iter().filter(|(gid, _)| who.groups.contains(gid)).map(|(_, perm)| *perm));
        if perms.is_empty() { has(acl.other) } else { perms.into_iter().any(|perm| has(perm & mask)) }
    }

    fn owns(&self, who: Person, ino: u64) -> bool {
        who.admin || who.uid == self.nodes[&ino].uid
    }

    fn may_change_entries(&self, who: Person, directory: u64) -> bool {
        who.admin || self.posix(who, directory, W | X)
    }

    fn may_remove(&self, who: Person, directory: u64, ino: u64) -> bool {
        let dir = &self.nodes[&directory];
        self.may_change_entries(who, directory)
            && (dir.mode & 0o1000 == 0 || self.owns(who, ino) || self.owns(who, directory))
    }

    // ---- questions: which failures would be right ----

    pub fn cannot_make(&self, who: Person, parent: u64, name: &str) -> Vec<Failure> {
        let mut wrong = Vec::new();
        check(&mut wrong, self.child(parent, name).is_none(), Failure::Exists);
        check(&mut wrong, self.may_change_entries(who, parent), Failure::Denied);
        check(&mut wrong, self.path(parent) != "containers", Failure::NotPermitted);
        check(&mut wrong, (self.nodes.len() as u64) < self.max_nodes, Failure::NoSpace);
        let owned = self.nodes.values().filter(|n| n.uid == who.uid).count() as u64;
        check(&mut wrong, who.uid == 0 || owned < (self.max_nodes / 10).max(1), Failure::Quota);
        wrong
    }

    pub fn cannot_open(&self, who: Person, ino: u64, read: bool, write: bool) -> Vec<Failure> {
        let mut wrong = Vec::new();
        let node = &self.nodes[&ino];
        check(&mut wrong, node.kind == Kind::File, Failure::IsADirectory);
        check(&mut wrong, !write || who.admin || self.posix(who, ino, W), Failure::Denied);
        check(&mut wrong, !read || (self.posix(who, ino, R) && !node.has_expired()), Failure::Denied);
        wrong
    }

    /// Whether a handle may still write: `made` is that it made the file.
    pub fn cannot_write_on(&self, who: Person, ino: u64, made: bool) -> Vec<Failure> {
        let mut wrong = Vec::new();
        if let Some(node) = self.nodes.get(&ino) {
            let own = made || self.dirty.get(&ino).is_some_and(|d| d.mode_by == Some(who.uid));
            let may = who.admin || own && who.uid == node.uid || self.posix(who, ino, W);
            check(&mut wrong, may, Failure::Denied);
        }
        wrong
    }

    pub fn cannot_unlink(&self, who: Person, parent: u64, name: &str) -> Vec<Failure> {
        let Some(ino) = self.child(parent, name) else { return vec![Failure::NotFound] };
        let mut wrong = Vec::new();
        check(&mut wrong, self.nodes[&ino].kind != Kind::Directory, Failure::IsADirectory);
        check(&mut wrong, self.may_remove(who, parent, ino), Failure::Denied);
        wrong
    }

    pub fn cannot_rmdir(&self, who: Person, parent: u64, name: &str) -> Vec<Failure> {
        let Some(ino) = self.child(parent, name) else { return vec![Failure::NotFound] };
        let mut wrong = Vec::new();
        check(&mut wrong, self.nodes[&ino].kind == Kind::Directory, Failure::NotADirectory);
        check(&mut wrong, self.may_remove(who, parent, ino), Failure::Denied);
        check(&mut wrong, self.children(ino).is_empty(), Failure::NotEmpty);
        check(&mut wrong, self.path(ino) != "containers", Failure::NotPermitted);
        wrong
    }

    pub fn cannot_rename(&self, who: Person, from: (u64, &str), to: (u64, &str), replace: bool) -> Vec<Failure> {
        let Some(ino) = self.child(from.0, from.1) else { return vec![Failure::NotFound] };
        let target = self.child(to.0, to.1);
        if target == Some(ino) {
            return Vec::new();
        }
        let mut wrong = Vec::new();
        let node = &self.nodes[&ino];
        let is_dir = node.kind == Kind::Directory;
        check(&mut wrong, self.may_remove(who, from.0, ino), Failure::Denied);
        check(&mut wrong, self.may_change_entries(who, to.0), Failure::Denied);
        let (old_path, new_path) = (self.path(ino), self.path_in(to.0, to.1));
        let containers = [&old_path, &new_path].iter().any(|p| *p == "containers");
        check(&mut wrong, !containers && self.path(to.0) != "containers", Failure::NotPermitted);
        check(&mut wrong, !(is_dir && self.is_below(to.0, ino)), Failure::Invalid);
        if let Some(target) = target {
            check(&mut wrong, replace, Failure::Exists);
            check(&mut wrong, self.may_remove(who, to.0, target), Failure::Denied);
            let onto_dir = self.nodes[&target].kind == Kind::Directory;
            check(&mut wrong, !is_dir || onto_dir, Failure::NotADirectory);
            check(&mut wrong, is_dir || !onto_dir, Failure::IsADirectory);
            check(&mut wrong, self.children(target).is_empty(), Failure::NotEmpty);
            let (own, old) = (node.ruled(), self.nodes[&target].ruled());
            let drops = node.kind == Kind::File && !own.is_empty() && !old.is_empty() && own != old;
            check(&mut wrong, !drops || who.admin && joined(&own, &old).is_some(), Failure::NotPermitted);
        }
        let unfit = node.last > 0 && !fits(to.1, &node.content());
        check(&mut wrong, !unfit, Failure::Invalid);
        if node.kind == Kind::File && node.last > 0 && target.is_none_or(|target| self.nodes[&target].last == 0) {
            let mut own = node.ruled();
            if let Some(target) = target.filter(|_| own.is_empty()) {
                own = self.nodes[&target].ruled();
            }
            check(&mut wrong, joined(&own, &self.held(&new_path, ino)).is_some(), Failure::NotPermitted);
        }
        wrong
    }

    pub fn cannot_set_attr(
        &self,
        who: Person,
        ino: u64,
        chmod: bool,
        chown: Option<(Option<u32>, Option<u32>)>,
        times: Option<bool>,
    ) -> Vec<Failure> {
        let mut wrong = Vec::new();
        let node = &self.nodes[&ino];
        check(&mut wrong, !chmod || self.owns(who, ino), Failure::Denied);
        if let Some((uid, gid)) = chown {
            let keeps = uid.is_none_or(|u| u == node.uid);
            let own_group = gid.is_none_or(|g| g == node.gid || who.groups.contains(&g));
            check(&mut wrong, who.admin || (who.uid == node.uid && keeps && own_group), Failure::Denied);
        }
        if let Some(explicit) = times {
            let touch = !explicit && self.posix(who, ino, W);
            check(&mut wrong, self.owns(who, ino) || touch, Failure::Denied);
        }
        wrong
    }

    pub fn cannot_set_xattr(&self, who: Person, ino: u64, name: &str, value: &[u8], mode: u8) -> Vec<Failure> {
        let node = &self.nodes[&ino];
        let mut wrong = self.cannot_change_xattr(who, ino, name);
        let there = node.xattrs.contains_key(name);
        let held = match (node.kind, node.last) {
            (Kind::File, 0) => self.held(&self.path(ino), ino),
            _ => Ruled::new(),
        };
        let old = node.xattrs.get(name).or_else(|| held.get(name));
        if let Some(old) = old.filter(|_| name.starts_with("user.pinfold.")) {
            let valid = value.ends_with(b"Z");
            check(&mut wrong, valid && value <= old.as_slice(), Failure::NotPermitted);
        }
        check(&mut wrong, mode != 1 || !there, Failure::Exists);
        check(&mut wrong, mode != 2 || there, Failure::NoAttribute);
        if name.starts_with("user.pinfold.") {
            let valid = node.kind == Kind::File && std::str::from_utf8(value).is_ok_and(|v| v.ends_with('Z'));
            check(&mut wrong, valid, Failure::Invalid);
        }
        let others: usize = node.xattrs.iter().filter(|(n, _)| *n != name).map(|(n, v)| n.len() + v.len()).sum();
        // The last quarter is for conditions.
        let plain = |name: &str| !name.starts_with("user.pinfold.");
        let others_plain: usize =
            node.xattrs.iter().filter(|(n, _)| *n != name && plain(n)).map(|(n, v)| n.len() + v.len()).sum();
        let this = name.len() + value.len();
        let room = others + this <= 16 * 1024 && others_plain + if plain(name) { this } else { 0 } <= 12 * 1024;
        check(&mut wrong, room, Failure::NoSpace);
        wrong
    }

    pub fn cannot_change_xattr(&self, who: Person, ino: u64, name: &str) -> Vec<Failure> {
        let mut wrong = Vec::new();
        let known = name.starts_with("user.") || name.starts_with("system.posix_acl_");
        check(&mut wrong, known, Failure::UnknownAttribute);
        let condition = name.starts_with("user.pinfold.");
        check(&mut wrong, if condition { who.admin } else { self.owns(who, ino) }, Failure::Denied);
        wrong
    }

    // ---- effects ----

    pub fn make(&mut self, who: Person, ino: u64, parent: u64, name: &str, kind: Kind, mode: u16, umask: u16) {
        let default = self.nodes[&parent].default_acl.clone();
        let mode = match (kind, &default) {
            (Kind::Symlink, _) => 0o777,
            (_, Some(_)) => mode & 0o777,
            (Kind::File, None) => mode & !umask & 0o700,
            (Kind::Directory, None) => mode & !umask & 0o1777,
        };
        let now = Stamp::Since(self.now);
        let mut node = Node {
            parent,
            name: name.to_owned(),
            kind,
            mode,
            uid: who.uid,
            gid: who.gid,
            acl: None,
            default_acl: None,
            xattrs: BTreeMap::new(),
            atime: now,
            mtime: now,
            ctime: now,
            btime: now,
            target: String::new(),
            versions: Vec::new(),
            last: 0,
        };
        if let Some(mut list) = default.filter(|_| kind != Kind::Symlink) {
            if kind == Kind::Directory {
                node.default_acl = Some(list.clone());
            }
            let bits = |shift: u16| ((mode >> shift) & 7) as u8;
            list.owner &= bits(6);
            list.other &= bits(0);
            match &mut list.mask {
                Some(mask) => *mask &= bits(3),
                None => list.group &= bits(3),
            }
            node.mode = list.mode();
            node.acl = (!list.is_minimal()).then_some(list);
        }
        assert!(self.ever.insert(ino), "inode {ino} was given twice");
        self.nodes.insert(ino, node);
        self.stamp(parent);
    }

    /// The root, which is in itself.
    pub fn make_root(&mut self) {
        let now = Stamp::Since(self.now);
        let root = Node {
            parent: ROOT_INO,
            name: String::new(),
            kind: Kind::Directory,
            mode: 0o705,
            uid: 0,
            gid: 0,
            acl: None,
            default_acl: None,
            xattrs: BTreeMap::new(),
            atime: now,
            mtime: now,
            ctime: now,
            btime: now,
            target: String::new(),
            versions: Vec::new(),
            last: 0,
        };
        self.nodes.insert(ROOT_INO, root);
    }

    pub fn stamp(&mut self, directory: u64) {
        let now = Stamp::Since(self.now);
        let node = self.nodes.get_mut(&directory).unwrap();
        (node.mtime, node.ctime) = (now, now);
    }

    pub fn chmod(&mut self, ino: u64, mode: u16) {
        let node = self.nodes.get_mut(&ino).unwrap();
        node.mode = mode & if node.kind == Kind::Directory { 0o1777 } else { 0o777 };
        if let Some(list) = &mut node.acl {
            let bits = |shift: u16| ((mode >> shift) & 7) as u8;
            (list.owner, list.other) = (bits(6), bits(0));
            match &mut list.mask {
                Some(mask) => *mask = bits(3),
                None => list.group = bits(3),
            }
        }
    }

    pub fn set_acl(&mut self, ino: u64, list: List) {
        let node = self.nodes.get_mut(&ino).unwrap();
        node.mode = node.mode & 0o1000 | list.mode();
        node.acl = (!list.is_minimal()).then_some(list);
    }

    pub fn mode_was_set(&mut self, ino: u64, who: Person) {
        if let Some(dirty) = self.dirty.get_mut(&ino) {
            dirty.mode_by = Some(who.uid);
        }
    }

    pub fn drop_acl(&mut self, ino: u64) {
        let node = self.nodes.get_mut(&ino).unwrap();
        let list = node.acl.take().unwrap();
        node.mode = node.mode & 0o1707 | u16::from(list.group & list.mask.unwrap_or(7)) << 3;
    }

    /// A name goes; whoever writes it keeps what he has.
    fn vanish(&mut self, ino: u64) -> Node {
        let node = self.nodes.remove(&ino).unwrap();
        if self.dirty.contains_key(&ino) {
            self.orphans.insert(ino, (node.content(), node.size()));
        }
        node
    }

    pub fn unlink(&mut self, ino: u64, purge: bool) {
        let path = self.path(ino);
        let node = self.vanish(ino);
        self.stamp(node.parent);
        if purge {
            self.orphans.entry(ino).and_modify(|(content, _)| *content = Rc::from([]));
            self.tombstones.remove(&path);
            self.left.remove(&path);
        } else if node.last > 0 {
            self.tombstones.insert(path, node);
        }
    }

    pub fn rmdir(&mut self, ino: u64) {
        let node = self.nodes.remove(&ino).unwrap();
        self.stamp(node.parent);
    }

    /// What held for a name that was given up.
    fn held(&self, path: &str, heir: u64) -> Ruled {
        match self.tombstones.get(path) {
            Some(tombstone) => tombstone.ruled(),
            None => {
                self.left.get(path).filter(|left| left.ino != heir).map(|left| left.ruled.clone()).unwrap_or_default()
            }
        }
    }

    /// The history that a name has, for the one who takes the name over.
    fn inherit(&mut self, path: &str, heir: u64) -> (Vec<Version>, u64, Ruled) {
        let left = self.left.remove(path).filter(|left| left.ino != heir);
        let last = left.as_ref().map_or(0, |left| left.last);
        if let Some(tombstone) = self.tombstones.remove(path) {
            let ruled = tombstone.ruled();
            return (tombstone.versions, tombstone.last.max(last), ruled);
        }
        let Some(left) = left else { return (Vec::new(), 0, Ruled::new()) };
        let kept = self.nodes.get(&left.ino).map(|n| n.versions.as_slice()).unwrap_or_default();
        let alive = left.versions.into_iter().filter(|v| kept.iter().any(|k| k.id == v.id)).collect();
        (alive, last, left.ruled)
    }

    pub fn rename(&mut self, from: (u64, &str), to: (u64, &str)) {
        let ino = self.child(from.0, from.1).unwrap();
        let target = self.child(to.0, to.1);
        if target == Some(ino) {
            return;
        }
        let (old_path, new_path) = (self.path(ino), self.path_in(to.0, to.1));
        let replaced = target.map(|target| self.vanish(target));
        let mut node = self.nodes[&ino].clone();
        if let Some(replaced) = &replaced {
            node.take_over(replaced.ruled());
        }
        let replaced = replaced.filter(|t| t.last > 0);
        if node.last > 0 {
            let left = Left { ino, versions: node.versions.clone(), last: node.last, ruled: self.nodes[&ino].ruled() };
            let (mut versions, mut last, ruled) = match replaced {
                Some(target) => (target.versions, target.last, Ruled::new()),
                None => self.inherit(&new_path, ino),
            };
            node.take_over(ruled);
            if last > 0 {
                let own = std::mem::take(&mut node.versions);
                let current = own.len() - 1;
                for (i, mut version) in own.into_iter().enumerate() {
                    // What the name had already is not had twice, unless it is what it has now.
                    if i == current || versions.iter().all(|v| v.id != version.id) {
                        last += 1;
                        version.number = last;
                        versions.push(version);
                    }
                }
                node.versions = versions;
                node.last = last.max(node.last);
            }
            self.prune(&mut node);
            self.left.insert(old_path, left);
        } else if let Some(target) = replaced {
            self.tombstones.insert(new_path, target);
        }
        (node.parent, node.name, node.ctime) = (to.0, to.1.to_owned(), Stamp::Since(self.now));
        self.nodes.insert(ino, node);
        self.stamp(from.0);
        self.stamp(to.0);
    }

    fn prune(&self, node: &mut Node) {
        let excess = node.versions.len().saturating_sub(self.keep);
        node.versions.drain(..excess);
    }

    /// Whether it can be committed.
    pub fn cannot_commit(&self, ino: u64, content: &[u8]) -> Vec<Failure> {
        let mut wrong = Vec::new();
        if let Some(node) = self.nodes.get(&ino) {
            check(&mut wrong, fits(&node.name, content), Failure::Invalid);
            if node.last == 0 {
                let held = self.held(&self.path(ino), ino);
                check(&mut wrong, joined(&node.ruled(), &held).is_some(), Failure::NotPermitted);
            }
        }
        wrong
    }

    pub fn commit(&mut self, ino: u64, content: &[u8], uid: u32, mtime: Option<Stamp>) {
        if !self.nodes.contains_key(&ino) {
            return;
        }
        let path = self.path(ino);
        let (mut versions, mut last, mut ruled) = (Vec::new(), 0, Ruled::new());
        if self.nodes[&ino].last == 0 {
            (versions, last, ruled) = self.inherit(&path, ino);
        }
        self.next_id += 1;
        let mut node = self.nodes[&ino].clone();
        node.take_over(ruled);
        versions.append(&mut node.versions);
        node.last = node.last.max(last) + 1;
        versions.push(Version { number: node.last, id: self.next_id, content: Rc::from(content), uid });
        node.versions = versions;
        node.ctime = Stamp::Since(self.now);
        node.mtime = mtime.unwrap_or(node.mtime);
        self.prune(&mut node);
        self.nodes.insert(ino, node);
        self.durable = true;
    }

    /// Rolls back a name: which failures would be right, or what comes of it.
    pub fn cannot_roll_back(&self, path: &str, number: u64) -> Vec<Failure> {
        let live = self.find(path).map(|ino| &self.nodes[&ino]);
        let node = match live {
            Some(node) if node.kind != Kind::File => return vec![Failure::Refused("it is no secret".into())],
            Some(node) if node.last > 0 => node,
            _ => match self.tombstones.get(path) {
                Some(tombstone) => tombstone,
                None => return vec![Failure::NotFound],
            },
        };
        let mut wrong = Vec::new();
        check(&mut wrong, node.versions.iter().any(|v| v.number == number), Failure::NotFound);
        let current = live.is_some_and(|n| n.last > 0) && node.versions.last().is_some_and(|v| v.number == number);
        check(&mut wrong, !current, Failure::NothingToDo);
        let parent = self.find(parent_of(path));
        check(&mut wrong, parent.is_some(), Failure::NotFound);
        let holds = parent.is_none_or(|i| self.nodes[&i].kind == Kind::Directory);
        check(&mut wrong, holds, Failure::Refused("its directory is none any more".into()));
        if parent.is_some() && live.is_none() {
            check(&mut wrong, (self.nodes.len() as u64) < self.max_nodes, Failure::Other("no room".into()));
        }
        wrong
    }

    /// `ino` is what the name is now, if it was brought back.
    pub fn roll_back(&mut self, path: &str, number: u64, ino: u64) {
        let now = Stamp::Since(self.now);
        self.durable = true;
        let live = self.nodes.get(&ino).is_some_and(|n| n.last > 0);
        let mut node = if live { self.nodes[&ino].clone() } else { self.tombstones.remove(path).unwrap() };
        let old = node.versions.iter().find(|v| v.number == number).unwrap().clone();
        node.ctime = now;
        if live {
            node.mtime = now;
        }
        if live || node.versions.last() != Some(&old) {
            node.last += 1;
            node.versions.push(Version { number: node.last, uid: 0, ..old });
        }
        self.prune(&mut node);
        if !live {
            let (directory, name) = (parent_of(path), path.rsplit('/').next().unwrap());
            (node.parent, node.name) = (self.find(directory).unwrap(), name.to_owned());
            self.stamp(node.parent);
            self.ever.insert(ino);
        }
        self.nodes.insert(ino, node);
    }

    pub fn find(&self, path: &str) -> Option<u64> {
        path.split('/').filter(|n| !n.is_empty()).try_fold(ROOT_INO, |at, name| self.child(at, name))
    }

    /// The daemon is another one now: nothing of what was only in memory is left.
    pub fn restart(&mut self) {
        self.left.clear();
        self.dirty.clear();
        self.orphans.clear();
    }
}

/// Whether content may have this name: pinfold's own rule, which has tests of its own.
pub fn fits(name: &str, content: &[u8]) -> bool {
    pinfold::enrol::check(&Name::parse(name.as_bytes()).unwrap(), content).is_ok()
}

fn parent_of(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

fn check(wrong: &mut Vec<Failure>, holds: bool, failure: Failure) {
    if !holds {
        wrong.push(failure);
    }
}

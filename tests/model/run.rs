//! Does each operation to the filesystem and to the reference, and compares all that can be seen of the two.

use super::ops::{NAMES, Op, Place};
use super::reference::{Kind, List, ROOT_INO, Reference, Stamp};
use super::rig::{Failure, PEOPLE, Person, ROOT, Rig, actor, limits};
use pinfold::caller::Daemon;
use pinfold::fs::{Fs, FsError, OpenMode, Opened};
use pinfold::model::{Gid, Ino, Kind as NodeKind, Name, SecretPath, Timestamp, Uid};
use pinfold::vault::{NewNode, Rename, SetAttr, TimeChange, XattrMode};
use pinfold::wire::{Remove, Rollback, Serve};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

type Verdict = Result<(), String>;

/// A handle: on a version, or on the dirty copy.
#[derive(Clone)]
struct Handle {
    number: u64,
    ino: u64,
    who: Person,
    readable: bool,
    /// Whether it made the file.
    made: bool,
    /// Whether something of it was refused because the right had gone.
    denied: bool,
    /// The content of a reader's version.
    content: Option<Rc<[u8]>>,
}

pub struct Run {
    rig: Rig,
    model: Reference,
    handles: Vec<Handle>,
    /// The states since what is durable for certain.
    states: Vec<Reference>,
}

/// Runs a list of operations from an empty store on.
pub fn run(keep_versions: usize, max_secrets: u64, ops: &[Op]) -> Verdict {
    let rig = Rig::new(limits(keep_versions, max_secrets));
    let mut model = Reference::new(keep_versions, max_secrets, rig.limits().max_secret_size);
    adopt_first_nodes(&rig, &mut model);
    let states = vec![model.clone()];
    let mut run = Some(Run { rig, model, handles: Vec::new(), states });
    let step = |run: &mut Option<Run>, op: &Op| -> Verdict {
        if let Op::Reopen = op {
            *run = Some(run.take().expect("always there").reopen());
        }
        let run = run.as_mut().expect("always there");
        run.model.now = Timestamp::now();
        run.model.durable = matches!(op, Op::Reopen);
        run.apply(op)?;
        run.settle()
    };
    // Where everybody may make things.
    for (at, mode) in [((0, 3), 0o777), ((0, 0), 0o1777)] {
        step(&mut run, &Op::Mkdir { who: 0, at, mode, umask: 0 })?;
    }
    for (i, op) in ops.iter().enumerate() {
        step(&mut run, op).map_err(|what| format!("at operation {i}, {op:?}: {what}"))?;
    }
    run.expect("always there").end()
}

fn adopt_first_nodes(rig: &Rig, model: &mut Reference) {
    // A store begins with its root and the containers' folder.
    model.make_root();
    for (_, kind, name) in rig.vault().entries(Ino::ROOT).unwrap() {
        let attr = rig.vault().lookup(Ino::ROOT, name.as_str()).unwrap();
        assert_eq!(kind, NodeKind::Directory);
        model.make(ROOT, attr.ino.0, ROOT_INO, name.as_str(), Kind::Directory, attr.mode, 0);
    }
    for (ino, node) in &mut model.nodes {
        let attr = rig.vault().attr(Ino(*ino)).unwrap();
        (node.gid, node.mode) = (attr.gid, attr.mode);
        node.atime = Stamp::At(attr.atime);
        node.mtime = Stamp::At(attr.mtime);
        node.ctime = Stamp::At(attr.ctime);
        node.btime = Stamp::At(attr.btime);
    }
}

impl Run {
    fn fs(&self) -> &Fs {
        &self.rig.fs
    }

    fn reopen(mut self) -> Run {
        self.rig = self.rig.reopen();
        self.handles.clear();
        self.model.restart();
        self
    }

    fn apply(&mut self, op: &Op) -> Verdict {
        match op.clone() {
            Op::Mkdir { who, at, mode, umask } => self.make(person(who), at, NodeKind::Directory, mode, umask, None),
            Op::Symlink { who, at } => self.make(person(who), at, NodeKind::Symlink, 0o777, 0, Some("../some/where")),
            Op::Create { who, at, mode, read, write } => self.create(person(who), at, mode, read, write).map(|_| ()),
            Op::Open { who, node, read, write, truncate } => {
                let ino = self.node(node);
                self.open(person(who), ino, OpenMode { read, write, truncate }).map(|_| ())
            }
            Op::Write { handle, owner, offset, data, append } => match self.writer(handle) {
                Some(at) => self.write(at, owner, offset.into(), &data.bytes(), append),
                None => Ok(()),
            },
            Op::Read { handle, offset, size } => match self.handles.len() {
                0 => Ok(()),
                n => self.read(usize::from(handle) % n, offset.into(), size.into()),
            },
            Op::Flush { handle, owner } => self.writer(handle).map_or(Ok(()), |at| self.flush(at, owner)),
            Op::Fsync { handle } => self.writer(handle).map_or(Ok(()), |at| self.fsync(at)),
            Op::Release { handle } => match self.handles.len() {
                0 => Ok(()),
                n => self.release(usize::from(handle) % n),
            },
            Op::Put { who, at, data } => self.put(person(who), at, &data.bytes()).map(|_| ()),
            Op::Replace { who, temporary, at, data } => {
                if self.put(person(who), temporary, &data.bytes())? {
                    let (from, to) = (self.place(temporary), self.place(at));
                    self.rename(person(who), from, to, true)?;
                }
                Ok(())
            }
            Op::Edit { who, at, backup, data, remove } => {
                let (from, away) = (self.place(at), self.place((at.0, backup)));
                self.rename(person(who), from, away.clone(), true)?;
                self.settle()?;
                self.put(person(who), at, &data.bytes())?;
                if remove { self.unlink(person(who), away) } else { Ok(()) }
            }
            Op::Truncate { who, node, size } => self.truncate(person(who), self.node(node), None, size.into()),
            Op::TruncateHandle { handle, size } => match self.writer(handle) {
                Some(at) => {
                    let handle = &self.handles[at];
                    self.truncate(handle.who, handle.ino, Some(handle.number), size.into())
                }
                None => Ok(()),
            },
            Op::Rename { who, node, to, replace } => {
                let (from, to) = (self.where_is(self.node(node)), self.place(to));
                self.rename(person(who), from, to, replace)
            }
            Op::RenameDirectory { who, node, to } => {
                let directories = self.directories();
                let from = self.where_is(directories[usize::from(node) % directories.len()]);
                let to = self.place(to);
                self.rename(person(who), from, to, true)
            }
            Op::Unlink { who, node } => self.unlink(person(who), self.where_is(self.node(node))),
            Op::Rmdir { who, node } => self.rmdir(person(who), self.where_is(self.node(node))),
            Op::Chmod { who, node, mode } => {
                let set = SetAttr { mode: Some(mode), ..SetAttr::default() };
                self.set_attr(person(who), self.node(node), set)
            }
            Op::Chown { who, node, uid, gid } => {
                let gids = [0, 1001, 1002, 2000];
                let uid = uid.map(|i| Uid(person(i).uid));
                let gid = gid.map(|i| Gid(gids[usize::from(i)]));
                let set = SetAttr { uid, gid, ..SetAttr::default() };
                if set == SetAttr::default() { Ok(()) } else { self.set_attr(person(who), self.node(node), set) }
            }
            Op::Times { who, node, atime, mtime } => {
                let change = |time: Option<Option<u32>>| {
                    time.map(|t| {
                        t.map_or(TimeChange::Now, |s| TimeChange::At(Timestamp { secs: s.into(), nanos: s % 1000 }))
                    })
                };
                let set = SetAttr { atime: change(atime), mtime: change(mtime), ..SetAttr::default() };
                if set == SetAttr::default() { Ok(()) } else { self.set_attr(person(who), self.node(node), set) }
            }
            Op::SetXattr { who, node, name, len, mode } => {
                self.set_xattr(person(who), self.node(node), name, len, mode)
            }
            Op::RemoveXattr { who, node, name } => self.remove_xattr(person(who), self.node(node), name),
            Op::SetAcl { who, node, default, perms, named } => {
                self.set_acl(person(who), self.node(node), default, list(perms, named))
            }
            Op::RollBack { path, number } => self.roll_back(path, number),
            Op::Remove { path, purge } => self.remove(path, purge),
            Op::Sync => {
                self.model.durable = true;
                self.fs().sync().map_err(|e| e.to_string())
            }
            Op::LockAndUnlock => self.lock_and_unlock(),
            Op::Reopen => Ok(()),
            Op::Crash { go_on } => self.crash(go_on),
        }
    }

    // ---- what the numbers mean ----

    fn directories(&self) -> Vec<u64> {
        self.model.nodes.iter().filter(|(_, n)| n.kind == Kind::Directory).map(|(i, _)| *i).collect()
    }

    fn place(&self, (directory, name): Place) -> (u64, String) {
        let directories = self.directories();
        // The containers' folder is the second and rarely of interest.
        let directory = usize::from(directory) % directories.len();
        (directories[if directory == 1 { directories.len() - 1 } else { directory }], NAMES[usize::from(name)].into())
    }

    fn node(&self, node: u8) -> u64 {
        let mut nodes: Vec<u64> = self.model.nodes.keys().copied().collect();
        if nodes.len() > 2 && node > 4 {
            nodes.drain(..2);
        }
        nodes[usize::from(node) % nodes.len()]
    }

    /// The root is not in a directory: whoever means it gets a name that is not there.
    fn where_is(&self, ino: u64) -> (u64, String) {
        match ino {
            ROOT_INO => (ROOT_INO, "not-there".into()),
            ino => (self.model.nodes[&ino].parent, self.model.nodes[&ino].name.clone()),
        }
    }

    fn writer(&self, handle: u8) -> Option<usize> {
        let writers: Vec<_> =
            self.handles.iter().enumerate().filter(|(_, h)| h.content.is_none()).map(|(i, _)| i).collect();
        if writers.is_empty() { None } else { Some(writers[usize::from(handle) % writers.len()]) }
    }

    // ---- operations ----

    fn make(&mut self, who: Person, at: Place, kind: NodeKind, mode: u16, umask: u16, target: Option<&str>) -> Verdict {
        let (parent, text) = self.place(at);
        let name = name(&text);
        let wrong = self.model.cannot_make(who, parent, &text);
        let made = self.fs().make(&who, NewNode { parent: Ino(parent), name: &name, kind, mode, umask, target });
        if let Some(attr) = agree(made, &wrong)? {
            let kind = if kind == NodeKind::Directory { Kind::Directory } else { Kind::Symlink };
            self.model.make(who, attr.ino.0, parent, &text, kind, mode, umask);
            self.model.nodes.get_mut(&attr.ino.0).unwrap().target = target.unwrap_or_default().to_owned();
        }
        Ok(())
    }

    fn create(&mut self, who: Person, at: Place, mode: u16, read: bool, write: bool) -> Result<bool, String> {
        let (parent, text) = self.place(at);
        let name = name(&text);
        let wrong = self.model.cannot_make(who, parent, &text);
        let new = NewNode { parent: Ino(parent), name: &name, kind: NodeKind::File, mode, umask: 0o022, target: None };
        let how = OpenMode { read: read || !write, write, truncate: false };
        let Some((attr, opened)) = agree(self.fs().create(&who, who.tid, new, how), &wrong)? else { return Ok(false) };
        self.model.make(who, attr.ino.0, parent, &text, Kind::File, mode, 0o022);
        self.keep(who, attr.ino.0, how, opened, true);
        Ok(true)
    }

    fn keep(&mut self, who: Person, ino: u64, mode: OpenMode, opened: Opened, made: bool) {
        let number = opened.number();
        let content = match opened {
            Opened::Reader(_) => Some(self.model.nodes[&ino].content()),
            Opened::Writer(_) => {
                self.model.dirty.entry(ino).or_default().handles.push((number, who.tid));
                None
            }
        };
        self.handles.push(Handle { number, ino, who, readable: mode.read, content, made, denied: false });
    }

    fn open(&mut self, who: Person, ino: u64, mode: OpenMode) -> Result<bool, String> {
        let wrong = self.model.cannot_open(who, ino, mode.read, mode.write);
        let opened = self.fs().open(&who, who.tid, Ino(ino), mode);
        let Some(opened) = agree(opened, &wrong)? else { return Ok(false) };
        self.keep(who, ino, mode, opened, false);
        if mode.truncate {
            let now = Stamp::Since(self.model.now);
            let dirty = self.model.dirty.get_mut(&ino).unwrap();
            (dirty.content, dirty.changed, dirty.mtime) = (Some(Vec::new()), true, Some(now));
            dirty.refused = false;
            dirty.through.insert(opened.number());
        }
        Ok(true)
    }

    fn write(&mut self, at: usize, owner: u64, offset: u64, data: &[u8], append: bool) -> Verdict {
        let Handle { number, ino, who, made, .. } = self.handles[at];
        let wrong = self.model.cannot_write_on(who, ino, made);
        if !wrong.is_empty() {
            self.handles[at].denied = true;
            return agree(self.fs().write(number, offset, data, append, owner), &wrong).map(|_| ());
        }
        let base = self.model.base(ino).to_vec();
        let (max, now) = (self.model.max_size, Stamp::Since(self.model.now));
        let dirty = self.model.dirty.get_mut(&ino).unwrap();
        let content = dirty.content.get_or_insert(base);
        let from = if append { content.len() } else { offset as usize };
        let end = from + data.len();
        let wrong = if end as u64 > max { vec![Failure::TooBig] } else { Vec::new() };
        if wrong.is_empty() {
            content.resize(content.len().max(end), 0);
            content[from..end].copy_from_slice(data);
            (dirty.changed, dirty.refused, dirty.mtime) = (true, false, Some(now));
            dirty.owners.insert(owner);
            dirty.through.insert(number);
        }
        agree(self.fs().write(number, offset, data, append, owner), &wrong).map(|_| ())
    }

    fn read(&mut self, at: usize, offset: u64, size: u32) -> Verdict {
        let handle = &self.handles[at];
        let content = match &handle.content {
            Some(content) => content.to_vec(),
            None => self.model.dirty[&handle.ino].content.clone().unwrap_or(self.model.base(handle.ino).to_vec()),
        };
        let wrong = if handle.readable { Vec::new() } else { vec![Failure::WrongHandle] };
        let mut found = Vec::new();
        // What others wrote meanwhile is shown only to who may read it now.
        let mut perhaps = Vec::new();
        if handle.content.is_none() {
            match self.model.nodes.contains_key(&handle.ino) {
                true => perhaps.extend(self.model.cannot_open(handle.who, handle.ino, true, false)),
                false => perhaps.push(Failure::NotFound),
            }
        }
        let read = self.fs().read(&handle.who, Ino(handle.ino), handle.number, (offset, size), false, |bytes| {
            found = bytes.to_vec();
        });
        let read = read.map_err(Failure::from);
        if read.as_ref().is_err_and(|found| perhaps.contains(found)) {
            return Ok(());
        }
        if agree(read, &wrong)?.is_some() {
            let from = (offset as usize).min(content.len());
            let to = (from + size as usize).min(content.len());
            same("read", &found, &content[from..to].to_vec())?;
        }
        Ok(())
    }

    /// Commits the dirty copy in the reference by this handle; the failures that would be right.
    fn commit(&mut self, handle: &Handle) -> Vec<Failure> {
        let &Handle { number, ino, who, made, .. } = handle;
        let denied = self.model.cannot_write_on(who, ino, made);
        let dirty = self.model.dirty.get_mut(&ino).unwrap();
        let Some(content) = dirty.content.clone() else { return Vec::new() };
        if !denied.is_empty() {
            if let Some(handle) = self.handles.iter_mut().find(|h| h.number == number) {
                handle.denied = true;
            }
            dirty.refused = true;
            if !dirty.through.is_empty() && dirty.through.iter().all(|other| *other == number) {
                (dirty.changed, dirty.content) = (false, None);
                dirty.through.clear();
            }
            return denied;
        }
        let (mtime, uid) = (dirty.mtime, who.uid);
        let wrong = self.model.cannot_commit(ino, &content);
        let dirty = self.model.dirty.get_mut(&ino).unwrap();
        dirty.refused = !wrong.is_empty();
        if wrong.is_empty() {
            dirty.owners.clear();
            dirty.through.clear();
            if self.model.nodes.contains_key(&ino) {
                (dirty.changed, dirty.content) = (false, None);
                self.model.commit(ino, &content, uid, mtime);
            }
        }
        wrong
    }

    fn flush(&mut self, at: usize, owner: u64) -> Verdict {
        let handle = self.handles[at].clone();
        let Handle { number, ino, .. } = handle;
        let denied = self.model.cannot_write_on(handle.who, ino, handle.made);
        if handle.denied && !denied.is_empty() {
            return agree(self.fs().flush(number, owner), &denied).map(|_| ());
        }
        let mut wrong = Vec::new();
        if self.model.dirty[&ino].owners.contains(&owner) {
            wrong = self.commit(&handle);
            // Who was told is told once.
            self.model.dirty.get_mut(&ino).unwrap().owners.remove(&owner);
        }
        agree(self.fs().flush(number, owner), &wrong).map(|_| ())
    }

    fn fsync(&mut self, at: usize) -> Verdict {
        let handle = self.handles[at].clone();
        let Handle { number, ino, .. } = handle;
        let denied = self.model.cannot_write_on(handle.who, ino, handle.made);
        if handle.denied && !denied.is_empty() {
            return agree(self.fs().fsync(number), &denied).map(|_| ());
        }
        let mut wrong = Vec::new();
        if self.model.dirty[&ino].changed {
            wrong = self.commit(&handle);
        }
        if agree(self.fs().fsync(number), &wrong)?.is_some() {
            self.model.durable = true;
        }
        Ok(())
    }

    fn release(&mut self, at: usize) -> Verdict {
        let handle = self.handles.remove(at);
        let Handle { number, ino, .. } = handle;
        if handle.content.is_some() {
            self.fs().release_reader(number);
            return Ok(());
        }
        let dirty = self.model.dirty.get_mut(&ino).unwrap();
        dirty.handles.retain(|(n, _)| *n != number);
        let last = dirty.handles.is_empty();
        let mut wrong = Vec::new();
        if dirty.changed && !dirty.refused && (last || dirty.through.contains(&number)) {
            wrong = self.commit(&handle);
        }
        if last {
            self.model.dirty.remove(&ino);
            self.model.orphans.remove(&ino);
        }
        agree(self.fs().release_writer(number), &wrong).map(|_| ())
    }

    /// As `echo … > file`. Whether the content is there now.
    fn put(&mut self, who: Person, at: Place, data: &[u8]) -> Result<bool, String> {
        let (parent, text) = self.place(at);
        let opened = match self.model.child(parent, &text) {
            Some(ino) => self.open(who, ino, OpenMode { read: false, write: true, truncate: true })?,
            None => self.create(who, at, 0o666, false, true)?,
        };
        if !opened {
            return Ok(false);
        }
        self.settle()?;
        let last = self.handles.len() - 1;
        let ino = self.handles[last].ino;
        self.flush(last, 77)?;
        self.write(last, 78, 0, data, false)?;
        self.settle()?;
        self.flush(last, 78)?;
        self.settle()?;
        self.release(last)?;
        self.settle()?;
        Ok(self.model.nodes.get(&ino).is_some_and(|n| *n.content() == *data))
    }

    fn truncate(&mut self, who: Person, ino: u64, handle: Option<u64>, size: u64) -> Verdict {
        let mut wrong = Vec::new();
        if size > self.model.max_size {
            wrong.push(Failure::TooBig);
        }
        match handle.and_then(|number| self.handles.iter().find(|h| h.number == number)) {
            None => wrong.extend(self.model.cannot_open(who, ino, false, true)),
            Some(handle) => wrong.extend(self.model.cannot_write_on(who, ino, handle.made)),
        }
        if wrong.contains(&Failure::Denied)
            && size <= self.model.max_size
            && let Some(handle) = self.handles.iter_mut().find(|h| Some(h.number) == handle)
        {
            handle.denied = true;
        }
        if wrong.is_empty() {
            let (base, now) = (self.model.base(ino).to_vec(), Stamp::Since(self.model.now));
            match self.model.dirty.get_mut(&ino) {
                Some(dirty) => {
                    let content = dirty.content.get_or_insert(base);
                    if content.len() as u64 != size || !dirty.changed {
                        content.resize(size as usize, 0);
                        (dirty.changed, dirty.refused, dirty.mtime) = (true, false, Some(now));
                        dirty.through.extend(handle);
                    }
                }
                None if base.len() as u64 != size => {
                    let mut content = base;
                    content.resize(size as usize, 0);
                    wrong.extend(self.model.cannot_commit(ino, &content));
                    if wrong.is_empty() {
                        self.model.commit(ino, &content, who.uid, Some(now));
                    }
                }
                None => {}
            }
        }
        agree(self.fs().truncate(&who, Ino(ino), handle, size), &wrong).map(|_| ())
    }

    fn rename(&mut self, who: Person, from: (u64, String), to: (u64, String), replace: bool) -> Verdict {
        let wrong = self.model.cannot_rename(who, (from.0, &from.1), (to.0, &to.1), replace);
        let (name, new_name) = (name(&from.1), name(&to.1));
        let rename = Rename { parent: Ino(from.0), name: &name, new_parent: Ino(to.0), new_name: &new_name, replace };
        if agree(self.fs().rename(&who, rename), &wrong)?.is_some() {
            self.model.rename((from.0, &from.1), (to.0, &to.1));
        }
        Ok(())
    }

    fn unlink(&mut self, who: Person, (parent, text): (u64, String)) -> Verdict {
        let wrong = self.model.cannot_unlink(who, parent, &text);
        if agree(self.fs().unlink(&who, Ino(parent), &name(&text)), &wrong)?.is_some() {
            let ino = self.model.child(parent, &text).unwrap();
            self.model.unlink(ino, false);
        }
        Ok(())
    }

    fn rmdir(&mut self, who: Person, (parent, text): (u64, String)) -> Verdict {
        let wrong = self.model.cannot_rmdir(who, parent, &text);
        if agree(self.fs().rmdir(&who, Ino(parent), &name(&text)), &wrong)?.is_some() {
            let ino = self.model.child(parent, &text).unwrap();
            self.model.rmdir(ino);
        }
        Ok(())
    }

    fn set_attr(&mut self, who: Person, ino: u64, set: SetAttr) -> Verdict {
        let chown = (set.uid.is_some() || set.gid.is_some()).then_some((set.uid.map(|u| u.0), set.gid.map(|g| g.0)));
        let explicit = [set.atime, set.mtime].iter().flatten().any(|t| matches!(t, TimeChange::At(_)));
        let times = (set.atime.is_some() || set.mtime.is_some()).then_some(explicit);
        let wrong = self.model.cannot_set_attr(who, ino, set.mode.is_some(), chown, times);
        if agree(self.fs().set_attr(&who, who.tid, Ino(ino), set), &wrong)?.is_none() {
            return Ok(());
        }
        if let Some(mode) = set.mode {
            self.model.chmod(ino, mode);
        }
        let now = Stamp::Since(self.model.now);
        let stamp = |change: TimeChange| match change {
            TimeChange::Now => now,
            TimeChange::At(at) => Stamp::At(at),
        };
        let node = self.model.nodes.get_mut(&ino).unwrap();
        node.uid = set.uid.map_or(node.uid, |u| u.0);
        node.gid = set.gid.map_or(node.gid, |g| g.0);
        node.atime = set.atime.map_or(node.atime, stamp);
        node.mtime = set.mtime.map_or(node.mtime, stamp);
        node.ctime = now;
        if let (Some(_), Some(dirty)) = (set.mtime, self.model.dirty.get_mut(&ino)) {
            dirty.mtime = None;
        }
        if set.mode.is_some() {
            self.model.mode_was_set(ino, who);
        }
        Ok(())
    }

    fn set_xattr(&mut self, who: Person, ino: u64, which: u8, len: u8, mode: u8) -> Verdict {
        let (name, value) = attribute(which, len);
        let wrong = self.model.cannot_set_xattr(who, ino, name, &value, mode);
        let how = [XattrMode::Set, XattrMode::Create, XattrMode::Replace][usize::from(mode)];
        if agree(self.fs().set_xattr(&who, Ino(ino), name, &value, how), &wrong)?.is_some() {
            let node = self.model.nodes.get_mut(&ino).unwrap();
            node.xattrs.insert(name.to_owned(), value);
            node.ctime = Stamp::Since(self.model.now);
        }
        Ok(())
    }

    fn remove_xattr(&mut self, who: Person, ino: u64, which: u8) -> Verdict {
        let (name, _) = attribute(which, 0);
        let mut wrong = self.model.cannot_change_xattr(who, ino, name);
        let node = &self.model.nodes[&ino];
        let there = match name {
            ACCESS => node.acl.is_some(),
            DEFAULT => node.default_acl.is_some(),
            _ => node.xattrs.contains_key(name),
        };
        // A list that is not there can be taken away: then nothing changes.
        let is_list = name == ACCESS || name == DEFAULT;
        if !there && !is_list {
            wrong.push(Failure::NoAttribute);
        } else if name.starts_with("user.pinfold.") {
            wrong.push(Failure::NotPermitted);
        }
        if agree(self.fs().remove_xattr(&who, Ino(ino), name), &wrong)?.is_some() && there {
            let now = Stamp::Since(self.model.now);
            let node = self.model.nodes.get_mut(&ino).unwrap();
            node.ctime = now;
            match name {
                ACCESS => {
                    self.model.drop_acl(ino);
                    self.model.mode_was_set(ino, who);
                }
                DEFAULT => node.default_acl = None,
                _ => drop(node.xattrs.remove(name)),
            }
        }
        Ok(())
    }

    fn set_acl(&mut self, who: Person, ino: u64, default: bool, list: List) -> Verdict {
        let name = if default { DEFAULT } else { ACCESS };
        let mut wrong = self.model.cannot_change_xattr(who, ino, name);
        if default && self.model.nodes[&ino].kind != Kind::Directory {
            wrong.push(Failure::NotPermitted);
        }
        let set = self.fs().set_xattr(&who, Ino(ino), name, &list.to_xattr(), XattrMode::Set);
        if agree(set, &wrong)?.is_some() {
            let now = Stamp::Since(self.model.now);
            let node = self.model.nodes.get_mut(&ino).unwrap();
            node.ctime = now;
            if default {
                node.default_acl = Some(list);
            } else {
                self.model.set_acl(ino, list);
                self.model.mode_was_set(ino, who);
            }
        }
        Ok(())
    }

    /// A path that has or had a name.
    fn path(&self, path: u8) -> String {
        let tombstones = self.model.tombstones.keys().cloned();
        let live = self.model.nodes.iter().filter(|(_, n)| n.kind == Kind::File).map(|(i, _)| self.model.path(*i));
        let all: BTreeSet<String> = tombstones.chain(live).collect();
        all.iter().nth(usize::from(path) % (all.len() + 1)).cloned().unwrap_or_else(|| "not/there".into())
    }

    fn roll_back(&mut self, path: u8, number: u8) -> Verdict {
        let text = self.path(path);
        let live = self.model.find(&text).and_then(|i| self.model.nodes.get(&i)).filter(|n| n.last > 0);
        let node = live.or(self.model.tombstones.get(&text));
        let numbers: Vec<u64> = node.map(|n| n.versions.iter().map(|v| v.number).collect()).unwrap_or_default();
        let number = numbers.get(usize::from(number) % (numbers.len() + 1)).copied().unwrap_or(999);
        let wrong = self.model.cannot_roll_back(&text, number);
        let path = SecretPath::parse(&text).unwrap();
        if agree(self.rig.vault().serve(&actor(), Rollback { path, version: number }).map(|done| done.version), &wrong)?
            .is_some()
        {
            let (directory, name) = text.rsplit_once('/').unwrap_or(("", &text));
            let directory = Ino(self.model.find(directory).unwrap());
            let ino = self.rig.vault().lookup(directory, name).map_err(|e| e.to_string())?.ino.0;
            self.model.roll_back(&text, number, ino);
        }
        Ok(())
    }

    fn remove(&mut self, path: u8, purge: bool) -> Verdict {
        let text = self.path(path);
        let live = self.model.find(&text);
        // The command does not ask who has it open: stat of what it removed is not answered any more.
        while let Some(at) = self.handles.iter().position(|h| Some(h.ino) == live) {
            self.release(at)?;
            self.settle()?;
        }
        let mut wrong = Vec::new();
        if live.is_none() && !(purge && self.model.tombstones.contains_key(&text)) {
            wrong.push(Failure::NotFound);
        }
        // A directory may have the name of what was removed.
        let directory = live.filter(|ino| self.model.nodes[ino].kind == Kind::Directory);
        if directory.is_some_and(|ino| !self.model.children(ino).is_empty()) {
            wrong.push(Failure::Refused("not empty".into()));
        }
        let remove = Remove { path: SecretPath::parse(&text).unwrap(), purge, recursive: false };
        if agree(self.rig.vault().serve(&actor(), remove), &wrong)?.is_some() {
            match live {
                Some(ino) if directory.is_some() => self.model.rmdir(ino),
                Some(ino) => self.model.unlink(ino, purge),
                None => drop(self.model.tombstones.remove(&text)),
            }
            self.model.durable = true;
        }
        Ok(())
    }

    fn lock_and_unlock(&mut self) -> Verdict {
        self.rig.lock();
        let fs = self.fs();
        for result in [
            fs.lookup(Ino::ROOT, b"pub").map(|_| ()),
            fs.open_dir(&ROOT, Ino::ROOT).map(|_| ()),
            fs.open(&ROOT, 1, Ino(1030), OpenMode { read: true, ..OpenMode::default() }).map(|_| ()),
        ] {
            agree(result, &[Failure::Locked])?;
        }
        for handle in std::mem::take(&mut self.handles) {
            match handle.content {
                Some(_) => drop(self.fs().release_reader(handle.number)),
                None => {
                    agree(self.fs().flush(handle.number, 1), &[Failure::Stale])?;
                    agree(self.fs().release_writer(handle.number), &[])?;
                }
            }
        }
        self.rig.unlock().map_err(|e| e.to_string())?;
        self.model.restart();
        self.model.durable = true;
        Ok(())
    }

    /// The store as it is on disk now must be one of the states since what was acknowledged last.
    fn crash(&mut self, go_on: bool) -> Verdict {
        let copy = self.rig.crashed().map_err(|e| format!("what a crash leaves does not open: {e}"))?;
        let mut whys = Vec::new();
        for state in self.states.iter().rev() {
            let mut state = state.clone();
            state.restart();
            match compare(&copy.1, &mut state) {
                Ok(()) => {
                    if go_on {
                        self.rig.go_on_with(copy);
                        self.handles.clear();
                        // A number that only the dead daemon knew may be given again.
                        state.ever = state.nodes.keys().copied().collect();
                        self.model = state;
                        self.model.now = Timestamp::now();
                        self.model.durable = true;
                    }
                    return Ok(());
                }
                Err(why) => whys.push(why),
            }
        }
        Err(format!("what a crash leaves is none of {} states: {whys:#?}", whys.len()))
    }

    // ---- comparing ----

    /// Compares everything; then this is a state that was.
    fn settle(&mut self) -> Verdict {
        compare(&self.rig.fs, &mut self.model)?;
        self.compare_handles()?;
        if self.model.durable {
            self.states.clear();
        }
        self.model.durable = false;
        self.states.push(self.model.clone());
        Ok(())
    }

    fn compare_handles(&mut self) -> Verdict {
        same("open handles", &self.fs().open_handles(), &(self.handles.len() as u64))?;
        for at in 0..self.handles.len() {
            if self.handles[at].readable {
                self.read(at, 0, 10_000)?;
            }
        }
        for (ino, dirty) in &self.model.dirty {
            if self.model.nodes.contains_key(ino) {
                continue;
            }
            for (_, tid) in &dirty.handles {
                let attr = self.rig.fs.attr(Ino(*ino), *tid).map_err(|e| e.to_string())?.attr;
                same("names of what was removed", &attr.nlink, &0)?;
                let size = self.model.seen(*ino, *tid).map_or(self.model.orphans[ino].1, |(size, _)| size);
                same("size of what was removed", &attr.size, &size)?;
            }
        }
        Ok(())
    }

    /// Everybody closes, and the store is as it should be.
    fn end(mut self) -> Verdict {
        while !self.handles.is_empty() {
            self.model.now = Timestamp::now();
            self.release(0)?;
            self.settle()?;
        }
        self.rig.vault().sync().map_err(|e| e.to_string())?;
        let checked = self.rig.vault().check(true).map_err(|e| e.to_string())?;
        same("problems", &checked.problems, &Vec::new())?;
        for (ino, node) in &self.model.nodes {
            for version in node.versions.iter().filter(|_| !node.has_expired()) {
                let opened = self.rig.vault().open_version(&Daemon, Ino(*ino), version.number);
                let opened = opened.map_err(|e| format!("version {} of {ino}: {e}", version.number))?;
                same("an old version", &opened.content.expose().to_vec(), &version.content.to_vec())?;
            }
        }
        let mut run = self.reopen();
        compare(&run.rig.fs, &mut run.model).map_err(|e| format!("after the last reopening: {e}"))
    }
}

const ACCESS: &str = "system.posix_acl_access";
const DEFAULT: &str = "system.posix_acl_default";

fn person(i: u8) -> Person {
    PEOPLE[usize::from(i) % PEOPLE.len()]
}

fn name(text: &str) -> Name {
    Name::parse(text.as_bytes()).unwrap()
}

fn attribute(which: u8, len: u8) -> (&'static str, Vec<u8>) {
    match which {
        0 => ("user.a", vec![b'x'; usize::from(len)]),
        1 => ("user.b", vec![b'y'; usize::from(len) * 70]),
        2 => (
            "user.pinfold.expires",
            [&b"2020-01-01T00:00:00Z"[..], b"9020-01-01T00:00:00Z", b"soon"][usize::from(len % 3)].into(),
        ),
        3 => ("trusted.a", vec![1]),
        4 => ("security.b", vec![1]),
        5 => (ACCESS, Vec::new()),
        _ => (DEFAULT, Vec::new()),
    }
}

fn list(perms: [u8; 5], named: u8) -> List {
    let [owner, group, other, mask, name] = perms;
    let mut list = List { owner, users: BTreeMap::new(), group, groups: BTreeMap::new(), mask: None, other };
    if named & 1 != 0 {
        list.users.insert(1001, name);
    }
    if named & 2 != 0 {
        list.groups.insert(2000, name);
    }
    if named != 0 {
        list.mask = Some(mask);
    }
    list
}

/// Succeeds, or fails, as the reference says; `None` if it failed rightly.
fn agree<T, E: Into<Failure>>(result: Result<T, E>, wrong: &[Failure]) -> Result<Option<T>, String> {
    match result.map_err(Into::into) {
        Ok(_) if !wrong.is_empty() => Err(format!("it succeeded; right would be one of {wrong:?}")),
        Ok(value) => Ok(Some(value)),
        Err(found) => {
            let alike = |w: &Failure| std::mem::discriminant(w) == std::mem::discriminant(&found);
            if wrong.iter().any(alike) { Ok(None) } else { Err(format!("{found:?}; right would be {wrong:?}")) }
        }
    }
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, found: &T, wanted: &T) -> Verdict {
    if found == wanted { Ok(()) } else { Err(format!("{what}: found {found:?}, wanted {wanted:?}")) }
}

/// All that can be seen of a tree.
fn compare(fs: &Fs, model: &mut Reference) -> Verdict {
    same("nodes in all", &fs.vault().count(), &(model.nodes.len() as u64))?;
    for ino in model.nodes.keys().copied().collect::<Vec<_>>() {
        let path = model.path(ino);
        compare_node(fs, model, ino, &path).map_err(|e| format!("'{path}' (inode {ino}): {e}"))?;
    }
    for (path, tombstone) in &model.tombstones {
        if model.find(path).is_none_or(|ino| model.nodes[&ino].last == 0 && model.nodes[&ino].kind == Kind::File) {
            compare_history(fs, path, &tombstone.versions, false)?;
        }
    }
    Ok(())
}

fn compare_node(fs: &Fs, model: &mut Reference, ino: u64, path: &str) -> Verdict {
    let text = |e: FsError| e.to_string();
    let views: Vec<_> = PEOPLE.iter().map(|p| p.tid).chain([0]).map(|tid| (tid, model.seen(ino, tid))).collect();
    let written = model.dirty.contains_key(&ino);
    if ino != ROOT_INO {
        let node = &model.nodes[&ino];
        let found = fs.lookup(Ino(node.parent), node.name.as_bytes()).map_err(text)?;
        same("inode", &found.attr.ino.0, &ino)?;
    }
    for (tid, view) in views {
        let seen = fs.attr(Ino(ino), tid).map_err(text)?;
        same("whether its attributes last", &seen.lasting, &!written)?;
        let (attr, node) = (seen.attr, model.nodes.get_mut(&ino).unwrap());
        let kind = match attr.kind {
            NodeKind::Directory => Kind::Directory,
            NodeKind::File => Kind::File,
            NodeKind::Symlink => Kind::Symlink,
        };
        same("kind", &kind, &node.kind)?;
        let found = (attr.mode, attr.uid, attr.gid, attr.nlink);
        same("mode, owner, group, links", &found, &(node.mode, node.uid, node.gid, 1))?;
        same("size", &attr.size, &view.map_or(node.size(), |(size, _)| size))?;
        for (what, stamp, found) in [
            ("atime", &mut node.atime, attr.atime),
            ("ctime", &mut node.ctime, attr.ctime),
            ("btime", &mut node.btime, attr.btime),
        ] {
            if !stamp.settle(found) {
                return Err(format!("{what}: found {found}, wanted {stamp:?}"));
            }
        }
        match view {
            Some((_, Some(mut mtime))) => {
                if !mtime.settle(attr.mtime) {
                    return Err(format!("a writer's mtime: found {}, wanted {mtime:?}", attr.mtime));
                }
                model.dirty.get_mut(&ino).unwrap().mtime = Some(mtime);
            }
            _ => {
                if !node.mtime.settle(attr.mtime) {
                    return Err(format!("mtime: found {}, wanted {:?}", attr.mtime, node.mtime));
                }
            }
        }
    }
    compare_xattrs(fs, model, ino)?;
    match model.nodes[&ino].kind {
        Kind::Directory => compare_directory(fs, model, ino),
        Kind::Symlink => same("target", &fs.read_link(&Daemon, Ino(ino)).map_err(text)?, &model.nodes[&ino].target),
        Kind::File => compare_file(fs, model, ino, path),
    }
}

fn compare_xattrs(fs: &Fs, model: &Reference, ino: u64) -> Verdict {
    let node = &model.nodes[&ino];
    let mut wanted: BTreeMap<String, Vec<u8>> = node.xattrs.clone();
    for (name, list) in [(ACCESS, &node.acl), (DEFAULT, &node.default_acl)] {
        wanted.extend(list.as_ref().map(|list| (name.to_owned(), list.to_xattr())));
    }
    let mut found = BTreeMap::new();
    for name in fs.list_xattr(&Daemon, Ino(ino)).map_err(|e| e.to_string())? {
        let value = fs.get_xattr(&Daemon, Ino(ino), &name, || true).map_err(|e| e.to_string())?;
        found.insert(name, value);
    }
    same("attributes", &found, &wanted)
}

fn compare_directory(fs: &Fs, model: &Reference, ino: u64) -> Verdict {
    let handle = fs.open_dir(&Daemon, Ino(ino)).map_err(|e| e.to_string())?;
    let listing = fs.dir(Ino(ino), handle).map_err(|e| e.to_string())?;
    fs.release_dir(handle);
    let found: BTreeMap<String, u64> = listing
        .snapshot
        .from(0)
        .map(|(i, _, n)| (String::from_utf8_lossy(n).into_owned(), i.0))
        .filter(|(n, _)| n != ".pinfold")
        .collect();
    let mut wanted: BTreeMap<String, u64> = model.children(ino).into_iter().collect();
    wanted.insert(".".into(), ino);
    wanted.insert("..".into(), model.nodes[&ino].parent);
    same("entries", &found, &wanted)
}

fn compare_file(fs: &Fs, model: &Reference, ino: u64, path: &str) -> Verdict {
    let node = &model.nodes[&ino];
    let wrong = if node.has_expired() { vec![Failure::Denied] } else { Vec::new() };
    if let Some(opened) = agree(fs.vault().open_read(&Daemon, Ino(ino)), &wrong)? {
        same("content", &opened.content.expose().to_vec(), &node.content().to_vec())?;
        same("version", &opened.version.map(|v| v.0), &node.versions.last().map(|v| v.number))?;
    }
    if node.last > 0 {
        compare_history(fs, path, &node.versions, true)?;
    } else if !model.tombstones.contains_key(path) {
        let found = fs
            .vault()
            .serve(&actor(), pinfold::wire::GetHistory { path: SecretPath::parse(path).unwrap() })
            .map(|done| done.versions);
        agree(found, &[Failure::NotFound])?;
    }
    Ok(())
}

fn compare_history(fs: &Fs, path: &str, versions: &[super::reference::Version], live: bool) -> Verdict {
    let history = fs
        .vault()
        .serve(&actor(), pinfold::wire::GetHistory { path: SecretPath::parse(path).unwrap() })
        .map(|done| done.versions);
    let mut history = history.map_err(|e| format!("history of '{path}': {e}"))?;
    history.reverse();
    let found: Vec<_> = history.iter().map(|v| (v.number, v.size, v.uid)).collect();
    let wanted: Vec<_> = versions.iter().map(|v| (v.number, v.content.len() as u64, Some(v.uid))).collect();
    same(&format!("history of '{path}'"), &found, &wanted)?;
    if !found.is_sorted_by(|a, b| a.0 < b.0) || found.len() > fs.vault().limits().keep_versions {
        return Err(format!("history of '{path}' is not in order, or too long: {found:?}"));
    }
    let current: Vec<_> = history.iter().filter(|v| v.current).map(|v| v.number).collect();
    same("the current version", &current, &versions.last().filter(|_| live).map(|v| v.number).into_iter().collect())
}

//! The adapter between the kernel's FUSE requests and [`Fs`]: the only user of fuser.
//!
//! Each handler finds out who asks, calls one method, and answers. No handler panics through (fuser would unmount), and
//! none waits for an unlock on its thread.

mod answer;
mod errno;
mod notify;
mod poke;
mod probe;
mod served;
mod session;
#[cfg(test)]
mod tests;
mod unmappable;

pub use session::{Connect, Mounted, SOURCE};

use super::wait::{Outcome, Waiting};
use super::{Asked, Fs, FsError, Node, Seen};
use crate::audit;
use crate::caller::Process;
use crate::model::{Gid, Ino, Kind, Name, Uid};
use crate::sys::connection::Offer;
use crate::vault::{NewNode, Rename, SetAttr, VaultError, XattrMode};
use answer::{
    answer, answer_attr, answer_content, answer_entry, answer_node, answer_xattr, entry_attr, file_type, new_node,
    open_flags, open_mode, time_change, xattr_name,
};
use fuser::{
    BsdFileFlags, Errno, FileHandle, FopenFlags, Generation, INodeNo, InitFlags, IoctlFlags, KernelConfig, LockOwner,
    OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyIoctl,
    ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, TimeOrNow, WriteFlags,
};
use notify::Teller;
use served::Asker as Request;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};
#[cfg(test)]
pub(super) use tests::done_and_not_answered;
use unmappable::Unmappable;

/// Capabilities that the tree needs: ACLs as the daemon keeps them, umask left to the daemon, truncation within open,
/// and look-ups side by side: otherwise one that waits for an unlock stops all others in the same directory.
const NEEDED: [InitFlags; 4] = [
    InitFlags::FUSE_POSIX_ACL,
    InitFlags::FUSE_DONT_MASK,
    InitFlags::FUSE_ATOMIC_O_TRUNC,
    InitFlags::FUSE_PARALLEL_DIROPS,
];

/// In the number of a request that is sent again (FUSE_UNIQUE_RESEND, Linux ≥ 6.9).
const SENT_AGAIN: u64 = 1 << 63;

/// The filesystem as fuser calls it.
pub struct Adapter {
    fs: Arc<Fs>,
    teller: Arc<Teller>,
    waiting: Arc<Waiting>,
    /// For how long after the lock callers wait; `None` refuses at once.
    patience: Option<Duration>,
    /// What the kernel offers in its handshake, for a daemon that takes the connection over.
    offered: Arc<OnceLock<Offer>>,
    unmappable: Arc<Unmappable>,
}

impl Adapter {
    fn caller(&self, req: &Request) -> Process {
        self.fs.vault().callers().identify(Uid(req.uid()), Gid(req.gid()), req.pid())
    }

    /// Runs a handler; a panic becomes a dropped reply, which fuser answers with EIO.
    fn guard(&self, what: &str, handler: impl FnOnce()) {
        if catch_unwind(AssertUnwindSafe(handler)).is_err() {
            tracing::error!(what, "a request failed inside; it was answered with EIO");
        }
    }

    /// Does it, or, while the store is locked, lets the caller wait for the unlock. `done` gets the error to answer.
    fn when_unlocked<R: Send + 'static>(
        &self,
        req: &Request,
        path: (Ino, Option<&[u8]>),
        errno: fn(&FsError) -> Errno,
        act: impl Fn(&Fs) -> Result<R, FsError> + Send + 'static,
        done: impl FnOnce(Result<R, Errno>) + Send + 'static,
    ) {
        let fs = Arc::clone(&self.fs);
        let first = act(&fs);
        let since = match first {
            Err(FsError::Vault(VaultError::Locked)) => fs.vault().locked_since(),
            other => return done(other.map_err(|e| errno(&e))),
        };
        let name = path.1.map(|n| String::from_utf8_lossy(n).into_owned());
        let (uid, gid, tid, ino) = (Uid(req.uid()), Gid(req.gid()), req.pid(), path.0);
        let job = move |outcome| {
            let again = match outcome {
                Outcome::Unlocked => act(&fs),
                Outcome::GiveUp => Err(VaultError::Locked.into()),
            };
            if matches!(again, Err(FsError::Vault(VaultError::Locked))) {
                let caller = fs.vault().callers().identify(uid, gid, tid);
                let path = fs.vault().path_of(ino, name.as_deref());
                fs.vault().record_refusal(audit::Operation::Open, &path, &caller.who(), "the store is locked");
            }
            done(again.map_err(|e| errno(&e)));
        };
        match (self.patience, since) {
            (Some(patience), Some(since)) => self.waiting.park(uid.0, since, patience, Box::new(job)),
            (Some(_), None) => job(Outcome::Unlocked),
            (None, _) => job(Outcome::GiveUp),
        }
    }

    fn make(&self, req: &Request, new: NewNode<'_>) -> Result<(Seen, Node), FsError> {
        let attr = self.fs.make_once(asked(req), &self.caller(req), new)?;
        self.saw(new.parent, new.name);
        Ok((Seen { attr, lasting: true }, self.fs.node_of(&attr, req.pid())))
    }

    /// Does it; what the kernel knows of the same secret by other numbers is asked for anew afterwards.
    fn changing<R>(&self, node: Node, act: impl FnOnce() -> R) -> R {
        let version = || self.fs.vault().current_version(node.ino).ok();
        let before = version();
        let result = act();
        let others = self.fs.other_nodes(node);
        if !others.is_empty() {
            self.teller.changed_for(others, version() != before);
        }
        result
    }

    fn saw(&self, parent: Ino, name: &Name) {
        if parent == Ino::ROOT {
            self.teller.saw_root_name(name);
        }
    }

    fn note(&self, req: &Request, ino: Ino, error: &FsError) {
        let told = matches!(
            error,
            FsError::Vault(
                VaultError::Invalid(_)
                    | VaultError::NotPermitted(_)
                    | VaultError::Damaged(_)
                    | VaultError::Denied(_)
                    | VaultError::Exhausted(_)
            )
        );
        if told {
            self.fs.own().note_error(req.uid(), &self.fs.vault().path_of(ino, None), error);
        }
    }
}

fn asked(req: &Request) -> Asked {
    let number = req.unique();
    Asked { number: number & !SENT_AGAIN, again: number & SENT_AGAIN != 0 }
}

fn node(number: INodeNo) -> Node {
    Node::of(number.0)
}

/// The requests, as fuser has them, from whoever asks.
#[allow(clippy::too_many_arguments, reason = "the kernel's")]
impl Adapter {
    fn init(&mut self, config: &mut KernelConfig) -> std::io::Result<()> {
        let version = config.kernel_abi();
        let mut flags = config.capabilities();
        // What was not agreed on at the beginning is never offered to a daemon that takes the connection over.
        let unmappable = Unmappable::agree(config);
        if unmappable.is_none() {
            flags -= unmappable::FLAGS;
        }
        self.unmappable = Arc::new(unmappable.unwrap_or_default());
        let _ = self.offered.set(Offer { minor: version.1, flags: flags.bits() });
        for flag in NEEDED {
            config.add_capabilities(flag).map_err(|_| std::io::Error::other(format!("the kernel lacks {flag:?}")))?;
        }
        Ok(())
    }

    fn lookup(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.guard("lookup", || {
            let (parent, bytes) = (node(parent).ino, name.as_bytes().to_vec());
            let (again, teller) = (bytes.clone(), Arc::clone(&self.teller));
            let tid = req.pid();
            let act = move |fs: &Fs| {
                let found = fs.lookup(parent, &again)?;
                if let (Ino::ROOT, Ok(name)) = (parent, Name::parse(&again)) {
                    teller.saw_root_name(&name);
                }
                Ok((found, fs.node_of(&found.attr, tid)))
            };
            self.when_unlocked(req, (parent, Some(&bytes)), errno::of, act, |found| answer_entry(reply, found));
        });
    }

    fn getattr(&self, req: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        self.guard("getattr", || {
            let ino = node(ino).ino;
            let caller = self.caller(req);
            // Before the reply: afterwards the thread may be doing something else.
            self.fs.vault().probe(&caller, ino, || probe::attempts(&caller));
            answer_attr(reply, self.fs.attr(ino, req.pid()));
        });
    }

    fn setattr(
        &self,
        req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        self.guard("setattr", || {
            let (node, caller) = (node(ino), self.caller(req));
            let ino = node.ino;
            let set = SetAttr {
                mode: mode.map(|m| (m & 0o7777) as u16),
                uid: uid.map(Uid),
                gid: gid.map(Gid),
                // With a size, the times are the kernel's own, for the truncation; the commit sets them.
                atime: atime.filter(|_| size.is_none()).map(time_change),
                mtime: mtime.filter(|_| size.is_none()).map(time_change),
            };
            let result = self.changing(node, || {
                let sized = size.map_or(Ok(()), |size| self.fs.truncate(&caller, ino, fh.map(|f| f.0), size));
                sized.and_then(|()| match set == SetAttr::default() {
                    true => self.fs.attr(ino, req.pid()),
                    false => self.fs.set_attr(&caller, req.pid(), ino, set),
                })
            });
            if let Err(error) = &result {
                self.note(req, ino, error);
            }
            answer_attr(reply, result);
        });
    }

    fn readlink(&self, req: &Request, ino: INodeNo, reply: ReplyData) {
        self.guard("readlink", || match self.fs.read_link(&self.caller(req), node(ino).ino) {
            Ok(target) => reply.data(target.as_bytes()),
            Err(error) => {
                self.note(req, node(ino).ino, &error);
                reply.error(errno::of_node(&error));
            }
        });
    }

    fn mknod(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, _: u32, reply: ReplyEntry) {
        self.guard("mknod", || {
            if mode & libc::S_IFMT != libc::S_IFREG && mode & libc::S_IFMT != 0 {
                let reason = "no devices, FIFOs or sockets";
                let path = self.fs.vault().path_of(node(parent).ino, Some(&name.to_string_lossy()));
                self.fs.vault().record_refusal(audit::Operation::Mknod, &path, &self.caller(req).who(), reason);
                return reply.error(errno::of(&VaultError::NotPermitted(reason).into()));
            }
            let made = Name::parse(name.as_bytes())
                .map_err(FsError::from)
                .and_then(|name| self.make(req, new_node(parent, &name, Kind::File, mode, umask, None)));
            answer_entry(reply, made.map_err(|e| errno::of(&e)));
        });
    }

    fn mkdir(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        self.guard("mkdir", || {
            let made = Name::parse(name.as_bytes())
                .map_err(FsError::from)
                .and_then(|name| self.make(req, new_node(parent, &name, Kind::Directory, mode, umask, None)));
            answer_entry(reply, made.map_err(|e| errno::of(&e)));
        });
    }

    fn symlink(&self, req: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        self.guard("symlink", || {
            let made = Name::parse(name.as_bytes()).map_err(FsError::from).and_then(|name| {
                let target = target.to_str().ok_or(crate::model::PathError::NotUtf8)?;
                self.make(req, new_node(parent, &name, Kind::Symlink, 0o777, 0, Some(target)))
            });
            answer_entry(reply, made.map_err(|e| errno::of(&e)));
        });
    }

    fn link(&self, req: &Request, ino: INodeNo, _: INodeNo, _: &OsStr, reply: ReplyEntry) {
        self.guard("link", || {
            let reason = "a secret has one name";
            let path = self.fs.vault().path_of(node(ino).ino, None);
            self.fs.vault().record_refusal(audit::Operation::Link, &path, &self.caller(req).who(), reason);
            reply.error(errno::of(&VaultError::NotPermitted(reason).into()));
        });
    }

    fn unlink(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.guard("unlink", || {
            let name = Name::parse(name.as_bytes()).map_err(FsError::from);
            answer(
                reply,
                name.and_then(|name| self.fs.unlink_once(asked(req), &self.caller(req), node(parent).ino, &name)),
            );
        });
    }

    fn rmdir(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.guard("rmdir", || {
            let name = Name::parse(name.as_bytes()).map_err(FsError::from);
            answer(
                reply,
                name.and_then(|name| self.fs.rmdir_once(asked(req), &self.caller(req), node(parent).ino, &name)),
            );
        });
    }

    fn rename(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        self.guard("rename", || {
            let rename = || {
                if !(flags - RenameFlags::RENAME_NOREPLACE).is_empty() {
                    return Err(FsError::Unsupported);
                }
                let (name, new_name) = (Name::parse(name.as_bytes())?, Name::parse(new_name.as_bytes())?);
                let rename = Rename {
                    parent: node(parent).ino,
                    name: &name,
                    new_parent: node(new_parent).ino,
                    new_name: &new_name,
                    replace: flags.is_empty(),
                };
                let result = self.fs.rename_once(asked(req), &self.caller(req), rename);
                match &result {
                    Ok(()) => self.saw(rename.new_parent, &new_name),
                    Err(error) => self.note(req, rename.new_parent, error),
                }
                result
            };
            answer(reply, rename());
        });
    }

    fn open(&self, req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        self.guard("open", || {
            let (node, mode, tid) = (node(ino), open_mode(flags.0), req.pid());
            let ino = node.ino;
            let caller = self.caller(req);
            let act = move |fs: &Fs| {
                let result = fs.open_at(&caller, tid, node, mode);
                let told = |error: &VaultError| {
                    matches!(
                        error,
                        VaultError::Denied(_)
                            | VaultError::Damaged(_)
                            | VaultError::NotComposed(_)
                            | VaultError::Exhausted(_)
                    )
                };
                if let Err(error @ FsError::Vault(inner)) = &result
                    && told(inner)
                {
                    fs.own().note_error(crate::model::Subject::uid(&caller).0, &fs.vault().path_of(ino, None), error);
                }
                result
            };
            let unmappable = Arc::clone(&self.unmappable);
            let act = move |fs: &Fs| act(fs).map(|opened| (opened, fs.is_plain(opened.number())));
            self.when_unlocked(req, (ino, None), errno::of_node, act, move |opened| match opened {
                Ok((opened, plain)) => {
                    let (fh, how) = (FileHandle(opened.number()), open_flags(opened));
                    match unmappable.backing(plain, flags.0, |file| reply.open_backing(file)) {
                        Some(backing) => reply.opened_passthrough(fh, how, backing),
                        None => reply.opened(fh, how),
                    }
                }
                Err(errno) => reply.error(errno),
            });
        });
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        self.guard("create", || {
            let result = Name::parse(name.as_bytes()).map_err(FsError::from).and_then(|name| {
                let new = new_node(parent, &name, Kind::File, mode, umask, None);
                let made = self.fs.create_once(asked(req), &self.caller(req), req.pid(), new, open_mode(flags))?;
                self.saw(new.parent, &name);
                Ok(made)
            });
            match result {
                Ok((attr, opened)) => {
                    let (ttl, fh) = (Duration::ZERO, FileHandle(opened.number()));
                    // At a new file's first open nobody was sent elsewhere, so this is what it was opened as.
                    let attr = entry_attr(&attr, self.fs.node(attr.ino, req.pid()));
                    let (plain, none) = (self.fs.is_plain(opened.number()), Generation(0));
                    match self.unmappable.backing(plain, flags, |file| reply.open_backing(file)) {
                        Some(backing) => reply.created_passthrough(&ttl, &attr, none, fh, open_flags(opened), backing),
                        None => reply.created(&ttl, &attr, none, fh, open_flags(opened)),
                    }
                }
                Err(error) => reply.error(errno::of(&error)),
            }
        });
    }

    fn read(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.guard("read", || {
            // Only a read into the page cache, for a private mmap, comes without its owner.
            let filling = owner.is_none();
            let mut reply = Some(reply);
            let result = self.fs.read(&self.caller(req), node(ino).ino, fh.0, (offset, size), filling, |bytes| {
                if let Some(reply) = reply.take() {
                    answer_content(reply, bytes);
                    crate::secret::wipe_stack();
                }
            });
            if let (Err(error), Some(reply)) = (result, reply.take()) {
                reply.error(errno::of(&error));
            }
        });
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        flags: OpenFlags,
        owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        self.guard("write", || {
            let append = flags.0 & libc::O_APPEND != 0;
            let len = data.len() as u32;
            let result = self.fs.write(fh.0, offset, data, append, owner.map_or(0, |o| o.0));
            // fuser's buffer would keep the plaintext until another request as large came.
            if let Err(error) = crate::sys::process::wipe(data) {
                tracing::error!(%error, ino = ino.0, "what was written could not be wiped from the receive buffer");
            }
            match result {
                Ok(()) => reply.written(len),
                Err(error) => reply.error(errno::of(&error)),
            }
        });
    }

    fn flush(&self, req: &Request, ino: INodeNo, fh: FileHandle, owner: LockOwner, reply: ReplyEmpty) {
        self.guard("flush", || {
            let flush = || self.fs.flush_once(asked(req), node(ino).ino, fh.0, owner.0);
            answer(reply, if super::handle::is_writer(fh.0) { self.changing(node(ino), flush) } else { flush() });
        });
    }

    fn release(
        &self,
        _: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.guard("release", || {
            if super::handle::is_writer(fh.0) {
                answer(reply, self.changing(node(ino), || self.fs.release_writer(fh.0)));
            } else {
                let pages = self.fs.release_reader(fh.0);
                reply.ok();
                if let Some(node) = pages {
                    self.teller.drop_pages(node);
                }
            }
        });
    }

    fn fsync(&self, req: &Request, ino: INodeNo, fh: FileHandle, _: bool, reply: ReplyEmpty) {
        self.guard("fsync", || {
            answer(reply, self.changing(node(ino), || self.fs.fsync_once(asked(req), node(ino).ino, fh.0)));
        });
    }

    fn opendir(&self, req: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        self.guard("opendir", || {
            let (ino, caller) = (node(ino).ino, self.caller(req));
            let act = move |fs: &Fs| {
                let opened = fs.open_dir(&caller, ino);
                if let Err(error @ FsError::Vault(VaultError::Denied(_) | VaultError::Exhausted(_))) = &opened {
                    fs.own().note_error(crate::model::Subject::uid(&caller).0, &fs.vault().path_of(ino, None), error);
                }
                opened
            };
            self.when_unlocked(req, (ino, None), errno::of_node, act, |opened| match opened {
                Ok(number) => reply.opened(FileHandle(number), FopenFlags::empty()),
                Err(errno) => reply.error(errno),
            });
        });
    }

    fn readdir(&self, _: &Request, ino: INodeNo, fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        self.guard("readdir", || match self.fs.dir(node(ino).ino, fh.0) {
            Ok(dir) => {
                let from = usize::try_from(offset).unwrap_or(usize::MAX);
                for (i, (ino, kind, name)) in (from..).zip(dir.snapshot.from(from)) {
                    if reply.add(INodeNo(ino.0), i as u64 + 1, file_type(kind), OsStr::from_bytes(name)) {
                        break;
                    }
                }
                reply.ok();
            }
            Err(error) => reply.error(errno::of(&error)),
        });
    }

    fn releasedir(&self, _: &Request, _: INodeNo, fh: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        self.guard("releasedir", || {
            self.fs.release_dir(fh.0);
            reply.ok();
        });
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.guard("fsyncdir", || answer(reply, self.fs.sync()));
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        self.guard("statfs", || {
            let vault = self.fs.vault();
            let (total, free) = vault.space().map_or((0, 0), |s| (s.total / 4096, s.free / 4096));
            let (max, used) = (vault.limits().max_secrets, vault.count());
            reply.statfs(total, free, free, max, max.saturating_sub(used), 4096, 255, 4096);
        });
    }

    fn setxattr(&self, req: &Request, ino: INodeNo, name: &OsStr, value: &[u8], flags: i32, _: u32, reply: ReplyEmpty) {
        self.guard("setxattr", || {
            let node = node(ino);
            let mode = match flags {
                0 => XattrMode::Set,
                libc::XATTR_CREATE => XattrMode::Create,
                libc::XATTR_REPLACE => XattrMode::Replace,
                _ => return reply.error(errno::of(&FsError::Unsupported)),
            };
            let result = xattr_name(name).and_then(|name| {
                let set = || self.fs.set_xattr_once(asked(req), &self.caller(req), (node.ino, name), value, mode);
                self.changing(node, set)
            });
            if let Err(error) = &result {
                self.note(req, node.ino, error);
            }
            answer_node(reply, result);
        });
    }

    fn getxattr(&self, req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        self.guard("getxattr", || {
            let (ino, caller) = (node(ino).ino, self.caller(req));
            let asks = || probe::asks_for_attributes(&caller);
            let value = xattr_name(name).and_then(|name| self.fs.get_xattr(&caller, ino, name, asks));
            if let Err(error) = &value {
                self.note(req, ino, error);
            }
            answer_xattr(reply, size, value);
        });
    }

    fn listxattr(&self, req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        self.guard("listxattr", || {
            let names = self.fs.list_xattr(&self.caller(req), node(ino).ino);
            if let Err(error) = &names {
                self.note(req, node(ino).ino, error);
            }
            let names = names.map(|names| names.iter().flat_map(|n| n.bytes().chain(std::iter::once(0))).collect());
            answer_xattr(reply, size, names);
        });
    }

    /// None is known; said here, because fuser logs what nobody answers, and any uid may ask.
    fn ioctl(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: IoctlFlags,
        _: u32,
        _: &[u8],
        _: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::from_i32(libc::ENOTTY));
    }

    fn removexattr(&self, req: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.guard("removexattr", || {
            let node = node(ino);
            let result = xattr_name(name).and_then(|n| {
                let remove = || self.fs.remove_xattr_once(asked(req), &self.caller(req), node.ino, n);
                self.changing(node, remove)
            });
            if let Err(error) = &result {
                self.note(req, node.ino, error);
            }
            answer_node(reply, result);
        });
    }
}

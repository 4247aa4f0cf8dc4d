//! What fuser calls: hands each request on to the [`Adapter`], at once or in its turn.
//!
//! Owns which requests may keep the thread that answers them: whatever may wait for the disk, or for somebody who does, goes to other threads,
//! and counts as a change under way of whoever made it.

use super::{Adapter, answer, errno};
use crate::fs::turns::{Refusable, Turns};
use crate::fs::{FsError, Node};
use crate::meter::{Payer, Resource};
use crate::model::{Gid, Uid};
use crate::secret::Secret;
use fuser::{
    BsdFileFlags, Errno, FileHandle, Filesystem, INodeNo, IoctlFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags,
    ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyOpen, ReplyStatfs,
    ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// Who asks, as the kernel says with the request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asker {
    unique: u64,
    uid: u32,
    gid: u32,
    pid: u32,
}

impl Asker {
    fn of(request: &Request) -> Self {
        Asker { unique: request.unique().into(), uid: request.uid(), gid: request.gid(), pid: request.pid() }
    }

    pub fn unique(&self) -> u64 {
        self.unique
    }

    pub fn uid(&self) -> u32 {
        self.uid
    }

    pub fn gid(&self) -> u32 {
        self.gid
    }

    pub fn pid(&self) -> u32 {
        self.pid
    }
}

/// The adapter, and who waits for it.
pub(super) struct Served {
    pub adapter: Arc<Adapter>,
    pub turns: Arc<Turns>,
}

/// Does a request in its turn, or answers that there is no room to wait.
macro_rules! in_turn {
    ($served:expr, $payer:expr, $reply:ident, |$adapter:ident| $act:expr) => {
        in_turn!($served, $payer, Duration::ZERO, $reply, |$adapter| $act)
    };
    ($served:expr, $payer:expr, $delay:expr, $reply:ident, |$adapter:ident| $act:expr) => {
        $served.change($payer, $delay, Refusable::Yes, move |$adapter| match $adapter {
            Some($adapter) => $act,
            None => $reply.error(Errno::EAGAIN),
        })
    };
}

impl Served {
    /// Who pays for a change that is made by a name.
    fn payer(&self, asker: &Asker) -> Payer {
        let vault = self.adapter.fs.vault();
        vault.payer(&vault.callers().identify(Uid(asker.uid), Gid(asker.gid), asker.pid))
    }

    fn change(
        &self,
        payer: Payer,
        delay: Duration,
        refusable: Refusable,
        job: impl FnOnce(Option<&Adapter>) + Send + 'static,
    ) {
        let adapter = Arc::clone(&self.adapter);
        self.turns.later(payer, delay, refusable, Box::new(move |go| job(go.then_some(&adapter))));
    }

    /// How long whoever changes something beside content has to wait, with this change.
    fn counted(&self, payer: Payer) -> Duration {
        self.adapter.fs.vault().meter().pace(Resource::CommitRate, payer, 1, Instant::now())
    }

    /// How long whoever commits has to wait because of what he committed lately.
    fn paced(&self, payer: Payer) -> Duration {
        self.adapter.fs.vault().meter().pace(Resource::CommitRate, payer, 0, Instant::now())
    }
}

impl Filesystem for Served {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        let adapter = Arc::get_mut(&mut self.adapter);
        adapter.ok_or_else(|| std::io::Error::other("the session began twice"))?.init(config)
    }

    fn lookup(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.adapter.lookup(&Asker::of(req), parent, name, reply);
    }

    fn getattr(&self, req: &Request, ino: INodeNo, fh: Option<FileHandle>, reply: ReplyAttr) {
        self.adapter.getattr(&Asker::of(req), ino, fh, reply);
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
        ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        crtime: Option<SystemTime>,
        chgtime: Option<SystemTime>,
        bkuptime: Option<SystemTime>,
        flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let asker = Asker::of(req);
        let payer = self.payer(&asker);
        let delay = match (size, fh) {
            (None, _) => self.counted(payer),
            // A truncation by the name is a commit.
            (Some(_), None) => self.paced(payer),
            (Some(_), Some(_)) => Duration::ZERO,
        };
        self.change(payer, delay, Refusable::Yes, move |adapter| match adapter {
            Some(adapter) => adapter.setattr(
                &asker, ino, mode, uid, gid, size, atime, mtime, ctime, fh, crtime, chgtime, bkuptime, flags, reply,
            ),
            None => reply.error(Errno::EAGAIN),
        });
    }

    fn readlink(&self, req: &Request, ino: INodeNo, reply: ReplyData) {
        self.adapter.readlink(&Asker::of(req), ino, reply);
    }

    fn mknod(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, dev: u32, reply: ReplyEntry) {
        let (asker, name) = (Asker::of(req), name.to_owned());
        in_turn!(self, self.payer(&asker), reply, |adapter| {
            adapter.mknod(&asker, parent, &name, mode, umask, dev, reply);
        });
    }

    fn mkdir(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        let (asker, name) = (Asker::of(req), name.to_owned());
        in_turn!(self, self.payer(&asker), reply, |adapter| adapter.mkdir(&asker, parent, &name, mode, umask, reply));
    }

    fn symlink(&self, req: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let (asker, name, target) = (Asker::of(req), name.to_owned(), target.to_owned());
        in_turn!(self, self.payer(&asker), reply, |adapter| adapter.symlink(&asker, parent, &name, &target, reply));
    }

    fn link(&self, req: &Request, ino: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.adapter.link(&Asker::of(req), ino, parent, name, reply);
    }

    fn unlink(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (asker, name) = (Asker::of(req), name.to_owned());
        in_turn!(self, self.payer(&asker), reply, |adapter| adapter.unlink(&asker, parent, &name, reply));
    }

    fn rmdir(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (asker, name) = (Asker::of(req), name.to_owned());
        in_turn!(self, self.payer(&asker), reply, |adapter| adapter.rmdir(&asker, parent, &name, reply));
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
        let (asker, name, new_name) = (Asker::of(req), name.to_owned(), new_name.to_owned());
        in_turn!(self, self.payer(&asker), reply, |adapter| {
            adapter.rename(&asker, parent, &name, new_parent, &new_name, flags, reply);
        });
    }

    fn open(&self, req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let asker = Asker::of(req);
        let mode = answer::open_mode(flags.0);
        if (mode.write || mode.truncate) && self.adapter.fs.is_being_committed(Node::of(ino.0).ino.0) {
            return in_turn!(self, self.payer(&asker), reply, |adapter| adapter.open(&asker, ino, flags, reply));
        }
        // Who else is inside a container counts for its uid: to look where everybody is would cost each open.
        let payer = if asker.uid == 0 { self.payer(&asker) } else { Payer::Uid(asker.uid) };
        let delay = self.adapter.fs.vault().meter().pace(Resource::Opens, payer, 1, Instant::now());
        if delay.is_zero() {
            return self.adapter.open(&asker, ino, flags, reply);
        }
        let adapter = Arc::clone(&self.adapter);
        let job = move |go: bool| match go {
            true => adapter.open(&asker, ino, flags, reply),
            false => reply.error(Errno::EAGAIN),
        };
        self.turns.later(payer, delay, Refusable::Yes, Box::new(job));
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
        let (asker, name) = (Asker::of(req), name.to_owned());
        in_turn!(self, self.payer(&asker), reply, |adapter| {
            adapter.create(&asker, parent, &name, mode, umask, flags, reply);
        });
    }

    fn read(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        flags: OpenFlags,
        owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let asker = Asker::of(req);
        match self.adapter.fs.waits_for_commit(fh.0) {
            None => self.adapter.read(&asker, ino, fh, offset, size, flags, owner, reply),
            Some(payer) => in_turn!(self, payer, reply, |adapter| {
                adapter.read(&asker, ino, fh, offset, size, flags, owner, reply);
            }),
        }
    }

    fn write(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        write: WriteFlags,
        flags: OpenFlags,
        owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let asker = Asker::of(req);
        let Some(payer) = self.adapter.fs.waits_for_commit(fh.0) else {
            return self.adapter.write(&asker, ino, fh, offset, data, write, flags, owner, reply);
        };
        let kept = self.adapter.fs.vault().meter().charge(Resource::HandleBytes, payer, data.len() as u64);
        let kept = kept.map_err(FsError::from).and_then(|charge| Ok((Secret::copy_of(data)?, charge)));
        if let Err(error) = crate::sys::process::wipe(data) {
            tracing::error!(%error, ino = ino.0, "what was written could not be wiped from the receive buffer");
        }
        match kept {
            Ok((data, charge)) => in_turn!(self, payer, reply, |adapter| {
                let _charge = charge;
                adapter.write(&asker, ino, fh, offset, data.expose(), write, flags, owner, reply);
            }),
            Err(error) => reply.error(errno::of(&error)),
        }
    }

    fn flush(&self, req: &Request, ino: INodeNo, fh: FileHandle, owner: LockOwner, reply: ReplyEmpty) {
        let asker = Asker::of(req);
        match self.adapter.fs.may_commit(fh.0, Some(owner.0)) {
            None => self.adapter.flush(&asker, ino, fh, owner, reply),
            Some(payer) => self.change(payer, self.paced(payer), Refusable::No, move |adapter| match adapter {
                Some(adapter) => adapter.flush(&asker, ino, fh, owner, reply),
                None => reply.error(Errno::EAGAIN),
            }),
        }
    }

    fn release(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        flags: OpenFlags,
        owner: Option<LockOwner>,
        flush: bool,
        reply: ReplyEmpty,
    ) {
        let asker = Asker::of(req);
        match self.adapter.fs.may_commit(fh.0, None) {
            None => self.adapter.release(&asker, ino, fh, flags, owner, flush, reply),
            Some(payer) => self.change(payer, self.paced(payer), Refusable::No, move |adapter| match adapter {
                Some(adapter) => adapter.release(&asker, ino, fh, flags, owner, flush, reply),
                None => reply.error(Errno::EAGAIN),
            }),
        }
    }

    fn fsync(&self, req: &Request, ino: INodeNo, fh: FileHandle, data: bool, reply: ReplyEmpty) {
        let asker = Asker::of(req);
        let (payer, delay) = match self.adapter.fs.may_commit(fh.0, None) {
            None => (self.payer(&asker), Duration::ZERO),
            Some(payer) => (payer, self.paced(payer)),
        };
        self.change(payer, delay, Refusable::No, move |adapter| match adapter {
            Some(adapter) => adapter.fsync(&asker, ino, fh, data, reply),
            None => reply.error(Errno::EAGAIN),
        });
    }

    fn opendir(&self, req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        self.adapter.opendir(&Asker::of(req), ino, flags, reply);
    }

    fn readdir(&self, req: &Request, ino: INodeNo, fh: FileHandle, offset: u64, reply: ReplyDirectory) {
        self.adapter.readdir(&Asker::of(req), ino, fh, offset, reply);
    }

    fn releasedir(&self, req: &Request, ino: INodeNo, fh: FileHandle, flags: OpenFlags, reply: ReplyEmpty) {
        self.adapter.releasedir(&Asker::of(req), ino, fh, flags, reply);
    }

    fn fsyncdir(&self, req: &Request, ino: INodeNo, fh: FileHandle, data: bool, reply: ReplyEmpty) {
        let asker = Asker::of(req);
        in_turn!(self, self.payer(&asker), reply, |adapter| adapter.fsyncdir(&asker, ino, fh, data, reply));
    }

    fn statfs(&self, req: &Request, ino: INodeNo, reply: ReplyStatfs) {
        self.adapter.statfs(&Asker::of(req), ino, reply);
    }

    fn setxattr(
        &self,
        req: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        position: u32,
        reply: ReplyEmpty,
    ) {
        let (asker, name, value) = (Asker::of(req), name.to_owned(), value.to_owned());
        let payer = self.payer(&asker);
        in_turn!(self, payer, self.counted(payer), reply, |adapter| {
            adapter.setxattr(&asker, ino, &name, &value, flags, position, reply);
        });
    }

    fn getxattr(&self, req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        self.adapter.getxattr(&Asker::of(req), ino, name, size, reply);
    }

    fn listxattr(&self, req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        self.adapter.listxattr(&Asker::of(req), ino, size, reply);
    }

    fn ioctl(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        flags: IoctlFlags,
        command: u32,
        input: &[u8],
        output: u32,
        reply: ReplyIoctl,
    ) {
        self.adapter.ioctl(&Asker::of(req), ino, fh, flags, command, input, output, reply);
    }

    fn removexattr(&self, req: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (asker, name) = (Asker::of(req), name.to_owned());
        let payer = self.payer(&asker);
        in_turn!(self, payer, self.counted(payer), reply, |adapter| adapter.removexattr(&asker, ino, &name, reply));
    }
}

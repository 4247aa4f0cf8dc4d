//! Requests about open files and their content.
//!
//! Owns how each is asked of [`Fs`], and how it is answered.

use super::answer::{answer, answer_content, entry_attr, new_node, open_flags, open_mode};
use super::{Adapter, Request, asked, errno, node};
use crate::fs::{Fs, FsError};
use crate::model::{Kind, Name};
use crate::vault::VaultError;
use fuser::{
    Errno, FileHandle, Generation, INodeNo, IoctlFlags, LockOwner, OpenFlags, ReplyCreate, ReplyData, ReplyEmpty,
    ReplyIoctl, ReplyOpen, ReplyWrite, WriteFlags,
};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::Duration;

#[allow(clippy::too_many_arguments, reason = "the kernel's")]
impl Adapter {
    pub(super) fn open(&self, req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
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

    pub(super) fn create(
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

    pub(super) fn read(
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

    pub(super) fn write(
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

    pub(super) fn flush(&self, req: &Request, ino: INodeNo, fh: FileHandle, owner: LockOwner, reply: ReplyEmpty) {
        self.guard("flush", || {
            let flush = || self.fs.flush_once(asked(req), node(ino).ino, fh.0, owner.0);
            answer(reply, if crate::fs::handle::is_writer(fh.0) { self.changing(node(ino), flush) } else { flush() });
        });
    }

    pub(super) fn release(
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
            if crate::fs::handle::is_writer(fh.0) {
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

    pub(super) fn fsync(&self, req: &Request, ino: INodeNo, fh: FileHandle, _: bool, reply: ReplyEmpty) {
        self.guard("fsync", || {
            answer(reply, self.changing(node(ino), || self.fs.fsync_once(asked(req), node(ino).ino, fh.0)));
        });
    }

    /// None is known; said here, because fuser logs what nobody answers, and any uid may ask.
    pub(super) fn ioctl(
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
}

//! Requests about attributes, plain and extended, and about the filesystem as a whole.
//!
//! Owns how each is asked of [`Fs`], and how it is answered.

use super::answer::{answer_attr, answer_node, answer_xattr, time_change, xattr_name};
use super::{Adapter, Request, asked, errno, node, probe};
use crate::fs::FsError;
use crate::model::{Gid, Uid};
use crate::vault::{SetAttr, XattrMode};
use fuser::{BsdFileFlags, FileHandle, INodeNo, ReplyAttr, ReplyData, ReplyEmpty, ReplyStatfs, ReplyXattr, TimeOrNow};
use std::ffi::OsStr;
use std::time::SystemTime;

#[allow(clippy::too_many_arguments, reason = "the kernel's")]
impl Adapter {
    pub(super) fn getattr(&self, req: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        self.guard("getattr", || {
            let ino = node(ino).ino;
            let caller = self.caller(req);
            // Before the reply: afterwards the thread may be doing something else.
            self.fs.vault().probe(&caller, ino, || probe::attempts(&caller));
            answer_attr(reply, self.fs.attr(ino, req.pid()));
        });
    }

    pub(super) fn setattr(
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

    pub(super) fn readlink(&self, req: &Request, ino: INodeNo, reply: ReplyData) {
        self.guard("readlink", || match self.fs.read_link(&self.caller(req), node(ino).ino) {
            Ok(target) => reply.data(target.as_bytes()),
            Err(error) => {
                self.note(req, node(ino).ino, &error);
                reply.error(errno::of_node(&error));
            }
        });
    }

    pub(super) fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        self.guard("statfs", || {
            let vault = self.fs.vault();
            let (total, free) = vault.space().map_or((0, 0), |s| (s.total / 4096, s.free / 4096));
            let (max, used) = (vault.limits().max_secrets, vault.count());
            reply.statfs(total, free, free, max, max.saturating_sub(used), 4096, 255, 4096);
        });
    }

    pub(super) fn setxattr(
        &self,
        req: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _: u32,
        reply: ReplyEmpty,
    ) {
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

    pub(super) fn getxattr(&self, req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
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

    pub(super) fn listxattr(&self, req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        self.guard("listxattr", || {
            let names = self.fs.list_xattr(&self.caller(req), node(ino).ino);
            if let Err(error) = &names {
                self.note(req, node(ino).ino, error);
            }
            let names = names.map(|names| names.iter().flat_map(|n| n.bytes().chain(std::iter::once(0))).collect());
            answer_xattr(reply, size, names);
        });
    }

    pub(super) fn removexattr(&self, req: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
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

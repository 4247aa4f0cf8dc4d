//! Requests about names: looking them up, making, removing and moving them, and directories.
//!
//! Owns how each is asked of [`Fs`], and how it is answered.

use super::answer::{answer, answer_entry, file_type, new_node};
use super::{Adapter, Request, asked, errno, node};
use crate::audit;
use crate::fs::{Fs, FsError};
use crate::model::{Ino, Kind, Name};
use crate::vault::{Rename, VaultError};
use fuser::{
    FileHandle, FopenFlags, INodeNo, OpenFlags, RenameFlags, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen,
};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

#[allow(clippy::too_many_arguments, reason = "the kernel's")]
impl Adapter {
    pub(super) fn lookup(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
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

    pub(super) fn mknod(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _: u32,
        reply: ReplyEntry,
    ) {
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

    pub(super) fn mkdir(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        self.guard("mkdir", || {
            let made = Name::parse(name.as_bytes())
                .map_err(FsError::from)
                .and_then(|name| self.make(req, new_node(parent, &name, Kind::Directory, mode, umask, None)));
            answer_entry(reply, made.map_err(|e| errno::of(&e)));
        });
    }

    pub(super) fn symlink(&self, req: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        self.guard("symlink", || {
            let made = Name::parse(name.as_bytes()).map_err(FsError::from).and_then(|name| {
                let target = target.to_str().ok_or(crate::model::PathError::NotUtf8)?;
                self.make(req, new_node(parent, &name, Kind::Symlink, 0o777, 0, Some(target)))
            });
            answer_entry(reply, made.map_err(|e| errno::of(&e)));
        });
    }

    pub(super) fn link(&self, req: &Request, ino: INodeNo, _: INodeNo, _: &OsStr, reply: ReplyEntry) {
        self.guard("link", || {
            let reason = "a secret has one name";
            let path = self.fs.vault().path_of(node(ino).ino, None);
            self.fs.vault().record_refusal(audit::Operation::Link, &path, &self.caller(req).who(), reason);
            reply.error(errno::of(&VaultError::NotPermitted(reason).into()));
        });
    }

    pub(super) fn unlink(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.guard("unlink", || {
            let name = Name::parse(name.as_bytes()).map_err(FsError::from);
            answer(
                reply,
                name.and_then(|name| self.fs.unlink_once(asked(req), &self.caller(req), node(parent).ino, &name)),
            );
        });
    }

    pub(super) fn rmdir(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.guard("rmdir", || {
            let name = Name::parse(name.as_bytes()).map_err(FsError::from);
            answer(
                reply,
                name.and_then(|name| self.fs.rmdir_once(asked(req), &self.caller(req), node(parent).ino, &name)),
            );
        });
    }

    pub(super) fn rename(
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

    pub(super) fn opendir(&self, req: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
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

    pub(super) fn readdir(&self, _: &Request, ino: INodeNo, fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
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

    pub(super) fn releasedir(&self, _: &Request, _: INodeNo, fh: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        self.guard("releasedir", || {
            self.fs.release_dir(fh.0);
            reply.ok();
        });
    }

    pub(super) fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.guard("fsyncdir", || answer(reply, self.fs.sync()));
    }
}

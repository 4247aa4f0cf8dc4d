//! Between the words of FUSE and those of [`Fs`](crate::fs::Fs): flags, kinds, times and attributes, and the answers.

use super::errno;
use crate::fs::{FsError, Node, OpenMode, Opened, Seen};
use crate::model::{Ino, Kind, Name, Timestamp};
use crate::vault::{Attr, NewNode, TimeChange, VaultError};
use fuser::{
    Errno, FileAttr, FileType, FopenFlags, Generation, INodeNo, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry,
    ReplyXattr, TimeOrNow,
};
use std::ffi::OsStr;
use std::time::Duration;

/// How long the kernel may keep what does not change without its knowing.
const LASTING: Duration = Duration::from_secs(1 << 30);

pub(super) fn xattr_name(name: &OsStr) -> Result<&str, FsError> {
    name.to_str().ok_or_else(|| VaultError::UnknownAttribute.into())
}

pub(super) fn answer(reply: ReplyEmpty, result: Result<(), FsError>) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(errno::of(&error)),
    }
}

pub(super) fn answer_node(reply: ReplyEmpty, result: Result<(), FsError>) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(errno::of_node(&error)),
    }
}

/// fuser knows one number for both, the node and `st_ino`. Where they differ the attributes last no moment: the kernel asks for them before
/// anybody sees them, and then they have the inode's own.
pub(super) fn answer_entry(reply: ReplyEntry, found: Result<(Seen, Node), Errno>) {
    match found {
        Ok((seen, node)) => {
            let attr_ttl = if seen.lasting && node == seen.attr.ino.into() { LASTING } else { Duration::ZERO };
            reply.entry_with_ttls(&attr_ttl, &LASTING, &entry_attr(&seen.attr, node), Generation(0));
        }
        Err(errno) => reply.error(errno),
    }
}

pub(super) fn answer_attr(reply: ReplyAttr, found: Result<Seen, FsError>) {
    match found {
        Ok(seen) => {
            let ttl = if seen.lasting { LASTING } else { Duration::ZERO };
            reply.attr(&ttl, &file_attr(&seen.attr));
        }
        Err(error) => reply.error(errno::of_node(&error)),
    }
}

/// fuser puts up to 64 bytes together on the stack, and on the heap, which is wiped when it is freed, what is longer.
#[inline(never)]
pub(super) fn answer_content(reply: ReplyData, bytes: &[u8]) {
    reply.data(bytes);
}

pub(super) fn answer_xattr(reply: ReplyXattr, size: u32, value: Result<Vec<u8>, FsError>) {
    match value {
        Ok(value) if size == 0 => reply.size(value.len() as u32),
        Ok(value) if value.len() > size as usize => reply.error(Errno::ERANGE),
        Ok(value) => reply.data(&value),
        Err(error) => reply.error(errno::of_node(&error)),
    }
}

pub(super) fn new_node<'a>(
    parent: INodeNo,
    name: &'a Name,
    kind: Kind,
    mode: u32,
    umask: u32,
    target: Option<&'a str>,
) -> NewNode<'a> {
    let bits = |m: u32| (m & 0o7777) as u16;
    NewNode { parent: Ino(parent.0), name, kind, mode: bits(mode), umask: bits(umask), target }
}

pub(super) fn open_mode(flags: i32) -> OpenMode {
    let access = flags & libc::O_ACCMODE;
    OpenMode { read: access != libc::O_WRONLY, write: access != libc::O_RDONLY, truncate: flags & libc::O_TRUNC != 0 }
}

/// A read handle needs no FLUSH: a close() while no daemon is there would hang on it. A write handle does: its answer
/// is what close(2) returns.
pub(super) fn open_flags(opened: Opened) -> FopenFlags {
    match opened {
        Opened::Reader(_) => FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_NOFLUSH,
        Opened::Writer(_) => FopenFlags::FOPEN_DIRECT_IO,
    }
}

pub(super) fn time_change(time: TimeOrNow) -> TimeChange {
    match time {
        TimeOrNow::SpecificTime(at) => TimeChange::At(Timestamp::from(at)),
        TimeOrNow::Now => TimeChange::Now,
    }
}

pub(super) fn file_type(kind: Kind) -> FileType {
    match kind {
        Kind::Directory => FileType::Directory,
        Kind::File => FileType::RegularFile,
        Kind::Symlink => FileType::Symlink,
    }
}

pub(super) fn entry_attr(attr: &Attr, node: Node) -> FileAttr {
    FileAttr { ino: INodeNo(node.id()), ..file_attr(attr) }
}

pub(super) fn file_attr(attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(attr.ino.0),
        size: attr.size,
        blocks: attr.size.div_ceil(512),
        atime: attr.atime.into(),
        mtime: attr.mtime.into(),
        ctime: attr.ctime.into(),
        crtime: attr.btime.into(),
        kind: file_type(attr.kind),
        perm: attr.mode,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

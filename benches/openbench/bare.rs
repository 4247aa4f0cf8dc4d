//! The least a FUSE filesystem can do: the same flags and requests as pinfold, no decision, no log, nothing sealed.
//!
//! Files are made at start and held in memory; there is no lock. What pinfold costs over this is pinfold's own.

use crate::{Result, failed};
use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyXattr, Request,
    Session, SessionACL,
};
use pinfold::sys::mount;
use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// Answers are good for ever: nothing changes.
const TTL: Duration = Duration::from_secs(1 << 30);
/// The folder `bench`.
const FOLDER: u64 = 2;
/// The symlink `bench/link`.
const LINK: u64 = 3;
/// The first file's inode.
const FILES: u64 = 4;
/// What the symlink says.
pub const TARGET: &str = "small-0";
/// An extended attribute that every file has, and its value.
pub const NOTE: (&str, &str) = ("user.note", "kept for the benchmark");
/// Threads, as many as pinfold has.
const THREADS: usize = 4;

struct Bare {
    /// Name and content.
    files: Vec<(String, Vec<u8>)>,
    owner: u32,
}

/// `--bare MOUNTPOINT OWNER NAME=SIZE…`: serves `MOUNTPOINT/bench/NAME`, owned by `OWNER`, until it is ended.
pub fn serve(args: &[String]) -> Result<()> {
    let [mountpoint, owner, files @ ..] = args else { return failed("--bare MOUNTPOINT OWNER NAME=SIZE…") };
    let files = files
        .iter()
        .filter_map(|f| f.split_once('='))
        .map(|(name, size)| Ok((name.to_owned(), vec![b'x'; size.parse()?])))
        .collect::<Result<_>>()?;
    let device = mount::open_fuse_device()?;
    mount::mount_fuse(Path::new(mountpoint), device.as_fd(), "bare")?;
    let mut config = Config::default();
    config.n_threads = Some(THREADS);
    let bare = Bare { files, owner: owner.parse()? };
    let session = Session::from_fd(bare, device, SessionACL::All, config)?;
    Ok(session.spawn()?.join()?)
}

impl Bare {
    fn attr(&self, ino: u64) -> Option<FileAttr> {
        let (kind, perm, size) = match ino {
            1 => (FileType::Directory, 0o705, 0),
            FOLDER => (FileType::Directory, 0o755, 0),
            LINK => (FileType::Symlink, 0o777, TARGET.len() as u64),
            file => {
                let (_, content) = self.files.get(usize::try_from(file.checked_sub(FILES)?).ok()?)?;
                (FileType::RegularFile, 0o600, content.len() as u64)
            }
        };
        let time = SystemTime::UNIX_EPOCH;
        Some(FileAttr {
            ino: INodeNo(ino),
            size,
            blocks: size.div_ceil(512),
            atime: time,
            mtime: time,
            ctime: time,
            crtime: time,
            kind,
            perm,
            nlink: 1,
            uid: if ino < FILES { 0 } else { self.owner },
            gid: if ino < FILES { 0 } else { self.owner },
            rdev: 0,
            blksize: 4096,
            flags: 0,
        })
    }
}

impl Filesystem for Bare {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        let wanted = InitFlags::FUSE_POSIX_ACL | InitFlags::FUSE_DONT_MASK | InitFlags::FUSE_ATOMIC_O_TRUNC;
        config.add_capabilities(wanted).map_err(|_| std::io::Error::other("the kernel has no FUSE_POSIX_ACL"))
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let ino = match parent.0 {
            1 => (name == "bench").then_some(FOLDER),
            _ if name == "link" => Some(LINK),
            _ => self.files.iter().position(|(n, _)| name == n.as_str()).map(|i| i as u64 + FILES),
        };
        match ino.and_then(|ino| self.attr(ino)) {
            Some(attr) => reply.entry(&TTL, &attr, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.attr(ino.0) {
            Some(attr) => reply.attr(&TTL, &attr),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn open(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(ino.0), FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_NOFLUSH);
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let content = fh.0.checked_sub(FILES).and_then(|i| self.files.get(usize::try_from(i).ok()?));
        let Some((_, content)) = content else { return reply.error(Errno::EBADF) };
        let from = usize::try_from(offset).map_or(content.len(), |o| o.min(content.len()));
        let to = content.len().min(from + size as usize);
        reply.data(&content[from..to]);
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    fn opendir(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(ino.0), FopenFlags::empty());
    }

    fn readlink(&self, _: &Request, _: INodeNo, reply: ReplyData) {
        reply.data(TARGET.as_bytes());
    }

    fn getxattr(&self, _: &Request, _: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let value = NOTE.1.as_bytes();
        match size {
            _ if name != NOTE.0 => reply.error(Errno::ENODATA),
            0 => reply.size(value.len() as u32),
            _ => reply.data(value),
        }
    }
}

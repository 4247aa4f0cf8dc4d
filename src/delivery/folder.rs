//! A folder of this machine: a mounted medium, a folder that something else carries on, the inbox of the same host.
//!
//! Owns how a file appears in it: under a temporary name until it is whole and on disk. The folder is opened once, and
//! everything happens relative to it.

use super::error::DeliveryError;
use super::run::Cancel;
use super::{ACK_MAX, Job, Settings, final_name, part_name, safe};
use crate::model::HostName;
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::{UnlinkatFlags, unlinkat};
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

/// How much is copied between two looks at whether it is still wanted.
const CHUNK: usize = 1 << 20;
/// The mode of what is delivered: whoever carries it on may be in the folder's group.
const MODE: Mode = Mode::from_bits_truncate(0o640);

pub fn put(path: &Path, job: &Job, file: &File, settings: &Settings, cancel: &Cancel) -> Result<(), DeliveryError> {
    let folder = open(path, settings)?;
    let (part, name) = (part_name(&job.console), final_name(job.serial));
    let failed = |e: std::io::Error| DeliveryError::io(path.join(&name).display(), e);
    // What a broken delivery left: the new one is another file, that nobody else has open.
    match unlinkat(&folder, part.as_str(), UnlinkatFlags::NoRemoveDir) {
        Ok(()) => {}
        Err(errno) if is_missing(errno) => {}
        Err(errno) => return Err(failed(errno.into())),
    }
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let to = openat(&folder, part.as_str(), flags, Mode::from_bits_truncate(0o600)).map_err(|e| failed(e.into()))?;
    let outcome = fill(File::from(to), file, cancel, failed).and_then(|()| {
        renameat(&folder, part.as_str(), &folder, name.as_str()).map_err(|e| failed(e.into()))?;
        folder.sync_all().map_err(failed)
    });
    if outcome.is_err() {
        let _ = unlinkat(&folder, part.as_str(), UnlinkatFlags::NoRemoveDir);
    }
    outcome
}

fn fill(
    mut to: File,
    from: &File,
    cancel: &Cancel,
    failed: impl Fn(std::io::Error) -> DeliveryError,
) -> Result<(), DeliveryError> {
    let mut chunk = vec![0; CHUNK];
    let mut at = 0;
    loop {
        if cancel.is_told() {
            return Err(DeliveryError::Cancelled);
        }
        let n = from.read_at(&mut chunk, at).map_err(&failed)?;
        if n == 0 {
            break;
        }
        to.write_all(&chunk[..n]).map_err(&failed)?;
        at += n as u64;
    }
    fchmod(&to, MODE).map_err(|e| failed(e.into()))?;
    to.sync_all().map_err(failed)
}

fn is_missing(errno: Errno) -> bool {
    std::io::Error::from(errno).kind() == std::io::ErrorKind::NotFound
}

/// The folder, if not everybody may replace what is in it.
fn open(path: &Path, settings: &Settings) -> Result<File, DeliveryError> {
    let real = safe::resolve(path, &settings.mountpoint)?;
    let failed = |e| DeliveryError::io(path.display(), e);
    let flags = libc::O_DIRECTORY | libc::O_NOFOLLOW;
    let folder = File::options().read(true).custom_flags(flags).open(real).map_err(failed)?;
    let mode = folder.metadata().map_err(failed)?.mode();
    if mode & 0o002 != 0 && mode & 0o1000 == 0 {
        let reason = format!("everybody can replace what is in it (mode {:04o})", mode & 0o7777);
        return Err(DeliveryError::refused(path.display(), reason));
    }
    Ok(folder)
}

pub fn ack(path: &Path, host: &HostName, settings: &Settings) -> Result<Option<Vec<u8>>, DeliveryError> {
    let folder = open(path, settings)?;
    let name = format!("{host}.ack");
    let what = path.join(&name);
    let failed = |e: std::io::Error| DeliveryError::io(what.display(), e);
    // Without waiting at a FIFO that somebody put there.
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let file = match openat(&folder, name.as_str(), flags, Mode::empty()) {
        Ok(fd) => File::from(fd),
        Err(errno) if is_missing(errno) => return Ok(None),
        Err(errno) => return Err(failed(errno.into())),
    };
    let meta = file.metadata().map_err(failed)?;
    if !meta.is_file() {
        return Err(DeliveryError::refused(what.display(), "is not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(ACK_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > ACK_MAX {
        Err(DeliveryError::TooLarge { what: what.display().to_string() })
    } else {
        Ok(Some(bytes))
    }
}

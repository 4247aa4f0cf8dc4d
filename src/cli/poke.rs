//! `pinfold poke`: opens and closes files of the tree, so that whoever watches them (inotify) hears that they changed.
//!
//! The daemon runs it: it must not touch its own mount. Writes nothing; a file that was not written to gets no version.

use super::Failure;
use crate::exit::Exit;
use crate::sys::file_handle;
use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// The mount point, the paths, and the kernel's numbers of what has no path, come on stdin, each ended by a NUL: there may be more than arguments
/// hold.
pub fn poke() -> Result<Exit, Failure> {
    let mut paths = Vec::new();
    std::io::stdin().read_to_end(&mut paths)?;
    let mut items = paths.split(|b| *b == 0).filter(|p| !p.is_empty());
    let mountpoint = items.next().unwrap_or(b"/");
    let mut mount = None;
    for path in items {
        if let Some(node) = std::str::from_utf8(path).ok().and_then(|number| number.parse().ok()) {
            if mount.is_none() {
                mount = Some(File::open(OsStr::from_bytes(mountpoint))?);
            }
            // Nobody watches what the kernel has forgotten.
            drop(mount.as_ref().map(|mount| file_handle::open_for_writing(mount.as_fd(), node)));
            continue;
        }
        let path = Path::new(OsStr::from_bytes(path));
        // What is gone by now, or is another's by now, needs no telling.
        drop(OpenOptions::new().write(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path));
    }
    Ok(Exit::Ok)
}

//! `pinfold poke`: opens and closes files of the tree, so that whoever watches them (inotify) hears that they changed.
//!
//! The daemon runs it: it must not touch its own mount. Writes nothing; a file that was not written to gets no version.

use super::Failure;
use crate::exit::Exit;
use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// The paths come on stdin, each ended by a NUL: there may be more than arguments hold.
pub fn poke() -> Result<Exit, Failure> {
    let mut paths = Vec::new();
    std::io::stdin().read_to_end(&mut paths)?;
    for path in paths.split(|b| *b == 0).filter(|p| !p.is_empty()) {
        let path = Path::new(std::ffi::OsStr::from_bytes(path));
        // What is gone by now, or is another's by now, needs no telling.
        drop(OpenOptions::new().write(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path));
    }
    Ok(Exit::Ok)
}

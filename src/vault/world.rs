//! The world as the decision sees it: the clock, and which file a path is.

use super::clock::Clock;
use crate::access::World;
use crate::model::{Doubt, FileId, Timestamp};
use crate::sys::mount;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The real one.
pub struct SystemWorld<'a> {
    /// What time it is.
    pub clock: &'a Clock,
    /// The daemon's own mount, which it must not touch.
    pub mountpoint: &'a Path,
}

impl World for SystemWorld<'_> {
    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn file_id(&self, path: &str) -> Result<FileId, Doubt> {
        let path = Path::new(path);
        // A system call on our own mount could hang the daemon for ever; it is noexec anyway.
        if !path.is_absolute() || path.starts_with(self.mountpoint) || path.components().any(|c| c.as_os_str() == "..")
        {
            return Err(Doubt(format!("{} cannot be a caller's program", path.display())));
        }
        let meta = std::fs::symlink_metadata(path).map_err(|e| Doubt(format!("{}: {e}", path.display())))?;
        if meta.is_symlink() {
            return Err(Doubt(format!("{} is a symlink; name the file itself", path.display())));
        }
        Ok(FileId { dev: meta.dev(), ino: meta.ino() })
    }

    fn tree(&self) -> Result<u64, Doubt> {
        let found = mount::mount_at(self.mountpoint).map_err(|e| Doubt(format!("the list of mounts: {e}")))?;
        let found = found.ok_or_else(|| Doubt(format!("nothing is mounted at {}", self.mountpoint.display())))?;
        Ok(found.dev)
    }
}

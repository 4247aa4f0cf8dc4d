//! The directory the tree is mounted on: there, empty of meaning while nothing is mounted, and free of a dead daemon.

use crate::sys::mount;
use crate::wire::Fault;
use std::fs::Permissions;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;

/// Makes it if it is missing, clears a dead daemon's mount, and closes the directory underneath: a service that finds
/// an empty folder where its keys should be might make new ones.
///
/// # Errors
/// [`Fault::Refused`] if something else is mounted there; [`Fault::Failed`] for what the system says.
pub fn prepare(path: &Path) -> Result<(), Fault> {
    let failed = |e: std::io::Error| Fault::Failed(format!("the mount point {}: {e}", path.display()));
    if let Some(parent) = path.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o755).create(parent).map_err(failed)?;
    }
    while let Some(found) = mount::mount_at(path).map_err(failed)? {
        if !mount::is_stale(path).map_err(failed)? {
            return Err(Fault::Refused(format!(
                "{} ({}) is mounted on {} already",
                found.source,
                found.fstype,
                path.display()
            )));
        }
        tracing::warn!(mountpoint = %path.display(), "a dead daemon's mount was cleared away");
        mount::unmount_detach(path).map_err(failed)?;
    }
    match std::fs::DirBuilder::new().mode(0o000).create(path) {
        Ok(()) => {}
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(e) => return Err(failed(e)),
    }
    let meta = std::fs::symlink_metadata(path).map_err(failed)?;
    if !meta.is_dir() {
        return Err(Fault::Refused(format!("the mount point {} is no directory", path.display())));
    }
    if std::fs::read_dir(path).map_err(failed)?.next().is_some() {
        return Err(Fault::Refused(format!("the mount point {} is not empty", path.display())));
    }
    if meta.permissions().mode() & 0o7777 != 0 {
        std::fs::set_permissions(path, Permissions::from_mode(0o000)).map_err(failed)?;
    }
    // Root passes the mode. Where the filesystem has no such flag, the mode has to do.
    if let Err(error) = mount::set_immutable(path, true) {
        tracing::debug!(%error, "the mount point cannot be made immutable");
    }
    Ok(())
}

//! Making the socket: its folder, its mode, and what to do with one that is there already.
//!
//! Owns the path. It removes a socket only if nobody listens, and at the end only its own.

use super::ControlError;
use crate::trust;
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen as sys_listen, socket};
use nix::sys::stat::{Mode, fchmod};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// Where our socket is, and which inode it is.
pub struct SocketFile {
    /// The path.
    pub path: PathBuf,
    id: Option<(u64, u64)>,
}

impl SocketFile {
    /// The socket is another process's from now on.
    pub fn leave(&mut self) {
        self.id = None;
    }

    /// Removes the socket if it still is ours. To be called while the listener is open: until then nobody else's socket
    /// can have our inode number.
    pub fn remove(&mut self) {
        if self.id.take().is_some_and(|id| id_of(&self.path) == Some(id)) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn id_of(path: &Path) -> Option<(u64, u64)> {
    std::fs::symlink_metadata(path).ok().map(|m| (m.dev(), m.ino()))
}

/// Listens at `path`.
pub fn listen(path: &Path, operator_gid: Option<u32>) -> Result<(UnixListener, SocketFile), ControlError> {
    let failed = |source: io::Error| ControlError::Io { path: path.into(), source };
    folder(path, operator_gid)?;
    clear(path)?;
    let address = UnixAddr::new(path).map_err(|_| ControlError::Unsafe {
        path: path.into(),
        reason: "a socket's path has 107 bytes at most".into(),
    })?;
    let fd =
        socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).map_err(|e| failed(e.into()))?;
    // Before bind(2): Linux makes the inode with the socket's own mode, so there is no moment at which others may connect.
    fchmod(&fd, Mode::from_bits_truncate(0o600)).map_err(|e| failed(e.into()))?;
    bind(fd.as_raw_fd(), &address).map_err(|e| match e {
        nix::errno::Errno::EADDRINUSE => ControlError::InUse(path.into()),
        other => failed(other.into()),
    })?;
    let mut place = SocketFile { path: path.into(), id: id_of(path) };
    let opened = open_to(path, operator_gid)
        .and_then(|()| sys_listen(&fd, Backlog::new(64).expect("64 is below SOMAXCONN")).map_err(io::Error::from));
    if let Err(error) = opened {
        place.remove();
        return Err(failed(error));
    }
    Ok((UnixListener::from(fd), place))
}

/// Goes on listening at `path` with the socket that the daemon before this one made; `None` if it is not the one there, or
/// not in a safe place any more.
pub fn adopt(path: &Path, listener: UnixListener) -> Option<(UnixListener, SocketFile)> {
    safe(path).ok()?;
    let bound = listener.local_addr().ok()?;
    let meta = std::fs::symlink_metadata(path).ok()?;
    // Its inode is not told through the socket; whoever may put a socket of his into the folder is root.
    if bound.as_pathname() != Some(path) || !meta.file_type().is_socket() {
        return None;
    }
    Some((listener, SocketFile { path: path.into(), id: id_of(path) }))
}

/// Gives the socket to the operators, if there are any.
fn open_to(path: &Path, operator_gid: Option<u32>) -> io::Result<()> {
    let Some(gid) = operator_gid else {
        return std::fs::set_permissions(path, PermissionsExt::from_mode(0o600));
    };
    std::os::unix::fs::lchown(path, None, Some(gid))?;
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o660))
}

/// Refuses a folder in which others could put a socket of theirs, or another folder in its place.
fn safe(path: &Path) -> Result<(), ControlError> {
    let Some(folder) = path.parent() else { return Ok(()) };
    match trust::who_else(folder, true) {
        Ok(None) => Ok(()),
        Ok(Some(why)) => Err(ControlError::Unsafe {
            path: path.into(),
            reason: format!("others could listen in the daemon's place: {why}"),
        }),
        Err(source) => Err(ControlError::Io { path: folder.into(), source }),
    }
}

/// Makes the folder if it is missing, and refuses one that is not safe.
fn folder(path: &Path, operator_gid: Option<u32>) -> Result<(), ControlError> {
    let Some(folder) = path.parent() else { return Ok(()) };
    let failed = |source: io::Error| ControlError::Io { path: folder.into(), source };
    if !folder.exists() {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
        if let Some(gid) = operator_gid {
            std::os::unix::fs::lchown(folder, None, Some(gid)).map_err(failed)?;
            std::fs::set_permissions(folder, PermissionsExt::from_mode(0o710)).map_err(failed)?;
        }
    }
    safe(path)?;
    let meta = std::fs::metadata(folder).map_err(failed)?;
    if let Some(gid) = operator_gid
        && meta.mode() & 0o001 == 0
        && (meta.gid() != gid || meta.mode() & 0o010 == 0)
    {
        tracing::warn!(folder = %folder.display(), "control: members of operator_group cannot reach the socket's folder");
    }
    Ok(())
}

/// Removes the socket of a daemon that is gone.
fn clear(path: &Path) -> Result<(), ControlError> {
    let meta = match std::fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(ControlError::Io { path: path.into(), source }),
        Ok(meta) => meta,
    };
    if !meta.file_type().is_socket() {
        return Err(ControlError::Unsafe { path: path.into(), reason: "is there and is not a socket".into() });
    }
    match UnixStream::connect(path) {
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(|source| ControlError::Io { path: path.into(), source })
        }
        Err(source) => Err(ControlError::Io { path: path.into(), source }),
        Ok(_) => Err(ControlError::InUse(path.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_socket_is_replaced_a_living_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/control.sock");
        let (first, place) = listen(&path, None).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(std::fs::metadata(path.parent().unwrap()).unwrap().mode() & 0o777, 0o700);
        assert!(matches!(listen(&path, None), Err(ControlError::InUse(_))));
        std::fs::remove_file(&path).unwrap();
        let (second, _) = listen(&path, None).unwrap();
        let mut theirs = place;
        theirs.remove();
        assert!(path.exists(), "the first must not remove the second's");
        drop((first, second));
        let (_third, mut third) = listen(&path, None).unwrap();
        third.remove();
        assert!(!path.exists());
    }

    #[test]
    fn what_is_not_safe_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "x").unwrap();
        assert!(matches!(listen(&file, None), Err(ControlError::Unsafe { .. })));
        assert!(file.exists());
        let open = dir.path().join("open");
        std::fs::create_dir(&open).unwrap();
        std::fs::set_permissions(&open, PermissionsExt::from_mode(0o777)).unwrap();
        assert!(matches!(listen(&open.join("s"), None), Err(ControlError::Unsafe { .. })));
        let long = dir.path().join("x".repeat(108));
        assert!(matches!(listen(&long, None), Err(ControlError::Unsafe { .. })));
    }
}

//! What outlives the daemon: descriptors in its supervisor's store (sd_notify, FDSTORE=1), and how the next one takes them.
//!
//! Owns their names, and the description of the connection that goes with them. It opens nothing and decides nothing: whether the
//! tree may be taken over is found out from the descriptors and the mount table alone.

use crate::fs::fuse::Connect;
use crate::fs::register::Register;
use crate::secret::Secret;
use crate::sys::connection::{self, Offer};
use crate::sys::secretmem::SecretMemory;
use crate::sys::{memfd, mount, process};
use crate::vault::Keeper;
use crate::wire::Fault;
use sd_notify::NotifyState;
use serde::{Deserialize, Serialize};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

/// `/dev/fuse`.
const DEVICE: &str = "pinfold-fuse";
/// The listening control socket.
const CONTROL: &str = "pinfold-control";
/// The unlocked identity, a memfd_secret.
const IDENTITY: &str = "pinfold-identity";
/// What is open, a memfd ([`Register`]).
const HANDLES: &str = "pinfold-handles";
/// [`Description`], a memfd.
const DESCRIPTION: &str = "pinfold-connection";
/// The listening socket of pinfold-credentials.socket: systemd's own, which it passes to every daemon.
const CREDENTIALS: &str = "pinfold-credentials";
/// The format of [`Description`] that this binary writes and reads.
const FORMAT: u32 = 1;
/// The largest description that is read.
const DESCRIPTION_MAX: usize = 4096;

/// What the next daemon must know of a connection.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Description {
    format: u32,
    /// The version of the binary that wrote it, for people.
    version: String,
    /// The mount's device number, as `st_dev` has it.
    device: u64,
    mountpoint: PathBuf,
    /// The protocol's minor version and the flags, as the kernel offered them.
    minor: u32,
    flags: u64,
}

/// What the daemon before this one left.
#[derive(Default)]
pub struct Inherited {
    device: Option<OwnedFd>,
    control: Option<UnixListener>,
    identity: Option<SecretMemory>,
    description: Option<OwnedFd>,
    handles: Option<OwnedFd>,
    credentials: Option<UnixListener>,
}

impl Inherited {
    /// Takes the descriptors this process was started with (LISTEN_FDS). To be called before there are threads.
    pub fn take() -> Self {
        let mut all = Inherited::default();
        for (name, fd) in process::inherited() {
            match name.as_str() {
                DEVICE => all.device = Some(fd),
                CONTROL => all.control = Some(fd.into()),
                IDENTITY => all.identity = SecretMemory::of(fd).ok(),
                HANDLES => all.handles = Some(fd),
                DESCRIPTION => all.description = Some(fd),
                CREDENTIALS => all.credentials = Some(fd.into()),
                other => tracing::debug!(name = other, "a descriptor that is not ours was passed and is closed"),
            }
        }
        all
    }

    /// The listening socket.
    pub fn control(&mut self) -> Option<UnixListener> {
        self.control.take()
    }

    /// The socket for units' credentials; `None` if no socket unit passes one.
    pub fn credentials(&mut self) -> Option<UnixListener> {
        self.credentials.take()
    }

    /// The tree to be taken over; `None` if there is none that is still served through this descriptor.
    ///
    /// # Errors
    /// [`Fault::Refused`] if there is one that this binary cannot take over: it is left alone.
    pub fn connection(&mut self, mountpoint: &Path) -> Result<Option<Connect>, Fault> {
        let (Some(device), Some(description)) = (self.device.take(), self.description.take()) else { return Ok(None) };
        if !connection::is_alive(device.as_fd()) {
            return Ok(None);
        }
        let refused = |why: String| {
            Fault::Refused(format!(
                "the tree that the last daemon left mounted cannot be taken over: {why}; it is left alone. \
                 `pinfold mount` without the descriptors, after `umount -l {}`, begins anew",
                mountpoint.display()
            ))
        };
        let bytes = memfd::read(&description, DESCRIPTION_MAX).map_err(|e| refused(e.to_string()))?;
        let found: Description = serde_json::from_slice(&bytes).map_err(|e| refused(e.to_string()))?;
        if found.format != FORMAT {
            return Err(refused(format!("its description has format {}, version {}", found.format, found.version)));
        }
        if found.mountpoint != mountpoint {
            return Err(refused(format!("it is at {}", found.mountpoint.display())));
        }
        let mounted = mount::mount_at(mountpoint).map_err(|e| refused(e.to_string()))?;
        if mounted.is_none_or(|m| m.dev != found.device) {
            return Err(refused(format!("something else is mounted on {}", mountpoint.display())));
        }
        let offer = Offer { minor: found.minor, flags: found.flags };
        let register = self.handles.take().map(Register::of).transpose();
        let register = register.map_err(|e| refused(format!("its table of open handles: {e}")))?;
        Ok(Some(Connect::Taken { device, offer, register }))
    }

    /// What the last daemon was unlocked with, if it was; and where that is kept from now on. `None` where the kernel has
    /// no memfd_secret: then the next daemon is locked.
    pub fn identity(&mut self) -> Option<(Option<Secret>, SecretMemory)> {
        if let Some(memory) = self.identity.take() {
            let copied = memory.look(|bytes| (!bytes.is_empty()).then(|| Secret::copy_of(bytes)));
            let secret = copied.ok().flatten().and_then(Result::ok);
            return Some((secret, memory));
        }
        match SecretMemory::new() {
            Ok(memory) => Some((None, memory)),
            Err(error) => {
                tracing::warn!(%error, "no memfd_secret: the next daemon will have to be unlocked");
                None
            }
        }
    }
}

/// Where the identity is kept while the store is unlocked: emptied by a lock, whoever holds the descriptor.
pub struct Kept(pub SecretMemory);

impl Keeper for Kept {
    fn keep(&self, identity: &Secret) {
        if let Err(error) = self.0.put(identity.expose()) {
            tracing::warn!(%error, "the identity cannot be kept: the next daemon will have to be unlocked");
        }
    }

    fn forget(&self) {
        if let Err(error) = self.0.put(b"") {
            tracing::error!(%error, "the kept identity cannot be wiped");
        }
    }
}

/// Gives everything to the supervisor. It keeps what it has already only once.
///
/// # Errors
/// What makes the description impossible; a supervisor that does not keep descriptors is none.
pub fn store(
    mountpoint: &Path,
    (device, offer): (BorrowedFd<'_>, Offer),
    handles: BorrowedFd<'_>,
    control: &UnixListener,
    identity: Option<BorrowedFd<'_>>,
) -> std::io::Result<()> {
    let mounted = mount::mount_at(mountpoint)?.ok_or_else(|| std::io::Error::other("it is not mounted any more"))?;
    let description = Description {
        format: FORMAT,
        version: env!("CARGO_PKG_VERSION").into(),
        device: mounted.dev,
        mountpoint: mountpoint.into(),
        minor: offer.minor,
        flags: offer.flags,
    };
    let description = memfd::with(DESCRIPTION, &serde_json::to_vec(&description)?)?;
    // Of what an earlier daemon stored under this name there is nothing left to keep.
    sd_notify::notify(&[NotifyState::FdStoreRemove, NotifyState::FdName(DESCRIPTION)])?;
    keep(DEVICE, device)?;
    keep(CONTROL, control.as_fd())?;
    keep(HANDLES, handles)?;
    keep(DESCRIPTION, description.as_fd())?;
    identity.map_or(Ok(()), |identity| keep(IDENTITY, identity))
}

/// Takes everything back: the next daemon begins anew.
pub fn withdraw() {
    for name in [DEVICE, CONTROL, HANDLES, DESCRIPTION, IDENTITY] {
        let _ = sd_notify::notify(&[NotifyState::FdStoreRemove, NotifyState::FdName(name)]);
    }
}

fn keep(name: &str, fd: BorrowedFd<'_>) -> std::io::Result<()> {
    sd_notify::notify_with_fds(&[NotifyState::FdStore, NotifyState::FdName(name)], &[fd])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A mount that nobody serves, and what its last daemon left.
    struct Left {
        dir: tempfile::TempDir,
        device: OwnedFd,
    }

    impl Left {
        fn new() -> Self {
            let (dir, device) = (tempfile::tempdir().unwrap(), mount::open_fuse_device().unwrap());
            mount::mount_fuse(dir.path(), device.as_fd(), "pinfold").unwrap();
            Left { dir, device }
        }

        fn description(&self) -> Description {
            let device = mount::mount_at(self.dir.path()).unwrap().unwrap().dev;
            let mountpoint = self.dir.path().into();
            Description { format: FORMAT, version: "9.9".into(), device, mountpoint, minor: 40, flags: 1 << 20 }
        }

        fn connection(&self, description: &[u8]) -> Result<Option<Connect>, Fault> {
            let mut inherited = Inherited {
                device: Some(self.device.try_clone().unwrap()),
                description: Some(memfd::with("test", description).unwrap()),
                ..Inherited::default()
            };
            inherited.connection(self.dir.path())
        }
    }

    impl Drop for Left {
        fn drop(&mut self) {
            let _ = mount::unmount_detach(self.dir.path());
        }
    }

    #[test]
    fn what_this_binary_knows_is_taken_over() {
        let left = Left::new();
        let taken = left.connection(&serde_json::to_vec(&left.description()).unwrap()).unwrap();
        let Some(Connect::Taken { offer, .. }) = taken else { panic!("it was not taken") };
        assert_eq!(offer, Offer { minor: 40, flags: 1 << 20 });
    }

    #[test]
    fn what_it_does_not_know_is_refused_and_left_alone() {
        let left = Left::new();
        let other = |change: fn(&mut Description)| {
            let mut description = left.description();
            change(&mut description);
            serde_json::to_vec(&description).unwrap()
        };
        for (bytes, why) in [
            (other(|d| d.format = 2), "format 2, version 9.9"),
            (other(|d| d.mountpoint = "/elsewhere".into()), "/elsewhere"),
            (other(|d| d.device += 1), "something else is mounted"),
            (b"{}".to_vec(), "missing field"),
            (vec![b' '; DESCRIPTION_MAX + 1], "too large"),
        ] {
            let Err(Fault::Refused(text)) = left.connection(&bytes) else { panic!("{why}: it was taken") };
            assert!(text.contains(why), "{why}: {text}");
            assert!(connection::is_alive(left.device.as_fd()), "{why}: the mount was touched");
        }
    }

    #[test]
    fn what_is_not_mounted_any_more_is_begun_anew() {
        let left = Left::new();
        let description = serde_json::to_vec(&left.description()).unwrap();
        mount::unmount_detach(left.dir.path()).unwrap();
        assert!(left.connection(&description).unwrap().is_none());
        assert!(Inherited::default().connection(left.dir.path()).unwrap().is_none());
    }
}

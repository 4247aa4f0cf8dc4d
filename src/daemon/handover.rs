//! What outlives the daemon: descriptors in its supervisor's store (sd_notify, FDSTORE=1), and how the next one takes them.
//!
//! Owns their names, and the description of the connection that goes with them. Whether the tree may be taken over is found out from the
//! descriptors, the mount table and the store's standing: a handle of one store never reads in another, nor in an older copy of its own.

use crate::fs::fuse::Connect;
use crate::fs::register::{Register, Standing};
use crate::hex;
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
const FORMAT: u32 = 2;
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
    /// The store's id, in hexadecimal digits.
    store: Option<String>,
    /// Its last commit when this was written; the register has what came since.
    generation: u64,
}

/// What became of the tree that the last daemon left.
pub enum Left {
    /// There is none that is still served through this descriptor.
    Nothing,
    /// It is taken over.
    Tree(Connect),
    /// It was of something else, and was cut: whoever has anything open in it opens it anew. Why.
    Cut(String),
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

    /// The tree to be taken over by a daemon over the store of this standing.
    ///
    /// # Errors
    /// [`Fault::Refused`] if there is one that this binary cannot take over: it is left alone.
    pub fn connection(&mut self, mountpoint: &Path, standing: &Standing) -> Result<Left, Fault> {
        let (Some(device), Some(description)) = (self.device.take(), self.description.take()) else {
            return Ok(Left::Nothing);
        };
        if !connection::is_alive(device.as_fd()) {
            return Ok(Left::Nothing);
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
        if !connection::is_of(device.as_fd(), found.device).map_err(|e| refused(e.to_string()))? {
            return Err(refused("the descriptor for it is another's".into()));
        }
        let register = self.handles.take().map(Register::of).transpose();
        let register = register.map_err(|e| refused(format!("its table of open handles: {e}")))?;
        if let Some(why) = other_store(&found, register.as_ref(), standing) {
            return self.cut(mountpoint, why).map_err(|e| refused(format!("{why}, and it cannot be unmounted: {e}")));
        }
        let offer = Offer { minor: found.minor, flags: found.flags };
        Ok(Left::Tree(Connect::Taken { device, offer, register }))
    }

    /// What the kernel and whoever has something open know is of another store. Nothing of it goes on, nor does what unlocked it.
    fn cut(&mut self, mountpoint: &Path, why: &str) -> std::io::Result<Left> {
        mount::unmount_cut(mountpoint)?;
        if let Some(identity) = self.identity.take() {
            identity.put(b"")?;
        }
        withdraw();
        Ok(Left::Cut(why.into()))
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

/// Why what was left is not of the store that is served now, if so.
fn other_store(found: &Description, register: Option<&Register>, standing: &Standing) -> Option<&'static str> {
    let noted = register.map_or(Standing { store: standing.store, generation: 0 }, Register::standing);
    if standing.store.is_none()
        || found.store != standing.store.map(|id| hex::encode(&id))
        || noted.store != standing.store
    {
        return Some("it shows another store");
    }
    let older = standing.generation < noted.generation.max(found.generation);
    older.then_some("it shows later commits than this store has: this is an older copy")
}

/// Where the identity is kept while the store is unlocked: emptied by a lock, whoever holds the descriptor.
pub struct Kept(pub SecretMemory);

impl Keeper for Kept {
    fn keep(&self, identity: &Secret) {
        if let Err(error) = self.0.put(identity.expose()) {
            tracing::warn!(%error, "the identity cannot be kept: the next daemon will have to be unlocked");
        }
    }

    fn keep_also(&self, identity: &Secret) {
        let both = self.0.look(|bytes| {
            let mut both = Secret::copy_of(bytes)?;
            if !bytes.is_empty() {
                both.resize(bytes.len() + 1 + identity.len())?;
                both.expose_mut()[bytes.len()] = b'\n';
                both.expose_mut()[bytes.len() + 1..].copy_from_slice(identity.expose());
            }
            Ok::<_, crate::sys::arena::ArenaFull>(both)
        });
        let done = both.and_then(|both| both.map_err(std::io::Error::other)).and_then(|both| self.0.put(both.expose()));
        if let Err(error) = done {
            tracing::warn!(%error, "the identity cannot be kept: the next daemon will have to be unlocked");
        }
    }

    fn forget(&self) {
        if let Err(error) = self.0.put(b"") {
            tracing::error!(%error, "the kept identity cannot be wiped");
        }
    }
}

/// Gives everything to the supervisor. It keeps what it has already only once. A daemon killed between any two of these messages leaves
/// either a tree that can be taken over or none: of a tree that was `taken` over nothing is taken back, and of one that was not the
/// supervisor has the rest when it gets the device, without which the mount ends with this process.
///
/// # Errors
/// What makes the description impossible; a supervisor that does not keep descriptors is none.
pub fn store(
    mountpoint: &Path,
    taken: bool,
    (device, offer): (BorrowedFd<'_>, Offer),
    handles: &Register,
    control: &UnixListener,
    identity: Option<BorrowedFd<'_>>,
) -> std::io::Result<()> {
    if !taken {
        forget(&[DEVICE, HANDLES, DESCRIPTION]);
        let description = describe(mountpoint, offer, handles.standing())?;
        keep(DESCRIPTION, description.as_fd())?;
    }
    keep(HANDLES, handles.fd())?;
    keep(CONTROL, control.as_fd())?;
    identity.map_or(Ok(()), |identity| keep(IDENTITY, identity))?;
    keep(DEVICE, device)
}

fn describe(mountpoint: &Path, offer: Offer, standing: Standing) -> std::io::Result<OwnedFd> {
    let mounted = mount::mount_at(mountpoint)?.ok_or_else(|| std::io::Error::other("it is not mounted any more"))?;
    let description = Description {
        format: FORMAT,
        version: env!("CARGO_PKG_VERSION").into(),
        device: mounted.dev,
        mountpoint: mountpoint.into(),
        minor: offer.minor,
        flags: offer.flags,
        store: standing.store.map(|id| hex::encode(&id)),
        generation: standing.generation,
    };
    memfd::with(DESCRIPTION, &serde_json::to_vec(&description)?)
}

/// Takes everything back: the next daemon begins anew.
pub fn withdraw() {
    forget(&[DEVICE, CONTROL, HANDLES, DESCRIPTION, IDENTITY]);
}

fn forget(names: &[&str]) {
    for name in names {
        let _ = sd_notify::notify(&[NotifyState::FdStoreRemove, NotifyState::FdName(name)]);
    }
}

fn keep(name: &str, fd: BorrowedFd<'_>) -> std::io::Result<()> {
    sd_notify::notify_with_fds(&[NotifyState::FdStore, NotifyState::FdName(name)], &[fd])
}

#[cfg(test)]
mod tests {
    use super::*;

    const STANDING: Standing = Standing { store: Some([7; 16]), generation: 20 };

    /// A mount that nobody serves, and what its last daemon left.
    struct Mount {
        dir: tempfile::TempDir,
        device: OwnedFd,
    }

    impl Mount {
        fn new() -> Self {
            let (dir, device) = (tempfile::tempdir().unwrap(), mount::open_fuse_device().unwrap());
            mount::mount_fuse(dir.path(), device.as_fd(), "pinfold").unwrap();
            Mount { dir, device }
        }

        fn description(&self) -> Description {
            let device = mount::mount_at(self.dir.path()).unwrap().unwrap().dev;
            let mountpoint = self.dir.path().into();
            let store = STANDING.store.map(|id| hex::encode(&id));
            let (version, minor, flags, generation) = ("9.9".into(), 40, 1 << 20, STANDING.generation);
            Description { format: FORMAT, version, device, mountpoint, minor, flags, store, generation }
        }

        fn connection(&self, description: &[u8]) -> Result<Left, Fault> {
            self.with(description, None)
        }

        fn with(&self, description: &[u8], register: Option<&Register>) -> Result<Left, Fault> {
            let handles = register.map(|register| register.fd().try_clone_to_owned().unwrap());
            let mut inherited = Inherited {
                device: Some(self.device.try_clone().unwrap()),
                description: Some(memfd::with("test", description).unwrap()),
                handles,
                ..Inherited::default()
            };
            inherited.connection(self.dir.path(), &STANDING)
        }
    }

    impl Drop for Mount {
        fn drop(&mut self) {
            let _ = mount::unmount_detach(self.dir.path());
        }
    }

    #[test]
    fn what_this_binary_knows_is_taken_over() {
        let left = Mount::new();
        let taken = left.connection(&serde_json::to_vec(&left.description()).unwrap()).unwrap();
        let Left::Tree(Connect::Taken { offer, .. }) = taken else { panic!("it was not taken") };
        assert_eq!(offer, Offer { minor: 40, flags: 1 << 20 });
    }

    #[test]
    fn what_it_does_not_know_is_refused_and_left_alone() {
        let left = Mount::new();
        let other = |change: fn(&mut Description)| {
            let mut description = left.description();
            change(&mut description);
            serde_json::to_vec(&description).unwrap()
        };
        for (bytes, why) in [
            (other(|d| d.format = 1), "format 1, version 9.9"),
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
        let left = Mount::new();
        let description = serde_json::to_vec(&left.description()).unwrap();
        mount::unmount_detach(left.dir.path()).unwrap();
        assert!(matches!(left.connection(&description), Ok(Left::Nothing)));
        assert!(matches!(Inherited::default().connection(left.dir.path(), &STANDING), Ok(Left::Nothing)));
    }

    #[test]
    fn what_is_of_another_store_or_of_later_commits_is_cut() {
        let other = |change: fn(&mut Description), noted: Standing| {
            let (left, register) = (Mount::new(), Register::new().unwrap());
            register.stands(noted);
            let mut description = left.description();
            change(&mut description);
            match left.with(&serde_json::to_vec(&description).unwrap(), Some(&register)) {
                Ok(Left::Cut(why)) => {
                    assert!(mount::mount_at(left.dir.path()).unwrap().is_none(), "{why}: it is still mounted");
                    assert!(!connection::is_alive(left.device.as_fd()), "{why}: it is still answered");
                    why
                }
                Ok(Left::Tree(_)) => "taken".into(),
                Ok(Left::Nothing) | Err(_) => panic!("it is there and can be unmounted"),
            }
        };
        let same = |_: &mut Description| {};
        assert_eq!(other(same, STANDING), "taken");
        assert_eq!(other(same, Standing { generation: 19, ..STANDING }), "taken");
        for (said, noted) in [(Some("00"), STANDING.store), (None, STANDING.store), (None, Some([8; 16])), (None, None)]
        {
            let change = if said.is_some() { |d: &mut Description| d.store = Some("00".into()) } else { same };
            let expected = if said.is_none() && noted == STANDING.store { "taken" } else { "it shows another store" };
            assert_eq!(other(change, Standing { store: noted, ..STANDING }), expected);
        }
        assert!(other(same, Standing { generation: 21, ..STANDING }).contains("older copy"));
        assert!(other(|d| d.generation = 21, STANDING).contains("older copy"));
    }

    #[test]
    fn descriptors_of_other_kinds_are_refused_and_the_mount_is_left_alone() {
        let left = Mount::new();
        let description = serde_json::to_vec(&left.description()).unwrap();
        let file = |content: &[u8]| memfd::with("test", content).unwrap();
        let (pipe, _end) = std::io::pipe().unwrap();
        let another = Mount::new();
        let give = |device: OwnedFd, description: OwnedFd, handles: Option<OwnedFd>| {
            let (device, description) = (Some(device), Some(description));
            let mut inherited = Inherited { device, description, handles, ..Inherited::default() };
            inherited.connection(left.dir.path(), &STANDING).map(|_| ())
        };
        let device = || left.device.try_clone().unwrap();
        for (device, text, handles) in [
            (file(b""), file(&description), None),
            (std::fs::File::open("/dev/null").unwrap().into(), file(&description), None),
            (another.device.try_clone().unwrap(), file(&description), None),
            (device(), pipe.into(), None),
            (device(), std::fs::File::open("/dev/zero").unwrap().into(), None),
            (device(), file(&description), Some(file(&description))),
            (device(), file(&description), Some(std::fs::File::open("/dev/zero").unwrap().into())),
        ] {
            assert!(matches!(give(device, text, handles), Err(Fault::Refused(_))));
            assert!(connection::is_alive(left.device.as_fd()), "the mount was touched");
        }
    }
}

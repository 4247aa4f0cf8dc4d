//! Mounting, serving and unmounting.
//!
//! pinfold mounts by itself and gives fuser the descriptor; it unmounts by itself too, and never makes a system call
//! through its own mount.

use super::notify::{Handles, Teller};
use super::poke::Poker;
use super::served::Served;
use super::{Adapter, Waiting};
use crate::fs::Fs;
use crate::fs::register::{Register, Standing};
use crate::fs::turns::Turns;
use crate::sys::connection::{self, Offer, Stage};
use crate::sys::mount;
use crate::vault::Vault;
use fuser::{Config, Session, SessionACL};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

/// Threads that answer requests. None of them waits for the disk to have a change.
const THREADS: usize = 4;
/// What mount(8) shows as the source.
pub const SOURCE: &str = "pinfold";

/// How the tree comes to be served.
pub enum Connect {
    /// It is mounted.
    New,
    /// It is mounted, and was served by another process, which is gone.
    Taken {
        /// Its `/dev/fuse`.
        device: OwnedFd,
        /// What the kernel offered to the first of them.
        offer: Offer,
        /// What was open; without it, whoever has something open opens it anew.
        register: Option<Register>,
    },
}

/// The mounted tree.
pub struct Mounted {
    mountpoint: PathBuf,
    waiting: Arc<Waiting>,
    turns: Arc<Turns>,
    teller: Arc<Teller>,
    session: Option<JoinHandle<io::Result<()>>>,
    device: OwnedFd,
    offer: Offer,
    pub(super) fs: Arc<Fs>,
}

impl Mounted {
    /// Begins to serve. `enter` is the first that the threads which answer do; `ended` is called when the session is over,
    /// however that came.
    ///
    /// # Errors
    /// What open(2) of `/dev/fuse`, mount(2) or the handshake say; then nothing is mounted that was not before.
    pub fn start(
        vault: &Arc<Vault>,
        mountpoint: &Path,
        mut connect: Connect,
        patience: Option<Duration>,
        enter: fn(),
        ended: impl FnOnce() + Send + 'static,
    ) -> io::Result<Self> {
        let register = match &mut connect {
            Connect::Taken { register, .. } => register.take(),
            Connect::New => None,
        };
        let register = register.map_or_else(Register::new, Ok)?;
        let fs = Arc::new(Fs::new(Arc::clone(vault), register));
        let waiting = Waiting::start(vault.meter())?;
        let turns = Turns::start(vault.meter(), enter)?;
        let (forget, mapped, nodes, count) = (Arc::clone(&fs), Arc::clone(&fs), Arc::clone(&fs), Arc::clone(&fs));
        let (teller, tasks) = Teller::new(
            Arc::clone(&waiting),
            Handles {
                on_lock: Box::new(move || forget.forget_all()),
                mapped_by: Box::new(move |instance| mapped.mapped_by(instance)),
                nodes: Box::new(move |ino| nodes.nodes(ino)),
                count: Box::new(move || count.open_handles()),
            },
        );
        let (store, generation) = vault.store_standing().map_err(io::Error::other)?;
        fs.register().stands(Standing { store, generation: generation.0 });
        let noting = Arc::downgrade(&fs);
        vault.on_generation(Box::new(move |generation| {
            noting.upgrade().inspect(|fs| fs.register().committed(generation.0));
        }));
        let offered = Arc::new(OnceLock::new());
        let ours = Arc::clone(&fs);
        let adapter = Adapter {
            fs,
            teller: Arc::clone(&teller),
            waiting: Arc::clone(&waiting),
            patience,
            offered: Arc::clone(&offered),
            unmappable: Arc::default(),
        };
        let adapter = Served { adapter: Arc::new(adapter), turns: Arc::clone(&turns) };
        let mut config = Config::default();
        config.acl = SessionACL::All;
        config.n_threads = Some(THREADS);
        let fresh = matches!(connect, Connect::New);
        let connected = match connect {
            Connect::New => mount_anew(mountpoint, adapter, config),
            Connect::Taken { device, offer, .. } => take_over(&device, offer, adapter, config).map(|s| (s, device)),
        };
        let (session, device) = connected?;
        let started = device.try_clone().and_then(|second| {
            teller.serve(tasks, session.notifier(), second)?;
            teller.poke_with(Poker::start(vault, mountpoint)?);
            vault.observe(Arc::clone(&teller) as Arc<dyn crate::vault::Observer>);
            let session = std::thread::Builder::new().name("fuse".into()).spawn(move || {
                enter();
                let result = session.run();
                ended();
                result
            })?;
            let offer = *offered.get().ok_or_else(|| io::Error::other("the session did not begin"))?;
            Ok((session, offer))
        });
        match started {
            Ok((session, offer)) => {
                if !fresh {
                    // What the dead daemon changed and did not make durable is not so, whatever the kernel remembers.
                    teller.forget();
                }
                Ok(Mounted {
                    mountpoint: mountpoint.into(),
                    waiting,
                    turns,
                    teller,
                    session: Some(session),
                    device,
                    offer,
                    fs: ours,
                })
            }
            Err(error) => {
                if fresh {
                    let _ = mount::unmount_detach(mountpoint);
                }
                Err(error)
            }
        }
    }

    /// What is open, for the process that is to take it over.
    pub fn register(&self) -> &Register {
        self.fs.register()
    }

    /// The connection and what the kernel offered for it, for the process that is to take it over.
    pub fn connection(&self) -> (BorrowedFd<'_>, Offer) {
        (self.device.as_fd(), self.offer)
    }

    /// Lets nobody begin a change any more, and waits for those under way: the next daemon would be asked for them again, and do
    /// them a second time. Before [`Vault::freeze`]. Whether all were done.
    pub fn freeze(&self, within: Duration) -> bool {
        self.fs.freeze(within)
    }

    /// Leaves the tree mounted, for another process to serve: to be followed by the end of this one. What it has taken
    /// from the kernel and not answered is sent again to the next.
    pub fn leave(self) {
        std::mem::forget(self);
    }

    /// Unmounts. Whoever waits for an unlock gives up; who has a file open keeps the connection until he closes it, for
    /// a second at most.
    ///
    /// # Errors
    /// What umount2(2) says, or how the session ended.
    pub fn stop(mut self) -> io::Result<()> {
        self.waiting.stop();
        self.turns.hurry();
        let unmounted = match mount::mount_at(&self.mountpoint)? {
            Some(found) if found.source == SOURCE => mount::unmount_detach(&self.mountpoint),
            Some(_) | None => Ok(()),
        };
        self.teller.stop();
        if let Some(session) = self.session.take() {
            let deadline = std::time::Instant::now() + Duration::from_secs(1);
            while !session.is_finished() && std::time::Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(10));
            }
            if session.is_finished() {
                session.join().map_err(|_| io::Error::other("the session failed inside"))??;
            }
        }
        unmounted
    }
}

fn mount_anew(mountpoint: &Path, adapter: Served, config: Config) -> io::Result<(Session<Served>, OwnedFd)> {
    let device = mount::open_fuse_device()?;
    let ours = device.try_clone()?;
    mount::mount_fuse(mountpoint, device.as_fd(), SOURCE)?;
    match Session::from_fd(adapter, device, SessionACL::All, config) {
        Ok(session) => Ok((session, ours)),
        Err(error) => {
            let _ = mount::unmount_detach(mountpoint);
            Err(error)
        }
    }
}

/// fuser wants a handshake at the beginning; the kernel had its own long ago.
fn take_over(device: &OwnedFd, offer: Offer, adapter: Served, config: Config) -> io::Result<Session<Served>> {
    let (end, stage) = Stage::set(offer)?;
    let session = Session::from_fd(adapter, end, SessionACL::All, config)?;
    stage.exchange(session.as_fd(), device)?;
    if let Err(error) = connection::resend(device.as_fd()) {
        tracing::warn!(%error, "requests that the last daemon had taken are lost: the kernel does not send them again");
    }
    Ok(session)
}

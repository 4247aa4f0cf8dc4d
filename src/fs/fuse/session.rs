//! Mounting, serving and unmounting.
//!
//! pinfold mounts by itself and gives fuser the descriptor; it unmounts by itself too, and never makes a system call
//! through its own mount.

use super::notify::{Handles, Teller};
use super::{Adapter, Waiting};
use crate::fs::Fs;
use crate::sys::mount;
use crate::vault::Vault;
use fuser::{Config, Session, SessionACL};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// Threads that answer requests. More buy isolation, not speed: a commit keeps its thread until the disk has it.
const THREADS: usize = 8;
/// What mount(8) shows as the source.
const SOURCE: &str = "pinfold";

/// The mounted tree.
pub struct Mounted {
    mountpoint: PathBuf,
    waiting: Arc<Waiting>,
    teller: Arc<Teller>,
    session: Option<JoinHandle<io::Result<()>>>,
}

impl Mounted {
    /// Mounts and begins to serve. `ended` is called when the session is over, however that came.
    ///
    /// # Errors
    /// What open(2) of `/dev/fuse`, mount(2) or the handshake say; then nothing is mounted.
    pub fn start(
        vault: &Arc<Vault>,
        mountpoint: &Path,
        patience: Option<Duration>,
        ended: impl FnOnce() + Send + 'static,
    ) -> io::Result<Self> {
        let fs = Arc::new(Fs::new(Arc::clone(vault)));
        let waiting = Waiting::start()?;
        let (forget, mapped, count) = (Arc::clone(&fs), Arc::clone(&fs), Arc::clone(&fs));
        let (teller, tasks) = Teller::new(
            Arc::clone(&waiting),
            Handles {
                on_lock: Box::new(move || forget.forget_all()),
                mapped_by: Box::new(move |instance| mapped.mapped_by(instance)),
                count: Box::new(move || count.open_handles()),
            },
        );
        let adapter = Adapter { fs, teller: Arc::clone(&teller), waiting: Arc::clone(&waiting), patience };
        let device = mount::open_fuse_device()?;
        let second = device.try_clone()?;
        mount::mount_fuse(mountpoint, std::os::fd::AsFd::as_fd(&device), SOURCE)?;
        let mut config = Config::default();
        config.acl = SessionACL::All;
        config.n_threads = Some(THREADS);
        let started = Session::from_fd(adapter, device, SessionACL::All, config).and_then(|session| {
            teller.serve(tasks, session.notifier(), second)?;
            vault.observe(Arc::clone(&teller) as Arc<dyn crate::vault::Observer>);
            std::thread::Builder::new().name("fuse".into()).spawn(move || {
                let result = session.run();
                ended();
                result
            })
        });
        match started {
            Ok(session) => Ok(Mounted { mountpoint: mountpoint.into(), waiting, teller, session: Some(session) }),
            Err(error) => {
                let _ = mount::unmount_detach(mountpoint);
                Err(error)
            }
        }
    }

    /// Unmounts. Whoever waits for an unlock gives up; who has a file open keeps the connection until he closes it, for
    /// a second at most.
    ///
    /// # Errors
    /// What umount2(2) says, or how the session ended.
    pub fn stop(mut self) -> io::Result<()> {
        self.waiting.stop();
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

//! What must be undone: children that are ended, a folder that is removed. Mounts vanish with the mount namespace.

use crate::{Result, failed};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, CpuSet, sched_getaffinity, sched_setaffinity, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A child that is ended with its guard: SIGTERM, and SIGKILL after ten seconds.
pub struct Kept(pub Child);

impl Kept {
    /// Keeps all its threads to the processors in `set`.
    pub fn confine(&self, set: &CpuSet) -> Result<()> {
        for task in std::fs::read_dir(format!("/proc/{}/task", self.0.id()))? {
            let id: i32 = task?.file_name().to_string_lossy().parse()?;
            match sched_setaffinity(Pid::from_raw(id), set) {
                // A thread that has ended since.
                Ok(()) | Err(nix::Error::ESRCH) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    /// Ends it and waits. Whether it ended by itself after SIGTERM.
    pub fn end(&mut self) -> bool {
        if let Ok(Some(_)) = self.0.try_wait() {
            return true;
        }
        let pid = Pid::from_raw(self.0.id().try_into().expect("a pid is an int"));
        let _ = kill(pid, Signal::SIGTERM);
        let deadline = Instant::now() + Duration::from_secs(10);
        while Instant::now() < deadline {
            if let Ok(Some(_)) = self.0.try_wait() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
        false
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.end();
    }
}

/// The processors this process may use, and the first of them alone.
pub fn processors() -> Result<(CpuSet, CpuSet)> {
    let all = sched_getaffinity(Pid::from_raw(0))?;
    let mut one = CpuSet::new();
    for cpu in 0..CpuSet::count() {
        if all.is_set(cpu)? {
            one.set(cpu)?;
            break;
        }
    }
    Ok((all, one))
}

/// A mount that is detached with its guard, so that the folder below can be removed.
pub struct Mounted(pub PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

/// Leaves the mount namespace of whoever started this. Before any thread is.
pub fn own_mounts() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        return failed("it mounts filesystems and reads as another user: run it as root");
    }
    unshare(CloneFlags::CLONE_NEWNS)?;
    Ok(mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?)
}

/// A folder that others can walk through, removed with its guard.
pub struct Folder(tempfile::TempDir);

impl Folder {
    /// Below `PINFOLD_BENCH_DIR`, else /var/tmp.
    pub fn new() -> Result<Self> {
        use std::os::unix::fs::PermissionsExt;
        let parent = std::env::var_os("PINFOLD_BENCH_DIR").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
        let dir = tempfile::Builder::new().prefix("pinfold-bench-").tempdir_in(parent)?;
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755))?;
        Ok(Folder(dir))
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// A new folder in it, 0755.
    pub fn make(&self, name: &str) -> Result<PathBuf> {
        let path = self.path().join(name);
        std::fs::create_dir(&path)?;
        Ok(path)
    }
}

/// Whether somebody pressed Ctrl-C: looked at between rounds, so that everything is undone.
#[derive(Clone)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    pub fn watch() -> Result<Self> {
        let flag = Arc::new(AtomicBool::new(false));
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
            signal_hook::flag::register(signal, flag.clone())?;
        }
        Ok(Interrupt(flag))
    }

    pub fn check(&self) -> Result<()> {
        if self.0.load(Ordering::Relaxed) { failed("interrupted") } else { Ok(()) }
    }
}
